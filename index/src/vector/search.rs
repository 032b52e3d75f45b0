//! Answering one search on one segment: plan, walk or scan, rescore.
//!
//! 1. **Plan.** A condition on attributes is evaluated on postings first, so that the documents that meet it are known
//!    and counted. Few of them, few vectors, or a filter that few documents match: look at all of them (`scan`). Otherwise
//!    walk the graph.
//! 2. **Walk.** A beam over codes, of the width that the caller names or of one that widens by itself (`graph/walk.rs`);
//!    filter and condition are asked before a hit enters the beam's results, never before the walk goes on through it. A
//!    walk that compares more than a scan would cost turns into one. Where the walk is offered far fewer matches than there
//!    are, they lie away from the query, and the first that fill the beam need not be the nearest: then it is walked again
//!    with a wider beam.
//! 3. **Rescore.** The best `max(20, 2k)` documents are scored again from full-precision rows.
//! 4. **Complete.** Whatever the graph does not hold yet is scanned, and if fewer than `k` documents were found, everything
//!    is: an answer is short only if the index holds no more.

mod scan;

use std::cell::Cell;
use std::collections::HashSet;
use std::ops::Range;

use roaring::RoaringBitmap;

use crate::error::IndexError;
use crate::filter::postings::Matched;
use crate::limits::MAX_EF;
use crate::topk::{Hit, best_documents};
use crate::vector::codes::with_space;
use crate::vector::graph::{self, Beam, Bounds, Patience, Walk, Walked};
use crate::vector::kernels::Isa;
use crate::vector::labels::Label;
use crate::vector::params::{Explain, Plan, SearchParams};
use crate::vector::segment::{Segment, View};
use crate::vector::space::Space;
use crate::vector::{input, planner, row, scratch};

