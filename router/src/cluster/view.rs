//! One version of the cluster map, indexed for routing. Never changed once made.

use std::collections::BTreeMap;
use std::sync::Arc;

use mira_proto::{NodeId, ShardId, node_v1};

use super::{CollectionRoute, Group, RouteConstraint};

/// A map that a router works by.
pub struct View {
    /// The cluster.
    pub cluster_id: String,
    /// The map's version.
    pub epoch: u64,
    /// Replicas on their way.
    pub moves: Vec<node_v1::Move>,
    /// Whether an operator has stopped moves for now.
    pub moves_paused: bool,
    nodes: BTreeMap<NodeId, node_v1::NodeInfo>,
    shards: BTreeMap<ShardId, Vec<NodeId>>,
    collections: BTreeMap<String, Arc<CollectionRoute>>,
}

impl View {
    /// Indexes a map; collections that have not changed since `old` keep what was computed for them.
    pub fn new(map: node_v1::ClusterMap, old: Option<&View>) -> Self {
        let shard_count = map.shards.len() as u32;
        let route = |info: node_v1::Collection| {
            let known = old.and_then(|old| old.collections.get(&info.name));
            let kept = known.filter(|known| known.is_of(&info, shard_count)).cloned();
            let name = info.name.clone();
            (name, kept.unwrap_or_else(|| Arc::new(CollectionRoute::new(info, shard_count))))
        };
        View {
            cluster_id: map.cluster_id,
            epoch: map.epoch,
            moves: map.moves,
            moves_paused: map.moves_paused,
            nodes: map.nodes.into_iter().map(|node| (node.id, node)).collect(),
            shards: map.shards.into_iter().map(|shard| (shard.shard, shard.replicas)).collect(),
            collections: map.collections.into_iter().map(route).collect(),
        }
    }

    /// The collection of that name.
    pub fn collection(&self, name: &str) -> Option<&Arc<CollectionRoute>> {
        self.collections.get(name)
    }

    /// All collections by name.
    pub fn collections(&self) -> impl Iterator<Item = &Arc<CollectionRoute>> {
        self.collections.values()
    }

    /// Whether the collection is still the same and where it was, as far as that matters.
    pub fn still_at(&self, route: &CollectionRoute, constraint: RouteConstraint) -> bool {
        self.collection(&route.info.name).is_some_and(|now| now.same_place(route, constraint))
    }

    /// The shards, ascending.
    pub fn shard_ids(&self) -> impl Iterator<Item = ShardId> {
        self.shards.keys().copied()
    }

    /// How many shards there are.
    pub fn shard_count(&self) -> u32 {
        self.shards.len() as u32
    }

    /// The replicas of a group in the map's order: the preferred leader first. Of the meta group, all nodes.
    pub fn replicas(&self, group: Group) -> Vec<NodeId> {
        match group {
            Group::Meta => self.nodes.keys().copied().collect(),
            Group::Shard(shard) => self.shards.get(&shard).cloned().unwrap_or_default(),
        }
    }

    /// The nodes by id.
    pub fn nodes(&self) -> impl Iterator<Item = &node_v1::NodeInfo> {
        self.nodes.values()
    }

    /// Where a node's gRPC is.
    pub fn address(&self, node: NodeId) -> Option<&String> {
        self.nodes.get(&node).map(|node| &node.address)
    }

    /// Where all nodes' gRPC is.
    pub fn addresses(&self) -> impl Iterator<Item = &String> {
        self.nodes.values().map(|node| &node.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mira_proto::node_v1::MigrationStep;

    fn map(epoch: u64, collections: &[(&str, u64, u32)]) -> node_v1::ClusterMap {
        let collection = |&(name, id, partitions): &(&str, u64, u32)| node_v1::Collection {
            id,
            name: name.into(),
            partitions,
            ..Default::default()
        };
        let shard = |shard| node_v1::ShardInfo { shard, replicas: vec![1, 2, 3], leader: 0 };
        node_v1::ClusterMap {
            cluster_id: "c".into(),
            epoch,
            shards: (0..16).map(shard).collect(),
            collections: collections.iter().map(collection).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn what_did_not_change_is_kept_and_what_moved_is_seen() {
        let old = View::new(map(1, &[("a", 1, 1), ("b", 2, 1), ("c", 3, 1)]), None);
        let new = View::new(map(2, &[("a", 1, 1), ("b", 2, 4), ("c", 9, 1)]), Some(&old));
        let (a, b, c) = (old.collection("a").unwrap(), old.collection("b").unwrap(), old.collection("c").unwrap());
        assert!(Arc::ptr_eq(a, new.collection("a").unwrap()));
        assert!(new.still_at(a, RouteConstraint::Whole));
        assert!(!new.still_at(b, RouteConstraint::Whole), "grown over more shards");
        for constraint in [RouteConstraint::Whole, RouteConstraint::Before, RouteConstraint::After] {
            assert!(!new.still_at(c, constraint), "deleted and made again");
        }
        assert_eq!(new.collection("b").unwrap().partitioning().shards().len(), 4);
    }

    #[test]
    fn while_a_collection_moves_each_request_depends_on_its_own_part_of_the_map() {
        let at = |epoch, partitions, migration: Option<(u32, u32, MigrationStep)>| {
            let mut map = map(epoch, &[("a", 2, partitions)]);
            map.collections[0].migration = migration.map(|(from, to, step)| node_v1::Migration {
                from,
                to,
                step: step.into(),
                ..Default::default()
            });
            View::new(map, None)
        };
        let before = at(1, 2, None);
        let copying = at(2, 2, Some((2, 4, MigrationStep::Copying)));
        let clearing = at(3, 4, Some((2, 4, MigrationStep::Clearing)));
        let after = at(5, 4, None);
        let route = |view: &View| view.collection("a").unwrap().clone();
        let still = |now: &View, then: &View| {
            [RouteConstraint::Whole, RouteConstraint::Before, RouteConstraint::After]
                .map(|constraint| now.still_at(&route(then), constraint))
        };
        assert_eq!(still(&copying, &before), [false, true, false]);
        assert_eq!(still(&clearing, &copying), [false, true, true]);
        assert_eq!(still(&after, &clearing), [false, false, true]);
        assert_eq!(still(&after, &before), [false; 3]);
        let grown = route(&copying);
        assert_eq!((grown.partitioning().shards().len(), grown.targets().len()), (4, 2));
        assert_eq!(grown.before_migration().unwrap().shards(), route(&before).partitioning().shards());
        assert_eq!(grown.targets(), &route(&after).partitioning().shards()[2..]);
        assert!(grown.is_copying() && !route(&clearing).is_copying());
        assert!(route(&after).targets().is_empty() && route(&after).before_migration().is_none());
    }
}
