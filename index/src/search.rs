//! Answering one search on one segment: plan, walk or scan, rescore.
//!
//! 1. **Plan.** Few vectors, or a filter that few documents match: scan them all. Otherwise walk the graph.
//! 2. **Walk.** A beam of `ef` over codes; a filter is asked before a hit enters the beam's results, never before the
//!    walk goes on through it. A walk that compares more than a scan would cost turns into one.
//! 3. **Rescore.** The best `max(20, 2k)` documents are scored again from full-precision rows.
//!
//! A scan scores full-precision rows if they are in memory. If they are elsewhere, reading every one of them would take
//! longer than all the rest: then a scan compares codes and reads only the rows of the best, as a walk does. A search
//! that must be exact reads them all.
//! 4. Whatever the graph does not hold yet is scanned, and if fewer than `k` documents were found, everything is: an
//!    answer is short only if the index holds no more.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

use crate::codes::{Space, with_space};
use crate::config::{self, MAX_EF};
use crate::error::IndexError;
use crate::graph::{self, Bounds, Walk, Walked};
use crate::kernels::Isa;
use crate::rows::{self, Rows};
use crate::scratch;
use crate::segment::{Segment, View};
use crate::table::{Document, Label};
use crate::topk::{Hit, TopK, best_documents};

/// The beam that a scan of codes is like: it ranks every vector by its code.
const SCAN_BEAM: usize = 256;
/// Slots per batch of a scan, and between two questions to the caller whether to stop.
const SCAN_BATCH: usize = 256;
/// The beam where the caller names none; twice as wide over one-bit codes.
pub const DEFAULT_EF: usize = 64;

/// Which documents a search may return.
#[derive(Clone, Copy)]
pub struct Filter<'a> {
    /// Whether the document may be returned. Asked once or more per document looked at, from the searching thread.
    pub matches: &'a (dyn Fn(&Document) -> bool + Sync),
    /// The share of documents that match, if the caller has an estimate, in [0, 1].
    pub selectivity: Option<f64>,
}

/// One search.
#[derive(Clone, Copy)]
pub struct SearchParams<'a> {
    /// The query vector.
    pub query: &'a [f32],
    /// Documents wanted, 1 to [`MAX_K`](crate::MAX_K).
    pub k: usize,
    /// Beam width: more finds more and costs more. At least `k` is used; [`DEFAULT_EF`] if `None`.
    pub ef: Option<usize>,
    /// Which documents may be returned; all if `None`.
    pub filter: Option<Filter<'a>>,
    /// Asked every few microseconds; true stops the search with [`IndexError::Aborted`].
    pub abort: Option<&'a (dyn Fn() -> bool + Sync)>,
}

impl<'a> SearchParams<'a> {
    /// The best `k` for a query, without a filter and without a deadline.
    pub fn new(query: &'a [f32], k: usize) -> Self {
        SearchParams { query, k, ef: None, filter: None, abort: None }
    }

    fn is_aborted(&self) -> bool {
        self.abort.is_some_and(|abort| abort())
    }
}

/// How a search was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Every vector was looked at.
    Scan,
    /// The graph was walked.
    Graph,
    /// The graph was walked and gave too little or cost too much; every vector was looked at.
    GraphThenScan,
}

/// What a search did, for `explain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explain {
    /// How it was answered.
    pub plan: Plan,
    /// The beam that was used last, 0 for a scan.
    pub ef: usize,
    /// Passages scored in full precision.
    pub rescored: usize,
}

/// Whether scanning everything is cheaper than walking the graph.
///
/// The constants are nanoseconds on the machine of the ADR: asking a filter about a slot 15, scoring a full row 60, and a
/// node compared on the way 80, of which a walk needs about 14 for each place in the beam it fills.
pub(crate) fn scan_is_cheaper(live: usize, ef: usize, selectivity: f64) -> bool {
    let live = live as f64;
    let share = selectivity.clamp(0.0, 1.0);
    let scan = live * 15.0 + live * share * 60.0;
    let compared = (14.0 * ef as f64 / share.max(1e-9)).min(live);
    scan < compared * 80.0
}

/// A search on a segment at a point in time.
pub(crate) struct Search<'a> {
    pub(crate) segment: &'a Segment,
    pub(crate) view: View,
    pub(crate) params: &'a SearchParams<'a>,
    /// The query as the metric wants it.
    pub(crate) query: Vec<f32>,
}

