//! Working memory of one search or one link, pooled for all indexes of the process.
//!
//! The visited set is an array of 16-bit epochs: emptying it is adding one to the epoch, and only every 65,535th time
//! does it cost a pass over the array. It is sized by the largest graph it served, so sharing it between
//! collections bounds its memory by the number of concurrent searches, not by the number of collections.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::{Deref, DerefMut};

use parking_lot::Mutex;

use crate::vector::graph::slot_of;

/// Most idle working memories kept; more than the threads that search at once on one machine.
const POOL: usize = 64;

static IDLE: Mutex<Vec<Scratch>> = Mutex::new(Vec::new());

/// What a walk fills while it goes.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) visited: Visited,
    /// Nodes to expand, best on top.
    pub(crate) candidates: BinaryHeap<u64>,
    /// Hits, worst on top.
    pub(crate) results: BinaryHeap<Reverse<u64>>,
    /// The best hits of those, worst on top: what is to be settled.
    best: BinaryHeap<Reverse<u64>>,
    /// Nodes that were worse than a full beam: neither expanded nor offered.
    pub(crate) passed_over: Vec<u64>,
    /// Hits that better ones pushed out of the beam.
    pub(crate) pushed_out: Vec<u64>,
    /// Unvisited neighbours of the node at hand.
    pub(crate) batch: Vec<u32>,
    /// Nodes that the last walk compared.
    pub(crate) compared: usize,
}

impl Scratch {
    /// Empties everything for a walk of slots below `slots` that begins at a key.
    pub(crate) fn start(&mut self, slots: u32, start: u64) {
        self.visited.start(slots);
        self.visited.insert(slot_of(start));
        self.results.clear();
        self.best.clear();
        self.passed_over.clear();
        self.pushed_out.clear();
        self.candidates.clear();
        self.candidates.push(start);
        self.compared = 0;
    }

    /// Notes a hit, and says whether it is one of the `top` best so far.
    #[inline]
    pub(crate) fn note_best(&mut self, found: u64, top: usize) -> bool {
        if self.best.len() < top {
            self.best.push(Reverse(found));
            return true;
        }
        match self.best.peek_mut() {
            Some(mut worst) if found > worst.0 => {
                *worst = Reverse(found);
                true
            }
            _ => false,
        }
    }

    /// Empties the results, best first.
    pub(crate) fn take_sorted(&mut self) -> Vec<u64> {
        let mut found: Vec<u64> = self.results.drain().map(|result| result.0).collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found
    }
}

/// Which slots a walk has seen.
#[derive(Default)]
pub(crate) struct Visited {
    epoch: u16,
    epochs: Vec<u16>,
}

impl Visited {
    /// Empties the set and makes room for slots below `slots`.
    pub(crate) fn start(&mut self, slots: u32) {
        if self.epochs.len() < slots as usize {
            self.epochs.resize(slots as usize, 0);
        }
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.epochs.fill(0);
            self.epoch = 1;
        }
    }

    /// Adds a slot; false if it was there, or is newer than this walk.
    #[inline]
    pub(crate) fn insert(&mut self, slot: u32) -> bool {
        match self.epochs.get_mut(slot as usize) {
            Some(epoch) if *epoch != self.epoch => {
                *epoch = self.epoch;
                true
            }
            _ => false,
        }
    }
}

/// A working memory that returns to the pool.
pub(crate) struct Borrowed(Option<Scratch>);

/// Takes an idle working memory or makes one.
pub(crate) fn borrow() -> Borrowed {
    let idle = IDLE.lock().pop();
    Borrowed(Some(idle.unwrap_or_default()))
}

impl Deref for Borrowed {
    type Target = Scratch;
    fn deref(&self) -> &Scratch {
        self.0.as_ref().expect("taken only in drop")
    }
}

impl DerefMut for Borrowed {
    fn deref_mut(&mut self) -> &mut Scratch {
        self.0.as_mut().expect("taken only in drop")
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let mut idle = IDLE.lock();
        if let Some(scratch) = self.0.take()
            && idle.len() < POOL
        {
            idle.push(scratch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_wrap_without_false_memories() {
        let mut visited = Visited::default();
        for _ in 0..70_000 {
            visited.start(3);
            assert!(visited.insert(1));
            assert!(!visited.insert(1));
            assert!(!visited.insert(3), "beyond the walk's slots");
        }
    }
}
