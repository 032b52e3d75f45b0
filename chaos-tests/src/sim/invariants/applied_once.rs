//! Applied once: whatever tries, leaders, restarts and snapshots a request goes through, a shard applies it until it has an
//! outcome, and never again.
//!
//! A store that raced another is sealed again in a next round. Any other outcome is the request's last word.

use std::collections::BTreeMap;

use mira_raft::GroupId;

use super::shard_rules::Effect;

/// Where each operation got its outcome.
#[derive(Default)]
pub struct AppliedOnce {
    ended_at: BTreeMap<(GroupId, u64), u64>,
}

impl AppliedOnce {
    /// A command was applied for the first time at this index.
    pub fn applied(&mut self, group: GroupId, index: u64, effect: &Effect) -> Result<(), String> {
        let &Effect::Store { operation, raced, .. } = effect else { return Ok(()) };
        if let Some(before) = self.ended_at.get(&(group, operation)) {
            return Err(format!("operation {operation} ended at {before} and was applied at {index} of group {group}"));
        }
        if !raced {
            self.ended_at.insert((group, operation), index);
        }
        Ok(())
    }
}
