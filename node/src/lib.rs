//! The storage node: shards of sealed frames, replicated by Raft, and the indexes derived from them.
//!
//! ```text
//!  service (gRPC) ──▶ shard::write ── seal, propose ──▶ raft ──▶ shard::machine ── one batch ──▶ RocksDB
//!        │                                                            │ changes
//!        ├─────────▶ shard::read  ◀── frames, opened                  ▼
//!        └─────────▶ shard::indexer: tail ∪ index ◀─────────── background worker
//!  formation, reconcile, rebalance: coming to a cluster, opening shards, moving replicas, spreading leadership
//!  grow: frames on their way to the shards that a growing collection adds
//!  rotate, erase: keys that change, and keys that end; backup: out of the cluster, and back
//!  meta: nodes, shard map, collections and their wrapped keys, replicated to every node
//! ```
//!
//! Everything this crate hands to disk or replication is sealed; [`shard::record`] has the layout. Decisions
//! ([`reconcile::plan`], the rules of [`shard::machine`]) are plain functions; I/O stands around them.

mod backup;
pub mod collect;
pub mod config;
mod erase;
mod expiry;
mod formation;
pub mod grow;
mod http;
pub mod identity;
pub mod keyring;
pub mod meta;
mod metrics;
pub mod node;
mod peers;
mod provider;
pub mod rebalance;
pub mod reconcile;
mod rotate;
mod service;
pub mod shard;
mod system;
mod verification;

pub use config::{Formation, NodeConfig, Shape};
pub use keyring::FixedKeys;
pub use node::{Node, RunningNode, StartError};
pub use provider::{KeyProvider, ProviderError};
pub use verification::Verification;
