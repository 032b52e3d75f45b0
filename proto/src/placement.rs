//! Where things belong: frames on shards, shards on nodes.
//!
//! Both by consistent hash over stable numbers, never addresses, so that a change of nodes or partitions moves as
//! little as it must. These functions only *plan*: the replicated shard map decides (a moving shard loses and doubles
//! nothing because writers and readers follow the map's epoch, not this file). Routers and nodes must agree on every
//! result, so a change here is a change of protocol: the tests pin samples.
//!
//! # Which bits of an id place a frame
//!
//! A frame's shard follows from its id alone. UUIDs of versions 7 and 8 (RFC 9562) are placed by 32 bits, so that whoever
//! makes an id can choose the frames that lie together; the ids that MIRA makes carry a keyed digest of their session
//! there. All other ids are placed by all of their bits. As a big-endian number, an id is
//!
//! ```text
//! bits   127 … 80    79 … 76   75 … 64   63 62    61 … 32          31 … 0
//! v7     unix_ts_ms  7         rand_a    1 0      rand_b, 30 bits  rand_b, 32 bits: placement
//! v8     custom_a    8         custom_b  1 0      custom_c         custom_c:        placement
//! bytes  0 … 5       6         6, 7      8        8 … 11           12 … 15
//! ```
//!
//! The last 32 bits of version 7 are random in every generator that counts within a millisecond, because counters stand
//! in front (RFC 9562, section 6.2), so ids of others spread evenly. A foreign version 8 need not be random there: that
//! costs balance and nothing else. An id of another variant than RFC 9562's is placed by all of its bits.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use consistent_hash::{DefaultHash, Node, StaticHashRing};
use uuid::Uuid;

use crate::{CollectionId, FrameId, NodeId, ShardId};

/// Points of each shard on the ring of a collection's frames. 128 keep the largest share within about a fifth of the
/// mean.
const SHARD_POINTS: usize = 128;
/// Points of each node on the ring of shards: more, because a cluster has few nodes and a node's share is its load.
const NODE_POINTS: usize = 1_024;

type Ring<K> = StaticHashRing<'static, K, (), DefaultHash>;

fn ring<K: std::hash::Hash + Eq + Ord>(members: impl IntoIterator<Item = K>, points: usize) -> Ring<K> {
    StaticHashRing::new(DefaultHash, members.into_iter().map(|key| Node::new(key).quantity(points)))
}

/// The shards that hold a collection, in an order that only grows at its end as `partitions` grows.
///
/// `partitions` above the number of shards means all of them.
pub fn shards_of_collection(collection: CollectionId, partitions: u32, shard_count: u32) -> Vec<ShardId> {
    ring(0..shard_count, SHARD_POINTS)
        .calc_candidates(&collection)
        .map(|node| node.key)
        .take(partitions.max(1) as usize)
        .collect()
}

/// What a frame is placed by: what is equal for two ids puts them on one shard, however many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlacementInput {
    /// The last 32 bits of an id of version 7 or 8.
    SessionBits(u32),
    /// All bits of any other id.
    WholeId(FrameId),
}

impl Hash for PlacementInput {
    /// By its number alone: which of the two it is would be hashed with a width that depends on the machine.
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            PlacementInput::SessionBits(bits) => bits.hash(state),
            PlacementInput::WholeId(id) => id.hash(state),
        }
    }
}

/// The bits of an id that decide on which shard its frame lies (see the module).
pub fn placement_bits(id: FrameId) -> PlacementInput {
    if has_session_bits(id) { PlacementInput::SessionBits(id as u32) } else { PlacementInput::WholeId(id) }
}

/// The id with these bits to be placed by: all ids with the same ones lie on one shard.
///
/// # Panics
/// If the id is not of version 7 or 8.
pub fn with_session_bits(id: Uuid, digest: u32) -> Uuid {
    let id = id.as_u128();
    assert!(has_session_bits(id), "only ids of versions 7 and 8 are placed by some of their bits");
    Uuid::from_u128(id >> 32 << 32 | u128::from(digest))
}

/// Whether it is a UUID of version 7 or 8.
fn has_session_bits(id: FrameId) -> bool {
    let (version, variant) = (id >> 76 & 0xf, id >> 62 & 0b11);
    variant == 0b10 && (version == 7 || version == 8)
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
        let ring = ring(shards.iter().copied(), SHARD_POINTS);
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
            _ => self.ring.calc_candidates(&placement_bits(frame)).next().expect("the ring has a member").key,
        }
    }
}

/// A node's place in the plan.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seat {
    /// Where it stands on the ring: its own id, or that of the node it replaced, whose replicas it then inherits
    /// without moving any other.
    pub ring: u64,
    /// The node.
    pub node: NodeId,
    /// Its failure domain; empty = one of its own.
    pub zone: String,
}

impl Seat {
    /// The seat of a node that replaced nobody, in no zone.
    pub fn of(node: NodeId) -> Self {
        Seat { ring: node, node, zone: String::new() }
    }
}

