//! Where replicas should be, and the moves that bring them there: plain functions of the cluster state.
//!
//! The *target* is what consistent hashing plans for the nodes that are active. A *move* carries one replica of one
//! shard from where it is towards the target; a shard has at most one at a time, a node receives at most one at a time,
//! and the cluster has at most [`limits::MAX_MOVES`], so that copying stays small beside serving. What a change would
//! move can be asked before it is made ([`pending`]): a dry run and the real thing are the same computation.
//!
//! The meta leader starts moves; the leader of each shard carries them out ([`crate::placement::reconcile`]).

use std::collections::BTreeSet;

use mira_proto::{Code, NodeId, Problem, ShardId, limits, placement, placement::Seat};

use crate::meta::{ClusterState, MetaCommand, NodePhase};

/// A replica that should be elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// The shard.
    pub shard: ShardId,
    /// Whose replica goes; none when the shard gets one more.
    pub from: Option<NodeId>,
    /// Who gets one.
    pub to: NodeId,
}

/// What an operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeChange {
    /// Give a node that has joined its share of the replicas; a draining one keeps what it has.
    Add(NodeId),
    /// Move everything away from a node.
    Drain(NodeId),
    /// Rebuild what a dead node held on one that has joined.
    Replace {
        /// The dead node.
        dead: NodeId,
        /// Who takes its place.
        by: NodeId,
    },
    /// Forget a node that holds nothing.
    Remove(NodeId),
}

/// Where every shard's replicas should be; what is, while no node is active.
pub fn target(cluster: &ClusterState) -> Vec<Vec<NodeId>> {
    let seats: Vec<Seat> = cluster
        .nodes
        .values()
        .filter_map(|node| match cluster.phase(node.id) {
            NodePhase::Active { ring } => Some(Seat { ring, node: node.id, zone: node.zone.clone() }),
            NodePhase::Standby | NodePhase::Draining | NodePhase::Lost => None,
        })
        .collect();
    if seats.is_empty() {
        return cluster.placement.clone();
    }
    placement::plan_replicas(cluster.header.shards, &seats, cluster.header.replication)
}

/// Every replica that is not where it should be, in the order of shards. A shard whose move is under way counts as if
/// that were done.
pub fn pending(cluster: &ClusterState) -> Vec<Planned> {
    let mut planned = Vec::new();
    for (shard, wanted) in (0..).zip(target(cluster)) {
        let current = cluster.replicas_after_move(shard);
        let mut leaving: Vec<NodeId> = current.iter().copied().filter(|node| !wanted.contains(node)).collect();
        // A dead replica first: until it is replaced the shard survives one failure less.
        leaving.sort_by_key(|&node| cluster.phase(node) != NodePhase::Lost);
        let missing = (cluster.header.replication as usize).saturating_sub(current.len());
        let from = std::iter::repeat_n(None, missing).chain(leaving.into_iter().map(Some));
        let joining = wanted.into_iter().filter(|node| !current.contains(node));
        planned.extend(joining.zip(from).map(|(to, from)| Planned { shard, from, to }));
    }
    planned
}

/// What the meta leader should propose now.
pub fn next(cluster: &ClusterState) -> Vec<MetaCommand> {
    if cluster.placement.is_empty() {
        return Vec::new();
    }
    let mut commands: Vec<MetaCommand> = cluster
        .moves
        .iter()
        .filter(|(_, found)| found.from != Some(found.to) && !found.is_given_up() && !may_receive(cluster, found.to))
        .map(|(&shard, found)| MetaCommand::CancelMove { shard, to: found.to })
        .collect();
    if cluster.moves_paused {
        return commands;
    }
    let mut moving: BTreeSet<ShardId> = cluster.moves.keys().copied().collect();
    let mut receiving: BTreeSet<NodeId> = cluster.moves.values().map(|found| found.to).collect();
    let planned = pending(cluster);
    for &Planned { shard, from, to } in &planned {
        if moving.len() >= limits::MAX_MOVES || moving.contains(&shard) || receiving.contains(&to) {
            continue;
        }
        moving.insert(shard);
        receiving.insert(to);
        commands.push(MetaCommand::StartMove { shard, from, to });
    }
    if planned.is_empty() && cluster.moves.is_empty() {
        let leaders = |placement: &[Vec<NodeId>]| -> Vec<NodeId> {
            placement.iter().filter_map(|replicas| replicas.first().copied()).collect()
        };
        let wanted = leaders(&target(cluster));
        if wanted != leaders(&cluster.placement) {
            commands.push(MetaCommand::PreferLeaders(wanted));
        }
    }
    commands
}

