//! The keys in use by name, with their rotation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

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
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeKeys {
    /// The node's id.
    pub node: String,
    /// The keys that it holds, the one that it would have seal first.
    pub held: Vec<String>,
    /// Why it did not say.
    pub error: Option<String>,
}

/// Keys of a collection.
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CollectionKeys {
    /// The collection.
    pub name: String,
    /// Its keys.
    pub keys: Vec<KeyInfo>,
    /// How far it is on its way to another key.
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
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// The collection whose key it is; absent for the cluster key.
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
