//! Answering one search on one segment: plan, walk or scan, rescore.
//!
//! 1. **Plan.** A condition on attributes is evaluated on postings first, so that the documents that meet it are known
//!    and counted. Few of them, few vectors, or a filter that few documents match: look at all of them. Otherwise walk
//!    the graph.
//! 2. **Walk.** A beam of `ef` over codes; filter and condition are asked before a hit enters the beam's results, never
//!    before the walk goes on through it. A walk that compares more than a scan would cost turns into one.
//!    Where the walk is offered far fewer matches than there are, they lie away from the query, and the first that fill
//!    the beam need not be the nearest: then it is walked again with a wider beam.
//! 3. **Rescore.** The best `max(20, 2k)` documents are scored again from full-precision rows.
//! 4. **Complete.** Whatever the graph does not hold yet is scanned, and if fewer than `k` documents were found, everything
//!    is: an answer is short only if the index holds no more.
//!
//! A scan scores full-precision rows if they are in memory. If they are elsewhere, reading every one of them would take
//! longer than all the rest: then a scan compares codes and reads only the rows of the best, as a walk does. A search
//! that must be exact reads them all.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::ops::Range;

use roaring::RoaringBitmap;

use crate::error::IndexError;
use crate::filter::postings::Matched;
use crate::limits::MAX_EF;
use crate::topk::{Hit, TopK, best_documents};
use crate::vector::codes::with_space;
use crate::vector::graph::{self, Bounds, Walk, Walked};
use crate::vector::kernels::Isa;
use crate::vector::labels::Label;
use crate::vector::params::{Explain, Plan, SearchParams};
use crate::vector::rows::Rows;
use crate::vector::segment::{Segment, View};
use crate::vector::space::Space;
use crate::vector::{input, planner, row, scratch};

/// The beam that a scan of codes is like: it ranks every vector by its code.
const SCAN_BEAM: usize = 256;
/// Slots per batch of a scan, and between two questions to the caller whether to stop.
const SCAN_BATCH: usize = 256;
/// A walk that accepts fewer than this part of the share that was expected is among documents that do not match.
const AGAINST: f64 = 0.5;
/// How much wider its beam is the second time.
const WIDER: usize = 8;

/// The slots that a scan looks at.
#[derive(Clone)]
enum Places<'a> {
    /// All of these.
    Range(Range<u32>),
    /// Those of the documents with these first slots.
    Listed(&'a RoaringBitmap),
}

/// A search on a segment at a point in time.
pub(crate) struct Search<'a> {
    pub(crate) segment: &'a Segment,
    pub(crate) view: View,
    pub(crate) params: &'a SearchParams<'a>,
    /// The query as the metric wants it.
    pub(crate) query: Vec<f32>,
    /// The documents that meet the condition, if there is one.
    matched: Option<Matched>,
    compared: Cell<usize>,
    /// Slots that the last walk asked about, and how many of them were wanted.
    asked: Cell<(usize, usize)>,
}

impl<'a> Search<'a> {
    /// Checks the parameters.
    pub(crate) fn new(segment: &'a Segment, params: &'a SearchParams<'a>) -> Result<Self, IndexError> {
        input::check_k(params.k)?;
        if let Some(ef) = params.ef
            && !(1..=MAX_EF).contains(&ef)
        {
            return Err(IndexError::InvalidEf { ef });
        }
        input::check_query(segment.config.metric, segment.config.dim, params.query)?;
        let mut query = Vec::new();
        input::prepare(segment.config.metric, params.query, &mut query);
        // In this order: what the view shows has its attributes set.
        let view = segment.view();
        let matched = params.condition.map(|one| segment.matched(one.condition));
        Ok(Search { segment, view, params, query, matched, compared: Cell::default(), asked: Cell::default() })
    }

