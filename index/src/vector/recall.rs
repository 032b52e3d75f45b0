//! The recall of an index, measured with vectors of its own documents.
//!
//! Documents give their vectors as queries, each without itself among the answers. The right answers are found in one
//! pass: each row is read once and compared with all queries, because where rows are elsewhere, reading them is what
//! a pass costs (a million take ten seconds; two hundred passes would take an hour). Then the same queries are asked with
//! one beam after the other.
//!
//! Documents may come and go meanwhile: those that are gone are no longer expected, and new ones that are nearer count as
//! right.

use std::time::{Duration, Instant};

use crate::error::IndexError;
use crate::limits::MAX_K;
use crate::topk::{Hit, TopK};
use crate::vector::kernels::Isa;
use crate::vector::params::SearchParams;
use crate::vector::segment::Segment;
use crate::vector::vector_index::VectorIndex;
use crate::vector::{input, row};

/// Slots compared between two questions to the caller whether to stop.
const BATCH: usize = 256;
/// Scores this near are the same: which of two equals is a hit is chance.
const SAME: f32 = 1e-6;

/// Queries with their right answers.
pub struct Samples {
    k: usize,
    samples: Vec<Sample>,
}

struct Sample {
    id: u128,
    vector: Vec<f32>,
    /// The best `k` other documents, best first.
    nearest: Vec<Hit>,
}

/// How one search went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeasuredSearch {
    /// The share of the right answers that it gave, 0 to 1.
    pub recall: f64,
    /// How long it took.
    pub took: Duration,
}

impl Samples {
    /// Takes vectors of up to `count` documents of an index, spread evenly over all, as queries and finds the best `k` other
    /// documents of each by looking at everything. `abort` is asked every few milliseconds. Cost: every row is read once.
    pub fn take(
        index: &VectorIndex,
        count: usize,
        k: usize,
        seed: u64,
        abort: &(dyn Fn() -> bool + Sync),
    ) -> Result<Samples, IndexError> {
        input::check_k(k)?;
        let segment = index.segment();
        let mut samples = take(&segment, count, seed)?;
        let mut best: Vec<TopK<'_>> = samples.iter().map(|_| TopK::new(k)).collect();
        compare_all(&segment, &samples, &mut best, abort)?;
        for (sample, best) in samples.iter_mut().zip(best) {
            sample.nearest = best.into_hits();
        }
        Ok(Samples { k, samples })
    }

    /// How many queries there are.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Asks the index with one of the samples as a search with this beam would be answered.
    ///
    /// # Panics
    ///
    /// If there is no sample of that number.
    pub fn ask(
        &self,
        index: &VectorIndex,
        number: usize,
        ef: usize,
        abort: &(dyn Fn() -> bool + Sync),
    ) -> Result<MeasuredSearch, IndexError> {
        let (sample, k) = (&self.samples[number], self.k);
        // One place more, for the document itself.
        let params = SearchParams {
            ef: Some(ef.max(k) + 1),
            abort: Some(abort),
            ..SearchParams::new(&sample.vector, (k + 1).min(MAX_K))
        };
        let started = Instant::now();
        let mut found = index.search(&params)?;
        let took = started.elapsed();
        found.retain(|hit| hit.id != sample.id);
        found.truncate(k);
        let expected: Vec<Hit> = sample.nearest.iter().copied().filter(|hit| index.contains(hit.id)).collect();
        Ok(MeasuredSearch { recall: recall(&found, &expected), took })
    }
}

/// The share of the expected hits that were found, by score.
fn recall(found: &[Hit], expected: &[Hit]) -> f64 {
    let Some(worst) = expected.last() else { return 1.0 };
    let right = found.iter().filter(|hit| hit.score >= worst.score - SAME).count().min(expected.len());
    right as f64 / expected.len() as f64
}

/// One vector each of up to `count` documents.
fn take(segment: &Segment, count: usize, seed: u64) -> Result<Vec<Sample>, IndexError> {
    let firsts = segment.table.slots();
    let count = count.min(firsts.len());
    let mut slots = Vec::with_capacity(count);
    for number in 0..count {
        // One of each stretch of documents in the order in which they came.
        let (from, to) = (number * firsts.len() / count, (number + 1) * firsts.len() / count);
        let at = from + (seed as usize).wrapping_mul(number + 1) % (to - from);
        let Some(label) = segment.labels.get(firsts[at]) else { continue };
        slots.push((label.id, label.first + (seed as u32).wrapping_add(number as u32) % label.count.max(1)));
    }
    let places: Vec<u32> = slots.iter().map(|(_, slot)| *slot).collect();
    let mut vectors = vec![Vec::new(); places.len()];
    segment.fetch(&places, false, &mut |position, row| vectors[position] = row.to_vec())?;
    let samples = slots.into_iter().zip(vectors);
    // A row that is gone belongs to a document that has just been removed.
    let samples = samples.filter(|(_, vector)| !vector.is_empty());
    Ok(samples.map(|((id, _), vector)| Sample { id, vector, nearest: Vec::new() }).collect())
}

/// Offers every visible document to every sample but its own.
fn compare_all(
    segment: &Segment,
    samples: &[Sample],
    best: &mut [TopK<'_>],
    abort: &(dyn Fn() -> bool + Sync),
) -> Result<(), IndexError> {
    let (isa, metric) = (Isa::detected(), segment.config.metric);
    let view = segment.view();
    let mut slots = (0..view.slots).filter(|slot| segment.is_visible(view, *slot));
    let mut queries = vec![Vec::new(); samples.len()];
    for (query, sample) in queries.iter_mut().zip(samples) {
        input::prepare(metric, &sample.vector, query);
    }
    let mut batch: Vec<u32> = Vec::with_capacity(BATCH);
    loop {
        batch.clear();
        batch.extend(slots.by_ref().take(BATCH));
        if batch.is_empty() {
            return Ok(());
        }
        if abort() {
            return Err(IndexError::Aborted);
        }
        let mut scores = vec![f32::NAN; batch.len() * queries.len()];
        segment.fetch(&batch, false, &mut |position, full| {
            let scores = &mut scores[position * queries.len()..][..queries.len()];
            for (score, query) in scores.iter_mut().zip(&queries) {
                *score = row::score(isa, metric, full, query);
            }
        })?;
        // In the order of slots, because passages of one document must follow each other.
        for (slot, scores) in batch.iter().zip(scores.chunks(queries.len().max(1))) {
            let label = segment.labels.get(*slot).expect("visible slots are labelled");
            for ((sample, best), score) in samples.iter().zip(best.iter_mut()).zip(scores) {
                if sample.id != label.id && !score.is_nan() {
                    best.push(Hit { id: label.id, passage: slot - label.first, score: *score });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_counts_by_score() {
        let hits =
            |scores: &[f32]| scores.iter().map(|score| Hit { id: 1, passage: 0, score: *score }).collect::<Vec<_>>();
        let table = [
            (&[0.9, 0.8, 0.7][..], &[0.9, 0.8, 0.7][..], 1.0),
            (&[0.9, 0.7, 0.6], &[0.9, 0.8, 0.7], 2.0 / 3.0),
            (&[0.95, 0.9, 0.8, 0.7], &[0.9, 0.8], 1.0),
            (&[], &[0.9], 0.0),
            (&[], &[], 1.0),
        ];
        for (found, expected, share) in table {
            assert_eq!(recall(&hits(found), &hits(expected)), share, "{found:?} {expected:?}");
        }
    }
}
