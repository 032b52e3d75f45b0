//! How a search came to its answer, as `explain` tells it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

/// How a search was answered. Times are in microseconds, as the router saw them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SearchExplain {
    /// Turning the query into a vector.
    pub embed_us: u64,
    /// Waiting for all shards.
    pub shards_us: u64,
    /// Merging what they said.
    pub merge_us: u64,
    /// Fetching the hits' frames that did not come along.
    pub fetch_us: u64,
    /// What each shard did.
    pub shards: Vec<ShardExplain>,
}

/// What one shard did for a search.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShardExplain {
    /// Its number.
    pub shard: u32,
    /// plain (nearest neighbours), filtered, or ranked (by more than similarity).
    pub route: String,
    /// scan (everything that matches was compared), graph (the index was walked) or graph_then_scan; absent when
    /// nothing is indexed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub plan: String,
    /// The beam of the walk, as wide as it became; 0 for a scan.
    pub ef: u32,
    /// Frames with vectors.
    pub searched: u64,
    /// Of them, too new for the index: compared one by one.
    pub tail: u64,
    /// Vectors of the index that were compared.
    pub compared: u64,
    /// Of them, in full precision.
    pub rescored: u64,
    /// With a filter: indexed frames that may match, about.
    pub matching: Option<u64>,
    /// Fields of the filter that no indexed frame has had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown_fields: Vec<String>,
    /// Time in the index, microseconds.
    pub index_us: u64,
}
