//! One Raft group on this node: what the rest of the program does with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{
    ChangeMembershipError, ClientWriteError, ForwardReason, InitializeError, LinearizableReadError, RaftError,
};
use openraft::metrics::RaftMetrics;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{LinearizerOption, Raft, ReadPolicy, ServerState, Snapshot};
use serde::de::DeserializeOwned;

use crate::archive::{Archived, Start};
use crate::codec::{CodecError, to_postcard};
use crate::config::HostConfig;
use crate::engine::EngineError;
use crate::freshness::{self, Freshness, Heard};
use crate::log_store::{GroupLog, LogStore};
use crate::replica::{Replica, answer_parts};
use crate::snapshot::SnapshotData;
use crate::snapshot::receive::{Finished, SnapshotReceiver};
use crate::state::{GroupState, StateReader};
use crate::threads::run_blocking;
use crate::types::{
    Answer, Fingerprint, GroupId, Node, NodeId, Proposal, RequestId, Runtime, TokioRuntime, Types, Vote, index_of,
};
use crate::wire::{self, ChunkHeader, Kind, SnapshotFinish, SnapshotOffer, SnapshotReply, Status};

/// Longest pause before a leader without a lease tries again.
const LEASE_RETRY: Duration = Duration::from_millis(20);

type Library<R> = Raft<Types<R>, Replica<R>>;

/// Why a proposal was not answered with a result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing happened here; propose to the leader, if it is known.
    #[error("not the leader; it is {leader:?}")]
    NotLeader {
        /// The leader this node knows.
        leader: Option<NodeId>,
    },
    /// It may yet be applied, or have been: propose again under the same request id.
    #[error("no answer within {0:?}; the outcome is unknown")]
    Timeout(Duration),
    /// Nothing happened: this node leads, as far as it knows, but no quorum has answered it for a while. Propose again.
    #[error("no quorum answers the leader")]
    NoQuorum,
    /// Leadership moved, or this replica stopped, while it was under way; it may have been applied: propose again under
    /// the same request id.
    #[error("leadership moved to {leader:?}; the outcome is unknown")]
    Unknown {
        /// The leader this node knows.
        leader: Option<NodeId>,
    },
    /// The id named another payload before; nothing was applied.
    #[error("the request id was used for something else")]
    RequestIdReused,
    /// The request was applied earlier, but its answer was too large to keep: read what it did.
    #[error("applied before, at index {index}; its answer was not kept")]
    AppliedBefore {
        /// Where.
        index: u64,
    },
    /// Nothing happened; a payload must be shorter.
    #[error("payload of {bytes} bytes; at most {limit} are allowed")]
    TooLarge {
        /// Of the payload.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// Nothing happened; propose later.
    #[error("too many proposals are under way")]
    Overloaded,
    /// Nothing happened; this node's disk has no room.
    #[error("the disk is full")]
    DiskFull,
    /// Nothing happened: this replica had stopped before.
    #[error("the group has stopped here: {0}")]
    Stopped(String),
}

/// Why there is no read index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Ask the leader, if it is known.
    #[error("not the leader; it is {leader:?}")]
    NotLeader {
        /// The leader this node knows.
        leader: Option<NodeId>,
    },
    /// This node leads, as far as it knows, but a quorum did not confirm it in time.
    #[error("no quorum confirmed the leader")]
    NoQuorum,
    /// Confirmed, but not applied here in time.
    #[error("not applied within {0:?}")]
    Timeout(Duration),
    /// This replica has stopped.
    #[error("the group has stopped here: {0}")]
    Stopped(String),
}

/// Why the membership was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Ask the leader, if it is known.
    #[error("not the leader; it is {leader:?}")]
    NotLeader {
        /// The leader this node knows.
        leader: Option<NodeId>,
    },
    /// Another change is under way; try again when it is done.
    #[error("another change is under way: {0}")]
    InProgress(String),
    /// It cannot be done as asked; nothing changed.
    #[error("refused: {0}")]
    Refused(String),
    /// Not done in time; it may yet be.
    #[error("not done within {0:?}")]
    Timeout(Duration),
    /// This replica has stopped.
    #[error("the group has stopped here: {0}")]
    Stopped(String),
}

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

/// What a replica is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It leads.
    Leader,
    /// It votes and follows.
    Follower,
    /// It asks to lead.
    Candidate,
    /// It follows without a vote (also a group that is not initialized).
    Learner,
    /// It has stopped, and why.
    Stopped(String),
}

