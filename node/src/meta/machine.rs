//! The meta group's state machine: applies commands to the records, and publishes what the cluster is.
//!
//! Each command is one transition (`super::transitions`); a transition that changed the map makes a new epoch.

use std::{collections::BTreeSet, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use mira_raft::{Command, EngineError, StateMachine, StateReader, Txn};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    command::{MAX_AGE_ENTRIES, MetaAnswer, MetaCommand, OpenedCommand},
    records::{self, CommandContext, RecordKey, Records},
    state::{ClusterState, CollectionChanges, CollectionRecord, NodeRecord},
    transitions::{collections, erasure, keys, migration, moves, nodes, owners, repositories, requests, restore},
};
use crate::keys::keyring::Keyring;

/// Applies meta commands and publishes the [`ClusterState`] after each batch.
pub struct MetaMachine {
    keyring: Arc<Keyring>,
    behind: Mutex<Behind>,
    published: watch::Sender<Arc<ClusterState>>,
}

/// What is in the records and not published yet.
#[derive(Default)]
struct Behind {
    reader: Option<StateReader>,
    /// Keys of records that changed.
    touched: BTreeSet<Vec<u8>>,
    /// The whole has to be read: something could not be.
    all: bool,
}

impl MetaMachine {
    /// A machine and the place where its state appears.
    pub fn new(keyring: Arc<Keyring>) -> (Arc<Self>, watch::Receiver<Arc<ClusterState>>) {
        let (published, state) = watch::channel(Arc::new(ClusterState::default()));
        (Arc::new(MetaMachine { keyring, behind: Mutex::default(), published }), state)
    }

    /// Publishes what changed; reads no more than that, because there may be very many records.
    fn publish(&self) {
        let mut behind = self.behind.lock();
        let Some(reader) = behind.reader.clone() else { return };
        let touched = std::mem::take(&mut behind.touched);
        let next = if behind.all {
            load(&reader, &self.keyring)
        } else if touched.is_empty() {
            return;
        } else {
            follow(&self.published.borrow(), &reader, &self.keyring, &touched)
        };
        match next {
            Ok(state) => {
                behind.all = false;
                self.published.send_replace(Arc::new(state));
            }
            // The last good state stays in force: all records are read at the next change.
            Err(error) => {
                behind.all = true;
                tracing::error!(%error, "cluster state cannot be read");
            }
        }
    }
}

impl StateMachine for MetaMachine {
    fn apply(&self, command: Command<'_>, txn: &mut Txn<'_>) -> Result<Bytes, EngineError> {
        let sealer = records::sealer_of(&self.keyring, command.payload)?;
        let opened = OpenedCommand::open(&sealer, command.payload).map_err(EngineError::Damaged)?;
        let OpenedCommand { command: change, position, request } = opened;
        if position.is_some_and(|position| command.index.saturating_sub(position) > MAX_AGE_ENTRIES) {
            return Ok(encoded(MetaAnswer::Refused));
        }
        let context = CommandContext { sealer: &sealer, index: command.index, now_ms: command.time_ms };
        let mut records = Records::open(&self.keyring, &context, txn)?;
        let changes_map = change.changes_map();
        let answer = apply(change, &mut records)?;
        // A change that was not made is no reason for every router to fetch the map.
        if changes_map && answer == MetaAnswer::Done {
            records.header.epoch += 1;
            let header = records.header.clone();
            records.put(RecordKey::Header, &header);
        }
        if let Some(request) = request.filter(|_| answer == MetaAnswer::Done) {
            requests::remember(request, &mut records);
        }
        self.behind.lock().touched.extend(records.into_touched());
        Ok(encoded(answer))
    }

    fn committed(&self, _applied_index: u64) {
        self.publish();
    }

    fn restored(&self, state: StateReader, _applied_index: u64) {
        *self.behind.lock() = Behind { reader: Some(state), touched: BTreeSet::new(), all: true };
        self.publish();
    }
}

