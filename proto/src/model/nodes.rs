//! Changes of the cluster's nodes, with the replicas that they move.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

/// What to do with a storage node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeAction {
    /// Give a node that has joined its share of the replicas; one that is being drained keeps what it has.
    Add,
    /// Move every replica away from it.
    Drain,
    /// Rebuild what a dead node held on another that has joined and holds nothing.
    Replace,
    /// Forget a node that holds nothing; its id is never let in again.
    Remove,
}

/// A change of the cluster's nodes.
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeChange {
    /// What to do.
    pub action: NodeAction,
    /// With which node: its id or its address.
    pub node: String,
    /// With `replace`: who takes its place.
    pub by: Option<String>,
    /// Only say what would move.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What a change of nodes moves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeChangeReply {
    /// The replicas that will move, or would.
    pub moves: Vec<ReplicaMove>,
}

/// A replica that moves from node to node.
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaMove {
    /// The shard.
    pub shard: u32,
    /// Whose replica goes; absent when the shard gets one more, the same as `to` when a damaged replica is rebuilt.
    pub from: Option<String>,
    /// Who gets one.
    pub to: String,
    /// planned, joining (it is being copied), leaving or clearing (of a damaged replica).
    pub step: String,
}

/// Stops moves of replicas for now, or lets them go on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MovesSetting {
    /// Whether moves wait.
    pub paused: bool,
}
