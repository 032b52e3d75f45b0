//! What the meta group knows of keys that change or end: rotations, erasures, and the receipts of these.
//!
//! ```text
//!  rotate a collection's key         shred a collection
//!    StartRotation                     Shred: its keys leave the state at once
//!    Preparing: every node knows it       │
//!    Resealing: shard by shard            │
//!    Retiring: node by node               │
//!    DestroyKeys ────────────────────────▶ Erasure: node by node, until no file holds them any more
//!                                         FinishErasure: the receipt
//! ```
//! Frames are re-sealed by the leaders of shards (`rotate.rs`), files are rewritten by every node
//! (`erase.rs`). Every step may be repeated, and goes on from these records whoever crashes.

use std::collections::{BTreeMap, BTreeSet};

use mira_proto::{CollectionId, NodeId, ShardId, placement::shards_of_collection};
use mira_raft::EngineError;
use serde::{Deserialize, Serialize};

use super::{
    command::MetaAnswer,
    machine::{Records, numbered},
    state::{ClusterState, CollectionRecord, Growth, Header, Move},
};

/// A collection on its way to another key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// Names it; also the erasure that it ends with.
    pub id: u64,
    /// The request that began it.
    pub request: u128,
    /// Version of the key that frames are sealed with from now on.
    pub to: u32,
    /// What is being done.
    pub step: RotationStep,
    /// Log-carried time that it began at.
    pub since_ms: u64,
    /// Shards, or nodes, that have done their part of the step.
    pub done: BTreeSet<u64>,
}

/// The steps of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RotationStep {
    /// Every node learns of the key, before anything is sealed with it.
    Preparing,
    /// Leaders of shards seal frames anew.
    Resealing,
    /// Nodes make sure that nothing of theirs needs an older key.
    Retiring,
}

impl RotationStep {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            RotationStep::Preparing => "preparing",
            RotationStep::Resealing => "resealing",
            RotationStep::Retiring => "retiring",
        }
    }
}

/// Keys that were destroyed, until no node has them on its disk any more, and the receipt of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// Whose keys they were; 0 = the cluster key before this one, with all that was wrapped by it.
    pub collection: CollectionId,
    /// The collection's name; empty of the cluster key.
    pub name: String,
    /// Whether the collection is gone with them.
    pub whole: bool,
    /// The keys by version, by their names.
    pub keys: BTreeMap<u32, [u8; 8]>,
    /// The map's epoch from which on they are gone.
    pub epoch: u64,
    /// Log position of the meta group at which they were destroyed.
    pub index: u64,
    /// Log-carried time of that.
    pub since_ms: u64,
    /// Nodes whose files hold them no more.
    pub done: BTreeSet<NodeId>,
    /// The end of it; none before.
    pub receipt: Option<Receipt>,
}

impl Erasure {
    /// Nodes whose files may still hold the keys.
    pub fn waits_for_nodes(&self, cluster: &ClusterState) -> impl Iterator<Item = NodeId> {
        let is_over = self.receipt.is_some();
        cluster.nodes.keys().copied().filter(move |node| !is_over && !self.done.contains(node))
    }

    /// Repositories whose copy of the keys is older than their end.
    pub fn waits_for_repositories<'a>(&self, cluster: &'a ClusterState) -> impl Iterator<Item = &'a str> + use<'a> {
        let gone_at = self.epoch;
        let older = move |repository: &&Repository| repository.keys_epoch < gone_at;
        cluster.repositories.values().filter(older).map(|repository| repository.place.as_str())
    }
}

/// What a cluster signs when keys are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// What is said, as JSON: these bytes are signed.
    pub text: String,
    /// Ed25519.
    pub signature: Vec<u8>,
}

/// A place that holds backups of this cluster, and copies of wrapped keys with them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// Where it is, as the operator says it.
    pub place: String,
    /// The map's epoch that its copy of the keys was written at.
    pub keys_epoch: u64,
    /// Log-carried time of the last whole backup; 0 = none yet.
    pub finished_ms: u64,
}

/// Wrapped keys under another cluster key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrapped {
    /// Keys of collections by version.
    pub collections: BTreeMap<CollectionId, BTreeMap<u32, Vec<u8>>>,
    /// Keys of the outermost layer of private frames.
    pub layers: BTreeMap<u32, Vec<u8>>,
    /// The key of receipts; empty for none.
    pub receipts: Vec<u8>,
}

/// Most erasures remembered; the oldest finished ones are forgotten.
const MAX_ERASURES: usize = 1_000;

