//! The exact answer over vectors that are in no index: the tail of a log, or another implementation's oracle.

use crate::config::{self, Config, Metric, Quantization};
use crate::error::IndexError;
use crate::kernels::Isa;
use crate::rows::{Row, halve};
use crate::topk::{Hit, TopK};

/// The best `k` of some documents by comparing with every vector, best first.
///
/// `documents` yields each id once, with its 1..n vectors of `dim` components end to end. Scores are taken from the f32
/// given; an index scores from rows in half precision, so that the two differ by about 1e-3 of a score. Vectors are
/// checked as an index checks them.
pub fn exact_top_k<'a>(
    metric: Metric,
    dim: usize,
    query: &[f32],
    documents: impl IntoIterator<Item = (u128, &'a [f32])>,
    k: usize,
) -> Result<Vec<Hit>, IndexError> {
    top_k(&Config { quantization: Quantization::None, ..Config::new(dim, metric) }, query, documents, k)
}

/// As [`exact_top_k`], with the scores that an index of this shape gives: a document has one score, wherever it is.
pub fn indexed_top_k<'a>(
    config: &Config,
    query: &[f32],
    documents: impl IntoIterator<Item = (u128, &'a [f32])>,
    k: usize,
) -> Result<Vec<Hit>, IndexError> {
    top_k(config, query, documents, k)
}

fn top_k<'a>(
    config: &Config,
    query: &[f32],
    documents: impl IntoIterator<Item = (u128, &'a [f32])>,
    k: usize,
) -> Result<Vec<Hit>, IndexError> {
    let Config { metric, dim, .. } = *config;
    config::check_k(k)?;
    config.check()?;
    config::check_query(metric, dim, query)?;
    let mut bits = vec![0; dim];
    let isa = Isa::detected();
    let (mut prepared_query, mut prepared) = (Vec::new(), Vec::new());
    config::prepare(metric, query, &mut prepared_query);
    let mut best = TopK::new(k);
    for (id, vectors) in documents {
        config::check_document(metric, dim, vectors)?;
        for (passage, vector) in vectors.chunks_exact(dim).enumerate() {
            config::prepare(metric, vector, &mut prepared);
            let full = Row::Full(&prepared);
            let row = match config.quantization {
                Quantization::None => full,
                Quantization::Int8 | Quantization::Binary => {
                    let scale = halve(full, &mut bits);
                    Row::Half { bits: &bits, scale }
                }
            };
            let score = crate::rows::score(isa, metric, row, &prepared_query);
            best.push(Hit { id, passage: passage as u32, score });
        }
    }
    Ok(best.into_hits())
}
