//! Names shared by the whole crate: ids, the consensus library's type parameters, and what a log entry carries.
//!
//! The consensus library is generic over its runtime, and so is everything here: production runs on [`TokioRuntime`],
//! the simulator runs the same code on a deterministic single-threaded runtime.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::raft::responder::Responder;
pub use openraft_rt_tokio::TokioRuntime;
use serde::{Deserialize, Serialize};

/// Identifies a node for as long as its data lives: a wiped disk is a new node with a new id.
pub type NodeId = u64;

/// Identifies a Raft group within a cluster.
pub type GroupId = u32;

/// What a caller names a write with, so that a retry of it is applied once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u128);

/// The asynchronous runtime everything hangs on: tasks, timers, channels, random election timeouts.
///
/// [`TokioRuntime`] in production; any runtime of the consensus library's family (the deterministic simulator's, for
/// one) satisfies it.
pub trait Runtime: openraft::AsyncRuntime + 'static {
    /// Now, by the runtime's own clock, which never runs backwards.
    fn now() -> Self::Instant {
        openraft::Instant::now()
    }
}

impl<T: openraft::AsyncRuntime + 'static> Runtime for T {}

/// The consensus library's type parameters, on runtime `R`.
pub struct Types<R>(PhantomData<fn() -> R>);

pub(crate) type Vote = openraft::Vote<LeaderId<u64, NodeId>>;
pub(crate) type LogId = openraft::LogId<LeaderId<u64, NodeId>>;
pub(crate) type Node = openraft::EmptyNode;
pub(crate) type Payload = openraft::EntryPayload<Proposal, NodeId, Node>;
pub(crate) type Entry = openraft::Entry<LeaderId<u64, NodeId>, Payload>;
pub(crate) type Membership = openraft::StoredMembership<LeaderId<u64, NodeId>, NodeId, Node>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<LeaderId<u64, NodeId>, NodeId, Node>;

impl<R: Runtime> openraft::RaftTypeConfig for Types<R> {
    type D = Proposal;
    type R = Vec<Answer>;
    type NodeId = NodeId;
    type Node = Node;
    type Term = u64;
    // Several candidates of one term are ordered by node id, so that a tied election ends in a leader, not in a new
    // round: fail-over has a tighter tail than with one vote per term.
    type LeaderId = LeaderId<u64, NodeId>;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = Entry;
    type AsyncRuntime = R;
    type Responder<T>
        = Callback<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

// Derives would ask the same of `R`, of which no value ever exists.
impl<R> Clone for Types<R> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<R> Copy for Types<R> {}
impl<R> Default for Types<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}
impl<R> fmt::Debug for Types<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Types")
    }
}
impl<R> PartialEq for Types<R> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<R> Eq for Types<R> {}
impl<R> PartialOrd for Types<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<R> Ord for Types<R> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

/// What a retry is recognised by: the caller's id, and a digest of what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    pub(crate) id: RequestId,
    pub(crate) digest: [u8; 16],
}

impl Fingerprint {
    pub(crate) fn of(id: RequestId, payload: &[u8]) -> Self {
        Self { id, digest: digest(payload) }
    }
}

/// The first half of the BLAKE3 hash: collisions cost 2^64 tries, and forging one gains a caller only the answer to its
/// own earlier request.
pub(crate) fn digest(bytes: &[u8]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    half
}

/// The application's part of a log entry: requests of one or several callers, which are applied in this order, each for
/// itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The proposing leader's wall clock; what it becomes is in `applier::time_after`.
    pub(crate) time_ms: u64,
    pub(crate) requests: Vec<LoggedRequest>,
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: usize = self.requests.iter().map(|request| request.payload.len()).sum();
        write!(f, "{} requests, {bytes} bytes", self.requests.len())
    }
}

/// One caller's request, as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedRequest {
    pub(crate) fingerprint: Option<Fingerprint>,
    pub(crate) payload: Bytes,
}

/// What applying one request gave. An entry is answered with one for each of its requests; one of the protocol itself, which
/// has none, with none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Applied now.
    Applied(Bytes),
    /// The request was applied before, at `index`; its answer, if it was small enough to keep.
    Replayed { index: u64, response: Option<Bytes> },
    /// The id was used before, for something else.
    Reused,
    /// The state machine panicked, as it does on every replica: nothing was changed.
    Failed,
}

/// Is called with what became of an entry: no task and no channel stand between the replica that has applied it and those
/// who wait.
pub struct Callback<T>(pub(crate) Box<dyn FnOnce(T) + Send>);

impl<R: Runtime, T: Send + 'static> Responder<Types<R>, T> for Callback<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

pub(crate) fn index_of(id: Option<&LogId>) -> u64 {
    id.map_or(0, |id| id.index)
}
