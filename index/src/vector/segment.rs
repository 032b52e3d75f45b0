//! One generation of an index: append-only slots that each belong to a document for a span of time.
//!
//! A vector takes a slot and keeps it; an update takes new slots and retires the old ones; a compaction copies what lives
//! into a new segment. **Stamps** order what a search sees: every publication (an upsert or a removal of one document)
//! gets the next stamp, new slots are *born* with it, retired ones *die* with it, and a search sees exactly the slots with
//! `born <= now < died` for the stamp `now` it started at. So a document that is being updated is found once, in its old
//! form or its new, and a document is found with all its passages or none.
//!
//! **From scan to graph.** Up to `exact_below` vectors there is no graph. The insert that passes the threshold makes an
//! empty one; slots from then on are linked before they are published, and each insert also links a few of the backlog.
//! Searches scan what is left of the backlog. Nothing stops while the graph is built.
//!
//! Lock order: document shard, then clock. Searches take neither. Attributes are set before a document is published, so
//! that a search which evaluates a condition after it took its view knows those of all documents it sees.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use mira_proto::model::Metric;
use parking_lot::{Mutex, MutexGuard};

use crate::document::{Document, Times};
use crate::error::{ImageError, IndexError, RowsError};
use crate::filter::attributes::Attributes;
use crate::filter::condition::Condition;
use crate::filter::postings::{Matched, Postings};
use crate::limits::MAX_SLOTS;
use crate::vector::arena::WRITTEN;
use crate::vector::centre::{self, Judge};
use crate::vector::codes::{Codes, with_space};
use crate::vector::config::Config;
use crate::vector::graph::Graph;
use crate::vector::input;
use crate::vector::kernels::{self, Isa};
use crate::vector::labels::{Label, Labels};
use crate::vector::rows::{RowStorage, Rows};
use crate::vector::scratch;
use crate::vector::space::ScoreRange;
use crate::vector::table::Table;

/// Backlog slots that each insert links beside its own: the backlog is gone after `exact_below / 4` inserts.
const BACKLOG_PER_INSERT: usize = 4;

/// Counters that change together.
pub(crate) struct Clock {
    /// The last stamp given out.
    pub(crate) stamp: u32,
    pub(crate) next_slot: u32,
    pub(crate) documents: u32,
    pub(crate) live: u32,
    pub(crate) dead: u32,
    /// Documents touched since a compaction began.
    pub(crate) journal: Option<HashSet<u128>>,
}

/// The slots of one generation with all that is known of them.
pub(crate) struct Segment {
    pub(crate) config: Config,
    pub(crate) codes: Codes,
    /// The point that codes are taken around; the origin if `None`.
    pub(crate) centre: Option<Box<[f32]>>,
    judge: Judge,
    /// Whether codes say too little, because another centre would be better.
    off_centre: AtomicBool,
    pub(crate) rows: Rows,
    pub(crate) labels: Labels,
    pub(crate) table: Table,
    pub(crate) postings: Postings,
    pub(crate) clock: Mutex<Clock>,
    /// The last stamp whose marks are all set.
    now: AtomicU32,
    /// Slots given out.
    allocated: AtomicU32,
    /// Copies of the clock's counts for searches, which do not lock it.
    live: AtomicU32,
    documents: AtomicU32,
    pub(crate) graph: OnceLock<Graph>,
    /// Slots below this that are at or above `linked` wait for their links.
    backlog_end: AtomicU32,
    linked: AtomicU32,
    draining: Mutex<()>,
}

/// A point in time, and what existed then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) now: u32,
    pub(crate) slots: u32,
}

/// Where new vectors come from.
enum VectorSource<'a> {
    /// The caller, already checked.
    Caller(&'a [f32], &'a Attributes),
    /// The same document in an older segment, at its first slot.
    Segment(&'a Segment, u32),
    /// The same, with its rows: codes around another centre are encoded again.
    Rows(&'a [Vec<f32>], &'a Segment, u32),
}

