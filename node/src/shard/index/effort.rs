//! How long searches of a space go on before they take their best hits for settled, by how right their answers were.
//!
//! A search that names no beam stops when its best hits have not changed for a while (`index/src/vector/graph/walk.rs`).
//! How long a while must be depends on the vectors, and [`super::recall_sampler`] measures it: where sampled answers hold
//! too few of the right hits, searches go on longer, and where they hold nearly all, less long again.

use mira_proto::limits;
use parking_lot::Mutex;

/// Samples between two changes: fewer say little.
const SAMPLES: u32 = 8;
/// What is raised and lowered by at once.
const STEP: f32 = 1.25;
/// The longest while, in times the usual one: beyond, comparing with everything costs as much.
const MOST: f32 = 8.0;
/// A recall from which on less would do.
const PLENTY: f64 = 0.99;

/// See the module.
pub(super) struct Effort(Mutex<Progress>);

#[derive(Debug, Clone, Copy)]
struct Progress {
    factor: f32,
    samples: u32,
    recall: f64,
}

impl Default for Effort {
    fn default() -> Self {
        Effort(Mutex::new(Progress { factor: 1.0, samples: 0, recall: 0.0 }))
    }
}

impl Effort {
    /// How many times the usual while.
    pub(super) fn factor(&self) -> f32 {
        self.0.lock().factor
    }

    /// Notes how right an answer was that was found with it.
    pub(super) fn note(&self, recall: f64) {
        let mut progress = self.0.lock();
        *progress = progress.after(recall);
    }
}

impl Progress {
    fn after(self, recall: f64) -> Self {
        let (samples, sum) = (self.samples + 1, self.recall + recall);
        if samples < SAMPLES {
            return Progress { samples, recall: sum, ..self };
        }
        let mean = sum / f64::from(samples);
        let factor = if mean < limits::DEFAULT_TUNED_RECALL {
            self.factor * STEP
        } else if mean >= PLENTY {
            self.factor / STEP
        } else {
            self.factor
        };
        Progress { factor: factor.clamp(1.0, MOST), samples: 0, recall: 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effort_follows_the_recall_that_was_sampled() {
        let effort = Effort::default();
        let note = |recall: f64, times: u32| {
            (0..times).for_each(|_| effort.note(recall));
            effort.factor()
        };
        assert_eq!(note(0.9, SAMPLES - 1), 1.0, "few samples say little");
        assert_eq!(note(0.9, 1), STEP);
        assert_eq!(note(0.97, SAMPLES), STEP, "that is as it should be");
        assert_eq!(note(1.0, SAMPLES), 1.0);
        assert_eq!(note(1.0, SAMPLES), 1.0, "never less than usual");
        assert_eq!(note(0.0, 40 * SAMPLES), MOST);
    }
}
