//! Takes whole frames that come from elsewhere: out of a backup or from another shard.

use mira_proto::CollectionId;
use mira_raft::EngineError;

use super::Transition;
use crate::shard::command::{MigratedFrame, ShardAnswer};

/// Puts frames of a backup in the place of what is there of them. Versions up to `ended_version` were given before: none of
/// them is given again.
pub(super) fn restore(
    collection: CollectionId,
    frames: Vec<MigratedFrame>,
    ended_version: u64,
    state: &mut Transition<'_, '_>,
) -> Result<ShardAnswer, EngineError> {
    frames.into_iter().try_for_each(|frame| ingest(collection, frame, state))?;
    state.note_ended(collection, ended_version)?;
    Ok(ShardAnswer::Restore)
}

/// Puts a frame in the place of what is there of it, whatever that is.
pub(crate) fn ingest(
    collection: CollectionId,
    migrated: MigratedFrame,
    state: &mut Transition<'_, '_>,
) -> Result<(), EngineError> {
    let old = state.record(collection, migrated.frame)?;
    if let Some(owner) = old.as_ref().and_then(|old| old.fields.owner) {
        state.note_owned(collection, &owner, migrated.frame, None);
    }
    state.put_frame(collection, old.as_ref(), migrated)
}
