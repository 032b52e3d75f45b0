//! The HNSW graph (Malkov & Yashunin 2016): layers of links between slots, each layer a fraction 1/m of the one below.
//!
//! Links are fixed-stride lists of atomics, a slot stored as `slot + 1`, packed from the front, 0 behind the last. Walks
//! take no lock: a list that is being rewritten shows old and new links mixed, and both lead somewhere. Linking locks
//! one node at a time (striped locks), so any number of threads may link at once.
//!
//! Invariants:
//! - A slot is linked after its codes are written; every link is stored with release and read with acquire ordering,
//!   so whoever follows a link may read the codes behind it.
//! - A node's own lists are complete on all its layers before the first link to it appears on any.
//! - A link on layer `l` leads to a node that has a layer `l`.
//!
//! **Twins.** A memory holds many equal texts, and equal vectors tear a graph apart: they are each other's nearest
//! neighbours, so either their lists hold nothing else, or pruning keeps one and strands the rest. A slot with the same
//! codes as a node therefore gets no links: it joins the node's chain of twins, which a walk follows wherever it meets
//! the node.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::vector::arena::WordArena;
use crate::vector::config::Config;
use crate::vector::kernels;
use crate::vector::scratch::Scratch;
use crate::vector::space::Space;

/// Highest layer; reached with m = 4 by one node in 4¹⁵.
pub(crate) const MAX_LAYER: usize = 15;
/// Nodes whose lists are locked independently of each other.
const LOCK_STRIPES: usize = 512;
/// Codes asked for ahead of the one being compared: about the memory latency over the time of one comparison.
const PREFETCH_AHEAD: usize = 4;
/// Expanded nodes between two questions to the caller whether to stop.
const ABORT_EVERY: usize = 64;

/// A similarity and a slot in one integer: greater is more similar, then the lower slot.
#[inline]
pub(crate) fn key(similarity: f32, slot: u32) -> u64 {
    let bits = similarity.to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(ordered) << 32 | u64::from(!slot)
}

/// The slot of a key.
#[inline]
pub(crate) fn slot_of(key: u64) -> u32 {
    !(key as u32)
}

/// The similarity of a key.
#[inline]
fn similarity_of(key: u64) -> f32 {
    let ordered = (key >> 32) as u32;
    f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
}

/// A node on one of its layers.
#[derive(Debug, Clone, Copy)]
struct LayerNode {
    slot: u32,
    layer: usize,
}

/// What bounds one walk.
pub(crate) struct Bounds<'a> {
    /// Slots at or above this did not exist when the walk began.
    pub(crate) slots: u32,
    /// Most nodes to compare.
    pub(crate) budget: usize,
    /// Asked now and then whether to give up.
    pub(crate) abort: Option<&'a dyn Fn() -> bool>,
}

/// How a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Walked {
    /// Nothing nearer is left.
    Done,
    /// The budget is spent: a scan is cheaper.
    OverBudget,
    /// The caller gave up.
    Aborted,
}

/// Which nodes a walk takes as results.
pub(crate) trait Accept {
    /// Whether this slot may be a result.
    fn accept(&self, slot: u32) -> bool;
    /// Whether a node's twins are wanted too.
    fn twins(&self) -> bool;
}

impl<F: Fn(u32) -> bool> Accept for F {
    fn accept(&self, slot: u32) -> bool {
        self(slot)
    }

    fn twins(&self) -> bool {
        true
    }
}

/// For linking: every node, dead ones too, but no twins, which have no links.
struct AnyNode;

impl Accept for AnyNode {
    fn accept(&self, _: u32) -> bool {
        true
    }

    fn twins(&self) -> bool {
        false
    }
}

/// What becomes of a new slot.
enum Chosen {
    /// A node with these links, by layer from the bottom.
    Links(Vec<Vec<u32>>),
    /// A twin of this node.
    TwinOf(u32),
}

/// The links between the slots of a segment.
pub(crate) struct Graph {
    m: usize,
    ef_construction: usize,
    seed: u64,
    /// Bottom layer, `2 m` links per slot.
    bottom: WordArena,
    /// Per slot: 1 + number of its first block in `upper`, or 0 for a node of the bottom layer only.
    towers: WordArena,
    /// Blocks of `m` links, one per node and layer above the bottom.
    upper: WordArena,
    upper_blocks: AtomicU32,
    /// Per slot: 1 + the next slot with the same codes, or 0.
    twins: WordArena,
    /// `(layer + 1) << 32 | slot`, 0 while empty.
    entry: AtomicU64,
    /// Held while the top of the graph grows.
    growing: Mutex<()>,
    locks: Box<[Mutex<()>]>,
}

