//! Puts versions of frames that were sealed with a newer key in the place of what they were made from.

use mira_proto::CollectionId;
use mira_raft::EngineError;

use super::Transition;
use crate::shard::{
    command::{ResealedVersion, ShardAnswer},
    history::{self, PastVersion},
    record::{self, FrameRecord, KeyFloor},
};

/// Takes resealed versions, after which none is taken any more that an older key than the floor's sealed.
pub(super) fn reseal(
    collection: CollectionId,
    floor: KeyFloor,
    versions: Vec<ResealedVersion>,
    state: &mut Transition<'_, '_>,
) -> Result<ShardAnswer, EngineError> {
    let there = state.key_floor(collection)?;
    // What an earlier rotation says late changes nothing.
    if there.version > floor.version || there.version == floor.version && there.complete_at != 0 {
        return Ok(ShardAnswer::Reseal(0));
    }
    state.txn.put(&record::key_floor_key(collection), floor.encode());
    let mut replaced = 0;
    for version in versions {
        replaced += u32::from(reseal_version(collection, version, state)?);
    }
    Ok(ShardAnswer::Reseal(replaced))
}

/// Takes one resealed version; whether what it was made from is still there. A version that was current when it was read may
/// be a past one by now. What became current since was sealed with the newer key.
fn reseal_version(
    collection: CollectionId,
    resealed: ResealedVersion,
    state: &mut Transition<'_, '_>,
) -> Result<bool, EngineError> {
    let ResealedVersion { frame, version, fields, body, vectors } = resealed;
    let is_same = |there: &FrameRecord| there.fields.version == version && there.fields.fingerprint() == fields;
    if let Some(there) = state.record(collection, frame)?.filter(is_same) {
        if !vectors.is_empty() {
            let vectors = record::encode_vectors(version, &vectors);
            state.txn.put(&record::vectors_key(collection, frame), vectors);
        }
        state.txn.put(&record::frame_key(collection, frame), FrameRecord { body, ..there }.encode());
        return Ok(true);
    }
    let key = history::past_key(collection, frame, version);
    let Some(stored) = state.txn.get(&key)? else { return Ok(false) };
    let (there, _) = PastVersion::decode(&stored)?;
    if !is_same(&there) {
        return Ok(false);
    }
    state.txn.put(&key, PastVersion::encode(&FrameRecord { body, ..there }, &vectors));
    Ok(true)
}