fn may_receive(cluster: &ClusterState, node: NodeId) -> bool {
    cluster.nodes.contains_key(&node) && matches!(cluster.phase(node), NodePhase::Active { .. })
}

/// What a change means: the commands that make it, or why it must not be made.
pub fn decide(cluster: &ClusterState, change: NodeChange) -> Result<MetaCommand, Problem> {
    let conflict = |detail: String| Err(Problem::new(Code::Conflict, detail));
    let known = |node: NodeId| {
        let unknown = || Problem::new(Code::NotFound, format!("no node {node:016x} is in the cluster"));
        cluster.nodes.contains_key(&node).then(|| cluster.phase(node)).ok_or_else(unknown)
    };
    match change {
        NodeChange::Add(node) => match known(node)? {
            NodePhase::Lost => {
                conflict(format!("node {node:016x} was given up: empty its folder and let it join again"))
            }
            NodePhase::Active { ring } => Ok(MetaCommand::SetPhases(vec![(node, NodePhase::Active { ring })])),
            NodePhase::Standby | NodePhase::Draining => {
                Ok(MetaCommand::SetPhases(vec![(node, NodePhase::Active { ring: node })]))
            }
        },
        NodeChange::Drain(node) => {
            if known(node)? == NodePhase::Lost {
                return conflict(format!("node {node:016x} was given up already"));
            }
            let drained = with_phases(cluster, &[(node, NodePhase::Draining)]);
            enough_left(cluster, &drained, node)?;
            Ok(MetaCommand::SetPhases(vec![(node, NodePhase::Draining)]))
        }
        NodeChange::Replace { dead, by } => {
            let (phase_of_dead, phase_of_successor) = (known(dead)?, known(by)?);
            if dead == by {
                return Err(Problem::invalid("a node cannot replace itself"));
            }
            if phase_of_dead == NodePhase::Lost
                && phase_of_successor == (NodePhase::Active { ring: ring_of(cluster, by) })
            {
                return Ok(MetaCommand::SetPhases(vec![(dead, NodePhase::Lost)]));
            }
            if phase_of_successor != NodePhase::Standby {
                return conflict(format!(
                    "node {by:016x} holds replicas of its own: drain {dead:016x} instead, or name a node that has just joined"
                ));
            }
            let ring = ring_of(cluster, dead);
            Ok(MetaCommand::SetPhases(vec![(dead, NodePhase::Lost), (by, NodePhase::Active { ring })]))
        }
        NodeChange::Remove(node) => {
            known(node)?;
            if !cluster.holds_nothing(node) {
                return conflict(format!("node {node:016x} still holds replicas: drain it first, and wait"));
            }
            if matches!(cluster.phase(node), NodePhase::Active { .. }) && !cluster.placement.is_empty() {
                return conflict(format!("node {node:016x} is active: drain it first"));
            }
            Ok(MetaCommand::RemoveNode(node))
        }
    }
}

/// The cluster as it would be after the command, as far as placement goes.
pub fn after(cluster: &ClusterState, command: &MetaCommand) -> ClusterState {
    match command {
        MetaCommand::SetPhases(phases) => with_phases(cluster, phases),
        _ => cluster.clone(),
    }
}

