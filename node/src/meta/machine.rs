//! The meta group's state machine.
//!
//! Keys of its records (all values sealed with the cluster key, bound to their key as associated data; the nonce is the
//! position in the log, so replicas stay byte-identical):
//!
//! | key | record |
//! |---|---|
//! | `h` | [`Header`] |
//! | `n` + node id (8) | [`NodeRecord`] |
//! | `p` | the placement: replicas of every shard |
//! | `c` + collection number (8) | [`CollectionRecord`] |
//! | `d` + collection number (8) | empty: the collection was dropped |
//!
//! Each record is a version byte and postcard.

use std::{ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use mira_crypto::{MetaSealer, meta::position_nonce};
use mira_proto::limits;
use mira_raft::{Command, EngineError, StateMachine, StateReader, Txn};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

use super::{
    command::{MetaAnswer, MetaCommand},
    state::{ClusterState, CollectionRecord, Header, NodeRecord},
};

const VERSION: u8 = 1;
const MAX_RECORD_BYTES: usize = 4 << 20;
const HEADER: &[u8] = b"h";
const PLACEMENT: &[u8] = b"p";

/// Applies meta commands and publishes the [`ClusterState`] after each batch.
pub struct MetaMachine {
    sealer: Arc<MetaSealer>,
    reader: Mutex<Option<StateReader>>,
    published: watch::Sender<Arc<ClusterState>>,
}

impl MetaMachine {
    /// A machine and the place where its state appears.
    pub fn new(sealer: Arc<MetaSealer>) -> (Arc<Self>, watch::Receiver<Arc<ClusterState>>) {
        let (published, state) = watch::channel(Arc::new(ClusterState::default()));
        (Arc::new(MetaMachine { sealer, reader: Mutex::new(None), published }), state)
    }

    fn publish(&self) {
        let guard = self.reader.lock();
        let Some(reader) = guard.as_ref() else { return };
        match load(reader, &self.sealer) {
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
        let change = MetaCommand::open(&self.sealer, command.payload).map_err(EngineError::Damaged)?;
        let mut records = Records { sealer: &self.sealer, txn, index: command.index, ordinal: 0 };
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
        MetaCommand::Form { cluster_id, shards, replication, expect } => {
            if header.cluster_id != 0 {
                return Ok(MetaAnswer::Exists);
            }
            header = Header { cluster_id, epoch: 0, shards, replication, expect };
            MetaAnswer::Done
        }
        MetaCommand::PutNode(node) => {
            let key = numbered(b'n', node.id);
            if records.get::<NodeRecord>(&key)?.as_ref() == Some(&node) {
                return Ok(MetaAnswer::Done);
            }
            records.put(&key, &node)?;
            MetaAnswer::Done
        }
        MetaCommand::PlaceShards(placement) => {
            if records.get::<Vec<Vec<u64>>>(PLACEMENT)?.is_some() {
                return Ok(MetaAnswer::Exists);
            }
            records.put(PLACEMENT, &placement)?;
            MetaAnswer::Done
        }
        MetaCommand::CreateCollection(collection) => match create(collection, now_ms, records)? {
            MetaAnswer::Done => MetaAnswer::Done,
            refused => return Ok(refused),
        },
        MetaCommand::DropCollection { name, id } => {
            let key = numbered(b'c', id);
            if records.get::<CollectionRecord>(&key)?.is_none_or(|collection| collection.name != name) {
                return Ok(MetaAnswer::Missing);
            }
            records.txn.delete(&key);
            records.put(&numbered(b'd', id), &())?;
            MetaAnswer::Done
        }
    };
    header.epoch += 1;
    records.put(HEADER, &header)?;
    Ok(answer)
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
struct Records<'a, 'b> {
    sealer: &'a MetaSealer,
    txn: &'a mut Txn<'b>,
    index: u64,
    ordinal: u32,
}

impl Records<'_, '_> {
    fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, EngineError> {
        self.txn.get(key)?.map(|sealed| open(self.sealer, key, &sealed)).transpose()
    }

    fn all<T: DeserializeOwned>(&self, kind: u8) -> Result<Vec<T>, EngineError> {
        let mut found = Vec::new();
        self.txn.scan_prefix(&[kind], &mut |key, sealed| {
            found.push(open(self.sealer, key, sealed));
            ControlFlow::Continue(())
        })?;
        found.into_iter().collect()
    }

    fn put(&mut self, key: &[u8], value: &impl Serialize) -> Result<(), EngineError> {
        let plain = postcard::to_extend(value, vec![VERSION]).expect("a record is plain data");
        let nonce = position_nonce(self.index, self.ordinal);
        self.ordinal += 1;
        self.txn.put(key, self.sealer.seal(&nonce, key, &plain));
        Ok(())
    }
}

fn open<T: DeserializeOwned>(sealer: &MetaSealer, key: &[u8], sealed: &[u8]) -> Result<T, EngineError> {
    let damaged = |what: String| EngineError::Damaged(format!("meta record {}: {what}", key.escape_ascii()));
    let plain = sealer.open(key, sealed, MAX_RECORD_BYTES).map_err(|error| damaged(error.to_string()))?;
    match plain.split_first() {
        Some((&VERSION, body)) => postcard::from_bytes(body).map_err(|error| damaged(error.to_string())),
        Some((version, _)) => Err(damaged(format!("unknown version {version}"))),
        None => Err(damaged("empty".into())),
    }
}

/// Reads the whole state.
fn load(reader: &StateReader, sealer: &MetaSealer) -> Result<ClusterState, EngineError> {
    let view = reader.view()?;
    let mut state = ClusterState::default();
    let mut failed = None;
    view.scan_prefix(&[], false, &mut |key, sealed| match take(&mut state, sealer, key, sealed) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(state), Err)
}

fn take(state: &mut ClusterState, sealer: &MetaSealer, key: &[u8], sealed: &[u8]) -> Result<(), EngineError> {
    match key.first() {
        Some(b'h') => state.header = open(sealer, key, sealed)?,
        Some(b'p') => state.placement = open(sealer, key, sealed)?,
        Some(b'n') => {
            let node: NodeRecord = open(sealer, key, sealed)?;
            state.nodes.insert(node.id, node);
        }
        Some(b'c') => {
            let collection: CollectionRecord = open(sealer, key, sealed)?;
            state.collections.insert(collection.id, collection);
        }
        Some(b'd') => {
            let id = key[1..].try_into().map_err(|_| EngineError::Damaged("short collection number".into()))?;
            state.dropped.insert(u64::from_be_bytes(id));
        }
        _ => return Err(EngineError::Damaged(format!("unknown meta record {}", key.escape_ascii()))),
    }
    Ok(())
}

fn numbered(kind: u8, id: u64) -> Vec<u8> {
    [&[kind][..], &id.to_be_bytes()].concat()
}
