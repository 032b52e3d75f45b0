//! Sending a snapshot: offer, chunks, finish.

use std::time::Duration;

use bytes::{BufMut, Bytes};
use openraft::errors::{NetworkError, RPCError, StreamingError};
use openraft::network::RPCTypes;
use tracing::debug;

use super::{Mark, SnapshotView};
use crate::codec::to_postcard;
use crate::engine::EngineError;
use crate::network::link::{CallError, Link};
use crate::types::{Runtime, Types, Vote};
use crate::wire::{self, ChunkHeader, Kind, SnapshotFinish, SnapshotOffer, SnapshotReply};

/// One attempt to bring a follower to a snapshot. A failed attempt is repeated by the library, and goes on where the
/// receiver stands.
pub(crate) struct SnapshotSender<'a> {
    pub link: &'a Link,
    pub view: &'a SnapshotView,
    pub vote: Vote,
    /// For each message.
    pub timeout: Duration,
}

impl SnapshotSender<'_> {
    /// Sends what the receiver lacks; its vote.
    pub(crate) async fn send<R: Runtime>(&self) -> Result<Vote, StreamingError<Types<R>>> {
        let (mut seq, mut mark) = match self.offer::<R>(false).await? {
            Ok(position) => position,
            Err(vote) => return Ok(vote),
        };
        debug!(peer = self.link.peer, group = self.link.wires.group, from_chunk = seq, "sending snapshot");
        while let Some(chunk) = self.read::<R>(seq, &mark)? {
            let header =
                ChunkHeader { snapshot: self.view.id, seq, pairs: chunk.pairs, crc: crc32fast::hash(&chunk.body) };
            let mut request = wire::request(Kind::SnapshotChunk, self.link.wires.group, &to_postcard(&header));
            request.put_slice(&chunk.body);
            match self.ask::<R>(request.freeze()).await? {
                SnapshotReply::Continue { chunks, chain } if chunks == seq + 1 && chain == chunk.mark.chain => {
                    (seq, mark) = (chunks, chunk.mark);
                    // Foreground work comes first: copying takes no more than its share of disk and network.
                    let pace = chunk.body.len() as f64 / self.link.wires.snapshot_bytes_per_second as f64;
                    R::sleep(Duration::from_secs_f64(pace)).await;
                }
                SnapshotReply::Installed(vote) | SnapshotReply::HigherVote(vote) => return Ok(vote),
                other => return Err(self.out_of_step(&other)),
            }
        }
        self.finish::<R>(seq, mark).await
    }

    /// Where to go on; or the receiver's vote, if it wants nothing.
    async fn offer<R: Runtime>(&self, from_start: bool) -> Result<Result<(u64, Mark), Vote>, StreamingError<Types<R>>> {
        let offer = SnapshotOffer {
            vote: self.vote,
            snapshot: self.view.id,
            last: self.view.meta.last_log_id.clone(),
            from_start,
        };
        let request = wire::request(Kind::SnapshotOffer, self.link.wires.group, &to_postcard(&offer)).freeze();
        match self.ask::<R>(request).await? {
            SnapshotReply::Installed(vote) | SnapshotReply::HigherVote(vote) => Ok(Err(vote)),
            SnapshotReply::Continue { chunks, chain } => match self.view.mark(chunks) {
                Some(mark) if mark.chain == chain => Ok(Ok((chunks, mark))),
                _ if from_start => Err(self.out_of_step(&SnapshotReply::Restart)),
                _ => Box::pin(self.offer::<R>(true)).await,
            },
            SnapshotReply::Restart if !from_start => Box::pin(self.offer::<R>(true)).await,
            SnapshotReply::Restart => Err(self.out_of_step(&SnapshotReply::Restart)),
        }
    }

    async fn finish<R: Runtime>(&self, chunks: u64, mark: Mark) -> Result<Vote, StreamingError<Types<R>>> {
        let finish = SnapshotFinish {
            vote: self.vote,
            snapshot: self.view.id,
            meta: self.view.meta.clone(),
            chunks,
            pairs: mark.pairs,
            chain: mark.chain,
        };
        let request = wire::request(Kind::SnapshotFinish, self.link.wires.group, &to_postcard(&finish)).freeze();
        match self.ask::<R>(request).await? {
            SnapshotReply::Installed(vote) | SnapshotReply::HigherVote(vote) => Ok(vote),
            other => Err(self.out_of_step(&other)),
        }
    }

    fn read<R: Runtime>(&self, seq: u64, mark: &Mark) -> Result<Option<super::Chunk>, StreamingError<Types<R>>> {
        self.view.chunk(seq, mark, self.link.wires.chunk_bytes).map_err(|error| read_failed(&error))
    }

    async fn ask<R: Runtime>(&self, request: Bytes) -> Result<SnapshotReply, StreamingError<Types<R>>> {
        let answer = match self.link.call::<R>(request, self.timeout).await {
            Ok(body) => postcard::from_bytes(&body).map_err(|error| CallError::Malformed(error.to_string())),
            Err(error) => Err(error),
        };
        answer.map_err(|error| match self.link.rpc_error(error, RPCTypes::InstallSnapshot) {
            RPCError::Timeout(error) => StreamingError::Timeout(error),
            RPCError::Unreachable(error) => StreamingError::Unreachable(error),
            RPCError::Network(error) => StreamingError::Network(error),
        })
    }

    fn out_of_step<R: Runtime>(&self, reply: &SnapshotReply) -> StreamingError<Types<R>> {
        let text = format!("node {} is out of step with the snapshot: {reply:?}", self.link.peer);
        StreamingError::Network(NetworkError::from_string(text))
    }
}

/// An unreadable view fails the transfer, not the leader: its own state may be whole where it serves.
fn read_failed<R: Runtime>(error: &EngineError) -> StreamingError<Types<R>> {
    StreamingError::Network(NetworkError::new(error))
}