/// Plans the replicas of every shard: `replication` different nodes each (all of them if there are fewer), in as many
/// different zones as there are, the first one being the preferred leader.
///
/// Replicas follow the ring; the leader is the replica that leads fewest shards so far, because a leader does more
/// work than a follower and a bare hash of few shards over few nodes is uneven.
pub fn plan_replicas(shard_count: u32, seats: &[Seat], replication: u32) -> Vec<Vec<NodeId>> {
    let by_ring: BTreeMap<u64, &Seat> = seats.iter().map(|seat| (seat.ring, seat)).collect();
    let ring = ring(by_ring.keys().copied(), NODE_POINTS);
    let mut leads: BTreeMap<NodeId, u32> = seats.iter().map(|seat| (seat.node, 0)).collect();
    (0..shard_count)
        .map(|shard| {
            let order: Vec<&Seat> = ring.calc_candidates(&shard).map(|node| by_ring[&node.key]).collect();
            let mut replicas = spread(&order, replication as usize);
            if let Some(leader) = (0..replicas.len()).min_by_key(|&at| (leads[&replicas[at]], at)) {
                replicas.swap(0, leader);
                *leads.get_mut(&replicas[0]).expect("a replica is a node") += 1;
            }
            replicas
        })
        .collect()
}

/// Takes nodes in their order, first one of each zone, then a second of each, until there are enough.
fn spread(order: &[&Seat], wanted: usize) -> Vec<NodeId> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, NodeId)> = Vec::with_capacity(order.len());
    for seat in order {
        let round = match seat.zone.as_str() {
            "" => 0,
            zone => {
                let count = seen.entry(zone).or_default();
                *count += 1;
                *count - 1
            }
        };
        ranked.push((round, seat.node));
    }
    ranked.sort_by_key(|&(round, _)| round);
    ranked.into_iter().take(wanted).map(|(_, node)| node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A UUID of version 7 of which only the bits in front differ from another with the same `bits`.
    fn version_7(front: u128, bits: u32) -> FrameId {
        let rest = front & !(0xf << 76) & !(0b11 << 62) & !0xffff_ffff;
        rest | 7 << 76 | 0b10 << 62 | u128::from(bits)
    }

    #[test]
    fn samples_stay_as_they_are() {
        assert_eq!(shards_of_collection(1, 3, 16), [9, 14, 5]);
        let partitioning = Partitioning::new(vec![3, 7, 11]);
        let homes: Vec<_> = (0..8u128).map(|frame| partitioning.shard_of((frame << 64) | 42)).collect();
        assert_eq!(homes, [11, 3, 3, 11, 3, 11, 11, 3]);
    }

    /// The examples of RFC 9562, a version 7 of another variant among them, and ids that share their last 32 bits.
    #[test]
    fn ids_stay_on_their_shards() {
        let (some, all) = (Partitioning::new(vec![3, 7, 11]), Partitioning::new((0..16).collect()));
        let table = [
            ("00000000-0000-0000-0000-000000000000", (7, 7)),
            ("ffffffff-ffff-ffff-ffff-ffffffffffff", (7, 10)),
            ("c232ab00-9414-11ec-b3c8-9f6bdeced846", (3, 13)),
            ("5df41881-3aed-3515-88a7-2f4a814cf09e", (3, 3)),
            ("919108f7-52d1-4320-9bac-f847db4148a8", (11, 14)),
            ("2ed6657d-e927-568b-95e1-2665a8aea6a2", (11, 11)),
            ("1ec9414c-232a-6b00-b3c8-9f6bdeced846", (3, 10)),
            ("017f22e2-79b0-7cc3-98c4-dc0c0c07398f", (7, 2)),
            ("01999999-0000-7000-8000-00000000beef", (7, 7)),
            ("01999999-ffff-7fff-bfff-ffff0000beef", (7, 7)),
            ("2489e9ad-2ee2-8e00-8ec9-32d5f69181c0", (7, 9)),
            ("5c146b14-3c52-8afd-938a-375d0000beef", (7, 7)),
            ("017f22e2-79b0-7cc3-d8c4-dc0c0c07398f", (7, 7)),
        ];
        let found = table.map(|(id, _)| {
            let number = Uuid::parse_str(id).expect("an id").as_u128();
            (id, (some.shard_of(number), all.shard_of(number)))
        });
        assert_eq!(found, table);
    }

    #[test]
    fn versions_7_and_8_are_placed_by_their_last_bits_and_all_others_by_the_whole_id() {
        let whole = |id: &str| (id.to_owned(), None);
        let session = |id: &str| (id.to_owned(), Some(0x0a0b_0c0d));
        for (id, bits) in [
            session("01999999-1234-7000-8000-00000a0b0c0d"),
            session("01999999-1234-7fff-bfff-ffff0a0b0c0d"),
            session("ffffffff-ffff-8fff-9fff-ffff0a0b0c0d"),
            whole("01999999-1234-1000-8000-00000a0b0c0d"),
            whole("01999999-1234-4000-8000-00000a0b0c0d"),
            whole("01999999-1234-6000-8000-00000a0b0c0d"),
            whole("01999999-1234-9000-8000-00000a0b0c0d"),
            whole("01999999-1234-7000-0000-00000a0b0c0d"),
            whole("01999999-1234-7000-c000-00000a0b0c0d"),
            whole("00000000-0000-0000-0000-00000a0b0c0d"),
        ] {
            let number = Uuid::parse_str(&id).expect("an id").as_u128();
            let expected = bits.map_or(PlacementInput::WholeId(number), PlacementInput::SessionBits);
            assert_eq!(placement_bits(number), expected, "{id}");
        }
    }

    #[test]
    fn session_bits_are_written_behind_everything_else() {
        let id = Uuid::parse_str("01999999-1234-7abc-9def-0123456789ab").expect("an id");
        let bound = with_session_bits(id, 0xcafe_f00d);
        assert_eq!(bound.to_string(), "01999999-1234-7abc-9def-0123cafef00d");
        assert_eq!(placement_bits(bound.as_u128()), PlacementInput::SessionBits(0xcafe_f00d));
    }

    #[test]
    #[should_panic(expected = "only ids of versions 7 and 8")]
    fn an_id_of_another_version_has_no_session_bits() {
        with_session_bits(Uuid::from_u128(42), 1);
    }

    proptest! {
        #[test]
        fn ids_of_one_session_lie_on_one_shard(
            (first, second) in any::<(u128, u128)>(), bits: u32, collection: u64, partitions in 1u32..64,
        ) {
            let partitioning = Partitioning::new(shards_of_collection(collection, partitions, 64));
            let bound = |front: u128, version: u128| version_7(front, bits) ^ (7 ^ version) << 76;
            let shard = partitioning.shard_of(bound(first, 7));
            prop_assert_eq!(partitioning.shard_of(bound(second, 7)), shard);
            prop_assert_eq!(partitioning.shard_of(bound(second, 8)), shard);
        }

        #[test]
        fn writing_session_bits_changes_nothing_else(front: u128, bits: u32, digest: u32) {
            let id = Uuid::from_u128(version_7(front, bits));
            let bound = with_session_bits(id, digest);
            prop_assert_eq!(bound.as_u128() >> 32, id.as_u128() >> 32);
            prop_assert_eq!(bound.as_u128() as u32, digest);
            prop_assert_eq!(bound.get_version_num(), 7);
        }
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
        let plan = plan_replicas(16, &[11, 22, 33].map(Seat::of), 3);
        for replicas in &plan {
            let mut sorted = replicas.clone();
            sorted.sort();
            assert_eq!(sorted, [11, 22, 33]);
        }
        for node in [11, 22, 33] {
            let leads = plan.iter().filter(|replicas| replicas[0] == node).count();
            assert!((5..=6).contains(&leads), "node {node} leads {leads}");
        }
        assert_eq!(plan_replicas(2, &[Seat::of(7)], 3), [[7], [7]]);
    }

    #[test]
    fn replicas_of_a_shard_lie_in_different_zones_while_there_are_some() {
        let seats: Vec<Seat> =
            (1..=9).map(|node| Seat { zone: format!("zone {}", node % 3), ..Seat::of(node) }).collect();
        for replicas in plan_replicas(64, &seats, 3) {
            let zones: std::collections::BTreeSet<u64> = replicas.iter().map(|node| node % 3).collect();
            assert_eq!(zones.len(), 3, "{replicas:?}");
        }
        let two_zones: Vec<Seat> =
            (1..=4).map(|node| Seat { zone: format!("zone {}", node % 2), ..Seat::of(node) }).collect();
        for replicas in plan_replicas(64, &two_zones, 3) {
            let even = replicas.iter().filter(|&node| node % 2 == 0).count();
            assert!((1..=2).contains(&even), "{replicas:?}");
        }
    }

    #[test]
    fn a_replacement_inherits_what_its_predecessor_held_and_moves_nothing_else() {
        let before = plan_replicas(64, &[1, 2, 3, 4].map(Seat::of), 3);
        let seats = [Seat::of(1), Seat { ring: 2, ..Seat::of(9) }, Seat::of(3), Seat::of(4)];
        for (before, after) in before.iter().zip(plan_replicas(64, &seats, 3)) {
            let expected: Vec<NodeId> = before.iter().map(|&node| if node == 2 { 9 } else { node }).collect();
            assert_eq!(after, expected);
        }
    }

    #[test]
    fn a_new_node_takes_about_its_share_and_nothing_moves_between_the_others() {
        let (shards, replication) = (1_024, 3);
        let before = plan_replicas(shards, &[1, 2, 3, 4, 5].map(Seat::of), replication);
        let after = plan_replicas(shards, &[1, 2, 3, 4, 5, 6].map(Seat::of), replication);
        let mut moved = 0;
        for (before, after) in before.iter().zip(&after) {
            let added: Vec<_> = after.iter().filter(|node| !before.contains(node)).collect();
            assert!(added.iter().all(|&&node| node == 6), "{before:?} became {after:?}");
            moved += added.len();
        }
        let ideal = shards as f64 * replication as f64 / 6.0;
        let share = moved as f64 / ideal;
        assert!((0.9..=1.1).contains(&share), "{moved} replicas moved, {ideal} would be ideal");
    }
}
