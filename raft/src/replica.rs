//! One replica of a group: the library's state machine, applying to the engine.
//!
//! Guarantees:
//! - what a batch of entries writes, the applied position, the membership, the log-carried clock and the remembered
//!   request ids are committed in one engine batch, so that they never disagree;
//! - that batch is not synced: the log is, and replays what a crash loses. Only building a snapshot syncs the state,
//!   because the log may be trimmed after it;
//! - a failure to apply stops this replica, since it then no longer knows what it holds. A full disk alone does not: the
//!   replica waits for room and goes on.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::async_runtime::watch::WatchSender;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::type_config::alias::WatchSenderOf;
use openraft::{RaftSnapshotBuilder, Snapshot};
use parking_lot::Mutex;
use tracing::info;

use crate::applier::Applier;
use crate::engine::{EngineError, Read};
use crate::failures::Failures;
use crate::log_store::GroupLog;
use crate::requests::RequestWindow;
use crate::room::Room;
use crate::snapshot::{SnapshotData, SnapshotKeeper, SnapshotView, copy_into};
use crate::state::{Applied, GroupState, Overlay, StateReader};
use crate::state_machine::StateMachine;
use crate::threads::{Threads, run_blocking};
use crate::types::{Answer, Entry, LogId, Membership, Payload, Runtime, SnapshotMeta, Types, index_of};

/// Bytes and requests of one apply batch; a batch ends after the entry that reaches either.
const BATCH_BYTES: usize = 4 << 20;
const BATCH_REQUESTS: usize = 512;

type Snap = Snapshot<
    openraft::impls::leader_id_adv::LeaderId<u64, crate::types::NodeId>,
    crate::types::NodeId,
    crate::types::Node,
    SnapshotData,
>;

/// What a replica is made of.
pub(crate) struct ReplicaParts<R: Runtime> {
    pub state: Arc<GroupState>,
    pub log: GroupLog<R>,
    pub app: Arc<dyn StateMachine>,
    pub keeper: Arc<SnapshotKeeper>,
    pub threads: Arc<dyn Threads>,
    pub window: RequestWindow,
    /// Behind a lock only because the sender is not `Sync`; nobody else sends.
    pub applied: Mutex<WatchSenderOf<Types<R>, u64>>,
    pub room: Arc<Room>,
}

/// Applies committed entries, builds and installs snapshots.
pub(crate) struct Replica<R: Runtime> {
    parts: ReplicaParts<R>,
    applier: Applier,
}

/// An entry's answers, and who gives them to those who proposed.
type Waiting<R> = (Option<ApplyResponder<Types<R>>>, Vec<Answer>);

impl<R: Runtime> Replica<R> {
    /// Opens the state as it was left.
    pub(crate) fn open(parts: ReplicaParts<R>) -> Result<Self, EngineError> {
        let applier = Applier::load(&parts.state, parts.window)?;
        let replica = Self { applier, parts };
        replica.announce_restored();
        Ok(replica)
    }

    fn announce_restored(&self) {
        let index = index_of(self.applier.applied.last.as_ref());
        self.parts.app.restored(StateReader::live(self.parts.state.clone()), index);
        self.parts.state.advance(&self.applier.applied);
        // Nobody listens before the group is open.
        let _ = self.parts.applied.lock().send(index);
    }

    /// Makes one batch visible, tells the application, and answers the proposers.
    async fn commit(&mut self, overlay: Overlay, waiting: Vec<Waiting<R>>) -> Result<(), EngineError> {
        let state = &self.parts.state;
        let index = index_of(self.applier.applied.last.as_ref());
        let mut batch = overlay.batch;
        self.applier.applied.save(&mut batch, state.group, state.generation());
        while let Err(error) = state.commit(&batch) {
            self.parts.room.wait::<R>(error).await?;
        }
        self.parts.room.found();
        self.parts.app.committed(index);
        self.parts.state.advance(&self.applier.applied);
        let _ = self.parts.applied.lock().send(index);
        for (responder, answers) in waiting {
            if let Some(responder) = responder {
                responder.send(answers);
            }
        }
        Ok(())
    }

