//! Election safety: a leader id, which is a term and a node, is won once.
//!
//! This library orders several candidates of one term by their node ids, so that a term may see several leaders one
//! after the other; what is unique is the pair. It would be won twice by a node that forgot its vote in a crash, and
//! then two different entries could carry the same log id.

use std::collections::BTreeMap;

use mira_proto::NodeId;
use mira_raft::{GroupId, GroupStatus};

/// Who won what.
#[derive(Default)]
pub struct ElectionSafety {
    won: BTreeMap<(GroupId, u64, NodeId), u64>,
}

impl ElectionSafety {
    /// A process (node and life) came to lead.
    pub fn won(&mut self, (node, life): (NodeId, u64), status: &GroupStatus) -> Result<(), String> {
        let first = *self.won.entry((status.group, status.term, node)).or_insert(life);
        match first == life {
            true => Ok(()),
            false => Err(format!(
                "node {node} won term {} of group {} in its lives {first} and {life}",
                status.term, status.group
            )),
        }
    }
}
