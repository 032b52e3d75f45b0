//! Writing frames to their shards, wherever these are by then, and what becomes of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use mira_proto::model::Stored;
use mira_proto::node_v1::{FrameClass, FrameWrite, WriteHeader, WriteRequest};
use mira_proto::{Problem, ShardId, limits, node_v1};
use prost::Message;

use super::{Outcomes, Pending};
use crate::cluster::{Call, CallError, CollectionRoute, Place, size_of_frame};
use crate::ids::{self, WriteIdentity};
use crate::memory::MAX_REROUTES;
use crate::operations::convert;
use crate::positions::CallPosition;
use crate::{Memory, RequestContext};

impl Memory {
    /// Writes frames to their shards, wherever these are by then.
    pub(crate) async fn write_frames(
        &self,
        context: &RequestContext,
        route: Arc<CollectionRoute>,
        mut pending: Vec<Pending>,
        outcomes: &mut Outcomes,
    ) {
        let name = route.info.name.clone();
        let mut position = self.positions.next(convert::now_ms(), &context.token);
        let mut route = Some(route);
        for _ in 0..MAX_REROUTES {
            let Some(current) = route.take().filter(|_| !pending.is_empty()) else { break };
            // The order of the request, also for what comes back from several shards.
            pending.sort_by_key(|item| item.at);
            let mut by_place: BTreeMap<Place, Vec<Pending>> = BTreeMap::new();
            for item in pending.drain(..) {
                let may_be_retry = context.idempotency_key.is_some();
                by_place.entry(current.place_of(item.id.as_u128(), item.moved, may_be_retry)).or_default().push(item);
            }
            let by_place: Vec<(Place, Vec<Vec<Pending>>)> =
                by_place.into_iter().map(|(place, items)| (place, chunks(items))).collect();
            let requests: usize = by_place.iter().map(|(_, chunks)| chunks.len()).sum();
            position.is_fixed |= requests > 1;
            let writes = by_place
                .into_iter()
                .map(|(place, chunks)| ShardWrite { place, position, chunks })
                .map(|write| self.write_shard(context, &current, write))
                .collect::<Vec<_>>();
            let mut written = futures::stream::iter(writes).buffer_unordered(limits::MAX_FAN_OUT);
            while let Some(answer) = written.next().await {
                answer.done.into_iter().for_each(|(at, outcome)| outcomes.settle(at, outcome));
                outcomes.token.note(answer.shard, answer.index);
                outcomes.token.note_position(answer.position);
                self.positions.saw(answer.position);
                if answer.position > 0 {
                    // Wherever the rest goes, it belongs to what was stored.
                    position = CallPosition { micros: answer.position, is_fixed: true };
                }
                pending.extend(answer.moved);
            }
            if !pending.is_empty() {
                if pending.iter().any(|item| item.moved) && current.is_settled() {
                    self.cluster.newer_map().await;
                }
                route = self.find_collection(context, &name).await.ok().flatten();
            }
        }
        let moved = Problem::from(CallError::Moved);
        pending.iter().for_each(|item| outcomes.settle(item.at, Err(moved.clone())));
    }

    /// Sends one shard its items, chunk after chunk.
    async fn write_shard(&self, context: &RequestContext, route: &CollectionRoute, write: ShardWrite) -> ShardOutcomes {
        let ShardWrite { place, position, chunks } = write;
        let shard = place.shard;
        let call = Call::to_write(context, route, "write", shard, place.constraint());
        let mut answer =
            ShardOutcomes { shard, index: 0, position: 0, done: Vec::new(), moved: Vec::new(), gone: false };
        for chunk in chunks {
            if answer.gone {
                answer.moved.extend(chunk);
                continue;
            }
            let frames: Vec<FrameWrite> = chunk.iter().map(|item| item.frame.clone()).collect();
            let request_id = request_id(context, route, shard, &frames);
            let header = WriteHeader { request_id, ..route.write_header(context, shard) };
            let CallPosition { micros, is_fixed } = position;
            let request = WriteRequest { header: Some(header), frames, position: micros, position_fixed: is_fixed };
            match self.cluster.write(&call, &request).await {
                Ok(reply) if reply.outcomes.len() == chunk.len() => {
                    answer.index = answer.index.max(reply.index);
                    answer.position = answer.position.max(reply.position);
                    for (item, outcome) in chunk.into_iter().zip(reply.outcomes) {
                        if outcome.moved {
                            answer.moved.push(Pending { moved: true, ..item });
                            continue;
                        }
                        let (version, unchanged) = (outcome.version, outcome.unchanged);
                        let stored = Stored { id: item.id, version, unchanged };
                        let outcome = outcome.problem.map_or(Ok(stored), |problem| Err(problem.into()));
                        answer.done.push((item.at, outcome));
                    }
                }
                Ok(_) => {
                    let odd = Problem::internal(format!("shard {shard} answered for another number of frames"));
                    answer.done.extend(chunk.iter().map(|item| (item.at, Err(odd.clone()))));
                }
                Err(CallError::Moved) => {
                    answer.gone = true;
                    answer.moved.extend(chunk);
                }
                Err(error) => {
                    let problem = Problem::from(error);
                    answer.done.extend(chunk.iter().map(|item| (item.at, Err(problem.clone()))));
                }
            }
        }
        answer
    }
}

/// What one shard is sent of a call.
struct ShardWrite {
    place: Place,
    position: CallPosition,
    /// Runs of items, each for one request.
    chunks: Vec<Vec<Pending>>,
}

