//! Which slots a document has: frame id → first slot, in shards, at seven bytes or so per document.
//!
//! The table stores slots only; the id of an entry is read from the slot's label. Labels are written once, so an entry
//! can be compared with an id as long as it is in the table.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use parking_lot::{RwLock, RwLockWriteGuard};

use crate::vector::labels::{Label, Labels};

/// Shards, so that growing one stalls a sixteenth of the documents.
const SHARDS: usize = 16;

/// The first slot of every document.
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