impl<'a> Search<'a> {
    /// Checks the parameters.
    pub(crate) fn new(segment: &'a Segment, params: &'a SearchParams<'a>) -> Result<Self, IndexError> {
        config::check_k(params.k)?;
        if let Some(ef) = params.ef
            && !(1..=MAX_EF).contains(&ef)
        {
            return Err(IndexError::InvalidEf { ef });
        }
        config::check_query(segment.config.metric, segment.config.dim, params.query)?;
        let mut query = Vec::new();
        config::prepare(segment.config.metric, params.query, &mut query);
        Ok(Search { segment, view: segment.view(), params, query })
    }

    /// Plans and answers.
    pub(crate) fn run(&self) -> Result<(Vec<Hit>, Explain), IndexError> {
        let (live, documents) = self.segment.sizes();
        let ef = self.params.ef.unwrap_or(self.segment.codes.default_ef()).max(self.params.k);
        let selectivity = self.params.filter.and_then(|filter| filter.selectivity);
        let has_graph = self.segment.graph.get().is_some();
        if !has_graph || selectivity.is_some_and(|share| scan_is_cheaper(live, ef, share)) {
            return self.scan_all(Plan::Scan);
        }
        match self.walk(ef)? {
            // Without a filter an answer may be short because there is no more; with one, only a scan can tell.
            Some(answer) if answer.0.len() >= self.params.k.min(self.enough(documents)) => Ok(answer),
            _ => self.scan_all(Plan::GraphThenScan),
        }
    }

    fn enough(&self, documents: usize) -> usize {
        if self.params.filter.is_some() { usize::MAX } else { documents }
    }

    fn is_wanted(&self, label: &Label) -> bool {
        self.params.filter.is_none_or(|filter| (filter.matches)(&label.document()))
    }

    /// Walks the graph, widening the beam until it holds `k` documents; `None` if a scan is cheaper.
    fn walk(&self, mut ef: usize) -> Result<Option<(Vec<Hit>, Explain)>, IndexError> {
        // Before the walk: what leaves the backlog from now on is in the graph before.
        let backlog = self.segment.unlinked();
        loop {
            let wanted = self.segment.codes.rescored(self.params.k, ef);
            let Some(keys) = self.walk_once(ef)? else { return Ok(None) };
            let (best, documents) = self.best_slots(&keys, wanted);
            if documents < self.params.k && keys.len() >= ef && ef < MAX_EF {
                ef = (ef * 2).min(MAX_EF);
                continue;
            }
            let mut passages = self.rescore(&best, true)?;
            passages.extend(self.scan_some(backlog)?.0);
            let explain = Explain { plan: Plan::Graph, ef, rescored: best.len() };
            return Ok(Some((best_documents(passages, self.params.k), explain)));
        }
    }

    fn walk_once(&self, ef: usize) -> Result<Option<Vec<u64>>, IndexError> {
        let Some(graph) = self.segment.graph.get() else { return Ok(None) };
        let abort = || self.params.is_aborted();
        let bounds = Bounds {
            slots: self.view.slots,
            budget: (self.view.slots as usize / 4).max(32 * ef),
            abort: self.params.abort.is_some().then_some(&abort as &dyn Fn() -> bool),
        };
        let accept = |slot: u32| {
            self.segment.is_visible(self.view, slot)
                && (self.params.filter.is_none()
                    || self.segment.labels.get(slot).is_some_and(|label| self.is_wanted(&label)))
        };
        let mut scratch = scratch::borrow();
        let scratch = &mut *scratch;
        let walked = with_space!(&self.segment.codes, space => {
            Walk { graph, space, probe: &space.probe(&self.query), bounds, scratch }.search(ef, &accept)
        });
        match walked {
            Ok(keys) => Ok(Some(keys)),
            Err(Walked::Aborted) => Err(IndexError::Aborted),
            Err(_) => Ok(None),
        }
    }

    /// The slots of the best `wanted` documents, and how many documents they are.
    fn best_slots(&self, keys: &[u64], wanted: usize) -> (Vec<u32>, usize) {
        let mut slots = Vec::with_capacity(wanted.min(keys.len()));
        let (mut single, mut several) = (0, HashSet::new());
        for key in keys {
            let slot = graph::slot_of(*key);
            let label = self.segment.labels.get(slot).expect("visible slots are labelled");
            let is_new = label.count == 1 || !several.contains(&label.first);
            if is_new && single + several.len() == wanted {
                break;
            }
            if label.count == 1 {
                single += 1;
            } else {
                several.insert(label.first);
            }
            slots.push(slot);
        }
        (slots, single + several.len())
    }

