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

/// Where a page of hits ended: what ranks after it is what comes next.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Place {
    /// Score of the last hit.
    pub score: f32,
    /// Its id.
    pub id: u128,
    /// With pages that may have missed a hit before the place: the [`short_name`]s of all that they showed, in ascending
    /// order. What ranks before the place and is not among them is still to come. Empty: they missed none.
    pub shown: Vec<u32>,
}

impl Place {
    /// Whether a document of this score is still to come.
    #[inline]
    pub fn is_before(&self, score: f32, id: u128) -> bool {
        let by_score = self.score.total_cmp(&score);
        by_score.then(id.cmp(&self.id)).is_gt() || self.was_missed(id)
    }

    /// Whether a document is still to come wherever it ranks.
    #[inline]
    pub fn was_missed(&self, id: u128) -> bool {
        !self.shown.is_empty() && self.shown.binary_search(&short_name(id)).is_err()
    }
}

/// A number of 32 bits for an id; that two of a thousand ids have the same is no chance to reckon with.
pub fn short_name(id: u128) -> u32 {
    // The finaliser of splitmix64.
    let mut x = (id as u64) ^ ((id >> 64) as u64).rotate_left(29);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((x ^ (x >> 31)) >> 32) as u32
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
pub(crate) struct TopK<'a> {
    k: usize,
    /// Only documents that rank after this, by their best passage.
    after: Option<&'a Place>,
    heap: BinaryHeap<Ranked>,
    /// The best passage so far of the document at hand: a document must not fill the heap with its passages.
    open: Option<Hit>,
}

impl<'a> TopK<'a> {
    /// The best `k` of all.
    pub(crate) fn new(k: usize) -> Self {
        TopK::after(k, None)
    }

    /// The best `k` of those that rank after a place.
    pub(crate) fn after(k: usize, after: Option<&'a Place>) -> Self {
        TopK { k, after, heap: BinaryHeap::with_capacity(k.min(1_024) + 1), open: None }
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

    /// Counts the document at hand: the next passage belongs to another one.
    pub(crate) fn close(&mut self) {
        let is_wanted = |hit: &Hit| self.after.is_none_or(|after| after.is_before(hit.score, hit.id));
        let Some(hit) = self.open.take().filter(is_wanted) else { return };
        if self.heap.len() < self.k {
            self.heap.push(Ranked(hit));
        } else if let Some(mut worst) = self.heap.peek_mut()
            && hit.rank(&worst.0).is_lt()
        {
            *worst = Ranked(hit);
        }
    }

    /// The worst score kept, once there are `k` documents beside the one at hand.
    pub(crate) fn threshold(&self) -> Option<f32> {
        let worst = self.heap.peek().filter(|_| self.heap.len() == self.k)?;
        Some(worst.0.score)
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
    fn what_is_still_to_come_ranks_after_the_place_or_was_missed() {
        let place = Place { score: 0.5, id: 7, shown: Vec::new() };
        for (score, id, expected) in
            [(0.5, 8, true), (0.5, 7, false), (0.5, 6, false), (0.4, 1, true), (0.6, 9, false), (f32::NAN, 1, false)]
        {
            assert_eq!(place.is_before(score, id), expected, "{score} {id}");
        }
        let mut shown = vec![short_name(7), short_name(3)];
        shown.sort_unstable();
        let place = Place { shown, ..place };
        assert!(place.is_before(0.6, 9) && place.was_missed(9));
        assert!(!place.is_before(0.6, 3) && !place.is_before(0.5, 7));
    }

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
