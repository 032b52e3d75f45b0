//! Replication: many Raft groups on one node, one log, one connection per peer.
//!
//! This is the only crate that knows the consensus library; nothing of it shows outside. A [`RaftHost`] is one node's
//! side of all its groups; a [`Group`] takes proposals, applies them to a [`StateMachine`] on every replica, and says
//! what a read must wait for.
//!
//! ```text
//!   propose ──> Group ──> consensus ──> log_store: every group's appends, one batch, one sync
//!                              │
//!                              ├──> network ──> Transport ──> the peers' RaftHost::handle
//!                              │
//!                              └──> replica: applies committed entries, one engine batch with the applied position
//!                                       │
//!   read  <── StateReader <── state <───┴──> snapshot: a view of one generation, streamed and installed whole
//! ```
//!
//! What it relies on: an [`engine::Engine`] whose batches are atomic and durable in order, a [`Transport`] that may lose
//! anything, a clock that may jump. What it guarantees:
//! - an answered proposal is on the disks of a majority, and applied once per request id;
//! - [`Group::read_index`] never lets a read miss what was acknowledged before it;
//! - replicas that applied the same index hold the same bytes;
//! - everything is bounded: queues, batches, proposals under way, remembered requests, chunks.
//!
//! Clock, randomness, network, storage, threads and runtime are injected, so that a simulator runs this code on one
//! thread, over faulty disks and networks, and replays a seed.

// Log ids are `Copy` for the leader ids in use here, not for every leader id of the library.
#![allow(clippy::clone_on_copy, clippy::type_complexity)]

pub mod archive;
pub mod config;
pub mod engine;
pub mod inspect;
pub mod state_machine;
pub mod threads;
pub mod transport;

mod applier;
mod codec;
mod failures;
mod freshness;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod group;
mod host;
mod log_bound;
mod log_store;
mod network;
mod quiescence;
mod replica;
mod requests;
mod room;
mod snapshot;
mod state;
mod types;
mod wire;

pub use config::{Clock, HostConfig, Limits, SystemClock, Timing};
pub use engine::EngineError;
pub use freshness::Freshness;
pub use group::{ChangeError, Group, GroupStatus, Others, ProposeError, Proposed, ReadError, Role, StatusWatch};
pub use host::{HostError, RaftHost, has_lost_log};
pub use log_store::{LogObserver, NoObserver};
pub use requests::RequestWindow;
pub use state::{StateReader, Txn};
pub use state_machine::{Command, StateMachine};
pub use threads::{OsThreads, RuntimeTasks, Threads};
pub use transport::{Transport, TransportError};
pub use types::{GroupId, NodeId, RequestId, Runtime, TokioRuntime};

#[cfg(test)]
mod tests;