/// Puts another cluster key in the place of the one before: every record is sealed anew under the key that sealed the
/// command, and wrapped keys are replaced, where they are still the ones that were rewrapped.
pub(super) fn rewrap(
    rewrapped: Rewrapped,
    (header, now_ms): (&mut Header, u64),
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    for (id, keys) in rewrapped.collections {
        let Some(mut record) = records.get::<CollectionRecord>(&numbered(b'c', id))? else { continue };
        replace(&mut record.wrapped_keys, keys);
        records.put(&numbered(b'c', id), &record)?;
    }
    replace(&mut header.layer_keys, rewrapped.layers);
    if records.get::<Vec<u8>>(RECEIPT_KEY)?.is_some() && !rewrapped.receipts.is_empty() {
        records.put(RECEIPT_KEY, &rewrapped.receipts)?;
    }
    let before = records.sealed_with(super::machine::HEADER)?;
    records.seal_all_anew()?;
    let Some(before) = before.filter(|before| *before != records.seals_with()) else { return Ok(MetaAnswer::Done) };
    let erasure = Erasure {
        collection: 0,
        name: String::new(),
        whole: false,
        keys: [(0, *before.as_bytes())].into(),
        epoch: header.epoch + 1,
        index: records.index,
        since_ms: now_ms,
        done: BTreeSet::new(),
        receipt: None,
    };
    put_erasure(header.epoch + 1, erasure, records)
}

fn replace(there: &mut BTreeMap<u32, Vec<u8>>, rewrapped: BTreeMap<u32, Vec<u8>>) {
    for (version, key) in rewrapped {
        there.entry(version).and_modify(|wrapped| *wrapped = key);
    }
}

/// Where the wrapped key of receipts lies.
pub(super) const RECEIPT_KEY: &[u8] = b"w";

pub(super) fn set_receipt_key(wrapped: &Vec<u8>, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    if records.get::<Vec<u8>>(RECEIPT_KEY)?.is_some() {
        return Ok(MetaAnswer::Exists);
    }
    records.put(RECEIPT_KEY, wrapped)?;
    Ok(MetaAnswer::Done)
}

pub(super) fn start_rotation(
    (collection, to, wrapped): (CollectionId, u32, Vec<u8>),
    request: u128,
    (header, now_ms): (&Header, u64),
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    let Some(mut record) = records.get::<CollectionRecord>(&numbered(b'c', collection))? else {
        return Ok(MetaAnswer::Missing);
    };
    if records.get::<Rotation>(&numbered(b'k', collection))?.is_some() {
        return Ok(MetaAnswer::Exists);
    }
    if to != record.key_version + 1 || records.get::<Growth>(&numbered(b'g', collection))?.is_some() {
        return Ok(MetaAnswer::Refused);
    }
    record.wrapped_keys.insert(to, wrapped);
    records.put(&numbered(b'c', collection), &record)?;
    // The epoch that this very command makes.
    let (id, done) = (header.epoch + 1, BTreeSet::new());
    let rotation = Rotation { id, request, to, step: RotationStep::Preparing, since_ms: now_ms, done };
    records.put(&numbered(b'k', collection), &rotation)?;
    Ok(MetaAnswer::Done)
}

pub(super) fn rotation_done(
    (collection, to, step): (CollectionId, u32, RotationStep),
    who: u64,
    header: &Header,
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    let key = numbered(b'k', collection);
    let rotation = records.get::<Rotation>(&key)?.filter(|rotation| rotation.to == to);
    let record = records.get::<CollectionRecord>(&numbered(b'c', collection))?;
    let (Some(mut rotation), Some(mut record)) = (rotation, record) else { return Ok(MetaAnswer::Missing) };
    if rotation.step != step || !rotation.done.insert(who) {
        return Ok(MetaAnswer::Exists);
    }
    let (needed, next): (BTreeSet<u64>, _) = match step {
        RotationStep::Preparing => (records.living_nodes()?, RotationStep::Resealing),
        RotationStep::Resealing => {
            let shards = shards_of_collection(collection, record.partitions, header.shards);
            (shards.into_iter().map(u64::from).collect(), RotationStep::Retiring)
        }
        RotationStep::Retiring => {
            records.put(&key, &rotation)?;
            return Ok(MetaAnswer::Done);
        }
    };
    if needed.is_subset(&rotation.done) {
        rotation = Rotation { step: next, done: BTreeSet::new(), ..rotation };
        if next == RotationStep::Resealing {
            record.key_version = to;
            records.put(&numbered(b'c', collection), &record)?;
        }
    }
    records.put(&key, &rotation)?;
    Ok(MetaAnswer::Done)
}

