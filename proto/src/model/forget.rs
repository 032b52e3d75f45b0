//! `forget`: which frames are to go.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use uuid::Uuid;

use crate::filter::Filter;

/// `forget`: remove frames.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForgetRequest {
    /// One id.
    pub id: Option<Uuid>,
    /// Several ids, up to 1,000.
    pub ids: Option<Vec<Uuid>>,
    /// Every frame of this session.
    pub session: Option<String>,
    /// The collection; `default` when absent.
    pub collection: Option<String>,
    /// Every frame of the collection; must be asked for in so many words.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Every frame that this filter means, as in `search`.
    pub filter: Option<Filter>,
    /// Destroy the key too, so that no copy in a log, a file or a backup can be read any more; with all: true the
    /// collection goes with its keys, else its other frames are sealed with a new key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shred: bool,
}

/// Answer to `forget`.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ForgetReply {
    /// How many frames were removed; those of a collection that is shredded whole are not counted.
    pub removed: u64,
    /// Which; of more than 1,000 the first, so that fewer than `removed` are named.
    pub ids: Vec<Uuid>,
    /// With shred: the number under which the end of the key is followed.
    pub shred: Option<u64>,
    /// Send it back with a read that must see this.
    pub consistency_token: String,
}
