//! Bringing what is in line with what should be: a pure plan, made again every half second and after every change of
//! the cluster.
//!
//! Every node opens its shards; the first replica of a shard's plan starts its Raft group; the meta leader takes new
//! nodes into the meta group and places the shards; a shard's leader hands over to the preferred one and purges dropped
//! collections. Each action may be repeated or lost at any point: the next plan starts from what is.

use std::collections::{BTreeMap, BTreeSet};

use mira_proto::{CollectionId, NodeId, ShardId, placement};
use mira_raft::{GroupStatus, Role};

use crate::meta::ClusterState;

/// Most entries a replica may lack to be handed leadership or a vote.
const CAUGHT_UP: u64 = 100;

/// Something to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Open this node's replica.
    OpenShard(ShardId),
    /// Start the shard's group with these voters.
    InitializeShard(ShardId, BTreeSet<NodeId>),
    /// Take a node into the meta group, without a vote.
    AddMetaLearner(NodeId),
    /// Let these nodes vote in the meta group.
    SetMetaVoters(BTreeSet<NodeId>),
    /// Decide where the shards live.
    PlaceShards(Vec<Vec<NodeId>>),
    /// Hand a shard to its preferred leader.
    Prefer(ShardId, NodeId),
    /// Remove what a dropped collection left in a shard.
    Purge(ShardId, CollectionId),
}

/// What the plan is made from.
pub struct Situation<'a> {
    /// This node.
    pub me: NodeId,
    /// The cluster as it should be.
    pub cluster: &'a ClusterState,
    /// The meta group here.
    pub meta: &'a GroupStatus,
    /// The shards open here.
    pub shards: &'a BTreeMap<ShardId, GroupStatus>,
    /// Dropped collections that still have frames in shards that this node leads.
    pub leftovers: &'a [(ShardId, CollectionId)],
}

/// What to do.
pub fn plan(situation: &Situation<'_>) -> Vec<Action> {
    let mut actions = plan_meta(situation);
    for (shard, replicas) in (0..).zip(&situation.cluster.placement) {
        if replicas.contains(&situation.me) {
            actions.extend(plan_shard(situation, shard, replicas));
        }
    }
    actions.extend(situation.leftovers.iter().map(|&(shard, collection)| Action::Purge(shard, collection)));
    actions
}

fn plan_shard(situation: &Situation<'_>, shard: ShardId, replicas: &[NodeId]) -> Option<Action> {
    let Some(status) = situation.shards.get(&shard) else { return Some(Action::OpenShard(shard)) };
    let unborn = status.voters.is_empty() && status.last_log_index == 0 && status.term == 0;
    if unborn && replicas[0] == situation.me {
        return Some(Action::InitializeShard(shard, replicas.iter().copied().collect()));
    }
    let preferred = replicas[0];
    let caught_up = status.lag.get(&preferred).is_some_and(|lag| lag.is_some_and(|lag| lag <= CAUGHT_UP));
    let movable = status.is_leader() && preferred != situation.me && status.voters.contains(&preferred) && caught_up;
    movable.then_some(Action::Prefer(shard, preferred))
}

fn plan_meta(situation: &Situation<'_>) -> Vec<Action> {
    let (cluster, meta) = (situation.cluster, situation.meta);
    if meta.role != Role::Leader || cluster.header.cluster_id == 0 {
        return Vec::new();
    }
    let known: BTreeSet<NodeId> = meta.voters.union(&meta.learners).copied().collect();
    let mut actions: Vec<Action> =
        cluster.nodes.keys().filter(|node| !known.contains(node)).map(|&node| Action::AddMetaLearner(node)).collect();
    let voters = meta_voters(cluster, meta);
    if voters != meta.voters {
        actions.push(Action::SetMetaVoters(voters));
    }
    if cluster.placement.is_empty() && cluster.nodes.len() >= cluster.header.expect.max(1) as usize {
        let nodes: Vec<NodeId> = cluster.nodes.keys().copied().collect();
        let plan = placement::plan_replicas(cluster.header.shards, &nodes, cluster.header.replication);
        actions.push(Action::PlaceShards(plan));
    }
    actions
}

