//! Whether the cluster's groups are led, as its nodes say it now.
//!
//! What a router remembers of leaders says who led when it last asked. Whether to send callers to this router is asked of
//! the nodes themselves, at most once a second however often it is asked.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use mira_proto::node_v1::{GroupStatus, ReplicaRole, StatusRequest};
use mira_proto::{NodeId, ShardId, limits};
use tokio::time::{Instant, timeout};

use super::{Cluster, View};

/// An answer is given again for so long.
const KEPT: Duration = Duration::from_secs(1);

/// What the nodes say of their groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupHealth {
    /// Whether a node leads the meta group.
    pub meta_led: bool,
    /// Shards that no node leads.
    pub leaderless: Vec<ShardId>,
    /// Replicas that have stopped: the shard (none for the meta group), and where.
    pub stopped: Vec<(Option<ShardId>, NodeId)>,
}

impl GroupHealth {
    /// Whether every group is led by somebody.
    pub fn is_good(&self) -> bool {
        self.meta_led && self.leaderless.is_empty()
    }

    fn of(shards: impl Iterator<Item = ShardId>, answers: &[(NodeId, Vec<GroupStatus>)]) -> Self {
        let groups = || answers.iter().flat_map(|(node, groups)| groups.iter().map(move |group| (*node, group)));
        let is_led = |id: u32| groups().any(|(_, group)| group.group == id && group.role() == ReplicaRole::Leader);
        let stopped = groups().filter(|(_, group)| group.role() == ReplicaRole::Stopped);
        GroupHealth {
            meta_led: is_led(0),
            leaderless: shards.filter(|shard| !is_led(shard + 1)).collect(),
            stopped: stopped.map(|(node, group)| (group.group.checked_sub(1), node)).collect(),
        }
    }
}

impl Cluster {
    /// What the nodes say of their groups; what they said less than a second ago, if they were asked then.
    pub async fn group_health(&self, view: &View) -> Arc<GroupHealth> {
        let mut kept = self.health.lock().await;
        if let Some((_, health)) = kept.as_ref().filter(|(asked, _)| asked.elapsed() < KEPT) {
            return health.clone();
        }
        let ask = |node: NodeId| async move {
            let clients = self.clients_of(view, node).ok()?;
            let request = StatusRequest { groups_only: true, ..StatusRequest::default() };
            let answer = timeout(limits::STATUS_TRY / 2, clients.cluster().status(request)).await.ok()?.ok()?;
            Some((node, answer.into_inner().groups))
        };
        let answers: Vec<_> = join_all(view.nodes().map(|node| ask(node.id))).await.into_iter().flatten().collect();
        let health = Arc::new(GroupHealth::of(view.shard_ids(), &answers));
        *kept = Some((Instant::now(), health.clone()));
        health
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(group: u32, role: ReplicaRole) -> GroupStatus {
        GroupStatus { group, role: role.into(), ..GroupStatus::default() }
    }

    #[test]
    fn a_group_is_led_if_one_node_says_so_and_replicas_that_stopped_are_named() {
        use ReplicaRole::{Follower, Leader, Stopped};
        let first = (7, vec![group(0, Leader), group(1, Stopped), group(2, Follower)]);
        let second = (8, vec![group(0, Follower), group(1, Leader), group(2, Stopped)]);
        let health = GroupHealth::of(0..2, &[first, second]);
        assert!(health.meta_led && !health.is_good());
        assert_eq!(health.leaderless, [1]);
        assert_eq!(health.stopped, [(Some(0), 7), (Some(1), 8)]);
        assert!(!GroupHealth::of(0..2, &[]).meta_led, "nobody answers");
    }
}
