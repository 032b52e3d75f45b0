//! Transitions of collections: they are made, tuned and dropped.

use mira_proto::{CollectionId, limits, vectors::SpaceNumber};
use mira_raft::EngineError;

use crate::meta::{
    command::MetaAnswer,
    records::{RecordKey, RecordKind, Records},
    state::CollectionRecord,
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