fn encoded(answer: MetaAnswer) -> Bytes {
    postcard::to_stdvec(&answer).expect("an answer is plain data").into()
}

/// The transition of each command.
fn apply(change: MetaCommand, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    match change {
        MetaCommand::Form { cluster_id, shards, replication, expect, layer_key, name_key } => {
            let new = nodes::NewCluster { cluster_id, shards, replication, expect, layer_key, name_key };
            Ok(nodes::form(new, records))
        }
        MetaCommand::PutNode(node) => nodes::put_node(&node, records),
        MetaCommand::SetPhases(phases) => nodes::set_phases(&phases, records),
        MetaCommand::RemoveNode(node) => nodes::remove_node(node, records),
        MetaCommand::RaiseFormat(level) => nodes::raise_format(level, records),
        MetaCommand::PlaceShards(placement) => moves::place_shards(&placement, records),
        MetaCommand::StartMove { shard, from, to } => moves::start(shard, from, to, records),
        MetaCommand::StepMove { shard, to, step } => moves::step(shard, to, step, records),
        MetaCommand::FinishMove { shard, to } => moves::finish(shard, to, records),
        MetaCommand::CancelMove { shard, to } => moves::cancel(shard, to, records),
        MetaCommand::PreferLeaders(leaders) => moves::prefer_leaders(&leaders, records),
        MetaCommand::PauseMoves(paused) => Ok(moves::pause(paused, records)),
        MetaCommand::CreateCollection(collection) => collections::create(collection, records),
        MetaCommand::DropCollection { name, id } => collections::drop_collection(&name, id, records),
        MetaCommand::TuneCollection { collection, space, ef } => collections::tune(collection, space, ef, records),
        MetaCommand::SetRetention { collection, retention } => {
            collections::set_retention(collection, retention, records)
        }
        MetaCommand::PutOwner { owner, record, replaces } => owners::put(owner, &record, &replaces, records),
        MetaCommand::BeginRestore(restored) => restore::begin(restored, records),
        MetaCommand::EndRestore { backup } => restore::end(backup, records),
        MetaCommand::StartGrowth { collection, to } => migration::start(collection, to, records),
        MetaCommand::GrowthDone { collection, to, step, shard } => {
            migration::shard_done(collection, to, step, shard, records)
        }
        MetaCommand::EndGrowth { collection, to } => migration::end(collection, to, records),
        MetaCommand::Rewrap(rewrapped) => keys::rewrap(rewrapped, records),
        MetaCommand::StartRotation { collection, to, wrapped, request } => {
            keys::start_rotation(collection, to, wrapped, request, records)
        }
        MetaCommand::RotationDone { collection, to, step, who } => {
            keys::rotation_done(collection, to, step, who, records)
        }
        MetaCommand::DestroyKeys { collection, to, names } => keys::destroy_keys(collection, to, names, records),
        MetaCommand::Shred { name, id, names } => erasure::shred(&name, id, names, records),
        MetaCommand::SetReceiptKey(wrapped) => erasure::set_receipt_key(&wrapped, records),
        MetaCommand::ErasureDone { erasure, node } => erasure::node_done(erasure, node, records),
        MetaCommand::FinishErasure { erasure, receipt } => erasure::finish(erasure, receipt, records),
        MetaCommand::PutRepository { id, repository } => repositories::put(id, repository, records),
        MetaCommand::ForgetRepository(id) => repositories::forget(id, records),
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
    state.changes = CollectionChanges::since(state.header.epoch);
    failed.map_or(Ok(state), Err)
}

/// The state after a change of some records.
fn follow(
    before: &ClusterState,
    reader: &StateReader,
    keyring: &Keyring,
    touched: &BTreeSet<Vec<u8>>,
) -> Result<ClusterState, EngineError> {
    let (view, mut state, mut changed) = (reader.view()?, before.clone(), BTreeSet::new());
    for key in touched {
        match view.get(key)? {
            Some(sealed) => take(&mut state, keyring, key, &sealed)?,
            None => forget(&mut state, RecordKey::parse(key)?),
        }
        changed.extend(RecordKey::parse(key)?.collection());
    }
    state.changes.note(state.header.epoch, changed);
    Ok(state)
}

/// Takes one record into the state.
fn take(state: &mut ClusterState, keyring: &Keyring, key: &[u8], sealed: &[u8]) -> Result<(), EngineError> {
    match RecordKey::parse(key)? {
        RecordKey::Header => {
            state.header = records::open(keyring, key, sealed)?;
            // Every change writes it: it is sealed with what seals now.
            keyring.activate(records::key_id_of(key, sealed)?);
        }
        RecordKey::Placement => state.placement = records::open(keyring, key, sealed)?,
        RecordKey::Node(_) => {
            let node: NodeRecord = records::open(keyring, key, sealed)?;
            state.nodes.insert(node.id, node);
        }
        RecordKey::Collection(_) => {
            let collection: CollectionRecord = records::open(keyring, key, sealed)?;
            state.collections.insert(collection);
        }
        // The collection's own record says it too.
        RecordKey::CollectionName(_) => {}
        RecordKey::Dropped(collection) => state.dropped.insert_mut(collection),
        RecordKey::Phase(node) => drop(state.phases.insert(node, records::open(keyring, key, sealed)?)),
        RecordKey::Move(shard) => drop(state.moves.insert(shard, records::open(keyring, key, sealed)?)),
        RecordKey::Removed(node) => drop(state.removed.insert(node)),
        RecordKey::MovesPaused => state.moves_paused = records::open(keyring, key, sealed)?,
        RecordKey::Growth(id) => drop(state.growths.insert(id, records::open(keyring, key, sealed)?)),
        RecordKey::Owner(name) => drop(state.owners.insert(name, records::open(keyring, key, sealed)?)),
        RecordKey::NameKey => state.name_key = Some(records::open(keyring, key, sealed)?),
        RecordKey::Rotation(id) => drop(state.rotations.insert(id, records::open(keyring, key, sealed)?)),
        RecordKey::Erasure(id) => drop(state.erasures.insert(id, records::open(keyring, key, sealed)?)),
        RecordKey::ReceiptKey => state.receipt_key = records::open(keyring, key, sealed)?,
        RecordKey::Repository(id) => drop(state.repositories.insert(id, records::open(keyring, key, sealed)?)),
        RecordKey::Restoring => state.restoring = Some(records::open(keyring, key, sealed)?),
        RecordKey::Request(place) => state.requests.insert_mut(place, records::open(keyring, key, sealed)?),
    }
    Ok(())
}

/// Takes a record that is gone out of the state.
fn forget(state: &mut ClusterState, key: RecordKey) {
    match key {
        // These are written once and never removed.
        RecordKey::Header | RecordKey::NameKey => {}
        RecordKey::CollectionName(_) => {}
        RecordKey::Placement => state.placement.clear(),
        RecordKey::Node(node) => drop(state.nodes.remove(&node)),
        RecordKey::Collection(collection) => state.collections.remove(&collection),
        RecordKey::Dropped(collection) => drop(state.dropped.remove_mut(&collection)),
        RecordKey::Phase(node) => drop(state.phases.remove(&node)),
        RecordKey::Move(shard) => drop(state.moves.remove(&shard)),
        RecordKey::Removed(node) => drop(state.removed.remove(&node)),
        RecordKey::MovesPaused => state.moves_paused = false,
        RecordKey::Growth(collection) => drop(state.growths.remove(&collection)),
        RecordKey::Owner(name) => drop(state.owners.remove(&name)),
        RecordKey::Rotation(collection) => drop(state.rotations.remove(&collection)),
        RecordKey::Erasure(id) => drop(state.erasures.remove(&id)),
        RecordKey::ReceiptKey => state.receipt_key.clear(),
        RecordKey::Repository(id) => drop(state.repositories.remove(&id)),
        RecordKey::Restoring => state.restoring = None,
        RecordKey::Request(place) => drop(state.requests.remove_mut(&place)),
    }
}
