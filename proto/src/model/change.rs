//! `change`: what becomes of one memory, or of those that were forgotten together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use uuid::Uuid;

use crate::filter::Filter;

/// What is done to a memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeAction {
    /// Bring it back from the bin, where forgotten memories rest for a while, as a new version.
    #[default]
    Restore,
}

/// `change`: do something to a memory.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeRequest {
    /// What is done: restore brings it back from the bin.
    pub action: ChangeAction,
    /// Its id. Instead of it: session, filter or all, as `forget` takes them.
    pub id: Option<Uuid>,
    /// Everything of this session that rests in the bin.
    pub session: Option<String>,
    /// Everything in the bin that this filter means, as in `search`.
    pub filter: Option<Filter>,
    /// Everything that rests in the bin of the collection.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// The collection; `default` when absent.
    pub collection: Option<String>,
}

/// Answer to `change`.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeReply {
    /// The memory, where one was named.
    pub id: Option<Uuid>,
    /// Its version from now on.
    pub version: Option<u64>,
    /// Nothing was done: it was so already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unchanged: bool,
    /// With unchanged: those of its past versions that were forgotten before the id was stored again, for `recall` with
    /// `version`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forgotten_versions: Vec<u64>,
    /// Where no id was named: how many came back.
    pub restored: Option<u64>,
    /// Which came back; of more than 1,000 the first.
    pub ids: Option<Vec<Uuid>>,
    /// Send it back with a read that must see this.
    pub consistency_token: String,
}
