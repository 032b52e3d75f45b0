//! What the meta group knows: the cluster's identity, its nodes, the shard map and the collections.
//!
//! [`ClusterState`] is the whole as one value, which every reader on a node gets as a cheap shared copy. On disk each
//! object is a record of its own, sealed with the cluster key ([`super::machine`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use mira_proto::model::{Metric, Quantization};
use mira_proto::vectors::{OWN_SPACE, SpaceNumber};
use mira_proto::{CollectionId, NodeId, Problem, ShardId, node_v1, placement::shards_of_collection};
use serde::{Deserialize, Serialize};

use super::keys::{self, Erasure, Repository, Rotation, RotationStep};

/// The cluster's identity and fixed shape.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
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
}

/// Names an owner: a hash that routers make.
pub type OwnerName = [u8; 16];

/// A storage node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its id for life.
    pub id: NodeId,
    /// host:port of its gRPC.
    pub address: String,
    /// host:port of its HTTP.
    pub http_address: String,
    /// Failure domain; empty = none named.
    pub zone: String,
    /// Build that it runs.
    pub version: String,
    /// The highest format level that the build knows.
    pub format: u32,
}

/// What a node is to the placement of shards. A node without a record of it is active on a seat of its own: those that
/// were there when the shards were placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodePhase {
    /// It has joined and holds nothing until it is added.
    Standby,
    /// It holds replicas, at this place of the hash ring.
    Active {
        /// Its own id, or that of the node it replaced.
        ring: u64,
    },
    /// Its replicas move away.
    Draining,
    /// It is gone for good; its replicas move to others without its help.
    Lost,
}

/// One replica of a shard on its way. There is at most one for each shard, and every step is safe to repeat, so
/// whatever crashes, the move goes on where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Whose replica goes; none when the shard gets one more; `to` itself when a damaged replica is made anew.
    pub from: Option<NodeId>,
    /// Who gets one.
    pub to: NodeId,
    /// How far it has come.
    pub step: MoveStep,
}

/// The steps of a move. A plain move begins with the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MoveStep {
    /// The damaged replica leaves its group, so that its lost memory can never vote.
    Leaving,
    /// It has left; its node removes what it has of the shard.
    Clearing,
    /// `to` follows as a learner, is brought up to date, gets its vote, and `from` leaves.
    Joining,
}

/// A collection on its way to more partitions. Its frames move as [`crate::shard::tenure`] says; this record says how far
/// the whole is, and what routers are to take for granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growth {
    /// Partitions before.
    pub from: u32,
    /// Partitions after.
    pub to: u32,
    /// What is being done.
    pub step: GrowthStep,
    /// The map's epoch that the step began with.
    pub epoch: u64,
    /// Log-carried time that the step began at.
    pub since_ms: u64,
    /// Shards that have done their part of the step.
    pub done: BTreeSet<ShardId>,
}

/// The steps of a growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GrowthStep {
    /// Heirs take frames over, source by source; done when every heir has opened them all.
    Copying,
    /// Every frame is where it belongs; sources remove what moved.
    Clearing,
    /// Nothing is left to do, but retries of writes from before still go to the sources, which remember them.
    Remembering,
}

impl From<GrowthStep> for node_v1::MigrationStep {
    fn from(step: GrowthStep) -> Self {
        match step {
            GrowthStep::Copying => node_v1::MigrationStep::Copying,
            GrowthStep::Clearing => node_v1::MigrationStep::Clearing,
            GrowthStep::Remembering => node_v1::MigrationStep::Remembering,
        }
    }
}

impl Growth {
    /// The shards that held the collection before, and those that are added.
    pub fn shards(&self, collection: CollectionId, shard_count: u32) -> (Vec<ShardId>, Vec<ShardId>) {
        let mut sources = shards_of_collection(collection, self.to, shard_count);
        let heirs = sources.split_off((self.from as usize).min(sources.len()));
        (sources, heirs)
    }

    fn to_wire(&self) -> node_v1::Migration {
        node_v1::Migration {
            from: self.from,
            to: self.to,
            step: node_v1::MigrationStep::from(self.step).into(),
            done: self.done.iter().copied().collect(),
            epoch: self.epoch,
        }
    }
}

