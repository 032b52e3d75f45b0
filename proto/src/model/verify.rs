//! Verification: whether the replicas of a shard hold the same.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::bounded;
use crate::limits;

/// Which shards to verify.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// Their numbers; all when absent.
    #[serde(default, deserialize_with = "bounded::list::<_, _, { limits::MAX_SHARDS as usize }>")]
    pub shards: Option<Vec<u32>>,
    /// Have a replica that differs from the majority, or cannot be read, rebuilt from the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repair: bool,
}

/// Answer to a verification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VerifyReply {
    /// One for each shard.
    pub shards: Vec<ShardVerification>,
}

/// How the replicas of a shard compare.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShardVerification {
    /// The shard.
    pub shard: u32,
    /// sound (all replicas hold the same), differs, damaged (some replica cannot be read), or incomplete (some replica
    /// gave no answer in time).
    pub state: String,
    /// Its replicas.
    pub replicas: Vec<ReplicaVerification>,
}

/// What one replica holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaVerification {
    /// The node that holds it.
    pub node: String,
    /// done, failed, running, unknown or unreachable.
    pub state: String,
    /// The log position as of which it was digested.
    pub index: u64,
    /// Records held.
    pub records: u64,
    /// Hash over all of them (64 hex digits); empty when there is none.
    pub digest: String,
    /// What could not be read.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Whether it is being rebuilt.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repairing: bool,
}
