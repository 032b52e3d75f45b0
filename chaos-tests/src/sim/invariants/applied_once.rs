//! Applied once: whatever tries, leaders, restarts and snapshots a request goes through, the state machine sees each of
//! its rounds at one index only.

use std::collections::BTreeMap;

use mira_raft::GroupId;

use super::shard_rules::Effect;

/// Where each round of each operation was applied.
#[derive(Default)]
pub struct AppliedOnce {
    at: BTreeMap<(u64, u32), (GroupId, u64)>,
}

impl AppliedOnce {
    /// A command was applied for the first time at this index.
    pub fn applied(&mut self, group: GroupId, index: u64, effect: &Effect) -> Result<(), String> {
        let &Effect::Store { operation, round, .. } = effect else { return Ok(()) };
        match self.at.insert((operation, round), (group, index)) {
            None => Ok(()),
            Some((_, before)) => Err(format!(
                "round {round} of operation {operation} was applied at {before} and at {index} of group {group}"
            )),
        }
    }
}
