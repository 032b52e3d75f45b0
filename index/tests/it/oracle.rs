//! The index against slow models: random histories against a map, ranked lists against sort-all, recall against a scan.

use std::collections::BTreeMap;

use mira_index::{
    Config, Document, DocumentRows, Filter, Hit, Metric, Quantization, RowStorage, SearchParams, VectorIndex,
    exact_top_k, indexed_top_k, merge_top_k,
};
use proptest::prelude::*;

use crate::clusters::Clusters;
use crate::found::{mean_recall, recall};
use crate::histories::{DIM, METRICS, Step, restart, same, steps, to_f32, vectors};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn random_histories_answer_like_the_model(
        steps in steps(),
        queries in proptest::collection::vec(vectors(), 4),
        metric in proptest::sample::select(METRICS.to_vec()),
        quantization in proptest::sample::select(vec![Quantization::None, Quantization::Int8, Quantization::Binary]),
        exact_below in proptest::sample::select(vec![0usize, 40, 10_000]),
        k in 1usize..20,
    ) {
        let config = Config { quantization, exact_below, ..Config::new(DIM, metric) };
        let mut index = VectorIndex::new(config).unwrap();
        let mut model: BTreeMap<u128, Vec<f32>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Upsert { id, vectors } => {
                    index.upsert(id.into(), &to_f32(&vectors)).unwrap();
                    model.insert(id.into(), to_f32(&vectors));
                }
                Step::Remove { id } => prop_assert_eq!(index.remove(id.into()), model.remove(&id.into()).is_some()),
                Step::Compact => {
                    index.compact(1, &|| false).unwrap();
                    prop_assert_eq!(index.stats().dead_vectors, 0);
                }
                Step::Restart => index = restart(&index, &RowStorage::Memory),
            }
            prop_assert_eq!(index.len(), model.len());
        }
        let vectors: usize = model.values().map(|vectors| vectors.len() / DIM).sum();
        prop_assert_eq!(index.stats().live_vectors, vectors);
        let even = |id: u128| id.is_multiple_of(2);
        let is_even = |document: &Document| even(document.id);
        let listed: Vec<u128> = (0..300).step_by(3).collect();
        for query in queries {
            let query = to_f32(&query[..DIM]);
            let expect = |keep: &dyn Fn(u128) -> bool| {
                let kept = model.iter().filter(|(id, _)| keep(**id)).map(|(id, vectors)| (*id, vectors.as_slice()));
                exact_top_k(metric, DIM, &query, kept, k).unwrap()
            };
            let params = SearchParams::new(&query, k);
            let filter = Some(Filter { matches: &is_even, selectivity: Some(0.5) });
            let filtered = SearchParams { filter, ..params };
            let exact = index.search_exact(&params).unwrap();
            prop_assert!(same(metric, &exact, &expect(&|_| true)), "{:?}", exact);
            let rows = model.iter().map(|(id, vectors)| (*id, DocumentRows::new(&config, vectors).unwrap()));
            let rows: Vec<_> = rows.collect();
            let outside = indexed_top_k(&config, &query, rows.iter().map(|(id, rows)| (*id, rows)), k, None).unwrap();
            prop_assert_eq!(&outside, &exact, "a document has one score, wherever it is");
            let exact_filtered = index.search_exact(&filtered).unwrap();
            prop_assert!(same(metric, &exact_filtered, &expect(&even)));
            let among = index.search_among(&listed, &params).unwrap();
            prop_assert!(same(metric, &among, &expect(&|id| listed.contains(&id))));
            for (params, exact) in [(params, exact), (filtered, exact_filtered)] {
                // With a graph the answer may miss a hit, but never be short, stale, doubled or misordered.
                let found = index.search(&params).unwrap();
                prop_assert_eq!(found.len(), exact.len());
                prop_assert!(found.windows(2).all(|pair| pair[0].rank(&pair[1]).is_lt()));
                let all = index.search_exact(&SearchParams { k: 300, ..params }).unwrap();
                let mut ids: Vec<_> = found.iter().map(|hit| hit.id).collect();
                ids.sort_unstable();
                ids.dedup();
                prop_assert_eq!(ids.len(), found.len());
                prop_assert!(found.iter().all(|hit| all.iter().any(|other| other.id == hit.id && other.score >= hit.score)));
                if index.stats().graph_bytes == 0 {
                    prop_assert_eq!(found, exact);
                }
            }
        }
    }

    #[test]
    fn merge_equals_sorting_everything(
        lists in proptest::collection::vec(proptest::collection::vec((0u128..40, -3i8..3), 0..20), 0..6),
        k in 0usize..30,
    ) {
        let hit = |(id, score): (u128, i8)| Hit { id, passage: 0, score: f32::from(score) };
        let mut lists: Vec<Vec<Hit>> = lists.into_iter().map(|list| list.into_iter().map(hit).collect()).collect();
        lists.iter_mut().for_each(|list| list.sort_by(Hit::rank));
        let mut all = lists.concat();
        all.sort_by(Hit::rank);
        let mut expected: Vec<Hit> = Vec::new();
        for hit in all {
            if expected.iter().all(|other| other.id != hit.id) {
                expected.push(hit);
            }
        }
        expected.truncate(k);
        prop_assert_eq!(merge_top_k(lists, k), expected);
    }
}

