//! Brings frames back from the bin, each as a new version.

use mira_proto::CollectionId;
use mira_raft::EngineError;

use super::{Transition, tables::NewVersion};
use crate::shard::{
    command::{Asker, SealedAnew, ShardAnswer, UndeleteOutcome, UndeletedFrame},
    history::{HistoryBounds, bytes_of},
    migration::ownership::FrameOwnership,
    record::Class,
};

/// Which frames come back.
pub(super) struct Undeletion {
    pub(super) collection: CollectionId,
    pub(super) frames: Vec<UndeletedFrame>,
    pub(super) asker: Asker,
    pub(super) keep_versions: u32,
}

/// Brings frames back; one outcome for each, in order.
pub(super) fn undelete(undeletion: Undeletion, state: &mut Transition<'_, '_>) -> Result<ShardAnswer, EngineError> {
    let Undeletion { collection, frames, asker, keep_versions } = undeletion;
    let mut outcomes = Vec::with_capacity(frames.len());
    for frame in frames {
        outcomes.push(match state.frame_ownership(collection, frame.frame)? {
            FrameOwnership::Owned => undelete_frame(collection, frame, (asker, keep_versions), state)?,
            FrameOwnership::MovedAway | FrameOwnership::Pending => UndeleteOutcome::Moved,
        });
    }
    Ok(ShardAnswer::Undelete(outcomes))
}

fn undelete_frame(
    collection: CollectionId,
    UndeletedFrame { frame, anew }: UndeletedFrame,
    (asker, keep_versions): (Asker, u32),
    state: &mut Transition<'_, '_>,
) -> Result<UndeleteOutcome, EngineError> {
    let (place, now_ms) = ((collection, frame), state.at.time_ms);
    if let Some(there) = state.record(collection, frame)? {
        let fields = &there.fields;
        return Ok(match fields.class {
            _ if fields.expired(now_ms) => UndeleteOutcome::Missing,
            Class::Memory if asker.may_remove(fields.owner) => UndeleteOutcome::Current(fields.version),
            Class::Memory => UndeleteOutcome::Foreign,
            _ => UndeleteOutcome::Missing,
        });
    }
    let before = state.history(place)?;
    let Some(binned) = before.binned().filter(|binned| !binned.expired(now_ms)) else {
        return Ok(UndeleteOutcome::Missing);
    };
    if !asker.may_remove(before.owner) {
        return Ok(UndeleteOutcome::Foreign);
    }
    let Some(SealedAnew { from, record, vectors, key_version }) = anew else { return Ok(UndeleteOutcome::Raced) };
    let version = record.fields.version;
    let is_next = version > state.ended_version(collection)? && version > binned.version;
    let is_same = from == binned.version && record.fields.owner == before.owner && record.fields.class == Class::Memory;
    if !is_next || !is_same || key_version < state.key_floor(collection)?.version {
        return Ok(UndeleteOutcome::Raced);
    }
    let mut after = before.clone();
    after.bring_back();
    let keep = state.versions_kept(collection, keep_versions)?;
    after.cut(&HistoryBounds::of_number(keep), bytes_of(&record, &vectors));
    let expires_ms = record.fields.expires_ms;
    state.put_frame(collection, None, NewVersion { frame, record, vectors })?;
    state.put_history(place, &before, &after, expires_ms);
    Ok(UndeleteOutcome::Restored(version))
}