impl Segment {
    /// An empty segment; `storage` is ignored without quantisation.
    pub(crate) fn new(config: Config, storage: &RowStorage, centre: Option<Box<[f32]>>) -> Self {
        Segment {
            codes: Codes::new(&config),
            centre,
            judge: Judge::new(&config),
            off_centre: AtomicBool::new(false),
            rows: Rows::new(&config, storage),
            labels: Labels::new(),
            table: Table::new(),
            postings: Postings::default(),
            clock: Mutex::new(Clock { stamp: WRITTEN, next_slot: 0, documents: 0, live: 0, dead: 0, journal: None }),
            now: AtomicU32::new(WRITTEN),
            allocated: AtomicU32::new(0),
            live: AtomicU32::new(0),
            documents: AtomicU32::new(0),
            graph: OnceLock::new(),
            backlog_end: AtomicU32::new(0),
            linked: AtomicU32::new(0),
            draining: Mutex::new(()),
            config,
        }
    }

    /// What a search that starts now may see.
    pub(crate) fn view(&self) -> View {
        // In this order: a slot born by `now` was given out before `now` was set.
        let now = self.now.load(Ordering::Acquire);
        View { now, slots: self.allocated.load(Ordering::Acquire) }
    }

    /// Whether a slot belongs to a document of that time.
    #[inline]
    pub(crate) fn is_visible(&self, view: View, slot: u32) -> bool {
        let records = self.codes.records();
        let born = records.state(slot);
        if born <= WRITTEN || born > view.now {
            return false;
        }
        let died = records.mark(slot).map_or(0, |died| died.load(Ordering::Relaxed));
        died == 0 || died > view.now
    }

    /// A query as codes are compared with it.
    pub(crate) fn code_query(&self, query: &[f32]) -> Vec<f32> {
        // Products with a vector and with what is left of it differ by the same number for all.
        let centre = self.centre.as_deref().filter(|_| self.config.metric == Metric::L2);
        let mut out = Vec::with_capacity(query.len());
        centre::around(centre, query, &mut out);
        out
    }

    /// What a score has beside what a comparison with codes gives.
    pub(crate) fn score_offset(&self, query: &[f32]) -> ScoreRange {
        let Some(centre) = self.centre.as_deref().filter(|_| self.config.metric == Metric::Dot) else {
            return ScoreRange::around(0.0, 0.0);
        };
        let product = |a: &[f32], b: &[f32]| kernels::dot_f64(Isa::detected(), a, b);
        let lengths = (product(centre, centre) * product(query, query)).sqrt();
        ScoreRange::around(product(centre, query), 1e-13 * lengths)
    }

    /// Judges codes that are the rows by a sample of them.
    pub(crate) fn judge_codes(&self) {
        let Codes::Full(space) = &self.codes else { return };
        if !centre::is_needed(&self.config) {
            return;
        }
        let slots = self.table.slots();
        let step = slots.len().div_ceil(centre::SAMPLE).max(1);
        let rows = slots.iter().step_by(step).filter_map(|slot| space.row(*slot));
        self.off_centre.store(centre::of_rows(rows, None).is_some(), Ordering::Relaxed);
    }

    /// Whether codes say too little to walk by; where a centre helps, until a compaction chooses one.
    pub(crate) fn is_off_centre(&self) -> bool {
        self.off_centre.load(Ordering::Relaxed)
    }

    /// The documents that meet a condition, by their first slots.
    pub(crate) fn matched(&self, condition: &Condition) -> Matched {
        let times = |slot: u32| -> Option<Times> { Some(self.labels.get(slot)?.times) };
        self.postings.evaluate(condition, &times)
    }

    /// The backlog: slots that the graph does not reach yet.
    pub(crate) fn unlinked(&self) -> Range<u32> {
        let linked = self.linked.load(Ordering::Acquire);
        linked..self.backlog_end.load(Ordering::Acquire).max(linked)
    }

    /// Adds or replaces a document whose vectors were checked.
    pub(crate) fn upsert(
        &self,
        document: Document,
        attributes: &Attributes,
        vectors: &[f32],
    ) -> Result<(), IndexError> {
        let Document { id, times } = document;
        let count = vectors.len() / self.config.dim;
        self.insert(Label { id, times, first: 0, count: count as u32 }, VectorSource::Caller(vectors, attributes))
    }