    /// Plans and answers.
    pub(crate) fn run(&self) -> Result<(Vec<Hit>, Explain), IndexError> {
        let (live, documents) = self.segment.sizes();
        let ef = self.params.ef.unwrap_or(self.segment.codes.default_ef(live)).max(self.params.k);
        if self.segment.graph.get().is_none() || self.is_narrow(live, ef) {
            return self.scan_all(Plan::Scan);
        }
        // Without a filter an answer may be short because there is no more; with one, only looking at all can tell.
        let enough = if self.is_filtered() { self.params.k } else { self.params.k.min(documents) };
        match self.walk(ef)? {
            Some(answer) if answer.0.len() >= enough => Ok(answer),
            _ => self.scan_all(Plan::GraphThenScan),
        }
    }

    /// Whether looking at everything that may be returned is cheaper than a walk.
    fn is_narrow(&self, live: usize, ef: usize) -> bool {
        let is_cheaper = if self.matched.is_some() { planner::list_is_cheaper } else { planner::scan_is_cheaper };
        self.share().is_some_and(|share| is_cheaper(live, ef, share))
    }

    /// The share of documents that may be returned, if it is known.
    fn share(&self) -> Option<f64> {
        let filtered = self.params.filter.and_then(|filter| filter.selectivity);
        let matched = self.matching().map(|(matching, of)| matching as f64 / of.max(1) as f64);
        match (filtered, matched) {
            (Some(filtered), Some(matched)) => Some(filtered * matched),
            (one, other) => one.or(other),
        }
    }

    /// Whether the last walk was offered far fewer matches than there are.
    fn is_against(&self) -> bool {
        let (asked, wanted) = self.asked.get();
        self.share().is_some_and(|share| (wanted as f64) < AGAINST * share * asked as f64)
    }

    /// How many documents may meet the condition, and of how many; dead ones are among both.
    fn matching(&self) -> Option<(usize, usize)> {
        self.matched.as_ref().map(|matched| (matched.upper.len() as usize, self.segment.postings.count()))
    }

    fn is_filtered(&self) -> bool {
        self.params.filter.is_some() || self.params.condition.is_some()
    }

    fn is_wanted(&self, label: &Label) -> bool {
        let passes = || self.params.filter.is_none_or(|filter| (filter.matches)(&label.document()));
        match (&self.matched, self.params.condition) {
            (Some(matched), Some(one)) => {
                let may = matched.upper.contains(label.first);
                may && passes() && (matched.lower.contains(label.first) || (one.verify)(&label.document()))
            }
            _ => passes(),
        }
    }

    fn explain(&self, plan: Plan, ef: usize, rescored: usize) -> Explain {
        Explain { plan, ef, rescored, compared: self.compared.get(), matching: self.matching() }
    }

    /// Walks the graph, widening the beam until it holds `k` documents; `None` if a scan is cheaper.
    fn walk(&self, mut ef: usize) -> Result<Option<(Vec<Hit>, Explain)>, IndexError> {
        // Before the walk: what leaves the backlog from now on is in the graph before.
        let backlog = self.segment.unlinked();
        let mut is_first = true;
        loop {
            let Some(keys) = self.walk_once(ef)? else { return Ok(None) };
            if std::mem::take(&mut is_first) && self.is_against() {
                ef = (ef * WIDER).min(MAX_EF);
                if self.is_narrow(self.segment.sizes().0, ef) {
                    return Ok(None);
                }
                continue;
            }
            let wanted = self.segment.codes.rescored(self.params.k, ef);
            let (best, documents) = self.best_slots(&keys, wanted);
            if documents < self.params.k && keys.len() >= ef && ef < MAX_EF {
                ef = (ef * 2).min(MAX_EF);
                continue;
            }
            let mut passages = self.rescore(&best, true)?;
            passages.extend(self.scan_some(Places::Range(backlog))?.0);
            let explain = self.explain(Plan::Graph, ef, best.len());
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
        self.asked.set((0, 0));
        let accept = |slot: u32| {
            if !self.segment.is_visible(self.view, slot) {
                return false;
            }
            let is_wanted =
                !self.is_filtered() || self.segment.labels.get(slot).is_some_and(|label| self.is_wanted(&label));
            let (asked, wanted) = self.asked.get();
            self.asked.set((asked + 1, wanted + usize::from(is_wanted)));
            is_wanted
        };
        let mut scratch = scratch::borrow();
        let scratch = &mut *scratch;
        let walked = with_space!(&self.segment.codes, space => {
            Walk { graph, space, probe: &space.probe(&self.query), bounds, scratch: &mut *scratch }.search(ef, &accept)
        });
        self.compared.set(self.compared.get() + scratch.compared);
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
        self.segment.fetch(slots, keep, &mut |position, full| {
            hits[position].score = row::score(isa, metric, full, &self.query);
        })?;
        hits.retain(|hit| !hit.score.is_nan());
        Ok(hits)
    }

    fn scan_all(&self, plan: Plan) -> Result<(Vec<Hit>, Explain), IndexError> {
        let (hits, rescored) = self.scan_some(self.everything())?;
        Ok((hits, self.explain(plan, 0, rescored)))
    }

    /// The slots of all that may be returned.
    fn everything(&self) -> Places<'_> {
        match &self.matched {
            Some(matched) => Places::Listed(&matched.upper),
            None => Places::Range(0..self.view.slots),
        }
    }

