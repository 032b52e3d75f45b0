//! One group's way to one peer: a call, and what its failure means to the consensus library.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{NetworkError, RPCError, Timeout, Unreachable};
use openraft::network::RPCTypes;
use serde::de::DeserializeOwned;

use crate::snapshot::SnapshotKeeper;
use crate::transport::{Transport, TransportError};
use crate::types::{GroupId, NodeId, Runtime, Types};
use crate::wire::{self, Refusal, Status};

/// What all links of a group share.
#[derive(Clone)]
pub(crate) struct Wires {
    pub transport: Arc<dyn Transport>,
    pub node: NodeId,
    pub group: GroupId,
    pub keeper: Arc<SnapshotKeeper>,
    pub chunk_bytes: usize,
    pub snapshot_bytes_per_second: u64,
    /// Least time given to a request with entries: it waits for a sync there.
    pub append_timeout: Duration,
    /// How long ago a quorum answered this node as leader; known once the group runs.
    pub quorum_age: Arc<OnceLock<QuorumAge>>,
}

/// Says how long ago a quorum last answered this node; `None` if it does not lead.
pub(crate) type QuorumAge = Box<dyn Fn() -> Option<Duration> + Send + Sync>;

/// One group's way to one peer.
#[derive(Clone)]
pub(crate) struct Link {
    pub wires: Wires,
    pub peer: NodeId,
}

/// Why a call failed, before it is put into the library's words.
pub(crate) enum CallError {
    Transport(TransportError),
    Refused(Refusal),
    Malformed(String),
}

impl Link {
    /// Calls the peer; the body of its reply.
    pub(crate) async fn call<R: Runtime>(&self, request: Bytes, timeout: Duration) -> Result<Bytes, CallError> {
        let call = self.wires.transport.call(self.peer, request, timeout);
        // The transport keeps the time as well; this is for one that cannot.
        let reply = match R::timeout(timeout, call).await {
            Ok(reply) => reply.map_err(CallError::Transport)?,
            Err(_) => return Err(CallError::Transport(TransportError::Timeout(timeout))),
        };
        wire::parse_reply(reply).map_err(CallError::Refused)
    }

    /// Calls the peer; its reply, decoded.
    pub(super) async fn ask<R: Runtime, T: DeserializeOwned>(
        &self,
        request: Bytes,
        action: RPCTypes,
        timeout: Duration,
    ) -> Result<T, RPCError<Types<R>>> {
        let body = self.call::<R>(request, timeout).await.map_err(|error| self.rpc_error(error, action))?;
        postcard::from_bytes(&body).map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }

    /// A failed call in the library's words.
    pub(crate) fn rpc_error<R: Runtime>(&self, error: CallError, action: RPCTypes) -> RPCError<Types<R>> {
        match error {
            CallError::Transport(TransportError::Timeout(timeout)) => {
                RPCError::Timeout(Timeout { action, id: self.wires.node, target: self.peer, timeout })
            }
            CallError::Transport(error @ TransportError::Unreachable(..)) => {
                RPCError::Unreachable(Unreachable::new(&error))
            }
            CallError::Transport(error) => RPCError::Network(NetworkError::new(&error)),
            // Trying again at once would not help: the group has to be opened there first.
            CallError::Refused(Refusal { status: Status::NoGroup | Status::Stopped, text }) => {
                RPCError::Unreachable(Unreachable::from_string(text))
            }
            CallError::Refused(Refusal { text, .. }) | CallError::Malformed(text) => {
                RPCError::Network(NetworkError::from_string(text))
            }
        }
    }
}
