//! Removes frames: those that a caller names, those whose time is over, or a whole collection.

use mira_proto::{CollectionId, FrameId};
use mira_raft::EngineError;

use super::{Change, Transition, tables::counted};
use crate::shard::{
    command::{Asker, ShardAnswer},
    migration::ownership::FrameOwnership,
    record::{self, Class},
};

/// Which frames a step of a request removes.
pub(super) struct Removal {
    pub(super) collection: CollectionId,
    pub(super) frames: Vec<FrameId>,
    pub(super) asker: Asker,
    /// Whether the request goes on.
    pub(super) more: bool,
}

/// Removes frames by id; those that another shard decides about are named.
pub(super) fn forget(removal: Removal, state: &mut Transition<'_, '_>) -> Result<ShardAnswer, EngineError> {
    let Removal { collection, frames, asker, more } = removal;
    let (mut mine, mut moved) = (Vec::with_capacity(frames.len()), Vec::new());
    for frame in frames {
        match state.frame_ownership(collection, frame)? {
            FrameOwnership::Owned => mine.push(frame),
            FrameOwnership::MovedAway | FrameOwnership::Pending => moved.push(frame),
        }
    }
    Ok(ShardAnswer::Forget { removed: end(collection, mine, asker, state)?, moved, more })
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
    Ok(ShardAnswer::Expire(end(collection, over, Asker::Operator, state)?.len() as u32))
}

/// Removes everything of a collection.
pub(super) fn purge(collection: CollectionId, state: &mut Transition<'_, '_>) -> ShardAnswer {
    for table in record::TABLES {
        state.txn.delete_prefix(&record::collection_prefix(table, collection));
    }
    state.changes.push(Change::Purged { collection });
    ShardAnswer::Purge
}

/// Removes frames for good: their versions are not given again.
fn end(
    collection: CollectionId,
    frames: Vec<FrameId>,
    asker: Asker,
    state: &mut Transition<'_, '_>,
) -> Result<Vec<FrameId>, EngineError> {
    let removed = remove(collection, frames, asker, state)?;
    state.note_ended(collection, removed.iter().map(|(_, version)| *version).max().unwrap_or_default())?;
    Ok(removed.into_iter().map(|(frame, _)| frame).collect())
}

/// Removes those of these frames that are there and the asker's to remove; names them and their versions.
pub(super) fn remove(
    collection: CollectionId,
    frames: Vec<FrameId>,
    asker: Asker,
    state: &mut Transition<'_, '_>,
) -> Result<Vec<(FrameId, u64)>, EngineError> {
    let (mut removed, mut memories) = (Vec::new(), 0);
    for frame in frames {
        let Some(old) = state.record(collection, frame)? else { continue };
        let is_hidden = old.fields.class != Class::Memory;
        if !asker.may_remove(old.fields.owner) || is_hidden && asker != Asker::Operator {
            continue;
        }
        memories += counted(Some(old.fields.class));
        state.remove_frame(collection, frame, &old);
        // Of what is hidden nobody names a version.
        removed.push((frame, if is_hidden { 0 } else { old.fields.version }));
    }
    state.add_to_count(collection, -memories)?;
    Ok(removed)
}
