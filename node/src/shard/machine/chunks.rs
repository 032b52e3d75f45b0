//! Keeps chunks that are needed again, removes those that no frame refers to.

use mira_proto::{CollectionId, FrameId};
use mira_raft::EngineError;

use super::{Transition, forget};
use crate::shard::{
    command::{Asker, ShardAnswer},
    record::{self, Class, FrameHead},
};

/// Notes that chunks are needed again; answers of each whether it is there.
pub(super) fn renew(
    collection: CollectionId,
    chunks: Vec<FrameId>,
    state: &mut Transition<'_, '_>,
) -> Result<ShardAnswer, EngineError> {
    let mut renewed = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        renewed.push(state.owns(collection, chunk)? && renew_chunk(collection, chunk, state)?);
    }
    Ok(ShardAnswer::Renew(renewed))
}

/// Notes that a chunk is needed again; whether it is there. Its record stays: a body is bound to what stands there.
pub(super) fn renew_chunk(
    collection: CollectionId,
    chunk: FrameId,
    state: &mut Transition<'_, '_>,
) -> Result<bool, EngineError> {
    let Some(head) = state.head(collection, chunk)?.filter(|head| head.class == Class::Chunk) else {
        return Ok(false);
    };
    state.note_needed(collection, chunk);
    let head = FrameHead { changed: state.at.index, ..head };
    state.txn.put(&record::head_key(collection, chunk), head.encode());
    Ok(true)
}

/// Removes chunks that were not stored again since the log position named with each.
pub(super) fn collect(
    collection: CollectionId,
    chunks: Vec<(FrameId, u64)>,
    state: &mut Transition<'_, '_>,
) -> Result<ShardAnswer, EngineError> {
    let mut unneeded = Vec::with_capacity(chunks.len());
    for (chunk, changed) in chunks {
        let head = state.head(collection, chunk)?;
        let is_same = head.is_some_and(|head| head.class == Class::Chunk && head.changed == changed);
        if is_same && state.owns(collection, chunk)? {
            unneeded.push(chunk);
        }
    }
    Ok(ShardAnswer::Collect(forget::remove(collection, unneeded, Asker::Operator, state)?.len() as u32))
}
