//! What a collection chooses once (metric, dimension, quantisation, graph parameters) and the bounds on every call.

use crate::error::IndexError;

/// Largest dimension. Integer kernels sum 4,096 products of 127 × 127 into an i32 with room to spare.
pub const MAX_DIMENSION: usize = 4_096;
/// Most passages of one document: a frame of 1 MiB cut into overlapping passages stays far below. Labels count them in
/// 16 bits.
pub const MAX_PASSAGES: usize = 65_535;
/// Most hits of one search.
pub const MAX_K: usize = 10_000;
/// Widest beam of one search; wider is slower than scanning exactly.
pub const MAX_EF: usize = 65_536;
/// Largest component under dot and L2: 4,096 squares of it stay within f32.
pub const MAX_COMPONENT: f32 = 1e15;
/// Slots of one index, live and dead. Stamps count two per slot at most, so that a u32 stamp never wraps.
pub(crate) const MAX_SLOTS: u32 = 1 << 30;

/// How two vectors are compared. A score is always higher for the better hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Cosine of the angle, in [-1, 1]. Vectors are normalised when they enter; the zero vector is refused.
    Cosine,
    /// Inner product. Longer vectors win over shorter ones in the same direction.
    Dot,
    /// Negative squared Euclidean distance, in (-∞, 0].
    L2,
}

/// What the graph walks over. Hits are always rescored from full-precision rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quantization {
    /// f32 vectors; no separate rows.
    None,
    /// One byte per component (7 bits used) and one scale per vector; rows beside it in half precision.
    Int8,
    /// One bit per component after a random rotation, and two numbers per vector; rows beside it in half precision. A
    /// sixth of the memory of `Int8` for codes, for a wider beam and more rows read at the same recall.
    Binary,
}

/// The shape of one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Components per vector, 1 to [`MAX_DIMENSION`].
    pub dim: usize,
    /// How vectors are compared.
    pub metric: Metric,
    /// What the graph walks over.
    pub quantization: Quantization,
    /// Links of a new node per layer (4..=64); the bottom layer holds up to twice as many.
    pub m: usize,
    /// Beam width while linking (`m` to 4,096).
    pub ef_construction: usize,
    /// Up to this many vectors every search scans all of them; beyond, a graph is built.
    pub exact_below: usize,
    /// Decides the layers of nodes; the same seed and the same order of inserts give the same graph.
    pub seed: u64,
}

impl Config {
    /// The defaults of `docs/adr/0002-own-hnsw-graph.md` for this dimension and metric.
    pub fn new(dim: usize, metric: Metric) -> Self {
        Config {
            dim,
            metric,
            quantization: Quantization::Int8,
            m: 16,
            ef_construction: 128,
            exact_below: 2_000,
            seed: 0,
        }
    }

    /// Refuses what the index cannot hold.
    pub(crate) fn check(&self) -> Result<(), IndexError> {
        if !(1..=MAX_DIMENSION).contains(&self.dim) {
            return Err(IndexError::InvalidDimension { dim: self.dim });
        }
        if !(4..=64).contains(&self.m) {
            return Err(IndexError::InvalidParameter { name: "m", value: self.m, allowed: "4..=64" });
        }
        if !(self.m..=4_096).contains(&self.ef_construction) {
            let value = self.ef_construction;
            return Err(IndexError::InvalidParameter { name: "ef_construction", value, allowed: "m..=4096" });
        }
        Ok(())
    }
}

/// Checks one vector and says which component is wrong; `passage` only labels the error.
pub(crate) fn check_vector(metric: Metric, passage: usize, vector: &[f32]) -> Result<(), IndexError> {
    for (component, value) in vector.iter().enumerate() {
        if !value.is_finite() {
            return Err(IndexError::NotFinite { passage, component });
        }
        if metric != Metric::Cosine && value.abs() > MAX_COMPONENT {
            return Err(IndexError::TooLarge { passage, component });
        }
    }
    if metric == Metric::Cosine && vector.iter().all(|value| *value == 0.0) {
        return Err(IndexError::ZeroVector { passage });
    }
    Ok(())
}

/// Checks the vectors of a document and returns how many passages they are.
pub(crate) fn check_document(metric: Metric, dim: usize, vectors: &[f32]) -> Result<usize, IndexError> {
    if vectors.is_empty() || vectors.len() / dim > MAX_PASSAGES {
        return Err(IndexError::PassageCount { count: vectors.len() / dim });
    }
    if !vectors.len().is_multiple_of(dim) {
        return Err(IndexError::DimensionMismatch { expected: dim, actual: vectors.len() });
    }
    for (passage, vector) in vectors.chunks_exact(dim).enumerate() {
        check_vector(metric, passage, vector)?;
    }
    Ok(vectors.len() / dim)
}

/// Checks a query vector.
pub(crate) fn check_query(metric: Metric, dim: usize, query: &[f32]) -> Result<(), IndexError> {
    if query.len() != dim {
        return Err(IndexError::DimensionMismatch { expected: dim, actual: query.len() });
    }
    check_vector(metric, 0, query)
}

/// Checks the number of hits asked for.
pub(crate) fn check_k(k: usize) -> Result<(), IndexError> {
    if (1..=MAX_K).contains(&k) { Ok(()) } else { Err(IndexError::InvalidK { k }) }
}

/// The vector as the metric wants it: of length 1 under cosine, unchanged otherwise.
///
/// The norm is taken in f64, where no f32 overflows or vanishes when squared.
pub(crate) fn prepare(metric: Metric, vector: &[f32], out: &mut Vec<f32>) {
    out.clear();
    if metric != Metric::Cosine {
        out.extend_from_slice(vector);
        return;
    }
    let inverse = 1.0 / norm(vector);
    out.extend(vector.iter().map(|value| (f64::from(*value) * inverse) as f32));
}

fn norm(vector: &[f32]) -> f64 {
    /// Sums that a processor makes at once.
    const LANES: usize = 8;
    let (chunks, rest) = vector.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        let squares = chunk.map(|value| f64::from(value).powi(2));
        sums.iter_mut().zip(squares).for_each(|(sum, square)| *sum += square);
    }
    let rest = rest.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
    (sums.iter().sum::<f64>() + rest).sqrt()
}
