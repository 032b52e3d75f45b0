//! Where things belong: frames on shards, shards on nodes.
//!
//! Both by consistent hash over stable numbers, never addresses, so that a change of nodes or partitions moves as
//! little as it must. These functions only *plan*: the replicated shard map decides (a moving shard loses and doubles
//! nothing because writers and readers follow the map's epoch, not this file). Routers and nodes must agree on every
//! result, so a change here is a change of protocol: the tests pin samples.

use consistent_hash::{DefaultHash, Node, StaticHashRing};

use crate::{CollectionId, FrameId, NodeId, ShardId};

/// Points of each member on the ring. 128 keep the largest share within about a fifth of the mean.
const VIRTUAL_NODES: usize = 128;

type Ring<K> = StaticHashRing<'static, K, (), DefaultHash>;

fn ring<K: std::hash::Hash + Eq + Ord>(members: impl IntoIterator<Item = K>) -> Ring<K> {
    StaticHashRing::new(DefaultHash, members.into_iter().map(|key| Node::new(key).quantity(VIRTUAL_NODES)))
}

/// The shards that hold a collection, in an order that only grows at its end as `partitions` grows.
///
/// `partitions` above the number of shards means all of them.
pub fn shards_of_collection(collection: CollectionId, partitions: u32, shard_count: u32) -> Vec<ShardId> {
    ring(0..shard_count).calc_candidates(&collection).map(|node| node.key).take(partitions.max(1) as usize).collect()
}

/// Decides which of a collection's shards holds a frame. Building it costs a sort, so callers keep it.
pub struct Partitioning {
    shards: Vec<ShardId>,
    ring: Ring<ShardId>,
}

impl Partitioning {
    /// For the collection's shards as [`shards_of_collection`] gives them; at least one.
    pub fn new(shards: Vec<ShardId>) -> Self {
        assert!(!shards.is_empty(), "a collection lies on at least one shard");
        let ring = ring(shards.iter().copied());
        Partitioning { shards, ring }
    }

    /// All shards of the collection.
    pub fn shards(&self) -> &[ShardId] {
        &self.shards
    }

    /// The shard that holds `frame`.
    pub fn shard_of(&self, frame: FrameId) -> ShardId {
        match self.shards[..] {
            [only] => only,
            _ => self.ring.calc_candidates(&frame).next().expect("the ring has a member").key,
        }
    }
}

/// Plans the replicas of every shard: `replication` different nodes each (all of them if there are fewer), the first
/// one being the preferred leader.
///
/// Replicas follow the ring; the leader is the replica that leads fewest shards so far, because a leader does more
/// work than a follower and a bare hash of few shards over few nodes is uneven.
pub fn plan_replicas(shard_count: u32, nodes: &[NodeId], replication: u32) -> Vec<Vec<NodeId>> {
    let ring = ring(nodes.iter().copied());
    let mut leads: std::collections::BTreeMap<NodeId, u32> = nodes.iter().map(|&node| (node, 0)).collect();
    (0..shard_count)
        .map(|shard| {
            let mut replicas: Vec<NodeId> =
                ring.calc_candidates(&shard).map(|node| node.key).take(replication as usize).collect();
            if let Some(leader) = (0..replicas.len()).min_by_key(|&at| (leads[&replicas[at]], at)) {
                replicas.swap(0, leader);
                *leads.get_mut(&replicas[0]).expect("a replica is a node") += 1;
            }
            replicas
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_stay_as_they_are() {
        assert_eq!(shards_of_collection(1, 3, 16), [9, 14, 5]);
        let partitioning = Partitioning::new(vec![3, 7, 11]);
        let homes: Vec<_> = (0..8u128).map(|frame| partitioning.shard_of((frame << 64) | 42)).collect();
        assert_eq!(homes, [11, 3, 3, 11, 3, 11, 11, 3]);
    }

    #[test]
    fn a_collection_keeps_its_shards_when_it_grows() {
        for collection in 0..50 {
            let all = shards_of_collection(collection, 16, 16);
            for partitions in 1..16 {
                assert_eq!(shards_of_collection(collection, partitions, 16), all[..partitions as usize]);
            }
        }
    }

    #[test]
    fn frames_spread_over_the_partitions_and_few_move_when_one_is_added() {
        let before = Partitioning::new(shards_of_collection(9, 4, 16));
        let after = Partitioning::new(shards_of_collection(9, 5, 16));
        let frames = 20_000u128;
        let mut counts = std::collections::BTreeMap::<ShardId, u32>::new();
        let mut moved = 0;
        for frame in (0..frames).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)) {
            *counts.entry(before.shard_of(frame)).or_default() += 1;
            moved += u32::from(before.shard_of(frame) != after.shard_of(frame));
        }
        assert!(counts.values().all(|&count| count > 2_500 && count < 8_000), "{counts:?}");
        assert!(moved < 6_500, "{moved} of {frames} frames moved for a fifth partition");
    }

    #[test]
    fn replicas_are_different_nodes_and_leaders_are_spread() {
        let plan = plan_replicas(16, &[11, 22, 33], 3);
        for replicas in &plan {
            let mut sorted = replicas.clone();
            sorted.sort();
            assert_eq!(sorted, [11, 22, 33]);
        }
        for node in [11, 22, 33] {
            let leads = plan.iter().filter(|replicas| replicas[0] == node).count();
            assert!((5..=6).contains(&leads), "node {node} leads {leads}");
        }
        assert_eq!(plan_replicas(2, &[7], 3), [[7], [7]]);
    }
}