    /// Brings a document to the state it has in `old`.
    pub(crate) fn copy_from(&self, old: &Segment, id: u128) -> Result<(), IndexError> {
        let Some(label) = old.table.get(&old.labels, id) else {
            self.remove(id);
            return Ok(());
        };
        if self.centre == old.centre {
            return self.insert(label, VectorSource::Segment(old, label.first));
        }
        let slots: Vec<u32> = label.slots().collect();
        let mut rows = vec![Vec::new(); slots.len()];
        old.fetch(&slots, false, &mut |position, row| rows[position] = row.to_vec())?;
        if rows.iter().any(Vec::is_empty) {
            // The source is ahead: the document is gone, as this index is about to hear.
            self.remove(id);
            return Ok(());
        }
        self.insert(label, VectorSource::Rows(&rows, old, label.first))
    }

    /// Inserts a document at slots that it is given here, whatever its label says.
    fn insert(&self, label: Label, source: VectorSource<'_>) -> Result<(), IndexError> {
        let count = label.count;
        let (first, link) = self.allocate(count)?;
        let label = Label { first, ..label };
        if let Err(error) = self.write(label, &source) {
            // Never born, so never seen; the next compaction drops it.
            self.clock.lock().dead += count;
            return Err(error.into());
        }
        match source {
            VectorSource::Caller(_, attributes) => self.postings.set(first, attributes),
            VectorSource::Segment(old, from) | VectorSource::Rows(_, old, from) => {
                self.postings.copy_from(first, &old.postings, from);
            }
        }
        if link {
            label.slots().for_each(|slot| self.link(slot));
        }
        self.publish(label);
        self.drain_backlog(BACKLOG_PER_INSERT * count as usize);
        Ok(())
    }

    /// Takes slots, and says whether the caller must link them (else they are backlog or there is no graph).
    fn allocate(&self, count: u32) -> Result<(u32, bool), IndexError> {
        let mut clock = self.clock.lock();
        let first = clock.next_slot;
        if count > MAX_SLOTS - first {
            return Err(IndexError::Full);
        }
        clock.next_slot += count;
        self.allocated.store(clock.next_slot, Ordering::Release);
        let link = self.graph.get().is_some();
        if !link && clock.live as usize + count as usize > self.config.exact_below {
            // Slots given out so far are the backlog; those given out from now on see the graph.
            self.backlog_end.store(clock.next_slot, Ordering::Release);
            self.graph.get_or_init(|| Graph::new(&self.config));
        }
        Ok((first, link))
    }

    /// Makes the graph before the first insert: for a rebuild whose size is known.
    pub(crate) fn start_graph(&self) {
        let clock = self.clock.lock();
        assert_eq!(clock.next_slot, 0, "a graph started late would miss slots");
        self.graph.get_or_init(|| Graph::new(&self.config));
    }

    fn write(&self, label: Label, source: &VectorSource<'_>) -> Result<(), RowsError> {
        let mut prepared = Vec::with_capacity(self.config.dim);
        for slot in label.slots() {
            self.labels.write(slot, label);
            match *source {
                VectorSource::Caller(vectors, _) => {
                    let start = (slot - label.first) as usize * self.config.dim;
                    input::prepare(self.config.metric, &vectors[start..start + self.config.dim], &mut prepared);
                    if let Some(is_off) = self.judge.add(&prepared, self.centre.as_deref()) {
                        self.off_centre.store(is_off, Ordering::Relaxed);
                    }
                    self.push(slot, &prepared);
                }
                VectorSource::Rows(rows, ..) => self.push(slot, &rows[(slot - label.first) as usize]),
                VectorSource::Segment(old, first) => {
                    let from = first + (slot - label.first);
                    self.codes.push_payload(slot, old.codes.payload(from).ok_or(RowsError::Missing(from))?);
                    self.rows.copy_from(slot, &old.rows, from)?;
                }
            }
        }
        Ok(())
    }

    /// Writes code and row of a slot.
    fn push(&self, slot: u32, row: &[f32]) {
        let mut left = Vec::new();
        let coded = if self.centre.is_some() {
            centre::around(self.centre.as_deref(), row, &mut left);
            &left
        } else {
            row
        };
        self.codes.push(slot, coded);
        self.rows.push(slot, row);
    }

    fn link(&self, slot: u32) {
        let Some(graph) = self.graph.get() else { return };
        let slots = self.allocated.load(Ordering::Acquire);
        with_space!(&self.codes, space => graph.link(space, slot, slots, &mut scratch::borrow()));
    }

