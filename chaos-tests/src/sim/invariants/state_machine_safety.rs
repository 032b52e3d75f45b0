//! State machine safety: no two replicas apply different commands at one place of the log, and replicas that applied the same index
//! hold the same bytes, whatever of log, snapshots, crashes and replays brought them there.

use std::collections::BTreeMap;

use mira_proto::NodeId;
use mira_raft::GroupId;
use mira_raft::inspect::AppliedState;

use super::CommandPlace;

/// What was applied, and what it came to.
#[derive(Default)]
pub struct StateMachineSafety {
    commands: BTreeMap<(GroupId, CommandPlace), (NodeId, [u8; 32])>,
    states: BTreeMap<(GroupId, u64), (NodeId, AppliedState)>,
}

impl StateMachineSafety {
    /// A replica applied a command's payload and gave this answer.
    pub fn applied(
        &mut self,
        (node, group): (NodeId, GroupId),
        place: CommandPlace,
        time_ms: u64,
        (payload, answer): (&[u8], &[u8]),
    ) -> Result<(), String> {
        let mut hash = blake3::Hasher::new();
        hash.update(&time_ms.to_le_bytes());
        hash.update(&(payload.len() as u64).to_le_bytes());
        hash.update(payload);
        hash.update(answer);
        let digest = *hash.finalize().as_bytes();
        let (first, known) = *self.commands.entry((group, place)).or_insert((node, digest));
        match known == digest {
            true => Ok(()),
            false => Err(format!("nodes {first} and {node} applied {place:?} of group {group} differently")),
        }
    }

    /// A replica's state reached an index.
    pub fn reached(&mut self, node: NodeId, group: GroupId, state: &AppliedState) -> Result<(), String> {
        let (first, known) = *self.states.entry((group, state.index)).or_insert((node, *state));
        match known == *state {
            true => Ok(()),
            false => Err(format!("group {group}: node {first} reached {known:?}, node {node} {state:?}")),
        }
    }
}
