//! Full-precision rows, kept apart from codes and graph: only the best candidates of a search read them.
//!
//! A store may be slow and may fail (on disk, sealed, cached within a budget), so rows are asked for in batches and every
//! call returns a result. [`HalfRows`] keeps them in memory in half precision, which leaves recall unchanged to three
//! digits (the ADR has the figures).

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::arena::Records;
use crate::config::Metric;
use crate::error::RowsError;
use crate::kernels::{self, Isa};

/// One row as a store holds it.
#[derive(Debug, Clone, Copy)]
pub enum Row<'a> {
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

/// Rows by slot. A slot is pushed once and never changes.
pub trait Rows: Send + Sync {
    /// Stores the row of a slot.
    fn push(&self, slot: u32, row: Row<'_>) -> Result<(), RowsError>;

    /// Calls `visit(position, row)` once for each slot of the batch, in any order.
    fn fetch(&self, slots: &[u32], visit: &mut dyn FnMut(usize, Row<'_>)) -> Result<(), RowsError>;

    /// An empty store of the same kind and dimension, for a rebuilt index.
    fn empty_like(&self) -> Result<Box<dyn Rows>, RowsError>;

    /// Bytes of memory that `slots` rows take.
    fn bytes(&self, slots: u32) -> usize;
}

/// Half-precision rows in memory.
pub struct HalfRows {
    dim: usize,
    records: Records,
}

impl HalfRows {
    /// An empty store for rows of this dimension.
    pub fn new(dim: usize) -> Self {
        HalfRows { dim, records: Records::new(1 + dim.div_ceil(2)) }
    }

    fn row(&self, slot: u32) -> Option<Row<'_>> {
        let payload = self.records.payload(slot)?;
        let bits = &bytemuck::cast_slice(&payload[1..])[..self.dim];
        Some(Row::Half { bits, scale: f32::from_bits(payload[0]) })
    }
}

/// The smallest power of two that is not below any component (1 for the zero vector).
fn scale_of(vector: &[f32]) -> f32 {
    let largest = vector.iter().fold(0.0f32, |max, value| max.max(value.abs()));
    if largest == 0.0 { 1.0 } else { f64::from(largest).log2().ceil().exp2() as f32 }
}

impl Rows for HalfRows {
    fn push(&self, slot: u32, row: Row<'_>) -> Result<(), RowsError> {
        let mut payload = vec![0u32; 1 + self.dim.div_ceil(2)];
        let halves: &mut [u16] = bytemuck::cast_slice_mut(&mut payload[1..]);
        let scale = match row {
            Row::Half { bits, scale } => {
                halves[..self.dim].copy_from_slice(bits);
                scale
            }
            Row::Full(vector) => {
                let scale = scale_of(vector);
                let (mut before, mut after) = (0.0f64, 0.0f64);
                for (half, value) in halves.iter_mut().zip(vector) {
                    let scaled = f64::from(*value) / f64::from(scale);
                    let rounded = f16::from_f64(scaled);
                    *half = rounded.to_bits();
                    (before, after) = (before + scaled * scaled, after + rounded.to_f64().powi(2));
                }
                // Rounding keeps the length, so that under cosine a vector's score with itself is 1.
                if after > 0.0 { (f64::from(scale) * (before / after).sqrt()) as f32 } else { scale }
            }
        };
        payload[0] = scale.to_bits();
        self.records.write(slot, &payload);
        Ok(())
    }

    fn fetch(&self, slots: &[u32], visit: &mut dyn FnMut(usize, Row<'_>)) -> Result<(), RowsError> {
        for (position, slot) in slots.iter().enumerate() {
            if let Some(next) = slots.get(position + 2).and_then(|next| self.records.location(*next)) {
                kernels::prefetch(next);
            }
            visit(position, self.row(*slot).ok_or(RowsError::Missing(*slot))?);
        }
        Ok(())
    }

    fn empty_like(&self) -> Result<Box<dyn Rows>, RowsError> {
        Ok(Box::new(HalfRows::new(self.dim)))
    }

    fn bytes(&self, slots: u32) -> usize {
        self.records.bytes(slots)
    }
}

impl Row<'_> {
    /// The row in f32.
    pub fn to_vec(&self) -> Vec<f32> {
        match self {
            Row::Full(values) => values.to_vec(),
            Row::Half { bits, scale } => {
                let halves: &[f16] = half::slice::HalfBitsSliceExt::reinterpret_cast(*bits);
                let mut values = vec![0.0; halves.len()];
                halves.convert_to_f32_slice(&mut values);
                values.iter_mut().for_each(|value| *value *= scale);
                values
            }
        }
    }
}

/// The metric's score of a row for a query that [`prepare`](crate::config::prepare) has prepared.
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

    #[test]
    fn half_rows_keep_eleven_bits_at_any_magnitude() {
        let rows = HalfRows::new(5);
        for (slot, magnitude) in [1e-38f32, 1e-20, 1e-3, 1.0, 1e6, 1e15].into_iter().enumerate() {
            let vector: Vec<f32> = [0.9f32, -0.31, 0.77, -1.0, 0.5].iter().map(|v| v * magnitude).collect();
            rows.push(slot as u32, Row::Full(&vector)).unwrap();
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
