//! What a node says of itself when someone asks for its status.

use std::ops::ControlFlow;

use mira_proto::node_v1;
use mira_raft::{Group, Role};

use crate::{
    meta::{ClusterState, META_GROUP, state::cluster_id_text},
    node::Node,
    shard::{machine, record},
    system,
};

/// The process, its disk, and every group on it.
pub fn node_status(node: &Node) -> node_v1::NodeStatus {
    let cluster = node.cluster();
    node_v1::NodeStatus {
        node_id: node.id(),
        cluster_id: cluster_id_text(node.cluster_id()),
        version: env!("CARGO_PKG_VERSION").into(),
        uptime_ms: node.uptime().as_millis() as u64,
        resident_bytes: system::resident_bytes(),
        disk_used_bytes: system::folder_bytes(node.data()),
        disk_free_bytes: system::disk_space(node.data()),
        groups: node.host().groups().iter().map(|group| group_status(node, &cluster, group)).collect(),
    }
}

/// Who leads every group on it.
pub fn groups_only(node: &Node) -> node_v1::NodeStatus {
    let group = |group: &Group| {
        let status = group.status();
        node_v1::GroupStatus {
            group: group.id(),
            role: wire_role(&status.role).into(),
            term: status.term,
            leader: status.leader.unwrap_or_default(),
            ..Default::default()
        }
    };
    let groups = node.host().groups().iter().map(group).collect();
    node_v1::NodeStatus { node_id: node.id(), groups, ..Default::default() }
}

fn group_status(node: &Node, cluster: &ClusterState, group: &Group) -> node_v1::GroupStatus {
    let status = group.status();
    let shard = group.id().checked_sub(META_GROUP + 1).and_then(|id| node.shard(id).ok());
    let index = shard.map(|shard| shard.index().stats()).unwrap_or_default();
    node_v1::GroupStatus {
        group: group.id(),
        role: wire_role(&status.role).into(),
        term: status.term,
        leader: status.leader.unwrap_or_default(),
        last_log: status.last_log_index,
        committed: status.committed,
        applied: status.applied,
        snapshot: status.snapshot_index,
        voters: status.voters.into_iter().collect(),
        learners: status.learners.into_iter().collect(),
        frames: if group.id() == META_GROUP { 0 } else { frames(cluster, group) },
        vectors: index.vectors,
        index_bytes: index.bytes,
        index_lag: index.lag,
        index_ready: index.ready || group.id() == META_GROUP,
    }
}

/// Frames of all collections in a shard.
fn frames(cluster: &ClusterState, group: &Group) -> u64 {
    let mut frames = 0;
    // The shard has few of the cluster's collections, and they lie together.
    let counted = group.reader().scan_prefix(&[record::Table::Counts.into()], false, &mut |key, stored| {
        let collection = key.get(1..9).and_then(|id| Some(u64::from_be_bytes(id.try_into().ok()?)));
        if collection.is_some_and(|collection| cluster.collections.contains_key(&collection)) {
            frames += machine::decode_count(Some(stored)).unwrap_or_default();
        }
        ControlFlow::Continue(())
    });
    counted.map_or(0, |()| frames)
}

/// A role as the wire has it.
fn wire_role(role: &Role) -> node_v1::ReplicaRole {
    match role {
        Role::Leader => node_v1::ReplicaRole::Leader,
        Role::Follower => node_v1::ReplicaRole::Follower,
        Role::Candidate => node_v1::ReplicaRole::Candidate,
        Role::Learner => node_v1::ReplicaRole::Learner,
        Role::Stopped(_) => node_v1::ReplicaRole::Stopped,
    }
}
