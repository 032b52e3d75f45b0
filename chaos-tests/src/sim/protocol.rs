//! What clients and nodes say to each other, and what both know of the collections: the words of a run, without any of its
//! parts.
//!
//! Everything is said in the messages of `mira.node.v1`, as on the real wire. An operation of the history is known by the
//! creation time of the frame that it stores: the one number that a caller chooses, that is not sealed and that does not
//! count as content.

use std::sync::Arc;

use bytes::Bytes;
use mira_node::meta::ClusterState;
use mira_node::shard::command::{Condition, StoreOutcome};
use mira_proto::placement::{Partitioning, shards_of_collection};
use mira_proto::{CollectionId, FrameId, ShardId, node_v1};

use super::plan::Plan;

pub use mira_node::meta::META_GROUP;

/// The collection that grows in some runs.
pub const COLLECTION: CollectionId = 7;
/// The collection that is dropped in some runs.
pub const DROPPED: CollectionId = 8;
/// Frames from this one on belong to [`DROPPED`], all others to [`COLLECTION`].
pub const DROPPED_FRAMES: FrameId = 1 << 64;

/// What a client or another node asks of a node.
#[derive(Debug, Clone)]
pub enum Ask {
    /// The cluster as the node knows it.
    Map,
    /// The cluster as a quorum of the meta group knows it.
    ConfirmedMap,
    /// How its replicas are.
    Status,
    /// To have a sealed meta command applied.
    Propose(Bytes),
    /// To store a frame.
    Write(node_v1::WriteRequest),
    /// To remove a frame.
    Forget(node_v1::ForgetRequest),
    /// What a frame is.
    Fetch(node_v1::FetchRequest),
    /// To begin a pass over the frames of a source.
    BeginPass(node_v1::BeginPassRequest),
    /// A page of a pass.
    Export(node_v1::ExportRequest),
}

/// A node's answer: each to the question of its name.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The map, shared.
    Map(Arc<ClusterState>),
    /// The map on the wire.
    ConfirmedMap(node_v1::ClusterMap),
    /// Of all open shards.
    Status(node_v1::NodeStatus),
    /// The state machine's answer.
    Proposed(Bytes),
    /// What became of the frame, and where.
    Written(node_v1::WriteReply),
    /// Whether it was there, and where.
    Forgotten(node_v1::ForgetReply),
    /// The frame, if it is there.
    Fetched(node_v1::FetchReply),
    /// Where the pass begins.
    PassBegun(node_v1::BeginPassReply),
    /// The page.
    Exported(node_v1::ExportReply),
}

/// A change of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameChange {
    /// Stores this content under a condition.
    Store(u8, Condition),
    /// Removes it.
    Forget,
}

/// What a caller is told of a frame that it wanted to store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It is there, as this version.
    Version(u64),
    /// Something else is there.
    Conflict,
    /// Another shard decides about it.
    Moved,
}

impl From<StoreOutcome> for Told {
    fn from(outcome: StoreOutcome) -> Self {
        match outcome {
            StoreOutcome::Stored(version) | StoreOutcome::Same(version) => Told::Version(version),
            StoreOutcome::Moved => Told::Moved,
            StoreOutcome::Conflict(_) | StoreOutcome::Raced(_) | StoreOutcome::Foreign => Told::Conflict,
        }
    }
}

impl From<&node_v1::WriteOutcome> for Told {
    fn from(outcome: &node_v1::WriteOutcome) -> Self {
        match outcome {
            outcome if outcome.moved => Told::Moved,
            outcome if outcome.problem.is_some() => Told::Conflict,
            outcome => Told::Version(outcome.version),
        }
    }
}

/// How clients name their requests: the operation, and whether this is the try at the frame's new shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestName {
    /// The number of the client in the upper half, of its operation in the lower.
    pub operation: u64,
    /// Whether the frame was found to have moved.
    pub is_moved: bool,
}

impl RequestName {
    /// The id of the request.
    pub fn id(self) -> u128 {
        let (client, number) = (u128::from(self.operation >> 32), u128::from(self.operation as u32));
        u128::from(self.is_moved) << 120 | client << 64 | number
    }
}

/// The collection of a frame.
pub fn collection_of(frame: FrameId) -> CollectionId {
    if frame >= DROPPED_FRAMES { DROPPED } else { COLLECTION }
}

/// The shard that holds a frame when [`COLLECTION`] has so many partitions. [`DROPPED`] lies in all shards.
pub fn shard_of(plan: &Plan, partitions: u32, frame: FrameId) -> ShardId {
    let collection = collection_of(frame);
    let partitions = if collection == DROPPED { plan.shards } else { partitions };
    Partitioning::new(shards_of_collection(collection, partitions, plan.shards)).shard_of(frame)
}

/// What an operation of the history stores. Content decides about everything that counts as content: every second one has
/// a session, every third one a vector.
pub fn frame_write(operation: u64, frame: FrameId, content: u8, condition: Condition) -> node_v1::FrameWrite {
    let vector = vec![1.0, f32::from(content), 0.0, 0.0];
    let passages = content.is_multiple_of(3).then_some(node_v1::Passage { start: 0, end: 0, vector });
    let (replace, expected_version) = match condition {
        Condition::Create => (false, None),
        Condition::Replace => (true, None),
        Condition::Expect(version) => (true, Some(version)),
    };
    node_v1::FrameWrite {
        id: frame.to_be_bytes().to_vec().into(),
        content: vec![content].into(),
        session: if content.is_multiple_of(2) { format!("session {content}") } else { String::new() },
        vector_given: passages.is_some(),
        passages: passages.into_iter().collect(),
        replace,
        expected_version,
        created_ms: operation,
        ..Default::default()
    }
}
