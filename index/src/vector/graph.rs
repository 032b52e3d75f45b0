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
//! codes as a node therefore gets no links: it joins the node's chain of twins. A node and its twins take one place in a
//! beam, so that a hundred equal vectors hide nobody; whoever asked looks at the chain afterwards.
//!
//! **Full lists.** The selection heuristic alone leaves few links where neighbours are about as far from each other as from
//! the centre: noisy copies of one text, or random directions around a vector in their midst. So what it passes over
//! fills the list up (the paper's `keepPrunedConnections`).

mod walk;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::vector::arena::WordArena;
use crate::vector::config::Config;
use crate::vector::scratch::Scratch;
use crate::vector::space::Space;

pub(crate) use walk::{Beam, Bounds, Patience, Walk, Walked};

/// Highest layer; reached with m = 4 by one node in 4¹⁵.
pub(crate) const MAX_LAYER: usize = 15;
/// Nodes whose lists are locked independently of each other.
const LOCK_STRIPES: usize = 512;

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

    /// Whether a node, or a twin of it that is asked for, may be a result; and how many twins were asked about.
    #[inline]
    fn accepts(&self, slot: u32, accept: &impl Accept) -> (bool, usize) {
        let is_own = accept.accept(slot);
        if is_own || !accept.twins() {
            return (is_own, 0);
        }
        let mut asked = 0;
        let is_accepted = self.twins(slot).any(|twin| {
            asked += 1;
            accept.accept(twin)
        });
        (is_accepted, asked)
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

/// The selection heuristic of the paper (algorithm 4): from the nearest outwards, a node is taken unless one already
/// taken is at least as near to it as the centre is. Links then point in different directions, and one link stands for a
/// cluster. The nearest of those passed over fill the rest of the list, but none that cannot be told apart from the one
/// it was passed over for. `found` holds keys by similarity to the centre, best first.
fn select<S: Space>(space: &S, found: &[u64], most: usize) -> Vec<u32> {
    let (mut taken, mut passed_over): (Vec<u32>, Vec<u32>) = (Vec::with_capacity(most), Vec::new());
    let mut probe = S::Probe::default();
    for key in found {
        if taken.len() == most {
            break;
        }
        let (slot, to_centre) = (slot_of(*key), similarity_of(*key));
        if !taken.is_empty() {
            space.probe_slot(slot, &mut probe);
        }
        match taken.iter().find(|other| space.similarity(&probe, **other) >= to_centre) {
            None => taken.push(slot),
            Some(nearer) if !space.is_same(slot, *nearer) => passed_over.push(slot),
            Some(_) => {}
        }
    }
    let room = most - taken.len();
    taken.extend(passed_over.into_iter().take(room));
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