fn with_phases(cluster: &ClusterState, phases: &[(NodeId, NodePhase)]) -> ClusterState {
    let mut changed = cluster.clone();
    changed.phases.extend(phases.iter().copied());
    changed
}

/// The seat of a node, also of one that has lost its phase.
fn ring_of(cluster: &ClusterState, node: NodeId) -> u64 {
    match cluster.phase(node) {
        NodePhase::Active { ring } => ring,
        NodePhase::Standby | NodePhase::Draining | NodePhase::Lost => node,
    }
}

/// A drain must leave a node for every replica.
fn enough_left(before: &ClusterState, after: &ClusterState, node: NodeId) -> Result<(), Problem> {
    let active = |cluster: &ClusterState| {
        cluster.nodes.keys().filter(|&&node| matches!(cluster.phase(node), NodePhase::Active { .. })).count()
    };
    let most = before.placement.iter().map(Vec::len).max().unwrap_or(0);
    if active(after) < most {
        let detail = format!(
            "draining node {node:016x} would leave {} active nodes for {most} replicas of each shard: add a node first",
            active(after)
        );
        return Err(Problem::new(Code::Conflict, detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{Move, MoveStep, NodeRecord, state::ClusterHeader};

    /// Nodes 1 to `nodes`, the first `placed` of which hold everything; the others are on standby.
    fn cluster(nodes: u64, placed: u64) -> ClusterState {
        let record = |id| NodeRecord {
            id,
            address: format!("h{id}:1"),
            http_address: String::new(),
            zone: String::new(),
            version: String::new(),
            format: 1,
        };
        let mut cluster = ClusterState {
            header: ClusterHeader {
                cluster_id: 1,
                epoch: 1,
                shards: 16,
                replication: 3,
                expect: 3,
                ..Default::default()
            },
            nodes: (1..=placed).map(|id| (id, record(id))).collect(),
            ..ClusterState::default()
        };
        cluster.placement = target(&cluster);
        cluster.nodes.extend((placed + 1..=nodes).map(|id| (id, record(id))));
        cluster.phases.extend((placed + 1..=nodes).map(|id| (id, NodePhase::Standby)));
        cluster
    }

    /// Carries out every move, as the shards' leaders would; returns how many there were.
    fn settle(cluster: &mut ClusterState) -> usize {
        let mut moved = 0;
        loop {
            let commands = next(cluster);
            if commands.is_empty() {
                return moved;
            }
            for command in commands {
                match command {
                    MetaCommand::StartMove { shard, from, to } => {
                        cluster.moves.insert(shard, Move { from, to, step: MoveStep::Joining });
                        cluster.placement[shard as usize] = cluster.replicas_after_move(shard);
                        cluster.moves.remove(&shard);
                        moved += 1;
                    }
                    MetaCommand::PreferLeaders(leaders) => {
                        for (replicas, leader) in cluster.placement.iter_mut().zip(leaders) {
                            let at = replicas.iter().position(|&node| node == leader).expect("a replica");
                            replicas.swap(0, at);
                        }
                    }
                    other => panic!("unexpected: {other:?}"),
                }
            }
            assert!(moved < 1_000, "it never ends");
        }
    }

    fn make(cluster: &mut ClusterState, change: NodeChange) {
        let command = decide(cluster, change).expect("it is allowed");
        *cluster = after(cluster, &command);
    }

    #[test]
    fn a_node_that_joins_holds_nothing_until_it_is_added() {
        let mut cluster = cluster(4, 3);
        assert_eq!(next(&cluster), []);
        make(&mut cluster, NodeChange::Add(4));
        let planned = pending(&cluster);
        assert!(planned.iter().all(|planned| planned.to == 4 && planned.from.is_some()), "{planned:?}");
        assert_eq!(settle(&mut cluster), planned.len());
        for (placed, wanted) in cluster.placement.iter().zip(target(&cluster)) {
            let set = |nodes: &[NodeId]| nodes.iter().copied().collect::<BTreeSet<_>>();
            assert_eq!((placed[0], set(placed)), (wanted[0], set(&wanted)));
        }
        assert!(!cluster.holds_nothing(4));
    }

    #[test]
    fn moves_are_few_at_a_time_and_none_while_paused() {
        let mut cluster = cluster(4, 3);
        make(&mut cluster, NodeChange::Add(4));
        let started = next(&cluster);
        assert_eq!(started.len(), 1, "a node receives one replica at a time: {started:?}");
        cluster.moves_paused = true;
        assert_eq!(next(&cluster), []);
    }

    #[test]
    fn a_drained_node_ends_with_nothing_and_too_few_nodes_are_refused() {
        let mut four = cluster(4, 4);
        make(&mut four, NodeChange::Drain(2));
        settle(&mut four);
        assert!(four.holds_nothing(2));
        assert!(four.placement.iter().all(|replicas| replicas.len() == 3));
        assert!(matches!(decide(&four, NodeChange::Remove(2)), Ok(MetaCommand::RemoveNode(2))));
        let refused = decide(&four, NodeChange::Drain(3)).expect_err("three replicas need three nodes");
        assert_eq!(refused.code, Code::Conflict);
        assert_eq!(decide(&four, NodeChange::Remove(1)).expect_err("it holds replicas").code, Code::Conflict);
        assert_eq!(decide(&four, NodeChange::Drain(77)).expect_err("unknown").code, Code::NotFound);
    }

    #[test]
    fn a_replacement_takes_over_exactly_what_the_dead_node_held() {
        let mut cluster = cluster(4, 3);
        let held = cluster.placement.iter().filter(|replicas| replicas.contains(&2)).count();
        make(&mut cluster, NodeChange::Replace { dead: 2, by: 4 });
        let planned = pending(&cluster);
        assert_eq!(planned.len(), held);
        assert!(planned.iter().all(|planned| (planned.from, planned.to) == (Some(2), 4)));
        settle(&mut cluster);
        assert!(cluster.holds_nothing(2));
        let again = decide(&cluster, NodeChange::Replace { dead: 2, by: 4 });
        assert!(again.is_ok(), "asking twice does no harm: {again:?}");
        let refused = decide(&cluster, NodeChange::Replace { dead: 1, by: 3 }).expect_err("it has its own replicas");
        assert_eq!(refused.code, Code::Conflict);
    }

    #[test]
    fn a_cluster_of_one_grows_to_three_replicas() {
        let mut cluster = cluster(3, 1);
        assert!(cluster.placement.iter().all(|replicas| replicas.len() == 1));
        make(&mut cluster, NodeChange::Add(2));
        make(&mut cluster, NodeChange::Add(3));
        settle(&mut cluster);
        assert!(cluster.placement.iter().all(|replicas| replicas.len() == 3));
    }

    #[test]
    fn a_move_to_a_node_that_is_given_up_is_cancelled() {
        let mut cluster = cluster(5, 3);
        make(&mut cluster, NodeChange::Add(4));
        let MetaCommand::StartMove { shard, from, to } = next(&cluster)[0] else { panic!("a move") };
        cluster.moves.insert(shard, Move { from, to, step: MoveStep::Joining });
        make(&mut cluster, NodeChange::Replace { dead: 4, by: 5 });
        assert!(next(&cluster).contains(&MetaCommand::CancelMove { shard, to: 4 }));
        cluster.moves.insert(shard, Move { from, to, step: MoveStep::Leaving });
        assert!(cluster.moves[&shard].is_given_up() && cluster.holds(to, shard), "until it has left its group");
        assert_eq!(cluster.wanted_members(shard), cluster.replicas(shard).iter().copied().collect());
        assert_eq!(cluster.replicas_after_move(shard), cluster.replicas(shard));
        assert!(!next(&cluster).contains(&MetaCommand::CancelMove { shard, to: 4 }), "it is said once");
    }
}
