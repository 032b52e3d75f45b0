//! Where replicas are, and how they come to be where they should be.
//!
//! [`rebalance`] says where they should be, [`reconcile`] plans the next steps from what is, [`executor`] takes them.
//! [`keeper`] drives both on a node that serves. [`formation`] brings a node to its cluster, [`repair`] opens it again after damage.

pub mod executor;
pub mod formation;
pub mod keeper;
pub mod rebalance;
pub mod reconcile;
pub mod repair;
