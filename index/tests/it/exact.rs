//! What is exact: the scores and the order of a sum in double precision, of every metric and quantisation, however large
//! components are beside their differences.

use std::sync::atomic::Ordering;

use mira_index::{
    Config, Hit, MAX_COMPONENT, Metric, Plan, Quantization, RowCache, RowStorage, SearchParams, VectorIndex,
    exact_top_k,
};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::clusters::Clusters;
use crate::histories::{METRICS, restart};
use crate::shelf::Shelf;

const QUANTIZATIONS: [Quantization; 3] = [Quantization::None, Quantization::Int8, Quantization::Binary];

/// The score of a document, by a sum in double precision.
fn score(metric: Metric, vector: &[f32], query: &[f32]) -> f32 {
    let wide = |x: &f32| f64::from(*x);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| wide(x) * wide(y)).sum::<f64>();
    let unit = |vector: &[f32]| -> Vec<f32> {
        let length = dot(vector, vector).sqrt();
        vector.iter().map(|x| (wide(x) / length) as f32).collect()
    };
    match metric {
        Metric::Cosine => (dot(&unit(vector), &unit(query)) as f32).clamp(-1.0, 1.0),
        Metric::Dot => dot(vector, query) as f32,
        Metric::L2 => -vector.iter().zip(query).map(|(x, y)| (wide(x) - wide(y)).powi(2)).sum::<f64>() as f32,
    }
}

fn best(metric: Metric, vectors: &[Vec<f32>], query: &[f32], k: usize) -> Vec<Hit> {
    let score_of = |(id, vector): (u128, &Vec<f32>)| Hit { id, passage: 0, score: score(metric, vector, query) };
    let mut hits: Vec<Hit> = (0..).zip(vectors).map(score_of).collect();
    hits.sort_by(Hit::rank);
    hits.truncate(k);
    hits
}

/// Scores that a last bit of the sum may tell apart.
fn same(found: &[Hit], expected: &[Hit]) -> bool {
    let is_same = |(a, b): (&Hit, &Hit)| (a.score - b.score).abs() <= 1e-6 * b.score.abs().max(1e-30);
    found.len() == expected.len() && found.iter().zip(expected).all(is_same)
}

