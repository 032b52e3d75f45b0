//! Full-precision rows, kept apart from codes and graph: only the best candidates of a search read them.
//!
//! A collection of a million vectors has ten million hits to score in a minute, but 784 MB of rows, so rows need not be in
//! memory. [`RowStorage`] says where they are: in memory in half precision, which leaves recall unchanged to three digits
//! (`docs/adr/0002` has the figures), or with the caller, who has the vectors on disk anyway. Then a [`RowCache`], shared
//! by all indexes of a process, keeps those used last, within a budget of bytes. Scores do not depend on where a row
//! came from: each is rounded to half precision first.
//!
//! A source may be *newer* than the index: it may hold the vectors of a document's next version, or none any more. The
//! caller sees to it that such documents are found elsewhere (the tail of changes), so a hit whose row is gone is
//! dropped, and one whose row is newer is scored by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use lru::LruCache;
use parking_lot::Mutex;

use crate::error::RowsError;
use crate::vector::arena::Records;
use crate::vector::config::{self, Metric};
use crate::vector::kernels::{self, Isa};
use crate::vector::table::Labels;

/// Parts of a cache that are locked by themselves.
const CACHE_SHARDS: usize = 32;
/// What a cached row takes beside its components: the list's node, a place in the hash table, two allocations.
const CACHE_OVERHEAD: usize = 120;

/// One row as a store holds it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Row<'a> {
    /// Single precision.
    Full(&'a [f32]),
    /// `scale` times half floats given as bits. The scale is near the largest component, so that neither large nor small
    /// vectors leave the range of half floats.
    Half {
        /// IEEE half floats.
        bits: &'a [u16],
        /// What each is multiplied with.
        scale: f32,
    },
}

impl Row<'_> {
    /// How many components it has.
    fn len(&self) -> usize {
        match self {
            Row::Full(values) => values.len(),
            Row::Half { bits, .. } => bits.len(),
        }
    }

    /// Its components in single precision.
    pub(crate) fn to_vec(self) -> Vec<f32> {
        match self {
            Row::Full(values) => values.to_vec(),
            Row::Half { bits, scale } => bits.iter().map(|bits| f16::from_bits(*bits).to_f32() * scale).collect(),
        }
    }
}

/// A [`Row`] of its own.
pub(crate) enum OwnedRow {
    Full(Box<[f32]>),
    Half(HalfRow),
}

impl OwnedRow {
    pub(crate) fn as_row(&self) -> Row<'_> {
        match self {
            OwnedRow::Full(values) => Row::Full(values),
            OwnedRow::Half(half) => half.as_row(),
        }
    }
}

/// A row in half precision, of its own.
pub(crate) struct HalfRow {
    scale: f32,
    bits: Box<[u16]>,
}

impl HalfRow {
    pub(crate) fn new(row: Row<'_>) -> Self {
        let mut bits = vec![0; row.len()].into_boxed_slice();
        let scale = halve(row, &mut bits);
        HalfRow { scale, bits }
    }

    fn as_row(&self) -> Row<'_> {
        Row::Half { bits: &self.bits, scale: self.scale }
    }

    /// What it takes in a cache.
    fn bytes(&self) -> usize {
        CACHE_OVERHEAD + size_of_val(&*self.bits)
    }
}

/// One vector of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passage {
    /// The document.
    pub id: u128,
    /// Which of its vectors, counted from 0.
    pub passage: u32,
}

/// Gives vectors back that an index was given: whoever keeps the documents on disk.
pub trait RowSource: Send + Sync {
    /// Calls `visit(position, vector)` for each of the passages that still exists, in any order, with the vector as it was
    /// given to the index.
    fn read(&self, wanted: &[Passage], visit: &mut dyn FnMut(usize, &[f32])) -> Result<(), RowsError>;
}

/// Where an index has its full-precision rows.
#[derive(Clone, Default)]
pub enum RowStorage {
    /// In memory, in half precision.
    #[default]
    Memory,
    /// With the caller; those used last in the cache too.
    Source(Arc<dyn RowSource>, Arc<RowCache>),
}

