//! What clients and nodes say to each other, and what both know of the one collection: the words of a run, without any of
//! its parts.

use std::sync::Arc;

use bytes::Bytes;
use mira_node::meta::ClusterState;
use mira_node::shard::command::{AdoptedFrame, Condition};
use mira_node::shard::migration::ownership::Span;
use mira_node::shard::migration::transfer::Listed;
use mira_proto::placement::{Partitioning, shards_of_collection};
use mira_proto::{CollectionId, FrameId, ShardId};
use mira_raft::{GroupId, RequestId};

use super::plan::Plan;

/// The meta group; shard `n` is group `n + 1`, as in production.
pub const META_GROUP: GroupId = 0;
/// The only collection.
pub const COLLECTION: CollectionId = 7;

/// What a client asks of a node.
#[derive(Debug, Clone)]
pub enum Ask {
    /// The cluster as the node knows it; or, confirmed by a quorum, as the meta group does.
    Map {
        /// Whether to have it confirmed.
        confirmed: bool,
    },
    /// To have a sealed meta command applied.
    Propose(Bytes),
    /// To change a frame.
    Write(Write),
    /// What a frame is.
    Read {
        /// The map it was routed by.
        epoch: u64,
        /// Where.
        shard: ShardId,
        /// Which.
        frame: FrameId,
        /// Confirmed by a quorum; else the replica's own state, at this index or later.
        at_least: Option<u64>,
        /// What the reader knows of a growth.
        growing: ReadOf,
    },
    /// As `BeginPass` of the node's service.
    BeginPass {
        /// The source.
        shard: ShardId,
        /// The growth.
        span: Span,
        /// Its epoch.
        epoch: u64,
        /// Who asks.
        heir: ShardId,
        /// Whether to release its frames.
        release: bool,
    },
    /// As `Export` of the node's service.
    Export {
        /// The source.
        shard: ShardId,
        /// The growth.
        span: Span,
        /// Who asks.
        heir: ShardId,
        /// The state must be at least this new.
        start: u64,
        /// Changes after this are sent.
        since: u64,
        /// Where the page begins.
        after: Option<FrameId>,
    },
}

/// A write, the same at every try.
#[derive(Debug, Clone)]
pub struct Write {
    /// The map it was routed by.
    pub epoch: u64,
    /// Where.
    pub shard: ShardId,
    /// Names the request.
    pub request: RequestId,
    /// The operation in the history.
    pub operation: u64,
    /// Which frame.
    pub frame: FrameId,
    /// What to do with it.
    pub change: FrameChange,
}

/// A change of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameChange {
    /// Stores this content under a condition.
    Store(u8, Condition),
    /// Removes it.
    Forget,
}

/// What a reader knows of a growth of the collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOf {
    /// Frames are on their way.
    Growing,
    /// It has grown to so many partitions; 0 = it never grew.
    Grown(u32),
}

/// A node's answer.
#[derive(Debug, Clone)]
pub enum Answer {
    /// To [`Ask::Map`].
    Map(Arc<ClusterState>),
    /// To [`Ask::Propose`].
    Proposed,
    /// To [`Ask::Write`]: the position of the last round, the answer there, and what it comes to.
    Written {
        /// Position in the log.
        index: u64,
        /// As encoded by the state machine.
        response: Vec<u8>,
    },
    /// To [`Ask::Read`]: the record, in the state as of `applied`.
    Read {
        /// Position of the state.
        applied: u64,
        /// The frame's version, and the operation that stored it.
        found: Option<(u64, u64)>,
        /// Whether this shard decides about the frame, as far as the replica knows.
        mine: bool,
    },
    /// To [`Ask::BeginPass`].
    Start(u64),
    /// To [`Ask::Export`].
    Page(Arc<Listed>, Vec<AdoptedFrame>),
}

/// The body of a frame here: which operation stored it. In production this is sealed.
pub fn body_of(operation: u64, round: u32) -> Vec<u8> {
    [&operation.to_le_bytes()[..], &round.to_le_bytes()].concat()
}

/// The operation and round in a body.
pub fn operation_of(body: &[u8]) -> (u64, u32) {
    let (operation, round) = body.split_at(8);
    (
        u64::from_le_bytes(operation.try_into().expect("eight bytes")),
        u32::from_le_bytes(round.try_into().expect("four bytes")),
    )
}

/// The shard that holds a frame of a collection of so many partitions.
pub fn shard_of(plan: &Plan, partitions: u32, frame: FrameId) -> ShardId {
    Partitioning::new(shards_of_collection(COLLECTION, partitions, plan.shards)).shard_of(frame)
}
