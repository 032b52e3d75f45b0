//! What a replica is doing: its status, and waiting for changes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::FutureExt;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftMetrics;
use openraft::type_config::alias::WatchReceiverOf;

use super::Group;
use crate::types::{GroupId, NodeId, Runtime, TokioRuntime, Types, index_of};

/// Figures of one replica, as the consensus library gives them.
pub(super) type Metrics<R> = RaftMetrics<Types<R>>;

/// Follows the figures of one replica.
pub(super) type MetricsWatch<R> = WatchReceiverOf<Types<R>, Metrics<R>>;

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
    /// Whether a change of the members is half done: a joint one, which takes majorities of both sets until it is finished, or
    /// one that is not applied here yet: as long as it is not committed, another leader may undo it.
    pub is_changing: bool,
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

    /// Whether this replica has stopped.
    pub fn is_stopped(&self) -> bool {
        matches!(self.role, Role::Stopped(_))
    }
}

/// Waits for changes of one replica's status.
pub struct StatusWatch<R: Runtime = TokioRuntime> {
    pub(super) group: Group<R>,
    pub(super) metrics: MetricsWatch<R>,
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
pub(super) fn is_closed<R: Runtime>(mut metrics: MetricsWatch<R>) -> bool {
    loop {
        match metrics.changed().now_or_never() {
            // A change that nobody has seen yet comes before the news of the end.
            Some(Ok(())) => {}
            Some(Err(_)) => return true,
            None => return false,
        }
    }
}

/// The status of `group` by its figures; `applied` is what its readers see.
pub(super) fn status_of<R: Runtime>(group: GroupId, metrics: &Metrics<R>, applied: u64) -> GroupStatus {
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
        is_changing: is_changing(metrics, applied),
        learners: metrics.membership_config.membership().learner_ids().collect(),
        lag: lag
            .map(|(node, matched)| (*node, matched.as_ref().map(|id| last_log_index.saturating_sub(id.index))))
            .collect(),
        quorum_age: age_of_quorum(metrics),
    }
}

fn is_changing<R: Runtime>(metrics: &Metrics<R>, applied: u64) -> bool {
    let members = &metrics.membership_config;
    members.membership().get_joint_config().len() > 1 || index_of(members.log_id().as_ref()) > applied
}

/// On the leader: how long ago a quorum last answered. A leader that is its own quorum needs no answer.
pub(crate) fn age_of_quorum<R: Runtime>(metrics: &Metrics<R>) -> Option<Duration> {
    if metrics.state != ServerState::Leader {
        return None;
    }
    let mut voters = metrics.membership_config.membership().voter_ids();
    if voters.next() == Some(metrics.id) && voters.next().is_none() {
        return Some(Duration::ZERO);
    }
    metrics.last_quorum_acked.as_ref().map(|at| openraft::Instant::elapsed(&**at))
}
