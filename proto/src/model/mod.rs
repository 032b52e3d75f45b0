//! The operations of MIRA as values: one JSON schema for MCP tools, REST bodies, the shell and the router's service
//! trait.
//!
//! Unknown fields are errors, so that a misspelt option is not silently dropped.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Problem;
pub use crate::filter::{Filter, Scalar};

/// The collection that a request without one means.
pub const DEFAULT_COLLECTION: &str = "default";

/// The `type` of a frame that names none.
pub const DEFAULT_TYPE: &str = "general";

/// Metadata of a frame: a JSON object.
pub type Metadata = serde_json::Map<String, serde_json::Value>;

/// One thing to remember.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreItem {
    /// The text to remember, at most 1 MiB of UTF-8. Either this or `bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Opaque bytes in base64 instead of text; found by `vector` or id only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<String>,
    /// What kind of memory this is: general (default), insight, conversation, code, thought, or a word of your own.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The conversation or task it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Who said it: user, assistant, tool, system, or a word of your own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Any JSON object, at most 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    /// An embedding of your own, as long as the collection's dimension; otherwise the router embeds the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector: Option<Vec<f32>>,
    /// Further embeddings, one for each named vector that the collection has, such as {"state": [0.1, …]}; found by `using`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vectors: BTreeMap<String, Vec<f32>>,
    /// A UUID of your own; storing the same content under it again changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// Put a new version in place of the frame with this `id`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
    /// Store a new version only if this one is current; 0 = the id must not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_version: Option<u64>,
    /// RFC 3339 time at which the frame is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// RFC 3339 time at which it was made, of a memory that is brought from elsewhere; otherwise now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// The collection; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    /// Seal it with the key of its owner, which the request carries in a header: nobody else can read or find it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
}

/// `store`: one item in place, or up to 1,000 under `items`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "serde_json::Map<String, serde_json::Value>")]
// The schema is that of the fields, not of the map they are read from.
#[schemars(!try_from, extend("additionalProperties" = false))]
pub struct StoreRequest {
    /// The one item.
    #[serde(flatten)]
    pub item: StoreItem,
    /// Several items instead, each stored or refused by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<StoreItem>>,
}

impl TryFrom<serde_json::Map<String, serde_json::Value>> for StoreRequest {
    type Error = serde_json::Error;

    /// By hand, because serde cannot refuse unknown fields beside a flattened struct.
    fn try_from(mut object: serde_json::Map<String, serde_json::Value>) -> Result<Self, Self::Error> {
        let items = object.remove("items").map(serde_json::from_value).transpose()?;
        Ok(StoreRequest { item: serde_json::from_value(object.into())?, items })
    }
}

/// Where a frame went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Stored {
    /// The frame's id.
    pub id: Uuid,
    /// Its version: 1 for a new frame.
    pub version: u64,
}

/// One answer of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ItemResult {
    /// Stored, or already there with the same content.
    Stored(Stored),
    /// Refused; nothing of it was stored.
    Refused {
        /// Why.
        error: Problem,
    },
}

