//! Why a node does not start.

use std::{io, net::SocketAddr};

use mira_crypto::KeyId;
use mira_proto::NodeId;
use mira_raft::{EngineError, HostError};

use crate::{identity::IdentityError, keys::provider::ProviderError};

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be used.
    #[error("data folder {path}: {source}")]
    Data {
        /// The folder.
        path: String,
        /// What the file system said.
        source: io::Error,
    },
    /// The identity cannot be read or kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The storage engine refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Replication did not start.
    #[error(transparent)]
    Host(#[from] HostError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A member's log is gone, and the node was told to make a new cluster.
    #[error(
        "the log of node {0:016x} is gone, but it belongs to a cluster: start it with --join or --peers, and it becomes a \
         new node of that cluster"
    )]
    LostLog(NodeId),
    /// What the cluster has told this node cannot be read, nor rebuilt from the log.
    #[error(
        "this node's copy of the cluster's map is damaged ({0}) and its log does not reach back far enough to rebuild it: \
         empty the data folder, start the node with --join, and give it the place of the old one with `mira admin nodes \
         replace`"
    )]
    MetaDamaged(String),
    /// A later release wrote this node's data.
    #[error(
        "this node's cluster writes formats of level {written}, this release knows {known}: start the release that the \
         other nodes run"
    )]
    Format {
        /// The level that is switched on.
        written: u32,
        /// The highest that this build knows.
        known: u32,
    },
    /// Background threads cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The cluster keys cannot be had.
    #[error("no cluster key: {0}")]
    Keys(#[from] ProviderError),
    /// This node's data is sealed with a cluster key that it was not given.
    #[error("this node's data needs the cluster key {0}: give the node that key too, behind the one that it has")]
    NoClusterKey(KeyId),
}