/// A collection: its settings and its wrapped keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionRecord {
    /// Random and never used again.
    pub id: CollectionId,
    /// Its name.
    pub name: String,
    /// Components of its vectors.
    pub dim: u32,
    /// How its vectors are compared.
    pub metric: Metric,
    /// How its index keeps them in memory.
    pub quantization: Quantization,
    /// Shards it is spread over.
    pub partitions: u32,
    /// Shards it was spread over when it was created.
    pub first_partitions: u32,
    /// Lifetime of its frames, 0 = for ever.
    pub ttl_seconds: u64,
    /// Log-carried time of its creation; set when the command is applied.
    pub created_ms: u64,
    /// Embedding model of its texts; empty when callers give all vectors.
    pub model: String,
    /// Beam of searches that name none; 0 = the index's own.
    pub ef: u32,
    /// Spaces of further vectors of its frames, numbered from 1; the space of its own vectors, described above, is 0.
    pub spaces: Vec<NamedSpace>,
    /// Version of the key that new frames are sealed with.
    pub key_version: u32,
    /// The collection's keys by version, each wrapped with the cluster key.
    pub wrapped_keys: BTreeMap<u32, Vec<u8>>,
}

/// A space of vectors that frames of a collection may have beside those of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedSpace {
    /// Its name.
    pub name: String,
    /// Components of its vectors.
    pub dim: u32,
    /// How its vectors are compared.
    pub metric: Metric,
    /// How its index keeps them in memory.
    pub quantization: Quantization,
    /// Beam of searches that name none; 0 = the index's own.
    pub ef: u32,
}

/// A space of vectors, the collection's own or a named one.
#[derive(Debug, Clone, Copy)]
pub struct Space<'a> {
    /// Whose it is.
    pub collection: &'a CollectionRecord,
    /// Which it is.
    pub number: SpaceNumber,
    /// Its name; empty for the collection's own.
    pub name: &'a str,
    /// Components of its vectors.
    pub dim: usize,
    /// cosine, dot or l2.
    pub metric: Metric,
    /// none, int8 or binary.
    pub quantization: Quantization,
    /// Beam of searches that name none; 0 = the index's own.
    pub ef: u32,
}

impl fmt::Display for Space<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let collection = &self.collection.name;
        match self.name {
            "" => write!(f, "collection {collection:?}"),
            name => write!(f, "collection {collection:?} named {name:?}"),
        }
    }
}

impl CollectionRecord {
    /// Whether a request for the same settings may be answered with this collection.
    pub fn same_settings(&self, other: &CollectionRecord) -> bool {
        let untuned = |space: &NamedSpace| NamedSpace { ef: 0, ..space.clone() };
        // It may have grown since.
        let partitions = [self.first_partitions, self.partitions];
        (self.dim, &self.metric, &self.quantization, self.ttl_seconds)
            == (other.dim, &other.metric, &other.quantization, other.ttl_seconds)
            && partitions.contains(&other.partitions)
            && self.spaces.iter().map(untuned).eq(other.spaces.iter().map(untuned))
    }

    /// The space of its own vectors.
    pub fn own_space(&self) -> Space<'_> {
        Space {
            collection: self,
            number: OWN_SPACE,
            name: "",
            dim: self.dim as usize,
            metric: self.metric,
            quantization: self.quantization,
            ef: self.ef,
        }
    }

    /// All its spaces, in order of their numbers.
    pub fn all_spaces(&self) -> impl Iterator<Item = Space<'_>> {
        let named = (1..).zip(&self.spaces).map(|(number, space)| Space {
            collection: self,
            number,
            name: &space.name,
            dim: space.dim as usize,
            metric: space.metric,
            quantization: space.quantization,
            ef: space.ef,
        });
        std::iter::once(self.own_space()).chain(named)
    }

    /// The space of a number.
    pub fn space(&self, number: SpaceNumber) -> Option<Space<'_>> {
        self.all_spaces().nth(number.into())
    }

    /// The space of a name; its own for none.
    pub fn space_named(&self, name: &str) -> Result<Space<'_>, Problem> {
        let unknown = || Problem::invalid(format!("collection {:?} has no vectors named {name:?}", self.name));
        self.all_spaces().find(|space| space.name == name).ok_or_else(unknown)
    }

    /// Gives a space another beam; false if it has no such space.
    pub fn set_ef(&mut self, number: SpaceNumber, ef: u32) -> bool {
        let space = match number.checked_sub(1) {
            None => Some(&mut self.ef),
            Some(at) => self.spaces.get_mut(usize::from(at)).map(|space| &mut space.ef),
        };
        space.map(|found| *found = ef).is_some()
    }
}

