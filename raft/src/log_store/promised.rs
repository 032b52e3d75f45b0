//! What a replica had promised that left its group and was removed from this node.
//!
//! A member that has not heard of the removal still counts on it: on its vote, and on the entries that it said to have. So the
//! vote stays where it is, which keeps leaders of earlier terms away, and a later replica of the group on this node votes for
//! nobody until its log reaches as far. Otherwise a member that was away during the removal could win an election, or have
//! entries acknowledged, against those who went on without it.

use serde::{Deserialize, Serialize};

use super::tail::Tail;
use super::{KeyKind, decode, key};
use crate::codec::{decode_record, encode_record};
use crate::engine::{Engine, EngineError, Op};
use crate::types::{GroupId, LogId, Vote};

/// The last entry of a replica that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Promised {
    /// Its term; 0 if the entry could not be read, or stands for the first members.
    term: u64,
    index: u64,
}

impl Promised {
    pub fn load(engine: &dyn Engine, group: GroupId) -> Result<Option<Self>, EngineError> {
        let stored = engine.get(&key(KeyKind::Promised, group, 0))?;
        stored.map(|bytes| decode(&bytes, "what was promised")).transpose()
    }

    /// What a removal writes: the last entry, and no vote where it cannot be read.
    pub fn kept(engine: &dyn Engine, group: GroupId) -> Result<Vec<Op>, EngineError> {
        let mut ops = Vec::new();
        let vote = key(KeyKind::Vote, group, 0);
        if engine.get(&vote)?.is_some_and(|bytes| decode_record::<Vote>(&bytes).is_err()) {
            ops.push(Op::Delete { key: vote });
        }
        let earlier = Self::load(engine, group)?;
        let last = match Tail::last(engine, group) {
            Err(EngineError::Damaged(_)) => Tail::last_index(engine, group)?.map(|index| Promised { term: 0, index }),
            last => last?.map(|last| Promised { term: last.leader_id.term, index: last.index }),
        };
        // A replica that left before it had what its predecessor had promised does not end that.
        let newer = last.filter(|last| earlier.is_none_or(|earlier| earlier.is_kept(last.term, last.index)));
        if let Some(promised) = newer {
            ops.push(Op::Put { key: key(KeyKind::Promised, group, 0), value: encode_record(&promised) });
        }
        Ok(ops)
    }

    /// Whether a log that ends so has all of it.
    pub fn is_kept_by(&self, last: Option<&LogId>) -> bool {
        last.is_some_and(|last| self.is_kept(last.leader_id.term, last.index))
    }

    /// By the order in which logs are compared in an election.
    fn is_kept(&self, term: u64, index: u64) -> bool {
        if self.term == 0 { index >= self.index } else { (term, index) >= (self.term, self.index) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_a_promise_when_it_reaches_as_far() {
        // promised term and index, term and index of the log's end, kept
        let table = [
            ((3, 7), (3, 7), true),
            ((3, 7), (3, 6), false),
            ((3, 7), (4, 2), true),
            ((3, 7), (2, 9), false),
            ((0, 7), (5, 6), false),
            ((0, 7), (1, 7), true),
            ((0, 0), (0, 0), true),
        ];
        for ((term, index), (log_term, log_index), kept) in table {
            let promised = Promised { term, index };
            assert_eq!(promised.is_kept(log_term, log_index), kept, "{promised:?} {log_term} {log_index}");
            assert!(!promised.is_kept_by(None), "an empty log keeps nothing");
        }
    }
}
