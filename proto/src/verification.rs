//! Comparing what the replicas of a shard hold, by what each says of one verification.
//!
//! A replica that differs from the majority is wrong; without a majority none counts as wrong. Routers compare on demand,
//! nodes in the background, so the rule stands here.

use std::collections::BTreeMap;

use crate::NodeId;
use crate::node_v1::{VerificationState, VerifyShardReply};

/// What a replica holds, for comparing: where it was digested counts too.
pub type Held<'a> = (u64, &'a [u8]);

/// What each replica that is done holds.
pub fn held(replies: &[(NodeId, VerifyShardReply)]) -> impl Iterator<Item = Held<'_>> {
    let done = replies.iter().filter(|(_, reply)| reply.state() == VerificationState::Done);
    done.map(|(_, reply)| (reply.index, &reply.digest[..]))
}

/// What most of all replicas hold, if that is more than half of them.
pub fn majority(replies: &[(NodeId, VerifyShardReply)]) -> Option<Held<'_>> {
    let mut counts: BTreeMap<Held<'_>, usize> = BTreeMap::new();
    held(replies).for_each(|held| *counts.entry(held).or_default() += 1);
    counts.into_iter().find(|(_, count)| 2 * count > replies.len()).map(|(held, _)| held)
}

/// The replicas that are wrong for sure: they hold something else than the majority, or cannot be read.
pub fn wrong(replies: &[(NodeId, VerifyShardReply)]) -> Vec<NodeId> {
    let Some(held) = majority(replies) else { return Vec::new() };
    let differs = |reply: &VerifyShardReply| match reply.state() {
        VerificationState::Done => (reply.index, &reply.digest[..]) != held,
        VerificationState::Failed => true,
        VerificationState::Unknown | VerificationState::Running | VerificationState::Unreachable => false,
    };
    replies.iter().filter(|(_, reply)| differs(reply)).map(|(node, _)| *node).collect()
}

/// How the replicas compare: sound (all hold the same), differs, damaged (some replica cannot be read), or incomplete (some replica gave
/// no answer).
pub fn verdict(replies: &[(NodeId, VerifyShardReply)]) -> &'static str {
    let mut held: Vec<Held<'_>> = held(replies).collect();
    held.sort_unstable();
    held.dedup();
    match held.len() {
        2.. => "differs",
        _ if replies.iter().any(|(_, reply)| reply.state() == VerificationState::Failed) => "damaged",
        _ if replies.iter().all(|(_, reply)| reply.state() == VerificationState::Done) => "sound",
        _ => "incomplete",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(digest: u8) -> VerifyShardReply {
        VerifyShardReply {
            state: VerificationState::Done.into(),
            index: 7,
            digest: vec![digest].into(),
            ..Default::default()
        }
    }

    fn other(state: VerificationState) -> VerifyShardReply {
        VerifyShardReply { state: state.into(), ..Default::default() }
    }

    #[test]
    fn who_differs_from_the_majority_is_wrong_and_without_one_nobody_is() {
        let (failed, unreachable) = (|| other(VerificationState::Failed), || other(VerificationState::Unreachable));
        let table = [
            ([done(1), done(1), done(1)], "sound", vec![]),
            ([done(1), done(2), done(1)], "differs", vec![2]),
            ([done(1), done(2), done(3)], "differs", vec![]),
            ([done(1), failed(), done(1)], "damaged", vec![2]),
            ([done(1), unreachable(), done(1)], "incomplete", vec![]),
            ([done(1), unreachable(), done(2)], "differs", vec![]),
            ([failed(), failed(), done(1)], "damaged", vec![]),
        ];
        for (replies, state, accused) in table {
            let replies: Vec<(NodeId, VerifyShardReply)> = (1..).zip(replies).collect();
            assert_eq!(verdict(&replies), state, "{replies:?}");
            assert_eq!(wrong(&replies), accused, "{replies:?}");
        }
    }
}
