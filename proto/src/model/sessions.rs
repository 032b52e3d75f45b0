//! The sessions of a collection, page by page.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use uuid::Uuid;

/// `GET /collections/{name}/sessions`: the sessions of a collection, page by page in no telling order.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionsRequest {
    /// Only sessions whose newest frame says in its metadata that it is of this `agent`.
    pub agent: Option<String>,
    /// RFC 3339 time: only sessions with a frame made at or after it. Those are the ones that are still open.
    pub active_since: Option<String>,
    /// `next_cursor` of the page before; the first page when absent.
    pub cursor: Option<String>,
    /// Most sessions looked at for the page, 1 to 1,000; 200 when absent.
    pub limit: Option<u32>,
}

/// A page of sessions.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionsReply {
    /// The sessions; private ones only of the owner whose key the request carries.
    pub sessions: Vec<Session>,
    /// There may be more sessions: a page may have none of those asked for and others follow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// With `more`: send it as `cursor` for the next page.
    pub next_cursor: Option<String>,
}

/// A session.
#[skip_serializing_none]
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
    pub agent: Option<String>,
    /// The id of the newest frame.
    pub last_id: Uuid,
    /// Whether only its owner can read it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
}
