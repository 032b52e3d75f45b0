//! Many items at once: a batch, or a stream of any length.

use futures::stream::{Stream, StreamExt};
use mira_proto::{Problem, limits, model, v1};
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

    pub(super) fn ingest_all(
        self,
        context: RequestContext,
        items: Streaming<v1::StoreRequest>,
    ) -> impl Stream<Item = Result<v1::ItemReply, Status>> + Send {
        let patience = context.remaining();
        items
            .ready_chunks(limits::MAX_INGEST_IN_FLIGHT)
            .scan(0u64, |position, chunk| {
                let first = *position;
                *position += chunk.len() as u64;
                futures::future::ready(Some((first, chunk)))
            })
            .then(move |(first, chunk)| {
                let (service, mut context) = (self.clone(), context.clone());
                async move {
                    // The deadline is one batch's, not the stream's: an import may last for hours.
                    context.deadline = tokio::time::Instant::now() + patience;
                    // Ids follow from an item's place in the stream, not in a batch that happened to form.
                    context.items_before = first;
                    service.ingest_chunk(&context, chunk).await
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

fn refused(problem: Problem) -> v1::ItemReply {
    let problem = v1::Problem { code: problem.code.to_string(), detail: problem.detail };
    v1::ItemReply { problem: Some(problem), ..Default::default() }
}