/// Answer to `store`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StoreReply {
    /// The frame's id, when one item was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// One answer for each of `items`, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<ItemResult>>,
    /// Send it back with a read that must see this write.
    pub consistency_token: String,
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Sees every write acknowledged before the read began; the leader confirms its quorum first.
    Linearizable,
    /// The shard's leader answers at once.
    #[default]
    Leader,
    /// Any replica answers.
    Any,
}

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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchRequest {
    /// What to look for, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// An embedding of your own instead of words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector: Option<Vec<f32>>,
    /// Compare with the vectors of this name (`vectors` of `store`) instead; goes with `vector` or `vectors`, not with words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub using: Option<String>,
    /// How many hits, 1 to 1,000; 10 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k: Option<u32>,
    /// auto (default), vector; among private memories (`only_private`) also text (by words) and hybrid (by both).
    #[serde(default)]
    pub mode: SearchMode,
    /// The collection; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    /// leader (default), linearizable or any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
    /// Only frames created at or after this RFC 3339 time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_from: Option<String>,
    /// Only frames created before this RFC 3339 time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_to: Option<String>,
    /// Refuse an answer that misses a shard instead of marking it degraded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
    /// Compare with every vector instead of walking the index: slower, never misses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exact: bool,
    /// Only frames that this filter means, such as {"field": "type", "eq": "insight"}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// Say how the answer came about: plan, candidates and times of each shard.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub explain: bool,
    /// Several things to look for at once, in words, instead of `query`; up to 16 with `vectors`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queries: Option<Vec<String>>,
    /// Several embeddings at once instead of `vector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vectors: Option<Vec<Vec<f32>>>,
    /// With several: whether a hit's score is its best (max, default) or its mean over all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub combine: Option<Combine>,
    /// Only hits of at least this score: all of them up to `k` (1,000 when absent), the rest by `cursor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_score: Option<f32>,
    /// Where the last page ended (its `next_cursor`): the hits after it, for the same question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Rank newer memories higher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recency: Option<Recency>,
    /// One group for each value of this field (session, type, role, metadata.NAME): the best `k` groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_by: Option<String>,
    /// Hits of each group, 1 to 100; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_size: Option<u32>,
    /// 0 to 1: how much hits that differ from those before them are preferred to more of the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diversity: Option<f32>,
    /// Several searches instead, up to 100, each answered or refused by itself; stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub searches: Option<Vec<SearchRequest>>,
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recency {
    /// A memory of this age gets half of what a new one gets, in seconds.
    pub half_life_seconds: u64,
    /// Part of the score, above 0 and up to 1; 0.2 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f32>,
}

/// A remembered frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Frame {
    /// Its id.
    pub id: Uuid,
    /// Its text; absent for opaque bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Its bytes in base64; absent for text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<String>,
    /// The metadata it was stored with.
    #[serde(default)]
    pub metadata: Metadata,
    /// What kind of memory it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// The session it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Who said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// RFC 3339 time of its first version.
    pub created_at: String,
    /// RFC 3339 time of this version.
    pub updated_at: String,
    /// RFC 3339 time at which it is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// 1, 2, … with every replacement.
    pub version: u64,
    /// Whether only its owner can read it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
    /// Large content beside its text, read by `GET /collections/{name}/frames/{id}/content`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<AttachmentInfo>,
}

/// Large content of a frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AttachmentInfo {
    /// Its media type, as it was uploaded.
    pub content_type: String,
    /// Its size in bytes.
    pub size: u64,
}

/// `POST /collections/{name}/uploads`: begins the upload of a large content.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadRequest {
    /// The frame that gets the content. It may have a text of its own, by which it is found; its collection is that of the
    /// path.
    #[serde(default)]
    pub frame: StoreItem,
    /// The content's media type; `application/octet-stream` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// How many bytes will come, if that is known: an upload of fewer is then not finished, and one of more refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// How far an upload has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UploadReply {
    /// Names the upload.
    pub upload: Uuid,
    /// Bytes that are there: the next ones begin here.
    pub offset: u64,
    /// How many there will be, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The frame, once the upload is finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<Stored>,
}

/// Why a hit was found by its vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VectorReason {
    /// Place among the hits by vector, from 1.
    pub rank: u32,
    /// Similarity by the collection's metric; higher is nearer.
    pub score: f32,
    /// The part of the content that matched, as a byte range; absent when the whole content is one vector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Why {
    /// By its vector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector: Option<VectorReason>,
    /// By its words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextReason>,
}

/// A frame that a search found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hit {
    /// Higher is better.
    pub score: f32,
    /// Why it was found.
    pub why: Why,
    /// With `group_by`: the value that makes its group; absent for a memory without one, which is a group by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
        /// Why.
        error: Problem,
    },
    /// Answered.
    Answered(Box<SearchReply>),
}

/// Answer to `search`, best hit first.
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staleness_ms: Option<u64>,
    /// At consistency `any`: no up-to-date replica of some shard answered, so one that lags did.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lagging: bool,
    /// The state that answered.
    pub consistency_token: String,
    /// One answer for each of `searches`, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Vec<SearchResult>>,
    /// There may be more hits: send it as `cursor` with the same question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// With `explain`: how the answer came about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explain: Option<SearchExplain>,
}

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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShardExplain {
    /// Its number.
    pub shard: u32,
    /// plain (nearest neighbours), filtered, or ranked (by more than similarity).
    pub road: String,
    /// scan (everything that matches was compared), graph (the index was walked) or graph_then_scan; absent when
    /// nothing is indexed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub plan: String,
    /// The beam of the walk; 0 for a scan.
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matching: Option<u64>,
    /// Fields of the filter that no indexed frame has had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown_fields: Vec<String>,
    /// Time in the index, microseconds.
    pub index_us: u64,
}

/// `recall`: frames by id, or a session in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecallRequest {
    /// One id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// Several ids, up to 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<Uuid>>,
    /// Instead of ids: the frames of this session in order of creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// With `session`: at or after this RFC 3339 time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_from: Option<String>,
    /// With `session`: before this RFC 3339 time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_to: Option<String>,
    /// With `session`: at most this many; 100 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// With `session`: the newest `limit` instead of the oldest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub last: bool,
    /// The collection; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    /// linearizable (default), leader or any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
}

