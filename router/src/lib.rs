//! The router: stateless, any number of them, in front of the storage nodes.
//!
//! A caller speaks MCP, REST or gRPC to it ([`api`]); all three are thin adapters over [`Memory`]. Each of its operations
//! is a file of [`operations`]: it checks the request, embeds texts ([`embedding`]), finds the shards in a cached cluster
//! map ([`cluster`]), asks them at once, and merges what they say ([`ranking`]). Private frames have a folder of their own
//! ([`private`]).
//!
//! Two promises shape the code. *Routers are interchangeable*: nothing is kept here that another router lacks; what a
//! client must carry from one request to the next travels with it as a [`ConsistencyToken`]. *Retries are safe*: every
//! try of a write carries the same request id, so an unknown outcome is simply tried again until the deadline.

pub mod api;
pub mod cluster;
pub mod config;
pub mod context;
pub mod embedding;
pub mod memory;
pub mod metrics;
pub mod operations;
pub mod private;
pub mod ranking;

mod access_tokens;
mod ids;
mod positions;
mod rates;
mod server;
mod token;

pub use access_tokens::{AccessToken, DEFAULT_PRINCIPAL, TokenFileError};
pub use config::RouterConfig;
pub use context::RequestContext;
pub use memory::Memory;
pub use server::{Router, RunningRouter, StartError};
pub use token::ConsistencyToken;

/// The build's version, as `status` and MCP report it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
