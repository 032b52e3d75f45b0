//! Transitions of collections and of what belongs to them: they are made, tuned, dropped, restored, and their owners have
//! passphrases.

use mira_proto::{CollectionId, limits, vectors::SpaceNumber};
use mira_raft::EngineError;

use crate::meta::{
    command::MetaAnswer,
    records::{RecordKey, RecordKind, Records},
    state::{CollectionRecord, OwnerName, RestoredCluster},
};

/// Makes a collection, if its name and its number are free.
pub fn create(mut collection: CollectionRecord, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    let existing = records.all::<CollectionRecord>(RecordKind::Collection)?;
    if existing.iter().any(|(_, other)| other.name == collection.name || other.id == collection.id) {
        return Ok(MetaAnswer::Exists);
    }
    if existing.len() >= limits::MAX_COLLECTIONS {
        return Ok(MetaAnswer::Full);
    }
    collection.created_ms = records.now_ms;
    records.put(RecordKey::Collection(collection.id), &collection);
    Ok(MetaAnswer::Done)
}

/// Removes a collection, with what it was on its way to.
pub fn drop_collection(name: &str, id: CollectionId, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    let found = records.get::<CollectionRecord>(RecordKey::Collection(id))?;
    if found.is_none_or(|collection| collection.name != name) {
        return Ok(MetaAnswer::Missing);
    }
    records.delete(RecordKey::Collection(id));
    records.delete(RecordKey::Growth(id));
    records.delete(RecordKey::Rotation(id));
    records.put(RecordKey::Dropped(id), &());
    Ok(MetaAnswer::Done)
}

/// Gives searches of a space another beam.
pub fn tune(
    collection: CollectionId,
    space: SpaceNumber,
    ef: u32,
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    let key = RecordKey::Collection(collection);
    let Some(before) = records.get::<CollectionRecord>(key)? else { return Ok(MetaAnswer::Missing) };
    let mut record = before.clone();
    if !record.set_ef(space, ef) {
        return Ok(MetaAnswer::Missing);
    }
    if record == before {
        return Ok(MetaAnswer::Exists);
    }
    records.put(key, &record);
    Ok(MetaAnswer::Done)
}

/// Stores an owner's passphrase record in the place of the one that its writer saw.
pub fn put_owner(
    owner: OwnerName,
    record: &str,
    replaces: &str,
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    let key = RecordKey::Owner(owner);
    let there: String = records.get(key)?.unwrap_or_default();
    if there != replaces {
        return Ok(if there == record { MetaAnswer::Exists } else { MetaAnswer::Refused });
    }
    if there.is_empty() && records.count(RecordKind::Owner)? >= limits::MAX_OWNERS {
        return Ok(MetaAnswer::Full);
    }
    records.put(key, &record);
    Ok(MetaAnswer::Done)
}

/// Takes a backup's collections into a cluster that has none with frames in it; the same backup again changes nothing.
pub fn begin_restore(restored: RestoredCluster, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    if let Some(backup) = records.get::<u128>(RecordKey::Restoring)? {
        return Ok(if backup == restored.backup { MetaAnswer::Exists } else { MetaAnswer::Refused });
    }
    let there = records.all::<CollectionRecord>(RecordKind::Collection)?;
    let in_the_way = there.iter().any(|(_, found)| !restored.empty.contains(&found.id));
    if in_the_way || records.count(RecordKind::Owner)? > 0 {
        return Ok(MetaAnswer::Refused);
    }
    for (key, found) in there {
        // Without a mark of its end, so that nobody purges what may come back under its number.
        records.delete(key);
        records.delete(RecordKey::Rotation(found.id));
        records.delete(RecordKey::Growth(found.id));
    }
    for mut collection in restored.collections {
        collection.partitions = collection.partitions.min(records.header.shards);
        collection.first_partitions = collection.partitions;
        // It may have been dropped here before: what that left is purged by now, or is what comes back.
        records.delete(RecordKey::Dropped(collection.id));
        records.put(RecordKey::Collection(collection.id), &collection);
    }
    for (owner, record) in restored.owners {
        records.put(RecordKey::Owner(owner), &record);
    }
    records.header.layer_keys = restored.layer_keys;
    records.put(RecordKey::Restoring, &restored.backup);
    Ok(MetaAnswer::Done)
}

/// All of a backup is there.
pub fn end_restore(backup: u128, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    if records.get::<u128>(RecordKey::Restoring)? != Some(backup) {
        return Ok(MetaAnswer::Missing);
    }
    records.delete(RecordKey::Restoring);
    Ok(MetaAnswer::Done)
}
