//! One node's replication: its log store, its state engine, its groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::{Watch, WatchReceiver};
use parking_lot::RwLock;
use tracing::{info, warn};

use crate::config::HostConfig;
use crate::engine::{Engine, EngineError};
use crate::group::{Group, GroupParts, age_of_quorum};
use crate::log_bound::LogBound;
use crate::log_store::LogStore;
use crate::network::Links;
use crate::network::link::{QuorumAge, Wires};
use crate::quiescence::{self, NodeHeartbeats};
use crate::replica::{Replica, ReplicaParts};
use crate::room::Room;
use crate::snapshot::SnapshotKeeper;
use crate::state::GroupState;
use crate::state_machine::StateMachine;
use crate::threads::run_blocking;
use crate::types::{GroupId, NodeId, Runtime, TokioRuntime};
use crate::wire::{self, Kind, Refusal, Status};

/// Why a host or a group could not be opened or removed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HostError {
    /// The group is open already; use [`RaftHost::group`].
    #[error("group {0} is open already")]
    AlreadyOpen(GroupId),
    /// The host has been shut down.
    #[error("the host has been shut down")]
    ShutDown,
    /// What is on disk cannot be read or written.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Timing or limits contradict each other.
    #[error("configuration: {0}")]
    Config(String),
    /// The group did not start.
    #[error("group {0} did not start: {1}")]
    NotStarted(GroupId, String),
}

/// Whether a node's log has lost its memory: there is state of a group without its log, or no log of `expected`, a group
/// the node is known to be a member of. Such a node must never vote under its old id.
///
/// # Errors
/// When an engine cannot be read.
pub fn has_lost_log(log: &dyn Engine, state: &dyn Engine, expected: Option<GroupId>) -> Result<bool, EngineError> {
    let logged = crate::log_store::groups_of(log)?;
    let mut needed = GroupState::groups(state)?;
    needed.extend(expected);
    Ok(needed.iter().any(|group| !logged.contains(group)))
}

/// Everything of one node. Generic over the runtime, so that the simulator runs this very code.
pub struct RaftHost<R: Runtime = TokioRuntime> {
    config: HostConfig,
    library: Arc<openraft::Config>,
    log: Arc<LogStore<R>>,
    state_full: Arc<AtomicBool>,
    groups: RwLock<BTreeMap<GroupId, Group<R>>>,
    /// Opening, closing and destroying take turns.
    changing: futures::lock::Mutex<Phase>,
    node_heartbeats: NodeHeartbeats,
    log_bound: LogBound,
    opened: R::Instant,
    stopped: tokio::sync::watch::Sender<bool>,
}

#[derive(PartialEq, Eq)]
enum Phase {
    Serving,
    ShutDown,
}

impl<R: Runtime> RaftHost<R> {
    /// Opens the stores of this node. No group runs before it is opened.
    ///
    /// # Errors
    /// When an engine fails, or the timing contradicts itself.
    pub async fn open(config: HostConfig) -> Result<Arc<Self>, HostError> {
        let library = Arc::new(config.library().map_err(|error| HostError::Config(error.to_string()))?);
        // What survived a crash of the process may still be in the system's cache only; from here on the state that is
        // read is the state that a power cut leaves.
        let state = config.state.clone();
        match run_blocking(config.threads.as_ref(), move || state.sync()).await {
            Err(error) if !config.state.is_out_of_service() => return Err(error.into()),
            // What cannot be made durable any more is moved away as a whole: `rebuild_state`.
            _ => {}
        }
        let log =
            LogStore::open(config.log.clone(), config.threads.as_ref(), config.observer.clone(), config.log_limits());
        let host = Arc::new(Self {
            config,
            library,
            log,
            state_full: Arc::default(),
            groups: RwLock::default(),
            changing: futures::lock::Mutex::new(Phase::Serving),
            node_heartbeats: NodeHeartbeats::default(),
            log_bound: LogBound::default(),
            opened: R::now(),
            stopped: tokio::sync::watch::Sender::new(false),
        });
        drop(R::spawn(quiescence::run(Arc::downgrade(&host))));
        Ok(host)
    }