/// Answer to `recall`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RecallReply {
    /// The frames, in the order asked or of creation.
    pub frames: Vec<Frame>,
    /// Ids that name no frame, when several were asked for; a single unknown id is a `not_found` problem.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Uuid>,
    /// At consistency `any`: everything acknowledged this many milliseconds ago, and earlier, was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staleness_ms: Option<u64>,
    /// At consistency `any`: no up-to-date replica of some shard answered, so one that lags did.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lagging: bool,
}

/// `GET /collections/{name}/sessions`: the sessions of a collection, page by page in no telling order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionsRequest {
    /// Only sessions whose newest frame says in its metadata that it is of this `agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// RFC 3339 time: only sessions with a frame made at or after it. Those are the ones that are still open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_since: Option<String>,
    /// `next` of the page before; the first page when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Most sessions looked at for the page, 1 to 1,000; 200 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// A page of sessions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionsReply {
    /// The sessions; private ones only of the owner whose key the request carries.
    pub sessions: Vec<Session>,
    /// Send it as `after` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Session {
    /// Its name.
    pub session: String,
    /// How many frames it has.
    pub frames: u64,
    /// RFC 3339 time of its first frame.
    pub first_at: String,
    /// RFC 3339 time of its newest frame.
    pub last_at: String,
    /// What the newest frame's metadata says of the `agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The id of the newest frame.
    pub last_id: Uuid,
    /// Whether only its owner can read it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
}

/// `GET /collections/{name}/frames`: everything in a collection, page by page in order of the ids.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScanRequest {
    /// Frames with a greater id than this; from the first when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Uuid>,
    /// Most frames of the page, 1 to 1,000; 200 when absent. A page of large frames has fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// A page of a collection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScanReply {
    /// The frames.
    pub frames: Vec<ScannedFrame>,
    /// Send it as `after` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Uuid>,
    /// Private frames left out because the request carries another owner's key, or none.
    #[serde(default)]
    pub private_left_out: u64,
}

/// A frame with everything that its caller said of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScannedFrame {
    /// The frame.
    #[serde(flatten)]
    pub frame: Frame,
    /// The embedding, when the caller gave it; absent when the router made it from the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector: Option<Vec<f32>>,
    /// Its further embeddings, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vectors: BTreeMap<String, Vec<f32>>,
}

/// `forget`: remove frames.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForgetRequest {
    /// One id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// Several ids, up to 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<Uuid>>,
    /// Every frame of this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The collection; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    /// Every frame of the collection; must be asked for in so many words.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Every frame that this filter means, as in `search`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// Destroy the key too, so that no copy in a log, a file or a backup can be read any more; with all: true the
    /// collection goes with its keys, else its other frames are sealed with a new key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shred: bool,
}

/// Answer to `forget`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ForgetReply {
    /// How many frames were removed; those of a collection that is shredded whole are not counted.
    pub removed: u64,
    /// Which, up to 1,000 of them.
    pub ids: Vec<Uuid>,
    /// With shred: the number under which the end of the key is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shred: Option<u64>,
    /// Send it back with a read that must see this.
    pub consistency_token: String,
}

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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CollectionSettings {
    /// Components of its vectors; the router's embedding model's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dim: Option<u32>,
    /// cosine (default), dot or l2.
    #[serde(default)]
    pub metric: Metric,
    /// int8 (default), binary or none.
    #[serde(default)]
    pub quantization: Quantization,
    /// Shards it is spread over; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u32>,
    /// Frames are forgotten this long after they were stored; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// Further vectors that its frames may have, by name, up to 8, such as {"state": {"dim": 1536}}.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vectors: BTreeMap<String, NamedVectors>,
}

/// Vectors that a collection's frames may have beside those of its own.
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ef: Option<u32>,
}

/// A collection.
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// Beam of its searches, once it was tuned: wider finds more and takes longer. Absent: the index's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ef: Option<u32>,
    /// Further vectors that its frames may have, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vectors: BTreeMap<String, NamedVectors>,
    /// RFC 3339 time of its creation.
    pub created_at: String,
    /// The embedding model its texts go through; absent when callers give all vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How far it is on its way to more partitions; absent when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth: Option<GrowthStatus>,
    /// How far it is on its way to another key; absent when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RotationStatus>,
}