/// A replica at one moment. Indexes are 0 where there is none: entry 0 is always the initial membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// This replica's part.
    pub role: Role,
    /// Its term; grows by one with every campaign that got as far as a vote.
    pub term: u64,
    /// The leader it knows.
    pub leader: Option<NodeId>,
    /// The last entry in its log.
    pub last_log_index: u64,
    /// The last entry it knows to be committed and has itself.
    pub committed: u64,
    /// The last entry visible to its readers.
    pub applied: u64,
    /// The last entry in its newest snapshot.
    pub snapshot_index: u64,
    /// The last entry removed from its log.
    pub purged: u64,
    /// Those who vote; during a joint change, of the old and of the new members.
    pub voters: BTreeSet<NodeId>,
    /// Whether a change of voters is half done: it takes majorities of both sets until it is finished.
    pub joint: bool,
    /// Those who follow without a vote.
    pub learners: BTreeSet<NodeId>,
    /// On the leader: how many entries each other member lacks. `None`: not known yet.
    pub lag: BTreeMap<NodeId, Option<u64>>,
    /// On the leader: how long ago a quorum last answered.
    pub quorum_age: Option<Duration>,
}

impl GroupStatus {
    /// Whether this replica leads.
    pub fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }
}

pub(crate) struct GroupParts<R: Runtime> {
    pub id: GroupId,
    pub raft: Library<R>,
    pub state: Arc<GroupState>,
    pub log: Arc<LogStore<R>>,
    /// This group's part of it.
    pub entries: GroupLog<R>,
    pub config: HostConfig,
    pub applied: WatchReceiverOf<Types<R>, u64>,
    pub state_full: Arc<AtomicBool>,
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
    heard: Heard,
    opened: R::Instant,
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
        let opened = <R::Instant as openraft::Instant>::now();
        Self { inner: Arc::new(Inner { parts, receiver, receiving, changing, in_flight, heard, opened }) }
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
            RaftError::Fatal(fatal) => ChangeError::Stopped(fatal.to_string()),
        })
    }

    /// Whether the group has a membership: it was initialized, here or elsewhere.
    ///
    /// # Errors
    /// When this replica has stopped.
    pub async fn is_initialized(&self) -> Result<bool, ChangeError> {
        self.raft().is_initialized().await.map_err(|fatal| ChangeError::Stopped(fatal.to_string()))
    }

    /// Has `payload` applied on all replicas; answers when a majority has it on disk and this one has applied it. With a
    /// request id a repeated proposal is applied once, and answered as the first time.
    ///
    /// # Errors
    /// See [`ProposeError`]: which of them leave the outcome open, and what to do.
    pub async fn propose(&self, request: Option<RequestId>, payload: Bytes) -> Result<Proposed, ProposeError> {
        let request = request.map(|id| Fingerprint::of(id, &payload));
        self.propose_as(request, payload).await
    }

    /// As [`propose`](Self::propose), for a payload that differs from try to try although the request is the same (one
    /// that is sealed anew, say): the request is recognised by `content` instead.
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

    async fn propose_as(&self, request: Option<Fingerprint>, payload: Bytes) -> Result<Proposed, ProposeError> {
        let _counted = self.admit(&payload)?;
        let proposal = Proposal { request, time_ms: self.config().clock.now_ms(), payload };
        let timeout = self.config().timing.propose;
        let (index, answer) = match R::timeout(timeout, self.write(proposal)).await {
            Ok(written) => written?,
            Err(_) => return Err(ProposeError::Timeout(timeout)),
        };
        let (index, response, replayed) = answer_parts(index, answer)?;
        Ok(Proposed { index, response, replayed })
    }

    /// Hands the proposal to the library; again, for a while, if it leads but no quorum has answered it lately. A leader
    /// that was just elected is in that state until its first round trip, which is no reason to send callers away.
    async fn write(&self, proposal: Proposal) -> Result<(u64, Answer), ProposeError> {
        let deadline = <R::Instant as openraft::Instant>::now() + self.config().timing.election_max * 2;
        let mut metrics = self.raft().metrics();
        loop {
            let (ran, answered) = {
                let metrics = metrics.borrow_watched();
                (metrics.running_state.is_ok(), metrics.last_quorum_acked)
            };
            match self.raft().client_write(proposal.clone()).await {
                Ok(written) => return Ok((written.log_id.index, written.data)),
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
        self.inner.parts.log.disk_full() || self.inner.parts.state_full.load(Ordering::Relaxed)
    }

    /// The index a linearizable read must see: everything acknowledged before the call is at or below it. A quorum has
    /// confirmed this leader after the call began, and the entry is applied here.
    ///
    /// # Errors
    /// When this node does not lead, or cannot prove it.
    pub async fn read_index(&self) -> Result<u64, ReadError> {
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
        let mut applied = self.inner.parts.applied.clone();
        match R::timeout(timeout, applied.wait_until_ge(&index)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopped("it applies no more".into())),
            Err(_) => Err(ReadError::Timeout(timeout)),
        }
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
            let now = openraft::Instant::elapsed(&self.inner.opened);
            return self.inner.heard.freshness(status.applied, now);
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
        if !stopped(&status) && is_closed::<R>(metrics) {
            status.role = Role::Stopped("its task has ended by a panic".into());
            status.leader = None;
        }
        status
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
        let status = self.status();
        match status.is_leader() && !status.voters.contains(&self.config().node_id) {
            true => Err(ChangeError::InProgress("this leader is leaving the group".into())),
            false => Ok(turn),
        }
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
        let mut watch = self.watch();
        let started = self.raft().trigger().transfer_leader(target).await;
        started.map_err(|fatal| ChangeError::Stopped(fatal.to_string()))?;
        let timeout = self.config().timing.election_max * 2;
        let moved = watch.wait_for(timeout, |status| status.leader == Some(target) || stopped(status)).await;
        match moved {
            Some(status) if !stopped(&status) => Ok(()),
            Some(_) => Err(ChangeError::Stopped("while it handed over".into())),
            None => Err(ChangeError::Timeout(timeout)),
        }
    }

    /// Takes a snapshot now, after which the log is trimmed; does not wait for it.
    ///
    /// # Errors
    /// When this replica has stopped.
    pub async fn trigger_snapshot(&self) -> Result<(), ChangeError> {
        self.raft().trigger().snapshot().await.map_err(|fatal| ChangeError::Stopped(fatal.to_string()))
    }

    /// Takes the next step towards a log without the entries up to `index`, all applied: a snapshot, then trimming. True
    /// once they are gone. Followers that still need them get a snapshot instead.
    ///
    /// # Errors
    /// When this replica has stopped.
    pub async fn trim(&self, index: u64) -> Result<bool, ChangeError> {
        let status = self.status();
        if status.purged >= index {
            return Ok(true);
        }
        let stopped = |fatal: openraft::error::Fatal<_>| ChangeError::Stopped(fatal.to_string());
        match status.snapshot_index >= index {
            true => self.raft().trigger().purge_log(index).await.map_err(stopped)?,
            false => self.raft().trigger().snapshot().await.map_err(stopped)?,
        }
        Ok(false)
    }

    /// Campaigns now, after a pre-vote round, instead of when the leader is missed.
    ///
    /// # Errors
    /// When this replica has stopped.
    pub async fn campaign(&self) -> Result<(), ChangeError> {
        self.raft().trigger().elect(true).await.map_err(|fatal| ChangeError::Stopped(fatal.to_string()))
    }

    pub(crate) async fn stop(&self) {
        // It has stopped one way or the other; a panic in its task was logged there.
        let _ = self.raft().shutdown().await;
        // Its worker may still be about to apply.
        self.inner.parts.state.close();
    }

    /// Answers another replica's message.
    pub(crate) async fn handle(&self, kind: Kind, body: Bytes) -> Result<Vec<u8>, (Status, String)> {
        let raft = self.raft();
        match kind {
            Kind::Append => {
                let append = wire::decode_append(body).map_err(malformed)?;
                let (quorum_age, committed) = (append.quorum_age, append.commit.clone());
                // A new leader does not know how far its predecessor had got until an entry of its own is committed.
                let knows = committed.as_ref().is_some_and(|at| at.leader_id.term == append.vote.leader_id.term);
                let received = openraft::Instant::elapsed(&self.inner.opened);
                let rpc = AppendEntriesRequest {
                    vote: append.vote,
                    prev_log_id: append.prev,
                    leader_commit: append.commit,
                    entries: append.entries,
                };
                let reply = raft.append_entries(rpc).await.map_err(stopped_status)?;
                if knows && !matches!(reply, AppendEntriesResponse::HigherVote(_)) {
                    let as_of = freshness::as_of(received, quorum_age, self.config().timing.election_max);
                    let applied = self.reader().applied_index();
                    self.inner.heard.hear(as_of, index_of(committed.as_ref()), applied);
                }
                Ok(to_postcard(&reply))
            }
            Kind::Vote => raft.vote(parse(&body)?).await.map(|reply| to_postcard(&reply)).map_err(stopped_status),
            Kind::PreVote => {
                raft.pre_vote(parse(&body)?).await.map(|reply| to_postcard(&reply)).map_err(stopped_status)
            }
            Kind::TransferLeader => {
                let reply = raft.handle_transfer_leader(parse(&body)?).await;
                reply.map(|reply| to_postcard(&reply)).map_err(stopped_status)
            }
            Kind::SnapshotOffer | Kind::SnapshotChunk | Kind::SnapshotFinish => {
                let _turn = self.inner.receiving.lock().await;
                let reply = self.handle_snapshot(kind, body).await?;
                Ok(to_postcard(&reply))
            }
        }
    }

    async fn handle_snapshot(&self, kind: Kind, body: Bytes) -> Result<SnapshotReply, (Status, String)> {
        let (receiver, own_vote) = (self.inner.receiver.clone(), self.vote());
        let threads = self.config().threads.clone();
        match kind {
            Kind::SnapshotChunk => {
                let (header, pairs) = wire::take::<ChunkHeader>(body).map_err(malformed)?;
                let written = run_blocking(threads.as_ref(), move || receiver.chunk(&header, pairs)).await;
                written.map_err(stopped_status)
            }
            Kind::SnapshotFinish => {
                let finish: SnapshotFinish = parse(&body)?;
                match receiver.finish(&finish, own_vote).map_err(stopped_status)? {
                    Finished::Answer(reply) => Ok(reply),
                    Finished::Install { generation } => self.install(finish, generation).await,
                }
            }
            _ => {
                let offer: SnapshotOffer = parse(&body)?;
                receiver.offer(&offer, own_vote).map_err(stopped_status)
            }
        }
    }

    async fn install(&self, finish: SnapshotFinish, generation: u32) -> Result<SnapshotReply, (Status, String)> {
        let snapshot = Snapshot { meta: finish.meta, snapshot: SnapshotData::Received { generation } };
        let installed = self.raft().install_full_snapshot(finish.vote, snapshot).await;
        installed.map(|reply| SnapshotReply::Installed(reply.vote)).map_err(stopped_status)
    }

    fn vote(&self) -> Vote {
        self.raft().metrics().borrow_watched().vote
    }
}

