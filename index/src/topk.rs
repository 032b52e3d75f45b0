//! Ranked hits in one order: the best `k` of a stream, of many lists, of many queries.
//!
//! A better score comes first; equal scores are ordered by frame id, so that the same question gives the same order
//! however the data is spread.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// One found document with its best passage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Frame id.
    pub id: u128,
    /// Which of the document's vectors matched best, counted from 0.
    pub passage: u32,
    /// Higher is better; see [`Metric`](crate::Metric).
    pub score: f32,
}

impl Hit {
    /// The ranking order: `Less` is the better hit.
    pub fn rank(&self, other: &Hit) -> Ordering {
        let by_score = other.score.total_cmp(&self.score);
        by_score.then(self.id.cmp(&other.id)).then(self.passage.cmp(&other.passage))
    }
}

/// A hit in ranking order, so that the greatest element of a heap is the worst hit.
#[derive(Debug, Clone, Copy)]
struct Ranked(Hit);

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Ranked {}
impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.rank(&other.0)
    }
}

/// Keeps the best `k` documents of a stream whose passages of one document arrive one after the other.
pub(crate) struct TopK {
    k: usize,
    heap: BinaryHeap<Ranked>,
    /// The best passage so far of the document at hand: a document must not fill the heap with its passages.
    open: Option<Hit>,
}

impl TopK {
    pub(crate) fn new(k: usize) -> Self {
        TopK { k, heap: BinaryHeap::with_capacity(k.min(1_024) + 1), open: None }
    }

    /// Offers a passage.
    pub(crate) fn push(&mut self, hit: Hit) {
        match &mut self.open {
            Some(open) if open.id == hit.id => {
                if hit.rank(open).is_lt() {
                    *open = hit;
                }
            }
            _ => {
                self.close();
                self.open = Some(hit);
            }
        }
    }

    fn close(&mut self) {
        let Some(hit) = self.open.take() else { return };
        if self.heap.len() < self.k {
            self.heap.push(Ranked(hit));
        } else if let Some(mut worst) = self.heap.peek_mut()
            && hit.rank(&worst.0).is_lt()
        {
            *worst = Ranked(hit);
        }
    }

    /// The documents kept, best first.
    pub(crate) fn into_hits(mut self) -> Vec<Hit> {
        self.close();
        self.heap.into_sorted_vec().into_iter().map(|ranked| ranked.0).collect()
    }
}

/// Sorts passages, keeps the best of each document and the best `k` documents.
pub(crate) fn best_documents(mut passages: Vec<Hit>, k: usize) -> Vec<Hit> {
    passages.sort_unstable_by(Hit::rank);
    let mut kept: Vec<Hit> = Vec::with_capacity(k.min(passages.len()));
    let mut seen = HashSet::new();
    for hit in passages {
        if kept.len() == k {
            break;
        }
        // For few hits, looking through them is faster than hashing.
        let is_new = if k <= 32 { kept.iter().all(|other| other.id != hit.id) } else { seen.insert(hit.id) };
        if is_new {
            kept.push(hit);
        }
    }
    kept
}

/// Merges ranked lists into the global top `k`, best first.
///
/// `lists` must each be ranked as [`Hit::rank`] orders; a document that two lists hold (a shard is moving) counts once,
/// with its better score. Cost: O(n log s) for the n hits looked at of s lists.
pub fn merge_top_k(lists: Vec<Vec<Hit>>, k: usize) -> Vec<Hit> {
    let mut heads = BinaryHeap::with_capacity(lists.len());
    let mut rest: Vec<_> = lists.into_iter().map(Vec::into_iter).collect();
    for (list, hits) in rest.iter_mut().enumerate() {
        if let Some(hit) = hits.next() {
            heads.push(std::cmp::Reverse((Ranked(hit), list)));
        }
    }
    let mut seen = HashSet::new();
    let mut merged = Vec::new();
    while merged.len() < k
        && let Some(std::cmp::Reverse((Ranked(hit), list))) = heads.pop()
    {
        if seen.insert(hit.id) {
            merged.push(hit);
        }
        if let Some(next) = rest[list].next() {
            debug_assert!(hit.rank(&next).is_le(), "lists must be ranked");
            heads.push(std::cmp::Reverse((Ranked(next), list)));
        }
    }
    merged
}

/// The best `k` documents by their mean over several queries, best first, each with the passage that is nearest to one
/// of the queries.
///
/// `hits` are those of all queries, one after the other; every document must be among those of every query.
pub fn mean_top_k(hits: impl IntoIterator<Item = Hit>, queries: usize, k: usize) -> Vec<Hit> {
    let mut sums: HashMap<u128, (f32, Hit)> = HashMap::new();
    for hit in hits {
        let (sum, best) = sums.entry(hit.id).or_insert((0.0, hit));
        *sum += hit.score;
        if hit.score > best.score {
            *best = hit;
        }
    }
    let mut means: Vec<Hit> =
        sums.into_values().map(|(sum, best)| Hit { score: sum / queries as f32, ..best }).collect();
    means.sort_by(Hit::rank);
    means.truncate(k);
    means
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_weighs_every_query_and_keeps_the_nearest_passage() {
        let hit = |id, passage, score| Hit { id, passage, score };
        let first = [hit(1, 0, 1.0), hit(2, 0, 0.5), hit(3, 2, 0.5)];
        let second = [hit(3, 1, 0.75), hit(2, 4, 0.75), hit(1, 1, 0.0)];
        let means = mean_top_k(first.into_iter().chain(second), 2, 9);
        assert_eq!(means, [hit(2, 4, 0.625), hit(3, 1, 0.625), hit(1, 0, 0.5)]);
        assert_eq!(mean_top_k(first, 1, 2), [hit(1, 0, 1.0), hit(2, 0, 0.5)]);
    }
}