#[test]
fn small_differences_of_large_components_are_seen() {
    for quantization in QUANTIZATIONS {
        for exact_below in [0, 10_000] {
            let index_of = |metric| {
                let config = Config { quantization, exact_below, ..Config::new(2, metric) };
                VectorIndex::new(config).unwrap()
            };
            let l2 = index_of(Metric::L2);
            l2.upsert(1, &[10_003.0, 9_997.0]).unwrap();
            l2.upsert(2, &[10_000.0, 10_000.0]).unwrap();
            let dot = index_of(Metric::Dot);
            dot.upsert(1, &[10_003.0, -9_997.0]).unwrap();
            for is_exact in [false, true] {
                let ask = |index: &VectorIndex, query: &[f32]| {
                    let params = SearchParams::new(query, 2);
                    let hits = if is_exact { index.search_exact(&params) } else { index.search(&params) };
                    hits.unwrap().iter().map(|hit| (hit.id, hit.score)).collect::<Vec<_>>()
                };
                assert_eq!(ask(&l2, &[10_003.0, 9_997.0]), [(1, 0.0), (2, -18.0)], "{quantization:?}");
                assert_eq!(ask(&dot, &[1.0, 1.0]), [(1, 6.0)], "{quantization:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Codes leave out only what cannot belong to the answer: at any offset, spread and magnitude.
    #[test]
    fn exact_is_exact(
        seed in any::<u64>(),
        metric in prop::sample::select(METRICS.to_vec()),
        quantization in prop::sample::select(QUANTIZATIONS.to_vec()),
        dim in 1usize..40,
        offset in prop::sample::select(vec![0.0f32, 1.0, 1e4, -3e7]),
        magnitude in prop::sample::select(vec![1e-20f32, 1e-3, 1.0, 1e6]),
        is_compacted in any::<bool>(),
        is_elsewhere in any::<bool>(),
    ) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut vector = || -> Vec<f32> {
            (0..dim).map(|at| {
                let sign = if at % 2 == 0 { 1.0 } else { -1.0 };
                magnitude * (sign * offset + random.random_range(-4i8..=4) as f32 + 0.5)
            }).collect()
        };
        let vectors: Vec<Vec<f32>> = (0..700).map(|_| vector()).collect();
        let shelf = Shelf::new(dim);
        let elsewhere = RowStorage::Source(shelf.clone(), RowCache::new(10_000));
        let storage = if is_elsewhere { elsewhere } else { RowStorage::Memory };
        let config = Config { quantization, exact_below: 400, ..Config::new(dim, metric) };
        let index = VectorIndex::with_storage(config, &storage).unwrap();
        for (id, vector) in (0..).zip(&vectors) {
            shelf.documents.lock().insert(id, vector.clone());
            index.upsert(id, vector).unwrap();
        }
        if is_compacted {
            index.compact(1, &|| false).unwrap();
        }
        let index = restart(&index, &storage);
        for query in [vectors[3].clone(), vector(), vec![magnitude; dim]] {
            let expected = best(metric, &vectors, &query, 9);
            let params = SearchParams::new(&query, 9);
            let exact = index.search_exact(&params).unwrap();
            prop_assert!(same(&exact, &expected), "{:?} {:?}", exact, expected);
            let outside = exact_top_k(metric, dim, &query, (0..).zip(vectors.iter().map(Vec::as_slice)), 9).unwrap();
            prop_assert_eq!(exact, outside, "a document has one score, wherever it is");
        }
    }
}

/// Far from the origin codes say little, until a compaction takes them around a centre: before, after and behind a restart
/// everybody is found by itself.
#[test]
fn vectors_far_from_the_origin_are_found() {
    for metric in [Metric::L2, Metric::Dot] {
        for quantization in QUANTIZATIONS {
            let mut clusters = Clusters::new(4, 48, 30);
            let shelf = Shelf::new(48);
            let storage = RowStorage::Source(shelf.clone(), RowCache::new(1 << 20));
            let config = Config { quantization, ..Config::new(48, metric) };
            let index = VectorIndex::with_storage(config, &storage).unwrap();
            let mut vectors = Vec::new();
            for id in 0..3_000u128 {
                let vector: Vec<f32> = clusters.vector().iter().map(|value| 10_000.0 + value).collect();
                shelf.documents.lock().insert(id, vector.clone());
                index.upsert(id, &vector).unwrap();
                vectors.push(vector);
            }
            assert!(index.has_graph());
            // Under inner product what is asked is a direction.
            let query_of = |at: usize| -> Vec<f32> {
                if metric == Metric::L2 { vectors[at].clone() } else { Clusters::new(at as u64, 48, 1).vector() }
            };
            let check = |index: &VectorIndex, least: usize, when: &str| {
                let right = (0..3_000).step_by(30).filter(|at| {
                    let query = query_of(*at);
                    let params = SearchParams::new(&query, 1);
                    index.search(&params).unwrap() == index.search_exact(&params).unwrap()
                });
                let right = right.count();
                assert!(right >= least, "{metric:?} {quantization:?} {when}: {right} of 100");
            };
            check(&index, 100, "before");
            let is_coded = quantization != Quantization::None;
            assert_eq!(index.needs_compaction(), is_coded);
            index.compact(1, &|| false).unwrap();
            assert!(!index.needs_compaction());
            let (_, explain) = index.search_explained(&SearchParams::new(&query_of(0), 1)).unwrap();
            // Products in single precision say too little there, and differences do.
            let plan = if is_coded || metric == Metric::L2 { Plan::Graph } else { Plan::Scan };
            assert_eq!(explain.plan, plan, "{metric:?} {quantization:?}");
            // Signs of 48 components rank roughly.
            let least = if quantization == Quantization::Binary { 75 } else { 95 };
            check(&index, least, "compacted");
            check(&restart(&index, &storage), least, "restarted");
        }
    }
}

/// The largest components that are taken, with the smallest.
#[test]
fn what_is_taken_can_be_found() {
    for metric in METRICS {
        for quantization in QUANTIZATIONS {
            for exact_below in [0, 10_000] {
                let config = Config { quantization, exact_below, ..Config::new(3, metric) };
                let index = VectorIndex::new(config).unwrap();
                let vectors =
                    [[MAX_COMPONENT, 0.0, -MAX_COMPONENT], [1e-30, 1e-38, 0.0], [1.0, -2.0, 3.0], [1e-44, 0.0, 0.0]];
                for (id, vector) in (0..).zip(&vectors) {
                    index.upsert(id, vector).unwrap();
                }
                for query in &vectors {
                    let params = SearchParams::new(query, 9);
                    let exact = index.search_exact(&params).unwrap();
                    assert!(exact.iter().all(|hit| hit.score.is_finite()), "{metric:?} {quantization:?}");
                    assert_eq!(index.search(&params).unwrap(), exact, "{metric:?} {quantization:?} {exact_below}");
                    assert_eq!(exact.len(), 4);
                }
                let beyond = index.upsert(9, &[2e15, 1.0, 1.0]);
                assert_eq!(beyond.is_ok(), metric == Metric::Cosine, "{metric:?}");
            }
        }
    }
}

/// An exact search reads the rows that codes leave open, not all.
#[test]
fn an_exact_search_reads_few_rows() {
    for metric in METRICS {
        let mut clusters = Clusters::new(6, 96, 60);
        let shelf = Shelf::new(96);
        let storage = RowStorage::Source(shelf.clone(), RowCache::new(0));
        let config = Config { exact_below: 100_000, ..Config::new(96, metric) };
        let index = VectorIndex::with_storage(config, &storage).unwrap();
        for id in 0..8_000u128 {
            let vector = clusters.vector();
            shelf.documents.lock().insert(id, vector.clone());
            index.upsert(id, &vector).unwrap();
        }
        let before = shelf.reads.load(Ordering::Relaxed);
        for _ in 0..20 {
            let query = clusters.vector();
            let (hits, explain) = index.search_exact_explained(&SearchParams::new(&query, 10)).unwrap();
            assert!(hits.len() == 10 && explain.is_exact && explain.compared == 8_000);
        }
        let read = (shelf.reads.load(Ordering::Relaxed) - before) / 20;
        println!("{metric:?}: {read} of 8,000 rows are read");
        assert!(read < 800, "{metric:?}: {read}");
    }
}
