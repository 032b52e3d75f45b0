//! `status`: how the cluster is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::collections::Collection;
use super::nodes::ReplicaMove;

/// `status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StatusRequest {
    /// Every shard and collection instead of a summary.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detailed: bool,
}

/// One storage node, as the router sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// Its id (16 hex digits).
    pub id: String,
    /// host:port.
    pub address: String,
    /// Whether it answered.
    pub reachable: bool,
    /// standby (joined, holds nothing), active, draining, drained or lost.
    pub phase: String,
    /// Its build.
    pub version: String,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Memory in use, bytes.
    pub resident_bytes: u64,
    /// Bytes of its data folder.
    pub disk_used_bytes: u64,
    /// Bytes free where its data folder lies.
    pub disk_free_bytes: u64,
    /// Shards it leads.
    pub leads: u32,
}

/// One shard.
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShardStatus {
    /// Its number; absent for the meta group.
    pub shard: Option<u32>,
    /// Who leads it, if a reachable node knows.
    pub leader: Option<String>,
    /// Its replicas.
    pub replicas: Vec<ReplicaStatus>,
}

/// One replica of a shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaStatus {
    /// The node that holds it.
    pub node: String,
    /// leader, follower, learner, candidate, stopped; `unreachable` when the node did not answer.
    pub role: String,
    /// Raft term.
    pub term: u64,
    /// Last applied log index.
    pub applied: u64,
    /// Committed entries not yet applied.
    pub apply_lag: u64,
    /// Frames held.
    pub frames: u64,
    /// Vectors in the index.
    pub vectors: u64,
    /// Changes not yet in the index.
    pub index_lag: u64,
}

/// Answer to `status`.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatusReply {
    /// ok, degraded (some replica is missing) or unavailable (some shard has no leader).
    pub state: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// The router's build.
    pub version: String,
    /// Epoch of the cluster map.
    pub epoch: u64,
    /// Number of shards.
    pub shards: u32,
    /// Shards without a known leader.
    pub leaderless_shards: Vec<u32>,
    /// Frames in the cluster, counted once.
    pub frames: u64,
    /// The router's embedding model; absent when it has none.
    pub model: Option<String>,
    /// The storage nodes.
    pub nodes: Vec<NodeStatus>,
    /// Replicas on their way from node to node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<ReplicaMove>,
    /// Whether an operator has stopped moves for now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub moves_paused: bool,
    /// With `detailed`: every Raft group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<ShardStatus>,
    /// With `detailed`: every collection.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub collections: Vec<Collection>,
    /// Whether parts could not be asked, and which.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}