/// Waits for changes of one replica's status.
pub struct StatusWatch<R: Runtime = TokioRuntime> {
    group: Group<R>,
    metrics: WatchReceiverOf<Types<R>, RaftMetrics<Types<R>>>,
}

impl<R: Runtime> StatusWatch<R> {
    /// The status now.
    pub fn current(&self) -> GroupStatus {
        self.group.status()
    }

    /// Waits until something changed; `None` when the replica is gone.
    pub async fn changed(&mut self) -> Option<GroupStatus> {
        self.metrics.changed().await.ok()?;
        Some(self.current())
    }

    /// Waits until `condition` holds; `None` if it did not in time or the replica is gone.
    pub async fn wait_for(
        &mut self,
        timeout: Duration,
        condition: impl Fn(&GroupStatus) -> bool + Send + Sync,
    ) -> Option<GroupStatus> {
        let waited = R::timeout(timeout, async {
            loop {
                let status = self.current();
                if condition(&status) {
                    return Some(status);
                }
                self.changed().await?;
            }
        });
        waited.await.ok().flatten()
    }
}

/// Whether the task that fills these metrics is gone.
fn is_closed<R: Runtime>(mut metrics: WatchReceiverOf<Types<R>, RaftMetrics<Types<R>>>) -> bool {
    loop {
        match metrics.changed().now_or_never() {
            // A change that nobody has seen yet comes before the news of the end.
            Some(Ok(())) => {}
            Some(Err(_)) => return true,
            None => return false,
        }
    }
}

