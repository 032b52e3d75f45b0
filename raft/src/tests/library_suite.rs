//! The consensus library's own storage tests, on both engines, and what they do not cover.

use std::sync::Arc;

use bytes::Bytes;
use openraft::async_runtime::Watch;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::{RaftLogReader, StorageError};

use crate::engine::{Batch, Durability, Engine, EngineError, MemEngine};
use crate::log_store::{GroupLog, LogLimits, LogStore, NoObserver};
use crate::replica::{Replica, ReplicaParts};
use crate::requests::RequestWindow;
use crate::room::Room;
use crate::snapshot::SnapshotKeeper;
use crate::state::{GroupState, StateReader, Txn};
use crate::state_machine::{Command, StateMachine};
use crate::threads::OsThreads;
use crate::types::{Entry, GroupId, LogId, LoggedRequest, Payload, Proposal, TokioRuntime, Types, Vote};

type T = Types<TokioRuntime>;
const GROUP: GroupId = 7;

/// Keeps each payload at its index.
pub(super) struct Journal;

impl StateMachine for Journal {
    fn apply(&self, command: Command<'_>, txn: &mut Txn<'_>) -> Result<Bytes, EngineError> {
        txn.put(&command.index.to_be_bytes(), command.payload.to_vec());
        Ok(Bytes::copy_from_slice(command.payload))
    }
    fn committed(&self, _: u64) {}
    fn restored(&self, _: StateReader, _: u64) {}
}

async fn stores(log: Arc<dyn Engine>, state: Arc<dyn Engine>) -> (GroupLog<TokioRuntime>, Replica<TokioRuntime>) {
    let threads = Arc::new(OsThreads::current());
    // Small bounds, so that the tests read from disk as well as from memory, and in pieces.
    let limits = LogLimits { recent_bytes: 128, read_bytes: 200, ..LogLimits::default() };
    let store = LogStore::<TokioRuntime>::open(log, threads.as_ref(), Arc::new(NoObserver), limits);
    let log = store.group(GROUP).await.unwrap();
    let (applied, watch) = <<TokioRuntime as openraft::AsyncRuntime>::Watch as Watch>::channel(0);
    // The replica outlives this function; so must its listener.
    std::mem::forget(watch);
    let replica = Replica::open(ReplicaParts {
        state: GroupState::open(state, GROUP).unwrap(),
        log: log.clone(),
        app: Arc::new(Journal),
        keeper: Arc::new(SnapshotKeeper::new(Arc::new(|| 4))),
        threads,
        window: RequestWindow::default(),
        applied: parking_lot::Mutex::new(applied),
        room: Room::new(GROUP, Arc::default(), Arc::default()),
    });
    (log, replica.unwrap())
}

struct InMemory;

