//! The storage node: shards of sealed frames, replicated by Raft, and the indexes derived from them.
//!
//! ```text
//!  service (gRPC) ──▶ shard::write ── seal, propose ──▶ raft ──▶ shard::machine ── one batch ──▶ RocksDB
//!        │                                                            │ changes
//!        ├─────────▶ shard::read  ◀── frames, opened                  ▼
//!        └─────────▶ shard::index: tail ∪ index ◀──────────── background worker
//!  placement: coming to a cluster, opening shards, moving replicas, spreading leadership
//!  background: what a node does by itself: expiry, migration of growing collections, new and destroyed keys
//!  backup: out of the cluster, and back
//!  meta: nodes, shard map, collections and their wrapped keys, replicated to every node
//!  keys: the cluster keys a node holds, and what it unwraps with them
//! ```
//!
//! Everything this crate hands to disk or replication is sealed; [`shard::record`] has the layout. Decisions
//! ([`placement::reconcile::plan`], the rules of [`shard::machine`]) are plain functions; I/O stands around them.

pub mod background;
mod backup;
mod challenge;
pub mod config;
mod data;
pub mod error;
pub mod identity;
pub mod keys;
mod leftovers;
pub mod member;
pub mod meta;
mod metrics;
pub mod node;
pub mod peers;
pub mod placement;
pub mod replicas;
pub mod server;
mod service;
pub mod shard;
mod status;
mod system;

pub use config::{ChunkGcSettings, Formation, NodeConfig, Shape, VerificationSettings};
pub use error::StartError;
pub use keys::keyring::FixedKeys;
pub use keys::provider::{KeyProvider, ProviderError};
pub use node::Node;
pub use server::RunningNode;
