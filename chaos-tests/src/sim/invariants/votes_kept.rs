//! Votes are kept: a replica is removed only when its group counts on it no more.
//!
//! What a voter has promised, a vote or an entry that it said to have, is gone with its log. If it comes back empty and its
//! group still lets it vote, a majority may forget what was acknowledged. So the newest membership that any replica of the
//! group has applied must not have the replica among its voters when its removal begins.

use std::collections::{BTreeMap, BTreeSet};

use mira_proto::NodeId;
use mira_raft::GroupId;

/// The newest committed members of each group.
#[derive(Default)]
pub struct VotesKept {
    voters: BTreeMap<GroupId, (u64, BTreeSet<NodeId>)>,
}

impl VotesKept {
    /// A replica has applied this membership, made at this index.
    pub fn applied(&mut self, group: GroupId, index: u64, voters: BTreeSet<NodeId>) {
        let newest = self.voters.entry(group).or_default();
        if index >= newest.0 {
            *newest = (index, voters);
        }
    }

    /// The removal of a replica begins.
    pub fn removed(&self, node: NodeId, group: GroupId) -> Result<(), String> {
        match self.voters.get(&group) {
            Some((index, voters)) if voters.contains(&node) => {
                Err(format!("node {node} removes its replica of group {group}, in which {voters:?} vote since {index}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_voter_must_not_be_removed_and_an_older_membership_does_not_count() {
        let mut votes = VotesKept::default();
        votes.removed(1, 2).expect("nobody has heard of the group");
        votes.applied(2, 5, [1, 3].into());
        votes.applied(2, 4, [1, 2].into());
        votes.removed(1, 2).expect_err("it votes");
        votes.removed(2, 2).expect("it did before");
        votes.applied(2, 6, [3].into());
        votes.removed(1, 2).expect("it has left");
    }
}
