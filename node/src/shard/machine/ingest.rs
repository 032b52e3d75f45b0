//! Takes whole frames that come from elsewhere: out of a backup or from another shard.

use mira_proto::CollectionId;
use mira_raft::EngineError;

use super::{
    Transition,
    tables::{NewVersion, counted},
};
use crate::shard::{
    command::{MigratedFrame, ShardAnswer},
    history::{History, PastHead, VersionBound},
    record::FrameRecord,
};

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

/// Puts a frame with all its versions in the place of what is there of it, whatever that is.
pub(crate) fn ingest(
    collection: CollectionId,
    migrated: MigratedFrame,
    state: &mut Transition<'_, '_>,
) -> Result<(), EngineError> {
    let MigratedFrame { frame, record, vectors, binned, past } = migrated;
    let (place, fields) = ((collection, frame), &record.fields);
    let (old, before) = (state.record(collection, frame)?, state.history(place)?);
    if let Some(owner) = old.as_ref().and_then(|old| old.fields.owner) {
        state.note_owned(collection, &owner, frame, None);
    }
    let mut after = History { owner: fields.owner, ..History::default() };
    let mut put_past = |record: &FrameRecord, vectors: &[u8], ending, state: &mut Transition<'_, '_>| {
        after.push(PastHead::new(record, vectors, ending));
        state.put_past(place, record, vectors);
    };
    // What is gone is taken away first: a version of the same number may have been of another content.
    state.put_history(place, &before, &History::default(), old.as_ref().map_or(0, |old| old.fields.expires_ms));
    let expires_ms = match binned {
        None => {
            let expires_ms = fields.expires_ms;
            state.put_frame(collection, old.as_ref(), NewVersion { frame, record, vectors })?;
            past.iter().for_each(|past| put_past(&past.record, &past.vectors, past.ending, state));
            expires_ms
        }
        Some(ending) => {
            if let Some(old) = &old {
                state.remove_frame(collection, frame, old);
                state.add_to_count(collection, -counted(Some(old.fields.class)))?;
            }
            past.iter().for_each(|past| put_past(&past.record, &past.vectors, past.ending, state));
            put_past(&record, &vectors, ending, state);
            after.binned_ms = ending.forgotten_ms.max(1);
            state.put_binned_head(place, &record);
            // As when it was forgotten, wherever that was.
            state.note_ended(collection, record.fields.version)?;
            0
        }
    };
    if !past.is_empty() {
        // Where it comes from more versions may have been kept.
        let last = state.version_bound(collection)?.map_or(u32::MAX, |bound| bound.last);
        state.put_version_bound(collection, VersionBound { last, is_kept: false });
    }
    state.put_history(place, &History::default(), &after, expires_ms);
    Ok(())
}