impl Graph {
    pub(crate) fn new(config: &Config) -> Self {
        Graph {
            m: config.m,
            ef_construction: config.ef_construction,
            seed: config.seed,
            bottom: WordArena::new(2 * config.m),
            towers: WordArena::new(1),
            upper: WordArena::new(config.m),
            upper_blocks: AtomicU32::new(0),
            twins: WordArena::new(1),
            entry: AtomicU64::new(0),
            growing: Mutex::new(()),
            locks: (0..LOCK_STRIPES).map(|_| Mutex::new(())).collect(),
        }
    }

    /// The layer of a slot: geometric with ratio 1/m, from the seed and the slot alone.
    fn layer_of(&self, slot: u32) -> usize {
        let mut x = self.seed ^ u64::from(slot).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        // The finaliser of splitmix64.
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^= x >> 31;
        let uniform = ((x >> 11) + 1) as f64 / (1u64 << 53) as f64;
        ((-uniform.ln() / (self.m as f64).ln()) as usize).min(MAX_LAYER)
    }

    /// The entry on its highest layer.
    fn entry(&self) -> Option<LayerNode> {
        let entry = self.entry.load(Ordering::Acquire);
        (entry != 0).then(|| LayerNode { slot: entry as u32, layer: (entry >> 32) as usize - 1 })
    }

    fn set_entry(&self, LayerNode { slot, layer }: LayerNode) {
        self.entry.store((layer as u64 + 1) << 32 | u64::from(slot), Ordering::Release);
    }

    fn list(&self, slot: u32, layer: usize) -> Option<&[AtomicU32]> {
        if layer == 0 {
            return self.bottom.get(slot);
        }
        let first = self.towers.get(slot)?[0].load(Ordering::Acquire);
        if first == 0 { None } else { self.upper.get(first - 1 + layer as u32 - 1) }
    }