/// The nodes that have a replica of one of these shards, or get one.
pub fn holders(shards: &[ShardId], placement: &[Vec<NodeId>], moves: &[(ShardId, Move)]) -> BTreeSet<NodeId> {
    let placed = shards.iter().filter_map(|&shard| placement.get(shard as usize)).flatten().copied();
    let moving = moves.iter().filter(|(shard, _)| shards.contains(shard)).map(|(_, found)| found.to);
    placed.chain(moving).collect()
}

pub(super) fn destroy_keys(
    (collection, to, names): (CollectionId, u32, BTreeMap<u32, [u8; 8]>),
    (header, now_ms): (&Header, u64),
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    let key = numbered(b'k', collection);
    let rotation = records.get::<Rotation>(&key)?.filter(|rotation| rotation.to == to);
    let record = records.get::<CollectionRecord>(&numbered(b'c', collection))?;
    let (Some(rotation), Some(mut record)) = (rotation, record) else { return Ok(MetaAnswer::Missing) };
    let shards = shards_of_collection(collection, record.partitions, header.shards);
    let holders = holders(&shards, &records.placement()?, &records.moves()?);
    if rotation.step != RotationStep::Retiring || !holders.iter().all(|node| rotation.done.contains(node)) {
        return Ok(MetaAnswer::Refused);
    }
    // The key of tags is never rotated: what is equal must stay equal.
    let is_older = |version: &u32| *version != crate::keys::keyring::TAG_KEY && *version < to;
    record.wrapped_keys.retain(|version, _| !is_older(version));
    let keys = names.into_iter().filter(|(version, _)| is_older(version)).collect();
    records.put(&numbered(b'c', collection), &record)?;
    records.txn.delete(&key);
    let erasure = Erasure {
        collection,
        name: record.name,
        whole: false,
        keys,
        epoch: header.epoch + 1,
        index: records.index,
        since_ms: now_ms,
        done: BTreeSet::new(),
        receipt: None,
    };
    put_erasure(rotation.id, erasure, records)
}

/// Removes a collection and its keys, which no record holds any more from here on.
pub(super) fn shred(
    (name, id, keys): (&str, CollectionId, BTreeMap<u32, [u8; 8]>),
    (header, now_ms): (&Header, u64),
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    let answer = super::machine::drop_collection(name, id, records)?;
    if answer != MetaAnswer::Done {
        return Ok(answer);
    }
    let erasure = Erasure {
        collection: id,
        name: name.to_owned(),
        whole: true,
        keys,
        epoch: header.epoch + 1,
        index: records.index,
        since_ms: now_ms,
        done: BTreeSet::new(),
        receipt: None,
    };
    put_erasure(header.epoch + 1, erasure, records)
}

fn put_erasure(id: u64, erasure: Erasure, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    records.put(&numbered(b'e', id), &erasure)?;
    let finished: Vec<u64> = records
        .numbered_all::<Erasure>(b'e')?
        .into_iter()
        .filter_map(|(id, erasure)| erasure.receipt.map(|_| id))
        .collect();
    for id in finished.iter().take(finished.len().saturating_sub(MAX_ERASURES)) {
        records.txn.delete(&numbered(b'e', *id));
    }
    Ok(MetaAnswer::Done)
}

pub(super) fn erasure_done(id: u64, node: NodeId, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    let key = numbered(b'e', id);
    let Some(mut erasure) = records.get::<Erasure>(&key)? else { return Ok(MetaAnswer::Missing) };
    if erasure.receipt.is_some() || !erasure.done.insert(node) {
        return Ok(MetaAnswer::Exists);
    }
    records.put(&key, &erasure)?;
    Ok(MetaAnswer::Done)
}

pub(super) fn finish_erasure(
    id: u64,
    receipt: Receipt,
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    let key = numbered(b'e', id);
    let Some(erasure) = records.get::<Erasure>(&key)? else { return Ok(MetaAnswer::Missing) };
    if erasure.receipt.is_some() {
        return Ok(MetaAnswer::Exists);
    }
    records.put(&key, &Erasure { receipt: Some(receipt), ..erasure })?;
    Ok(MetaAnswer::Done)
}

/// Key of a repository's record.
pub(super) fn repository_key(id: u128) -> Vec<u8> {
    [&b"u"[..], &id.to_be_bytes()].concat()
}

pub(super) fn put_repository(
    id: u128,
    repository: Repository,
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    let key = repository_key(id);
    let known = records.get::<Repository>(&key)?;
    if known.is_none() && records.all::<Repository>(b'u')?.len() >= mira_proto::limits::MAX_REPOSITORIES {
        return Ok(MetaAnswer::Full);
    }
    let finished_ms = known.as_ref().map_or(0, |known| known.finished_ms).max(repository.finished_ms);
    records.put(&key, &Repository { finished_ms, ..repository })?;
    Ok(MetaAnswer::Done)
}
