//! One replica's rest: what [`crate::quiescence`] decides, done to its timers.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::AppendEntriesRequest;

use super::Group;
use crate::freshness;
use crate::quiescence::{Observed, Quiescence, Standing, Timers};
use crate::types::{NodeId, Runtime, Types};
use crate::wire::RestingGroup;

impl<R: Runtime> Group<R> {
    /// Whether this replica's timers stand still, because its group was quiet and all its members hold the same.
    pub fn is_at_rest(&self) -> bool {
        self.inner.quiescence.lock().rests()
    }

    /// Time since the host was opened.
    pub(super) fn since_opened(&self) -> Duration {
        openraft::Instant::elapsed(&self.inner.parts.opened)
    }

    /// Changes this replica's rest, and its timers with it, in one step.
    fn change_rest<T>(&self, change: impl FnOnce(&mut Quiescence, Duration) -> (T, Timers)) -> (T, Timers) {
        let mut quiescence = self.inner.quiescence.lock();
        let (output, timers) = change(&mut quiescence, self.since_opened());
        match timers {
            Timers::Start => self.raft().runtime_config().tick(true),
            Timers::Stop => self.raft().runtime_config().tick(false),
            Timers::Unchanged => {}
        }
        (output, timers)
    }

    /// Readies the leader for a call: if its group rests, it wakes and asks its quorum whether it still leads.
    pub(super) async fn call_leader(&self) {
        let (_, timers) = self.change_rest(|quiescence, now| ((), quiescence.active(now)));
        if timers == Timers::Start {
            // It fails when the replica has stopped, which the call finds out by itself.
            let _ = self.raft().trigger().heartbeat().await;
        }
    }

    /// Has the timers run again.
    pub(super) fn end_rest(&self) {
        self.change_rest(|quiescence, now| ((), quiescence.wake(now)));
    }

    /// A message of a leader came: a heartbeat that says nothing new lets the rest go on.
    pub(super) fn hear_append(&self, heartbeat: Option<&Standing>) {
        self.change_rest(|quiescence, now| {
            let goes_on = heartbeat.is_some_and(|standing| quiescence.hear_heartbeat(now, standing));
            ((), if goes_on { Timers::Unchanged } else { quiescence.wake(now) })
        });
    }

    /// Before a request for a vote is judged: has the lease hold that the node heartbeats stand for. A follower hears its
    /// leader's heartbeat, a leader asks its quorum.
    pub(super) async fn confirm_lease(&self) {
        let (standing, leads) = {
            let quiescence = self.inner.quiescence.lock();
            (quiescence.lease(self.since_opened(), &self.config().timing.pace()), quiescence.leads_at_rest())
        };
        if let Some(Standing { vote, log }) = standing {
            let heartbeat = AppendEntriesRequest::<Types<R>> {
                vote,
                prev_log_id: Some(log.clone()),
                leader_commit: Some(log),
                entries: Vec::new(),
            };
            // It fails when the replica has stopped; then so does what comes next.
            let _ = self.raft().append_entries(heartbeat).await;
        }
        if leads {
            let mut metrics = self.raft().metrics();
            let answered = metrics.borrow_watched().last_quorum_acked;
            self.call_leader().await;
            let quorum = async {
                while metrics.borrow_watched().last_quorum_acked == answered && metrics.changed().await.is_ok() {}
            };
            // Nobody who asks for a vote waits longer than the shortest election.
            let _ = R::timeout(self.config().timing.election_min / 2, quorum).await;
        }
    }

    /// Another replica is about to campaign: gives it time, so that the two do not split the votes.
    pub(super) fn postpone_waking(&self) {
        let by = self.config().timing.election_min;
        self.change_rest(|quiescence, now| (quiescence.postpone(now, by), Timers::Unchanged));
    }

    pub(crate) fn end_rest_if_overdue(&self) {
        self.change_rest(|quiescence, now| ((), quiescence.end_if_overdue(now)));
    }

