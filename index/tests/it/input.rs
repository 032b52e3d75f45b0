//! Input that is refused, searches that stop.

use mira_index::{Config, IndexError, MAX_K, Metric, SearchParams, VectorIndex, exact_top_k};

fn index(metric: Metric) -> VectorIndex {
    VectorIndex::new(Config { exact_below: 0, ..Config::new(3, metric) }).unwrap()
}

#[test]
fn shapes_out_of_range_are_refused() {
    for dim in [0, 4_097] {
        assert!(matches!(VectorIndex::new(Config::new(dim, Metric::L2)), Err(IndexError::InvalidDimension { .. })));
    }
    for dim in [1, 4_096] {
        let index = VectorIndex::new(Config { exact_below: 0, ..Config::new(dim, Metric::L2) }).unwrap();
        for id in 0..20u128 {
            index.upsert(id, &vec![id as f32; dim]).unwrap();
        }
        let hits = index.search(&SearchParams::new(&vec![7.0; dim], 2)).unwrap();
        assert_eq!(hits.iter().map(|hit| hit.id).collect::<Vec<_>>(), [7, 6]);
    }
    let refused = VectorIndex::new(Config { m: 3, ..Config::new(3, Metric::L2) });
    assert!(matches!(refused, Err(IndexError::InvalidParameter { name: "m", .. })));
    let refused = VectorIndex::new(Config { ef_construction: 2, ..Config::new(3, Metric::L2) });
    assert!(matches!(refused, Err(IndexError::InvalidParameter { name: "ef_construction", .. })));
}

#[test]
fn bad_vectors_are_refused_and_nothing_is_stored() {
    let cosine = index(Metric::Cosine);
    let l2 = index(Metric::L2);
    assert!(matches!(cosine.upsert(1, &[]), Err(IndexError::PassageCount { count: 0 })));
    let refused = cosine.upsert(1, &[1.0; 4]);
    assert!(matches!(refused, Err(IndexError::DimensionMismatch { expected: 3, actual: 4 })));
    let refused = cosine.upsert(1, &[1.0, 0.0, 0.0, 0.0, f32::NAN, 0.0]);
    assert!(matches!(refused, Err(IndexError::NotFinite { passage: 1, component: 1 })));
    assert!(matches!(l2.upsert(1, &[0.0, 0.0, f32::INFINITY]), Err(IndexError::NotFinite { .. })));
    assert!(matches!(cosine.upsert(1, &[0.0; 3]), Err(IndexError::ZeroVector { passage: 0 })));
    assert!(matches!(l2.upsert(1, &[1e30, 0.0, 0.0]), Err(IndexError::TooLarge { component: 0, .. })));
    assert!(cosine.is_empty() && l2.is_empty());
    l2.upsert(1, &[0.0; 3]).unwrap();
    cosine.upsert(1, &[f32::MAX, f32::MAX, 0.0]).unwrap();
    cosine.upsert(2, &[0.0, 1e-40, 0.0]).unwrap();
    let hits = cosine.search(&SearchParams::new(&[0.0, f32::MIN_POSITIVE, 0.0], 2)).unwrap();
    assert_eq!((hits[0].id, hits[0].score), (2, 1.0));
    assert!((hits[1].score - std::f32::consts::FRAC_1_SQRT_2).abs() < 1e-3);
}

#[test]
fn bad_searches_are_refused() {
    let index = index(Metric::Cosine);
    let query = [1.0, 2.0, 3.0];
    for k in [0, MAX_K + 1] {
        assert!(matches!(index.search(&SearchParams::new(&query, k)), Err(IndexError::InvalidK { .. })));
        assert!(matches!(exact_top_k(Metric::L2, 3, &query, [], k), Err(IndexError::InvalidK { .. })));
    }
    let refused = index.search(&SearchParams { ef: Some(0), ..SearchParams::new(&query, 1) });
    assert!(matches!(refused, Err(IndexError::InvalidEf { ef: 0 })));
    let refused = index.search(&SearchParams::new(&query[..2], 1));
    assert!(matches!(refused, Err(IndexError::DimensionMismatch { expected: 3, actual: 2 })));
    let refused = index.search(&SearchParams::new(&[0.0; 3], 1));
    assert!(matches!(refused, Err(IndexError::ZeroVector { .. })));
    assert_eq!(index.search(&SearchParams::new(&query, 5)).unwrap(), []);
}

#[test]
fn a_search_stops_when_its_caller_says_so() {
    for exact_below in [0, 10_000] {
        let index = VectorIndex::new(Config { exact_below, ..Config::new(3, Metric::L2) }).unwrap();
        for id in 0..2_000u128 {
            index.upsert(id, &[id as f32, (id * id % 977) as f32, 1.0]).unwrap();
        }
        let abort = || true;
        let params = SearchParams { abort: Some(&abort), ef: Some(500), ..SearchParams::new(&[0.0; 3], 5) };
        assert!(matches!(index.search(&params), Err(IndexError::Aborted)));
        assert!(matches!(index.compact(1, &|| true), Err(IndexError::Aborted)));
        assert_eq!(index.len(), 2_000);
    }
}
