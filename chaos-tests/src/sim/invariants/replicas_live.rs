//! Replicas stop for a reason: a process or a group that was told to, or a disk that failed for good. Anything else, a full disk
//! included, must be survived.

use mira_proto::NodeId;
use mira_raft::GroupId;

/// Counts stops.
#[derive(Default)]
pub struct ReplicasLive {
    stops: u64,
}

impl ReplicasLive {
    /// A replica has stopped, for a good reason or not.
    pub fn stopped(&mut self, node: NodeId, group: GroupId, why: &str, reason: bool) -> Result<(), String> {
        self.stops += 1;
        match reason {
            true => Ok(()),
            false => Err(format!("group {group} stopped on node {node}: {why}")),
        }
    }
}