/// What became of one shard's items.
struct ShardOutcomes {
    shard: ShardId,
    index: u64,
    /// The place that the shard gave to the call, microseconds; 0 = none.
    position: u64,
    done: Vec<(usize, Result<Stored, Problem>)>,
    moved: Vec<Pending>,
    /// The collection is not where it was: what was not sent yet is not sent there.
    gone: bool,
}

/// The request id of a write of some frames.
fn request_id(context: &RequestContext, route: &CollectionRoute, shard: ShardId, frames: &[FrameWrite]) -> Bytes {
    // What is said of memories the shard tells by a digest. Of what is hidden, one record changes under one key.
    let is_memories = frames.iter().all(|frame| frame.class() == FrameClass::Memory);
    let said: Vec<Vec<u8>> = match &context.idempotency_key {
        Some(_) if is_memories => frames.iter().map(|frame| frame.id.to_vec()).collect(),
        Some(_) => frames.iter().map(said).collect(),
        None => Vec::new(),
    };
    let parts: Vec<&[u8]> = said.iter().map(Vec::as_slice).collect();
    ids::request_id(context, &WriteIdentity { operation: "store", collection: route.info.id, shard, parts: &parts })
}

/// What a caller said of a frame, every field of it; not what was made of that, which differs from try to try.
fn said(frame: &FrameWrite) -> Vec<u8> {
    let is_memory = frame.class() == FrameClass::Memory;
    let said = FrameWrite {
        passages: if frame.vector_given { frame.passages.clone() } else { Vec::new() },
        // A private frame is sealed again by every try of its caller: its digest says what is in it.
        private: frame
            .private
            .as_ref()
            .map(|private| node_v1::PrivateWrite { digest: private.digest.clone(), ..Default::default() }),
        // In a stream it is the place in a batch that happened to form.
        index: 0,
        // What is hidden is kept for a while from now on.
        expires_ms: if is_memory { frame.expires_ms } else { 0 },
        ..frame.clone()
    };
    said.encode_to_vec()
}

/// Cuts items into runs that fit one proposal.
fn chunks(items: Vec<Pending>) -> Vec<Vec<Pending>> {
    let mut chunks: Vec<Vec<Pending>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        let size = size_of_frame(&item.frame);
        match chunks.last_mut() {
            Some(chunk) if chunk.len() < limits::MAX_PROPOSAL_FRAMES && bytes + size <= limits::MAX_PROPOSAL_BYTES => {
                bytes += size;
                chunk.push(item);
            }
            _ => {
                bytes = size;
                chunks.push(vec![item]);
            }
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use mira_proto::node_v1::{NamedVector, Passage};
    use uuid::Uuid;

    use super::*;

    fn pending(at: usize, bytes: usize) -> Pending {
        let frame = FrameWrite { content: vec![b'x'; bytes].into(), ..Default::default() };
        Pending::new(at, Uuid::nil(), frame)
    }

    #[test]
    fn a_request_id_covers_every_field_that_a_caller_sets_and_nothing_that_is_made_of_them() {
        let frame = FrameWrite { content: "tea".into(), vector_given: true, ..Default::default() };
        let passage = |component| Passage { start: 0, end: 0, vector: vec![component] };
        let others = [
            FrameWrite { content: "coffee".into(), ..frame.clone() },
            FrameWrite { r#type: "insight".into(), ..frame.clone() },
            FrameWrite { session: "s".into(), ..frame.clone() },
            FrameWrite { role: "user".into(), ..frame.clone() },
            FrameWrite { metadata_json: "{}".into(), ..frame.clone() },
            FrameWrite { created_ms: 1, ..frame.clone() },
            FrameWrite { expires_ms: 1, ..frame.clone() },
            FrameWrite { replace: true, ..frame.clone() },
            FrameWrite { expected_version: Some(0), ..frame.clone() },
            FrameWrite { passages: vec![passage(1.0)], ..frame.clone() },
            FrameWrite { named: vec![NamedVector { space: "s".into(), vector: vec![1.0] }], ..frame.clone() },
            FrameWrite { attachment: Some(node_v1::Attachment::default()), ..frame.clone() },
        ];
        for (at, other) in others.iter().enumerate() {
            assert!(said(other) != said(&frame) && others[..at].iter().all(|one| said(one) != said(other)), "{at}");
        }
        let embedded =
            |component| FrameWrite { vector_given: false, passages: vec![passage(component)], ..frame.clone() };
        assert_eq!(said(&embedded(1.0)), said(&embedded(1.1)));
        let sealed = |body: &str, digest: &str| {
            let (body, digest) = (body.to_owned().into(), digest.to_owned().into());
            FrameWrite { private: Some(node_v1::PrivateWrite { body, digest, ..Default::default() }), ..frame.clone() }
        };
        assert_eq!(said(&sealed("once", "d")), said(&sealed("twice", "d")));
        assert_ne!(said(&sealed("once", "d")), said(&sealed("once", "e")));
    }

    #[test]
    fn chunks_keep_order_and_stay_within_a_proposal() {
        let small = chunks((0..250).map(|at| pending(at, 10)).collect());
        assert_eq!(small.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
        let order: Vec<_> = small.into_iter().flatten().map(|item| item.at).collect();
        assert_eq!(order, (0..250).collect::<Vec<_>>());
        let large = chunks((0..5).map(|at| pending(at, 1 << 20)).collect());
        assert_eq!(large.iter().map(Vec::len).collect::<Vec<_>>(), [4, 1]);
    }
}
