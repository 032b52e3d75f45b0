//! The meta group: what the cluster is, replicated to every node.

pub mod command;
pub mod keys;
pub mod machine;
pub mod state;

pub use command::{MetaAnswer, MetaCommand};
pub use keys::{Erasure, Receipt, Repository, Rewrapped, Rotation, RotationStep};
pub use machine::MetaMachine;
pub use state::{
    ClusterState, CollectionRecord, Growth, GrowthStep, Move, MoveStep, NamedSpace, NodePhase, NodeRecord, OwnerName,
    Space,
};
