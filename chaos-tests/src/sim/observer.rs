//! The eyes of the invariants: around each state machine, and on the status of each group.

use std::sync::Arc;

use bytes::Bytes;
use mira_proto::NodeId;
use mira_raft::{Command, EngineError, Group, GroupId, GroupStatus, Role, StateMachine, StateReader, Txn, inspect};

use super::disk::Disk;
use super::network::Network;
use super::node::{META_GROUP, Process};
use super::runtime::Sim;
use super::world::World;

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
    }
}

impl StateMachine for Observed {
    fn apply(&self, command: Command<'_>, txn: &mut Txn<'_>) -> Result<Bytes, EngineError> {
        let (node, group) = self.replica;
        let (index, time_ms, payload) = (command.index, command.time_ms, command.payload);
        let answer = self.machine.apply(command, txn)?;
        let mut invariants = self.world.invariants.lock();
        let finding = invariants.state_machine_safety.applied((node, group), index, time_ms, (payload, &answer));
        self.world.check("state machine safety", finding);
        if group != META_GROUP {
            let invariants = &mut *invariants;
            for (invariant, finding) in invariants.shard_applied(group, index, payload, &answer) {
                self.world.check(invariant, finding);
            }
        }
        Ok(answer)
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

/// Follows a group's status for as long as its process lives.
pub fn watch_group(world: &Arc<World>, network: &Arc<Network>, process: Arc<Process>, group: Group<Sim>) {
    let (watching, network) = (world.clone(), network.clone());
    world.spawn("status watch", async move {
        let mut watch = group.watch();
        let mut seen: Option<(Role, u64, Option<NodeId>)> = None;
        while let Some(status) = watch.changed().await {
            let now = (status.role.clone(), status.term, status.leader);
            if seen.as_ref() == Some(&now) {
                continue;
            }
            let runs = network.process(process.node).is_some_and(|running| running.life == process.life);
            watching.note(format_args!("n{} g{} {:?} {:?} runs={runs}", process.node, group.id(), now, status.voters));
            changed(&watching, &process, &status, runs);
            seen = Some(now);
        }
        // The watch ends with the replica.
        let runs = network.process(process.node).is_some_and(|running| running.life == process.life);
        let reason = !runs || process.disk_failed() || process.host.group(group.id()).is_none();
        let live = watching.invariants.lock().replicas_live.stopped(process.node, group.id(), "no more status", reason);
        watching.check("replicas live", live);
    });
}

fn changed(world: &World, process: &Process, status: &GroupStatus, runs: bool) {
    let mut invariants = world.invariants.lock();
    match &status.role {
        Role::Leader if runs => {
            let won = invariants.election_safety.won((process.node, process.life), status);
            world.check("election safety", won);
            let complete = invariants.leader_completeness.leads(process.node, status);
            world.check("leader completeness", complete);
        }
        Role::Stopped(why) => {
            let reason = !runs || process.disk_failed() || process.host.group(status.group).is_none();
            let alive = invariants.replicas_live.stopped(process.node, status.group, why, reason);
            world.check("replicas live", alive);
        }
        _ => {}
    }
}
