//! The meta group's state machine.
//!
//! Keys of its records (all values sealed with the cluster key of the command that wrote them, bound to their key as associated data; the nonce is the
//! position in the log, so replicas stay byte-identical):
//!
//! | key | record |
//! |---|---|
//! | `h` | [`Header`] |
//! | `n` + node id (8) | [`NodeRecord`] |
//! | `p` | the placement: replicas of every shard |
//! | `c` + collection number (8) | [`CollectionRecord`] |
//! | `d` + collection number (8) | empty: the collection was dropped |
//! | `s` + node id (8) | [`NodePhase`]: what the node is to the placement |
//! | `m` + shard (8) | [`Move`]: a replica on its way |
//! | `r` + node id (8) | empty: the node was removed for good |
//! | `b` | whether moves are paused |
//! | `g` + collection number (8) | [`Growth`]: a collection on its way to more partitions |
//! | `o` + owner's name (16) | the owner's passphrase record |
//! | `k` + collection number (8) | [`super::Rotation`]: a collection on its way to another key |
//! | `e` + epoch (8) | [`super::Erasure`]: keys that were destroyed |
//! | `w` | the key of receipts, wrapped |
//! | `u` + repository id (16) | [`super::Repository`]: a place of backups |
//! | `v` | the backup that is being restored |
//!
//! Each record is a version byte and postcard.

