//! Rows that lie elsewhere: the same answers as with rows in memory, whatever the cache holds, across compactions and
//! restarts from images, and sensible ones while the source is ahead of the index.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use mira_index::{
    Attributes, Config, Document, Filter, Hit, ImageError, IndexError, Metric, Passage, Quantization, RowCache,
    RowSource, RowStorage, RowsError, SearchParams, Times, VectorIndex, exact_top_k,
};
use proptest::prelude::*;

use crate::clusters::Clusters;
use crate::found::mean_recall;
use crate::histories::{DIM, METRICS, Step, restart, same, steps, to_f32, vectors};
use crate::shelf::Shelf;

struct Broken;

impl RowSource for Broken {
    fn read(&self, _: &[Passage], _: &mut dyn FnMut(usize, &[f32])) -> Result<(), RowsError> {
        Err(RowsError::Source("the disk is gone".into()))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn random_histories_answer_like_the_model(
        steps in steps(),
        queries in proptest::collection::vec(vectors(), 4),
        metric in proptest::sample::select(METRICS.to_vec()),
        quantization in proptest::sample::select(vec![Quantization::None, Quantization::Int8, Quantization::Binary]),
        exact_below in proptest::sample::select(vec![0usize, 40, 10_000]),
        budget in proptest::sample::select(vec![0usize, 20_000, 1 << 20]),
        k in 1usize..20,
    ) {
        let shelf = Shelf::new(DIM);
        let cache = RowCache::new(budget);
        let storage = RowStorage::Source(shelf.clone(), cache.clone());
        let config = Config { quantization, exact_below, ..Config::new(DIM, metric) };
        let mut index = VectorIndex::with_storage(config, &storage).unwrap();
        for step in steps {
            match step {
                Step::Upsert { id, vectors } => {
                    shelf.documents.lock().insert(id.into(), to_f32(&vectors));
                    let times = Times { created_ms: 1_000 + u64::from(id), expires_ms: 0 };
                    index.upsert_with(Document { id: id.into(), times }, &Attributes::default(), &to_f32(&vectors)).unwrap();
                }
                Step::Remove { id } => {
                    let was_there = shelf.documents.lock().remove(&id.into()).is_some();
                    prop_assert_eq!(index.remove(id.into()), was_there);
                }
                Step::Compact => index.compact(1, &|| false).unwrap(),
                Step::Restart => index = restart(&index, &storage),
            }
            prop_assert!(cache.bytes() <= budget);
        }
        let model = shelf.documents.lock().clone();
        let mut held = index.documents();
        held.sort_unstable_by_key(|document| document.id);
        let times = |id: &u128| Times { created_ms: 1_000 + *id as u64, expires_ms: 0 };
        let expected: Vec<_> = model.keys().map(|id| Document { id: *id, times: times(id) }).collect();
        prop_assert_eq!(held, expected);
        let early = |document: &Document| document.times.created_ms < 1_100;
        for query in queries {
            let query = to_f32(&query[..DIM]);
            for keep in [u128::MAX, 100] {
                let kept = model.iter().filter(|(id, _)| **id < keep).map(|(id, vectors)| (*id, vectors.as_slice()));
                let expected = exact_top_k(metric, DIM, &query, kept, k).unwrap();
                let filter = (keep == 100).then_some(Filter { matches: &early, selectivity: None });
                let params = SearchParams { filter, ..SearchParams::new(&query, k) };
                let exact = index.search_exact(&params).unwrap();
                prop_assert!(same(metric, &exact, &expected), "{:?}", exact);
                // By codes the answer may miss a hit, but never be short, stale, doubled or misordered.
                let found = index.search(&params).unwrap();
                prop_assert_eq!(found.len(), exact.len());
                prop_assert!(found.windows(2).all(|pair| pair[0].rank(&pair[1]).is_lt()));
                let all = index.search_exact(&SearchParams { k: 300, ..params }).unwrap();
                let is_true = |hit: &Hit| all.iter().any(|other| other.id == hit.id && other.score >= hit.score);
                prop_assert!(found.iter().all(is_true));
            }
        }
        drop(index);
        prop_assert_eq!(cache.bytes(), 0, "rows go with their index");
    }
}

/// Recall over clustered data with rows elsewhere, scanned and walked, before and after updates, removals and a restart.
#[test]
fn recall_is_that_of_rows_in_memory() {
    for (quantization, ef) in [(Quantization::Int8, 96), (Quantization::Binary, 256)] {
        for metric in METRICS {
            for exact_below in [500, 100_000] {
                let mut clusters = Clusters::new(7, 96, 40);
                let shelf = Shelf::new(96);
                let storage = RowStorage::Source(shelf.clone(), RowCache::new(300_000));
                let config = Config { quantization, exact_below, ..Config::new(96, metric) };
                let index = VectorIndex::with_storage(config, &storage).unwrap();
                let store = |id: u128, vector: Vec<f32>| {
                    index.upsert(id, &vector).unwrap();
                    shelf.documents.lock().insert(id, vector);
                };
                (0..5_000).for_each(|id| store(id, clusters.vector()));
                (0..5_000).step_by(3).for_each(|id| store(id, clusters.vector()));
                for id in (1..5_000).step_by(6) {
                    assert!(index.remove(id));
                    shelf.documents.lock().remove(&id);
                }
                let queries: Vec<_> = (0..60).map(|_| clusters.vector()).collect();
                let before = mean_recall(&index, &queries, 10, ef);
                let restarted = restart(&index, &storage);
                let after = mean_recall(&restarted, &queries, 10, ef);
                assert!(before >= 0.95 && after >= 0.95, "{metric:?} {quantization:?} {exact_below}: {before} {after}");
                assert_eq!(index.stats().row_bytes, 0);
            }
        }
    }
}

/// A search reads few rows, and none a second time while the cache holds them.
#[test]
fn a_search_reads_only_the_best_rows() {
    let mut clusters = Clusters::new(1, 32, 20);
    let shelf = Shelf::new(32);
    let storage = RowStorage::Source(shelf.clone(), RowCache::new(1 << 20));
    for exact_below in [0, 10_000] {
        let index = VectorIndex::with_storage(Config { exact_below, ..Config::new(32, Metric::L2) }, &storage).unwrap();
        for id in 0..5_000u128 {
            let vector = clusters.vector();
            index.upsert(id, &vector).unwrap();
            shelf.documents.lock().insert(id, vector);
        }
        // The restarted index has no row in the cache.
        let index = restart(&index, &storage);
        let query = clusters.vector();
        let before = shelf.reads.load(Ordering::Relaxed);
        let first = index.search(&SearchParams::new(&query, 10)).unwrap();
        let once = shelf.reads.load(Ordering::Relaxed);
        assert!((10..=40).contains(&(once - before)), "{}", once - before);
        assert_eq!(index.search(&SearchParams::new(&query, 10)).unwrap(), first);
        assert_eq!(shelf.reads.load(Ordering::Relaxed), once);
    }
}

/// The source may be ahead: what is gone is no hit, what is newer is scored as it is now.
#[test]
fn a_source_that_is_ahead_is_believed() {
    let shelf = Shelf::new(2);
    let storage = RowStorage::Source(shelf.clone(), RowCache::new(0));
    let index = VectorIndex::with_storage(Config::new(2, Metric::L2), &storage).unwrap();
    for id in 0..20u128 {
        let vector = vec![id as f32, 0.0];
        index.upsert(id, &vector).unwrap();
        shelf.documents.lock().insert(id, vector);
    }
    shelf.documents.lock().remove(&3);
    shelf.documents.lock().insert(4, vec![4.0, 5.0]);
    let hits = index.search(&SearchParams::new(&[3.0, 0.0], 3)).unwrap();
    assert_eq!(hits.iter().map(|hit| (hit.id, hit.score)).collect::<Vec<_>>(), [(2, -1.0), (1, -4.0), (5, -4.0)]);
}

#[test]
fn a_source_that_fails_is_an_error() {
    let storage = RowStorage::Source(Arc::new(Broken), RowCache::new(0));
    let index = VectorIndex::with_storage(Config::new(2, Metric::L2), &storage).unwrap();
    index.upsert(1, &[1.0, 2.0]).unwrap();
    let refused = index.search(&SearchParams::new(&[1.0, 1.0], 1));
    assert!(matches!(refused, Err(IndexError::Rows(RowsError::Source(_)))), "{refused:?}");
}

/// An image says where its rows were.
#[test]
fn an_image_without_rows_needs_a_source() {
    let storage = RowStorage::Source(Shelf::new(2), RowCache::new(0));
    let index = VectorIndex::with_storage(Config::new(2, Metric::L2), &storage).unwrap();
    index.upsert(1, &[1.0, 2.0]).unwrap();
    let mut image = Vec::new();
    index.write_image(&mut image).unwrap();
    let refused = VectorIndex::read_image(image.as_slice(), &RowStorage::Memory);
    assert!(matches!(refused, Err(ImageError::Damaged(_))));
}

/// What the documentation promises per vector: codes, graph, ids.
#[test]
fn memory_is_what_it_should_be_on_paper() {
    let mut clusters = Clusters::new(1, 384, 50);
    for (quantization, code_bytes) in
        [(Quantization::Int8, 384 + 16), (Quantization::Binary, 384 / 8 + 16), (Quantization::None, 4 * 384 + 16)]
    {
        let storage = RowStorage::Source(Shelf::new(384), RowCache::new(0));
        let config = Config { quantization, exact_below: 0, ef_construction: 32, ..Config::new(384, Metric::Cosine) };
        let index = VectorIndex::with_storage(config, &storage).unwrap();
        let count = 3_000;
        (0..count).for_each(|id| index.upsert(id, &clusters.vector()).unwrap());
        let stats = index.stats();
        let sum = (stats.code_bytes + stats.graph_bytes + stats.id_bytes + stats.row_bytes) as f64 / count as f64;
        // 32 links of four bytes, layers above and twins; a label of 32 bytes and a place in the table.
        let paper = f64::from(code_bytes) + (128.0 + 8.0 + 64.0 / 15.0) + (32.0 + 7.0);
        assert!((sum / paper - 1.0).abs() < 0.15, "{quantization:?}: {sum} bytes, {paper} on paper");
    }
}
