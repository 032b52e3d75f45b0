//! Frames of a growing collection on their way from the shards that have them to the shards that are added.

pub mod listing;
pub mod ownership;
pub mod transfer;
