//! Uploads of content too large for one request.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use uuid::Uuid;

use super::store::{StoreItem, Stored};

/// `POST /collections/{name}/uploads`: begins the upload of a large content.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadRequest {
    /// The frame that gets the content. It may have a text of its own, by which it is found; its collection is that of the
    /// path.
    #[serde(default)]
    pub frame: StoreItem,
    /// The content's media type; `application/octet-stream` when absent.
    pub content_type: Option<String>,
    /// How many bytes will come, if that is known: an upload of fewer is then not finished, and one of more refused.
    pub size: Option<u64>,
}

/// How far an upload has come.
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UploadReply {
    /// Names the upload.
    pub upload: Uuid,
    /// Bytes that are there: the next ones begin here.
    pub offset: u64,
    /// How many there will be, if that was said.
    pub size: Option<u64>,
    /// The frame, once the upload is finished.
    pub stored: Option<Stored>,
}
