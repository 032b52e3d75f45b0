//! One version of the cluster map, indexed for routing. Never changed once made.
//!
//! Of collections, of which there may be very many, it has those that this router was asked for: each as it is in this
//! version of the map. The next version has them too, but for those that changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use mira_proto::{CollectionId, NodeId, ShardId, limits, node_v1};

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
    changes: Changes,
}

/// When collections changed last, as far as this router has followed them.
#[derive(Clone, Default)]
struct Changes {
    /// Every change after this epoch is known.
    since: u64,
    at: BTreeMap<CollectionId, u64>,
}

impl View {
    /// Indexes a map; collections that are at hand in `old` and have not changed since stay so. The map must tell of all
    /// changes since then, if there is an old one.
    pub fn new(map: node_v1::ClusterMap, old: Option<&View>) -> Self {
        let followed = old.filter(|_| !map.all_changed);
        let mut changes =
            followed.map_or(Changes { since: map.epoch, ..Changes::default() }, |old| old.changes.clone());
        let mut collections = followed.map(|old| old.collections.clone()).unwrap_or_default();
        let shard_count = map.shards.len() as u32;
        if !map.changed.is_empty() {
            let mut now: BTreeMap<CollectionId, Option<node_v1::Collection>> =
                map.changed.into_iter().map(|change| (change.collection, change.now)).collect();
            changes.at.extend(now.keys().map(|&id| (id, map.epoch)));
            collections.retain(|_, route| match now.remove(&route.info.id) {
                None => true,
                Some(None) => false,
                Some(Some(info)) => {
                    if !route.is_of(&info, shard_count) {
                        *route = Arc::new(CollectionRoute::new(info, shard_count));
                    }
                    true
                }
            });
        }
        if changes.at.len() > limits::REMEMBERED_CHANGES {
            changes = Changes { since: map.epoch, ..Changes::default() };
        }
        View {
            cluster_id: map.cluster_id,
            epoch: map.epoch,
            moves: map.moves,
            moves_paused: map.moves_paused,
            nodes: map.nodes.into_iter().map(|node| (node.id, node)).collect(),
            shards: map.shards.into_iter().map(|shard| (shard.shard, shard.replicas)).collect(),
            collections,
            changes,
        }
    }

    /// The same version with a collection at hand that a node has told of, as of that epoch; `None` if it may have changed
    /// since, or this version is older.
    pub fn with(&self, info: node_v1::Collection, as_of: u64) -> Option<View> {
        let known = (self.changes.since..=self.epoch).contains(&as_of);
        if !known || self.changes.at.get(&info.id).is_some_and(|&changed| changed > as_of) {
            return None;
        }
        let mut collections = self.collections.clone();
        if collections.len() >= limits::ROUTED_COLLECTIONS {
            // Two hold what no request is at work with: this version and the next.
            collections.retain(|_, route| Arc::strong_count(route) > 2);
        }
        collections.insert(info.name.clone(), Arc::new(CollectionRoute::new(info, self.shard_count())));
        Some(View {
            cluster_id: self.cluster_id.clone(),
            epoch: self.epoch,
            moves: self.moves.clone(),
            moves_paused: self.moves_paused,
            nodes: self.nodes.clone(),
            shards: self.shards.clone(),
            collections,
            changes: self.changes.clone(),
        })
    }

    /// The collection of that name, if it is at hand.
    pub fn collection(&self, name: &str) -> Option<&Arc<CollectionRoute>> {
        self.collections.get(name)
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

    fn collection(&(name, id, partitions): &(&str, CollectionId, u32)) -> node_v1::Collection {
        node_v1::Collection { id, name: name.into(), partitions, ..Default::default() }
    }

    fn map(epoch: u64, changed: Vec<node_v1::CollectionChange>) -> node_v1::ClusterMap {
        let shard = |shard| node_v1::ShardInfo { shard, replicas: vec![1, 2, 3], leader: 0 };
        node_v1::ClusterMap {
            cluster_id: "c".into(),
            epoch,
            shards: (0..16).map(shard).collect(),
            changed,
            ..Default::default()
        }
    }

    fn view(epoch: u64, collections: impl IntoIterator<Item = node_v1::Collection>) -> View {
        let first = View::new(map(epoch, Vec::new()), None);
        collections.into_iter().fold(first, |view, info| view.with(info, epoch).expect("as of this version"))
    }

    fn changed(collection: CollectionId, now: Option<node_v1::Collection>) -> node_v1::CollectionChange {
        node_v1::CollectionChange { collection, now }
    }

    #[test]
    fn what_did_not_change_is_kept_and_what_moved_is_seen() {
        let old = view(1, [("a", 1, 1), ("b", 2, 1), ("c", 3, 1)].iter().map(collection));
        let changes = vec![changed(2, Some(collection(&("b", 2, 4)))), changed(3, None), changed(9, None)];
        let new = View::new(map(2, changes), Some(&old)).with(collection(&("c", 9, 1)), 2).expect("as of this version");
        let (a, b, c) = (old.collection("a").unwrap(), old.collection("b").unwrap(), old.collection("c").unwrap());
        assert!(Arc::ptr_eq(a, new.collection("a").unwrap()));
        assert!(new.still_at(a, RouteConstraint::Whole));
        assert!(!new.still_at(b, RouteConstraint::Whole), "grown over more shards");
        for constraint in [RouteConstraint::Whole, RouteConstraint::Before, RouteConstraint::After] {
            assert!(!new.still_at(c, constraint), "deleted and made again");
        }
        assert_eq!(new.collection("b").unwrap().partitioning().shards().len(), 4);
        let unknown = node_v1::ClusterMap { all_changed: true, ..map(3, Vec::new()) };
        assert!(View::new(unknown, Some(&new)).collection("a").is_none(), "it may have changed");
    }

    #[test]
    fn what_a_node_tells_of_a_collection_is_taken_only_if_it_is_so_in_this_version() {
        let first = view(4, []);
        let next = View::new(map(7, vec![changed(2, None)]), Some(&first));
        let told = |id, as_of| next.with(collection(&("a", id, 1)), as_of).is_some();
        let table = [(1, 7, true), (1, 5, true), (1, 3, false), (1, 8, false), (2, 6, false), (2, 7, true)];
        for (id, as_of, taken) in table {
            assert_eq!(told(id, as_of), taken, "collection {id} as of {as_of}");
        }
    }

    #[test]
    fn what_nobody_works_with_makes_room() {
        let names: Vec<String> = (0..limits::ROUTED_COLLECTIONS).map(|n| format!("c{n}")).collect();
        let full = view(1, names.iter().zip(1..).map(|(name, id)| collection(&(name, id, 1))));
        let at_work = full.collection("c7").cloned();
        let more = full.with(collection(&("more", 1_000_000, 1)), 1).expect("as of this version");
        assert!(
            more.collection("more").is_some() && more.collection("c7").is_some() && more.collection("c8").is_none()
        );
        drop(at_work);
    }

    #[test]
    fn while_a_collection_moves_each_request_depends_on_its_own_part_of_the_map() {
        let at = |epoch, partitions, migration: Option<(u32, u32, MigrationStep)>| {
            let mut info = collection(&("a", 2, partitions));
            info.migration = migration.map(|(from, to, step)| node_v1::Migration {
                from,
                to,
                step: step.into(),
                ..Default::default()
            });
            view(epoch, [info])
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
