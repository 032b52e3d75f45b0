//! How messages reach another node.
//!
//! The crate needs no more of a network than a call with opaque bytes. Production speaks gRPC; the simulator delivers,
//! delays, duplicates and drops; tests connect hosts within the process.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::types::NodeId;

#[cfg(feature = "grpc")]
pub mod grpc;
pub mod local;

/// Why a call gave no reply. The request may or may not have arrived.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// There is no way to the peer now; it is worth waiting before the next try.
    #[error("node {0} cannot be reached: {1}")]
    Unreachable(NodeId, String),
    /// No reply in time.
    #[error("no reply in {0:?}")]
    Timeout(Duration),
    /// Too many calls to this peer are under way.
    #[error("too many calls to node {0} are under way")]
    Overloaded(NodeId),
    /// The connection broke.
    #[error("connection lost: {0}")]
    Lost(String),
}

/// A way to call other nodes. Calls to one peer should arrive in the order they were made: replication is pipelined, and
/// a reordered request costs a round of probing (never correctness).
pub trait Transport: Send + Sync + 'static {
    /// Sends `request` to `peer`'s [`RaftHost::handle`](crate::RaftHost::handle) and gives back its reply.
    fn call(
        &self,
        peer: NodeId,
        request: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;
}
