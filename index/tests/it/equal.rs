//! Equal vectors, of which a memory holds many: they hide nobody, and nobody hides them.

use mira_index::{Config, Metric, Quantization, RowCache, RowStorage, SearchParams, VectorIndex};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::histories::METRICS;
use crate::shelf::Shelf;

const DIM: usize = 64;
const QUANTIZATIONS: [Quantization; 3] = [Quantization::None, Quantization::Int8, Quantization::Binary];

fn random_vectors(seed: u64, count: usize) -> Vec<Vec<f32>> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..count).map(|_| (0..DIM).map(|_| random.random_range(-1.0..1.0)).collect()).collect()
}

/// A vector in the midst of all: zero, or what cosine has in its place.
fn middle(metric: Metric) -> Vec<f32> {
    let value = if metric == Metric::Cosine { 1e-3 } else { 0.0 };
    vec![value; DIM]
}

/// A hundred equal vectors in the midst of others, before them, after them, or between.
#[test]
fn equal_vectors_hide_nobody_whichever_come_first() {
    let others = random_vectors(5, 4_000);
    for metric in METRICS {
        for quantization in QUANTIZATIONS {
            for equal_after in [0, 1_500, 4_000] {
                let config = Config { quantization, ..Config::new(DIM, metric) };
                let shelf = Shelf::new(DIM);
                let index =
                    VectorIndex::with_storage(config, &RowStorage::Source(shelf.clone(), RowCache::new(1 << 20)));
                let index = index.unwrap();
                let put = |id: u128, vector: &Vec<f32>| {
                    shelf.documents.lock().insert(id, vector.clone());
                    index.upsert(id, vector).unwrap();
                };
                let put_equal = || (0..100).for_each(|number| put(100_000 + number, &middle(metric)));
                for (id, vector) in (0..).zip(&others) {
                    if id == equal_after {
                        put_equal();
                    }
                    put(id as u128, vector);
                }
                if equal_after == others.len() {
                    put_equal();
                }
                assert!(index.has_graph());
                // Whoever is nearest to itself is found by itself.
                let (mut expected, mut found) = (0, 0);
                for (id, vector) in (0..).zip(&others).step_by(20) {
                    let params = SearchParams::new(vector, 1);
                    if index.search_exact(&params).unwrap()[0].id == id {
                        expected += 1;
                        found += usize::from(index.search(&params).unwrap()[0].id == id);
                    }
                }
                assert!(expected > 100, "{metric:?}");
                // One bit for each of 64 components ranks roughly.
                let least = if quantization == Quantization::Binary { expected * 9 / 10 } else { expected };
                assert!(found >= least, "{metric:?} {quantization:?} {equal_after}: {found} of {expected}");
                // The equal ones come by their ids.
                if metric != Metric::Dot {
                    let hits = index.search(&SearchParams::new(&middle(metric), 10)).unwrap();
                    let ids: Vec<u128> = hits.iter().map(|hit| hit.id).collect();
                    assert_eq!(ids, (100_000..100_010).collect::<Vec<u128>>(), "{metric:?} {quantization:?}");
                }
            }
        }
    }
}

/// The node that stands for equal vectors may be gone, or filtered out: the others are found as before.
#[test]
fn equal_vectors_do_without_their_first() {
    let index = VectorIndex::new(Config { exact_below: 0, ..Config::new(DIM, Metric::L2) }).unwrap();
    for (id, vector) in (0..).zip(random_vectors(9, 2_000)) {
        index.upsert(id, &vector).unwrap();
    }
    (0..400).for_each(|number| index.upsert(100_000 + number, &middle(Metric::L2)).unwrap());
    (0..150).for_each(|number| assert!(index.remove(100_000 + number)));
    let odd = |document: &mira_index::Document| document.id % 2 == 1;
    let filter = Some(mira_index::Filter { matches: &odd, selectivity: None });
    for (filter, expected) in
        [(None, (100_150..100_160).collect::<Vec<u128>>()), (filter, (100_151..100_171).step_by(2).collect())]
    {
        let params = SearchParams { filter, ..SearchParams::new(&[0.0; DIM], 10) };
        let ids: Vec<u128> = index.search(&params).unwrap().iter().map(|hit| hit.id).collect();
        assert_eq!(ids, expected);
    }
}