    async fn install(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> Result<(), EngineError> {
        let state = self.parts.state.clone();
        let last = meta.last_log_id.clone();
        let received = run_blocking(self.parts.threads.as_ref(), move || {
            let generation = match data {
                SnapshotData::Received { generation } => generation,
                SnapshotData::View(view) => copy_into(&view, &state)?,
            };
            let received = Applied::load(state.engine.as_ref(), state.group, generation)?;
            if received.last != last {
                let text = format!("snapshot of group {} says {last:?}, holds {:?}", state.group, received.last);
                return Err(EngineError::Damaged(text));
            }
            Ok((received, generation))
        });
        let (applied, generation) = received.await?;
        let state = self.parts.state.clone();
        let install = move || state.install(generation);
        while let Err(error) = run_blocking(self.parts.threads.as_ref(), install.clone()).await {
            self.parts.room.wait::<R>(error).await?;
        }
        self.parts.room.found();
        let state = &self.parts.state;
        assert_eq!(state.generation(), generation, "what was installed is live");
        self.applier = Applier::load(state, self.parts.window)?;
        assert_eq!(self.applier.applied, applied, "as it was received");
        self.parts.keeper.installed(meta.clone());
        info!(group = state.group, index = index_of(meta.last_log_id.as_ref()), "snapshot installed");
        self.announce_restored();
        Ok(())
    }

    fn ends_batch(&self, entry: &Entry) -> bool {
        let Payload::Normal(proposal) = &entry.payload else { return false };
        proposal.requests.iter().any(|request| self.parts.app.ends_batch(&request.payload))
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.applier.applied.last.clone(),
            last_membership: self.applier.applied.membership.clone(),
        }
    }

    fn view(&self) -> Arc<SnapshotView> {
        let state = &self.parts.state;
        let generation = state.generation();
        Arc::new(SnapshotView::new(self.parts.keeper.next_id(), self.meta(), state, generation))
    }
}

impl<R: Runtime> RaftStateMachine<Types<R>> for Replica<R> {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder<R>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), io::Error> {
        Ok((self.applier.applied.last.clone(), self.applier.applied.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types<R>>, io::Error>> + Unpin + Send,
    {
        let (mut overlay, mut waiting, mut requests) = (Overlay::default(), Vec::new(), 0);
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let engine: &dyn Read = self.parts.state.engine.as_ref();
            let answers = self.applier.apply(&entry, self.parts.app.as_ref(), engine, &mut overlay);
            let answers = answers.map_err(|error| self.failed(error))?;
            requests += answers.len().max(1);
            waiting.push((responder, answers));
            if self.ends_batch(&entry) || overlay.bytes >= BATCH_BYTES || requests >= BATCH_REQUESTS {
                requests = 0;
                let full = (std::mem::take(&mut overlay), std::mem::take(&mut waiting));
                self.commit(full.0, full.1).await.map_err(|error| self.failed(error))?;
            }
        }
        if waiting.is_empty() {
            return Ok(());
        }
        self.commit(overlay, waiting).await.map_err(|error| self.failed(error))
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder<R>> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder<R> {
        Builder {
            view: self.view(),
            keeper: self.parts.keeper.clone(),
            state: self.parts.state.clone(),
            threads: self.parts.threads.clone(),
            room: self.parts.room.clone(),
            failures: self.parts.log.failures().clone(),
            runtime: PhantomData,
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> Result<(), io::Error> {
        self.install(meta, data).await.map_err(|error| self.failed(error))
    }

    /// The state as it is now (not as it was when the log was last trimmed): the newest one is the cheapest to hold and
    /// leaves a follower the least to catch up. One that is being sent is given out again as long as the log goes on
    /// where it ends, so that a broken transfer can be resumed.
    async fn get_current_snapshot(&mut self) -> Result<Option<Snap>, io::Error> {
        if !self.parts.keeper.has_built() || self.applier.applied.last.is_none() {
            return Ok(None);
        }
        let view = match self.parts.keeper.held(self.parts.log.purged_index()) {
            Some(view) => view,
            None => self.parts.keeper.hold(self.view()),
        };
        Ok(Some(Snapshot { meta: view.meta.clone(), snapshot: SnapshotData::View(view) }))
    }
}

impl<R: Runtime> Replica<R> {
    /// What stops this replica is noted, for whoever decides what to do about it.
    fn failed(&self, error: EngineError) -> io::Error {
        self.parts.log.failures().of_group(self.parts.state.group, error)
    }
}

/// Builds a snapshot: nothing is copied; the state up to it is synced, so that the log before it may go.
pub(crate) struct Builder<R> {
    view: Arc<SnapshotView>,
    keeper: Arc<SnapshotKeeper>,
    state: Arc<GroupState>,
    threads: Arc<dyn Threads>,
    room: Arc<Room>,
    failures: Arc<Failures>,
    runtime: PhantomData<fn() -> R>,
}

impl<R: Runtime> RaftSnapshotBuilder<Types<R>> for Builder<R> {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snap, io::Error> {
        let engine = self.state.engine.clone();
        let sync = move || engine.sync();
        while let Err(error) = run_blocking(self.threads.as_ref(), sync.clone()).await {
            let waited = self.room.wait::<R>(error).await;
            waited.map_err(|error| self.failures.of_group(self.state.group, error))?;
        }
        self.keeper.built();
        Ok(Snapshot { meta: self.view.meta.clone(), snapshot: SnapshotData::View(self.view.clone()) })
    }
}
