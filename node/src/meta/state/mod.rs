//! What the meta group knows: the cluster's identity, its nodes, the shard map and the collections.
//!
//! [`ClusterState`] is the whole as one value, which every reader on a node gets as a cheap shared copy. On disk each
//! object is a record of its own, sealed with the cluster key (`super::records`).

mod collections;
mod directory;
mod keys;
mod nodes;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mira_proto::{CollectionId, NodeId, ShardId, node_v1, placement::shards_of_collection};
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};
use serde::{Deserialize, Serialize};

pub use collections::{CollectionRecord, Growth, GrowthStep, NamedSpace, Space};
pub use directory::{CollectionChanges, Collections};
pub use keys::{Erasure, Receipt, Repository, Rewrapped, Rotation, RotationStep};
pub use nodes::{Move, MoveStep, NodePhase, NodeRecord};

/// The cluster's identity and fixed shape.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterHeader {
    /// Random, given once; 0 = the cluster has not been formed.
    pub cluster_id: u128,
    /// Grows with every change.
    pub epoch: u64,
    /// Number of shards.
    pub shards: u32,
    /// Replicas of each shard.
    pub replication: u32,
    /// Nodes to wait for before shards are placed.
    pub expect: u32,
    /// The format level that is switched on: every node knows it ([`mira_proto::FORMAT_LEVEL`]).
    pub format: u32,
    /// Keys of private frames' outermost layer by version, each wrapped with the cluster key; the newest seals.
    pub layer_keys: BTreeMap<u32, Vec<u8>>,
    /// How many collections there are.
    pub collections: u32,
}

/// Names an owner: a hash that routers make.
pub type OwnerName = [u8; 16];

/// What a record of something named lies under: of it no guess at the name can be confirmed.
pub type KeyedName = [u8; 16];

/// Makes keyed names. Drawn once in a cluster's life, and sealed like every record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameKey(pub [u8; 32]);

impl NameKey {
    /// The keyed name of something of that domain (such as `collection`).
    pub fn keyed(&self, domain: &str, name: &[u8]) -> KeyedName {
        let mut hash = blake3::Hasher::new_keyed(&self.0);
        hash.update(&(domain.len() as u64).to_le_bytes()).update(domain.as_bytes()).update(name);
        *hash.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes")
    }
}

/// Everything the meta group knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterState {
    /// Identity and shape.
    pub header: ClusterHeader,
    /// Nodes by id.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// Replicas of every shard, the preferred leader first; empty until placed.
    pub placement: Vec<Vec<NodeId>>,
    /// Collections.
    pub collections: Collections,
    /// Which of them changed of late.
    pub changes: CollectionChanges,
    /// Numbers of collections that were dropped; their frames are being purged or gone.
    pub dropped: RedBlackTreeSetSync<CollectionId>,
    /// What nodes are to the placement, where that was ever said.
    pub phases: BTreeMap<NodeId, NodePhase>,
    /// Moves under way, by shard.
    pub moves: BTreeMap<ShardId, Move>,
    /// Nodes that were removed for good; their ids are never let in again.
    pub removed: BTreeSet<NodeId>,
    /// Whether nothing but damage may start a move.
    pub moves_paused: bool,
    /// Collections that grow, or grew a moment ago.
    pub growths: BTreeMap<CollectionId, Growth>,
    /// Passphrase records of owners.
    pub owners: BTreeMap<OwnerName, String>,
    /// What keys names; none before the cluster is formed.
    pub name_key: Option<NameKey>,
    /// Collections on their way to another key.
    pub rotations: BTreeMap<CollectionId, Rotation>,
    /// Keys that were destroyed, by the map's epoch that it began with.
    pub erasures: BTreeMap<u64, Erasure>,
    /// The key of receipts, wrapped; empty before it is needed.
    pub receipt_key: Vec<u8>,
    /// Places of backups.
    pub repositories: BTreeMap<u128, Repository>,
    /// The backup that is being restored.
    pub restoring: Option<u128>,
    /// Requests that were carried out of late, by their place in the memory of them.
    pub requests: RedBlackTreeMapSync<u64, AnsweredRequest>,
}