    pub(crate) fn config(&self) -> &HostConfig {
        &self.config
    }

    pub(crate) fn node_id(&self) -> NodeId {
        self.config.node_id
    }

    pub(crate) fn node_heartbeats(&self) -> &NodeHeartbeats {
        &self.node_heartbeats
    }

    pub(crate) fn log_bound(&self) -> &LogBound {
        &self.log_bound
    }

    /// Time since the host was opened.
    pub(crate) fn since_opened(&self) -> Duration {
        openraft::Instant::elapsed(&self.opened)
    }

    /// The groups this node has data of, in order, open or not.
    ///
    /// # Errors
    /// When an engine cannot be read.
    pub fn existing_groups(&self) -> Result<Vec<GroupId>, HostError> {
        let mut groups: BTreeSet<GroupId> = self.log.groups()?.into_iter().collect();
        groups.extend(GroupState::groups(self.config.state.as_ref())?);
        Ok(groups.into_iter().collect())
    }

    /// Starts a group, as it was left or new. A new one waits to be initialized here or to hear from a leader.
    ///
    /// # Errors
    /// When it is open already or what is on disk cannot be read.
    pub async fn open_group(&self, id: GroupId, app: Arc<dyn StateMachine>) -> Result<Group<R>, HostError> {
        let phase = self.changing.lock().await;
        if *phase == Phase::ShutDown {
            return Err(HostError::ShutDown);
        }
        if self.groups.read().contains_key(&id) {
            return Err(HostError::AlreadyOpen(id));
        }
        let group = self.start_group(id, app).await?;
        self.groups.write().insert(id, group.clone());
        info!(group = id, applied = group.reader().applied_index(), "group opened");
        Ok(group)
    }

    async fn start_group(&self, id: GroupId, app: Arc<dyn StateMachine>) -> Result<Group<R>, HostError> {
        if self.log.is_being_removed(id)? {
            // It had left its group before.
            self.remove(id).await?;
        }
        let log = self.log.group(id).await?;
        let state = GroupState::open(self.config.state.clone(), id)?;
        let keeper = Arc::new(SnapshotKeeper::new(self.config.randomness.clone()));
        let (applied, applied_watch) = <R::Watch as Watch>::channel(0u64);
        let room = Room::new(id, self.state_full.clone(), self.log.closing().clone());
        self.log.failures().group_is_back(id);
        let replica = Replica::open(ReplicaParts {
            state: state.clone(),
            log: log.clone(),
            app: app.clone(),
            keeper: keeper.clone(),
            threads: self.config.threads.clone(),
            window: self.config.limits.requests,
            applied: parking_lot::Mutex::new(applied),
            room: room.clone(),
        })?;
        let (applied_index, purged) = (state.applied_index(), log.purged_index());
        if applied_index < purged {
            let text =
                format!("the state of group {id} ends with entry {applied_index}, its log begins after {purged}");
            return Err(EngineError::Damaged(text).into());
        }
        let quorum_age: Arc<OnceLock<QuorumAge>> = Arc::default();
        let links = Links(Wires {
            transport: self.config.transport.clone(),
            node: self.config.node_id,
            group: id,
            keeper,
            chunk_bytes: self.config.limits.chunk_bytes,
            snapshot_bytes_per_second: self.config.limits.snapshot_bytes_per_second.max(1),
            append_timeout: self.config.timing.append,
            quorum_age: quorum_age.clone(),
        });
        let raft = openraft::Raft::new(self.config.node_id, self.library.clone(), links, log.clone(), replica)
            .await
            .map_err(|error| HostError::NotStarted(id, error.to_string()))?;
        let metrics = raft.metrics();
        let _ = quorum_age.set(Box::new(move || age_of_quorum(&metrics.borrow_watched())));
        Ok(Group::new(GroupParts {
            id,
            raft,
            state,
            app,
            log: self.log.clone(),
            entries: log,
            config: self.config.clone(),
            applied: applied_watch,
            room,
            opened: self.opened,
        }))
    }

