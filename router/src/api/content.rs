//! Large contents: bodies in and out that are never whole in memory, for HTTP and gRPC.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use mira_proto::model::UploadReply;
use mira_proto::{Code, Problem, limits};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use super::Api;
use crate::operations::content::{ContentPart, FrameContent};
use crate::operations::uploads::UploadRef;
use crate::{Memory, RequestContext};

/// A body on its way out.
pub(super) struct Reading {
    pub(super) memory: Arc<Memory>,
    pub(super) context: RequestContext,
    pub(super) collection: String,
    pub(super) content: FrameContent,
    /// Its room in the router, held until the last piece is gone.
    pub(super) _permit: OwnedSemaphorePermit,
}

impl Reading {
    /// The bytes of a range, piece by piece, a few of them fetched ahead; each gets the whole time of the request.
    pub(super) fn pieces(self, range: Range<u64>) -> impl Stream<Item = Result<Bytes, Problem>> + Send + 'static {
        let (parts, patience) = (self.content.parts(range), self.context.remaining());
        let reading = Arc::new(self);
        let piece = move |part: ContentPart| {
            let reading = reading.clone();
            async move {
                let context = reading.context.with_patience(patience);
                reading.memory.read_content_part(&context, &reading.collection, &reading.content, &part).await
            }
        };
        read_in_time(stream::iter(parts).map(piece).buffered(limits::CHUNKS_IN_FLIGHT))
    }
}

/// The same pieces, made beside their reader: one that stands still loses them, and whatever they hold is given back.
fn read_in_time(
    pieces: impl Stream<Item = Result<Bytes, Problem>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, Problem>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(1);
    let stood_still = Arc::new(AtomicBool::new(false));
    let noted = stood_still.clone();
    tokio::spawn(async move {
        let mut pieces = pin!(pieces);
        while let Some(piece) = pieces.next().await {
            match timeout(limits::STREAM_IDLE, sender.send(piece)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => return noted.store(true, Ordering::Relaxed),
            }
        }
    });
    let sent = stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|piece| (piece, receiver)) });
    let end = stream::once(async move {
        let late = || Problem::new(Code::DeadlineExceeded, "the content was not read for a minute: ask for the rest");
        stood_still.load(Ordering::Relaxed).then(late).map(Err)
    });
    sent.chain(end.filter_map(std::future::ready))
}

impl Api {
    /// Room for one more body that is not whole in memory.
    pub(super) fn stream(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let full = |_| {
            let detail = format!("{} streams are on their way through this router: try again", limits::MAX_STREAMS);
            Problem::new(Code::Overloaded, detail)
        };
        self.streams.clone().try_acquire_owned().map_err(full)
    }
}

/// An upload that a body is added to.
pub(super) struct Receiving<'a> {
    memory: &'a Memory,
    context: RequestContext,
    /// For each step.
    patience: Duration,
    upload: UploadRef<'a>,
}

impl<'a> Receiving<'a> {
    pub(super) fn new(memory: &'a Memory, context: RequestContext, upload: UploadRef<'a>) -> Self {
        Receiving { memory, patience: context.remaining(), context, upload }
    }

    /// Adds a body chunk by chunk. When it breaks off, what came whole is kept.
    pub(super) async fn receive<E>(
        &self,
        mut offset: u64,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<UploadReply, Problem> {
        let mut buffer = BytesMut::new();
        loop {
            let came = fill(&mut buffer, &mut body).await;
            let is_last = !matches!(came, Ok(true));
            let mut chunks = Vec::new();
            while buffer.len() >= limits::MAX_CONTENT_BYTES {
                chunks.push(buffer.split_to(limits::MAX_CONTENT_BYTES).freeze());
            }
            // The end of the body ends a chunk; a connection that was lost does not.
            if came == Ok(false) && !buffer.is_empty() {
                chunks.push(buffer.split().freeze());
            }
            let context = self.context.with_patience(self.patience);
            let reply = if chunks.is_empty() {
                self.memory.get_upload(&context, self.upload).await?
            } else {
                self.memory.append_upload(&context, self.upload, offset, chunks).await?
            };
            offset = reply.offset;
            came?;
            if is_last {
                return Ok(reply);
            }
        }
    }
}

/// Reads until there is enough for a step, or the body ends: whether there may be more.
async fn fill<E>(
    buffer: &mut BytesMut,
    body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
) -> Result<bool, Problem> {
    while buffer.len() < limits::CHUNKS_IN_FLIGHT * limits::MAX_CONTENT_BYTES {
        match timeout(limits::STREAM_IDLE, body.next()).await {
            Ok(Some(Ok(bytes))) => buffer.extend_from_slice(&bytes),
            Ok(Some(Err(_))) => return Err(Problem::invalid("the body broke off")),
            Ok(None) => return Ok(false),
            Err(_) => return Err(Problem::new(Code::DeadlineExceeded, "the body stood still for a minute")),
        }
    }
    Ok(true)
}