    /// The best `k` of some slots, and how many rows were read: exactly where rows are in memory, else by codes first.
    fn scan_some(&self, places: Places<'_>) -> Result<(Vec<Hit>, usize), IndexError> {
        match self.segment.rows {
            Rows::Codes | Rows::Memory(_) => {
                let before = self.compared.get();
                let hits = self.score_all(self.wanted(places))?;
                Ok((hits, self.compared.get() - before))
            }
            Rows::Source(_) => self.scan_codes(places),
        }
    }

    /// The best `k` of all that may be returned, exactly.
    pub(crate) fn scan_exactly(&self) -> Result<Vec<Hit>, IndexError> {
        self.score_all(self.wanted(self.everything()))
    }

    /// The slots that a search may return.
    fn wanted<'b>(&'b self, places: Places<'b>) -> Box<dyn Iterator<Item = u32> + 'b> {
        // The label is in memory order and decides first; the stamps lie beside the codes.
        let is_visible = move |slot: u32| self.segment.is_visible(self.view, slot);
        let is_wanted = move |slot: u32| self.segment.labels.get(slot).is_some_and(|label| self.is_wanted(&label));
        match places {
            Places::Range(range) if self.matched.is_some() => {
                Box::new(range.filter(move |slot| is_visible(*slot) && is_wanted(*slot)))
            }
            Places::Range(range) => Box::new(range.filter(move |slot| is_wanted(*slot) && is_visible(*slot))),
            Places::Listed(firsts) => {
                let labels = firsts.iter().filter_map(move |first| self.segment.labels.get(first));
                // Nobody is asked about a document that is gone.
                let is_wanted = move |label: &Label| is_visible(label.first) && self.is_wanted(label);
                Box::new(labels.filter(is_wanted).flat_map(|label| label.slots()))
            }
        }
    }

    /// The best `k` of some slots, of those whose codes are best.
    fn scan_codes(&self, places: Places<'_>) -> Result<(Vec<Hit>, usize), IndexError> {
        let k = self.params.k;
        let mut most = self.segment.codes.rescored_after_scan(k, SCAN_BEAM.max(self.params.ef.unwrap_or(0)));
        loop {
            let keys = with_space!(&self.segment.codes, space => {
                self.best_keys(space, &space.probe(&self.query), places.clone(), most)?
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
        places: Places<'_>,
        most: usize,
    ) -> Result<Vec<u64>, IndexError> {
        let mut best = BinaryHeap::new();
        for (number, slot) in self.wanted(places).enumerate() {
            self.compared.set(self.compared.get() + 1);
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
            self.compared.set(self.compared.get() + batch.len());
            if self.params.is_aborted() {
                return Err(IndexError::Aborted);
            }
            self.rescore(&batch, false)?.into_iter().for_each(|hit| best.push(hit));
        }
    }
}
