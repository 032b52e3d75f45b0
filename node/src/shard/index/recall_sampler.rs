//! How right the answers are: now and then a search is repeated exactly, in the background, and compared.
//!
//! One search in a thousand is taken (`NodeConfig::recall_sample_every`), one at a time on a node, and as long as the last
//! repetition took times `PAUSES` passes before the next, so that all of them together take a twentieth of a core at
//! most. What changed while it was repeated is not counted. The means are exported by collection.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use mira_index::Hit;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Pauses between repetitions, in their own length.
const PAUSES: u32 = 19;
/// Scores this near are the same: which of two equals is a hit is chance.
const SAME: f32 = 1e-6;

/// What was found of one collection since the node started.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct SampledRecall {
    /// Searches that were repeated.
    pub samples: u64,
    /// Sum of their recalls.
    pub recall: f64,
}

/// See the module.
pub struct RecallSampler {
    /// One search of so many is repeated; 0 for none.
    every: u64,
    searches: AtomicU64,
    turn: Mutex<Turn>,
    measuring: Arc<Semaphore>,
    found: Mutex<BTreeMap<String, SampledRecall>>,
}

struct Turn {
    is_taken: bool,
    not_before: Instant,
}

impl RecallSampler {
    /// Takes one search in `every`; 0 for none.
    pub fn new(every: u64) -> Self {
        RecallSampler {
            every,
            searches: AtomicU64::new(0),
            turn: Mutex::new(Turn { is_taken: false, not_before: Instant::now() }),
            measuring: Arc::new(Semaphore::new(1)),
            found: Mutex::default(),
        }
    }

    /// Whether the search that has just been answered is to be repeated. Whoever is told yes calls [`Self::done`].
    pub fn wants(&self) -> bool {
        if self.every == 0 || !(self.searches.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(self.every) {
            return false;
        }
        let mut turn = self.turn.lock();
        let is_free = !turn.is_taken && turn.not_before <= Instant::now();
        turn.is_taken |= is_free;
        is_free
    }

    /// The repetition has ended after so long, with this recall unless something changed meanwhile.
    pub fn done(&self, collection: &str, took: Duration, recall: Option<f64>) {
        *self.turn.lock() = Turn { is_taken: false, not_before: Instant::now() + PAUSES * took };
        if let Some(recall) = recall {
            let mut found = self.found.lock();
            let sampled = found.entry(collection.to_owned()).or_default();
            sampled.samples += 1;
            sampled.recall += recall;
        }
    }

    /// Waits until no measurement runs on this node ([`super::recall`]); the next one waits until the permit is gone.
    pub async fn measure_alone(&self) -> OwnedSemaphorePermit {
        self.measuring.clone().acquire_owned().await.expect("it is never closed")
    }

    /// All that was found.
    pub fn found(&self) -> BTreeMap<String, SampledRecall> {
        self.found.lock().clone()
    }
}

/// The share of the exact answer's hits that an answer has.
pub fn recall(answer: &[f32], exact: &[Hit]) -> f64 {
    let Some(worst) = exact.last() else { return 1.0 };
    let right = answer.iter().filter(|score| **score >= worst.score - SAME).count().min(exact.len());
    right as f64 / exact.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_so_many_is_taken_one_at_a_time_and_with_pauses() {
        let sampler = RecallSampler::new(3);
        let taken: Vec<bool> = (0..9).map(|_| sampler.wants()).collect();
        assert_eq!(taken, [false, false, true, false, false, false, false, false, false], "the first is not done");
        sampler.done("c", Duration::ZERO, Some(0.9));
        assert_eq!([sampler.wants(), sampler.wants(), sampler.wants()], [false, false, true]);
        sampler.done("c", Duration::from_secs(3_600), Some(1.0));
        assert_eq!([sampler.wants(), sampler.wants(), sampler.wants()], [false; 3], "the pause is as long as 19 of it");
        let found = sampler.found()["c"];
        assert_eq!((found.samples, found.recall), (2, 1.9));
        assert!(!(0..9).any(|_| RecallSampler::new(0).wants()));
    }

    #[test]
    fn recall_counts_by_score() {
        let exact: Vec<Hit> = [0.9, 0.8, 0.7].iter().map(|score| Hit { id: 1, passage: 0, score: *score }).collect();
        assert_eq!(recall(&[0.9, 0.8, 0.7], &exact), 1.0);
        assert_eq!(recall(&[0.9, 0.7, 0.6], &exact), 2.0 / 3.0);
        assert_eq!(recall(&[], &exact), 0.0);
        assert_eq!(recall(&[], &[]), 1.0);
    }
}
