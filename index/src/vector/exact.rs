//! The exact answer over vectors that are in no index: the tail of a log, or another implementation's oracle.

use mira_proto::model::Metric;

use crate::error::IndexError;
use crate::topk::{Hit, Place, TopK};
use crate::vector::config::Config;
use crate::vector::input;
use crate::vector::kernels::Isa;
use crate::vector::row;

/// The best `k` of some documents by comparing with every vector, best first.
///
/// `documents` yields each id once, with its 1..n vectors of `dim` components end to end. Scores are those that an index
/// gives, and vectors are checked as an index checks them.
pub fn exact_top_k<'a>(
    metric: Metric,
    dim: usize,
    query: &[f32],
    documents: impl IntoIterator<Item = (u128, &'a [f32])>,
    k: usize,
) -> Result<Vec<Hit>, IndexError> {
    let mut comparison = Comparison::new(&Config::new(dim, metric), query, TopK::new(k), k)?;
    let mut prepared = Vec::new();
    for (id, vectors) in documents {
        input::check_document(metric, dim, vectors)?;
        for (passage, vector) in (0..).zip(vectors.chunks_exact(dim)) {
            input::prepare(metric, vector, &mut prepared);
            comparison.add(id, passage, &prepared);
        }
    }
    Ok(comparison.best.into_hits())
}

/// The vectors of a document as an index of some shape scores them: made once, compared with many queries.
pub struct DocumentRows(Vec<Box<[f32]>>);

impl DocumentRows {
    /// From 1..n vectors of `dim` components end to end, checked as an index checks them.
    pub fn new(config: &Config, vectors: &[f32]) -> Result<Self, IndexError> {
        input::check_document(config.metric, config.dim, vectors)?;
        let mut prepared = Vec::new();
        let row = |vector| {
            input::prepare(config.metric, vector, &mut prepared);
            prepared.as_slice().into()
        };
        Ok(DocumentRows(vectors.chunks_exact(config.dim).map(row).collect()))
    }
}

/// As [`exact_top_k`], of rows of the same shape, and of those that rank after a place.
pub fn indexed_top_k<'a>(
    config: &Config,
    query: &[f32],
    documents: impl IntoIterator<Item = (u128, &'a DocumentRows)>,
    k: usize,
    after: Option<&Place>,
) -> Result<Vec<Hit>, IndexError> {
    let mut comparison = Comparison::new(config, query, TopK::after(k, after), k)?;
    for (id, rows) in documents {
        (0..).zip(&rows.0).for_each(|(passage, row)| comparison.add(id, passage, row));
    }
    Ok(comparison.best.into_hits())
}

/// A query that is compared with one row after the other.
struct Comparison<'a> {
    metric: Metric,
    isa: Isa,
    query: Vec<f32>,
    best: TopK<'a>,
}

impl<'a> Comparison<'a> {
    fn new(config: &Config, query: &[f32], best: TopK<'a>, k: usize) -> Result<Self, IndexError> {
        let Config { metric, dim, .. } = *config;
        input::check_k(k)?;
        config.check()?;
        input::check_query(metric, dim, query)?;
        let mut prepared = Vec::new();
        input::prepare(metric, query, &mut prepared);
        Ok(Comparison { metric, isa: Isa::detected(), query: prepared, best })
    }

    fn add(&mut self, id: u128, passage: u32, row: &[f32]) {
        let score = row::score(self.isa, self.metric, row, &self.query);
        self.best.push(Hit { id, passage, score });
    }
}
