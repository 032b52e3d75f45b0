//! Convergence: once everything is healed, writes succeed again, and in bounded time all replicas of a group hold the
//! same state, which is the one that the history says.

use mira_node::shard::record::{self, FrameRecord};
use mira_proto::{FrameId, NodeId};
use mira_raft::{Group, GroupId};

use super::shard_rules::ShardRules;
use crate::sim::protocol::collection_of;
use crate::sim::runtime::Sim;

/// How far each member of a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The member.
    pub node: NodeId,
    /// The last entry of its log.
    pub last: u64,
    /// The last entry it applied.
    pub applied: u64,
    /// Whether it leads.
    pub leads: bool,
}

/// Whether a group has one leader and all its members have applied all there is.
pub fn settled(members: &[Progress], expected: usize) -> bool {
    let leader = members.iter().filter(|member| member.leads).collect::<Vec<_>>();
    let [leader] = leader[..] else { return false };
    members.len() == expected
        && members.iter().all(|member| member.applied == leader.last && member.last == leader.last)
}

/// A replica's frames are what the history says.
pub fn holds(
    group: &Group<Sim>,
    (node, id): (NodeId, GroupId),
    frames: impl Iterator<Item = FrameId>,
    rules: &ShardRules,
) -> Result<(), String> {
    let view = group.reader().view().map_err(|error| error.to_string())?;
    for frame in frames {
        let stored = view.get(&record::frame_key(collection_of(frame), frame)).map_err(|error| error.to_string())?;
        let stored =
            stored.map(|stored| FrameRecord::decode(&stored)).transpose().map_err(|error| error.to_string())?;
        let found = stored.map(|record| (record.fields.version, record.fields.created_ms));
        let expected = rules.frame_at(id, frame, u64::MAX).map(|frame| (frame.version, frame.operation));
        if found != expected {
            return Err(format!("frame {frame} of group {id} is {found:?} on node {node}, should be {expected:?}"));
        }
    }
    Ok(())
}
