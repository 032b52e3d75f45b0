//! The index of one space of a collection in a shard: what is indexed of it, and what is not yet.

use std::{
    ops::RangeInclusive,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use mira_index::{Attributes, Config, Document, RowStorage, VectorIndex};
use mira_proto::{
    CollectionId,
    vectors::{LAST_SPACE, OWN_SPACE, SpaceNumber},
};
use parking_lot::Mutex;

use super::{ShardIndex, effort::Effort, rows::StateRows, tail::Tail};
use crate::meta::Space;

/// Which index of a shard: that of a space of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpaceId {
    /// The collection.
    pub collection: CollectionId,
    /// Its space.
    pub number: SpaceNumber,
}

impl SpaceId {
    /// Every space that a collection may have, in order.
    pub fn each_of(collection: CollectionId) -> impl Iterator<Item = SpaceId> {
        (OWN_SPACE..=LAST_SPACE).map(move |number| SpaceId { collection, number })
    }

    pub(super) fn range_of(collection: CollectionId) -> RangeInclusive<SpaceId> {
        SpaceId { collection, number: OWN_SPACE }..=SpaceId { collection, number: LAST_SPACE }
    }
}

impl From<&Space<'_>> for SpaceId {
    fn from(space: &Space<'_>) -> Self {
        SpaceId { collection: space.collection.id, number: space.number }
    }
}

/// One space's part of a shard's index.
pub(super) struct SpaceIndex {
    /// Made when the settings of the space are known.
    pub(super) vectors: OnceLock<VectorIndex>,
    /// Whether any frame ever had an expiry.
    pub(super) expiring: AtomicBool,
    /// How long searches go on that name no beam.
    pub(super) effort: Effort,
    /// Changes that `vectors` does not have yet.
    pub(super) tail: Mutex<Tail>,
    /// Changes that `vectors` took since the last image.
    pub(super) unsaved: AtomicU64,
    /// When this was made, or its last image written.
    pub(super) saved_at: Mutex<Instant>,
}

impl Default for SpaceIndex {
    fn default() -> Self {
        SpaceIndex {
            vectors: OnceLock::new(),
            expiring: AtomicBool::new(false),
            effort: Effort::default(),
            tail: Mutex::default(),
            unsaved: AtomicU64::new(0),
            saved_at: Mutex::new(Instant::now()),
        }
    }
}

/// What an index takes in of a frame.
pub(super) struct IndexEntry<'a> {
    pub(super) document: Document,
    pub(super) attributes: &'a Attributes,
    /// Its vectors in the space, one after the other.
    pub(super) vectors: &'a [f32],
}

impl ShardIndex {
    /// Puts a frame into the index of a space; false (counted, logged) if that cannot be.
    pub(super) fn insert(&self, index: &SpaceIndex, space: &Space<'_>, entry: &IndexEntry<'_>) -> bool {
        let &IndexEntry { document, attributes, vectors } = entry;
        if document.times.expires_ms != 0 {
            index.expiring.store(true, Ordering::Relaxed);
        }
        let inserted = match index.vectors.get() {
            Some(into) => into.upsert_with(document, attributes, vectors),
            None => VectorIndex::with_storage(config(space), &self.storage(space))
                .and_then(|made| index.vectors.get_or_init(|| made).upsert_with(document, attributes, vectors)),
        };
        index.unsaved.fetch_add(1, Ordering::Relaxed);
        inserted.map_err(|error| self.opener.report(document.id, &error.to_string())).is_ok()
    }

    /// Where the rows of a space are: in the state.
    pub(super) fn storage(&self, space: &Space<'_>) -> RowStorage {
        let state = self.state.lock().clone().expect("an index is made from a state");
        let (cluster, opener) = (self.parts.cluster.clone(), self.opener.clone());
        let rows = StateRows { state, cluster, space: space.into(), dim: space.dim, opener };
        RowStorage::Source(Arc::new(rows), self.parts.cache.clone())
    }
}

/// The settings of a space's index.
pub(super) fn config(space: &Space<'_>) -> Config {
    Config { quantization: space.quantization, ..Config::new(space.dim, space.metric) }
}