/// How far a collection is on its way to another key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RotationStatus {
    /// Names it, and the end of the keys before.
    pub id: u64,
    /// Version of the key.
    pub to: u32,
    /// preparing (every node learns of the key), resealing (stored frames are sealed with it) or retiring (nothing needs
    /// the keys before any more, and every node says so).
    pub step: String,
    /// Shards (resealing) or nodes that have done their part of this step.
    pub done: u32,
    /// Of how many.
    pub of: u32,
}

/// The cluster's keys, by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KeysReply {
    /// The cluster key in use.
    pub active: String,
    /// Which cluster keys each node holds.
    pub nodes: Vec<NodeKeys>,
    /// The keys of collections.
    pub collections: Vec<CollectionKeys>,
    /// Versions of the key of private frames' outermost layer.
    pub layer_versions: Vec<u32>,
}

/// Cluster keys of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeKeys {
    /// The node's id.
    pub node: String,
    /// The keys that it holds, the one that it would have seal first.
    pub held: Vec<String>,
    /// Why it did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Keys of a collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CollectionKeys {
    /// The collection.
    pub name: String,
    /// Its keys.
    pub keys: Vec<KeyInfo>,
    /// How far it is on its way to another key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RotationStatus>,
}

/// A key by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyInfo {
    /// Its version; 0 makes tags and digests and seals nothing.
    pub version: u32,
    /// Its id (16 hex digits), derived from it.
    pub id: String,
}

/// Puts another key in the place of one in use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// The collection whose key it is; absent for the cluster key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
}

/// Answer to a rotation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RotateReply {
    /// The number under which the end of the key before is followed.
    pub id: u64,
    /// The cluster key, or the version of the collection's key, from now on.
    pub to: String,
}

/// Keys that end, and those that have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErasuresReply {
    /// From the oldest on.
    pub erasures: Vec<Erasure>,
    /// What receipts are checked with (Ed25519, 64 hex digits); absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
}

/// The end of keys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Erasure {
    /// Names it.
    pub id: u64,
    /// Of this collection; absent of a cluster key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    /// Whether the collection is gone with them.
    pub whole: bool,
    /// preparing, resealing or retiring (the keys are still needed, see the collection's rotation), purging (they are
    /// destroyed; copies are being removed from files) or done.
    pub state: String,
    /// The keys.
    pub keys: Vec<KeyInfo>,
    /// When they were destroyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroyed_at: Option<String>,
    /// Nodes whose files may still hold the keys, wrapped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for_nodes: Vec<String>,
    /// Places of backups whose copies of the keys are older.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for_repositories: Vec<String>,
    /// What the cluster says in the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<SignedReceipt>,
}

/// What a cluster says of keys that have ended, and its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignedReceipt {
    /// JSON; the signature is over exactly these bytes.
    pub statement: String,
    /// Ed25519, 128 hex digits.
    pub signature: String,
    /// Whose signature it is, 64 hex digits.
    pub public_key: String,
}

/// Places that hold backups of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RepositoriesReply {
    /// All of them.
    pub repositories: Vec<BackupRepository>,
}

/// A place that holds backups of the cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackupRepository {
    /// Names it.
    pub id: Uuid,
    /// Where it is, as whoever made the backup said it.
    pub place: String,
    /// When the last backup there was finished; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
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

/// Finds the beam (`ef`) with which searches of a collection reach a recall, and has it used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TuneRequest {
    /// The share of the truly nearest that an answer is to hold, above 0 and at most 1; 0.95 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recall: Option<f64>,
    /// Hits of an answer; 10 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k: Option<u32>,
    /// Of the vectors of this name, instead of the collection's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub using: Option<String>,
    /// Only say what was measured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Go back to the index's own beam; nothing is measured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reset: bool,
}

/// What was measured and chosen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TuneReply {
    /// The beam before; absent: the index's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u32>,
    /// The beam that was found, in use from now on unless this was a dry run. Absent: the index's own, or, in a dry run,
    /// none that reaches the recall.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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

/// `status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StatusRequest {
    /// Every shard and collection instead of a summary.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detailed: bool,
}

/// One storage node, as the router sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// Its id (16 hex digits).
    pub id: String,
    /// host:port.
    pub address: String,
    /// Whether it answered.
    pub reachable: bool,
    /// standby (joined, holds nothing), active, draining, drained or lost.
    pub phase: String,
    /// Its build.
    pub version: String,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Memory in use, bytes.
    pub resident_bytes: u64,
    /// Bytes of its data folder.
    pub disk_used_bytes: u64,
    /// Bytes free where its data folder lies.
    pub disk_free_bytes: u64,
    /// Shards it leads.
    pub leads: u32,
}