use std::{collections::BTreeSet, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use mira_crypto::{KeyId, MetaSealer, meta::position_nonce};
use mira_proto::{limits, vectors::SpaceNumber};
use mira_raft::{Command, EngineError, StateMachine, StateReader, Txn};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

use super::{
    command::{MetaAnswer, MetaCommand},
    keys::{self, Repository, Rotation},
    state::{
        ClusterState, CollectionRecord, Growth, GrowthStep, Header, Move, MoveStep, NodePhase, NodeRecord, OwnerName,
        RestoredCluster,
    },
};
use crate::keys::keyring::{FIRST_KEY, KeyError, Keyring};

const VERSION: u8 = 1;
const MAX_RECORD_BYTES: usize = 4 << 20;
pub(super) const HEADER: &[u8] = b"h";
const PLACEMENT: &[u8] = b"p";
const PAUSED: &[u8] = b"b";
const RESTORING: &[u8] = b"v";

/// Applies meta commands and publishes the [`ClusterState`] after each batch.
pub struct MetaMachine {
    keyring: Arc<Keyring>,
    reader: Mutex<Option<StateReader>>,
    published: watch::Sender<Arc<ClusterState>>,
}

impl MetaMachine {
    /// A machine and the place where its state appears.
    pub fn new(keyring: Arc<Keyring>) -> (Arc<Self>, watch::Receiver<Arc<ClusterState>>) {
        let (published, state) = watch::channel(Arc::new(ClusterState::default()));
        (Arc::new(MetaMachine { keyring, reader: Mutex::new(None), published }), state)
    }

    fn publish(&self) {
        let guard = self.reader.lock();
        let Some(reader) = guard.as_ref() else { return };
        match load(reader, &self.keyring) {
            Ok(state) => {
                self.published.send_if_modified(|current| {
                    let changed = **current != state;
                    if changed {
                        *current = Arc::new(state);
                    }
                    changed
                });
            }
            // The last good state stays in force: the records are checked again at the next change.
            Err(error) => tracing::error!(%error, "cluster state cannot be read"),
        }
    }
}

impl StateMachine for MetaMachine {
    fn apply(&self, command: Command<'_>, txn: &mut Txn<'_>) -> Result<Bytes, EngineError> {
        let sealer = sealer_of(&self.keyring, command.payload)?;
        let change = MetaCommand::open(&sealer, command.payload).map_err(EngineError::Damaged)?;
        let mut records = Records { keyring: &self.keyring, sealer: &sealer, txn, index: command.index, ordinal: 0 };
        let answer = apply(change, command.time_ms, &mut records)?;
        Ok(postcard::to_stdvec(&answer).expect("an answer is plain data").into())
    }

    fn committed(&self, _applied_index: u64) {
        self.publish();
    }

    fn restored(&self, state: StateReader, _applied_index: u64) {
        *self.reader.lock() = Some(state);
        self.publish();
    }
}

fn apply(change: MetaCommand, now_ms: u64, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    let mut header: Header = records.get(HEADER)?.unwrap_or_default();
    let answer = match change {
        MetaCommand::Form { cluster_id, shards, replication, expect, layer_key } => {
            if header.cluster_id != 0 {
                return Ok(MetaAnswer::Exists);
            }
            let layer_keys = [(FIRST_KEY, layer_key)].into();
            header = Header { cluster_id, epoch: 0, shards, replication, expect, layer_keys };
            MetaAnswer::Done
        }
        MetaCommand::PlaceShards(placement) => {
            if records.get::<Vec<Vec<u64>>>(PLACEMENT)?.is_some() {
                return Ok(MetaAnswer::Exists);
            }
            records.put(PLACEMENT, &placement)?;
            MetaAnswer::Done
        }
        MetaCommand::PutNode(node) => put_node(&node, records)?,
        MetaCommand::CreateCollection(collection) => create(collection, now_ms, records)?,
        MetaCommand::DropCollection { name, id } => drop_collection(&name, id, records)?,
        MetaCommand::SetPhases(phases) => set_phases(&phases, records)?,
        MetaCommand::RemoveNode(node) => remove_node(node, records)?,
        MetaCommand::StartMove { shard, from, to } => start_move(shard, from, to, records)?,
        MetaCommand::StepMove { shard, to, step } => step_move(shard, to, step, records)?,
        MetaCommand::FinishMove { shard, to } => finish_move(shard, to, records)?,
        MetaCommand::CancelMove { shard, to } => match records.move_to(shard, to)? {
            Some(_) => {
                records.txn.delete(&numbered(b'm', shard.into()));
                MetaAnswer::Done
            }
            None => MetaAnswer::Missing,
        },
        MetaCommand::PreferLeaders(leaders) => {
            let mut placement = records.placement()?;
            for (replicas, leader) in placement.iter_mut().zip(leaders) {
                if let Some(at) = replicas.iter().position(|&node| node == leader) {
                    replicas.swap(0, at);
                }
            }
            records.put(PLACEMENT, &placement)?;
            MetaAnswer::Done
        }
        MetaCommand::PauseMoves(paused) => {
            records.put(PAUSED, &paused)?;
            MetaAnswer::Done
        }
        MetaCommand::StartGrowth { collection, to } => start_growth(collection, to, (&header, now_ms), records)?,
        MetaCommand::GrowthDone { collection, to, step, shard } => {
            growth_done((collection, to, step), shard, (&header, now_ms), records)?
        }
        MetaCommand::EndGrowth { collection, to } => end_growth(collection, to, now_ms, records)?,
        MetaCommand::Rewrap(rewrapped) => keys::rewrap(rewrapped, (&mut header, now_ms), records)?,
        MetaCommand::SetReceiptKey(wrapped) => return keys::set_receipt_key(&wrapped, records),
        MetaCommand::StartRotation { collection, to, wrapped, request } => {
            keys::start_rotation((collection, to, wrapped), request, (&header, now_ms), records)?
        }
        MetaCommand::RotationDone { collection, to, step, who } => {
            keys::rotation_done((collection, to, step), who, &header, records)?
        }
        MetaCommand::DestroyKeys { collection, to, names } => {
            keys::destroy_keys((collection, to, names), (&header, now_ms), records)?
        }
        MetaCommand::Shred { name, id, names } => keys::shred((&name, id, names), (&header, now_ms), records)?,
        // No part of the map: who wants to know asks.
        MetaCommand::ErasureDone { erasure, node } => return keys::erasure_done(erasure, node, records),
        MetaCommand::FinishErasure { erasure, receipt } => return keys::finish_erasure(erasure, receipt, records),
        MetaCommand::PutRepository { id, repository } => return keys::put_repository(id, repository, records),
        MetaCommand::ForgetRepository(id) => {
            let key = keys::repository_key(id);
            if records.get::<Repository>(&key)?.is_none() {
                return Ok(MetaAnswer::Missing);
            }
            records.txn.delete(&key);
            return Ok(MetaAnswer::Done);
        }
        MetaCommand::BeginRestore(restored) => begin_restore(restored, &mut header, records)?,
        MetaCommand::EndRestore { backup } => match records.get::<u128>(RESTORING)? {
            Some(found) if found == backup => {
                records.txn.delete(RESTORING);
                MetaAnswer::Done
            }
            _ => MetaAnswer::Missing,
        },
        MetaCommand::TuneCollection { collection, space, ef } => tune(collection, (space, ef), records)?,
        MetaCommand::PutOwner { owner, record, replaces } => return put_owner(&owner, &record, &replaces, records),
    };
    // A change that was not made is no reason for every router to fetch the map.
    if answer == MetaAnswer::Done {
        header.epoch += 1;
        records.put(HEADER, &header)?;
    }
    Ok(answer)
}

fn put_node(node: &NodeRecord, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    if records.get::<()>(&numbered(b'r', node.id))?.is_some() {
        return Ok(MetaAnswer::Refused);
    }
    let key = numbered(b'n', node.id);
    let known: Option<NodeRecord> = records.get(&key)?;
    if known.as_ref() == Some(node) {
        return Ok(MetaAnswer::Exists);
    }
    // Who comes after the shards were placed holds none until an operator says so.
    if known.is_none() && records.get::<Vec<Vec<u64>>>(PLACEMENT)?.is_some() {
        records.put(&numbered(b's', node.id), &NodePhase::Standby)?;
    }
    records.put(&key, node)?;
    Ok(MetaAnswer::Done)
}

fn put_owner(
    owner: &OwnerName,
    record: &str,
    replaces: &str,
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    let key = owner_key(owner);
    let there: String = records.get(&key)?.unwrap_or_default();
    if there != replaces {
        return Ok(if there == record { MetaAnswer::Exists } else { MetaAnswer::Refused });
    }
    if there.is_empty() && records.all::<String>(b'o')?.len() >= limits::MAX_OWNERS {
        return Ok(MetaAnswer::Full);
    }
    records.put(&key, &record)?;
    Ok(MetaAnswer::Done)
}

/// Takes a backup's collections into a cluster that has none with frames in it; the same backup again changes nothing.
fn begin_restore(
    restored: RestoredCluster,
    header: &mut Header,
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    if let Some(backup) = records.get::<u128>(RESTORING)? {
        return Ok(if backup == restored.backup { MetaAnswer::Exists } else { MetaAnswer::Refused });
    }
    let there = records.all::<CollectionRecord>(b'c')?;
    if there.iter().any(|found| !restored.empty.contains(&found.id)) || !records.all::<String>(b'o')?.is_empty() {
        return Ok(MetaAnswer::Refused);
    }
    for found in there {
        // Without a mark of its end, so that nobody purges what may come back under its number.
        records.txn.delete(&numbered(b'c', found.id));
        records.txn.delete(&numbered(b'k', found.id));
        records.txn.delete(&numbered(b'g', found.id));
    }
    for mut collection in restored.collections {
        collection.partitions = collection.partitions.min(header.shards);
        collection.first_partitions = collection.partitions;
        // It may have been dropped here before: what that left is purged by now, or is what comes back.
        records.txn.delete(&numbered(b'd', collection.id));
        records.put(&numbered(b'c', collection.id), &collection)?;
    }
    for (owner, record) in restored.owners {
        records.put(&owner_key(&owner), &record)?;
    }
    header.layer_keys = restored.layer_keys;
    records.put(RESTORING, &restored.backup)?;
    Ok(MetaAnswer::Done)
}

pub(super) fn drop_collection(name: &str, id: u64, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    let key = numbered(b'c', id);
    if records.get::<CollectionRecord>(&key)?.is_none_or(|collection| collection.name != name) {
        return Ok(MetaAnswer::Missing);
    }
    records.txn.delete(&key);
    records.txn.delete(&numbered(b'g', id));
    records.txn.delete(&numbered(b'k', id));
    records.put(&numbered(b'd', id), &())?;
    Ok(MetaAnswer::Done)
}

fn set_phases(phases: &[(u64, NodePhase)], records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    for (node, _) in phases {
        if records.get::<NodeRecord>(&numbered(b'n', *node))?.is_none() {
            return Ok(MetaAnswer::Missing);
        }
    }
    for (node, phase) in phases {
        records.put(&numbered(b's', *node), phase)?;
    }
    Ok(MetaAnswer::Done)
}

fn remove_node(node: u64, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    if records.get::<NodeRecord>(&numbered(b'n', node))?.is_none() {
        return Ok(MetaAnswer::Missing);
    }
    let holds = records.placement()?.iter().any(|replicas| replicas.contains(&node));
    let moves: Vec<Move> = records.all(b'm')?;
    if holds || moves.iter().any(|found| found.to == node || found.from == Some(node)) {
        return Ok(MetaAnswer::Refused);
    }
    records.txn.delete(&numbered(b'n', node));
    records.txn.delete(&numbered(b's', node));
    records.put(&numbered(b'r', node), &())?;
    Ok(MetaAnswer::Done)
}

fn start_move(
    shard: u32,
    from: Option<u64>,
    to: u64,
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    let key = numbered(b'm', shard.into());
    if records.get::<Move>(&key)?.is_some() {
        return Ok(MetaAnswer::Exists);
    }
    let placement = records.placement()?;
    let Some(replicas) = placement.get(shard as usize) else { return Ok(MetaAnswer::Missing) };
    let mends = from == Some(to);
    let fits = from.is_none_or(|from| replicas.contains(&from)) && replicas.contains(&to) == mends;
    if !fits || records.get::<NodeRecord>(&numbered(b'n', to))?.is_none() {
        return Ok(MetaAnswer::Refused);
    }
    let step = if mends { MoveStep::Leaving } else { MoveStep::Joining };
    records.put(&key, &Move { from, to, step })?;
    Ok(MetaAnswer::Done)
}

fn step_move(shard: u32, to: u64, step: MoveStep, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    match records.move_to(shard, to)? {
        Some(found) if found.step < step => {
            records.put(&numbered(b'm', shard.into()), &Move { step, ..found })?;
            Ok(MetaAnswer::Done)
        }
        Some(_) => Ok(MetaAnswer::Exists),
        None => Ok(MetaAnswer::Missing),
    }
}

fn finish_move(shard: u32, to: u64, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    let Some(found) = records.move_to(shard, to)? else { return Ok(MetaAnswer::Missing) };
    if found.step != MoveStep::Joining {
        return Ok(MetaAnswer::Refused);
    }
    let state = ClusterState { placement: records.placement()?, moves: [(shard, found)].into(), ..Default::default() };
    let mut placement = state.placement.clone();
    placement[shard as usize] = state.replicas_after_move(shard);
    records.put(PLACEMENT, &placement)?;
    records.txn.delete(&numbered(b'm', shard.into()));
    Ok(MetaAnswer::Done)
}

fn tune(
    collection: u64,
    (space, ef): (SpaceNumber, u32),
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    let key = numbered(b'c', collection);
    let Some(mut record) = records.get::<CollectionRecord>(&key)? else { return Ok(MetaAnswer::Missing) };
    let before = record.clone();
    if !record.set_ef(space, ef) {
        return Ok(MetaAnswer::Missing);
    }
    if record == before {
        return Ok(MetaAnswer::Exists);
    }
    records.put(&key, &record)?;
    Ok(MetaAnswer::Done)
}

fn start_growth(
    collection: u64,
    to: u32,
    (header, now_ms): (&Header, u64),
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    let Some(record) = records.get::<CollectionRecord>(&numbered(b'c', collection))? else {
        return Ok(MetaAnswer::Missing);
    };
    let key = numbered(b'g', collection);
    if records.get::<Growth>(&key)?.is_some() {
        return Ok(MetaAnswer::Exists);
    }
    if records.get::<Rotation>(&numbered(b'k', collection))?.is_some() {
        return Ok(MetaAnswer::Refused);
    }
    if to <= record.partitions || to > header.shards || records.get::<Vec<Vec<u64>>>(PLACEMENT)?.is_none() {
        return Ok(MetaAnswer::Refused);
    }
    if records.all::<Growth>(b'g')?.len() >= limits::MAX_GROWTHS {
        return Ok(MetaAnswer::Full);
    }
    // The epoch that this very command makes.
    let (from, epoch) = (record.partitions, header.epoch + 1);
    let done = BTreeSet::new();
    records.put(&key, &Growth { from, to, step: GrowthStep::Copying, epoch, since_ms: now_ms, done })?;
    Ok(MetaAnswer::Done)
}

fn growth_done(
    (collection, to, step): (u64, u32, GrowthStep),
    shard: u32,
    (header, now_ms): (&Header, u64),
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    let key = numbered(b'g', collection);
    let growth = records.get::<Growth>(&key)?.filter(|growth| growth.to == to);
    let record = records.get::<CollectionRecord>(&numbered(b'c', collection))?;
    let (Some(mut growth), Some(mut record)) = (growth, record) else { return Ok(MetaAnswer::Missing) };
    if growth.step != step {
        return Ok(MetaAnswer::Exists);
    }
    let (sources, heirs) = growth.shards(collection, header.shards);
    let (needed, next) = match step {
        GrowthStep::Copying => (heirs, GrowthStep::Clearing),
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
        growth = Growth { step: next, epoch: header.epoch + 1, since_ms: now_ms, done: BTreeSet::new(), ..growth };
        record.partitions = growth.to;
        records.put(&numbered(b'c', collection), &record)?;
    }
    records.put(&key, &growth)?;
    Ok(MetaAnswer::Done)
}

fn end_growth(collection: u64, to: u32, now_ms: u64, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    let key = numbered(b'g', collection);
    let Some(growth) = records.get::<Growth>(&key)?.filter(|growth| growth.to == to) else {
        return Ok(MetaAnswer::Missing);
    };
    let over = growth.since_ms.saturating_add(limits::GROWTH_MEMORY.as_millis() as u64);
    if growth.step != GrowthStep::Remembering || now_ms < over {
        return Ok(MetaAnswer::Refused);
    }
    records.txn.delete(&key);
    Ok(MetaAnswer::Done)
}

fn create(
    mut collection: CollectionRecord,
    now_ms: u64,
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    let existing: Vec<CollectionRecord> = records.all(b'c')?;
    if existing.iter().any(|other| other.name == collection.name || other.id == collection.id) {
        return Ok(MetaAnswer::Exists);
    }
    if existing.len() >= limits::MAX_COLLECTIONS {
        return Ok(MetaAnswer::Full);
    }
    collection.created_ms = now_ms;
    records.put(&numbered(b'c', collection.id), &collection)?;
    Ok(MetaAnswer::Done)
}

/// Sealed records of one command's transaction.
pub(super) struct Records<'a, 'b> {
    keyring: &'a Keyring,
    /// Of the command: what it writes is sealed as it was, so that all replicas write the same.
    sealer: &'a MetaSealer,
    pub(super) txn: &'a mut Txn<'b>,
    pub(super) index: u64,
    ordinal: u32,
}

impl Records<'_, '_> {
    pub(super) fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, EngineError> {
        self.txn.get(key)?.map(|sealed| open(self.keyring, key, &sealed)).transpose()
    }

    pub(super) fn all<T: DeserializeOwned>(&self, kind: u8) -> Result<Vec<T>, EngineError> {
        let mut found = Vec::new();
        self.txn.scan_prefix(&[kind], &mut |key, sealed| {
            found.push(open(self.keyring, key, sealed));
            ControlFlow::Continue(())
        })?;
        found.into_iter().collect()
    }

    /// All records of a kind whose keys are numbers, with these.
    pub(super) fn numbered_all<T: DeserializeOwned>(&self, kind: u8) -> Result<Vec<(u64, T)>, EngineError> {
        let mut found = Vec::new();
        self.txn.scan_prefix(&[kind], &mut |key, sealed| {
            found.push(number_of(key).and_then(|number| Ok((number, open(self.keyring, key, sealed)?))));
            ControlFlow::Continue(())
        })?;
        found.into_iter().collect()
    }

    pub(super) fn moves(&self) -> Result<Vec<(u32, Move)>, EngineError> {
        let moves = self.numbered_all::<Move>(b'm')?;
        Ok(moves.into_iter().map(|(shard, found)| (shard as u32, found)).collect())
    }

    /// Nodes that are not lost.
    pub(super) fn living_nodes(&self) -> Result<BTreeSet<u64>, EngineError> {
        let phases: std::collections::BTreeMap<u64, NodePhase> = self.numbered_all(b's')?.into_iter().collect();
        let nodes = self.numbered_all::<NodeRecord>(b'n')?.into_iter().map(|(id, _)| id);
        Ok(nodes.filter(|id| phases.get(id) != Some(&NodePhase::Lost)).collect())
    }

    /// The cluster key that a record is sealed with; none if there is no record.
    pub(super) fn sealed_with(&self, key: &[u8]) -> Result<Option<KeyId>, EngineError> {
        let sealed = self.txn.get(key)?;
        let id = sealed.map(|sealed| mira_crypto::meta::key_id(&sealed)).transpose();
        id.map_err(|error| damaged(key, &error.to_string()))
    }

    /// The cluster key that this command seals with.
    pub(super) fn seals_with(&self) -> KeyId {
        self.sealer.key_id()
    }

    /// Seals every record as the command was sealed.
    pub(super) fn seal_all_anew(&mut self) -> Result<(), EngineError> {
        let mut sealed = Vec::new();
        self.txn.scan_prefix(&[], &mut |key, value| {
            sealed.push((key.to_vec(), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        })?;
        for (key, value) in sealed {
            let plain = open_plain(self.keyring, &key, &value)?;
            self.put_plain(&key, &plain);
        }
        Ok(())
    }

    pub(super) fn placement(&self) -> Result<Vec<Vec<u64>>, EngineError> {
        Ok(self.get(PLACEMENT)?.unwrap_or_default())
    }

    /// The shard's move, if it is one to that node.
    fn move_to(&self, shard: u32, to: u64) -> Result<Option<Move>, EngineError> {
        Ok(self.get::<Move>(&numbered(b'm', shard.into()))?.filter(|found| found.to == to))
    }

    pub(super) fn put(&mut self, key: &[u8], value: &impl Serialize) -> Result<(), EngineError> {
        let plain = postcard::to_extend(value, vec![VERSION]).expect("a record is plain data");
        self.put_plain(key, &plain);
        Ok(())
    }

    fn put_plain(&mut self, key: &[u8], plain: &[u8]) {
        let nonce = position_nonce(self.index, self.ordinal);
        self.ordinal += 1;
        self.txn.put(key, self.sealer.seal(&nonce, key, plain));
    }
}

/// What opens a sealed record or command. A key that this node does not hold is no damage.
fn sealer_of(keyring: &Keyring, sealed: &[u8]) -> Result<Arc<MetaSealer>, EngineError> {
    keyring.sealer_of(sealed).map_err(|error| match error {
        KeyError::NoClusterKey(id) => {
            keyring.miss(id);
            EngineError::Io(error.to_string())
        }
        other => EngineError::Damaged(format!("sealed for the meta group: {other}")),
    })
}

fn damaged(key: &[u8], what: &str) -> EngineError {
    EngineError::Damaged(format!("meta record {}: {what}", key.escape_ascii()))
}

fn open_plain(keyring: &Keyring, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, EngineError> {
    let sealer = sealer_of(keyring, sealed)?;
    sealer.open(key, sealed, MAX_RECORD_BYTES).map_err(|error| damaged(key, &error.to_string()))
}

fn open<T: DeserializeOwned>(keyring: &Keyring, key: &[u8], sealed: &[u8]) -> Result<T, EngineError> {
    let damaged = |what: String| damaged(key, &what);
    let plain = open_plain(keyring, key, sealed)?;
    match plain.split_first() {
        Some((&VERSION, body)) => postcard::from_bytes(body).map_err(|error| damaged(error.to_string())),
        Some((version, _)) => Err(damaged(format!("unknown version {version}"))),
        None => Err(damaged("empty".into())),
    }
}

/// Reads the whole state.
fn load(reader: &StateReader, keyring: &Keyring) -> Result<ClusterState, EngineError> {
    let view = reader.view()?;
    let mut state = ClusterState::default();
    let mut failed = None;
    view.scan_prefix(&[], false, &mut |key, sealed| match take(&mut state, keyring, key, sealed) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(state), Err)
}

fn take(state: &mut ClusterState, keyring: &Keyring, key: &[u8], sealed: &[u8]) -> Result<(), EngineError> {
    match key.first() {
        Some(b'h') => {
            state.header = open(keyring, key, sealed)?;
            // Every change writes it: it is sealed with what seals now.
            keyring.activate(mira_crypto::meta::key_id(sealed).map_err(|error| damaged(key, &error.to_string()))?);
        }
        Some(b'p') => state.placement = open(keyring, key, sealed)?,
        Some(b'n') => {
            let node: NodeRecord = open(keyring, key, sealed)?;
            state.nodes.insert(node.id, node);
        }
        Some(b'c') => {
            let collection: CollectionRecord = open(keyring, key, sealed)?;
            state.collections.insert(collection.id, collection);
        }
        Some(b'd') => {
            state.dropped.insert(number_of(key)?);
        }
        Some(b's') => {
            state.phases.insert(number_of(key)?, open(keyring, key, sealed)?);
        }
        Some(b'm') => {
            let shard = u32::try_from(number_of(key)?).map_err(|error| EngineError::Damaged(error.to_string()))?;
            state.moves.insert(shard, open(keyring, key, sealed)?);
        }
        Some(b'r') => {
            state.removed.insert(number_of(key)?);
        }
        Some(b'g') => {
            state.growths.insert(number_of(key)?, open(keyring, key, sealed)?);
        }
        Some(b'o') => {
            let owner = key[1..].try_into().map_err(|_| EngineError::Damaged("short owner in a meta key".into()))?;
            state.owners.insert(owner, open(keyring, key, sealed)?);
        }
        Some(b'k') => {
            state.rotations.insert(number_of(key)?, open(keyring, key, sealed)?);
        }
        Some(b'e') => {
            state.erasures.insert(number_of(key)?, open(keyring, key, sealed)?);
        }
        Some(b'w') => state.receipt_key = open(keyring, key, sealed)?,
        Some(b'u') => {
            let id = key[1..].try_into().map_err(|_| damaged(key, "short id"))?;
            state.repositories.insert(u128::from_be_bytes(id), open(keyring, key, sealed)?);
        }
        Some(b'v') => state.restoring = Some(open(keyring, key, sealed)?),
        Some(b'b') => state.moves_paused = open(keyring, key, sealed)?,
        _ => return Err(EngineError::Damaged(format!("unknown meta record {}", key.escape_ascii()))),
    }
    Ok(())
}

fn number_of(key: &[u8]) -> Result<u64, EngineError> {
    let number = key[1..].try_into().map_err(|_| EngineError::Damaged("short number in a meta key".into()))?;
    Ok(u64::from_be_bytes(number))
}

fn owner_key(owner: &OwnerName) -> Vec<u8> {
    [&b"o"[..], owner].concat()
}

pub(super) fn numbered(kind: u8, id: u64) -> Vec<u8> {
    [&[kind][..], &id.to_be_bytes()].concat()
}
