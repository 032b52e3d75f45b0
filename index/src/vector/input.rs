//! Vectors as they come in: each is checked here, then brought into the form that the metric compares.

use mira_proto::model::Metric;
use mira_proto::vectors::{self, VectorFault};

use crate::error::IndexError;
use crate::limits::{MAX_K, MAX_PASSAGES};

/// Checks one vector by the rule of all programs and says what is wrong; `passage` only labels the error.
fn check_vector(metric: Metric, dim: usize, passage: usize, vector: &[f32]) -> Result<(), IndexError> {
    vectors::check(vector, dim, metric).map_err(|fault| match fault {
        VectorFault::Dimension { have, want } => IndexError::DimensionMismatch { expected: want, actual: have },
        VectorFault::NotFinite { component } => IndexError::NotFinite { passage, component },
        VectorFault::TooLarge { component } => IndexError::TooLarge { passage, component },
        VectorFault::Zero => IndexError::ZeroVector { passage },
    })
}

/// Checks the vectors of a document, 1..n of `dim` components end to end, and returns how many passages they are.
pub fn check_document(metric: Metric, dim: usize, vectors: &[f32]) -> Result<usize, IndexError> {
    if vectors.is_empty() || vectors.len() / dim > MAX_PASSAGES {
        return Err(IndexError::PassageCount { count: vectors.len() / dim });
    }
    if !vectors.len().is_multiple_of(dim) {
        return Err(IndexError::DimensionMismatch { expected: dim, actual: vectors.len() });
    }
    for (passage, vector) in vectors.chunks_exact(dim).enumerate() {
        check_vector(metric, dim, passage, vector)?;
    }
    Ok(vectors.len() / dim)
}

/// Checks a query vector.
pub(crate) fn check_query(metric: Metric, dim: usize, query: &[f32]) -> Result<(), IndexError> {
    check_vector(metric, dim, 0, query)
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