fn stopped(status: &GroupStatus) -> bool {
    matches!(status.role, Role::Stopped(_))
}

fn status_of<R: Runtime>(group: GroupId, metrics: &RaftMetrics<Types<R>>, applied: u64) -> GroupStatus {
    let role = match (&metrics.running_state, metrics.state) {
        (Err(fatal), _) => Role::Stopped(fatal.to_string()),
        (Ok(()), ServerState::Leader) => Role::Leader,
        (Ok(()), ServerState::Follower) => Role::Follower,
        (Ok(()), ServerState::Candidate) => Role::Candidate,
        (Ok(()), ServerState::Learner) => Role::Learner,
        (Ok(()), ServerState::Shutdown) => Role::Stopped("shut down".into()),
    };
    let last_log_index = metrics.last_log_index.unwrap_or(0);
    let lag = metrics.replication.iter().flatten().filter(|(node, _)| **node != metrics.id);
    GroupStatus {
        group,
        role,
        term: metrics.current_term,
        leader: metrics.current_leader,
        last_log_index,
        committed: index_of(metrics.local_committed.as_ref()),
        applied,
        snapshot_index: index_of(metrics.snapshot.as_ref()),
        purged: index_of(metrics.purged.as_ref()),
        voters: metrics.membership_config.membership().voter_ids().collect(),
        joint: metrics.membership_config.membership().get_joint_config().len() > 1,
        learners: metrics.membership_config.membership().learner_ids().collect(),
        lag: lag
            .map(|(node, matched)| (*node, matched.as_ref().map(|id| last_log_index.saturating_sub(id.index))))
            .collect(),
        quorum_age: age_of_quorum(metrics),
    }
}