    /// The leader's look at its group, once for each node heartbeat.
    pub(crate) fn look_whether_to_rest(&self) {
        let (observed, pace) = (self.observe(), self.config().timing.pace());
        self.change_rest(|quiescence, now| ((), quiescence.look(now, &observed, &pace)));
    }

    /// The nodes with which this group's rest needs an exchange.
    pub(crate) fn partners(&self) -> BTreeSet<NodeId> {
        self.inner.quiescence.lock().partners()
    }

    /// When this replica wakes unless its leader's node is heard of.
    pub(crate) fn wakes_at(&self) -> Option<Duration> {
        self.inner.quiescence.lock().wakes_at()
    }

    /// What a node heartbeat to `member` says of this group.
    pub(crate) fn offer_to(&self, member: NodeId) -> Option<(RestingGroup, Standing)> {
        let now = self.since_opened();
        let (standing, age) = self.inner.quiescence.lock().offer_to(member, self.config().node_id, now)?;
        let quorum_age_ms = u32::try_from(age.as_millis()).unwrap_or(u32::MAX);
        let Standing { vote, log } = standing.clone();
        Some((RestingGroup { group: self.id(), vote, log, quorum_age_ms }, standing))
    }

    /// The node of `leader` says that this group rests; whether it does so here.
    pub(crate) fn hear_offer(&self, leader: NodeId, offer: &RestingGroup) -> bool {
        let observed = self.observe();
        let standing = Standing { vote: offer.vote, log: offer.log.clone() };
        let patience = self.config().timing.follower_patience((self.config().randomness)());
        if standing.leader() != leader || self.check_sender(&offer.vote).is_err() {
            return false;
        }
        let (accepts, _) = self.change_rest(|quiescence, now| quiescence.hear(now, &standing, &observed, patience));
        if accepts {
            let age = Duration::from_millis(offer.quorum_age_ms.into());
            let as_of = freshness::as_of(self.since_opened(), age, self.config().timing.election_max);
            self.inner.heard.hear(as_of, offer.log.index, self.reader().applied_index());
        }
        accepts
    }

    /// A member has answered an offer: it accepted what was sent at that time, or refused.
    pub(crate) fn note_answer(&self, member: NodeId, standing: &Standing, accepted: Option<Duration>) {
        self.change_rest(|quiescence, now| match accepted {
            Some(sent_at) => (quiescence.accepted(member, standing, sent_at), Timers::Unchanged),
            None => ((), quiescence.refused(member, standing, now)),
        });
    }

    /// On a leader whose group rests: how long ago a quorum's nodes accepted that.
    pub(super) fn quorum_age_at_rest(&self) -> Option<Duration> {
        self.inner.quiescence.lock().quorum_age(self.config().node_id, self.since_opened())
    }

    fn observe(&self) -> Observed {
        let me = self.config().node_id;
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let runs = metrics.running_state.is_ok();
        let settled = metrics.last_applied.clone().filter(|at| metrics.last_log_index == Some(at.index));
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        let others: BTreeSet<NodeId> =
            voters.iter().copied().chain(membership.learner_ids()).filter(|node| *node != me).collect();
        let has_all = |node: &NodeId| {
            let matched = metrics.replication.as_ref().and_then(|progress| progress.get(node));
            matched.is_some_and(|matched| matched.is_some() && *matched == settled)
        };
        let leads_settled = runs
            && metrics.state == ServerState::Leader
            && metrics.vote.is_committed()
            && voters.contains(&me)
            && membership.get_joint_config().len() == 1
            && others.iter().all(has_all)
            && self.inner.in_flight.load(std::sync::atomic::Ordering::Relaxed) == 0;
        Observed {
            standing: settled.map(|log| Standing { vote: metrics.vote, log }),
            follows: runs && matches!(metrics.state, ServerState::Follower | ServerState::Learner),
            leads_settled,
            others,
            voters,
        }
    }
}