    /// Scores slots in full precision; those whose document is gone from a source of rows are left out.
    fn rescore(&self, slots: &[u32], keep: bool) -> Result<Vec<Hit>, IndexError> {
        let (isa, metric) = (Isa::detected(), self.segment.config.metric);
        let mut hits = vec![Hit { id: 0, passage: 0, score: f32::NAN }; slots.len()];
        for (hit, slot) in hits.iter_mut().zip(slots) {
            let label = self.segment.labels.get(*slot).expect("visible slots are labelled");
            (hit.id, hit.passage) = (label.id, slot - label.first);
        }
        self.segment.fetch(slots, keep, &mut |position, row| {
            hits[position].score = rows::score(isa, metric, row, &self.query);
        })?;
        hits.retain(|hit| !hit.score.is_nan());
        Ok(hits)
    }

    fn scan_all(&self, plan: Plan) -> Result<(Vec<Hit>, Explain), IndexError> {
        let (hits, rescored) = self.scan_some(0..self.view.slots)?;
        Ok((hits, Explain { plan, ef: 0, rescored }))
    }

    /// The best `k` of a range of slots, and how many rows were read: exactly where rows are in memory, else by codes first.
    fn scan_some(&self, slots: std::ops::Range<u32>) -> Result<(Vec<Hit>, usize), IndexError> {
        match self.segment.rows {
            Rows::Codes | Rows::Memory(_) => Ok((self.scan(slots.clone())?, slots.len())),
            Rows::Source(_) => self.scan_codes(slots),
        }
    }

    /// The best `k` of a range of slots, exactly.
    pub(crate) fn scan(&self, slots: std::ops::Range<u32>) -> Result<Vec<Hit>, IndexError> {
        self.score_all(self.wanted(slots))
    }

    /// The slots that a search may return.
    fn wanted(&self, slots: std::ops::Range<u32>) -> impl Iterator<Item = u32> {
        // The label is in memory order and decides first; the stamps lie beside the codes.
        slots.filter(|slot| {
            self.segment.labels.get(*slot).is_some_and(|label| self.is_wanted(&label))
                && self.segment.is_visible(self.view, *slot)
        })
    }

    /// The best `k` of a range of slots, of those whose codes are best.
    fn scan_codes(&self, slots: std::ops::Range<u32>) -> Result<(Vec<Hit>, usize), IndexError> {
        let k = self.params.k;
        let mut most = self.segment.codes.rescored(k, SCAN_BEAM.max(self.params.ef.unwrap_or(0)));
        loop {
            let keys = with_space!(&self.segment.codes, space => {
                self.best_keys(space, &space.probe(&self.query), slots.clone(), most)?
            });
            let (best, documents) = self.best_slots(&keys, usize::MAX);
            if documents < k && keys.len() == most {
                // Documents of many passages took the places.
                most *= 4;
                continue;
            }
            return Ok((best_documents(self.rescore(&best, true)?, k), best.len()));
        }
    }

    /// The keys of the `most` slots with the best codes, best first.
    fn best_keys<S: Space>(
        &self,
        space: &S,
        probe: &S::Probe,
        slots: std::ops::Range<u32>,
        most: usize,
    ) -> Result<Vec<u64>, IndexError> {
        let mut best = BinaryHeap::new();
        for (number, slot) in self.wanted(slots).enumerate() {
            if number % SCAN_BATCH == 0 && self.params.is_aborted() {
                return Err(IndexError::Aborted);
            }
            let key = Reverse(graph::key(space.similarity(probe, slot), slot));
            if best.len() < most {
                best.push(key);
            } else if let Some(mut worst) = best.peek_mut()
                && key < *worst
            {
                *worst = key;
            }
        }
        Ok(best.into_sorted_vec().into_iter().map(|key| key.0).collect())
    }

    /// The best `k` of some slots, exactly. Slots of one document must follow each other.
    pub(crate) fn score_all(&self, mut slots: impl Iterator<Item = u32>) -> Result<Vec<Hit>, IndexError> {
        let mut best = TopK::new(self.params.k);
        let mut batch = Vec::with_capacity(SCAN_BATCH);
        loop {
            batch.clear();
            batch.extend(slots.by_ref().take(SCAN_BATCH));
            if batch.is_empty() {
                return Ok(best.into_hits());
            }
            if self.params.is_aborted() {
                return Err(IndexError::Aborted);
            }
            self.rescore(&batch, false)?.into_iter().for_each(|hit| best.push(hit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planner_scans_when_few_match() {
        // live, ef, selectivity, scan?
        let table = [
            (1_000_000, 64, 1.0, false),
            (1_000_000, 64, 0.1, false),
            (1_000_000, 64, 0.001, true),
            (50_000, 64, 0.5, false),
            (50_000, 64, 0.01, true),
            (5_000, 64, 0.0, true),
        ];
        for (live, ef, selectivity, scan) in table {
            assert_eq!(scan_is_cheaper(live, ef, selectivity), scan, "{live} {ef} {selectivity}");
        }
    }
}
