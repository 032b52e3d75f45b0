//! When to ask a second replica because the first is slow.
//!
//! A read that any replica may answer goes to one; when that takes longer than 95 of 100 such reads did of late, a second one
//! is asked, and whichever answers first is believed. A replica that is slow for a while (a pause, a busy disk, a lost packet)
//! then costs a little instead of everything. When all are slow, asking twice makes it worse: so hedges are a small share of
//! the reads, whatever happens.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// Reads that are remembered of each kind.
const REMEMBERED: usize = 256;
/// Before so many of a kind nothing is known of it.
const ENOUGH: usize = 32;
/// A second question sooner than this gains nothing on any network.
const LEAST: Duration = Duration::from_millis(1);
/// A read earns so much of a hedge, in thousandths.
const EARNED: i64 = 100;
const COST: i64 = 1_000;
/// Earned hedges that are kept for a bad moment, in thousandths.
const MOST_SAVED: i64 = 10 * COST;

/// The last reads of one kind.
#[derive(Default)]
struct Recent {
    durations: Vec<Duration>,
    next: usize,
    p95: Option<Duration>,
}

impl Recent {
    fn note(&mut self, took: Duration) {
        match self.durations.get_mut(self.next) {
            Some(oldest) => *oldest = took,
            None => self.durations.push(took),
        }
        self.next = (self.next + 1) % REMEMBERED;
        // Sorting now and then is enough.
        if self.durations.len() >= ENOUGH && (self.p95.is_none() || self.next.is_multiple_of(ENOUGH)) {
            let mut sorted = self.durations.clone();
            let at = sorted.len() * 95 / 100;
            self.p95 = Some(*sorted.select_nth_unstable(at).1);
        }
    }
}

/// What is known of reads, and what hedges may still cost.
#[derive(Default)]
pub struct Hedges {
    recent: Mutex<HashMap<&'static str, Recent>>,
    saved: AtomicI64,
}

impl Hedges {
    /// How long to wait for one replica before another is asked; none as long as too little is known.
    pub fn after(&self, operation: &'static str) -> Option<Duration> {
        self.saved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| Some((saved + EARNED).min(MOST_SAVED)))
            .ok();
        self.recent.lock().get(operation).and_then(|recent| recent.p95).map(|p95| p95.max(LEAST))
    }

    /// Pays for a hedge; false if there have been too many.
    pub fn pay(&self) -> bool {
        let paid = |saved: i64| (saved >= COST).then_some(saved - COST);
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, paid).is_ok()
    }

    /// A replica answered.
    pub fn note(&self, operation: &'static str, took: Duration) {
        self.recent.lock().entry(operation).or_default().note(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn the_slowest_twentieth_is_hedged_once_enough_is_known() {
        let hedges = Hedges::default();
        (0..ENOUGH as u64 - 1).for_each(|_| hedges.note("search", MS(5)));
        assert_eq!(hedges.after("search"), None);
        (0..100).for_each(|n| hedges.note("search", MS(if n % 10 == 0 { 80 } else { 5 })));
        assert_eq!(hedges.after("search"), Some(MS(80)), "one in ten is slow: that is not rare");
        (0..2 * REMEMBERED as u64).for_each(|n| hedges.note("search", MS(if n % 50 == 0 { 80 } else { 7 })));
        assert_eq!(hedges.after("search"), Some(MS(7)));
        assert_eq!(hedges.after("fetch"), None, "each kind by itself");
    }

    #[test]
    fn hedges_are_a_tenth_of_the_reads_whatever_happens() {
        let hedges = Hedges::default();
        let mut paid = 0;
        for _ in 0..10_000 {
            hedges.after("search");
            paid += u64::from(hedges.pay());
        }
        assert!((900..=1_010).contains(&paid), "{paid}");
    }
}
