//! Copies of owners' sealed vectors, kept for the next search.
//!
//! They are kept *as the owner sealed them*: the cache holds nothing that anyone but the owner can open. The least
//! recently used ones are dropped first.

use std::sync::Arc;

use bytes::Bytes;
use lru::LruCache;
use mira_proto::{CollectionId, FrameId, ShardId, limits};
use parking_lot::Mutex;

/// The vectors of a private frame, sealed, and what is known of it beside.
#[derive(Clone)]
pub(super) struct SealedVectors {
    pub(super) id: FrameId,
    pub(super) created_ms: u64,
    pub(super) expires_ms: u64,
    pub(super) vectors: Bytes,
}

impl SealedVectors {
    /// Bytes that it takes in memory.
    pub(super) fn size(&self) -> usize {
        size_of::<SealedVectors>() + self.vectors.len()
    }
}

/// An owner's frames of one shard, by id.
pub(super) struct VectorCopy {
    /// Log index of the shard as of which it is whole.
    pub(super) known: u64,
    pub(super) frames: Vec<SealedVectors>,
    pub(super) bytes: usize,
}

/// Whose copy of which shard it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct CopyKey {
    pub(super) collection: CollectionId,
    pub(super) shard: ShardId,
    /// The owner's name in the collection.
    pub(super) owner: Bytes,
}

/// The copies, bounded by [`limits::PRIVATE_CACHE_BYTES`].
pub(crate) struct PrivateVectorCache(Mutex<Copies>);

struct Copies {
    by_key: LruCache<CopyKey, Arc<VectorCopy>>,
    bytes: usize,
}

impl Default for PrivateVectorCache {
    fn default() -> Self {
        PrivateVectorCache(Mutex::new(Copies { by_key: LruCache::unbounded(), bytes: 0 }))
    }
}

impl PrivateVectorCache {
    pub(super) fn get(&self, key: &CopyKey) -> Option<Arc<VectorCopy>> {
        self.0.lock().by_key.get(key).cloned()
    }

    pub(super) fn put(&self, key: CopyKey, copy: Arc<VectorCopy>) {
        let mut copies = self.0.lock();
        copies.bytes += copy.bytes;
        if let Some(old) = copies.by_key.put(key, copy) {
            copies.bytes -= old.bytes;
        }
        while copies.bytes > limits::PRIVATE_CACHE_BYTES {
            let Some((_, dropped)) = copies.by_key.pop_lru() else { break };
            copies.bytes -= dropped.bytes;
        }
    }

    pub(super) fn remove(&self, key: &CopyKey) {
        let mut copies = self.0.lock();
        if let Some(old) = copies.by_key.pop(key) {
            copies.bytes -= old.bytes;
        }
    }
}
