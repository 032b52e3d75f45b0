//! `change`: what becomes of one memory.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What is done to a memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeAction {
    /// Bring it back from the bin, where forgotten memories rest for a while, as a new version.
    Restore,
}

/// `change`: do something to one memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeRequest {
    /// What is done: restore brings it back from the bin.
    pub action: ChangeAction,
    /// Its id.
    pub id: Uuid,
    /// The collection; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
}

/// Answer to `change`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeReply {
    /// The memory.
    pub id: Uuid,
    /// Its version from now on.
    pub version: u64,
    /// Nothing was done: it was so already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unchanged: bool,
    /// Send it back with a read that must see this.
    pub consistency_token: String,
}
