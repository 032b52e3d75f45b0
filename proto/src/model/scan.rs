//! Everything in a collection, page by page.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use uuid::Uuid;

use super::frame::Frame;

/// `GET /collections/{name}/frames`: everything in a collection, page by page in order of the ids.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScanRequest {
    /// `next_cursor` of the page before, an id: frames with greater ids; from the first when absent.
    pub cursor: Option<Uuid>,
    /// Most frames of the page, 1 to 1,000; 200 when absent. A page of large frames has fewer.
    pub limit: Option<u32>,
}

/// A page of a collection.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScanReply {
    /// The frames.
    pub frames: Vec<ScannedFrame>,
    /// There are frames after the last one here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// With `more`: send it as `cursor` for the next page.
    pub next_cursor: Option<Uuid>,
    /// Private frames left out because the request carries another owner's key, or none.
    #[serde(default)]
    pub private_left_out: u64,
}

/// A frame with everything that its caller said of it.
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScannedFrame {
    /// The frame.
    #[serde(flatten)]
    pub frame: Frame,
    /// Its place in its session: frames with smaller ones were said before.
    pub position: u64,
    /// The embedding, when the caller gave it; absent when the router made it from the text.
    pub vector: Option<Vec<f32>>,
    /// Its further embeddings, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vectors: BTreeMap<String, Vec<f32>>,
}
