//! The meta group: what the cluster is, replicated to every node.

pub mod admin;
pub mod command;
#[cfg(test)]
mod extremes;
pub mod machine;
mod records;
pub mod state;
mod transitions;

use mira_raft::GroupId;

/// The meta group; shard `n` is group `n + 1`.
pub const META_GROUP: GroupId = 0;

pub use command::{MetaAnswer, MetaCommand, RequestOutcome};
pub use machine::MetaMachine;
pub use state::{
    AnsweredRequest, ClusterState, CollectionChanges, CollectionRecord, Collections, Erasure, Growth, GrowthStep,
    KeyedName, Move, MoveStep, NameKey, NamedSpace, NodePhase, NodeRecord, OwnerName, Receipt, Repository, Rewrapped,
    Rotation, RotationStep, Space,
};
