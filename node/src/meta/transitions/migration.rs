//! Transitions of collections that grow: how far the migration of their frames has come as a whole.

use std::collections::BTreeSet;

use mira_proto::{CollectionId, ShardId, limits};
use mira_raft::EngineError;

use crate::meta::{
    command::MetaAnswer,
    records::{RecordKey, RecordKind, Records},
    state::{CollectionRecord, Growth, GrowthStep},
};

/// Begins to spread a collection over more shards.
pub fn start(collection: CollectionId, to: u32, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    let Some(record) = records.get::<CollectionRecord>(RecordKey::Collection(collection))? else {
        return Ok(MetaAnswer::Missing);
    };
    if records.has(RecordKey::Growth(collection))? {
        return Ok(MetaAnswer::Exists);
    }
    if records.has(RecordKey::Rotation(collection))? {
        return Ok(MetaAnswer::Refused);
    }
    if to <= record.partitions || to > records.header.shards || !records.has(RecordKey::Placement)? {
        return Ok(MetaAnswer::Refused);
    }
    if records.count(RecordKind::Growth)? >= limits::MAX_GROWTHS {
        return Ok(MetaAnswer::Full);
    }
    let growth = Growth {
        from: record.partitions,
        to,
        step: GrowthStep::Copying,
        epoch: records.next_epoch(),
        since_ms: records.now_ms,
        done: BTreeSet::new(),
    };
    records.put(RecordKey::Growth(collection), &growth);
    Ok(MetaAnswer::Done)
}

/// A shard has done its part of a step; the next one begins when all have.
pub fn shard_done(
    collection: CollectionId,
    to: u32,
    step: GrowthStep,
    shard: ShardId,
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    let key = RecordKey::Growth(collection);
    let growth = records.get::<Growth>(key)?.filter(|growth| growth.to == to);
    let record = records.get::<CollectionRecord>(RecordKey::Collection(collection))?;
    let (Some(mut growth), Some(mut record)) = (growth, record) else { return Ok(MetaAnswer::Missing) };
    if growth.step != step {
        return Ok(MetaAnswer::Exists);
    }
    let (sources, targets) = growth.shards(collection, records.header.shards);
    let (needed, next) = match step {
        GrowthStep::Copying => (targets, GrowthStep::Clearing),
        GrowthStep::Clearing => (sources, GrowthStep::Remembering),
        GrowthStep::Remembering => return Ok(MetaAnswer::Refused),
    };
    if !needed.contains(&shard) {
        return Ok(MetaAnswer::Refused);
    }
    if !growth.done.insert(shard) {
        return Ok(MetaAnswer::Exists);
    }
    if needed.iter().all(|shard| growth.done.contains(shard)) {
        let (epoch, since_ms) = (records.next_epoch(), records.now_ms);
        growth = Growth { step: next, epoch, since_ms, done: BTreeSet::new(), ..growth };
        record.partitions = growth.to;
        records.put(RecordKey::Collection(collection), &record);
    }
    records.put(key, &growth);
    Ok(MetaAnswer::Done)
}

/// Forgets a growth once retries of writes from before it are too old to matter.
pub fn end(collection: CollectionId, to: u32, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    let key = RecordKey::Growth(collection);
    let Some(growth) = records.get::<Growth>(key)?.filter(|growth| growth.to == to) else {
        return Ok(MetaAnswer::Missing);
    };
    let over = growth.since_ms.saturating_add(limits::GROWTH_MEMORY.as_millis() as u64);
    if growth.step != GrowthStep::Remembering || records.now_ms < over {
        return Ok(MetaAnswer::Refused);
    }
    records.delete(key);
    Ok(MetaAnswer::Done)
}