/// The rows of one segment.
pub(crate) enum Rows {
    /// The codes are the rows.
    Codes,
    /// In memory.
    Memory(Box<HalfRows>),
    /// Elsewhere.
    Source(SourceRows),
}

impl Rows {
    pub(crate) fn new(dim: usize, storage: &RowStorage) -> Self {
        match storage {
            RowStorage::Memory => Rows::Memory(Box::new(HalfRows::new(dim))),
            RowStorage::Source(source, cache) => {
                Rows::Source(SourceRows { source: source.clone(), owner: cache.next_owner(), cache: cache.clone() })
            }
        }
    }

    /// Takes note of the row of a new slot.
    pub(crate) fn push(&self, slot: u32, row: Row<'_>) {
        match self {
            Rows::Codes => {}
            Rows::Memory(rows) => rows.push(slot, row),
            Rows::Source(rows) => rows.cache.put(rows.owner, slot, row),
        }
    }

    /// Takes note of the row of a new slot that equals one of another segment.
    pub(crate) fn adopt(&self, slot: u32, old: &Rows, from: u32) -> Result<(), RowsError> {
        match (self, old) {
            (Rows::Memory(rows), Rows::Memory(old)) => rows.push(slot, old.row(from).ok_or(RowsError::Missing(from))?),
            (Rows::Source(rows), Rows::Source(old)) => {
                let copy = rows.cache.with(old.owner, from, |row| (row.bits.to_vec(), row.scale));
                if let Some((bits, scale)) = copy {
                    rows.cache.put(rows.owner, slot, Row::Half { bits: &bits, scale });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Where a new segment of the same index has its rows.
    pub(crate) fn storage(&self) -> RowStorage {
        match self {
            Rows::Codes | Rows::Memory(_) => RowStorage::Memory,
            Rows::Source(rows) => RowStorage::Source(rows.source.clone(), rows.cache.clone()),
        }
    }

    /// Bytes of memory that the rows of `slots` slots take for certain; what the cache holds is counted by the cache.
    pub(crate) fn bytes(&self, slots: u32) -> usize {
        match self {
            Rows::Codes | Rows::Source(_) => 0,
            Rows::Memory(rows) => rows.records.bytes(slots),
        }
    }
}

/// Half-precision rows in memory.
pub(crate) struct HalfRows {
    dim: usize,
    records: Records,
}

impl HalfRows {
    fn new(dim: usize) -> Self {
        HalfRows { dim, records: Records::new(1 + dim.div_ceil(2)) }
    }

    fn push(&self, slot: u32, row: Row<'_>) {
        let mut payload = vec![0u32; 1 + self.dim.div_ceil(2)];
        let halves: &mut [u16] = bytemuck::cast_slice_mut(&mut payload[1..]);
        let scale = halve(row, &mut halves[..self.dim]);
        payload[0] = scale.to_bits();
        self.records.write(slot, &payload);
    }

    pub(crate) fn row(&self, slot: u32) -> Option<Row<'_>> {
        let payload = self.records.payload(slot)?;
        let bits = &bytemuck::cast_slice(&payload[1..])[..self.dim];
        Some(Row::Half { bits, scale: f32::from_bits(payload[0]) })
    }

    /// Calls `visit(position, row)` for each slot.
    pub(crate) fn fetch(&self, slots: &[u32], visit: &mut dyn FnMut(usize, Row<'_>)) -> Result<(), RowsError> {
        for (position, slot) in slots.iter().enumerate() {
            if let Some(next) = slots.get(position + 2).and_then(|next| self.records.location(*next)) {
                kernels::prefetch(next);
            }
            visit(position, self.row(*slot).ok_or(RowsError::Missing(*slot))?);
        }
        Ok(())
    }
}

/// Writes a row in half precision and returns its scale.
pub(crate) fn halve(row: Row<'_>, halves: &mut [u16]) -> f32 {
    let vector = match row {
        Row::Half { bits, scale } => {
            halves.copy_from_slice(bits);
            return scale;
        }
        Row::Full(vector) => vector,
    };
    let isa = Isa::detected();
    let scale = scale_of(vector);
    let inverse = 1.0 / f64::from(scale);
    let scaled: Vec<f32> = vector.iter().map(|value| (f64::from(*value) * inverse) as f32).collect();
    halves.reinterpret_cast_mut::<f16>().convert_from_f32_slice(&scaled);
    let mut rounded = vec![0.0; scaled.len()];
    halves.reinterpret_cast::<f16>().convert_to_f32_slice(&mut rounded);
    let (before, after) = (kernels::dot_f32(isa, &scaled, &scaled), kernels::dot_f32(isa, &rounded, &rounded));
    // Rounding keeps the length, so that under cosine a vector's score with itself is 1.
    if after > 0.0 { (f64::from(scale) * f64::from(before / after).sqrt()) as f32 } else { scale }
}

/// The smallest power of two that is not below any component (1 for the zero vector).
fn scale_of(vector: &[f32]) -> f32 {
    let largest = vector.iter().fold(0.0f32, |max, value| max.max(value.abs()));
    if largest == 0.0 { 1.0 } else { f64::from(largest).log2().ceil().exp2() as f32 }
}

/// Rows of one segment that lie elsewhere.
pub(crate) struct SourceRows {
    source: Arc<dyn RowSource>,
    cache: Arc<RowCache>,
    /// Tells this segment's slots from those of others in the cache.
    owner: u32,
}

impl SourceRows {
    /// Calls `visit(position, row)` for each slot whose row is still there. `keep` says whether rows read are worth a place
    /// in the cache: those of a scan are not.
    pub(crate) fn fetch(
        &self,
        (metric, labels): (Metric, &Labels),
        slots: &[u32],
        keep: bool,
        visit: &mut dyn FnMut(usize, Row<'_>),
    ) -> Result<(), RowsError> {
        let mut missing: Vec<usize> = Vec::new();
        for (position, slot) in slots.iter().enumerate() {
            if self.cache.with(self.owner, *slot, |row| visit(position, row.as_row())).is_none() {
                missing.push(position);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let passage = |position: &usize| {
            let label = labels.get(slots[*position]).ok_or(RowsError::Missing(slots[*position]))?;
            Ok(Passage { id: label.id, passage: slots[*position] - label.first })
        };
        let wanted = missing.iter().map(passage).collect::<Result<Vec<_>, RowsError>>()?;
        let (mut prepared, mut bits) = (Vec::new(), Vec::new());
        self.source.read(&wanted, &mut |at, vector| {
            let position = missing[at];
            config::prepare(metric, vector, &mut prepared);
            bits.resize(prepared.len(), 0);
            let scale = halve(Row::Full(&prepared), &mut bits);
            let row = Row::Half { bits: &bits, scale };
            visit(position, row);
            if keep {
                self.cache.put(self.owner, slots[position], row);
            }
        })
    }
}

impl Drop for SourceRows {
    /// Rows are in clear: they go with the index (or its old segment), not when their place is wanted.
    fn drop(&mut self) {
        self.cache.forget(self.owner);
    }
}

/// The rows used last of all indexes that share it, within a budget of bytes.
pub struct RowCache {
    shards: Box<[Mutex<CacheShard>]>,
    /// Bytes that each shard may hold.
    share: usize,
    owners: AtomicU32,
}

struct CacheShard {
    rows: LruCache<u64, HalfRow>,
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

    fn next_owner(&self) -> u32 {
        self.owners.fetch_add(1, Ordering::Relaxed)
    }

    fn shard(&self, slot: u32) -> &Mutex<CacheShard> {
        &self.shards[slot as usize % CACHE_SHARDS]
    }

    fn with<T>(&self, owner: u32, slot: u32, read: impl FnOnce(&HalfRow) -> T) -> Option<T> {
        self.shard(slot).lock().rows.get(&cache_key(owner, slot)).map(read)
    }

    fn put(&self, owner: u32, slot: u32, row: Row<'_>) {
        if CACHE_OVERHEAD + 2 * row.len() > self.share {
            return;
        }
        let row = HalfRow::new(row);
        let mut shard = self.shard(slot).lock();
        shard.bytes += row.bytes();
        let displaced = shard.rows.push(cache_key(owner, slot), row);
        shard.bytes -= displaced.map_or(0, |(_, row)| row.bytes());
        while shard.bytes > self.share {
            let Some((_, row)) = shard.rows.pop_lru() else { break };
            shard.bytes -= row.bytes();
        }
    }

    fn forget(&self, owner: u32) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let of_owner = |(key, _): (&u64, _)| (*key >> 32 == u64::from(owner)).then_some(*key);
            let keys: Vec<u64> = shard.rows.iter().filter_map(of_owner).collect();
            for key in keys {
                let row = shard.rows.pop(&key);
                shard.bytes -= row.map_or(0, |row| row.bytes());
            }
        }
    }
}

fn cache_key(owner: u32, slot: u32) -> u64 {
    u64::from(owner) << 32 | u64::from(slot)
}

/// The metric's score of a row for a query that [`prepare`](crate::vector::config::prepare) has prepared.
#[inline]
pub(crate) fn score(isa: Isa, metric: Metric, row: Row<'_>, query: &[f32]) -> f32 {
    let dot = || match row {
        Row::Full(values) => kernels::dot_f32(isa, values, query),
        Row::Half { bits, scale } => kernels::dot_f16(isa, bits, query) * scale,
    };
    match metric {
        Metric::Cosine => dot().clamp(-1.0, 1.0),
        Metric::Dot => dot(),
        Metric::L2 => -match row {
            Row::Full(values) => kernels::l2_f32(isa, values, query),
            Row::Half { bits, scale } => kernels::l2_f16(isa, bits, scale, query),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(row: Row<'_>) -> Vec<f32> {
        match row {
            Row::Full(values) => values.to_vec(),
            Row::Half { bits, scale } => bits.iter().map(|bits| f16::from_bits(*bits).to_f32() * scale).collect(),
        }
    }

    #[test]
    fn half_rows_keep_eleven_bits_at_any_magnitude() {
        let rows = HalfRows::new(5);
        for (slot, magnitude) in [1e-38f32, 1e-20, 1e-3, 1.0, 1e6, 1e15].into_iter().enumerate() {
            let vector: Vec<f32> = [0.9f32, -0.31, 0.77, -1.0, 0.5].iter().map(|v| v * magnitude).collect();
            rows.push(slot as u32, Row::Full(&vector));
            let mut seen = Vec::new();
            rows.fetch(&[slot as u32], &mut |_, row| seen = values(row)).unwrap();
            for (got, expected) in seen.iter().zip(&vector) {
                assert!((got - expected).abs() <= expected.abs() / 2_000.0, "{got} {expected}");
            }
        }
    }

    #[test]
    fn a_missing_row_is_an_error() {
        let result = HalfRows::new(5).fetch(&[3], &mut |_, _| panic!("there is no row"));
        assert!(matches!(result, Err(RowsError::Missing(3))));
    }

    #[test]
    fn a_cache_keeps_its_budget_and_forgets_owners() {
        let budget = CACHE_SHARDS * 10 * (CACHE_OVERHEAD + 8);
        let cache = RowCache::new(budget);
        let (first, second) = (cache.next_owner(), cache.next_owner());
        for slot in 0..1_000 {
            cache.put(first, slot, Row::Full(&[slot as f32, 0.0, 0.0, 1.0]));
            assert!(cache.bytes() <= budget);
        }
        assert_eq!(cache.rows(), CACHE_SHARDS * 10);
        assert_eq!(cache.with(first, 0, |_| ()), None, "the oldest went");
        assert_eq!(cache.with(first, 999, |row| values(row.as_row())[0]), Some(999.0));
        cache.put(second, 999, Row::Full(&[5.0, 0.0, 0.0, 0.0]));
        cache.forget(first);
        assert_eq!((cache.rows(), cache.bytes()), (1, CACHE_OVERHEAD + 8));
        assert_eq!(cache.with(second, 999, |row| values(row.as_row())[0]), Some(5.0));
        let none = RowCache::new(0);
        none.put(0, 0, Row::Full(&[1.0]));
        assert_eq!(none.rows(), 0);
    }
}