/// Everything the meta group knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterState {
    /// Identity and shape.
    pub header: Header,
    /// Nodes by id.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// Replicas of every shard, the preferred leader first; empty until placed.
    pub placement: Vec<Vec<NodeId>>,
    /// Collections by number.
    pub collections: BTreeMap<CollectionId, CollectionRecord>,
    /// Numbers of collections that were dropped; their frames are being purged or gone.
    pub dropped: BTreeSet<CollectionId>,
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
        self.collections.values().find(|collection| collection.name == name)
    }

    /// Nodes that are not lost.
    pub fn living_nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.keys().copied().filter(|&node| self.phase(node) != NodePhase::Lost)
    }

    /// The nodes that have a replica of one of a collection's shards, or get one.
    pub fn holders(&self, record: &CollectionRecord) -> BTreeSet<NodeId> {
        let shards = shards_of_collection(record.id, record.partitions, self.header.shards);
        let moves: Vec<(ShardId, Move)> = self.moves.iter().map(|(&shard, &found)| (shard, found)).collect();
        keys::holders(&shards, &self.placement, &moves)
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
        match self.moves.get(&shard) {
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

    /// The map as routers get it; `leader` tells who leads a shard, as far as this node knows.
    pub fn to_map(&self, leader: impl Fn(ShardId) -> Option<NodeId>) -> node_v1::ClusterMap {
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
            collections: self.collections.values().map(|record| self.collection_to_wire(record)).collect(),
            moves: self.moves.iter().map(|(&shard, found)| found.to_wire(shard)).collect(),
            moves_paused: self.moves_paused,
            format: self.header.format,
        }
    }

    /// A collection as routers see it.
    pub fn collection_to_wire(&self, record: &CollectionRecord) -> node_v1::Collection {
        let rotation = self.rotations.get(&record.id).map(|rotation| node_v1::Rotation {
            id: rotation.id,
            to: rotation.to,
            step: node_v1::RotationStep::from(rotation.step).into(),
            done: rotation.done.len() as u32,
            of: match rotation.step {
                RotationStep::Preparing => self.living_nodes().count() as u32,
                RotationStep::Resealing => record.partitions,
                RotationStep::Retiring => self.holders(record).len() as u32,
            },
        });
        let migration = self.growths.get(&record.id).map(Growth::to_wire);
        node_v1::Collection { migration, rotation, ..record.to_wire() }
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

impl Move {
    /// As routers and peers see it.
    pub fn to_wire(self, shard: ShardId) -> node_v1::Move {
        let step = match self.step {
            MoveStep::Leaving => node_v1::MoveStep::Leaving,
            MoveStep::Clearing => node_v1::MoveStep::Clearing,
            MoveStep::Joining => node_v1::MoveStep::Joining,
        };
        node_v1::Move { shard, from: self.from.unwrap_or_default(), to: self.to, step: step.into() }
    }
}

/// A cluster id as text; empty for none.
pub fn cluster_id_text(id: u128) -> String {
    if id == 0 { String::new() } else { uuid::Uuid::from_u128(id).to_string() }
}

impl NodeRecord {
    /// As routers and peers see it.
    pub fn to_wire(&self) -> node_v1::NodeInfo {
        node_v1::NodeInfo {
            id: self.id,
            address: self.address.clone(),
            http_address: self.http_address.clone(),
            zone: self.zone.clone(),
            version: self.version.clone(),
            phase: node_v1::NodePhase::Unspecified.into(),
            format: self.format,
        }
    }
}

impl From<node_v1::NodeInfo> for NodeRecord {
    fn from(info: node_v1::NodeInfo) -> Self {
        NodeRecord {
            id: info.id,
            address: info.address,
            http_address: info.http_address,
            zone: info.zone,
            version: info.version,
            format: info.format,
        }
    }
}

impl CollectionRecord {
    /// As routers see it: never the keys.
    pub fn to_wire(&self) -> node_v1::Collection {
        node_v1::Collection {
            id: self.id,
            name: self.name.clone(),
            dim: self.dim,
            metric: node_v1::Metric::from(self.metric).into(),
            quantization: node_v1::Quantization::from(self.quantization).into(),
            partitions: self.partitions,
            first_partitions: self.first_partitions,
            ttl_seconds: self.ttl_seconds,
            created_ms: self.created_ms,
            key_version: self.key_version,
            model: self.model.clone(),
            ef: self.ef,
            spaces: self.spaces.iter().map(NamedSpace::to_wire).collect(),
            placement_key: Vec::new().into(),
            migration: None,
            rotation: None,
        }
    }
}

impl NamedSpace {
    fn to_wire(&self) -> node_v1::VectorSpace {
        node_v1::VectorSpace {
            name: self.name.clone(),
            dim: self.dim,
            metric: node_v1::Metric::from(self.metric).into(),
            quantization: node_v1::Quantization::from(self.quantization).into(),
            ef: self.ef,
        }
    }
}

impl TryFrom<node_v1::VectorSpace> for NamedSpace {
    type Error = Problem;

    fn try_from(space: node_v1::VectorSpace) -> Result<Self, Problem> {
        let (metric, quantization) = (space.metric().try_into()?, space.quantization().try_into()?);
        let node_v1::VectorSpace { name, dim, ef, .. } = space;
        Ok(NamedSpace { name, dim, metric, quantization, ef })
    }
}
