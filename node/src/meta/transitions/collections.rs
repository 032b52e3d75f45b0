//! Transitions of collections: they are made, tuned, told what to keep, and dropped.

use mira_proto::{CollectionId, limits, vectors::SpaceNumber};
use mira_raft::EngineError;

use crate::{
    meta::{
        command::MetaAnswer,
        records::{RecordKey, Records},
        state::{CollectionRecord, NameKey},
    },
    shard::history::Retention,
};

/// Domain of the keyed names of collections.
const NAME_DOMAIN: &str = "collection";

/// Makes a collection, if its name and its number are free.
pub fn create(mut collection: CollectionRecord, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    let Some(name) = name_of(&collection.name, records)? else { return Ok(MetaAnswer::Refused) };
    if records.has(RecordKey::Collection(collection.id))? || records.has(name)? {
        return Ok(MetaAnswer::Exists);
    }
    if records.header.collections as usize >= limits::MAX_COLLECTIONS {
        return Ok(MetaAnswer::Full);
    }
    collection.created_ms = records.now_ms;
    put(&collection, records)?;
    Ok(MetaAnswer::Done)
}

/// Where the number of a collection lies by its name; none before the cluster is formed.
fn name_of(name: &str, records: &Records<'_, '_>) -> Result<Option<RecordKey>, EngineError> {
    let key = records.get::<NameKey>(RecordKey::NameKey)?;
    Ok(key.map(|key| RecordKey::CollectionName(key.keyed(NAME_DOMAIN, name.as_bytes()))))
}

/// Writes a collection that was not there.
pub fn put(collection: &CollectionRecord, records: &mut Records<'_, '_>) -> Result<(), EngineError> {
    records.put(RecordKey::Collection(collection.id), collection);
    if let Some(name) = name_of(&collection.name, records)? {
        records.put(name, &collection.id);
    }
    records.header.collections = records.header.collections.saturating_add(1);
    Ok(())
}

/// Removes a collection that is there, with what it was on its way to.
pub fn delete(collection: &CollectionRecord, records: &mut Records<'_, '_>) -> Result<(), EngineError> {
    if let Some(name) = name_of(&collection.name, records)? {
        records.delete(name);
    }
    records.delete(RecordKey::Collection(collection.id));
    records.delete(RecordKey::Growth(collection.id));
    records.delete(RecordKey::Rotation(collection.id));
    records.header.collections = records.header.collections.saturating_sub(1);
    Ok(())
}

/// Removes a collection; its frames are purged.
pub fn drop_collection(name: &str, id: CollectionId, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    let found = records.get::<CollectionRecord>(RecordKey::Collection(id))?;
    let Some(collection) = found.filter(|collection| collection.name == name) else {
        return Ok(MetaAnswer::Missing);
    };
    delete(&collection, records)?;
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

/// Sets how much of the past of a collection's frames is kept.
pub fn set_retention(
    collection: CollectionId,
    retention: Retention,
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    let key = RecordKey::Collection(collection);
    let Some(record) = records.get::<CollectionRecord>(key)? else { return Ok(MetaAnswer::Missing) };
    if record.retention == retention {
        return Ok(MetaAnswer::Exists);
    }
    records.put(key, &CollectionRecord { retention, ..record.clone() });
    Ok(MetaAnswer::Done)
}
