//! Which slots a document has: frame id → first slot, in shards, at seven bytes or so per document; and who a slot
//! belongs to, at 32 bytes per slot.
//!
//! The table stores slots only; the id of an entry is read from the slot's label. Labels are written once, so an entry
//! can be compared with an id as long as it is in the table.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;

use hashbrown::HashTable;
use parking_lot::{RwLock, RwLockWriteGuard};

use crate::vector::arena::WordArena;

/// Shards, so that growing one stalls a sixteenth of the documents.
const SHARDS: usize = 16;

/// Who a slot belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) id: u128,
    /// The document's first slot; its others follow.
    pub(crate) first: u32,
    /// The document's number of slots.
    pub(crate) count: u32,
    /// The document's times.
    pub(crate) times: Times,
}

/// What a document carries for its owner's filters. Milliseconds; what is beyond [`Times::MAX_MS`] counts as that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// When it was made.
    pub created_ms: u64,
    /// When it is over; 0 for never.
    pub expires_ms: u64,
}

impl Times {
    /// The latest time that is kept: 48 bits, the year 10889.
    pub const MAX_MS: u64 = (1 << 48) - 1;
}

/// A document as a filter sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Document {
    /// Its id.
    pub id: u128,
    /// Its times.
    pub times: Times,
}

impl Label {
    /// The document's slots.
    pub(crate) fn slots(&self) -> std::ops::Range<u32> {
        self.first..self.first + self.count
    }

    /// The document.
    pub(crate) fn document(&self) -> Document {
        Document { id: self.id, times: self.times }
    }
}

/// Labels by slot, each eight words: `count << 16 | passage` (0 while unwritten, the last to be written), the id, and 48
/// bits for each of the times.
pub(crate) struct Labels(WordArena);

const LABEL_WORDS: usize = 8;

impl Labels {
    pub(crate) fn new() -> Self {
        Labels(WordArena::new(LABEL_WORDS))
    }

    /// Labels a slot, once.
    pub(crate) fn write(&self, slot: u32, label: Label) {
        let (id, passage) = (label.id, slot - label.first);
        assert!(passage < label.count && label.count <= u32::from(u16::MAX));
        let [created, expires] = [label.times.created_ms, label.times.expires_ms].map(|ms| ms.min(Times::MAX_MS));
        let rest = [
            id as u32,
            (id >> 32) as u32,
            (id >> 64) as u32,
            (id >> 96) as u32,
            created as u32,
            expires as u32,
            (created >> 32) as u32 | ((expires >> 32) as u32) << 16,
        ];
        let words = self.0.get_or_make(slot);
        for (word, value) in words[1..].iter().zip(rest) {
            word.store(value, Ordering::Relaxed);
        }
        words[0].store(label.count << 16 | passage, Ordering::Release);
    }

    /// The label of a slot, or `None` before it was written.
    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<Label> {
        let words: &[_; LABEL_WORDS] = self.0.get(slot)?.try_into().ok()?;
        let place = words[0].load(Ordering::Acquire);
        if place == 0 {
            return None;
        }
        let word = |at: usize| words[at].load(Ordering::Relaxed);
        let id = (0..4).fold(0u128, |id, at| id | u128::from(word(1 + at)) << (32 * at));
        let high = word(7);
        let times = Times {
            created_ms: u64::from(word(5)) | u64::from(high & 0xffff) << 32,
            expires_ms: u64::from(word(6)) | u64::from(high >> 16) << 32,
        };
        Some(Label { id, first: slot - (place & 0xffff), count: place >> 16, times })
    }

    pub(crate) fn bytes(&self, slots: u32) -> usize {
        self.0.bytes(slots)
    }
}

/// See the module.
pub(crate) struct Table {
    hasher: RandomState,
    shards: [RwLock<HashTable<u32>>; SHARDS],
}

impl Table {
    pub(crate) fn new() -> Self {
        Table { hasher: RandomState::new(), shards: [const { RwLock::new(HashTable::new()) }; SHARDS] }
    }

    fn shard(&self, hash: u64) -> &RwLock<HashTable<u32>> {
        // The table inside takes its tag from the top bits and its place from the bottom ones.
        &self.shards[(hash >> 40) as usize % SHARDS]
    }

    /// The label of a document.
    pub(crate) fn get(&self, labels: &Labels, id: u128) -> Option<Label> {
        let hash = self.hasher.hash_one(id);
        let is_it = |slot: &u32| labels.get(*slot).is_some_and(|label| label.id == id);
        let shard = self.shard(hash).read();
        shard.find(hash, is_it).and_then(|slot| labels.get(*slot))
    }

    /// Locks the shard of a document against other writers.
    pub(crate) fn lock<'a>(&'a self, labels: &'a Labels, id: u128) -> Locked<'a> {
        let hash = self.hasher.hash_one(id);
        Locked { table: self, labels, id, hash, shard: self.shard(hash).write() }
    }

    /// First slots of all documents, in ascending order. Documents may come and go while it is taken.
    pub(crate) fn slots(&self) -> Vec<u32> {
        let mut slots: Vec<u32> = Vec::new();
        for shard in &self.shards {
            slots.extend(shard.read().iter());
        }
        slots.sort_unstable();
        slots
    }

    /// Bytes of the table itself: a slot and a control byte per bucket.
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().allocation_size()).sum()
    }
}

/// One document's entry, locked.
pub(crate) struct Locked<'a> {
    table: &'a Table,
    labels: &'a Labels,
    id: u128,
    hash: u64,
    shard: RwLockWriteGuard<'a, HashTable<u32>>,
}

impl Locked<'_> {
    /// Points the document to other slots and returns where it was.
    pub(crate) fn replace(&mut self, first: u32) -> Option<Label> {
        let old = self.remove();
        let (table, labels) = (self.table, self.labels);
        self.shard.insert_unique(self.hash, first, |slot| {
            table.hasher.hash_one(labels.get(*slot).expect("labelled before it was entered").id)
        });
        old
    }

    /// Removes the document and returns where it was.
    pub(crate) fn remove(&mut self) -> Option<Label> {
        let (labels, id) = (self.labels, self.id);
        let is_it = |slot: &u32| labels.get(*slot).is_some_and(|label| label.id == id);
        let entry = self.shard.find_entry(self.hash, is_it).ok()?;
        let (slot, _) = entry.remove();
        labels.get(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_what_they_are_given() {
        let labels = Labels::new();
        let times = Times { created_ms: 0x1234_5678_9abc, expires_ms: Times::MAX_MS };
        let label = Label { id: u128::MAX - 77, first: 70_000, count: 65_535, times };
        assert_eq!(labels.get(70_000), None);
        for slot in [70_000, 70_001, 135_534] {
            labels.write(slot, label);
            assert_eq!(labels.get(slot), Some(label));
        }
        let beyond = Times { created_ms: u64::MAX, expires_ms: 0 };
        labels.write(3, Label { times: beyond, first: 3, count: 1, id: 5 });
        assert_eq!(labels.get(3).unwrap().times, Times { created_ms: Times::MAX_MS, expires_ms: 0 });
    }
}
