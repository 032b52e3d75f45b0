//! Bringing what is in line with what should be: a pure plan, made again every tick and after every change of the
//! cluster.
//!
//! Every node opens the shards it is to hold and destroys those it holds no more; the first replica of a new shard's
//! plan starts its Raft group; the meta leader takes nodes into the meta group, places the shards and starts moves
//! ([`super::rebalance`]). A shard's leader brings the group's members in line with the map
//! ([`ClusterState::wanted_members`]): learners first, votes once they have caught up, then it says that the move is done.
//! It hands over to the preferred leader, and purges dropped collections. Each action may be repeated or lost at any
//! point: the next plan starts from what is.

use std::collections::{BTreeMap, BTreeSet};

use mira_proto::{CollectionId, NodeId, ShardId, limits};
use mira_raft::{GroupStatus, Role};

use crate::meta::{ClusterState, MetaCommand, Move, MoveStep, NodePhase};
use crate::placement::rebalance;

/// Something to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Open this node's replica.
    OpenShard(ShardId),
    /// Start the shard's group with these voters.
    InitializeShard(ShardId, BTreeSet<NodeId>),
    /// Remove this node's replica, after the meta leader has confirmed that it is to hold none.
    DestroyShard(ShardId),
    /// Remove this node's damaged replica, which has left its group, and say so: it then joins again.
    ClearShard(ShardId),
    /// Take a node into a group, without a vote.
    AddLearner(Group, NodeId),
    /// Let these nodes vote; of the meta group the others stay as learners.
    SetVoters(Group, BTreeSet<NodeId>),
    /// Put a learner out of a group.
    RemoveLearner(Group, NodeId),
    /// Have the meta group change what the cluster is.
    Propose(MetaCommand),
    /// Hand leadership to another voter.
    HandTo(Group, NodeId),
    /// Hand a shard to its preferred leader.
    Prefer(ShardId, NodeId),
    /// Remove what a dropped collection left in a shard.
    Purge(ShardId, CollectionId),
}

/// A Raft group of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// The meta group.
    Meta,
    /// A shard's.
    Shard(ShardId),
}

/// What the plan is made from.
pub struct Observed<'a> {
    /// This node.
    pub me: NodeId,
    /// The cluster as it should be.
    pub cluster: &'a ClusterState,
    /// The meta group here.
    pub meta: &'a GroupStatus,
    /// The shards open here.
    pub shards: &'a BTreeMap<ShardId, GroupStatus>,
    /// The shards of which this node has data, open or not.
    pub present: &'a BTreeSet<ShardId>,
    /// The shards whose replica here cannot be opened or read, or has stopped.
    pub damaged: &'a BTreeSet<ShardId>,
    /// Dropped collections that still have frames in shards that this node leads.
    pub leftovers: &'a [(ShardId, CollectionId)],
}

/// What to do.
pub fn plan(observed: &Observed<'_>) -> Vec<Action> {
    let mut actions = plan_meta(observed);
    for shard in 0..observed.cluster.placement.len() as ShardId {
        if observed.cluster.holds(observed.me, shard) {
            actions.extend(plan_shard(observed, shard));
        }
    }
    actions.extend(plan_removals(observed));
    actions.extend(observed.leftovers.iter().map(|&(shard, collection)| Action::Purge(shard, collection)));
    actions
}

/// What this node holds and should not.
fn plan_removals(observed: &Observed<'_>) -> Vec<Action> {
    let (cluster, me) = (observed.cluster, observed.me);
    if cluster.placement.is_empty() {
        return Vec::new();
    }
    let clears = |found: &Move| found.to == me && found.step == MoveStep::Clearing;
    let clearing: BTreeSet<ShardId> =
        cluster.moves.iter().filter(|(_, found)| clears(found)).map(|(&shard, _)| shard).collect();
    let gone = observed.present.iter().filter(|&&shard| !cluster.holds(me, shard) && !clearing.contains(&shard));
    clearing
        .iter()
        .map(|&shard| Action::ClearShard(shard))
        .chain(gone.map(|&shard| Action::DestroyShard(shard)))
        .collect()
}

