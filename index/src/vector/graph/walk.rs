//! Walking a graph towards a query: best first, through a beam that may widen while it still finds something better.
//!
//! A beam of `ef` ends when the best node that is left to expand is worse than its `ef` best. How wide it must be depends
//! on the data and on the query, and nobody knows beforehand: among texts about different things 20 find what among noisy
//! copies of a few texts 300 do not. So a walk whose caller names no width begins with a narrow beam and looks, when that
//! ends, *when* the best hits changed last. If it was early, the rest of the walk has confirmed them. If not, the beam
//! widens and the walk goes on from where it is: what it saw and passed over is kept, nothing is compared twice.

use std::cmp::Reverse;

use super::{Accept, AnyNode, Chosen, Graph, LayerNode, key, select, slot_of};
use crate::vector::kernels;
use crate::vector::scratch::Scratch;
use crate::vector::space::Space;

/// Codes asked for ahead of the one being compared: about the memory latency over the time of one comparison.
const PREFETCH_AHEAD: usize = 4;
/// Expanded nodes between two questions to the caller whether to stop.
const ABORT_EVERY: usize = 64;

/// What bounds one walk.
pub(crate) struct Bounds<'a> {
    /// Slots at or above this did not exist when the walk began.
    pub(crate) slots: u32,
    /// Most nodes to compare.
    pub(crate) budget: usize,
    /// Asked now and then whether to give up.
    pub(crate) abort: Option<&'a dyn Fn() -> bool>,
}

/// Why a walk ended before nothing nearer was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Walked {
    /// The budget is spent: a scan is cheaper.
    OverBudget,
    /// The caller gave up.
    Aborted,
}

/// How wide a walk is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beam {
    /// Nodes among the results, at first.
    pub(crate) ef: usize,
    /// When to widen; a beam without it stays as it is.
    pub(crate) patience: Option<Patience>,
}

/// When a beam widens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// The hits that are to be settled: so many of the best.
    pub(crate) top: usize,
    /// How many times as many nodes must have been expanded as when the best hits changed last.
    pub(crate) factor: f32,
    /// The widest beam.
    pub(crate) widest: usize,
}

impl Patience {
    /// The next beam of a walk whose best hits changed last when `changed` of its `expanded` nodes were; `None` if they
    /// are settled.
    fn wider(&self, ef: usize, expanded: usize, changed: usize) -> Option<usize> {
        let is_settled = expanded as f32 >= self.factor * changed as f32;
        (!is_settled && ef < self.widest).then(|| (ef + ef / 2 + 1).min(self.widest))
    }
}

/// One walk: where, towards what, within which bounds.
pub(crate) struct Walk<'a, S: Space> {
    pub(crate) graph: &'a Graph,
    pub(crate) space: &'a S,
    pub(crate) probe: &'a S::Probe,
    pub(crate) bounds: Bounds<'a>,
    pub(crate) scratch: &'a mut Scratch,
}

impl<S: Space> Walk<'_, S> {
    /// The keys of the best accepted nodes, best first, and how wide the beam was; or how else the walk ended. A node
    /// stands for its twins too.
    pub(crate) fn search(&mut self, beam: Beam, accept: &impl Accept) -> Result<(Vec<u64>, usize), Walked> {
        let Some(entry) = self.graph.entry() else { return Ok((Vec::new(), beam.ef)) };
        let nearest = self.descend(entry, 0);
        let ef = self.layer(0, nearest, beam, accept)?;
        Ok((self.scratch.take_sorted(), ef))
    }

    /// Follows the best link on each layer from a node down to just above `bottom`.
    fn descend(&self, from: LayerNode, bottom: usize) -> u64 {
        let key_of = |slot: u32| key(self.space.similarity(self.probe, slot), slot);
        let mut best = key_of(from.slot);
        for layer in (bottom + 1..=from.layer).rev() {
            loop {
                match self.graph.links(slot_of(best), layer).map(key_of).max() {
                    Some(nearest) if nearest > best => best = nearest,
                    _ => break,
                }
            }
        }
        best
    }

    /// Walks one layer from the key `start`, leaves the best accepted nodes in `scratch.results`, and returns how wide the
    /// beam was.
    ///
    /// A node that is not accepted is walked through but takes no place among the results, so deleted and filtered
    /// nodes keep the graph connected.
    fn layer(&mut self, layer: usize, start: u64, beam: Beam, accept: &impl Accept) -> Result<usize, Walked> {
        let (graph, space, bounds) = (self.graph, self.space, &self.bounds);
        let scratch = &mut *self.scratch;
        scratch.start(bounds.slots, start);
        let mut front = Front { graph, accept, beam, scratch, ef: beam.ef, expanded: 0, changed: 0 };
        front.offer(start);
        loop {
            let best = match front.scratch.candidates.pop() {
                Some(best) if !front.is_beaten(best) => best,
                ended => {
                    front.scratch.candidates.extend(ended);
                    if front.widen() {
                        continue;
                    }
                    return Ok(front.ef);
                }
            };
            front.expanded += 1;
            if front.expanded.is_multiple_of(ABORT_EVERY) && bounds.abort.is_some_and(|abort| abort()) {
                return Err(Walked::Aborted);
            }
            let mut batch = std::mem::take(&mut front.scratch.batch);
            batch.clear();
            let visited = &mut front.scratch.visited;
            batch.extend(graph.links(slot_of(best), layer).filter(|link| visited.insert(*link)));
            front.scratch.compared += batch.len();
            if front.scratch.compared > bounds.budget {
                return Err(Walked::OverBudget);
            }
            batch.iter().take(PREFETCH_AHEAD).for_each(|slot| space.prefetch(*slot));
            for (place, slot) in batch.iter().enumerate() {
                if let Some(ahead) = batch.get(place + PREFETCH_AHEAD) {
                    space.prefetch(*ahead);
                }
                let found = key(space.similarity(self.probe, *slot), *slot);
                if front.is_beaten(found) {
                    front.pass_over(found);
                    continue;
                }
                if let Some(list) = graph.list(*slot, layer) {
                    kernels::prefetch(list);
                }
                front.scratch.candidates.push(found);
                front.offer(found);
            }
            front.scratch.batch = batch;
        }
    }

    /// The links of a new node.
    pub(super) fn choose_links(&mut self, slot: u32, layer: usize, entry: LayerNode) -> Chosen {
        let top = layer.min(entry.layer);
        let mut nearest = self.descend(entry, top);
        let mut chosen = Vec::with_capacity(top + 1);
        let beam = Beam { ef: self.graph.ef_construction, patience: None };
        for layer in (0..=top).rev() {
            let ended = self.layer(layer, nearest, beam, &AnyNode);
            debug_assert!(ended.is_ok(), "{ended:?}");
            let found = self.scratch.take_sorted();
            let mut slots = found.iter().map(|key| slot_of(*key));
            if layer == 0
                && let Some(twin) = slots.find(|other| self.space.is_same(slot, *other))
            {
                return Chosen::TwinOf(twin);
            }
            nearest = found[0];
            chosen.push(select(self.space, &found, self.graph.m));
        }
        chosen.reverse();
        Chosen::Links(chosen)
    }
}

