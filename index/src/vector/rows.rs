//! Full-precision rows, kept apart from codes: only the best candidates of a search read them.
//!
//! A collection of a million vectors has ten million hits to score in a minute, but 1.5 GB of rows, so rows need not be in
//! memory. [`RowStorage`] says where they are: in memory, or with the caller, who has the vectors on disk anyway. Then a
//! [`RowCache`], shared by all indexes of a process, keeps those used last, within a budget of bytes. A row is what the
//! caller gave, normalised under cosine; nothing is rounded, so scores do not depend on where a row came from.
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
    /// In memory.
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
    Memory(Box<MemoryRows>),
    /// Elsewhere.
    Source(SourceRows),
}

impl Rows {
    /// No rows yet; `storage` is ignored without quantisation.
    pub(crate) fn new(config: &Config, storage: &RowStorage) -> Self {
        match (config.quantization, storage) {
            (Quantization::None, _) => Rows::Codes,
            (Quantization::Int8 | Quantization::Binary, RowStorage::Memory) => {
                Rows::Memory(Box::new(MemoryRows::new(config.dim)))
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
    pub(crate) fn push(&self, slot: u32, row: &[f32]) {
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
                if let Some(row) = rows.cache.with(old.owner, from, |row| Box::<[f32]>::from(row)) {
                    rows.cache.put(rows.owner, slot, &row);
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

/// Rows in memory.
pub(crate) struct MemoryRows {
    dim: usize,
    records: Records,
}

impl MemoryRows {
    fn new(dim: usize) -> Self {
        MemoryRows { dim, records: Records::new(dim) }
    }

    fn push(&self, slot: u32, row: &[f32]) {
        self.records.write(slot, bytemuck::cast_slice(row));
    }

    pub(crate) fn row(&self, slot: u32) -> Option<&[f32]> {
        Some(&bytemuck::cast_slice(self.records.payload(slot)?)[..self.dim])
    }

    /// Calls `visit(position, row)` for each slot.
    pub(crate) fn fetch(&self, slots: &[u32], visit: &mut dyn FnMut(usize, &[f32])) -> Result<(), RowsError> {
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
        visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), RowsError> {
        let mut missing: Vec<usize> = Vec::new();
        for (position, slot) in slots.iter().enumerate() {
            if self.cache.with(self.owner, *slot, |row| visit(position, row)).is_none() {
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
        let mut prepared = Vec::new();
        self.source.read(&wanted, &mut |at, vector| {
            let position = missing[at];
            input::prepare(self.metric, vector, &mut prepared);
            visit(position, &prepared);
            if keep {
                self.cache.put(self.owner, slots[position], &prepared);
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
    fn rows_are_what_they_were_at_any_magnitude() {
        let rows = MemoryRows::new(5);
        for (slot, magnitude) in [1e-38f32, 1e-20, 1e-3, 1.0, 1e6, 1e15].into_iter().enumerate() {
            let vector: Vec<f32> = [0.9f32, -0.31, 0.77, -1.0, 0.5].iter().map(|v| v * magnitude).collect();
            rows.push(slot as u32, &vector);
            let mut seen = Vec::new();
            rows.fetch(&[slot as u32], &mut |_, row| seen = row.to_vec()).unwrap();
            assert_eq!(seen, vector);
        }
    }

    #[test]
    fn a_missing_row_is_an_error() {
        let result = MemoryRows::new(5).fetch(&[3], &mut |_, _| panic!("there is no row"));
        assert!(matches!(result, Err(RowsError::Missing(3))));
    }
}