fn plan_shard(observed: &Observed<'_>, shard: ShardId) -> Option<Action> {
    let (cluster, me) = (observed.cluster, observed.me);
    let replicas = cluster.replicas(shard);
    if observed.damaged.contains(&shard) && replicas.len() > 1 {
        return repair(observed, shard);
    }
    let Some(status) = observed.shards.get(&shard) else { return Some(Action::OpenShard(shard)) };
    let unborn = status.voters.is_empty() && status.last_log_index == 0 && status.term == 0;
    // A replica that was cleared is empty too, but its group is alive elsewhere: only a shard that never moved is born.
    if unborn && replicas.first() == Some(&me) && !cluster.moves.contains_key(&shard) {
        return Some(Action::InitializeShard(shard, replicas.iter().copied().collect()));
    }
    if !status.is_leader() {
        return None;
    }
    match lead_towards(Group::Shard(shard), status, &cluster.wanted_members(shard), me) {
        Course::There => {}
        Course::Wait => return None,
        Course::Do(action) => return Some(action),
    }
    if let Some(found) = cluster.moves.get(&shard) {
        return after_members(shard, found);
    }
    let &preferred = replicas.first()?;
    let movable = preferred != me && status.voters.contains(&preferred) && caught_up(status, preferred);
    movable.then_some(Action::Prefer(shard, preferred))
}

/// A replica that is damaged leaves its group and is rebuilt from the others; first it gives leadership away. The only
/// replica of a shard has nothing to be rebuilt from, and serves what it can.
fn repair(observed: &Observed<'_>, shard: ShardId) -> Option<Action> {
    let me = observed.me;
    if let Some(status) = observed.shards.get(&shard).filter(|status| status.is_leader()) {
        let successor = status.voters.iter().find(|&&node| node != me && caught_up(status, node))?;
        return Some(Action::HandTo(Group::Shard(shard), *successor));
    }
    let propose = match observed.cluster.moves.get(&shard) {
        None => MetaCommand::StartMove { shard, from: Some(me), to: me },
        // Damaged on its way in, it can never catch up: out again first.
        Some(found) if found.to == me && found.step == MoveStep::Joining => MetaCommand::CancelMove { shard, to: me },
        Some(_) => return None,
    };
    Some(Action::Propose(propose))
}

/// How a group comes to the members it should have.
enum Course {
    /// It has them.
    There,
    /// Someone has to catch up first.
    Wait,
    /// By doing this next.
    Do(Action),
}

/// The next step from the members a group has to those it should have. Learners that are not wanted stay until the
/// votes are right.
fn lead_towards(group: Group, status: &GroupStatus, wanted: &BTreeSet<NodeId>, me: NodeId) -> Course {
    let members: BTreeSet<NodeId> = status.voters.union(&status.learners).copied().collect();
    if let Some(&missing) = wanted.difference(&members).next() {
        return Course::Do(Action::AddLearner(group, missing));
    }
    if status.voters != *wanted || status.is_changing {
        if !wanted.difference(&status.voters).all(|&node| caught_up(status, node)) {
            return Course::Wait;
        }
        if !wanted.contains(&me) {
            let successor = status.voters.intersection(wanted).find(|&&node| caught_up(status, node));
            return successor.map_or(Course::Wait, |&successor| Course::Do(Action::HandTo(group, successor)));
        }
        return Course::Do(Action::SetVoters(group, wanted.clone()));
    }
    status.learners.first().map_or(Course::There, |&learner| Course::Do(Action::RemoveLearner(group, learner)))
}

/// The group's members are as its move wants them: what follows.
fn after_members(shard: ShardId, found: &Move) -> Option<Action> {
    let to = found.to;
    match found.step {
        MoveStep::Leaving => Some(Action::Propose(MetaCommand::StepMove { shard, to, step: MoveStep::Clearing })),
        // Its node says when it is done.
        MoveStep::Clearing => None,
        MoveStep::Joining => Some(Action::Propose(MetaCommand::FinishMove { shard, to })),
    }
}

fn caught_up(status: &GroupStatus, node: NodeId) -> bool {
    status.lag.get(&node).is_some_and(|lag| lag.is_some_and(|lag| lag <= limits::CAUGHT_UP_ENTRIES))
}

