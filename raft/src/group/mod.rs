//! One Raft group on this node: what the rest of the program does with it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{Fatal, InitializeError, RaftError};
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{LinearizerOption, Raft, ReadPolicy};
use parking_lot::Mutex;

use crate::applier;
use crate::archive::{Archived, Start};
use crate::config::HostConfig;
use crate::engine::EngineError;
use crate::freshness::{Freshness, Heard};
use crate::log_store::{GroupLog, LogStore};
use crate::quiescence::Quiescence;
use crate::replica::Replica;
use crate::room::Room;
use crate::snapshot::receive::SnapshotReceiver;
use crate::state::{GroupState, StateReader};
use crate::state_machine::StateMachine;
use crate::types::{
    Answer, Fingerprint, GroupId, LoggedRequest, Node, NodeId, RequestId, Runtime, TokioRuntime, Types,
};

mod error;
mod log;
mod messages;
mod proposals;
mod rest;
mod senders;
mod status;

pub use error::{ChangeError, ProposeError, ReadError};
use error::{change_error, lease_expired, propose_error, read_error};
use proposals::Proposals;
pub(crate) use status::age_of_quorum;
pub use status::{GroupStatus, Role, StatusWatch};
use status::{is_closed, status_of};

/// Between two looks, while a read waits, whether the state waits for room.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(100);

/// Longest pause before a leader without a lease tries again.
const LEASE_RETRY: Duration = Duration::from_millis(20);

type Library<R> = Raft<Types<R>, Replica<R>>;

/// A proposal that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// Where in the log it was applied.
    pub index: u64,
    /// The state machine's answer.
    pub response: Bytes,
    /// Whether this is the answer to an earlier try under the same request id.
    pub replayed: bool,
}

/// What becomes of voters that are not to vote any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// They leave the group.
    Leave,
    /// They stay as learners.
    Learn,
}

pub(crate) struct GroupParts<R: Runtime> {
    pub id: GroupId,
    pub raft: Library<R>,
    pub state: Arc<GroupState>,
    pub app: Arc<dyn StateMachine>,
    pub log: Arc<LogStore<R>>,
    /// This group's part of it.
    pub entries: GroupLog<R>,
    pub config: HostConfig,
    pub applied: WatchReceiverOf<Types<R>, u64>,
    pub room: Arc<Room>,
    /// When the host was opened; its groups count time from there.
    pub opened: R::Instant,
}

/// A handle to one group of this node. Cheap to clone.
pub struct Group<R: Runtime = TokioRuntime> {
    inner: Arc<Inner<R>>,
}

impl<R: Runtime> Clone for Group<R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<R: Runtime> {
    parts: GroupParts<R>,
    receiver: Arc<SnapshotReceiver>,
    /// Messages of an incoming snapshot are handled one at a time.
    receiving: futures::lock::Mutex<()>,
    /// So are changes of the membership.
    changing: futures::lock::Mutex<()>,
    in_flight: AtomicUsize,
    proposals: Proposals<R>,
    heard: Heard,
    quiescence: Mutex<Quiescence>,
}

