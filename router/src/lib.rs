//! The router: stateless, any number of them, in front of the storage nodes.
//!
//! A caller speaks MCP, REST or gRPC to it ([`api`]); all three are thin adapters over one trait, [`Memory`], whose
//! production implementation [`ClusterMemory`] validates a request ([`validate`]), embeds its texts ([`embedding`]),
//! finds the shards in a cached cluster map ([`cluster`]), asks them at once, and merges what they say ([`merge`]).
//!
//! Two promises shape the code. *Routers are interchangeable*: nothing is kept here that another router lacks; what a
//! client must carry from one request to the next travels with it as a [`ConsistencyToken`]. *Retries are safe*: every
//! try of a write carries the same request id, so an unknown outcome is simply tried again until the deadline.

mod answers;
pub mod api;
pub mod cluster;
pub mod config;
pub mod context;
pub mod embedding;
pub mod memory;
pub mod merge;
pub mod metrics;
pub mod owner;
pub mod uploads;
pub mod validate;
pub mod words;

mod backup;
mod collections;
mod convert;
mod cursor;
mod diversity;
mod forget;
mod ids;
mod keys;
mod kinds;
mod nodes;
mod owned;
mod private;
mod recall;
mod scan;
mod search;
mod server;
mod sessions;
mod sift;
mod status;
mod store;
mod token;
mod tune;
mod verify;

pub use config::RouterConfig;
pub use context::RequestContext;
pub use memory::{ClusterMemory, Memory};
pub use server::{Router, RunningRouter, StartError};
pub use token::ConsistencyToken;

/// The build's version, as `status` and MCP report it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