/// Recall@10 of a graph over clustered data, after a third of it was updated and a sixth removed.
#[test]
fn graphs_recall_what_a_scan_finds() {
    for metric in METRICS {
        for quantization in [Quantization::None, Quantization::Int8] {
            let mut clusters = Clusters::new(7, 48, 40);
            let config = Config { quantization, exact_below: 500, ..Config::new(48, metric) };
            let index = VectorIndex::new(config).unwrap();
            for id in 0..6_000 {
                index.upsert(id, &clusters.vector()).unwrap();
            }
            for id in (0..6_000).step_by(3) {
                index.upsert(id, &clusters.vector()).unwrap();
            }
            for id in (1..6_000).step_by(6) {
                assert!(index.remove(id));
            }
            let queries: Vec<_> = (0..100).map(|_| clusters.vector()).collect();
            let before = mean_recall(&index, &queries, 10, 96);
            assert!(before >= 0.95, "{metric:?} {quantization:?}: {before}");
            assert!(index.needs_compaction());
            let exact: Vec<_> =
                queries.iter().map(|q| index.search_exact(&SearchParams::new(q, 10)).unwrap()).collect();
            index.compact(2, &|| false).unwrap();
            for (query, exact) in queries.iter().zip(exact) {
                assert_eq!(index.search_exact(&SearchParams::new(query, 10)).unwrap(), exact);
            }
            let after = mean_recall(&index, &queries, 10, 96);
            assert!(after >= 0.95, "{metric:?} {quantization:?} compacted: {after}");
        }
    }
}

/// Vectors of very different length are what makes inner product hard for graphs.
#[test]
fn inner_product_recalls_with_uneven_norms() {
    let mut clusters = Clusters::new(3, 32, 30);
    let index = VectorIndex::new(Config { exact_below: 0, ..Config::new(32, Metric::Dot) }).unwrap();
    for id in 0..5_000u128 {
        let stretch = [0.1, 0.5, 1.0, 3.0][id as usize % 4];
        let vector: Vec<f32> = clusters.vector().iter().map(|value| value * stretch).collect();
        index.upsert(id, &vector).unwrap();
    }
    let queries: Vec<_> = (0..100).map(|_| clusters.vector()).collect();
    let recall = mean_recall(&index, &queries, 10, 128);
    assert!(recall >= 0.95, "{recall}");
}

/// Filters from one document in a thousand to all, with and without an estimate, correlated with the query or not.
#[test]
fn filters_keep_recall_at_any_selectivity() {
    let mut clusters = Clusters::new(11, 32, 20);
    let index = VectorIndex::new(Config { exact_below: 500, ..Config::new(32, Metric::Cosine) }).unwrap();
    // The id's low half is the cluster, so that a filter can follow the data.
    for id in 0..10_000u128 {
        let cluster = id % 20;
        index.upsert(id << 64 | cluster, &clusters.vector_near(cluster as usize)).unwrap();
    }
    let queries: Vec<_> = (0..20).map(|cluster| clusters.vector_near(cluster)).collect();
    for divisor in [1u128, 2, 10, 100, 1_000] {
        for correlated in [false, true] {
            let matches = |id: u128| {
                let number = id >> 64;
                if correlated {
                    number % 20 * divisor < 20 && (number / 20).is_multiple_of(divisor.div_ceil(20))
                } else {
                    number.is_multiple_of(divisor)
                }
            };
            for selectivity in [None, Some(1.0 / divisor as f64)] {
                let mut total = 0.0;
                for query in &queries {
                    let filter = Some(Filter { matches: &|document: &Document| matches(document.id), selectivity });
                    let params = SearchParams { filter, ef: Some(96), ..SearchParams::new(query, 10) };
                    let found = index.search(&params).unwrap();
                    assert!(found.iter().all(|hit| matches(hit.id)));
                    total += recall(&found, &index.search_exact(&params).unwrap());
                }
                let mean = total / queries.len() as f64;
                assert!(mean >= 0.95, "1/{divisor} correlated {correlated} {selectivity:?}: {mean}");
            }
        }
    }
}

