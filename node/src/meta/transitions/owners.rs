//! Transitions of owners' passphrase records.

use mira_proto::limits;
use mira_raft::EngineError;

use crate::meta::{
    command::MetaAnswer,
    records::{RecordKey, RecordKind, Records},
    state::OwnerName,
};

/// Stores an owner's passphrase record in the place of the one that its writer saw; an empty one removes that.
pub fn put(
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
    if record.is_empty() {
        records.delete(key);
        return Ok(MetaAnswer::Done);
    }
    if there.is_empty() && records.count(RecordKind::Owner)? >= limits::MAX_OWNERS {
        return Ok(MetaAnswer::Full);
    }
    records.put(key, &record);
    Ok(MetaAnswer::Done)
}