/// A request that was carried out, so that it is answered alike when it comes again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredRequest {
    /// The keyed name of its id.
    pub name: KeyedName,
    /// The map's epoch with what it changed.
    pub epoch: u64,
    /// Log-carried time of that.
    pub at_ms: u64,
    /// The reply in the form of the wire, without what only the log decided.
    pub reply: Vec<u8>,
}

/// What a backup says a cluster is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredCluster {
    /// The backup.
    pub backup: u128,
    /// Its collections, with keys that this cluster's key opens.
    pub collections: Vec<CollectionRecord>,
    /// Keys of private frames' outermost layer.
    pub layer_keys: BTreeMap<u32, Vec<u8>>,
    /// Passphrase records of owners.
    pub owners: BTreeMap<OwnerName, String>,
    /// Collections of this cluster that nothing was stored in: they make room.
    pub empty: Vec<CollectionId>,
}

impl ClusterState {
    /// The collection of a name.
    pub fn collection_named(&self, name: &str) -> Option<&CollectionRecord> {
        self.collections.named(name)
    }

    /// Nodes that are not lost.
    pub fn living_nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.keys().copied().filter(|&node| self.phase(node) != NodePhase::Lost)
    }

    /// The nodes that have a replica of one of a collection's shards, or get one.
    pub fn holders(&self, record: &CollectionRecord) -> BTreeSet<NodeId> {
        let shards = shards_of_collection(record.id, record.partitions, self.header.shards);
        holders(&shards, &self.placement, &self.moves)
    }

    /// What a node is to the placement.
    pub fn phase(&self, node: NodeId) -> NodePhase {
        self.phases.get(&node).copied().unwrap_or(NodePhase::Active { ring: node })
    }

    /// Whether a node is to have a replica of a shard now: it is one of its replicas, or becomes one.
    pub fn holds(&self, node: NodeId, shard: ShardId) -> bool {
        let joins = |found: &Move| found.to == node && found.step != MoveStep::Clearing;
        match self.moves.get(&shard) {
            Some(found) if found.to == node => joins(found),
            _ => self.replicas(shard).contains(&node),
        }
    }

    /// Who shall be the members of a shard's group as things stand: its replicas, and of a move under way what its step
    /// says.
    pub fn wanted_members(&self, shard: ShardId) -> BTreeSet<NodeId> {
        let mut wanted: BTreeSet<NodeId> = self.replicas(shard).iter().copied().collect();
        match self.moves.get(&shard) {
            Some(Move { step: MoveStep::Leaving | MoveStep::Clearing, to, .. }) => {
                wanted.remove(to);
            }
            Some(Move { step: MoveStep::Joining, from, to }) => {
                if let Some(from) = from {
                    wanted.remove(from);
                }
                wanted.insert(*to);
            }
            None => {}
        }
        wanted
    }

    /// The replicas of a shard once its move is done.
    pub fn replicas_after_move(&self, shard: ShardId) -> Vec<NodeId> {
        let mut replicas = self.replicas(shard).to_vec();
        match self.moves.get(&shard).filter(|found| !found.is_given_up()) {
            Some(Move { from: Some(from), to, .. }) => {
                replicas.iter_mut().filter(|node| **node == *from).for_each(|node| *node = *to);
            }
            Some(Move { from: None, to, .. }) => replicas.push(*to),
            None => {}
        }
        replicas
    }

    /// The planned replicas of a shard.
    pub fn replicas(&self, shard: ShardId) -> &[NodeId] {
        self.placement.get(shard as usize).map_or(&[], Vec::as_slice)
    }

    /// The map as a router gets it that has the one of epoch `known`, with the collections that changed since; `leader` tells
    /// who leads a shard, as far as this node knows, `placement_key` what the ids of a collection's frames are made with.
    pub fn to_map(
        &self,
        known: u64,
        leader: impl Fn(ShardId) -> Option<NodeId>,
        placement_key: impl Fn(&CollectionRecord) -> Bytes,
    ) -> node_v1::ClusterMap {
        let changed = self.changes.after(known);
        let now = |record: &CollectionRecord| self.collection_to_wire(record, placement_key(record));
        let change = |collection: CollectionId| node_v1::CollectionChange {
            collection,
            now: self.collections.get(&collection).map(now),
        };
        node_v1::ClusterMap {
            cluster_id: cluster_id_text(self.header.cluster_id),
            epoch: self.header.epoch,
            replication: self.header.replication,
            nodes: self.nodes_to_wire(),
            shards: (0..)
                .zip(&self.placement)
                .map(|(shard, replicas)| node_v1::ShardInfo {
                    shard,
                    replicas: replicas.clone(),
                    leader: leader(shard).unwrap_or_default(),
                })
                .collect(),
            all_changed: changed.is_none(),
            changed: changed.into_iter().flatten().map(change).collect(),
            moves: self.moves.iter().map(|(&shard, found)| found.to_wire(shard)).collect(),
            moves_paused: self.moves_paused,
            format: self.header.format,
        }
    }

    /// A collection as routers see it.
    pub fn collection_to_wire(&self, record: &CollectionRecord, placement_key: Bytes) -> node_v1::Collection {
        let (rotation, migration) = (self.rotation_to_wire(record), self.growths.get(&record.id).map(Growth::to_wire));
        node_v1::Collection { migration, rotation, ..record.to_wire(placement_key) }
    }

    /// How far the rotation of a collection's key is.
    pub fn rotation_to_wire(&self, record: &CollectionRecord) -> Option<node_v1::Rotation> {
        self.rotations.get(&record.id).map(|rotation| node_v1::Rotation {
            id: rotation.id,
            to: rotation.to,
            step: node_v1::RotationStep::from(rotation.step).into(),
            done: rotation.done.len() as u32,
            of: match rotation.step {
                RotationStep::Preparing => self.living_nodes().count() as u32,
                RotationStep::Resealing => record.partitions,
                RotationStep::Retiring => self.holders(record).len() as u32,
            },
        })
    }

    /// The nodes as routers and peers see them.
    fn nodes_to_wire(&self) -> Vec<node_v1::NodeInfo> {
        let phase = |node: &NodeRecord| match self.phase(node.id) {
            NodePhase::Standby => node_v1::NodePhase::Standby,
            NodePhase::Active { .. } => node_v1::NodePhase::Active,
            NodePhase::Draining if self.holds_nothing(node.id) => node_v1::NodePhase::Drained,
            NodePhase::Draining => node_v1::NodePhase::Draining,
            NodePhase::Lost => node_v1::NodePhase::Lost,
        };
        self.nodes.values().map(|node| node_v1::NodeInfo { phase: phase(node).into(), ..node.to_wire() }).collect()
    }

    /// Whether a node is replica of no shard and becomes none.
    pub fn holds_nothing(&self, node: NodeId) -> bool {
        self.placement.iter().all(|replicas| !replicas.contains(&node))
            && self.moves.values().all(|found| found.to != node)
    }
}

/// A cluster id as text; empty for none.
pub fn cluster_id_text(id: u128) -> String {
    if id == 0 { String::new() } else { uuid::Uuid::from_u128(id).to_string() }
}

/// The nodes that have a replica of one of these shards, or get one.
pub fn holders(shards: &[ShardId], placement: &[Vec<NodeId>], moves: &BTreeMap<ShardId, Move>) -> BTreeSet<NodeId> {
    let placed = shards.iter().filter_map(|&shard| placement.get(shard as usize)).flatten().copied();
    let moving = moves.iter().filter(|(shard, _)| shards.contains(shard)).map(|(_, found)| found.to);
    placed.chain(moving).collect()
}
