//! `search`: the questions that a caller may ask, with their hits.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use uuid::Uuid;

use super::batch::Batch;
use super::bounded;
use super::consistency::Consistency;
use super::explain::SearchExplain;
use super::frame::Frame;
use super::vector::Vector;
use crate::filter::{Filter, Scalar};
use crate::{Problem, limits};

/// How a search looks for its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SearchMode {
    /// MIRA chooses.
    #[default]
    Auto,
    /// By meaning: nearest vectors.
    Vector,
    /// By words. So far among private memories only: goes with `only_private`.
    Text,
    /// By both. So far among private memories only.
    Hybrid,
}

/// `search`: find memories by meaning.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchRequest {
    /// What to look for, in words.
    pub query: Option<String>,
    /// An embedding of your own instead of words: a list of numbers, or its 32-bit floats, little-endian, in base64.
    #[serde(default, deserialize_with = "bounded::vector")]
    #[schemars(with = "Option<Vector>")]
    pub vector: Option<Vec<f32>>,
    /// Compare with the vectors of this name (`vectors` of `store`) instead; goes with `vector` or `vectors`, not with words.
    pub using: Option<String>,
    /// How many hits, 1 to 1,000; 10 when absent.
    pub k: Option<u32>,
    /// auto (default), vector; among private memories (`only_private`) also text (by words) and hybrid (by both).
    #[serde(default)]
    pub mode: SearchMode,
    /// The collection; `default` when absent.
    pub collection: Option<String>,
    /// leader (default), linearizable or any.
    pub consistency: Option<Consistency>,
    /// Only frames created at or after this RFC 3339 time.
    pub created_from: Option<String>,
    /// Only frames created before this RFC 3339 time.
    pub created_to: Option<String>,
    /// Refuse an answer that misses a shard instead of marking it degraded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
    /// Compare with every vector instead of walking the index: slower, never misses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exact: bool,
    /// How wide a beam the index is walked with, 1 to 2,048; when absent it widens by itself.
    pub ef: Option<u32>,
    /// Only frames that this filter means, such as {"field": "type", "eq": "insight"}.
    pub filter: Option<Filter>,
    /// Say how the answer came about: plan, candidates and times of each shard.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub explain: bool,
    /// Several things to look for at once, in words, instead of `query`; up to 16 with `vectors`.
    #[serde(default, deserialize_with = "bounded::list::<_, _, { limits::MAX_QUERY_VECTORS + 1 }>")]
    pub queries: Option<Vec<String>>,
    /// Several embeddings at once instead of `vector`.
    #[serde(default, deserialize_with = "bounded::vectors")]
    #[schemars(with = "Option<Vec<Vector>>")]
    pub vectors: Option<Vec<Vec<f32>>>,
    /// With several: whether a hit's score is its best (max, default) or its mean over all of them.
    pub combine: Option<Combine>,
    /// Only hits of at least this score: all of them up to `k` (1,000 when absent), the rest by `cursor`.
    pub min_score: Option<f32>,
    /// Where the last page ended (its `next_cursor`): the hits after it, for the same question.
    pub cursor: Option<String>,
    /// Rank newer memories higher.
    pub recency: Option<Recency>,
    /// One group for each value of this field (session, type, role, metadata.NAME): the best `k` groups.
    pub group_by: Option<String>,
    /// Hits of each group, 1 to 100; 1 when absent.
    pub group_size: Option<u32>,
    /// 0 to 1: how much hits that differ from those before them are preferred to more of the same.
    pub diversity: Option<f32>,
    /// Several searches instead, up to 100, each answered or refused by itself; stands alone.
    #[schemars(with = "Option<Vec<SearchRequest>>")]
    pub searches: Option<Batch<SearchRequest>>,
    /// Also look among the private memories of the owner whose key the request carries in a header.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub include_private: bool,
    /// Look among those private memories only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_private: bool,
}

/// How the similarities to several queries make one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// The best of them.
    #[default]
    Max,
    /// Their mean.
    Mean,
}

/// Newer memories before older ones: `(1 - weight) * similarity + weight * 2^(-age / half_life)`.
#[skip_serializing_none]
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recency {
    /// A memory of this age gets half of what a new one gets, in seconds.
    pub half_life_seconds: u64,
    /// Part of the score, above 0 and up to 1; 0.2 when absent.
    pub weight: Option<f32>,
}

/// Why a hit was found by its vector.
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VectorReason {
    /// Place among the hits by vector, from 1.
    pub rank: u32,
    /// Similarity by the collection's metric; higher is nearer.
    pub score: f32,
    /// The part of the content that matched, as a byte range; absent when the whole content is one vector.
    pub passage: Option<(u32, u32)>,
}

/// Why a hit was found by its words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TextReason {
    /// Place among the hits by words, from 1.
    pub rank: u32,
    /// BM25; higher is better, comparable within one answer only.
    pub score: f32,
    /// Byte ranges of the content in which words of the query stand, the first few.
    #[serde(default)]
    pub highlights: Vec<(u32, u32)>,
}

/// Why a hit was found.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Why {
    /// By its vector.
    pub vector: Option<VectorReason>,
    /// By its words.
    pub text: Option<TextReason>,
}

/// A frame that a search found.
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hit {
    /// Higher is better.
    pub score: f32,
    /// Why it was found.
    pub why: Why,
    /// With `group_by`: the value that makes its group; absent for a memory without one, which is a group by itself.
    pub group: Option<Scalar>,
    /// The frame.
    #[serde(flatten)]
    pub frame: Frame,
}

/// One answer of a batch of searches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SearchResult {
    /// Refused.
    Refused {
        /// Why it was refused.
        error: Problem,
    },
    /// Answered.
    Answered(Box<SearchReply>),
}

/// Answer to `search`, best hit first.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SearchReply {
    /// The hits.
    pub hits: Vec<Hit>,
    /// Some shard could not answer in time: hits may be missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub degraded: bool,
    /// The shards that did not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_shards: Vec<u32>,
    /// At consistency `any`: everything acknowledged this many milliseconds ago, and earlier, was seen.
    pub staleness_ms: Option<u64>,
    /// At consistency `any`: no up-to-date replica of some shard answered, so one that lags did.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lagging: bool,
    /// The state that answered.
    pub consistency_token: String,
    /// One answer for each of `searches`, in order.
    pub answers: Option<Vec<SearchResult>>,
    /// There may be more hits: send it as `cursor` with the same question.
    pub next_cursor: Option<String>,
    /// There may be more hits, but only so many of the most similar memories were looked at.
    pub looked_through: Option<u64>,
    /// Private memories that could not be opened, and are no part of the answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<Uuid>,
    /// With `explain`: how the answer came about.
    pub explain: Option<SearchExplain>,
}