    /// Links up to `most` slots of the backlog, unless another thread is at it.
    pub(crate) fn drain_backlog(&self, most: usize) {
        let Some(_draining) = self.draining.try_lock() else { return };
        for slot in self.unlinked().take(most) {
            if self.codes.records().state(slot) == 0 {
                return; // Another thread is about to write it.
            }
            self.link(slot);
            self.linked.store(slot + 1, Ordering::Release);
        }
    }

    /// Makes a written document the current one under its id.
    fn publish(&self, label: Label) {
        let mut entry = self.table.lock(&self.labels, label.id);
        let mut clock = self.clock.lock();
        clock.stamp += 1;
        label.slots().for_each(|slot| self.codes.records().set_state(slot, clock.stamp));
        if let Some(old) = entry.replace(label.first) {
            self.retire(&mut clock, old);
        }
        clock.documents += 1;
        clock.live += label.count;
        self.finish(clock, label.id);
    }

    /// Removes a document; false if there is none.
    pub(crate) fn remove(&self, id: u128) -> bool {
        let mut entry = self.table.lock(&self.labels, id);
        let Some(old) = entry.remove() else { return false };
        let mut clock = self.clock.lock();
        clock.stamp += 1;
        self.retire(&mut clock, old);
        self.finish(clock, id);
        true
    }

    fn retire(&self, clock: &mut Clock, old: Label) {
        for slot in old.slots() {
            self.codes.records().mark(slot).expect("was written").store(clock.stamp, Ordering::Relaxed);
        }
        clock.documents -= 1;
        clock.live -= old.count;
        clock.dead += old.count;
    }

    fn finish(&self, mut clock: MutexGuard<'_, Clock>, id: u128) {
        if let Some(journal) = &mut clock.journal {
            journal.insert(id);
        }
        self.show(&clock);
    }

    /// Lets searches see what the clock says.
    fn show(&self, clock: &Clock) {
        self.live.store(clock.live, Ordering::Relaxed);
        self.documents.store(clock.documents, Ordering::Relaxed);
        self.allocated.store(clock.next_slot, Ordering::Release);
        self.now.store(clock.stamp, Ordering::Release);
    }

    /// Live vectors and documents, about now.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.live.load(Ordering::Relaxed) as usize, self.documents.load(Ordering::Relaxed) as usize)
    }

    /// Sets counters and table after slots were read.
    pub(crate) fn restore(&self, slots: u32) -> Result<(), ImageError> {
        let damaged = Err(ImageError::Damaged("documents"));
        let mut clock = self.clock.lock();
        (clock.stamp, clock.next_slot) = (WRITTEN + 1, slots);
        self.show(&clock);
        let view = self.view();
        for slot in (0..slots).filter(|slot| self.is_visible(view, *slot)) {
            let label = self.labels.get(slot).ok_or(RowsError::Missing(slot))?;
            clock.live += 1;
            if slot != label.first {
                if !self.is_visible(view, label.first) {
                    return damaged;
                }
                continue;
            }
            let is_whole = |other| self.is_visible(view, other) && self.labels.get(other) == Some(label);
            if !label.slots().all(is_whole) || self.table.lock(&self.labels, label.id).replace(slot).is_some() {
                return damaged;
            }
            clock.documents += 1;
        }
        clock.dead = slots - clock.live;
        self.show(&clock);
        self.judge_codes();
        Ok(())
    }

    /// Sets graph and backlog, after an image was read.
    pub(crate) fn restore_graph(&self, graph: Graph, unlinked: Range<u32>) {
        self.backlog_end.store(unlinked.end, Ordering::Release);
        self.linked.store(unlinked.start, Ordering::Release);
        self.graph.get_or_init(|| graph);
    }

    /// Calls `visit` with the full-precision row of each slot that has one, once, in any order. `keep` says whether rows
    /// that had to be read are likely to be wanted again.
    pub(crate) fn fetch(
        &self,
        slots: &[u32],
        keep: bool,
        visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), RowsError> {
        match (&self.rows, &self.codes) {
            (Rows::Memory(rows), _) => rows.fetch(slots, visit),
            (Rows::Source(rows), _) => rows.fetch(&self.labels, slots, keep, visit),
            (Rows::Codes, Codes::Full(space)) => slots.iter().enumerate().try_for_each(|(position, slot)| {
                visit(position, space.row(*slot).ok_or(RowsError::Missing(*slot))?);
                Ok(())
            }),
            (Rows::Codes, _) => unreachable!("quantised segments have rows"),
        }
    }
}
