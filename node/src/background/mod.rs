//! What a node does by itself, beside serving: one driver a file.

pub mod chunk_gc;
pub mod erasure;
pub mod expiry;
pub mod key_rotation;
pub mod migration;
pub mod verification;