    /// The slots that a node links to.
    pub(crate) fn links(&self, slot: u32, layer: usize) -> impl Iterator<Item = u32> + '_ {
        let list = self.list(slot, layer).unwrap_or(&[]);
        list.iter().map(|link| link.load(Ordering::Acquire)).take_while(|link| *link != 0).map(|link| link - 1)
    }

    /// The twins of a node, latest first.
    pub(crate) fn twins(&self, slot: u32) -> impl Iterator<Item = u32> + '_ {
        let next = |slot: u32| {
            let twin = self.twins.get(slot)?[0].load(Ordering::Acquire);
            twin.checked_sub(1)
        };
        std::iter::successors(next(slot), move |twin| next(*twin))
    }

    /// Puts a slot at the head of a node's chain.
    fn add_twin(&self, node: u32, slot: u32) {
        let _locked = self.locks[node as usize % LOCK_STRIPES].lock();
        let head = &self.twins.get_or_make(node)[0];
        self.twins.get_or_make(slot)[0].store(head.load(Ordering::Relaxed), Ordering::Release);
        head.store(slot + 1, Ordering::Release);
    }

    fn write_list(&self, slot: u32, layer: usize, links: &[u32]) {
        let list = self.list(slot, layer).expect("made when the node was");
        assert!(links.len() <= list.len());
        for (place, link) in list.iter().enumerate() {
            link.store(links.get(place).map_or(0, |slot| slot + 1), Ordering::Release);
        }
    }

    /// Makes room for a node of this layer.
    fn make_node(&self, slot: u32, layer: usize) {
        self.bottom.get_or_make(slot);
        let tower = self.towers.get_or_make(slot);
        if layer > 0 {
            let first = self.upper_blocks.fetch_add(layer as u32, Ordering::Relaxed);
            for block in first..first + layer as u32 {
                self.upper.get_or_make(block);
            }
            tower[0].store(first + 1, Ordering::Release);
        }
    }

    /// Puts a node and its twins among the results where they are accepted, and returns how many twins were asked about.
    #[inline]
    fn offer(&self, found: u64, ef: usize, accept: &impl Accept, results: &mut BinaryHeap<Reverse<u64>>) -> usize {
        let mut add = |found: u64| {
            if accept.accept(slot_of(found)) {
                results.push(Reverse(found));
                if results.len() > ef {
                    results.pop();
                }
            }
            // Equals displace nobody, so that a long chain is not walked to its end for nothing.
            results.len() >= ef && results.peek().is_some_and(|worst| worst.0 >> 32 >= found >> 32)
        };
        if add(found) || !accept.twins() {
            return 0;
        }
        let mut asked = 0;
        for twin in self.twins(slot_of(found)) {
            asked += 1;
            if add(found >> 32 << 32 | u64::from(!twin)) {
                break;
            }
        }
        asked
    }

    /// Links a slot whose codes are written. `slots` is above every slot linked so far.
    pub(crate) fn link<S: Space>(&self, space: &S, slot: u32, slots: u32, scratch: &mut Scratch) {
        let layer = self.layer_of(slot);
        let mut entry = self.entry();
        let mut growing = None;
        if entry.is_none_or(|entry| layer > entry.layer) {
            growing = Some(self.growing.lock());
            entry = self.entry();
        }
        let Some(entry) = entry else {
            self.make_node(slot, layer);
            return self.set_entry(LayerNode { slot, layer });
        };
        let mut probe = S::Probe::default();
        space.probe_slot(slot, &mut probe);
        let bounds = Bounds { slots, budget: usize::MAX, abort: None };
        let mut walk = Walk { graph: self, space, probe: &probe, bounds, scratch };
        let chosen = match walk.choose_links(slot, layer, entry) {
            Chosen::Links(chosen) => chosen,
            Chosen::TwinOf(node) => return self.add_twin(node, slot),
        };
        self.make_node(slot, layer);
        for (layer, links) in chosen.iter().enumerate() {
            self.write_list(slot, layer, links);
        }
        for (layer, links) in chosen.iter().enumerate() {
            for neighbour in links {
                self.link_back(space, LayerNode { slot: *neighbour, layer }, slot, &mut probe);
            }
        }
        if growing.is_some() && layer > entry.layer {
            self.set_entry(LayerNode { slot, layer });
        }
    }

    /// Adds `slot` to the links of a node; a full list keeps the best spread of old and new.
    fn link_back<S: Space>(&self, space: &S, node: LayerNode, slot: u32, probe: &mut S::Probe) {
        let LayerNode { slot: node, layer } = node;
        let _locked = self.locks[node as usize % LOCK_STRIPES].lock();
        let list = self.list(node, layer).expect("a link leads to a node of that layer");
        let used = list.iter().take_while(|link| link.load(Ordering::Relaxed) != 0).count();
        if used < list.len() {
            list[used].store(slot + 1, Ordering::Release);
            return;
        }
        let others: Vec<u32> = self.links(node, layer).chain([slot]).collect();
        others.iter().for_each(|other| space.prefetch(*other));
        space.probe_slot(node, probe);
        let mut found: Vec<u64> = others.into_iter().map(|other| key(space.similarity(probe, other), other)).collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        self.write_list(node, layer, &select(space, &found, list.len()));
    }

    /// The highest layer of a linked slot.
    pub(crate) fn top_of(&self, slot: u32) -> usize {
        let has_tower = self.towers.get(slot).is_some_and(|tower| tower[0].load(Ordering::Acquire) != 0);
        if has_tower { self.layer_of(slot) } else { 0 }
    }

    /// Makes a node of an image.
    pub(crate) fn restore_node(&self, slot: u32, layer: usize) {
        self.make_node(slot, layer);
        if self.entry().is_none_or(|entry| layer > entry.layer) {
            self.set_entry(LayerNode { slot, layer });
        }
    }

    /// Sets a list of an image; `None` if it is too long.
    pub(crate) fn restore_links(&self, slot: u32, layer: usize, links: &[u32]) -> Option<()> {
        (links.len() <= self.list(slot, layer)?.len()).then(|| self.write_list(slot, layer, links))
    }

    /// Sets a twin of an image.
    pub(crate) fn restore_twin(&self, slot: u32, twin: u32) {
        self.twins.get_or_make(slot)[0].store(twin + 1, Ordering::Release);
    }

    /// Bytes of the lists of the first `slots` slots.
    pub(crate) fn bytes(&self, slots: u32) -> usize {
        let upper = self.upper.bytes(self.upper_blocks.load(Ordering::Relaxed));
        self.bottom.bytes(slots) + self.towers.bytes(slots) + self.twins.bytes(slots) + upper
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
    /// The keys of the best `ef` accepted slots, best first, or how else the walk ended.
    pub(crate) fn search(&mut self, ef: usize, accept: &impl Accept) -> Result<Vec<u64>, Walked> {
        let Some(entry) = self.graph.entry() else { return Ok(Vec::new()) };
        let nearest = self.descend(entry, 0);
        match self.layer(0, nearest, ef, accept) {
            Walked::Done => Ok(take_sorted(self.scratch)),
            ended => Err(ended),
        }
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

    /// Walks one layer from the key `start`, and leaves the best `ef` accepted slots in `scratch.results`.
    ///
    /// A node that is not accepted is walked through but takes no place among the results, so deleted and filtered
    /// nodes keep the graph connected.
    fn layer(&mut self, layer: usize, start: u64, ef: usize, accept: &impl Accept) -> Walked {
        let (graph, space, bounds) = (self.graph, self.space, &self.bounds);
        let Scratch { visited, candidates, results, batch, compared } = &mut *self.scratch;
        visited.start(bounds.slots);
        visited.insert(slot_of(start));
        results.clear();
        candidates.clear();
        candidates.push(start);
        *compared = graph.offer(start, ef, accept, results);
        let mut expanded = 0;
        while let Some(best) = candidates.pop() {
            if results.len() >= ef && results.peek().is_some_and(|worst| best < worst.0) {
                break;
            }
            expanded += 1;
            if expanded % ABORT_EVERY == 0 && bounds.abort.is_some_and(|abort| abort()) {
                return Walked::Aborted;
            }
            batch.clear();
            batch.extend(graph.links(slot_of(best), layer).filter(|link| visited.insert(*link)));
            *compared += batch.len();
            if *compared > bounds.budget {
                return Walked::OverBudget;
            }
            batch.iter().take(PREFETCH_AHEAD).for_each(|slot| space.prefetch(*slot));
            for (place, slot) in batch.iter().enumerate() {
                if let Some(ahead) = batch.get(place + PREFETCH_AHEAD) {
                    space.prefetch(*ahead);
                }
                let found = key(space.similarity(self.probe, *slot), *slot);
                if results.len() >= ef && results.peek().is_some_and(|worst| found < worst.0) {
                    continue;
                }
                candidates.push(found);
                if let Some(list) = graph.list(*slot, layer) {
                    kernels::prefetch(list);
                }
                *compared += graph.offer(found, ef, accept, results);
            }
        }
        Walked::Done
    }

    /// The links of a new node.
    fn choose_links(&mut self, slot: u32, layer: usize, entry: LayerNode) -> Chosen {
        let top = layer.min(entry.layer);
        let mut nearest = self.descend(entry, top);
        let mut chosen = Vec::with_capacity(top + 1);
        for layer in (0..=top).rev() {
            let ended = self.layer(layer, nearest, self.graph.ef_construction, &AnyNode);
            debug_assert_eq!(ended, Walked::Done);
            let found = take_sorted(self.scratch);
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

/// Empties the results, best first.
fn take_sorted(scratch: &mut Scratch) -> Vec<u64> {
    let mut found: Vec<u64> = scratch.results.drain().map(|result| result.0).collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found
}

/// The selection heuristic of the paper (algorithm 4): from the nearest outwards, a node is taken unless one already
/// taken is at least as near to it as the centre is. Links then point in different directions, and one link stands for a
/// cluster. `found` holds keys by similarity to the centre, best first.
fn select<S: Space>(space: &S, found: &[u64], most: usize) -> Vec<u32> {
    let mut taken: Vec<u32> = Vec::with_capacity(most);
    let mut probe = S::Probe::default();
    for key in found {
        if taken.len() == most {
            break;
        }
        let (slot, to_centre) = (slot_of(*key), similarity_of(*key));
        if !taken.is_empty() {
            space.probe_slot(slot, &mut probe);
        }
        if taken.iter().all(|other| space.similarity(&probe, *other) < to_centre) {
            taken.push(slot);
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_like_similarities_then_lower_slots() {
        let similarities = [f32::NEG_INFINITY, -2.5, -0.0, 0.0, 1e-30, 0.5, 7.0];
        for pair in similarities.windows(2) {
            assert!(key(pair[0], 0) < key(pair[1], 9), "{pair:?}");
        }
        assert!(key(0.5, 3) > key(0.5, 4));
        for similarity in similarities {
            assert_eq!((similarity_of(key(similarity, 77)), slot_of(key(similarity, 77))), (similarity, 77));
        }
    }
}
