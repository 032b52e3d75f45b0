//! Removes frames: those that a caller names, for good or into the bin; those whose time is over; or a whole collection.

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
    /// Whether they rest in the bin for a while.
    pub(super) into_bin: bool,
    /// Whether the request goes on.
    pub(super) more: bool,
}

/// A frame that was removed.
pub(super) struct Removed {
    frame: FrameId,
    /// Of what is hidden 0: nobody names a version of it.
    version: u64,
}

/// Removes frames by id; those that another shard decides about are named.
pub(super) fn forget(removal: Removal, state: &mut Transition<'_, '_>) -> Result<ShardAnswer, EngineError> {
    let Removal { collection, frames, asker, into_bin, more } = removal;
    let (mut mine, mut moved) = (Vec::with_capacity(frames.len()), Vec::new());
    for frame in frames {
        match state.frame_ownership(collection, frame)? {
            FrameOwnership::Owned => mine.push(frame),
            FrameOwnership::MovedAway | FrameOwnership::Pending => moved.push(frame),
        }
    }
    let removed = if into_bin { bin(collection, mine, asker, state)? } else { remove(collection, mine, asker, state)? };
    let binned_ms = if into_bin { state.at.time_ms } else { 0 };
    Ok(ShardAnswer::Forget { removed: note_ended(collection, removed, state)?, moved, more, binned_ms })
}

/// Removes those of these frames whose time is over, and past versions of them that are over.
pub(super) fn expire(
    collection: CollectionId,
    frames: Vec<FrameId>,
    state: &mut Transition<'_, '_>,
) -> Result<ShardAnswer, EngineError> {
    let (mut over, mut shortened) = (Vec::with_capacity(frames.len()), 0);
    for frame in frames {
        if !state.owns(collection, frame)? {
            continue;
        }
        let now_ms = state.at.time_ms;
        let record = state.record(collection, frame)?;
        if record.as_ref().is_some_and(|record| record.fields.expired(now_ms)) {
            over.push(frame);
            continue;
        }
        let before = state.history((collection, frame))?;
        if before.binned().is_some_and(|binned| binned.expired(now_ms)) {
            over.push(frame);
            continue;
        }
        let mut after = before.clone();
        after.expire(now_ms);
        shortened += u32::from(state.shorten((collection, frame), &before, &after)? > 0);
    }
    Ok(ShardAnswer::Expire(shortened.saturating_add(end(collection, over, state)?.len() as u32)))
}

/// Removes everything of a collection.
pub(super) fn purge(collection: CollectionId, state: &mut Transition<'_, '_>) -> ShardAnswer {
    for table in record::TABLES {
        state.txn.delete_prefix(&record::collection_prefix(table, collection));
    }
    state.changes.push(Change::Purged { collection });
    ShardAnswer::Purge
}

/// Removes frames for good, whoever they belong to: their versions are not given again.
pub(super) fn end(
    collection: CollectionId,
    frames: Vec<FrameId>,
    state: &mut Transition<'_, '_>,
) -> Result<Vec<FrameId>, EngineError> {
    let removed = remove(collection, frames, Asker::Operator, state)?;
    note_ended(collection, removed, state)
}

/// Notes the versions of frames that were removed; which they were.
fn note_ended(
    collection: CollectionId,
    removed: Vec<Removed>,
    state: &mut Transition<'_, '_>,
) -> Result<Vec<FrameId>, EngineError> {
    state.note_ended(collection, removed.iter().map(|removed| removed.version).max().unwrap_or_default())?;
    Ok(removed.into_iter().map(|removed| removed.frame).collect())
}

/// Removes those of these frames that are there, or rest in the bin, and are the asker's to remove, with all their versions.
pub(super) fn remove(
    collection: CollectionId,
    frames: Vec<FrameId>,
    asker: Asker,
    state: &mut Transition<'_, '_>,
) -> Result<Vec<Removed>, EngineError> {
    let (mut removed, mut memories) = (Vec::new(), 0);
    for frame in frames {
        let place = (collection, frame);
        let history = state.history(place)?;
        let (owner, class, version) = match (state.record(collection, frame)?, history.binned()) {
            (Some(old), _) => {
                let (owner, class, version) = (old.fields.owner, old.fields.class, old.fields.version);
                if may_remove(asker, owner, class) {
                    memories += counted(Some(class));
                    state.remove_frame(collection, frame, &old);
                }
                (owner, class, version)
            }
            (None, Some(binned)) => (history.owner, Class::Memory, binned.version),
            (None, None) => continue,
        };
        if may_remove(asker, owner, class) {
            state.remove_history(place, &history, 0);
            removed.push(Removed { frame, version: if class == Class::Memory { version } else { 0 } });
        }
    }
    state.add_to_count(collection, -memories)?;
    Ok(removed)
}

/// Puts those of these frames that are there and the asker's to remove into the bin; one that is over goes for good.
fn bin(
    collection: CollectionId,
    frames: Vec<FrameId>,
    asker: Asker,
    state: &mut Transition<'_, '_>,
) -> Result<Vec<Removed>, EngineError> {
    let (mut removed, mut over) = (Vec::new(), Vec::new());
    for frame in frames {
        let Some(old) = state.record(collection, frame)? else { continue };
        if !may_remove(asker, old.fields.owner, old.fields.class) {
            continue;
        }
        if old.fields.class != Class::Memory || old.fields.expired(state.at.time_ms) {
            over.push(frame);
            continue;
        }
        state.bin_frame((collection, frame), &old)?;
        removed.push(Removed { frame, version: old.fields.version });
    }
    state.add_to_count(collection, -(removed.len() as i64))?;
    removed.extend(remove(collection, over, asker, state)?);
    Ok(removed)
}

fn may_remove(asker: Asker, owner: Option<[u8; 16]>, class: Class) -> bool {
    let is_hidden = class != Class::Memory;
    asker.may_remove(owner) && (!is_hidden || asker == Asker::Operator)
}
