//! Collections: their settings, and how they grow over more shards.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::bounded;
use super::keys::RotationStatus;

/// How vectors of a collection are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Cosine of the angle.
    #[default]
    Cosine,
    /// Dot product.
    Dot,
    /// Euclidean distance; scores are its negated square.
    L2,
}

/// How an index keeps its vectors in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    /// Full precision.
    None,
    /// One byte a component, rescored from full precision.
    #[default]
    Int8,
    /// One bit a component, rescored from full precision: a sixth of the codes' memory for slower searches.
    Binary,
}

/// Settings of a collection that a caller may choose.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CollectionSettings {
    /// Components of its vectors; the router's embedding model's when absent.
    pub dim: Option<u32>,
    /// cosine (default), dot or l2.
    #[serde(default)]
    pub metric: Metric,
    /// int8 (default), binary or none.
    #[serde(default)]
    pub quantization: Quantization,
    /// Shards it is spread over; 1 when absent.
    pub partitions: Option<u32>,
    /// Frames are forgotten this long after they were stored; never when absent.
    pub ttl_seconds: Option<u64>,
    /// Past versions of a frame that are kept: the last 10, for 90 days, when absent. May be changed later.
    pub versions: Option<VersionsKept>,
    /// Days for which forgotten frames rest in the bin before they are gone for good: 7 when absent; 0 = there is no bin. May
    /// be changed later.
    pub bin_days: Option<u32>,
    /// Further vectors that its frames may have, by name, up to 8, such as {"state": {"dim": 1536}}.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "bounded::named")]
    pub vectors: BTreeMap<String, NamedVectors>,
}

/// Which past versions of a frame a collection keeps: those that are within both bounds.
#[skip_serializing_none]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VersionsKept {
    /// So many, up to 100; 0 = none.
    pub last: Option<u32>,
    /// For so many days after they were replaced, up to 3,650; 0 = none are kept.
    pub days: Option<u32>,
}

/// Vectors that a collection's frames may have beside those of its own.
#[skip_serializing_none]
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedVectors {
    /// Their components.
    pub dim: u32,
    /// cosine (default), dot or l2.
    #[serde(default)]
    pub metric: Metric,
    /// int8 (default), binary or none.
    #[serde(default)]
    pub quantization: Quantization,
    /// Beam of searches among them, once it was tuned; not a setting.
    pub ef: Option<u32>,
}

/// A collection.
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Collection {
    /// Its name.
    pub name: String,
    /// Components of its vectors.
    pub dim: u32,
    /// How they are compared.
    pub metric: Metric,
    /// How they are kept in memory.
    pub quantization: Quantization,
    /// Shards it is spread over.
    pub partitions: u32,
    /// Lifetime of its frames.
    pub ttl_seconds: Option<u64>,
    /// Past versions of a frame that are kept.
    #[serde(default)]
    pub versions: VersionsKept,
    /// Days for which forgotten frames rest in the bin.
    #[serde(default)]
    pub bin_days: u32,
    /// Beam of its searches, once it was tuned: wider finds more and takes longer. Absent: the index's own.
    pub ef: Option<u32>,
    /// Further vectors that its frames may have, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vectors: BTreeMap<String, NamedVectors>,
    /// RFC 3339 time of its creation.
    pub created_at: String,
    /// The embedding model its texts go through; absent when callers give all vectors.
    pub model: Option<String>,
    /// How far it is on its way to more partitions; absent when it is not.
    pub growth: Option<GrowthStatus>,
    /// How far it is on its way to another key; absent when it is not.
    pub rotation: Option<RotationStatus>,
}

/// How far a collection is on its way to more partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GrowthStatus {
    /// Partitions it had.
    pub from: u32,
    /// Partitions it gets.
    pub to: u32,
    /// copying (frames move to the added shards), clearing (every frame is where it belongs, copies are removed) or
    /// remembering (all is done, but retries of earlier writes still go where they were first written; for ten minutes).
    pub step: String,
    /// Shards that have done their part of this step.
    pub done: u32,
    /// Shards that have a part in this step.
    pub of: u32,
}

/// Spreads a collection over more shards.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrowRequest {
    /// Partitions that it is to have: more than now, at most the cluster's number of shards.
    pub partitions: u32,
    /// Only say what would move.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What a growth means.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GrowReply {
    /// Partitions now.
    pub from: u32,
    /// Partitions after.
    pub to: u32,
    /// Shards that hold the collection now.
    pub shards: Vec<u32>,
    /// Shards that are added, to each of which every other gives a share of its frames.
    pub added_shards: Vec<u32>,
}