/// The results of a walk so far, with what it may have to go back to.
struct Front<'a, A> {
    graph: &'a Graph,
    accept: &'a A,
    beam: Beam,
    scratch: &'a mut Scratch,
    /// How wide the beam is now.
    ef: usize,
    expanded: usize,
    /// How many nodes were expanded when the best hits changed last.
    changed: usize,
}

impl<A: Accept> Front<'_, A> {
    /// Whether a key is worse than a full beam.
    #[inline]
    fn is_beaten(&self, found: u64) -> bool {
        let results = &self.scratch.results;
        results.len() >= self.ef && results.peek().is_some_and(|worst| found < worst.0)
    }

    /// Keeps what a wider beam would take.
    #[inline]
    fn pass_over(&mut self, found: u64) {
        if self.beam.patience.is_some() {
            self.scratch.passed_over.push(found);
        }
    }

    /// Puts a node among the results if it is accepted.
    #[inline]
    fn offer(&mut self, found: u64) {
        let (is_accepted, asked) = self.graph.accepts(slot_of(found), self.accept);
        self.scratch.compared += asked;
        if !is_accepted {
            return;
        }
        self.scratch.results.push(Reverse(found));
        if self.scratch.results.len() > self.ef {
            let worst = self.scratch.results.pop();
            if self.beam.patience.is_some() {
                self.scratch.pushed_out.extend(worst.map(|worst| worst.0));
            }
        }
        if let Some(patience) = self.beam.patience
            && self.scratch.note_best(found, patience.top)
        {
            self.changed = self.expanded;
        }
    }

    /// Goes on with a wider beam, unless the best hits are settled or nothing is left.
    fn widen(&mut self) -> bool {
        let scratch = &mut *self.scratch;
        let is_spent = scratch.candidates.is_empty() && scratch.passed_over.is_empty();
        let wider = self.beam.patience.and_then(|patience| patience.wider(self.ef, self.expanded, self.changed));
        let Some(ef) = wider.filter(|_| !is_spent) else { return false };
        self.ef = ef;
        scratch.results.extend(scratch.pushed_out.drain(..).map(Reverse));
        while scratch.results.len() > ef {
            scratch.pushed_out.extend(scratch.results.pop().map(|worst| worst.0));
        }
        // The best of those passed over; a wider beam still will ask for the rest.
        let mut passed_over = std::mem::take(&mut scratch.passed_over);
        if passed_over.len() > ef {
            passed_over.select_nth_unstable_by(ef, |a, b| b.cmp(a));
        }
        let rest = passed_over.split_off(passed_over.len().min(ef));
        self.scratch.passed_over = rest;
        for found in passed_over {
            if self.is_beaten(found) {
                self.scratch.passed_over.push(found);
            } else {
                self.scratch.candidates.push(found);
                self.offer(found);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beam_widens_until_the_best_hits_are_old() {
        let patience = Patience { top: 10, factor: 3.0, widest: 100 };
        // beam, expanded, when the best changed last, the next beam
        let table = [
            (40, 42, 0, None),
            (40, 42, 14, None),
            (40, 42, 15, Some(61)),
            (61, 60, 15, None),
            (90, 95, 80, Some(100)),
            (100, 102, 100, None),
            (1, 1, 1, Some(2)),
        ];
        for (ef, expanded, changed, wider) in table {
            assert_eq!(patience.wider(ef, expanded, changed), wider, "{ef} {expanded} {changed}");
        }
    }
}
