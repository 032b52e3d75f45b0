//! How much of the exact answer a search finds.

use mira_index::{Hit, SearchParams, VectorIndex};

/// The share of the exact answer's hits that an answer has.
pub(crate) fn recall(found: &[Hit], exact: &[Hit]) -> f64 {
    let hits = exact.iter().filter(|hit| found.iter().any(|other| other.id == hit.id)).count();
    hits as f64 / exact.len().max(1) as f64
}

/// Mean recall over some queries.
pub(crate) fn mean_recall(index: &VectorIndex, queries: &[Vec<f32>], k: usize, ef: usize) -> f64 {
    let one = |query: &Vec<f32>| {
        let params = SearchParams { ef: Some(ef), ..SearchParams::new(query, k) };
        recall(&index.search(&params).unwrap(), &index.search_exact(&params).unwrap())
    };
    queries.iter().map(one).sum::<f64>() / queries.len() as f64
}
