//! Why a group did not do what it was asked, and what the caller can do about it.

use std::time::Duration;

use openraft::errors::{ChangeMembershipError, ClientWriteError, ForwardReason, LinearizableReadError, RaftError};

use crate::types::{NodeId, Runtime, Types};

/// Why a proposal was not answered with a result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing happened here; propose to the leader, if it is known.
    #[error("not the leader; it is {leader:?}")]
    NotLeader {
        /// The leader this node knows.
        leader: Option<NodeId>,
    },
    /// It may yet be applied, or have been: propose again under the same request id.
    #[error("no answer within {0:?}; the outcome is unknown")]
    Timeout(Duration),
    /// Nothing happened: this node leads, as far as it knows, but no quorum has answered it for a while. Propose again.
    #[error("no quorum answers the leader")]
    NoQuorum,
    /// Leadership moved, or this replica stopped, while it was under way; it may have been applied: propose again under
    /// the same request id.
    #[error("leadership moved to {leader:?}; the outcome is unknown")]
    Unknown {
        /// The leader this node knows.
        leader: Option<NodeId>,
    },
    /// The id named another payload before; nothing was applied.
    #[error("the request id was used for something else")]
    RequestIdReused,
    /// The request was applied earlier, but its answer was too large to keep: read what it did.
    #[error("applied before, at index {index}; its answer was not kept")]
    AppliedBefore {
        /// Where in the log it was applied.
        index: u64,
    },
    /// It was committed, and no replica can apply it: nothing was changed, nor will be by proposing it again.
    #[error("the command cannot be applied, at index {index}")]
    NotApplicable {
        /// Where in the log it is.
        index: u64,
    },
    /// Nothing happened; a payload must be shorter.
    #[error("payload of {bytes} bytes; at most {limit} are allowed")]
    TooLarge {
        /// How long the payload is.
        bytes: usize,
        /// The longest that is allowed.
        limit: usize,
    },
    /// Nothing happened; propose later.
    #[error("too many proposals are under way")]
    Overloaded,
    /// Nothing happened; this node's disk has no room.
    #[error("the disk is full")]
    DiskFull,
    /// Nothing happened: this replica had stopped before.
    #[error("the group has stopped here: {0}")]
    Stopped(String),
}

/// Why there is no read index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Ask the leader, if it is known.
    #[error("not the leader; it is {leader:?}")]
    NotLeader {
        /// The leader this node knows.
        leader: Option<NodeId>,
    },
    /// This node leads, as far as it knows, but a quorum did not confirm it in time.
    #[error("no quorum confirmed the leader")]
    NoQuorum,
    /// Confirmed, but not applied here in time.
    #[error("not applied within {0:?}")]
    Timeout(Duration),
    /// This node's state has no room to apply what the read must see; it goes on by itself once there is some.
    #[error("the disk is full")]
    DiskFull,
    /// This replica has stopped.
    #[error("the group has stopped here: {0}")]
    Stopped(String),
}

/// Why the membership was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Ask the leader, if it is known.
    #[error("not the leader; it is {leader:?}")]
    NotLeader {
        /// The leader this node knows.
        leader: Option<NodeId>,
    },
    /// Another change is under way; try again when it is done.
    #[error("another change is under way: {0}")]
    InProgress(String),
    /// It cannot be done as asked; nothing changed.
    #[error("refused: {0}")]
    Refused(String),
    /// Not done in time; it may yet be.
    #[error("not done within {0:?}")]
    Timeout(Duration),
    /// This replica has stopped.
    #[error("the group has stopped here: {0}")]
    Stopped(String),
}

/// What the consensus library answers to a write.
pub(super) type WriteFailure<R> = RaftError<Types<R>, ClientWriteError<Types<R>>>;

/// Whether the node leads, but no quorum has answered it lately.
pub(super) fn lease_expired<R: Runtime>(error: &WriteFailure<R>) -> bool {
    let RaftError::APIError(ClientWriteError::ForwardToLeader(to)) = error else { return false };
    to.reason == ForwardReason::LeaseExpired
}

/// Why a proposal failed. `ran`: the replica had not stopped when the proposal was handed in, so that it may be in the log here and elsewhere.
pub(super) fn propose_error<R: Runtime>(error: WriteFailure<R>, ran: bool) -> ProposeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => ProposeError::NotLeader { leader: to.leader_id },
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(to)) => ProposeError::Unknown { leader: to.leader_id },
        // Only membership changes and conditional writes are refused otherwise.
        RaftError::APIError(other) => ProposeError::Stopped(other.to_string()),
        RaftError::Fatal(_) if ran => ProposeError::Unknown { leader: None },
        RaftError::Fatal(fatal) => ProposeError::Stopped(fatal.to_string()),
    }
}

pub(super) fn read_error<R: Runtime>(error: RaftError<Types<R>, LinearizableReadError<Types<R>>>) -> ReadError {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(to)) => {
            ReadError::NotLeader { leader: to.leader_id }
        }
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => ReadError::NoQuorum,
        RaftError::Fatal(fatal) => ReadError::Stopped(fatal.to_string()),
    }
}

pub(super) fn change_error<R: Runtime>(error: WriteFailure<R>) -> ChangeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to) | ClientWriteError::LogEntryDiscarded(to)) => {
            ChangeError::NotLeader { leader: to.leader_id }
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
            ChangeMembershipError::InProgress(cause) => ChangeError::InProgress(cause.to_string()),
            other => ChangeError::Refused(other.to_string()),
        },
        RaftError::APIError(other) => ChangeError::Refused(other.to_string()),
        RaftError::Fatal(fatal) => ChangeError::Stopped(fatal.to_string()),
    }
}
