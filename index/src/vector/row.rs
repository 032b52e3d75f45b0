//! One vector in the precision in which a store holds it, scored against a query.

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use mira_proto::model::Metric;

use crate::vector::kernels::{self, Isa};

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
    pub(crate) fn len(&self) -> usize {
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

/// A [`Row`] that owns its components.
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

/// A row in half precision that owns its components.
#[derive(Clone)]
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

    pub(crate) fn as_row(&self) -> Row<'_> {
        Row::Half { bits: &self.bits, scale: self.scale }
    }

    /// Bytes of its components.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.bits)
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

/// The metric's score of a row for a query that [`prepare`](crate::vector::input::prepare) has prepared.
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
