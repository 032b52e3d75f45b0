//! Leader completeness: a leader has every entry that was committed in an earlier term.
//!
//! The term in which an entry was committed is not seen from outside, but it is at most the greatest term that anyone
//! had voted for when the entry was first applied: votes are on disk before they count. So a leader of a greater term
//! must have the entry. That its log reaches so far is checked when it comes to lead; that it is the same entry follows
//! from [`super::state_machine_safety`], because a leader makes everybody apply its own.

use std::collections::BTreeMap;

use mira_proto::NodeId;
use mira_raft::{GroupId, GroupStatus};

/// The newest committed entries.
const REMEMBERED: usize = 64;

/// What is committed.
#[derive(Default)]
pub struct LeaderCompleteness {
    greatest_vote: BTreeMap<GroupId, u64>,
    committed: BTreeMap<GroupId, BTreeMap<u64, Committed>>,
}

struct Committed {
    id: (u64, NodeId),
    /// Committed in this term or earlier.
    by_term: u64,
}

impl LeaderCompleteness {
    /// A vote for `term` was written to a disk.
    pub fn voted(&mut self, group: GroupId, term: u64) {
        let greatest = self.greatest_vote.entry(group).or_default();
        *greatest = term.max(*greatest);
    }

    /// A replica applied the entry of this index and id (term and leader).
    pub fn committed(&mut self, group: GroupId, index: u64, id: (u64, NodeId)) {
        let by_term = self.greatest_vote.get(&group).copied().unwrap_or(0);
        let committed = self.committed.entry(group).or_default();
        committed.entry(index).or_insert(Committed { id, by_term });
        while committed.len() > REMEMBERED {
            committed.pop_first();
        }
    }

    /// A node came to lead.
    pub fn leads(&mut self, node: NodeId, status: &GroupStatus) -> Result<(), String> {
        let committed = self.committed.entry(status.group).or_default();
        let missing = committed
            .iter()
            .find(|(index, committed)| committed.by_term < status.term && **index > status.last_log_index);
        match missing {
            None => Ok(()),
            Some((index, committed)) => Err(format!(
                "node {node} leads group {} in term {} with a log up to {}, but entry {index} {:?} was committed by term {}",
                status.group, status.term, status.last_log_index, committed.id, committed.by_term
            )),
        }
    }
}