/// Counts a proposal as long as it is under way.
struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<R: Runtime> Group<R> {
    pub(crate) fn new(parts: GroupParts<R>) -> Self {
        let receiver = Arc::new(SnapshotReceiver::new(parts.state.clone()));
        let (receiving, changing, in_flight, heard) = Default::default();
        let quiescence = Mutex::new(Quiescence::opened(openraft::Instant::elapsed(&parts.opened)));
        let proposals = Proposals::default();
        let group = Self {
            inner: Arc::new(Inner { parts, receiver, receiving, changing, in_flight, proposals, heard, quiescence }),
        };
        group.campaign_only_with_promises_kept();
        group
    }

    fn raft(&self) -> &Library<R> {
        &self.inner.parts.raft
    }

    fn config(&self) -> &HostConfig {
        &self.inner.parts.config
    }

    /// The group's id.
    pub fn id(&self) -> GroupId {
        self.inner.parts.id
    }

    /// Makes this replica and the other `voters` a group. Once, on one of them.
    ///
    /// # Errors
    /// [`ChangeError::Refused`] if the group exists already or this node is not among the voters.
    pub async fn initialize(&self, voters: BTreeSet<NodeId>) -> Result<(), ChangeError> {
        let result = self.raft().initialize(voters).await;
        result.map_err(|error| match error {
            RaftError::APIError(InitializeError::NotAllowed(_)) => {
                ChangeError::Refused("the group is initialized already".into())
            }
            RaftError::APIError(InitializeError::NotInMembers(_)) => {
                ChangeError::Refused("this node is not among the voters".into())
            }
            RaftError::Fatal(fatal) => stopped(fatal),
        })
    }

    /// Whether the group has a membership: it was initialized, here or elsewhere.
    ///
    /// # Errors
    /// When this replica has stopped.
    pub async fn is_initialized(&self) -> Result<bool, ChangeError> {
        self.raft().is_initialized().await.map_err(stopped)
    }

    /// Has `payload` applied on all replicas; answers when a majority has it on disk and this one has applied it. With a
    /// request id a repeated proposal is applied once, and answered as the first time. What several callers propose at once
    /// may share a log entry; each has its own answer.
    ///
    /// # Errors
    /// See [`ProposeError`]: which of them leave the outcome open, and what to do.
    pub async fn propose(&self, request: Option<RequestId>, payload: Bytes) -> Result<Proposed, ProposeError> {
        let request = request.map(|id| Fingerprint::of(id, &payload));
        self.propose_as(request, payload).await
    }

    /// As [`propose`](Self::propose), for a payload that differs from try to try although the request is the same (one
    /// that is sealed again, say): the request is recognised by `content` instead.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose_content(
        &self,
        id: RequestId,
        content: &[u8],
        payload: Bytes,
    ) -> Result<Proposed, ProposeError> {
        self.propose_as(Some(Fingerprint::of(id, content)), payload).await
    }

    async fn propose_as(&self, fingerprint: Option<Fingerprint>, payload: Bytes) -> Result<Proposed, ProposeError> {
        let _counted = self.admit(&payload)?;
        self.call_leader().await;
        let timeout = self.config().timing.propose;
        let request = LoggedRequest { fingerprint, payload };
        let (index, answer) = match R::timeout(timeout, self.write(request)).await {
            Ok(written) => written?,
            Err(_) => return Err(ProposeError::Timeout(timeout)),
        };
        proposed(index, answer)
    }

    /// Hands the request to the library; again, for a while, if it leads but no quorum has answered it lately. A leader
    /// that was just elected is in that state until its first round trip, which is no reason to send callers away.
    async fn write(&self, request: LoggedRequest) -> Result<(u64, Answer), ProposeError> {
        let deadline = <R::Instant as openraft::Instant>::now() + self.config().timing.election_max * 2;
        let mut metrics = self.raft().metrics();
        loop {
            let (ran, answered) = {
                let metrics = metrics.borrow_watched();
                (metrics.running_state.is_ok(), metrics.last_quorum_acked)
            };
            match self.enter_log(request.clone()).await {
                Ok(written) => return Ok(written),
                Err(error) if !lease_expired(&error) => return Err(propose_error(error, ran)),
                Err(_) => {}
            }
            if <R::Instant as openraft::Instant>::now() >= deadline {
                return Err(ProposeError::NoQuorum);
            }
            // Until a quorum has answered again. Any other news is passed over: trying makes news by itself, and waking
            // up for that would try again at once, for ever. The time is for an answer that came in between.
            let quorum = async {
                while metrics.changed().await.is_ok() && metrics.borrow_watched().last_quorum_acked == answered {}
            };
            let _ = R::timeout(LEASE_RETRY, quorum).await;
        }
    }

    fn admit(&self, payload: &Bytes) -> Result<InFlight<'_>, ProposeError> {
        let limits = &self.config().limits;
        if payload.len() > limits.payload_bytes {
            return Err(ProposeError::TooLarge { bytes: payload.len(), limit: limits.payload_bytes });
        }
        if self.disk_full() {
            return Err(ProposeError::DiskFull);
        }
        let under_way = self.inner.in_flight.fetch_add(1, Ordering::Relaxed);
        let counted = InFlight(&self.inner.in_flight);
        if under_way >= limits.in_flight { Err(ProposeError::Overloaded) } else { Ok(counted) }
    }

    /// Whether this node has no room for log or state.
    pub fn disk_full(&self) -> bool {
        self.inner.parts.log.disk_full() || self.inner.parts.room.is_node_full()
    }

    /// The index a linearizable read must see: everything acknowledged before the call is at or below it. A quorum has
    /// confirmed this leader after the call began, and the entry is applied here.
    ///
    /// # Errors
    /// When this node does not lead, or cannot prove it.
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        self.call_leader().await;
        let timeout = self.config().timing.read;
        let option = LinearizerOption::from(ReadPolicy::ReadIndex).with_wait_timeout(timeout);
        let confirmed = R::timeout(timeout, self.raft().get_read_log_id(option)).await;
        let (read, _) = confirmed.map_err(|_| ReadError::NoQuorum)?.map_err(read_error)?;
        self.wait_applied(read.index(), timeout).await?;
        Ok(read.index())
    }

    /// Returns once entry `index` is visible to readers here.
    ///
    /// # Errors
    /// When it is not in time, or this replica stops.
    pub async fn wait_applied(&self, index: u64, timeout: Duration) -> Result<(), ReadError> {
        if self.reader().applied_index() >= index {
            return Ok(());
        }
        let (mut applied, deadline) = (self.inner.parts.applied.clone(), R::now() + timeout);
        loop {
            if self.inner.parts.room.is_waited_for() {
                return Err(ReadError::DiskFull);
            }
            let left = openraft::Instant::saturating_duration_since(&deadline, R::now());
            match R::timeout(left.min(LOOK_FOR_ROOM), applied.wait_until_ge(&index)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(_)) => return Err(ReadError::Stopped("it applies no more".into())),
                Err(_) if left <= LOOK_FOR_ROOM => return Err(ReadError::Timeout(timeout)),
                Err(_) => {}
            }
        }
    }

    /// The time by which this group judges what is over: that of an entry proposed here now. A read that judges by it and
    /// a write that comes next agree.
    pub fn time_ms(&self) -> u64 {
        applier::time_after(self.inner.parts.state.clock_ms(), self.config().clock.now_ms())
    }

    /// Reads this replica's state.
    pub fn reader(&self) -> StateReader {
        StateReader::live(self.inner.parts.state.clone())
    }

    /// What a replay of this group's entries must know, as of now.
    ///
    /// # Errors
    /// When the engine cannot be read.
    pub fn archive_start(&self) -> Result<Start, EngineError> {
        Start::read(&self.inner.parts.state)
    }

    /// Entries behind `after` that are applied here, in order: at least one if there is any, then as many as fit
    /// `max_bytes`. What the log has no more is left out: the answer says behind which entry it begins.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn archive(&self, after: u64, max_bytes: usize) -> Result<Archived, EngineError> {
        let applied = self.reader().applied_index();
        let entries = self.inner.parts.entries.read(after.saturating_add(1), applied.saturating_add(1), max_bytes)?;
        Ok(Archived::of(after, entries))
    }

    /// How old what this replica shows may be. The leader's own state is current as long as it has a quorum.
    pub fn freshness(&self) -> Freshness {
        let status = self.status();
        let knows = {
            let metrics = self.raft().metrics();
            let metrics = metrics.borrow_watched();
            metrics.last_applied.as_ref().is_some_and(|at| at.leader_id.term == metrics.current_term)
        };
        // A leader that has applied nothing of its own yet may lack what its predecessor acknowledged.
        if !status.is_leader() || !knows {
            return self.inner.heard.freshness(status.applied, self.since_opened());
        }
        let lease = self.config().timing.election_max;
        let age = status.quorum_age.map(|age| if age <= lease { Duration::ZERO } else { age });
        Freshness { age, behind: status.committed.saturating_sub(status.applied) }
    }

    /// This replica now.
    pub fn status(&self) -> GroupStatus {
        let metrics = self.raft().metrics();
        let mut status = status_of(self.id(), &metrics.borrow_watched(), self.reader().applied_index());
        // A task that ended by a panic leaves its last words standing, "leader" among them.
        if !status.is_stopped() && is_closed::<R>(metrics) {
            status.role = Role::Stopped("its task has ended by a panic".into());
        }
        if let Some(age) = self.quorum_age_at_rest() {
            status.quorum_age = status.quorum_age.map(|heard| heard.min(age));
        }
        // A replica that has stopped hears of no leader any more.
        status.leader = status.leader.filter(|_| !status.is_stopped());
        status
    }

    /// Whether this replica has stopped for something that passes: opened again, it goes on where it was.
    pub fn has_stopped_in_passing(&self) -> bool {
        self.status().is_stopped() && self.inner.parts.log.failures().is_passing(self.id())
    }

    /// Follows this replica's status.
    pub fn watch(&self) -> StatusWatch<R> {
        StatusWatch { group: self.clone(), metrics: self.raft().metrics() }
    }

    /// Adds a member without a vote, which is brought up to date from now on. Repeating it does no harm.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn add_learner(&self, node: NodeId) -> Result<(), ChangeError> {
        let _turn = self.may_change().await?;
        let timeout = self.config().timing.propose;
        let added = R::timeout(timeout, self.raft().add_learner(node, Node::default(), false)).await;
        added.map_err(|_| ChangeError::Timeout(timeout))?.map_err(change_error)?;
        Ok(())
    }

    /// Makes `voters` those who vote, by a joint change. New ones must be learners before. What becomes of voters that
    /// are not among them, `others` says.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn change_voters(&self, voters: BTreeSet<NodeId>, others: Others) -> Result<(), ChangeError> {
        let _turn = self.may_change().await?;
        let timeout = self.config().timing.propose * 2;
        let retain = others == Others::Learn;
        let changed = R::timeout(timeout, self.raft().change_membership(voters, retain)).await;
        changed.map_err(|_| ChangeError::Timeout(timeout))?.map_err(change_error)?;
        Ok(())
    }

    /// Puts a learner out of the group. One that is no member is out already.
    ///
    /// # Errors
    /// See [`ChangeError`]; a voter is refused.
    pub async fn remove_learner(&self, node: NodeId) -> Result<(), ChangeError> {
        let _turn = self.may_change().await?;
        let timeout = self.config().timing.propose;
        let change = openraft::ChangeMembers::RemoveNodes(BTreeSet::from([node]));
        let changed = R::timeout(timeout, self.raft().change_membership(change, true)).await;
        changed.map_err(|_| ChangeError::Timeout(timeout))?.map_err(change_error)?;
        Ok(())
    }

    /// Waits for the end of a change made here before. A leader that has proposed to leave goes on leading until that is
    /// committed, but must not change the membership any more: the library does not expect it and stops.
    async fn may_change(&self) -> Result<futures::lock::MutexGuard<'_, ()>, ChangeError> {
        let turn = self.inner.changing.lock().await;
        self.call_leader().await;
        let status = self.status();
        if status.is_leader() && !status.voters.contains(&self.config().node_id) {
            return Err(ChangeError::InProgress("this leader is leaving the group".into()));
        }
        Ok(turn)
    }

    /// Hands leadership to `target`, and returns when this node has given it up.
    ///
    /// # Errors
    /// When this node does not lead, `target` is not another voter, or it did not take over in time (then
    /// an election follows).
    pub async fn transfer_leader(&self, target: NodeId) -> Result<(), ChangeError> {
        let status = self.status();
        if !status.is_leader() {
            return Err(ChangeError::NotLeader { leader: status.leader });
        }
        if target == self.config().node_id || !status.voters.contains(&target) {
            return Err(ChangeError::Refused(format!("node {target} is not another voter")));
        }
        self.call_leader().await;
        let mut watch = self.watch();
        let started = self.raft().trigger().transfer_leader(target).await;
        started.map_err(stopped)?;
        let timeout = self.config().timing.election_max * 2;
        let moved = watch.wait_for(timeout, |status| status.leader == Some(target) || status.is_stopped()).await;
        match moved {
            Some(status) if !status.is_stopped() => Ok(()),
            Some(_) => Err(ChangeError::Stopped("while it handed over".into())),
            None => Err(ChangeError::Timeout(timeout)),
        }
    }

    /// Campaigns now, after a pre-vote round, instead of when the leader is missed.
    ///
    /// # Errors
    /// When this replica has stopped, or lacks what one before it on this node had promised.
    pub async fn campaign(&self) -> Result<(), ChangeError> {
        self.may_vote().map_err(|refusal| ChangeError::Refused(refusal.text))?;
        self.end_rest();
        self.raft().trigger().elect(true).await.map_err(stopped)
    }

    pub(crate) async fn stop(&self) {
        self.inner.parts.room.stop_waiting();
        // It has stopped one way or the other; a panic in its task was logged there.
        let _ = self.raft().shutdown().await;
        // Its worker may still be about to apply.
        self.inner.parts.state.close();
    }
}

fn stopped<R: Runtime>(fatal: Fatal<Types<R>>) -> ChangeError {
    ChangeError::Stopped(fatal.to_string())
}

/// What the answer of an entry means to its proposer.
fn proposed(index: u64, answer: Answer) -> Result<Proposed, ProposeError> {
    match answer {
        Answer::Applied(response) => Ok(Proposed { index, response, replayed: false }),
        Answer::Replayed { index, response: Some(response) } => Ok(Proposed { index, response, replayed: true }),
        Answer::Replayed { index, response: None } => Err(ProposeError::AppliedBefore { index }),
        Answer::Reused => Err(ProposeError::RequestIdReused),
        Answer::Failed => Err(ProposeError::NotApplicable { index }),
    }
}
