//! Transitions of erasures: keys are destroyed, leave one node after the other, and a receipt is kept.

use std::collections::{BTreeMap, BTreeSet};

use mira_proto::{CollectionId, NodeId, limits};
use mira_raft::EngineError;

use super::collections::drop_collection;
use crate::meta::{
    command::MetaAnswer,
    records::{RecordKey, RecordKind, Records},
    state::{Erasure, Receipt},
};

/// Removes a collection and its keys, which no record holds any more from here on.
pub fn shred(
    name: &str,
    id: CollectionId,
    keys: BTreeMap<u32, [u8; 8]>,
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    let answer = drop_collection(name, id, records)?;
    if answer != MetaAnswer::Done {
        return Ok(answer);
    }
    let erasure = Erasure {
        collection: id,
        name: name.to_owned(),
        whole: true,
        keys,
        epoch: records.next_epoch(),
        index: records.index,
        since_ms: records.now_ms,
        done: BTreeSet::new(),
        receipt: None,
    };
    put_erasure(records.next_epoch(), &erasure, records)
}

/// Notes keys that were destroyed, and forgets the oldest finished erasures.
pub fn put_erasure(id: u64, erasure: &Erasure, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    records.put(RecordKey::Erasure(id), erasure);
    let erasures = records.all::<Erasure>(RecordKind::Erasure)?;
    let finished: Vec<RecordKey> =
        erasures.into_iter().filter_map(|(key, erasure)| erasure.receipt.map(|_| key)).collect();
    for key in finished.iter().take(finished.len().saturating_sub(limits::MAX_ERASURES)) {
        records.delete(*key);
    }
    Ok(MetaAnswer::Done)
}

/// Gives the cluster the key that it signs receipts with, once.
pub fn set_receipt_key(wrapped: &Vec<u8>, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    if records.has(RecordKey::ReceiptKey)? {
        return Ok(MetaAnswer::Exists);
    }
    records.put(RecordKey::ReceiptKey, wrapped);
    Ok(MetaAnswer::Done)
}

/// A node's files hold the keys of an erasure no more.
pub fn node_done(id: u64, node: NodeId, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    let key = RecordKey::Erasure(id);
    let Some(mut erasure) = records.get::<Erasure>(key)? else { return Ok(MetaAnswer::Missing) };
    if erasure.receipt.is_some() || !erasure.done.insert(node) {
        return Ok(MetaAnswer::Exists);
    }
    records.put(key, &erasure);
    Ok(MetaAnswer::Done)
}

/// Nobody has the keys of an erasure any more: keeps what the cluster says of it.
pub fn finish(id: u64, receipt: Receipt, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    let key = RecordKey::Erasure(id);
    let Some(erasure) = records.get::<Erasure>(key)? else { return Ok(MetaAnswer::Missing) };
    if erasure.receipt.is_some() {
        return Ok(MetaAnswer::Exists);
    }
    records.put(key, &Erasure { receipt: Some(receipt), ..erasure });
    Ok(MetaAnswer::Done)
}
