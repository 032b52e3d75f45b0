//! What a group replicates: the trait that the replicated application implements.
//!
//! The replication crate knows nothing of frames: it hands committed payloads to a [`StateMachine`] in log order and
//! commits what the machine writes, together with the applied position, membership and remembered request ids, in one
//! atomic batch of the engine.

use bytes::Bytes;

use crate::engine::EngineError;
use crate::state::{StateReader, Txn};
use crate::types::RequestId;

/// One committed command on its way into the state.
#[derive(Debug, Clone, Copy)]
pub struct Command<'a> {
    /// The position of its entry in the group's log.
    pub index: u64,
    /// Its place among the commands of that entry, from 0. Several callers' commands may share an entry
    /// ([`StateMachine::shares_entry`]): they are applied one after the other and become visible together.
    pub ordinal: u32,
    /// Milliseconds since the Unix epoch, stamped by the proposing leader. The only clock that replicated decisions may
    /// use. Within a group it runs backwards only to come down to a leader's clock again after that of another one was
    /// far ahead.
    pub time_ms: u64,
    /// Under which id it was proposed, if under any. It is applied once at most; what tells one from another is no business
    /// of the application, but may be of whoever watches it.
    pub request: Option<RequestId>,
    /// The payload as proposed.
    pub payload: &'a [u8],
}

/// A deterministic application: the same commands give the same writes and answers on every replica.
pub trait StateMachine: Send + Sync + 'static {
    /// Applies one command: reads and writes through `txn` (which sees the writes of earlier commands of the same
    /// batch) and returns the answer for the proposer. A refusal that every replica would give is an answer, encoded by
    /// the application; an error stops this replica of the group. A panic is taken for a command that no replica can apply:
    /// what it wrote is taken back, and its proposer is told.
    fn apply(&self, command: Command<'_>, txn: &mut Txn<'_>) -> Result<Bytes, EngineError>;

    /// Whether a command may share its log entry with others, which spares each of them a task, a wake-up and a record of
    /// the log. Not one to which its index is a name of its own; and not one that [ends its batch](Self::ends_batch).
    fn shares_entry(&self, _payload: &[u8]) -> bool {
        false
    }

    /// Whether `payload` ends its batch, so that [`committed`](Self::committed) sees the state as of this very command on
    /// every replica, however their batches fall.
    fn ends_batch(&self, _payload: &[u8]) -> bool {
        false
    }

    /// Called after a batch of commands became visible to readers, the last of them at `applied_index`, and before
    /// readers that wait for that index go on: what is derived from the state is as new as the index says.
    fn committed(&self, applied_index: u64);

    /// Called when the whole state was replaced (a snapshot was installed) and once when the group is opened; readers
    /// of `state` see the state as of `applied_index`, and those who wait for that index go on afterwards. Derived state
    /// (indexes, caches) is rebuilt from it.
    fn restored(&self, state: StateReader, applied_index: u64);
}
