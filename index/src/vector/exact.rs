//! The exact answer over vectors that are in no index: the tail of a log, or another implementation's oracle.

use mira_proto::model::{Metric, Quantization};

use crate::error::IndexError;
use crate::topk::{Hit, TopK};
use crate::vector::config::Config;
use crate::vector::input;
use crate::vector::kernels::Isa;
use crate::vector::row::{self, HalfRow, OwnedRow, Row};

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
    let mut comparison = Comparison::new(&Config::new(dim, metric), query, k)?;
    let mut prepared = Vec::new();
    for (id, vectors) in documents {
        input::check_document(metric, dim, vectors)?;
        for (passage, vector) in (0..).zip(vectors.chunks_exact(dim)) {
            input::prepare(metric, vector, &mut prepared);
            comparison.add(id, passage, Row::Full(&prepared));
        }
    }
    Ok(comparison.best.into_hits())
}

/// The vectors of a document as an index of some shape scores them: made once, compared with many queries.
pub struct DocumentRows(Vec<OwnedRow>);

impl DocumentRows {
    /// From 1..n vectors of `dim` components end to end, checked as an index checks them.
    pub fn new(config: &Config, vectors: &[f32]) -> Result<Self, IndexError> {
        input::check_document(config.metric, config.dim, vectors)?;
        let mut prepared = Vec::new();
        let row = |vector| {
            input::prepare(config.metric, vector, &mut prepared);
            match config.quantization {
                Quantization::None => OwnedRow::Full(prepared.as_slice().into()),
                Quantization::Int8 | Quantization::Binary => OwnedRow::Half(HalfRow::new(Row::Full(&prepared))),
            }
        };
        Ok(DocumentRows(vectors.chunks_exact(config.dim).map(row).collect()))
    }
}

/// As [`exact_top_k`], with the scores that an index of this shape gives: a document has one score, wherever it is. Rows are
/// of the same shape.
pub fn indexed_top_k<'a>(
    config: &Config,
    query: &[f32],
    documents: impl IntoIterator<Item = (u128, &'a DocumentRows)>,
    k: usize,
) -> Result<Vec<Hit>, IndexError> {
    let mut comparison = Comparison::new(config, query, k)?;
    for (id, rows) in documents {
        (0..).zip(&rows.0).for_each(|(passage, row)| comparison.add(id, passage, row.as_row()));
    }
    Ok(comparison.best.into_hits())
}

/// A query that is compared with one row after the other.
struct Comparison {
    metric: Metric,
    isa: Isa,
    query: Vec<f32>,
    best: TopK,
}

impl Comparison {
    fn new(config: &Config, query: &[f32], k: usize) -> Result<Self, IndexError> {
        let Config { metric, dim, .. } = *config;
        input::check_k(k)?;
        config.check()?;
        input::check_query(metric, dim, query)?;
        let mut prepared = Vec::new();
        input::prepare(metric, query, &mut prepared);
        Ok(Comparison { metric, isa: Isa::detected(), query: prepared, best: TopK::new(k) })
    }

    fn add(&mut self, id: u128, passage: u32, full: Row<'_>) {
        let score = row::score(self.isa, self.metric, full, &self.query);
        self.best.push(Hit { id, passage, score });
    }
}
