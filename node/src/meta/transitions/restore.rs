//! Transitions of a cluster that takes what a backup holds.

use mira_raft::EngineError;

use super::collections;
use crate::meta::{
    command::MetaAnswer,
    records::{RecordKey, RecordKind, Records},
    state::{CollectionRecord, RestoredCluster},
};

/// Takes a backup's collections into a cluster that has none with frames in it; the same backup again changes nothing.
pub fn begin(restored: RestoredCluster, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    if let Some(backup) = records.get::<u128>(RecordKey::Restoring)? {
        return Ok(if backup == restored.backup { MetaAnswer::Exists } else { MetaAnswer::Refused });
    }
    let there = records.all::<CollectionRecord>(RecordKind::Collection)?;
    let in_the_way = there.iter().any(|(_, found)| !restored.empty.contains(&found.id));
    if in_the_way || records.count(RecordKind::Owner)? > 0 || !records.has(RecordKey::NameKey)? {
        return Ok(MetaAnswer::Refused);
    }
    for (_, found) in there {
        // Without a mark of its end, so that nobody purges what may come back under its number.
        collections::delete(&found, records)?;
    }
    for mut collection in restored.collections {
        collection.partitions = collection.partitions.min(records.header.shards);
        collection.first_partitions = collection.partitions;
        // It may have been dropped here before: what that left is purged by now, or is what comes back.
        records.delete(RecordKey::Dropped(collection.id));
        collections::put(&collection, records)?;
    }
    for (owner, record) in restored.owners {
        records.put(RecordKey::Owner(owner), &record);
    }
    records.header.layer_keys = restored.layer_keys;
    records.put(RecordKey::Restoring, &restored.backup);
    Ok(MetaAnswer::Done)
}

/// All of a backup is there.
pub fn end(backup: u128, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    if records.get::<u128>(RecordKey::Restoring)? != Some(backup) {
        return Ok(MetaAnswer::Missing);
    }
    records.delete(RecordKey::Restoring);
    Ok(MetaAnswer::Done)
}
