//! What operators and routers ask of the cluster as a whole, answered by the leader of the meta group.

pub mod keys;