/// On the leader: how long ago a quorum last answered. A leader that is its own quorum needs no answer.
pub(crate) fn age_of_quorum<R: Runtime>(metrics: &RaftMetrics<Types<R>>) -> Option<Duration> {
    if metrics.state != ServerState::Leader {
        return None;
    }
    let mut voters = metrics.membership_config.membership().voter_ids();
    if voters.next() == Some(metrics.id) && voters.next().is_none() {
        return Some(Duration::ZERO);
    }
    metrics.last_quorum_acked.as_ref().map(|at| openraft::Instant::elapsed(&**at))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, (Status, String)> {
    postcard::from_bytes(body).map_err(|error| malformed(error.into()))
}

fn malformed(error: CodecError) -> (Status, String) {
    (Status::Malformed, error.to_string())
}

fn stopped_status(error: impl std::fmt::Display) -> (Status, String) {
    (Status::Stopped, error.to_string())
}

fn lease_expired<R: Runtime>(error: &RaftError<Types<R>, ClientWriteError<Types<R>>>) -> bool {
    let RaftError::APIError(ClientWriteError::ForwardToLeader(to)) = error else { return false };
    to.reason == ForwardReason::LeaseExpired
}

/// `ran`: the replica had not stopped when the proposal was handed in, so that it may be in the log here and elsewhere.
fn propose_error<R: Runtime>(error: RaftError<Types<R>, ClientWriteError<Types<R>>>, ran: bool) -> ProposeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => ProposeError::NotLeader { leader: to.leader_id },
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(to)) => ProposeError::Unknown { leader: to.leader_id },
        // Only membership changes and conditional writes are refused otherwise.
        RaftError::APIError(other) => ProposeError::Stopped(other.to_string()),
        RaftError::Fatal(_) if ran => ProposeError::Unknown { leader: None },
        RaftError::Fatal(fatal) => ProposeError::Stopped(fatal.to_string()),
    }
}

fn read_error<R: Runtime>(error: RaftError<Types<R>, LinearizableReadError<Types<R>>>) -> ReadError {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(to)) => {
            ReadError::NotLeader { leader: to.leader_id }
        }
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => ReadError::NoQuorum,
        RaftError::Fatal(fatal) => ReadError::Stopped(fatal.to_string()),
    }
}

fn change_error<R: Runtime>(error: RaftError<Types<R>, ClientWriteError<Types<R>>>) -> ChangeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to) | ClientWriteError::LogEntryDiscarded(to)) => {
            ChangeError::NotLeader { leader: to.leader_id }
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
            ChangeMembershipError::InProgress(cause) => ChangeError::InProgress(cause.to_string()),
            other => ChangeError::Refused(other.to_string()),
        },
        RaftError::APIError(other) => ChangeError::Refused(other.to_string()),
        RaftError::Fatal(fatal) => ChangeError::Stopped(fatal.to_string()),
    }
}
