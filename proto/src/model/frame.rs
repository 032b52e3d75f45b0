//! A frame as callers see it.

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_with::skip_serializing_none;
use uuid::Uuid;

use super::bounded;
use crate::{json, numbers};

/// Metadata of a frame: a JSON object.
pub type Metadata = serde_json::Map<String, serde_json::Value>;

/// Reads the metadata that a caller gives. Refuses what is no object, and numbers that would not come back the same.
pub fn parse_metadata(text: &str) -> Result<Metadata, String> {
    let metadata = bounded::metadata(text).map_err(|error| json::fault(text, &error))?;
    match numbers::unkept(text) {
        Some(number) => Err(numbers::refusal(number)),
        None => Ok(metadata),
    }
}

/// As [`parse_metadata`], of a field that may be absent.
pub(super) fn given_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Metadata>, D::Error> {
    let given = Option::<Box<RawValue>>::deserialize(deserializer)?;
    let wrong = |said: String| match said.starts_with(bounded::TOO_LARGE) {
        true => D::Error::custom(said),
        false => D::Error::custom(format_args!("metadata: {said}")),
    };
    given.map(|given| parse_metadata(given.get()).map_err(wrong)).transpose()
}

/// A remembered frame.
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Frame {
    /// Its id.
    pub id: Uuid,
    /// Its text; absent for opaque bytes.
    pub content: Option<String>,
    /// Its bytes in base64; absent for text.
    pub bytes: Option<String>,
    /// The metadata it was stored with.
    #[serde(default)]
    pub metadata: Metadata,
    /// What kind of memory it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// The session it belongs to.
    pub session: Option<String>,
    /// Who said it.
    pub role: Option<String>,
    /// RFC 3339 time of its first version.
    pub created_at: String,
    /// RFC 3339 time of this version.
    pub updated_at: String,
    /// RFC 3339 time at which it is forgotten.
    pub expires_at: Option<String>,
    /// 1, 2, … with every replacement; never again one that a forgotten frame of this id had.
    pub version: u64,
    /// Whether only its owner can read it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
    /// Large content beside its text, read by `GET /collections/{name}/frames/{id}/content`.
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