/// Present voters stay; learners that have caught up join them, up to the replication factor, and always an odd number:
/// an even one survives no more failures and costs a bigger quorum.
fn meta_voters(cluster: &ClusterState, meta: &GroupStatus) -> BTreeSet<NodeId> {
    let wanted = cluster.header.replication.max(1) as usize;
    let ready = meta.learners.iter().filter(|node| {
        cluster.nodes.contains_key(node)
            && meta.lag.get(node).is_some_and(|lag| lag.is_some_and(|lag| lag <= CAUGHT_UP))
    });
    let mut voters: Vec<NodeId> =
        meta.voters.iter().chain(ready).copied().take(wanted.max(meta.voters.len())).collect();
    if voters.len().is_multiple_of(2) && voters.len() > meta.voters.len() {
        voters.pop();
    }
    voters.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{NodeRecord, state::Header};

    fn node(id: NodeId) -> (NodeId, NodeRecord) {
        let record = NodeRecord {
            id,
            address: format!("h{id}:1"),
            http_address: String::new(),
            zone: String::new(),
            version: String::new(),
        };
        (id, record)
    }

    fn cluster(nodes: &[NodeId], placement: Vec<Vec<NodeId>>) -> ClusterState {
        ClusterState {
            header: Header { cluster_id: 1, epoch: 1, shards: 2, replication: 3, expect: 3 },
            nodes: nodes.iter().map(|&id| node(id)).collect(),
            placement,
            ..ClusterState::default()
        }
    }

    fn status(role: Role, voters: &[NodeId], learners: &[NodeId], lag: &[(NodeId, Option<u64>)]) -> GroupStatus {
        GroupStatus {
            group: 0,
            role,
            term: 1,
            leader: None,
            last_log_index: 5,
            committed: 5,
            applied: 5,
            snapshot_index: 0,
            purged: 0,
            voters: voters.iter().copied().collect(),
            learners: learners.iter().copied().collect(),
            lag: lag.iter().copied().collect(),
            quorum_age: None,
        }
    }

    fn plan_for(cluster: &ClusterState, meta: &GroupStatus, shards: &[(ShardId, GroupStatus)]) -> Vec<Action> {
        let shards = shards.iter().cloned().collect();
        plan(&Situation { me: 1, cluster, meta, shards: &shards, leftovers: &[] })
    }

    #[test]
    fn a_growing_cluster_goes_from_one_meta_voter_to_three_and_then_places_its_shards() {
        let two = cluster(&[1, 2], vec![]);
        let meta = status(Role::Leader, &[1], &[], &[]);
        assert_eq!(plan_for(&two, &meta, &[]), [Action::AddMetaLearner(2)]);
        let meta = status(Role::Leader, &[1], &[2], &[(2, Some(0))]);
        assert_eq!(plan_for(&two, &meta, &[]), [], "two voters survive no more failures than one");
        let three = cluster(&[1, 2, 3], vec![]);
        let meta = status(Role::Leader, &[1], &[2, 3], &[(2, Some(0)), (3, Some(4))]);
        let actions = plan_for(&three, &meta, &[]);
        assert_eq!(actions[0], Action::SetMetaVoters([1, 2, 3].into()));
        assert!(matches!(&actions[1], Action::PlaceShards(plan) if plan.len() == 2 && plan[0].len() == 3));
    }

    #[test]
    fn a_follower_of_the_meta_group_decides_nothing() {
        let three = cluster(&[1, 2, 3], vec![]);
        assert_eq!(plan_for(&three, &status(Role::Follower, &[2], &[], &[]), &[]), []);
    }

    #[test]
    fn shards_are_opened_started_and_handed_to_their_preferred_leader() {
        let placed = cluster(&[1, 2, 3], vec![vec![1, 2, 3], vec![2, 1, 3]]);
        let meta = status(Role::Follower, &[1, 2, 3], &[], &[]);
        assert_eq!(plan_for(&placed, &meta, &[]), [Action::OpenShard(0), Action::OpenShard(1)]);
        let unborn = GroupStatus { term: 0, last_log_index: 0, ..status(Role::Learner, &[], &[], &[]) };
        let actions = plan_for(&placed, &meta, &[(0, unborn.clone()), (1, unborn)]);
        assert_eq!(actions, [Action::InitializeShard(0, [1, 2, 3].into())], "only the first replica starts a group");
        let leading = |lag| status(Role::Leader, &[1, 2, 3], &[], &[(2, lag), (3, Some(0))]);
        let follows = status(Role::Follower, &[1, 2, 3], &[], &[]);
        for (lag, moves) in [(Some(0), true), (Some(5_000), false), (None, false)] {
            let actions = plan_for(&placed, &meta, &[(0, follows.clone()), (1, leading(lag))]);
            assert_eq!(actions == [Action::Prefer(1, 2)], moves, "lag {lag:?}");
        }
    }
}
