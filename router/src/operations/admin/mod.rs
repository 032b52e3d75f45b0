//! Operations of who runs a cluster: collections, nodes, keys, backups.

pub mod backup;
pub mod collections;
pub mod keys;
pub mod nodes;
pub mod tune;
pub mod verify;
