//! Many items at once: a batch, or a stream of any length.

use futures::FutureExt;
use futures::stream::{Stream, StreamExt};
use mira_proto::{Code, Problem, limits, model, v1};
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};
use tonic::{Status, Streaming};

use super::convert::item_of;
use super::server::Grpc;
use crate::RequestContext;

impl Grpc {
    /// Stores wire items as one batch; those that cannot be read are answered like those that cannot be stored.
    pub(super) async fn store_all(
        &self,
        context: &RequestContext,
        items: Vec<v1::StoreRequest>,
    ) -> Result<(Vec<v1::ItemReply>, String), Problem> {
        let items = items.into_iter().map(item_of).collect();
        let (outcomes, token) = self.api.memory.store_batch(context, items).await?;
        let answers = outcomes.into_iter().map(|outcome| match outcome {
            Ok(model::Stored { id, version, unchanged }) => {
                v1::ItemReply { id: id.to_string(), version, unchanged, problem: None }
            }
            Err(problem) => refused(problem),
        });
        Ok((answers.collect(), token.to_string()))
    }

    /// Stores a stream of items; `place` is its place among the streams of this router.
    pub(super) fn ingest_all(
        self,
        context: RequestContext,
        items: Streaming<v1::StoreRequest>,
        place: OwnedSemaphorePermit,
    ) -> impl Stream<Item = Result<v1::ItemReply, Status>> + Send {
        let patience = context.remaining();
        batches(items)
            .scan(0u64, move |position, batch| {
                let _held = &place;
                let first = *position;
                *position += batch.len() as u64;
                futures::future::ready(Some((first, batch)))
            })
            .then(move |(first, batch)| {
                let (service, mut context) = (self.clone(), context.clone());
                async move {
                    // The deadline is one batch's, not the stream's: an import may last for hours.
                    context.deadline = Instant::now() + patience;
                    // Ids follow from an item's place in the stream, not in a batch that happened to form.
                    context.items_before = first;
                    service.ingest_chunk(&context, batch).await
                }
            })
            .flat_map(futures::stream::iter)
    }

    /// One batch of a stream.
    async fn ingest_chunk(
        &self,
        context: &RequestContext,
        chunk: Vec<Result<v1::StoreRequest, Status>>,
    ) -> Vec<Result<v1::ItemReply, Status>> {
        let mut broken = None;
        let mut items = Vec::with_capacity(chunk.len());
        for item in chunk {
            match item {
                Ok(item) => items.push(item),
                Err(status) => broken = Some(Err(status)),
            }
        }
        let count = items.len();
        let answers = match self.store_all(context, items).await {
            _ if count == 0 => Vec::new(),
            Ok((answers, _)) => answers,
            Err(problem) => vec![refused(problem); count],
        };
        answers.into_iter().map(Ok).chain(broken).collect()
    }
}

/// What has arrived of a stream, in batches bounded by items and bytes. A stream that stands still ends with an error.
fn batches(items: Streaming<v1::StoreRequest>) -> impl Stream<Item = Vec<Result<v1::StoreRequest, Status>>> + Send {
    futures::stream::unfold(Some(items), |items| async {
        let mut items = items?;
        let first = match timeout(limits::STREAM_IDLE, items.next()).await {
            Ok(first) => first?,
            Err(_) => {
                let late = Problem::new(Code::DeadlineExceeded, "the stream stood still for a minute");
                return Some((vec![Err(late.into())], None));
            }
        };
        let size = |item: &Result<v1::StoreRequest, Status>| item.as_ref().map_or(0, Message::encoded_len);
        let mut bytes = size(&first);
        let mut batch = vec![first];
        while batch.len() < limits::MAX_INGEST_IN_FLIGHT && bytes < limits::INGEST_BYTES_IN_FLIGHT {
            match items.next().now_or_never() {
                Some(Some(item)) => {
                    bytes += size(&item);
                    batch.push(item);
                }
                Some(None) => return Some((batch, None)),
                None => break,
            }
        }
        Some((batch, Some(items)))
    })
}

fn refused(problem: Problem) -> v1::ItemReply {
    v1::ItemReply { problem: Some(problem.into()), ..Default::default() }
}