/// One shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShardStatus {
    /// Its number; absent for the meta group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<u32>,
    /// Who leads it, if a reachable node knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Its replicas.
    pub replicas: Vec<ReplicaStatus>,
}

/// One replica of a shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaStatus {
    /// The node that holds it.
    pub node: String,
    /// leader, follower, learner, candidate, stopped; `unreachable` when the node did not answer.
    pub role: String,
    /// Raft term.
    pub term: u64,
    /// Last applied log index.
    pub applied: u64,
    /// Committed entries not yet applied.
    pub apply_lag: u64,
    /// Frames held.
    pub frames: u64,
    /// Vectors in the index.
    pub vectors: u64,
    /// Changes not yet in the index.
    pub index_lag: u64,
}

/// Answer to `status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatusReply {
    /// ok, degraded (some replica is missing) or unavailable (some shard has no leader).
    pub state: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// The router's build.
    pub version: String,
    /// Epoch of the cluster map.
    pub epoch: u64,
    /// Number of shards.
    pub shards: u32,
    /// Shards without a known leader.
    pub leaderless_shards: Vec<u32>,
    /// Frames in the cluster, counted once.
    pub frames: u64,
    /// The router's embedding model; absent when it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The storage nodes.
    pub nodes: Vec<NodeStatus>,
    /// Replicas on their way from node to node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<ReplicaMove>,
    /// Whether an operator has stopped moves for now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub moves_paused: bool,
    /// With `detailed`: every Raft group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<ShardStatus>,
    /// With `detailed`: every collection.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub collections: Vec<Collection>,
    /// Whether parts could not be asked, and which.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// What to do with a storage node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeAction {
    /// Give a node that has joined its share of the replicas; one that is being drained keeps what it has.
    Add,
    /// Move every replica away from it.
    Drain,
    /// Rebuild what a dead node held on another that has joined and holds nothing.
    Replace,
    /// Forget a node that holds nothing; its id is never let in again.
    Remove,
}

/// A change of the cluster's nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeChange {
    /// What to do.
    pub action: NodeAction,
    /// With which node: its id or its address.
    pub node: String,
    /// With `replace`: who takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Only say what would move.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What a change of nodes moves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeChangeReply {
    /// The replicas that will move, or would.
    pub moves: Vec<ReplicaMove>,
}

/// A replica that moves from node to node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaMove {
    /// The shard.
    pub shard: u32,
    /// Whose replica goes; absent when the shard gets one more, the same as `to` when a damaged replica is made anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Who gets one.
    pub to: String,
    /// planned, joining (it is being copied), leaving or clearing (of a damaged replica).
    pub step: String,
}

/// Which shards to verify.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// Their numbers; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<Vec<u32>>,
    /// Have a replica that differs from the majority, or cannot be read, made anew from the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mend: bool,
}

/// Answer to a verification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VerifyReply {
    /// One for each shard.
    pub shards: Vec<ShardVerification>,
}

/// How the replicas of a shard compare.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShardVerification {
    /// The shard.
    pub shard: u32,
    /// sound (all replicas hold the same), differs, damaged (some replica cannot be read), or incomplete (some replica
    /// gave no answer in time).
    pub state: String,
    /// Its replicas.
    pub replicas: Vec<ReplicaVerification>,
}

/// What one replica holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaVerification {
    /// The node that holds it.
    pub node: String,
    /// done, failed, running, unknown or unreachable.
    pub state: String,
    /// The log position as of which it was digested.
    pub index: u64,
    /// Records held.
    pub records: u64,
    /// Hash over all of them (64 hex digits); empty when there is none.
    pub digest: String,
    /// What could not be read.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Whether it is being made anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mending: bool,
}

/// Stops moves of replicas for now, or lets them go on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MovesSetting {
    /// Whether moves wait.
    pub paused: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_takes_one_item_or_many_and_nothing_unknown() {
        let one: StoreRequest = serde_json::from_str(r#"{"content": "tea", "type": "insight"}"#).unwrap();
        assert_eq!(one.item.content.as_deref(), Some("tea"));
        let many: StoreRequest = serde_json::from_str(r#"{"items": [{"content": "a"}, {"content": "b"}]}"#).unwrap();
        assert_eq!(many.items.unwrap().len(), 2);
        for bad in [r#"{"contents": "tea"}"#, r#"{"items": [{"contents": "a"}]}"#, r#"{"items": [{"items": []}]}"#] {
            let error = serde_json::from_str::<StoreRequest>(bad).unwrap_err().to_string();
            assert!(error.contains("unknown field"), "{error}");
        }
    }
}
