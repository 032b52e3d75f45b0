//! Reading a database: values, ranges, and views of one moment.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{DB, DBRawIteratorWithThreadMode, ReadOptions, SnapshotWithThreadMode};

use super::Database;
use super::error::engine_error;
use crate::engine::{EngineError, KeyBounds, Read, Visitor};

/// A snapshot that keeps its database open.
pub(super) struct RocksView {
    // Declared, and so dropped, before the database it belongs to.
    snapshot: SnapshotWithThreadMode<'static, DB>,
    db: Arc<Database>,
    /// Whether what scans read is kept in the cache of blocks.
    fills_cache: bool,
}

impl RocksView {
    pub fn new(db: Arc<Database>, fills_cache: bool) -> Self {
        let snapshot = db.snapshot();
        // SAFETY: the snapshot borrows the `DB` inside the `Arc`, whose address does not change, and which the field
        // `db` keeps alive. `snapshot` is dropped first (fields drop in order of declaration), is never moved out, and
        // the lengthened lifetime does not leave this struct: the field is private and read only through `&self`.
        let snapshot = unsafe {
            std::mem::transmute::<SnapshotWithThreadMode<'_, DB>, SnapshotWithThreadMode<'static, DB>>(snapshot)
        };
        Self { snapshot, db, fills_cache }
    }

    fn options(&self) -> ReadOptions {
        let mut options = read_options();
        options.set_snapshot(&self.snapshot);
        options
    }
}

impl Read for RocksView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        get(&self.db, key, &self.options())
    }

    fn multi_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, EngineError> {
        multi_get(&self.db, keys, &self.options())
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError> {
        let mut options = self.options();
        options.fill_cache(self.fills_cache);
        scan(&self.db, options, KeyBounds { from, to }, reverse, visit)
    }
}

/// Every block that is read is checked.
pub(super) fn read_options() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    options
}

pub(super) fn get(db: &DB, key: &[u8], options: &ReadOptions) -> Result<Option<Bytes>, EngineError> {
    let found = db.get_pinned_opt(key, options).map_err(engine_error)?;
    Ok(found.map(|value| Bytes::copy_from_slice(&value)))
}

pub(super) fn multi_get(db: &DB, keys: &[Vec<u8>], options: &ReadOptions) -> Result<Vec<Option<Bytes>>, EngineError> {
    let found = db.multi_get_opt(keys, options);
    found.into_iter().map(|value| Ok(value.map_err(engine_error)?.map(Bytes::from))).collect()
}

pub(super) fn scan(
    db: &DB,
    mut options: ReadOptions,
    keys: KeyBounds<'_>,
    reverse: bool,
    visit: &mut Visitor<'_>,
) -> Result<(), EngineError> {
    let low = match keys.from {
        Bound::Included(key) => key.to_vec(),
        Bound::Excluded(key) => after(key),
        Bound::Unbounded => Vec::new(),
    };
    let high = match keys.to {
        Bound::Included(key) => Some(after(key)),
        Bound::Excluded(key) => Some(key.to_vec()),
        Bound::Unbounded => None,
    };
    if high.as_ref().is_some_and(|high| *high <= low) {
        return Ok(());
    }
    options.set_iterate_lower_bound(low);
    if let Some(high) = high {
        options.set_iterate_upper_bound(high);
    }
    let mut pairs: DBRawIteratorWithThreadMode<'_, DB> = db.raw_iterator_opt(options);
    if reverse {
        pairs.seek_to_last()
    } else {
        pairs.seek_to_first()
    }
    while let Some((key, value)) = pairs.item() {
        if visit(key, value) == ControlFlow::Break(()) {
            return Ok(());
        }
        if reverse { pairs.prev() } else { pairs.next() }
    }
    // The end of the range and an unreadable block both end the loop.
    pairs.status().map_err(engine_error)
}

/// The smallest key greater than `key`.
fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}
