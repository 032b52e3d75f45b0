//! How old what a replica shows may be.
//!
//! Every message of a leader names how far its log is committed. Once a replica has applied that far, it has caught up
//! with the leader *as of the moment the message came*: everything acknowledged before then is visible here. So the age of
//! a replica's state is the time since the newest such moment.
//!
//! A leader that was cut off from its quorum goes on talking to followers on its side, while the others elect another.
//! Therefore a message also says how long ago a quorum last answered its leader, and nothing is taken to be newer than
//! that. Within the leader's lease (it cannot have been replaced yet) that age counts as none.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

/// Messages kept that name entries not applied here yet. More are passed over: a replica that far behind is stale
/// whatever the newest of them says.
const MAX_WAITING: usize = 64;

/// How fresh a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Everything acknowledged this long ago, and earlier, is visible here. `None`: this replica never knew itself caught
    /// up since it was opened.
    pub age: Option<Duration>,
    /// Entries that it knows to be committed and has not applied.
    pub behind: u64,
}

/// What a replica heard from its leaders. Times are since the group was opened here.
#[derive(Default)]
pub(crate) struct Heard(Mutex<State>);

#[derive(Default)]
struct State {
    /// The newest moment as of which this replica was caught up.
    caught_up: Option<Duration>,
    /// Moments, each with how far was committed then; both ascending.
    waiting: VecDeque<(Duration, u64)>,
    committed: u64,
}

impl Heard {
    /// A leader's message came: everything acknowledged before `as_of` is at or below `committed`.
    pub fn hear(&self, as_of: Duration, committed: u64, applied: u64) {
        let mut state = self.0.lock();
        state.committed = state.committed.max(committed);
        state.settle(applied);
        if state.waiting.len() < MAX_WAITING && state.waiting.back().is_none_or(|(last, _)| *last < as_of) {
            state.waiting.push_back((as_of, committed));
        }
        state.settle(applied);
    }

    /// How fresh a replica is that has applied so far, at `now`.
    pub fn freshness(&self, applied: u64, now: Duration) -> Freshness {
        let mut state = self.0.lock();
        state.settle(applied);
        let age = state.caught_up.map(|as_of| now.saturating_sub(as_of));
        Freshness { age, behind: state.committed.saturating_sub(applied) }
    }
}

impl State {
    fn settle(&mut self, applied: u64) {
        while let Some((as_of, _)) = self.waiting.pop_front_if(|(_, committed)| *committed <= applied) {
            self.caught_up = self.caught_up.max(Some(as_of));
        }
    }
}

/// As of when a message is news, by how long ago a quorum had answered its sender.
pub(crate) fn as_of(received: Duration, quorum_age: Duration, lease: Duration) -> Duration {
    if quorum_age <= lease { received } else { received.saturating_sub(quorum_age) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_replica_is_as_old_as_the_last_message_it_has_applied() {
        let heard = Heard::default();
        assert_eq!(heard.freshness(9, ms(50)), Freshness { age: None, behind: 0 }, "it has heard nothing");
        heard.hear(ms(100), 5, 5);
        assert_eq!(heard.freshness(5, ms(130)), Freshness { age: Some(ms(30)), behind: 0 });
        heard.hear(ms(200), 8, 5);
        heard.hear(ms(300), 12, 5);
        assert_eq!(heard.freshness(5, ms(310)), Freshness { age: Some(ms(210)), behind: 7 });
        assert_eq!(heard.freshness(9, ms(310)), Freshness { age: Some(ms(110)), behind: 3 });
        assert_eq!(heard.freshness(12, ms(310)), Freshness { age: Some(ms(10)), behind: 0 });
    }

    #[test]
    fn what_waits_is_bounded_and_age_only_falls_with_news() {
        let heard = Heard::default();
        heard.hear(ms(1), 1, 1);
        (2..1_000).for_each(|at| heard.hear(ms(at), at, 1));
        assert_eq!(heard.0.lock().waiting.len(), MAX_WAITING);
        assert_eq!(heard.freshness(1, ms(1_000)), Freshness { age: Some(ms(999)), behind: 998 });
        // The kept ones are the oldest: caught up with them, the next message is taken again.
        heard.hear(ms(1_001), 999, 999);
        assert_eq!(heard.freshness(999, ms(1_001)), Freshness { age: Some(ms(0)), behind: 0 });
        // An older moment (the sender's quorum was lost) does not make it fresher.
        heard.hear(ms(900), 999, 999);
        assert_eq!(heard.freshness(999, ms(1_101)).age, Some(ms(100)));
    }

    #[test]
    fn a_leader_without_a_quorum_brings_no_news() {
        let lease = ms(500);
        assert_eq!(as_of(ms(10_000), ms(80), lease), ms(10_000));
        assert_eq!(as_of(ms(10_000), ms(3_000), lease), ms(7_000));
        assert_eq!(as_of(ms(1_000), ms(3_000), lease), ms(0));
    }
}
