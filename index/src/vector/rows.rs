//! Full-precision rows, kept apart from codes: only the best candidates of a search read them.
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

use mira_proto::model::{Metric, Quantization};

use crate::error::RowsError;
use crate::vector::arena::Records;
use crate::vector::config::Config;
use crate::vector::input;
use crate::vector::kernels;
use crate::vector::labels::Labels;
use crate::vector::row::{HalfRow, Row, halve};
use crate::vector::row_cache::RowCache;

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
    /// No rows yet; `storage` is ignored without quantisation.
    pub(crate) fn new(config: &Config, storage: &RowStorage) -> Self {
        match (config.quantization, storage) {
            (Quantization::None, _) => Rows::Codes,
            (Quantization::Int8 | Quantization::Binary, RowStorage::Memory) => {
                Rows::Memory(Box::new(HalfRows::new(config.dim)))
            }
            (Quantization::Int8 | Quantization::Binary, RowStorage::Source(source, cache)) => {
                Rows::Source(SourceRows {
                    metric: config.metric,
                    source: source.clone(),
                    owner: cache.next_owner(),
                    cache: cache.clone(),
                })
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
    pub(crate) fn copy_from(&self, slot: u32, old: &Rows, from: u32) -> Result<(), RowsError> {
        match (self, old) {
            (Rows::Memory(rows), Rows::Memory(old)) => rows.push(slot, old.row(from).ok_or(RowsError::Missing(from))?),
            (Rows::Source(rows), Rows::Source(old)) => {
                if let Some(row) = rows.cache.with(old.owner, from, HalfRow::clone) {
                    rows.cache.put(rows.owner, slot, row.as_row());
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

/// Rows of one segment that lie elsewhere.
pub(crate) struct SourceRows {
    metric: Metric,
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
        labels: &Labels,
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
            input::prepare(self.metric, vector, &mut prepared);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_rows_keep_eleven_bits_at_any_magnitude() {
        let rows = HalfRows::new(5);
        for (slot, magnitude) in [1e-38f32, 1e-20, 1e-3, 1.0, 1e6, 1e15].into_iter().enumerate() {
            let vector: Vec<f32> = [0.9f32, -0.31, 0.77, -1.0, 0.5].iter().map(|v| v * magnitude).collect();
            rows.push(slot as u32, Row::Full(&vector));
            let mut seen = Vec::new();
            rows.fetch(&[slot as u32], &mut |_, row| seen = row.to_vec()).unwrap();
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
}
