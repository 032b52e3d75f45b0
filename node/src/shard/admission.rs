//! Who may search now: so many at a time, within so much memory, with a bounded number waiting.
//!
//! A search is work for a thread and memory for its pool, its visited set and its frames. More searches at once than a few
//! per core only make each other late; so the others wait in line, and beyond a bound a caller is told `overloaded` at
//! once instead of being kept until its deadline. A caller that goes away leaves the line.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use mira_proto::{Code, Problem, limits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Searches at work for each core: one computes while another reads rows.
const PER_CORE: usize = 2;
/// Memory is counted in these.
const UNIT_BYTES: usize = 4 << 10;

/// See the module.
pub struct Admission {
    places: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    units: usize,
    waiting: AtomicUsize,
}

/// The right to search; to be kept until the search has ended, also when nobody waits for it any more.
pub struct SearchPermit {
    _place: OwnedSemaphorePermit,
    _memory: OwnedSemaphorePermit,
}

/// Somebody in line.
struct Waiter<'a>(&'a AtomicUsize);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    /// For a machine of so many cores.
    pub fn new(cores: usize) -> Arc<Self> {
        Self::with(PER_CORE * cores.max(1), limits::SEARCH_MEMORY_BYTES)
    }

    fn with(places: usize, bytes: usize) -> Arc<Self> {
        let units = bytes.div_ceil(UNIT_BYTES);
        Arc::new(Admission {
            places: Arc::new(Semaphore::new(places)),
            memory: Arc::new(Semaphore::new(units)),
            units,
            waiting: AtomicUsize::new(0),
        })
    }

    /// Waits for a place and `bytes` of memory, first come, first served. A search that needs more than there is gets all
    /// of it.
    pub async fn admit(&self, bytes: usize) -> Result<SearchPermit, Problem> {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiter = Waiter(&self.waiting);
        if waiting >= limits::MAX_SEARCHES_WAITING {
            let detail = format!("{waiting} searches wait on this node: try again later");
            return Err(Problem::new(Code::Overloaded, detail));
        }
        let units = bytes.div_ceil(UNIT_BYTES).clamp(1, self.units) as u32;
        let closed = |_| Problem::internal("the admission of searches is closed");
        // Memory first: who waits for it holds no place.
        let memory = self.memory.clone().acquire_many_owned(units).await.map_err(closed)?;
        let place = self.places.clone().acquire_owned().await.map_err(closed)?;
        Ok(SearchPermit { _place: place, _memory: memory })
    }

    /// Searches in line, or about to be let in.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn places_and_memory_are_bounded_and_come_back() {
        let admission = Admission::with(2, 100 << 10);
        let first = admission.admit(1).await.unwrap();
        let second = admission.admit(1).await.unwrap();
        let mut third = Box::pin(admission.admit(1));
        assert!(third.as_mut().now_or_never().is_none(), "both places are taken");
        assert_eq!(admission.waiting(), 1);
        drop(first);
        let third = third.await.unwrap();
        drop((second, third));
        let most = admission.admit(usize::MAX).await.unwrap();
        assert!(admission.admit(1).now_or_never().is_none(), "it has all memory");
        drop(most);
        assert!(admission.admit(50 << 10).now_or_never().is_some());
        assert_eq!(admission.waiting(), 0, "who went away left the line");
    }

    #[tokio::test]
    async fn a_long_line_is_refused_at_once() {
        let admission = Admission::with(1, 1 << 20);
        let _inside = admission.admit(1).await.unwrap();
        let mut line: Vec<_> = (0..limits::MAX_SEARCHES_WAITING).map(|_| Box::pin(admission.admit(1))).collect();
        line.iter_mut().for_each(|waiter| assert!(waiter.as_mut().now_or_never().is_none()));
        assert_eq!(admission.admit(1).await.err().map(|problem| problem.code), Some(Code::Overloaded));
        line.truncate(5);
        assert_eq!(admission.waiting(), 5);
    }
}
