//! Where calls stand among each other, as a router gives it.
//!
//! A session's order is that of [`mira_proto::Position`]s. The shard gives them; a router says behind what: behind everything
//! that it has given or seen itself, and that its caller has seen, which the caller's consistency token tells. A call whose
//! frames go out in several requests gets one place for all of them, or shards would tear its order apart.

use std::sync::atomic::{AtomicU64, Ordering};

use mira_proto::limits;

use crate::ConsistencyToken;

/// The greatest position of a call that a router has given or seen, microseconds.
#[derive(Default)]
pub(crate) struct Positions(AtomicU64);

/// A call's place among others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallPosition {
    /// Microseconds.
    pub(crate) micros: u64,
    /// Whether shards take it as it is, instead of giving one that is no earlier.
    pub(crate) is_fixed: bool,
}

impl Positions {
    /// The place of a call that begins at `now_ms`, behind all that was given and seen.
    pub(crate) fn next(&self, now_ms: u64, token: &ConsistencyToken) -> CallPosition {
        let now = now_ms.saturating_mul(1_000);
        // One that is made up must not lead others astray.
        let furthest = now.saturating_add(limits::MAX_POSITION_LEAD.as_micros() as u64);
        let after = token.position().min(furthest) + 1;
        let next = |last: u64| now.max(after).max(last + 1);
        let last = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        CallPosition { micros: next(last.unwrap_or_else(|last| last)), is_fixed: false }
    }

    /// Notes a position that a shard gave, or that a frame has.
    pub(crate) fn saw(&self, micros: u64) {
        self.0.fetch_max(micros, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;
    const NOW: u64 = NOW_MS * 1_000;

    #[test]
    fn calls_follow_one_another_and_what_was_seen() {
        let positions = Positions::default();
        let next = |token: &ConsistencyToken| positions.next(NOW_MS, token).micros;
        let mut token = ConsistencyToken::default();
        assert_eq!([next(&token), next(&token)], [NOW, NOW + 1]);
        positions.saw(NOW + 70);
        positions.saw(NOW + 7);
        assert_eq!(next(&token), NOW + 71);
        token.note_position(NOW + 90);
        assert_eq!(next(&token), NOW + 91);
        assert_eq!(positions.next(NOW_MS + 1, &token).micros, NOW + 1_000);
    }

    #[test]
    fn a_token_that_is_made_up_leads_nobody_far_astray() {
        let positions = Positions::default();
        let mut token = ConsistencyToken::default();
        token.note_position(u64::MAX);
        let given = positions.next(NOW_MS, &token).micros;
        assert_eq!(given, NOW + limits::MAX_POSITION_LEAD.as_micros() as u64 + 1);
    }
}
