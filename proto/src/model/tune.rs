//! Tuning: the beam with which a collection's searches reach a recall.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

/// Finds the beam (`ef`) with which searches of a collection reach a recall, and has it used.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TuneRequest {
    /// The share of the truly nearest that an answer is to hold, above 0 and at most 1; 0.95 when absent.
    pub recall: Option<f64>,
    /// Hits of an answer; 10 when absent.
    pub k: Option<u32>,
    /// Of the vectors of this name, instead of the collection's own.
    pub using: Option<String>,
    /// Only say what was measured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Go back to the index's own beam; nothing is measured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reset: bool,
}

/// What was measured and chosen.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TuneReply {
    /// The beam before; absent: the index's own.
    pub before: Option<u32>,
    /// The beam that was found, in use from now on unless this was a dry run. Absent: the index's own, or, in a dry run,
    /// none that reaches the recall.
    pub ef: Option<u32>,
    /// The collection is small: every search looks at all of its vectors, and there is nothing to tune.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scanned: bool,
    /// Vectors of the collection.
    pub vectors: u64,
    /// Of them, those that were asked with.
    pub samples: u32,
    /// What each beam gave, from the narrowest.
    pub beams: Vec<BeamRecall>,
}

/// What a beam gives.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BeamRecall {
    /// The beam.
    pub ef: u32,
    /// Share of the truly nearest that the answers held.
    pub recall: f64,
    /// Median time of one search in one shard, microseconds.
    pub median_us: u32,
}
