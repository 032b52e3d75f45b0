//! Transitions of the places that hold backups of the cluster.

use mira_proto::limits;
use mira_raft::EngineError;

use crate::meta::{
    command::MetaAnswer,
    records::{RecordKey, RecordKind, Records},
    state::Repository,
};

/// Notes a place of backups, or that something was written there.
pub fn put(id: u128, repository: Repository, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    let key = RecordKey::Repository(id);
    let known = records.get::<Repository>(key)?;
    if known.is_none() && records.count(RecordKind::Repository)? >= limits::MAX_REPOSITORIES {
        return Ok(MetaAnswer::Full);
    }
    let finished_ms = known.map_or(0, |known| known.finished_ms).max(repository.finished_ms);
    records.put(key, &Repository { finished_ms, ..repository });
    Ok(MetaAnswer::Done)
}

/// A place of backups is gone, with the keys that it held.
pub fn forget(id: u128, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    if !records.has(RecordKey::Repository(id))? {
        return Ok(MetaAnswer::Missing);
    }
    records.delete(RecordKey::Repository(id));
    Ok(MetaAnswer::Done)
}
