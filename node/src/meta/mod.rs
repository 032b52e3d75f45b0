//! The meta group: what the cluster is, replicated to every node.

pub mod admin;
pub mod command;
pub mod keys;
pub mod machine;
pub mod state;

use mira_raft::GroupId;

/// The meta group; shard `n` is group `n + 1`.
pub const META_GROUP: GroupId = 0;

pub use command::{MetaAnswer, MetaCommand};
pub use keys::{Erasure, Receipt, Repository, Rewrapped, Rotation, RotationStep};
pub use machine::MetaMachine;
pub use state::{
    ClusterState, CollectionRecord, Growth, GrowthStep, Move, MoveStep, NamedSpace, NodePhase, NodeRecord, OwnerName,
    Space,
};