fn plan_meta(observed: &Observed<'_>) -> Vec<Action> {
    let (cluster, meta) = (observed.cluster, observed.meta);
    if meta.role != Role::Leader || cluster.header.cluster_id == 0 {
        return Vec::new();
    }
    let known: BTreeSet<NodeId> = meta.voters.union(&meta.learners).copied().collect();
    let mut actions: Vec<Action> = cluster
        .nodes
        .keys()
        .filter(|node| !known.contains(node))
        .map(|&node| Action::AddLearner(Group::Meta, node))
        .collect();
    let voters = meta_voters(cluster, meta);
    if voters != meta.voters || meta.is_changing {
        if voters.contains(&observed.me) {
            actions.push(Action::SetVoters(Group::Meta, voters));
        } else if let Some(&successor) = meta.voters.intersection(&voters).find(|&&node| caught_up(meta, node)) {
            actions.push(Action::HandTo(Group::Meta, successor));
        }
    } else if let Some(&gone) = meta.learners.iter().find(|node| !cluster.nodes.contains_key(node)) {
        actions.push(Action::RemoveLearner(Group::Meta, gone));
    }
    if cluster.placement.is_empty() && cluster.nodes.len() >= cluster.header.expect.max(1) as usize {
        actions.push(Action::Propose(MetaCommand::PlaceShards(rebalance::target(cluster))));
    }
    actions.extend(rebalance::next(cluster).into_iter().map(Action::Propose));
    actions
}

