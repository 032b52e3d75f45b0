//! The rows that all indexes of a process used last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lru::LruCache;
use parking_lot::Mutex;

/// Parts of a cache that are locked by themselves.
const CACHE_SHARDS: usize = 32;
/// What a cached row takes beside its components: the list's node, a place in the hash table, two allocations.
const CACHE_OVERHEAD: usize = 120;

/// The rows used last of all indexes that share it, within a budget of bytes.
pub struct RowCache {
    shards: Box<[Mutex<CacheShard>]>,
    /// Bytes that each shard may hold.
    share: usize,
    owners: AtomicU32,
}

struct CacheShard {
    rows: LruCache<u64, Box<[f32]>>,
    bytes: usize,
}

impl RowCache {
    /// A cache of at most this many bytes; 0 keeps nothing.
    pub fn new(budget: usize) -> Arc<Self> {
        let shard = || Mutex::new(CacheShard { rows: LruCache::unbounded(), bytes: 0 });
        Arc::new(RowCache {
            shards: (0..CACHE_SHARDS).map(|_| shard()).collect(),
            share: budget / CACHE_SHARDS,
            owners: AtomicU32::new(0),
        })
    }

    /// Bytes it holds.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().bytes).sum()
    }

    /// Rows it holds.
    pub fn rows(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().rows.len()).sum()
    }

    /// A number that tells a segment's slots from those of others.
    pub(crate) fn next_owner(&self) -> u32 {
        self.owners.fetch_add(1, Ordering::Relaxed)
    }

    fn shard(&self, slot: u32) -> &Mutex<CacheShard> {
        &self.shards[slot as usize % CACHE_SHARDS]
    }

    /// Reads a row that it holds.
    pub(crate) fn with<T>(&self, owner: u32, slot: u32, read: impl FnOnce(&[f32]) -> T) -> Option<T> {
        self.shard(slot).lock().rows.get(&cache_key(owner, slot)).map(|row| read(row))
    }

    /// Keeps a row, if the budget allows one of its size, and drops those used longest ago.
    pub(crate) fn put(&self, owner: u32, slot: u32, row: &[f32]) {
        if cost(row) > self.share {
            return;
        }
        let row: Box<[f32]> = row.into();
        let mut shard = self.shard(slot).lock();
        shard.bytes += cost(&row);
        let displaced = shard.rows.push(cache_key(owner, slot), row);
        shard.bytes -= displaced.map_or(0, |(_, row)| cost(&row));
        while shard.bytes > self.share {
            let Some((_, row)) = shard.rows.pop_lru() else { break };
            shard.bytes -= cost(&row);
        }
    }

    /// Drops all rows of an owner.
    pub(crate) fn forget(&self, owner: u32) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let of_owner = |(key, _): (&u64, _)| (*key >> 32 == u64::from(owner)).then_some(*key);
            let keys: Vec<u64> = shard.rows.iter().filter_map(of_owner).collect();
            for key in keys {
                let row = shard.rows.pop(&key);
                shard.bytes -= row.map_or(0, |row| cost(&row));
            }
        }
    }
}

/// What a row takes in a cache.
fn cost(row: &[f32]) -> usize {
    CACHE_OVERHEAD + size_of_val(row)
}

fn cache_key(owner: u32, slot: u32) -> u64 {
    u64::from(owner) << 32 | u64::from(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_keeps_its_budget_and_forgets_owners() {
        let budget = CACHE_SHARDS * 10 * (CACHE_OVERHEAD + 16);
        let cache = RowCache::new(budget);
        let (first, second) = (cache.next_owner(), cache.next_owner());
        for slot in 0..1_000 {
            cache.put(first, slot, &[slot as f32, 0.0, 0.0, 1.0]);
            assert!(cache.bytes() <= budget);
        }
        assert_eq!(cache.rows(), CACHE_SHARDS * 10);
        assert_eq!(cache.with(first, 0, |_| ()), None, "the oldest went");
        assert_eq!(cache.with(first, 999, |row| row[0]), Some(999.0));
        cache.put(second, 999, &[5.0, 0.0, 0.0, 0.0]);
        cache.forget(first);
        assert_eq!((cache.rows(), cache.bytes()), (1, CACHE_OVERHEAD + 16));
        assert_eq!(cache.with(second, 999, |row| row[0]), Some(5.0));
        let none = RowCache::new(0);
        none.put(0, 0, &[1.0]);
        assert_eq!(none.rows(), 0);
    }
}
