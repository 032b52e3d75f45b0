//! Looking at everything that may be returned: codes first, rows where codes leave the answer open.
//!
//! A code says between which two numbers the score of its vector lies ([`ScoreRange`]). So a pass over codes, which are in
//! memory, rules nearly everything out, and rows, which may have to be read from a disk and opened one by one, are read
//! from the most promising document on until no other can be better. The answer is that of reading every row.
//!
//! One-bit codes rule nothing out. Where their rows are elsewhere a search that need not be exact scores the rows of the
//! best codes only, as a walk does; an exact one reads them all.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{Places, Search};
use crate::error::IndexError;
use crate::topk::{Hit, Place, TopK, best_documents};
use crate::vector::codes::{Codes, with_space};
use crate::vector::graph;
use crate::vector::labels::Label;
use crate::vector::params::{Explain, Plan};
use crate::vector::rows::Rows;
use crate::vector::space::{ScoreRange, Space};

/// The beam that a scan of codes is like: it ranks every vector by its code.
const SCAN_BEAM: usize = 256;
/// Slots between two questions to the caller whether to stop, and the most rows that are read at once.
const SCAN_BATCH: usize = 256;
/// Documents whose rows may be gone without another pass over the codes.
const GONE: usize = 64;
/// Rows that are read at first, beside those that are surely wanted.
const FIRST_BATCH: usize = 8;

/// A document that may belong to the answer: what its best passage may score, and its slots.
#[derive(Debug, Clone, Copy)]
struct Prospect {
    most: f64,
    from: u32,
    to: u32,
}

impl PartialEq for Prospect {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Prospect {}
impl PartialOrd for Prospect {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Prospect {
    /// The most promising is the greatest, then the one that came first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.most.total_cmp(&other.most).then(other.from.cmp(&self.from))
    }
}

impl Search<'_> {
    /// The best of everything that may be returned.
    pub(super) fn scan_all(&self, plan: Plan) -> Result<(Vec<Hit>, Explain), IndexError> {
        let by_codes = self.params.after.is_none() && self.goes_by_codes();
        let (hits, rescored) =
            if by_codes { self.scan_codes(self.everything())? } else { self.scan_ranges(self.everything(), true)? };
        Ok((hits, Explain { is_exact: !by_codes, ..self.explain(plan, 0, rescored) }))
    }

    /// The best `k` of all that may be returned, exactly.
    pub(crate) fn scan_exactly(&self) -> Result<(Vec<Hit>, Explain), IndexError> {
        let (hits, rescored) = self.scan_ranges(self.everything(), false)?;
        Ok((hits, Explain { is_exact: true, ..self.explain(Plan::Scan, 0, rescored) }))
    }