/// Of a node whose twins are many, so many are scored at least: equal vectors have equal scores, and the first by their ids
/// are as good as all.
const TWINS: usize = 256;
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
    /// The query as codes are compared with it.
    code_query: Vec<f32>,
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
        let code_query = segment.code_query(&query);
        let (compared, asked) = (Cell::default(), Cell::default());
        Ok(Search { segment, view, params, query, code_query, matched, compared, asked })
    }

    /// Plans and answers.
    pub(crate) fn run(&self) -> Result<(Vec<Hit>, Explain), IndexError> {
        let (live, documents) = self.segment.sizes();
        let ef = self.params.ef.unwrap_or(self.segment.codes.first_ef()).max(self.params.k);
        let has_graph = self.segment.graph.get().is_some() && !self.segment.is_off_centre();
        if self.params.after.is_some() || !has_graph || self.is_narrow(live, ef) {
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
        let (compared, matching) = (self.compared.get(), self.matching());
        Explain { plan, ef, is_exact: false, rescored, compared, matching }
    }

    /// Walks the graph, widening the beam until it holds `k` documents; `None` if a scan is cheaper.
    fn walk(&self, mut ef: usize) -> Result<Option<(Vec<Hit>, Explain)>, IndexError> {
        // Before the walk: what leaves the backlog from now on is in the graph before.
        let backlog = self.segment.unlinked();
        let mut is_first = true;
        loop {
            let Some((keys, widened)) = self.walk_once(ef)? else { return Ok(None) };
            if std::mem::take(&mut is_first) && self.is_against() {
                ef = (ef * WIDER).min(MAX_EF);
                if self.is_narrow(self.segment.sizes().0, ef) {
                    return Ok(None);
                }
                continue;
            }
            let wanted = self.segment.codes.rescored(self.params.k, widened);
            let (best, documents) = self.best_slots(&self.members(&keys, wanted), wanted);
            if documents < self.params.k && keys.len() >= widened && widened < MAX_EF {
                ef = (widened * 2).min(MAX_EF);
                continue;
            }
            let mut passages = self.rescore(&best, true)?;
            passages.extend(self.scan_some(Places::Range(backlog))?.0);
            let explain = self.explain(Plan::Graph, widened, best.len());
            return Ok(Some((best_documents(passages, self.params.k), explain)));
        }
    }

    /// The keys of the best nodes, and how wide the beam was in the end.
    fn walk_once(&self, ef: usize) -> Result<Option<(Vec<u64>, usize)>, IndexError> {
        let Some(graph) = self.segment.graph.get() else { return Ok(None) };
        let patience = self.params.ef.is_none().then(|| self.segment.codes.patience(self.params.k, self.params.effort));
        let widest = patience.map_or(ef, |patience| patience.widest.max(ef));
        let abort = || self.params.is_aborted();
        let bounds = Bounds {
            slots: self.view.slots,
            budget: (self.view.slots as usize / 4).max(32 * widest),
            abort: self.params.abort.is_some().then_some(&abort as &dyn Fn() -> bool),
        };
        self.asked.set((0, 0));
        let accept = |slot: u32| {
            if !self.segment.is_visible(self.view, slot) {
                return false;
            }
            let is_wanted = self.is_wanted_at(slot);
            let (asked, wanted) = self.asked.get();
            self.asked.set((asked + 1, wanted + usize::from(is_wanted)));
            is_wanted
        };
        let mut scratch = scratch::borrow();
        let scratch = &mut *scratch;
        let beam = Beam { ef, patience: patience.map(|patience| Patience { widest, ..patience }) };
        let walked = with_space!(&self.segment.codes, space => {
            let probe = space.probe(&self.code_query);
            Walk { graph, space, probe: &probe, bounds, scratch: &mut *scratch }.search(beam, &accept)
        });
        self.compared.set(self.compared.get() + scratch.compared);
        match walked {
            Ok(found) => Ok(Some(found)),
            Err(Walked::Aborted) => Err(IndexError::Aborted),
            Err(_) => Ok(None),
        }
    }

    fn is_wanted_at(&self, slot: u32) -> bool {
        !self.is_filtered() || self.segment.labels.get(slot).is_some_and(|label| self.is_wanted(&label))
    }

    /// The slots behind the keys of nodes: each node that may be returned and its twins, by their documents' ids. Ends when
    /// there are enough for `wanted` documents of one passage each.
    fn members(&self, keys: &[u64], wanted: usize) -> Vec<u32> {
        let Some(graph) = self.segment.graph.get() else { return Vec::new() };
        let mut members = Vec::with_capacity(keys.len());
        for key in keys {
            let node = graph::slot_of(*key);
            let mut twins = graph.twins(node).peekable();
            if twins.peek().is_none() {
                members.push(node);
                continue;
            }
            let may_return = |slot: &u32| self.segment.is_visible(self.view, *slot) && self.is_wanted_at(*slot);
            let mut group: Vec<(u128, u32)> = std::iter::once(node)
                .chain(twins)
                .filter(may_return)
                .filter_map(|slot| Some((self.segment.labels.get(slot)?.id, slot)))
                .collect();
            group.sort_unstable();
            group.truncate(wanted.max(TWINS));
            members.extend(group.into_iter().map(|(_, slot)| slot));
        }
        members
    }

    /// The first slots that belong to at most `wanted` documents, and how many documents they are. Equal vectors are not
    /// torn apart: which of them come first is for their full-precision rows to say.
    fn best_slots(&self, members: &[u32], wanted: usize) -> (Vec<u32>, usize) {
        let mut slots = Vec::with_capacity(wanted.min(members.len()));
        let (mut single, mut several) = (0, HashSet::new());
        for slot in members {
            let label = self.segment.labels.get(*slot).expect("visible slots are labelled");
            let is_new = label.count == 1 || !several.contains(&label.first);
            if is_new && single + several.len() >= wanted && !self.is_like_last(&slots, *slot) {
                break;
            }
            if label.count == 1 {
                single += 1;
            } else {
                several.insert(label.first);
            }
            slots.push(*slot);
        }
        (slots, single + several.len())
    }

    /// Whether a slot cannot be told by its code from the last of some others.
    fn is_like_last(&self, slots: &[u32], slot: u32) -> bool {
        slots.last().is_some_and(|last| self.segment.codes.payload(*last) == self.segment.codes.payload(slot))
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
            hits[position].score = row::score(isa, metric, row, &self.query);
        })?;
        hits.retain(|hit| !hit.score.is_nan());
        Ok(hits)
    }
}