impl StoreBuilder<T, GroupLog<TokioRuntime>, Replica<TokioRuntime>> for InMemory {
    async fn build(&self) -> Result<((), GroupLog<TokioRuntime>, Replica<TokioRuntime>), StorageError<T>> {
        let (log, replica) = stores(Arc::new(MemEngine::new()), Arc::new(MemEngine::new())).await;
        Ok(((), log, replica))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn library_suite_in_memory() {
    Suite::test_all(InMemory).await.unwrap();
}

#[cfg(feature = "rocksdb")]
mod on_disk {
    use super::*;
    use crate::engine::{Closing, EngineOptions, EngineRole, RocksEngine};

    /// Opens stores in folders of their own, and remembers the engines: a process that ends while a thread still closes
    /// one aborts.
    #[derive(Default)]
    struct OnDisk {
        engines: parking_lot::Mutex<Vec<Closing>>,
    }

    impl OnDisk {
        fn open(&self, folder: &std::path::Path, name: &str, role: EngineRole) -> Arc<RocksEngine> {
            let engine = Arc::new(RocksEngine::open(&folder.join(name), EngineOptions::new(role)).unwrap());
            self.engines.lock().push(engine.closing());
            engine
        }

        async fn closed(&self) {
            while !self.engines.lock().iter().all(Closing::is_done) {
                tokio::task::yield_now().await;
            }
        }
    }

    impl StoreBuilder<T, GroupLog<TokioRuntime>, Replica<TokioRuntime>, tempfile::TempDir> for Arc<OnDisk> {
        async fn build(
            &self,
        ) -> Result<(tempfile::TempDir, GroupLog<TokioRuntime>, Replica<TokioRuntime>), StorageError<T>> {
            let folder = tempfile::tempdir().unwrap();
            let (log, state) = (
                self.open(folder.path(), "log", EngineRole::Log),
                self.open(folder.path(), "state", EngineRole::State),
            );
            let (log, replica) = stores(log, state).await;
            Ok((folder, log, replica))
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn library_suite_on_rocksdb() {
        let disks = Arc::new(OnDisk::default());
        Suite::test_all(disks.clone()).await.unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(30), disks.closed()).await.expect("every engine is closed");
    }
}

fn entry(index: u64, bytes: usize) -> Entry {
    let leader_id = Vote::new(1, 1).leader_id;
    let requests = vec![LoggedRequest { fingerprint: None, payload: vec![index as u8; bytes].into() }];
    let proposal = Proposal { time_ms: 0, requests };
    Entry { log_id: LogId { leader_id, index }, payload: Payload::Normal(proposal) }
}

async fn append(log: &mut GroupLog<TokioRuntime>, entries: impl IntoIterator<Item = Entry>) {
    let (done, flushed) = T::oneshot();
    log.append(entries.into_iter().collect::<Vec<_>>(), IOFlushed::signal(done)).await.unwrap();
    flushed.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_flushed_append_survives_a_crash_and_reads_back_in_pieces() {
    let disk = MemEngine::new();
    let (mut log, _replica) = stores(Arc::new(disk.clone()), Arc::new(MemEngine::new())).await;
    append(&mut log, (0..50).map(|index| entry(index, 60))).await;
    let (mut log, _replica) = stores(Arc::new(disk.crash()), Arc::new(MemEngine::new())).await;
    append(&mut log, (50..60).map(|index| entry(index, 60))).await;

    let all = log.try_get_log_entries(0..60).await.unwrap();
    assert_eq!(all, (0..60).map(|index| entry(index, 60)).collect::<Vec<_>>());
    let piece = log.limited_get_log_entries(40, 60).await.unwrap();
    assert!(!piece.is_empty() && piece.len() < 20, "bounded, not empty: {}", piece.len());
    let streamed: Vec<Entry> = {
        use futures::TryStreamExt;
        log.entries_stream(10..55).await.try_collect().await.unwrap()
    };
    assert_eq!(streamed, all[10..55]);
}

#[tokio::test]
async fn truncated_entries_are_not_read_back_from_disk() {
    let (mut log, _replica) = stores(Arc::new(MemEngine::new()), Arc::new(MemEngine::new())).await;
    append(&mut log, (0..20).map(|index| entry(index, 60))).await;
    log.truncate_after(Some(entry(9, 0).log_id)).await.unwrap();
    assert_eq!(log.try_get_log_entries(0..30).await.unwrap().len(), 10);
    append(&mut log, (10..12).map(|index| entry(index, 5))).await;
    let read = log.try_get_log_entries(8..30).await.unwrap();
    assert_eq!(read, [entry(8, 60), entry(9, 60), entry(10, 5), entry(11, 5)]);
    log.purge(entry(10, 0).log_id).await.unwrap();
    assert_eq!(log.try_get_log_entries(0..30).await.unwrap(), [entry(11, 5)]);
}

#[tokio::test]
async fn damage_and_holes_are_errors_not_short_reads() {
    let disk = MemEngine::new();
    let (mut log, _replica) = stores(Arc::new(disk.clone()), Arc::new(MemEngine::new())).await;
    append(&mut log, (0..10).map(|index| entry(index, 60))).await;
    let key = |index: u64| [&[16][..], &GROUP.to_be_bytes(), &index.to_be_bytes()].concat();
    let disk = disk.crash();
    let reopened = stores(Arc::new(disk.clone()), Arc::new(MemEngine::new())).await.0;

    let whole = crate::engine::Read::get(&disk, &key(4)).unwrap().unwrap();
    let mut damaged = whole.to_vec();
    damaged[40] ^= 1;
    for change in [Some(Bytes::from(damaged)), None] {
        let mut batch = Batch::default();
        match change {
            Some(value) => batch.put(key(4), value),
            None => batch.delete(key(4)),
        }
        disk.write(&batch, Durability::Synced).unwrap();
        let error = reopened.clone().try_get_log_entries(0..10).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
        assert_eq!(reopened.clone().try_get_log_entries(5..10).await.unwrap().len(), 5);
    }
}