/// Present voters stay while they are active; active learners that have caught up join them, up to the replication
/// factor, and always an odd number: an even one survives no more failures and costs a bigger quorum. Without enough
/// active ones the others keep their votes: losing a voter that still answers is worse than keeping one that will go.
fn meta_voters(cluster: &ClusterState, meta: &GroupStatus) -> BTreeSet<NodeId> {
    let active =
        |node: &&NodeId| cluster.nodes.contains_key(node) && matches!(cluster.phase(**node), NodePhase::Active { .. });
    let wanted = (cluster.header.replication.max(1) as usize).max(meta.voters.len());
    let stay = meta.voters.iter().filter(active);
    let ready = meta.learners.iter().filter(active).filter(|&&node| caught_up(meta, node));
    let mut voters: Vec<NodeId> = stay.chain(ready).copied().take(wanted).collect();
    let going = meta.voters.iter().filter(|node| !active(node));
    let needed = meta.voters.len().saturating_sub(voters.len());
    voters.extend(going.take(needed));
    // A change that was left half-way counts those who go and those who come.
    let may_shrink = meta.is_changing || voters.len() > meta.voters.len();
    if voters.len().is_multiple_of(2) && may_shrink {
        voters.pop();
    }
    voters.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{NodeRecord, state::ClusterHeader};

    const S: Group = Group::Shard(0);

    fn node(id: NodeId) -> (NodeId, NodeRecord) {
        let record = NodeRecord {
            id,
            address: format!("h{id}:1"),
            http_address: String::new(),
            zone: String::new(),
            version: String::new(),
            format: 1,
        };
        (id, record)
    }

    fn cluster(nodes: &[NodeId], placement: Vec<Vec<NodeId>>) -> ClusterState {
        ClusterState {
            header: ClusterHeader {
                cluster_id: 1,
                epoch: 1,
                shards: 2,
                replication: 3,
                expect: 3,
                ..Default::default()
            },
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
            is_changing: false,
            learners: learners.iter().copied().collect(),
            lag: lag.iter().copied().collect(),
            quorum_age: None,
        }
    }

    fn plan_for(cluster: &ClusterState, meta: &GroupStatus, shards: &[(ShardId, GroupStatus)]) -> Vec<Action> {
        let shards: BTreeMap<ShardId, GroupStatus> = shards.iter().cloned().collect();
        let present = shards.keys().copied().collect();
        let stopped = |status: &GroupStatus| matches!(status.role, Role::Stopped(_));
        let damaged = shards.iter().filter(|(_, status)| stopped(status)).map(|(&shard, _)| shard).collect();
        plan(&Observed { me: 1, cluster, meta, shards: &shards, present: &present, damaged: &damaged, leftovers: &[] })
    }

    #[test]
    fn a_growing_cluster_goes_from_one_meta_voter_to_three_and_then_places_its_shards() {
        let two = cluster(&[1, 2], vec![]);
        let meta = status(Role::Leader, &[1], &[], &[]);
        assert_eq!(plan_for(&two, &meta, &[]), [Action::AddLearner(Group::Meta, 2)]);
        let meta = status(Role::Leader, &[1], &[2], &[(2, Some(0))]);
        assert_eq!(plan_for(&two, &meta, &[]), [], "two voters survive no more failures than one");
        let three = cluster(&[1, 2, 3], vec![]);
        let meta = status(Role::Leader, &[1], &[2, 3], &[(2, Some(0)), (3, Some(4))]);
        let actions = plan_for(&three, &meta, &[]);
        assert_eq!(actions[0], Action::SetVoters(Group::Meta, [1, 2, 3].into()));
        assert!(
            matches!(&actions[1], Action::Propose(MetaCommand::PlaceShards(plan)) if plan.len() == 2 && plan[0].len() == 3)
        );
    }

    #[test]
    fn a_change_of_voters_that_was_left_half_way_is_ended() {
        let four = cluster(&[1, 2, 3, 4], vec![vec![1, 2, 3], vec![1, 2, 3]]);
        let lag = [(2, Some(0)), (3, Some(0)), (4, Some(0))];
        let left = |voters: &[NodeId], learners: &[NodeId]| GroupStatus {
            is_changing: true,
            ..status(Role::Leader, voters, learners, &lag)
        };
        let ends = |meta: &GroupStatus| {
            let actions = plan_for(&four, meta, &[]);
            actions.into_iter().find(|action| matches!(action, Action::SetVoters(Group::Meta, _)))
        };
        let three = Some(Action::SetVoters(Group::Meta, [1, 2, 3].into()));
        assert_eq!(ends(&left(&[1, 2, 3], &[4])), three, "the old voters are the new ones");
        assert_eq!(ends(&left(&[1, 2, 3, 4], &[])), three, "one for another: an odd number again");
        let whole = status(Role::Leader, &[1, 2, 3], &[4], &lag);
        assert_eq!(ends(&whole), None);
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

    /// Shard 0 on 1, 2, 3 with a move, node 1 leading; what it does next.
    fn moving(found: Move, status: GroupStatus, me: NodeId) -> Vec<Action> {
        let mut cluster = cluster(&[1, 2, 3, 4], vec![vec![1, 2, 3]]);
        cluster.moves.insert(0, found);
        let meta = GroupStatus { role: Role::Follower, ..status.clone() };
        let damaged = if matches!(status.role, Role::Stopped(_)) { [0].into() } else { BTreeSet::new() };
        let shards = [(0, status)].into();
        let present = [0].into();
        plan(&Observed {
            me,
            cluster: &cluster,
            meta: &meta,
            shards: &shards,
            present: &present,
            damaged: &damaged,
            leftovers: &[],
        })
    }

    #[test]
    fn a_move_adds_a_learner_waits_votes_it_in_and_says_so() {
        let found = Move { from: Some(3), to: 4, step: MoveStep::Joining };
        let lead = |voters: &[NodeId], learners: &[NodeId], lag| {
            status(Role::Leader, voters, learners, &[(2, Some(0)), (3, Some(0)), (4, lag)])
        };
        let table = [
            (lead(&[1, 2, 3], &[], None), vec![Action::AddLearner(S, 4)]),
            (lead(&[1, 2, 3], &[4], None), vec![]),
            (lead(&[1, 2, 3], &[4], Some(5_000)), vec![]),
            (lead(&[1, 2, 3], &[4], Some(3)), vec![Action::SetVoters(S, [1, 2, 4].into())]),
            (lead(&[1, 2, 4], &[3], Some(0)), vec![Action::RemoveLearner(S, 3)]),
            (lead(&[1, 2, 4], &[], Some(0)), vec![Action::Propose(MetaCommand::FinishMove { shard: 0, to: 4 })]),
        ];
        for (status, expected) in table {
            assert_eq!(moving(found, status.clone(), 1), expected, "{status:?}");
        }
    }

    #[test]
    fn a_leader_that_goes_hands_over_first() {
        let found = Move { from: Some(1), to: 4, step: MoveStep::Joining };
        let status = status(Role::Leader, &[1, 2, 3], &[4], &[(2, Some(5_000)), (3, Some(0)), (4, Some(0))]);
        assert_eq!(moving(found, status, 1), [Action::HandTo(S, 3)], "to one that has caught up");
    }

    #[test]
    fn a_damaged_replica_leaves_is_cleared_and_joins_again() {
        let at = |step| Move { from: Some(3), to: 3, step };
        let lead = |voters: &[NodeId], learners: &[NodeId]| {
            status(Role::Leader, voters, learners, &[(2, Some(0)), (3, Some(0))])
        };
        assert_eq!(moving(at(MoveStep::Leaving), lead(&[1, 2, 3], &[]), 1), [Action::SetVoters(S, [1, 2].into())]);
        assert_eq!(
            moving(at(MoveStep::Leaving), lead(&[1, 2], &[]), 1),
            [Action::Propose(MetaCommand::StepMove { shard: 0, to: 3, step: MoveStep::Clearing })]
        );
        let stopped = status(Role::Stopped("damaged".into()), &[1, 2, 3], &[], &[]);
        assert_eq!(moving(at(MoveStep::Leaving), stopped.clone(), 3), [], "it waits until it is out");
        assert_eq!(moving(at(MoveStep::Clearing), stopped, 3), [Action::ClearShard(0)]);
        assert_eq!(moving(at(MoveStep::Joining), lead(&[1, 2], &[]), 1), [Action::AddLearner(S, 3)]);
    }

    #[test]
    fn a_stopped_replica_asks_to_be_rebuilt_unless_it_is_the_only_one() {
        let follows = status(Role::Follower, &[2], &[], &[]);
        let stopped = status(Role::Stopped("damaged".into()), &[1, 2, 3], &[], &[]);
        let three = cluster(&[1, 2, 3], vec![vec![1, 2, 3]]);
        let start = MetaCommand::StartMove { shard: 0, from: Some(1), to: 1 };
        assert_eq!(plan_for(&three, &follows, &[(0, stopped.clone())]), [Action::Propose(start)]);
        let alone = cluster(&[1], vec![vec![1]]);
        assert_eq!(plan_for(&alone, &follows, &[(0, stopped)]), []);
    }

    #[test]
    fn a_replica_that_is_damaged_while_it_joins_is_taken_out_again() {
        let stopped = status(Role::Stopped("damaged".into()), &[1, 2, 3], &[4], &[]);
        let cancel = [Action::Propose(MetaCommand::CancelMove { shard: 0, to: 4 })];
        for from in [Some(3), Some(4), None] {
            let found = Move { from, to: 4, step: MoveStep::Joining };
            assert_eq!(moving(found, stopped.clone(), 4), cancel, "{from:?}");
        }
        let found = Move { from: Some(3), to: 4, step: MoveStep::Joining };
        let another = status(Role::Stopped("damaged".into()), &[1, 2, 3], &[4], &[]);
        assert_eq!(moving(found, another, 2), [], "the other replica waits until the move is done");
    }

    #[test]
    fn a_cleared_replica_never_starts_a_group_of_its_own() {
        let unborn = GroupStatus { term: 0, last_log_index: 0, ..status(Role::Learner, &[], &[], &[]) };
        let found = Move { from: Some(1), to: 1, step: MoveStep::Joining };
        assert_eq!(moving(found, unborn, 1), []);
    }

    #[test]
    fn a_replica_that_is_elsewhere_now_is_destroyed() {
        let placed = cluster(&[1, 2, 3, 4], vec![vec![2, 3, 4]]);
        let follows = status(Role::Follower, &[1, 2, 3], &[], &[]);
        assert_eq!(plan_for(&placed, &follows, &[(0, follows.clone())]), [Action::DestroyShard(0)]);
    }

    #[test]
    fn a_node_that_goes_gives_its_meta_vote_to_one_that_stays() {
        let mut four = cluster(&[1, 2, 3, 4], vec![vec![1, 2, 4]]);
        four.phases.insert(3, NodePhase::Draining);
        let follows = status(Role::Follower, &[1, 2, 4], &[], &[]);
        let meta = status(Role::Leader, &[1, 2, 3], &[4], &[(2, Some(0)), (3, Some(0)), (4, Some(0))]);
        four.moves_paused = true;
        let actions = plan_for(&four, &meta, &[(0, follows.clone())]);
        assert_eq!(actions, [Action::SetVoters(Group::Meta, [1, 2, 4].into())]);
        four.phases.insert(4, NodePhase::Standby);
        assert_eq!(plan_for(&four, &meta, &[(0, follows)]), [], "nobody could take it");
    }
}
