//! Records of collections: their settings, their spaces of vectors, and their way to more partitions.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use bytes::Bytes;
use mira_proto::{
    CollectionId, Problem, ShardId,
    model::{Metric, Quantization},
    node_v1,
    placement::shards_of_collection,
    vectors::{OWN_SPACE, SpaceNumber},
};
use serde::{Deserialize, Serialize};

use crate::{keys::keyring::FIRST_KEY, shard::history::Retention};

/// A collection on its way to more partitions. Its frames move as [`crate::shard::migration::ownership`] says; this record says how far
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
    /// Target shards take frames over, source by source; done when each owns all of its frames.
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
        let targets = sources.split_off((self.from as usize).min(sources.len()));
        (sources, targets)
    }

    /// As routers see it.
    pub fn to_wire(&self) -> node_v1::Migration {
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
    /// How much of the past of its frames is kept.
    pub retention: Retention,
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
    /// How its vectors are compared.
    pub metric: Metric,
    /// How its index keeps them in memory.
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
    /// A collection on one shard that says nothing of its own, and has no keys yet; its vectors have `dim` components.
    pub fn new(id: CollectionId, name: impl Into<String>, dim: u32) -> Self {
        CollectionRecord {
            id,
            name: name.into(),
            dim,
            metric: Metric::default(),
            quantization: Quantization::default(),
            partitions: 1,
            first_partitions: 1,
            ttl_seconds: 0,
            retention: Retention::default(),
            created_ms: 0,
            model: String::new(),
            ef: 0,
            spaces: Vec::new(),
            key_version: FIRST_KEY,
            wrapped_keys: BTreeMap::new(),
        }
    }

    /// Whether a request for the same settings may be answered with this collection; how much of the past is kept may change.
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

impl CollectionRecord {
    /// As routers see it: never the keys that open anything, but what ids are made with.
    pub fn to_wire(&self, placement_key: Bytes) -> node_v1::Collection {
        node_v1::Collection {
            id: self.id,
            name: self.name.clone(),
            dim: self.dim,
            metric: node_v1::Metric::from(self.metric).into(),
            quantization: node_v1::Quantization::from(self.quantization).into(),
            partitions: self.partitions,
            first_partitions: self.first_partitions,
            ttl_seconds: self.ttl_seconds,
            retention: Some(self.retention.to_wire()),
            created_ms: self.created_ms,
            key_version: self.key_version,
            model: self.model.clone(),
            ef: self.ef,
            spaces: self.spaces.iter().map(NamedSpace::to_wire).collect(),
            placement_key,
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
