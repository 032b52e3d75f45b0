//! Removes frames: those that a caller names, those whose time is over, or a whole collection.

use mira_proto::{CollectionId, FrameId};
use mira_raft::EngineError;

use super::{Change, Transition, tables::counted};
use crate::shard::{
    command::{Asker, ShardAnswer},
    migration::ownership::FrameOwnership,
    record::{self, Class},
};

/// Removes frames by id; those that another shard decides about are named.
pub(super) fn forget(
    collection: CollectionId,
    frames: Vec<FrameId>,
    asker: Asker,
    state: &mut Transition<'_, '_>,
) -> Result<ShardAnswer, EngineError> {
    let (mut mine, mut moved) = (Vec::with_capacity(frames.len()), Vec::new());
    for frame in frames {
        match state.claim(collection, frame)? {
            FrameOwnership::Owned => mine.push(frame),
            FrameOwnership::MovedAway | FrameOwnership::Pending => moved.push(frame),
        }
    }
    Ok(ShardAnswer::Forget { removed: remove(collection, mine, asker, state)?, moved })
}

/// Removes those of these frames whose time is over.
pub(super) fn expire(
    collection: CollectionId,
    frames: Vec<FrameId>,
    state: &mut Transition<'_, '_>,
) -> Result<ShardAnswer, EngineError> {
    let mut over = Vec::with_capacity(frames.len());
    for frame in frames {
        let is_over = state.record(collection, frame)?.is_some_and(|record| record.fields.expired(state.at.time_ms));
        if is_over && state.owns(collection, frame)? {
            over.push(frame);
        }
    }
    Ok(ShardAnswer::Expire(remove(collection, over, Asker::Operator, state)?.len() as u32))
}

/// Removes everything of a collection.
pub(super) fn purge(collection: CollectionId, state: &mut Transition<'_, '_>) -> ShardAnswer {
    for table in record::TABLES {
        state.txn.delete_prefix(&record::collection_prefix(table, collection));
    }
    state.changes.push(Change::Purged { collection });
    ShardAnswer::Purge
}

/// Removes those of these frames that are there and the asker's to remove; names them.
pub(super) fn remove(
    collection: CollectionId,
    frames: Vec<FrameId>,
    asker: Asker,
    state: &mut Transition<'_, '_>,
) -> Result<Vec<FrameId>, EngineError> {
    let (mut removed, mut memories) = (Vec::new(), 0);
    for frame in frames {
        let Some(old) = state.record(collection, frame)? else { continue };
        let is_hidden = old.fields.class != Class::Memory;
        if !asker.may_remove(old.fields.owner) || is_hidden && asker != Asker::Operator {
            continue;
        }
        memories += counted(Some(old.fields.class));
        state.remove_frame(collection, frame, &old);
        removed.push(frame);
    }
    state.add_to_count(collection, -memories)?;
    Ok(removed)
}
