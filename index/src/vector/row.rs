//! The score of one vector for a query, as callers see it.
//!
//! Sums are made in double precision, so that components which are large beside their differences do not swallow these,
//! and so that a vector has the same score on every processor: pages of a search go on after a score.

use mira_proto::model::Metric;

use crate::vector::kernels::{self, Isa};

/// The metric's score of a row for a query; [`prepare`](crate::vector::input::prepare) has prepared both.
#[inline]
pub(crate) fn score(isa: Isa, metric: Metric, row: &[f32], query: &[f32]) -> f32 {
    match metric {
        Metric::Cosine => (kernels::dot_f64(isa, row, query) as f32).clamp(-1.0, 1.0),
        Metric::Dot => kernels::dot_f64(isa, row, query) as f32,
        // Of equal vectors 0, not -0: they are told apart where scores are compared by their bits.
        Metric::L2 => (0.0 - kernels::l2_f64(isa, row, query)) as f32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_differences_of_large_components_count() {
        let isa = Isa::detected();
        assert_eq!(score(isa, Metric::L2, &[10_003.0, 9_997.0], &[10_003.0, 9_997.0]).to_bits(), 0.0f32.to_bits());
        assert_eq!(score(isa, Metric::L2, &[10_003.0, 9_997.0], &[10_000.0, 10_000.0]), -18.0);
        assert_eq!(score(isa, Metric::Dot, &[10_003.0, -9_997.0], &[1.0, 1.0]), 6.0);
        let (large, query) = ([20_000_002.0f32, 20_000_000.0, -40_000_000.0], [1.0f32; 3]);
        assert_eq!(score(isa, Metric::Dot, &large, &query), 2.0);
    }
}