/// A memory holds many equal texts: their vectors must neither cut the graph apart nor hide one another.
#[test]
fn equal_vectors_stay_findable() {
    let mut clusters = Clusters::new(5, 24, 10);
    let index = VectorIndex::new(Config { exact_below: 0, ..Config::new(24, Metric::Cosine) }).unwrap();
    let originals: Vec<_> = (0..10).map(|_| clusters.vector()).collect();
    for id in 0..5_000u128 {
        index.upsert(id, &originals[id as usize % 10]).unwrap();
    }
    for id in 5_000..6_000u128 {
        index.upsert(id, &clusters.vector()).unwrap();
    }
    for original in &originals {
        let params = SearchParams { ef: Some(64), ..SearchParams::new(original, 10) };
        let found = index.search(&params).unwrap();
        assert!(found.iter().all(|hit| hit.score > 0.999), "{found:?}");
    }
    let queries: Vec<_> = (0..100).map(|_| clusters.vector()).collect();
    let by_score = |query: &Vec<f32>| {
        let params = SearchParams { ef: Some(96), ..SearchParams::new(query, 10) };
        let (found, exact) = (index.search(&params).unwrap(), index.search_exact(&params).unwrap());
        let worst = exact.last().unwrap().score;
        found.iter().filter(|hit| hit.score >= worst).count() as f64 / exact.len() as f64
    };
    let mean = queries.iter().map(by_score).sum::<f64>() / queries.len() as f64;
    assert!(mean >= 0.95, "{mean}");
}

/// Noisy copies of a few texts, which lie about as far from each other as from their text: what a list of links made of
/// directions alone tears apart. A search that names no beam finds them by widening its own.
#[test]
fn noisy_copies_stay_connected() {
    const DIM: usize = 96;
    let mut clusters = Clusters::new(31, DIM, 60);
    for quantization in [Quantization::None, Quantization::Int8] {
        let config = Config { quantization, exact_below: 0, ..Config::new(DIM, Metric::Cosine) };
        let index = VectorIndex::new(config).unwrap();
        (0..9_000u128).for_each(|id| index.upsert(id, &clusters.vector_near(id as usize % 60)).unwrap());
        let queries: Vec<_> = (0..100).map(|_| clusters.vector()).collect();
        let narrow = mean_recall(&index, &queries, 10, 64);
        let own = queries.iter().map(|query| {
            let params = SearchParams::new(query, 10);
            let (found, explain) = index.search_explained(&params).unwrap();
            assert!(explain.ef >= 48, "{explain:?}");
            recall(&found, &index.search_exact(&params).unwrap())
        });
        let own = own.sum::<f64>() / queries.len() as f64;
        println!("{quantization:?}: {narrow} with a beam of 64, {own} with one that widens");
        assert!(narrow >= 0.7 && own >= 0.95, "{quantization:?}: {narrow} {own}");
    }
}

#[test]
fn one_thread_and_one_seed_give_one_graph() {
    let answers = |seed: u64| {
        let mut clusters = Clusters::new(1, 16, 10);
        let index = VectorIndex::new(Config { seed, exact_below: 100, ..Config::new(16, Metric::L2) }).unwrap();
        for id in 0..3_000 {
            index.upsert(id, &clusters.vector()).unwrap();
        }
        let queries: Vec<_> = (0..50).map(|_| clusters.vector()).collect();
        let search =
            |query: &Vec<f32>| index.search(&SearchParams { ef: Some(10), ..SearchParams::new(query, 10) }).unwrap();
        queries.iter().map(search).collect::<Vec<_>>()
    };
    assert_eq!(answers(1), answers(1));
}

/// A document with many passages takes many places in the beam, but only one among the hits.
#[test]
fn documents_of_many_passages_do_not_crowd_out_others() {
    let mut clusters = Clusters::new(2, 16, 50);
    let index = VectorIndex::new(Config { exact_below: 0, ..Config::new(16, Metric::Cosine) }).unwrap();
    for id in 0..20u128 {
        let passages: Vec<f32> = (0..300).flat_map(|_| clusters.vector_near(id as usize)).collect();
        index.upsert(id, &passages).unwrap();
    }
    let query = clusters.vector_near(3);
    let hits = index.search(&SearchParams { ef: Some(16), ..SearchParams::new(&query, 10) }).unwrap();
    assert_eq!(hits.len(), 10);
    assert_eq!(hits[0].id, 3);
    let exact = index.search_exact(&SearchParams::new(&query, 10)).unwrap();
    assert_eq!(hits[0], exact[0]);
}