    /// The slots of all that may be returned.
    fn everything(&self) -> Places<'_> {
        match &self.matched {
            Some(matched) => Places::Listed(&matched.upper),
            None => Places::Range(0..self.view.slots),
        }
    }

    /// The best `k` of some slots, and how many rows were read.
    pub(super) fn scan_some(&self, places: Places<'_>) -> Result<(Vec<Hit>, usize), IndexError> {
        if self.goes_by_codes() { self.scan_codes(places) } else { self.scan_ranges(places, true) }
    }

    /// Whether a scan scores the rows of the best codes only.
    fn goes_by_codes(&self) -> bool {
        let is_elsewhere = matches!(self.segment.rows, Rows::Source(_));
        is_elsewhere && matches!(self.segment.codes, Codes::Binary(_)) && !self.segment.is_off_centre()
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

    /// The best `k` of some slots, and how many rows were read. Slots of one document must follow each other.
    fn scan_ranges(&self, places: Places<'_>, keep: bool) -> Result<(Vec<Hit>, usize), IndexError> {
        // The rows of some may be gone, or newer and farther.
        let margin = 2 * self.params.k + GONE;
        let (prospects, is_cut) = with_space!(&self.segment.codes, space => {
            self.prospects(space, places.clone(), margin)?
        });
        let (hits, rescored) = self.score_best(prospects, keep)?;
        if hits.len() >= self.params.k || !is_cut {
            return Ok((hits, rescored));
        }
        let (all, _) = with_space!(&self.segment.codes, space => self.prospects(space, places, usize::MAX)?);
        let (hits, more) = self.score_best(all, keep)?;
        Ok((hits, rescored + more))
    }

    /// The best `k` of some documents, and how many rows were read: from the most promising on until no other can be better.
    fn score_best(&self, prospects: Vec<Prospect>, keep: bool) -> Result<(Vec<Hit>, usize), IndexError> {
        let mut prospects = BinaryHeap::from(prospects);
        let mut best = TopK::after(self.params.k, self.params.after);
        let (mut rescored, mut room) = (0, (self.params.k + FIRST_BATCH).min(SCAN_BATCH));
        let mut batch: Vec<u32> = Vec::new();
        loop {
            batch.clear();
            while batch.len() < room
                && let Some(next) = prospects.peek()
                && best.threshold().is_none_or(|worst| next.most >= f64::from(worst))
            {
                batch.extend(next.from..next.to);
                prospects.pop();
            }
            if batch.is_empty() {
                return Ok((best.into_hits(), rescored));
            }
            if self.params.is_aborted() {
                return Err(IndexError::Aborted);
            }
            rescored += batch.len();
            self.rescore(&batch, keep)?.into_iter().for_each(|hit| best.push(hit));
            best.close();
            room = (2 * room).min(SCAN_BATCH);
        }
    }

    /// The documents whose codes do not rule out that they are among the best `margin`, and whether any were ruled out.
    fn prospects<S: Space>(
        &self,
        space: &S,
        places: Places<'_>,
        margin: usize,
    ) -> Result<(Vec<Prospect>, bool), IndexError> {
        let probe = space.probe(&self.code_query);
        let slack = space.slack(&self.code_query, &probe);
        let offset = self.segment.score_offset(&self.query);
        let range_of = |slot: u32| {
            let ScoreRange { least, most } = space.range(&probe, &slack, slot);
            ScoreRange { least: least + offset.least, most: most + offset.most }.rounded()
        };
        // What so many documents score at least, whichever passage is their best.
        let mut sure = TopK::new(margin);
        let mut is_cut = false;
        let mut prospects: Vec<Prospect> = Vec::new();
        let mut slots = self.wanted(places).peekable();
        let mut asked = 0;
        while let Some(from) = slots.next() {
            let label = self.segment.labels.get(from).expect("visible slots are labelled");
            let (mut range, mut to) = (range_of(from), from + 1);
            let end = label.slots().end;
            while let Some(slot) = slots.next_if(|slot| *slot == to && *slot < end) {
                let other = range_of(slot);
                range = ScoreRange { least: range.least.max(other.least), most: range.most.max(other.most) };
                to += 1;
            }
            self.compared.set(self.compared.get() + (to - from) as usize);
            asked += to - from;
            if asked >= SCAN_BATCH as u32 && self.params.is_aborted() {
                return Err(IndexError::Aborted);
            }
            asked %= SCAN_BATCH as u32;
            let (may_be, must_be) = self.place_of(range, label.id);
            if !may_be {
                continue;
            }
            if sure.threshold().is_some_and(|worst| range.most < f64::from(worst)) {
                is_cut = true;
                continue;
            }
            if must_be {
                // Down to single precision, so that what is sure stays so.
                sure.push(Hit { id: label.id, passage: 0, score: (range.least as f32).next_down() });
            }
            prospects.push(Prospect { most: range.most, from, to });
        }
        sure.close();
        let threshold = sure.threshold().map_or(f64::NEG_INFINITY, f64::from);
        let count = prospects.len();
        prospects.retain(|prospect| prospect.most >= threshold);
        is_cut |= prospects.len() < count;
        Ok((prospects, is_cut))
    }

    /// Whether a document whose score lies in a range may rank after the place that is asked for, and whether it must.
    fn place_of(&self, range: ScoreRange, id: u128) -> (bool, bool) {
        let Some(after) = self.params.after else { return (true, true) };
        let Place { score, .. } = after;
        let score = f64::from(*score);
        let was_missed = after.was_missed(id);
        (was_missed || range.least <= score, was_missed || range.most < score)
    }

    /// The best `k` of some slots, of those whose codes are best.
    fn scan_codes(&self, places: Places<'_>) -> Result<(Vec<Hit>, usize), IndexError> {
        let k = self.params.k;
        let mut most = self.segment.codes.rescored_after_scan(k, SCAN_BEAM.max(self.params.ef.unwrap_or(0)));
        loop {
            let keys = with_space!(&self.segment.codes, space => self.best_keys(space, places.clone(), most)?);
            let slots: Vec<u32> = keys.iter().map(|key| graph::slot_of(*key)).collect();
            let (best, documents) = self.best_slots(&slots, usize::MAX);
            if documents < k && keys.len() == most {
                // Documents of many passages took the places.
                most *= 4;
                continue;
            }
            return Ok((best_documents(self.rescore(&best, true)?, k), best.len()));
        }
    }

    /// The keys of the `most` slots with the best codes, best first.
    fn best_keys<S: Space>(&self, space: &S, places: Places<'_>, most: usize) -> Result<Vec<u64>, IndexError> {
        let probe = space.probe(&self.code_query);
        let mut best = BinaryHeap::new();
        for (number, slot) in self.wanted(places).enumerate() {
            self.compared.set(self.compared.get() + 1);
            if number % SCAN_BATCH == 0 && self.params.is_aborted() {
                return Err(IndexError::Aborted);
            }
            let key = Reverse(graph::key(space.similarity(&probe, slot), slot));
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

    /// The best `k` of some slots, each of which is scored. Slots of one document must follow each other.
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
