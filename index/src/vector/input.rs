//! Vectors as they come in: each is checked here, then brought into the form that the metric compares.

use mira_proto::model::Metric;

use crate::error::IndexError;
use crate::limits::{MAX_COMPONENT, MAX_K, MAX_PASSAGES};

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
