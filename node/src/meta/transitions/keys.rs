//! Transitions of keys that change: the key of a collection is rotated, and the cluster key takes another's place.

use std::collections::{BTreeMap, BTreeSet};

use mira_proto::{CollectionId, placement::shards_of_collection};
use mira_raft::EngineError;

use super::erasure::put_erasure;
use crate::{
    keys::keyring::TAG_KEY,
    meta::{
        command::MetaAnswer,
        records::{RecordKey, Records},
        state::{self, CollectionRecord, Erasure, Rewrapped, Rotation, RotationStep},
    },
};

/// Puts another cluster key in the place of the one before: every record is sealed anew under the key that sealed the
/// command, and wrapped keys are replaced, where they are still the ones that were rewrapped.
pub fn rewrap(rewrapped: Rewrapped, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    for (id, keys) in rewrapped.collections {
        let key = RecordKey::Collection(id);
        let Some(mut record) = records.get::<CollectionRecord>(key)? else { continue };
        replace(&mut record.wrapped_keys, keys);
        records.put(key, &record);
    }
    replace(&mut records.header.layer_keys, rewrapped.layers);
    if records.has(RecordKey::ReceiptKey)? && !rewrapped.receipts.is_empty() {
        records.put(RecordKey::ReceiptKey, &rewrapped.receipts);
    }
    let before = records.sealed_with(RecordKey::Header)?;
    records.seal_all_anew()?;
    let Some(before) = before.filter(|before| *before != records.seals_with()) else { return Ok(MetaAnswer::Done) };
    let erasure = Erasure {
        collection: 0,
        name: String::new(),
        whole: false,
        keys: [(0, *before.as_bytes())].into(),
        epoch: records.next_epoch(),
        index: records.index,
        since_ms: records.now_ms,
        done: BTreeSet::new(),
        receipt: None,
    };
    put_erasure(records.next_epoch(), &erasure, records)
}

fn replace(there: &mut BTreeMap<u32, Vec<u8>>, rewrapped: BTreeMap<u32, Vec<u8>>) {
    for (version, key) in rewrapped {
        there.entry(version).and_modify(|wrapped| *wrapped = key);
    }
}

/// Gives a collection another key, which every node learns of before anything is sealed with it.
pub fn start_rotation(
    collection: CollectionId,
    to: u32,
    wrapped: Vec<u8>,
    request: u128,
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    let Some(mut record) = records.get::<CollectionRecord>(RecordKey::Collection(collection))? else {
        return Ok(MetaAnswer::Missing);
    };
    if records.has(RecordKey::Rotation(collection))? {
        return Ok(MetaAnswer::Exists);
    }
    if Some(to) != record.key_version.checked_add(1) || records.has(RecordKey::Growth(collection))? {
        return Ok(MetaAnswer::Refused);
    }
    record.wrapped_keys.insert(to, wrapped);
    records.put(RecordKey::Collection(collection), &record);
    let (id, since_ms, done) = (records.next_epoch(), records.now_ms, BTreeSet::new());
    let rotation = Rotation { id, request, to, step: RotationStep::Preparing, since_ms, done };
    records.put(RecordKey::Rotation(collection), &rotation);
    Ok(MetaAnswer::Done)
}

/// A shard, or a node, has done its part of a step; the next one begins when all have.
pub fn rotation_done(
    collection: CollectionId,
    to: u32,
    step: RotationStep,
    who: u64,
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    let key = RecordKey::Rotation(collection);
    let rotation = records.get::<Rotation>(key)?.filter(|rotation| rotation.to == to);
    let record = records.get::<CollectionRecord>(RecordKey::Collection(collection))?;
    let (Some(mut rotation), Some(mut record)) = (rotation, record) else { return Ok(MetaAnswer::Missing) };
    if rotation.step != step || !rotation.done.insert(who) {
        return Ok(MetaAnswer::Exists);
    }
    let (needed, next): (BTreeSet<u64>, _) = match step {
        RotationStep::Preparing => (records.living_nodes()?, RotationStep::Resealing),
        RotationStep::Resealing => {
            let shards = shards_of_collection(collection, record.partitions, records.header.shards);
            (shards.into_iter().map(u64::from).collect(), RotationStep::Retiring)
        }
        RotationStep::Retiring => {
            records.put(key, &rotation);
            return Ok(MetaAnswer::Done);
        }
    };
    if needed.is_subset(&rotation.done) {
        rotation = Rotation { step: next, done: BTreeSet::new(), ..rotation };
        if next == RotationStep::Resealing {
            record.key_version = to;
            records.put(RecordKey::Collection(collection), &record);
        }
    }
    records.put(key, &rotation);
    Ok(MetaAnswer::Done)
}

/// Removes the keys of a collection before a version, once no node needs them any more.
pub fn destroy_keys(
    collection: CollectionId,
    to: u32,
    names: BTreeMap<u32, [u8; 8]>,
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    let key = RecordKey::Rotation(collection);
    let rotation = records.get::<Rotation>(key)?.filter(|rotation| rotation.to == to);
    let record = records.get::<CollectionRecord>(RecordKey::Collection(collection))?;
    let (Some(rotation), Some(mut record)) = (rotation, record) else { return Ok(MetaAnswer::Missing) };
    let shards = shards_of_collection(collection, record.partitions, records.header.shards);
    let holders = state::holders(&shards, &records.placement()?, &records.moves()?);
    if rotation.step != RotationStep::Retiring || !holders.iter().all(|node| rotation.done.contains(node)) {
        return Ok(MetaAnswer::Refused);
    }
    // The key of tags is never rotated: what is equal must stay equal.
    let is_older = |version: &u32| *version != TAG_KEY && *version < to;
    record.wrapped_keys.retain(|version, _| !is_older(version));
    let keys = names.into_iter().filter(|(version, _)| is_older(version)).collect();
    records.put(RecordKey::Collection(collection), &record);
    records.delete(key);
    let erasure = Erasure {
        collection,
        name: record.name,
        whole: false,
        keys,
        epoch: records.next_epoch(),
        index: records.index,
        since_ms: records.now_ms,
        done: BTreeSet::new(),
        receipt: None,
    };
    put_erasure(rotation.id, &erasure, records)
}
