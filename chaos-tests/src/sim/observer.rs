//! The eyes of the invariants: around each state machine, and on the status of each group.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mira_node::member::Watcher;
use mira_proto::NodeId;
use mira_raft::{
    Command, EngineError, Group, GroupId, GroupStatus, RaftHost, Role, StateMachine, StateReader, Txn, inspect,
};

use super::disk::Disk;
use super::invariants::Applied;
use super::network::Network;
use super::panics;
use super::protocol::META_GROUP;
use super::runtime::{self, Sim};
use super::world::World;

/// Opening a group takes no longer, or has failed.
const OPENS_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A production state machine, watched.
pub struct Observed {
    world: Arc<World>,
    replica: (NodeId, GroupId),
    state: Disk,
    machine: Arc<dyn StateMachine>,
}

impl Observed {
    /// Watches `machine`, which applies to `state`.
    pub fn new(world: Arc<World>, replica: (NodeId, GroupId), state: Disk, machine: Arc<dyn StateMachine>) -> Self {
        Observed { world, replica, state, machine }
    }

    /// Compares the whole state with that of every other replica that was ever at this index.
    fn compare_state(&self) {
        let (node, group) = self.replica;
        // A disk that just lost its power has nothing to compare.
        let Ok(Some(applied)) = inspect::applied(&self.state, group) else { return };
        let mut invariants = self.world.invariants.lock();
        let finding = invariants.state_machine_safety.reached(node, group, &applied);
        self.world.check("state machine safety", finding);
        invariants.leader_completeness.committed(group, applied.index, (applied.term, applied.leader));
        if let Ok(Some((index, voters))) = inspect::voters(&self.state, group) {
            invariants.votes_kept.applied(group, index, voters);
        }
    }
}

impl StateMachine for Observed {
    fn apply(&self, command: Command<'_>, txn: &mut Txn<'_>) -> Result<Bytes, EngineError> {
        let (node, group) = self.replica;
        let Command { index, ordinal, time_ms, request, payload } = command;
        let place = (index, ordinal);
        if ordinal > 0 {
            self.world.figures.lock().shared_entries += 1;
        }
        let answer = self.machine.apply(command, txn)?;
        let mut invariants = self.world.invariants.lock();
        let finding = invariants.state_machine_safety.applied((node, group), place, time_ms, (payload, &answer));
        self.world.check("state machine safety", finding);
        if group != META_GROUP {
            let invariants = &mut *invariants;
            let applied = Applied { place, request, payload, answer: &answer };
            for (invariant, finding) in invariants.shard_applied(group, applied) {
                self.world.check(invariant, finding);
            }
        }
        Ok(answer)
    }

    fn shares_entry(&self, payload: &[u8]) -> bool {
        self.machine.shares_entry(payload)
    }

    fn ends_batch(&self, payload: &[u8]) -> bool {
        self.machine.ends_batch(payload)
    }

    fn committed(&self, applied_index: u64) {
        self.machine.committed(applied_index);
        self.compare_state();
    }

    fn restored(&self, state: StateReader, applied_index: u64) {
        self.machine.restored(state, applied_index);
        self.world.note(format_args!("n{} g{} restored at {applied_index}", self.replica.0, self.replica.1));
        if applied_index > 0 {
            self.compare_state();
        }
    }
}

/// What the observer knows of a process.
#[derive(Clone)]
pub struct Watched {
    /// The run.
    pub world: Arc<World>,
    /// Where it is reachable as long as it runs.
    pub network: Arc<Network>,
    /// Its node.
    pub node: NodeId,
    /// Which of the node's processes, in order.
    pub life: u64,
    /// Replication.
    pub host: Arc<RaftHost<Sim>>,
    /// The disks as this process sees them.
    pub disks: [Disk; 2],
}

impl Watched {
    /// Whether a disk of this process failed for good.
    pub fn disk_failed(&self) -> bool {
        self.disks.iter().any(Disk::failed)
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        self.network.lives(self.node, self.life)
    }

    /// Whether a replica of it may stop: the process is gone, its disk failed, or it was told to.
    fn may_stop(&self, group: GroupId) -> bool {
        !self.runs() || self.disk_failed() || self.host.group(group).is_none()
    }

    /// Stands in front of every state machine of the process, and follows the status of its groups.
    pub fn watcher(self) -> Watcher {
        Arc::new(move |group, machine| {
            self.clone().watch_when_open(group);
            Arc::new(Observed::new(self.world.clone(), (self.node, group), self.disks[1].clone(), machine))
        })
    }

    /// Waits until a group is open, then follows its status.
    fn watch_when_open(self, id: GroupId) {
        let world = self.world.clone();
        let deadline = runtime::now() + OPENS_WITHIN;
        world.spawn("status watch", async move {
            while runtime::now() < deadline {
                if let Some(group) = self.host.group(id) {
                    return self.watch(group).await;
                }
                runtime::sleep(LOOK_EVERY).await;
            }
        });
    }

    /// Follows a group's status for as long as its process lives.
    async fn watch(self, group: Group<Sim>) {
        let mut watch = group.watch();
        let mut seen: Option<(Role, u64, Option<NodeId>)> = None;
        while let Some(status) = watch.changed().await {
            let now = (status.role.clone(), status.term, status.leader);
            if seen.as_ref() == Some(&now) {
                continue;
            }
            let runs = self.runs();
            self.world.note(format_args!("n{} g{} {:?} {:?} runs={runs}", self.node, group.id(), now, status.voters));
            self.changed(&status);
            seen = Some(now);
        }
        // The watch ends with the replica.
        let panicked = panics::first();
        self.stopped(group.id(), panicked.as_deref().unwrap_or("no more status"));
    }

    fn stopped(&self, group: GroupId, why: &str) {
        let reason = self.may_stop(group);
        let live = self.world.invariants.lock().replicas_live.stopped(self.node, group, why, reason);
        self.world.check("replicas live", live);
    }

    fn changed(&self, status: &GroupStatus) {
        match &status.role {
            Role::Leader if self.runs() => {
                let mut invariants = self.world.invariants.lock();
                let won = invariants.election_safety.won((self.node, self.life), status);
                self.world.check("election safety", won);
                let complete = invariants.leader_completeness.leads(self.node, status);
                self.world.check("leader completeness", complete);
            }
            Role::Stopped(why) => self.stopped(status.group, why),
            _ => {}
        }
    }
}
