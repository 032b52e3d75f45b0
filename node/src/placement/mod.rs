//! Where replicas are, and how they come to be where they should be.

pub mod formation;
pub mod rebalance;
pub mod reconcile;
