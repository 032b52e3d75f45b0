//! Where replicas are, and how they come to be where they should be.
//!
//! [`rebalance`] says where they should be, [`reconcile`] plans the next steps from what is, [`executor`] takes them.
//! [`formation`] brings a node to its cluster, [`repair`] opens it again after damage.

pub mod executor;
pub mod formation;
pub mod rebalance;
pub mod reconcile;
pub mod repair;
