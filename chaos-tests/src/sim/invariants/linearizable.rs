//! Linearizable reads are never stale, and writes take effect between call and answer.
//!
//! The log gives the order, so that no search for one is needed. Whatever was answered before an operation began lies at
//! or below some index; the operation must lie above it (a write) or see it (a read). And what a read returns must be
//! what the frame is at the index that the read claims to have seen: it reads one view of the state, and names its index.

use std::collections::BTreeMap;

use mira_proto::FrameId;
use mira_raft::GroupId;

use super::shard_rules::ShardRules;

/// The newest index that anyone was told of.
#[derive(Default)]
pub struct Linearizable {
    known: BTreeMap<GroupId, u64>,
}

/// What a read returned.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Which frame.
    pub frame: FrameId,
    /// The state it was read from.
    pub applied: u64,
    /// The frame's version, and the operation that stored it.
    pub found: Option<(u64, u64)>,
}

impl Linearizable {
    /// The index that an operation which begins now must not fall behind.
    pub fn begins(&self, group: GroupId) -> u64 {
        self.known.get(&group).copied().unwrap_or(0)
    }

    /// A write that began at `floor` was answered with this index.
    pub fn wrote(&mut self, group: GroupId, floor: u64, index: u64) -> Result<(), String> {
        self.learn(group, index);
        match index > floor {
            true => Ok(()),
            false => Err(format!("a write took effect at {index} of group {group}, but began after {floor}")),
        }
    }

    /// A read that may not fall behind `floor` returned this. A linearizable one tells everybody how far things are.
    pub fn read(
        &mut self,
        (group, floor): (GroupId, u64),
        seen: &Seen,
        linearizable: bool,
        rules: &ShardRules,
    ) -> Result<(), String> {
        if linearizable {
            self.learn(group, seen.applied);
        }
        if seen.applied < floor {
            return Err(format!("a read of group {group} saw {seen:?}, but {floor} was known when it began"));
        }
        let expected = rules.frame_at(group, seen.frame, seen.applied);
        match expected.map(|frame| (frame.version, frame.operation)) == seen.found {
            true => Ok(()),
            false => Err(format!("a read of group {group} saw {seen:?}, but the frame was {expected:?}")),
        }
    }

    fn learn(&mut self, group: GroupId, index: u64) {
        let known = self.known.entry(group).or_default();
        *known = index.max(*known);
    }
}
