//! Puts frames that were sealed with a newer key in the place of what they were made from.

use mira_proto::CollectionId;
use mira_raft::EngineError;

use super::Transition;
use crate::shard::{
    command::{ResealedFrame, ShardAnswer},
    record::{self, FrameRecord, KeyFloor},
};

/// Takes resealed frames, after which none is taken any more that an older key than the floor's sealed.
pub(super) fn reseal(
    collection: CollectionId,
    floor: KeyFloor,
    frames: Vec<ResealedFrame>,
    state: &mut Transition<'_, '_>,
) -> Result<ShardAnswer, EngineError> {
    let there = state.key_floor(collection)?;
    // What an earlier rotation says late changes nothing.
    if there.version > floor.version || there.version == floor.version && there.complete_at != 0 {
        return Ok(ShardAnswer::Reseal(0));
    }
    state.txn.put(&record::key_floor_key(collection), floor.encode());
    let mut replaced = 0;
    for frame in frames {
        replaced += u32::from(reseal_frame(collection, frame, state)?);
    }
    Ok(ShardAnswer::Reseal(replaced))
}

/// Takes one resealed frame; whether it still is what it was made from.
fn reseal_frame(
    collection: CollectionId,
    resealed: ResealedFrame,
    state: &mut Transition<'_, '_>,
) -> Result<bool, EngineError> {
    let ResealedFrame { frame, changed, body, vectors } = resealed;
    // What has changed since was sealed with the newer key, or is gone.
    if state.head(collection, frame)?.is_none_or(|head| head.changed != changed) {
        return Ok(false);
    }
    let Some(there) = state.record(collection, frame)? else { return Ok(false) };
    if !vectors.is_empty() {
        let vectors = record::encode_vectors(there.fields.version, &vectors);
        state.txn.put(&record::vectors_key(collection, frame), vectors);
    }
    state.txn.put(&record::frame_key(collection, frame), FrameRecord { body, ..there }.encode());
    Ok(true)
}
