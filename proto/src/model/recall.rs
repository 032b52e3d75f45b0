//! `recall`: frames by id, or those of a session in order.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use uuid::Uuid;

use super::consistency::Consistency;
use super::frame::Frame;

/// `recall`: frames by id, or a session in order.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecallRequest {
    /// One id.
    pub id: Option<Uuid>,
    /// Several ids, up to 1,000.
    pub ids: Option<Vec<Uuid>>,
    /// With `id`: this version of it, current or past, as long as the collection's `versions` keeps it.
    pub version: Option<u64>,
    /// With `id` or `ids`: what was known at this RFC 3339 time, as far as the collection's `versions` keeps it.
    pub known_at: Option<String>,
    /// Instead of ids: the frames of this session in order of creation.
    pub session: Option<String>,
    /// With `session`: at or after this RFC 3339 time.
    pub created_from: Option<String>,
    /// With `session`: before this RFC 3339 time.
    pub created_to: Option<String>,
    /// With `session`: at most this many; 100 when absent.
    pub limit: Option<u32>,
    /// With `session`: the newest `limit` instead of the oldest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub last: bool,
    /// `next_cursor` of an answer that was cut: what follows it, for the same request.
    pub cursor: Option<String>,
    /// The collection; `default` when absent.
    pub collection: Option<String>,
    /// linearizable (default), leader or any.
    pub consistency: Option<Consistency>,
}

/// Answer to `recall`.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RecallReply {
    /// The frames, in the order asked or of creation.
    pub frames: Vec<Frame>,
    /// Ids that name no frame, when several were asked for; a single unknown id is a `not_found` problem.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Uuid>,
    /// There is more of what was asked for: of a session, of ids whose frames are too large for one answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// With `more`: send it as `cursor` with the same request.
    pub next_cursor: Option<String>,
    /// At consistency `any`: everything acknowledged this many milliseconds ago, and earlier, was seen.
    pub staleness_ms: Option<u64>,
    /// At consistency `any`: no up-to-date replica of some shard answered, so one that lags did.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lagging: bool,
}