    /// An open group.
    pub fn group(&self, id: GroupId) -> Option<Group<R>> {
        self.groups.read().get(&id).cloned()
    }

    /// The open groups, in order.
    pub fn groups(&self) -> Vec<Group<R>> {
        self.groups.read().values().cloned().collect()
    }

    /// Stops a group; its data stays. Nothing happens if it is not open.
    pub async fn close_group(&self, id: GroupId) {
        let _phase = self.changing.lock().await;
        self.stop_group(id).await;
    }

    async fn stop_group(&self, id: GroupId) {
        let group = self.groups.write().remove(&id);
        if let Some(group) = group {
            group.stop().await;
        }
    }

    /// Stops a group and removes all its data, durably. It must have left the group's membership before. Members that were
    /// away meanwhile still count on it: its vote stays, and how far its log went.
    ///
    /// # Errors
    /// When an engine fails; trying again finishes the removal.
    pub async fn destroy_group(&self, id: GroupId) -> Result<(), HostError> {
        let _phase = self.changing.lock().await;
        self.stop_group(id).await;
        self.log.begin_removal(id).await?;
        self.remove(id).await
    }

    /// The state first: a state without its log is not safe.
    async fn remove(&self, id: GroupId) -> Result<(), HostError> {
        let state = self.config.state.clone();
        run_blocking(self.config.threads.as_ref(), move || GroupState::destroy(state.as_ref(), id)).await?;
        Ok(self.log.destroy(id).await?)
    }

    /// Stops a group and removes its state, to be rebuilt from the log when the group is opened again: for a state
    /// that is damaged while the log is whole. Vote and entries stay, so others may go on relying on this replica.
    ///
    /// Returns false, with nothing removed, when the log does not reach back to the first entry or is damaged too.
    ///
    /// # Errors
    /// When an engine fails.
    pub async fn discard_state(&self, id: GroupId) -> Result<bool, HostError> {
        let _phase = self.changing.lock().await;
        self.stop_group(id).await;
        let (log, state) = (self.log.group(id).await?, self.config.state.clone());
        let discarded = run_blocking(self.config.threads.as_ref(), move || match log.is_whole() {
            Ok(true) => GroupState::destroy(state.as_ref(), id).map(|()| true),
            Ok(false) | Err(EngineError::Damaged(_)) => Ok(false),
            Err(error) => Err(error),
        });
        Ok(discarded.await?)
    }

    /// Whether the engine of the state takes no writes any more, because it is damaged.
    pub fn is_state_out_of_service(&self) -> bool {
        self.config.state.is_out_of_service()
    }

    /// Stops all groups and moves the state of those that can be read to a new engine; the groups whose state is lost. Logs
    /// and votes stay, so others may go on relying on this node. Interrupted, it leaves everything as it was.
    ///
    /// # Errors
    /// When an engine fails; trying again starts over.
    pub async fn rebuild_state(&self) -> Result<Vec<GroupId>, HostError> {
        let phase = self.changing.lock().await;
        if *phase == Phase::ShutDown {
            return Err(HostError::ShutDown);
        }
        let open: Vec<GroupId> = self.groups.read().keys().copied().collect();
        for id in open {
            self.stop_group(id).await;
        }
        let groups = self.log.groups()?;
        let ranges: Vec<_> = groups.iter().map(|&id| GroupState::range(id)).collect();
        let state = self.config.state.clone();
        let lost = run_blocking(self.config.threads.as_ref(), move || state.rebuild(&ranges)).await?;
        Ok(lost.into_iter().map(|at| groups[at]).collect())
    }

