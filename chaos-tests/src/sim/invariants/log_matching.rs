//! Log matching: if two logs hold an entry with the same log id, it is the same entry, and so are all before it.
//!
//! Checked by induction on every entry that is written to any disk: the id determines the entry's checksum and the id of
//! its predecessor.

use std::collections::BTreeMap;

use mira_proto::NodeId;
use mira_raft::inspect::LoggedEntry;

/// Every entry ever written.
#[derive(Default)]
pub struct LogMatching {
    seen: BTreeMap<(u32, u64, u64, NodeId), Seen>,
}

struct Seen {
    checksum: u32,
    /// Term and leader of the entry before; unknown where that was trimmed.
    before: Option<(u64, NodeId)>,
    by: NodeId,
}

impl LogMatching {
    /// A node wrote `entry`, after which its disk holds `before` at the index before.
    pub fn logged(&mut self, node: NodeId, entry: LoggedEntry, before: Option<LoggedEntry>) -> Result<(), String> {
        let before = before.map(|before| (before.term, before.leader));
        let id = (entry.group, entry.index, entry.term, entry.leader);
        let seen = self.seen.entry(id).or_insert(Seen { checksum: entry.checksum, before, by: node });
        if seen.checksum != entry.checksum {
            return Err(format!("nodes {} and {node} hold different entries under one id: {entry:?}", seen.by));
        }
        match (seen.before, before) {
            (Some(known), Some(before)) if known != before => Err(format!(
                "before {entry:?}, node {} has an entry of {known:?} and node {node} one of {before:?}",
                seen.by
            )),
            (None, Some(_)) => {
                seen.before = before;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
