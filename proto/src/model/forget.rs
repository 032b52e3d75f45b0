//! `forget`: which frames are to go.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use uuid::Uuid;

use crate::filter::Filter;

/// `forget`: remove frames, into the bin or for good.
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
    /// Every frame of the collection, of private ones those of the owner whose key comes along; must be asked for in so many
    /// words. With `shred` the whole collection goes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Every frame that this filter means, as in `search`.
    pub filter: Option<Filter>,
    /// Remove them for good at once, and what this means of the bin too, instead of letting them rest in the bin for the
    /// collection's `bin_days`; with `shred` it is always so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub now: bool,
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
    /// Until when, at least, `change` with the action restore brings them back, RFC 3339; absent when they are gone for good.
    pub restorable_until: Option<String>,
    /// With all: how many private memories stay, because their owner's key was not sent; absent when none does.
    pub private_left: Option<u64>,
    /// With shred: the number under which the end of the key is followed.
    pub shred: Option<u64>,
    /// Send it back with a read that must see this.
    pub consistency_token: String,
}
