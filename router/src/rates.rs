//! How much one caller may make of what a cluster has few of: collections, owners.
//!
//! Each caller has an allowance that fills up again with time, so that one cannot use up what all share in a minute. It is
//! one router's knowledge: it slows a caller down, and the cluster's own bounds stay what they are.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use mira_proto::{Code, Problem};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Callers that are remembered; whoever is forgotten begins with a full allowance.
const CALLERS: usize = 10_000;

/// An allowance for each caller.
pub(crate) struct CallerRate {
    /// What is made, for those who made too many.
    what: &'static str,
    /// At once.
    most: u32,
    /// For one more.
    every: Duration,
    /// When each caller's allowance is full again.
    full_at: Mutex<LruCache<Arc<str>, Instant>>,
}

impl CallerRate {
    pub(crate) fn new(what: &'static str, most: u32, every: Duration) -> Self {
        let callers = NonZeroUsize::new(CALLERS).expect("callers are remembered");
        CallerRate { what, most, every, full_at: Mutex::new(LruCache::new(callers)) }
    }

    /// Takes one from the caller's allowance.
    pub(crate) fn take(&self, caller: &Arc<str>, now: Instant) -> Result<(), Problem> {
        let mut full_at = self.full_at.lock();
        let full = full_at.get(caller).copied().unwrap_or(now).max(now) + self.every;
        let missing = full - now;
        let allowance = self.every * self.most;
        if missing > allowance {
            let seconds = (missing - allowance).as_secs().max(1) as u32;
            let detail = format!("this caller makes {} faster than one may: try again in {seconds} s", self.what);
            return Err(Problem::new(Code::RateLimited, detail).after(seconds));
        }
        full_at.put(caller.clone(), full);
        Ok(())
    }

    /// Gives one back that was not made.
    pub(crate) fn give_back(&self, caller: &Arc<str>) {
        if let Some(full) = self.full_at.lock().get_mut(caller) {
            *full -= self.every;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_each_callers_own_and_fills_up_again() {
        let rate = CallerRate::new("things", 3, Duration::from_secs(10));
        let (eve, ada, now): (Arc<str>, Arc<str>, _) = ("eve".into(), "ada".into(), Instant::now());
        for _ in 0..3 {
            rate.take(&eve, now).unwrap();
        }
        let refused = rate.take(&eve, now + Duration::from_secs(4)).unwrap_err();
        assert_eq!((refused.code, refused.retry_after), (Code::RateLimited, Some(6)));
        rate.take(&ada, now).unwrap();
        rate.take(&eve, now + Duration::from_secs(10)).unwrap();
        assert!(rate.take(&eve, now + Duration::from_secs(10)).is_err());
        rate.give_back(&eve);
        rate.take(&eve, now + Duration::from_secs(10)).unwrap();
    }
}
