//! Applied once: whatever tries, leaders, restarts and snapshots a request goes through, a shard applies it at one index only.
//!
//! A store that raced another is sealed again in a next round, which is a request of its own. So the rounds of an operation
//! come one after the other, each once, until one has an outcome: that is the operation's last word.

use std::collections::BTreeMap;

use mira_node::shard::write::round_id;
use mira_raft::{GroupId, RequestId};

use super::shard_rules::Effect;

/// What was applied under which name.
#[derive(Default)]
pub struct AppliedOnce {
    requests: BTreeMap<(GroupId, RequestId), u64>,
    operations: BTreeMap<(GroupId, u64), Rounds>,
}

/// How far an operation is in one shard.
struct Rounds {
    /// What the first round is called.
    first: RequestId,
    /// The round that comes next.
    next: u32,
    /// Where it got its outcome.
    ended_at: Option<u64>,
}

impl AppliedOnce {
    /// A command was applied for the first time at this index.
    pub fn applied(
        &mut self,
        group: GroupId,
        index: u64,
        request: Option<RequestId>,
        effect: &Effect,
    ) -> Result<(), String> {
        if let Some(request) = request
            && let Some(before) = self.requests.insert((group, request), index)
        {
            return Err(format!("request {:x} was applied at {before} and at {index} of group {group}", request.0));
        }
        let &Effect::Store { operation, raced, .. } = effect else { return Ok(()) };
        let Some(request) = request else {
            return Err(format!("operation {operation} was applied at {index} of group {group} under no name"));
        };
        let rounds =
            self.operations.entry((group, operation)).or_insert(Rounds { first: request, next: 0, ended_at: None });
        if let Some(before) = rounds.ended_at {
            return Err(format!("operation {operation} ended at {before} and was applied at {index} of group {group}"));
        }
        let next = rounds.next;
        if request != round_id(rounds.first, next) {
            return Err(format!(
                "operation {operation} was applied at {index} of group {group}, but not as round {next}"
            ));
        }
        rounds.next += 1;
        rounds.ended_at = (!raced).then_some(index);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(raced: bool) -> Effect {
        Effect::Store { operation: (3 << 32) | 9, stored: !raced, raced }
    }

    fn request(round: u32) -> RequestId {
        round_id(RequestId(77), round)
    }

    #[test]
    fn rounds_come_in_order_each_once_and_end_with_an_outcome() {
        let mut once = AppliedOnce::default();
        once.applied(1, 4, Some(request(0)), &store(true)).expect("the first");
        once.applied(1, 5, Some(request(0)), &store(true)).expect_err("again, though it raced");
        let mut once = AppliedOnce::default();
        once.applied(1, 4, Some(request(0)), &store(true)).expect("the first");
        once.applied(1, 6, Some(request(2)), &store(false)).expect_err("one is missing");
        let mut once = AppliedOnce::default();
        once.applied(1, 4, Some(request(0)), &store(true)).expect("the first");
        once.applied(1, 6, Some(request(1)), &store(false)).expect("the last");
        once.applied(1, 7, Some(request(2)), &store(false)).expect_err("after the last");
        once.applied(2, 7, Some(request(0)), &store(false)).expect("in another shard");
        once.applied(2, 8, None, &store(false)).expect_err("under no name");
    }

    #[test]
    fn a_request_that_stores_nothing_is_applied_once_too() {
        let mut once = AppliedOnce::default();
        once.applied(1, 4, Some(RequestId(7)), &Effect::Forget).expect("the first");
        once.applied(1, 5, Some(RequestId(7)), &Effect::Forget).expect_err("again");
        once.applied(1, 6, None, &Effect::Grow).expect("nobody retries it");
        once.applied(1, 7, None, &Effect::Grow).expect("nor this");
    }
}
