//! The wire contract: what programs of MIRA say to each other and to callers.
//!
//! - [`model`]: requests and answers of the operations, as JSON callers (MCP, REST) and the router see them;
//! - [`clients`]: what routers and nodes ask a node with;
//! - [`codec`]: how the public gRPC is decoded, within bounds;
//! - [`extensions`]: fields that a format does not name yet, kept by whoever does not know them;
//! - [`filter`]: which frames a caller means;
//! - [`groups`]: what a search that groups gives out;
//! - [`json`]: what is wrong with a JSON text, in words of our own;
//! - [`position`]: where a frame stands in its session;
//! - [`problem`]: the typed errors, with their meaning on every protocol;
//! - [`names`]: what things may be called;
//! - [`numbers`]: numbers that would not come back the same;
//! - [`time`]: times as callers write them;
//! - [`limits`]: every bound of the system, by owner;
//! - [`refusal`]: how a node tells a router where to go instead;
//! - [`vectors`]: the vectors of a frame, as they lie in sealed pieces;
//! - [`verification`]: what replicas that differ are judged by;
//! - [`wire`]: words and values of the enums that nodes and routers compare;
//! - [`placement`]: which shard holds a frame, which nodes a shard;
//! - [`node_v1`], [`raft_v1`], [`v1`]: generated gRPC stubs (node, replication, public).

pub mod clients;
pub mod codec;
pub mod extensions;
pub mod filter;
pub mod groups;
pub mod json;
pub mod limits;
pub mod model;
pub mod names;
pub mod numbers;
pub mod placement;
pub mod position;
pub mod problem;
pub mod refusal;
pub mod time;
pub mod vectors;
pub mod verification;
pub mod wire;

pub use extensions::Extensions;
pub use position::Position;
pub use problem::{Code, Problem};
pub use refusal::Refusal;

/// Version of the protocol between nodes and routers. Raised when an old peer would misunderstand a new one.
pub const PROTOCOL_VERSION: u32 = 1;

/// Version of the headers of reads and writes that this build sends. A node refuses a later one: it would leave out what
/// the header asks for.
pub const HEADER_VERSION: u32 = 1;

/// The highest level of persisted formats that this build reads and writes. Every change of a format that an older build
/// would misread raises it; a cluster writes the level that all of its nodes know.
pub const FORMAT_LEVEL: u32 = 1;

/// Bytes at the front of the request id of a change of the cluster that name the caller's key; those behind them say what is
/// asked.
pub const REQUEST_KEY_BYTES: usize = 8;

/// Identifies a storage node for its life; made once, at random, on its first start.
pub type NodeId = u64;
/// A shard of the cluster, `0..shard_count`.
pub type ShardId = u32;
/// A collection's number, never used twice in a cluster.
pub type CollectionId = u64;
/// A frame's UUID as a number, big-endian.
pub type FrameId = u128;

/// Generated: replication between nodes.
#[allow(missing_docs, clippy::all)]
pub mod raft_v1 {
    tonic::include_proto!("mira.raft.v1");
}
/// Generated: what routers ask of nodes.
#[allow(missing_docs, clippy::all)]
pub mod node_v1 {
    tonic::include_proto!("mira.node.v1");
}
/// Generated: the public gRPC.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("mira.v1");
}
