//! The exact answer over vectors that are in no index: the tail of a log, or another implementation's oracle.

use crate::config::{self, Metric};
use crate::error::IndexError;
use crate::kernels::Isa;
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
    config::check_k(k)?;
    config::Config::new(dim, metric).check()?;
    config::check_query(metric, dim, query)?;
    let isa = Isa::detected();
    let (mut prepared_query, mut prepared) = (Vec::new(), Vec::new());
    config::prepare(metric, query, &mut prepared_query);
    let mut best = TopK::new(k);
    for (id, vectors) in documents {
        config::check_document(metric, dim, vectors)?;
        for (passage, vector) in vectors.chunks_exact(dim).enumerate() {
            config::prepare(metric, vector, &mut prepared);
            let row = crate::rows::Row::Full(&prepared);
            let score = crate::rows::score(isa, metric, row, &prepared_query);
            best.push(Hit { id, passage: passage as u32, score });
        }
    }
    Ok(best.into_hits())
}