    /// Whether the log or the state take no writes until they are opened again, because no file could be opened.
    pub fn needs_reopening(&self) -> bool {
        let passing = self.log.failures().log().is_some_and(|error| error.is_passing());
        passing || self.config.log.needs_reopening() || self.config.state.needs_reopening()
    }

    /// Stops all groups and opens the log and the state again, where they need it. Groups may be opened again after that.
    ///
    /// # Errors
    /// When an engine still cannot be opened; trying again goes on.
    pub async fn reopen(&self) -> Result<(), HostError> {
        let phase = self.changing.lock().await;
        if *phase == Phase::ShutDown {
            return Err(HostError::ShutDown);
        }
        let open: Vec<GroupId> = self.groups.read().keys().copied().collect();
        for id in open {
            self.stop_group(id).await;
        }
        self.log.settle().await;
        for engine in [&self.config.log, &self.config.state].into_iter().filter(|engine| engine.needs_reopening()) {
            let engine = engine.clone();
            run_blocking(self.config.threads.as_ref(), move || engine.reopen()).await?;
        }
        if self.log.failures().log().is_some_and(|error| error.is_passing()) {
            self.log.failures().log_is_back();
        }
        Ok(())
    }

    /// Rewrites the files of the log, so that entries that were trimmed are on no disk any more.
    ///
    /// # Errors
    /// When an engine fails.
    pub async fn compact_log(&self) -> Result<(), HostError> {
        let log = self.config.log.clone();
        Ok(run_blocking(self.config.threads.as_ref(), move || log.compact(&[], &[])).await?)
    }

    /// Rewrites the files of a group's state where keys begin with `prefix`, so that what was removed or replaced is on no
    /// disk any more.
    ///
    /// # Errors
    /// When an engine fails.
    pub async fn compact_state(&self, id: GroupId, prefix: &[u8]) -> Result<(), HostError> {
        let Some(group) = self.group(id) else { return Ok(()) };
        let range = group.reader().range_of(prefix);
        let state = self.config.state.clone();
        Ok(run_blocking(self.config.threads.as_ref(), move || state.compact(&range.from, &range.to)).await?)
    }

    /// Answers a message of another node's transport. Never fails: a refusal is a reply.
    pub async fn handle(&self, request: Bytes) -> Bytes {
        let (kind, id, body) = match wire::parse_request(request) {
            Ok(parts) => parts,
            Err(refusal) => return refusal.reply(),
        };
        if kind == Kind::NodeHeartbeat {
            return self.handle_node_heartbeat(&body).unwrap_or_else(|refusal| refusal.reply());
        }
        let Some(group) = self.group(id) else {
            return Refusal::new(Status::NoGroup, format!("group {id} is not open here")).reply();
        };
        match group.handle(kind, body).await {
            Ok(body) => wire::reply(Status::Ok, &body),
            Err(refusal) => refusal.reply(),
        }
    }

    /// Becomes true when the host has been shut down.
    pub fn stopped(&self) -> tokio::sync::watch::Receiver<bool> {
        self.stopped.subscribe()
    }

    /// Ends every wait for room on a full disk, now and from now on: what waits fails. The program is about to end, and a
    /// disk may stay full for ever.
    pub fn stop_waiting_for_room(&self) {
        self.log.closing().store(true, Ordering::Relaxed);
    }

    /// Stops every group, writes what waits, and makes the state durable.
    pub async fn shutdown(&self) {
        self.stop_waiting_for_room();
        let mut phase = self.changing.lock().await;
        if *phase == Phase::ShutDown {
            return;
        }
        *phase = Phase::ShutDown;
        let groups = std::mem::take(&mut *self.groups.write());
        futures::future::join_all(groups.values().map(Group::stop)).await;
        self.log.shutdown().await;
        let state = self.config.state.clone();
        // The log replays what this loses.
        if let Err(error) = run_blocking(self.config.threads.as_ref(), move || state.sync()).await {
            warn!(%error, "state not synced at shutdown");
        }
        self.stopped.send_replace(true);
    }
}
