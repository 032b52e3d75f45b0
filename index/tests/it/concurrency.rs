//! Many threads at once: what is acknowledged is found, once, in one of its versions, at every moment.

use std::sync::atomic::{AtomicBool, Ordering};

use mira_index::{Config, Metric, SearchParams, VectorIndex};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::clusters::Clusters;

const WRITERS: u128 = 3;
const PER_WRITER: u128 = 1_500;

/// Each writer has its own ids: inserts, updates half and removes a third of them.
fn write(index: &VectorIndex, writer: u128) -> Vec<(u128, Vec<f32>)> {
    let mut clusters = Clusters::new(writer as u64, 24, 20);
    let mut live = Vec::new();
    for number in 0..PER_WRITER {
        let id = number * WRITERS + writer;
        let mut vector = clusters.vector();
        index.upsert(id, &vector).unwrap();
        if number % 2 == 0 {
            vector = clusters.vector();
            index.upsert(id, &vector).unwrap();
        }
        if number % 3 == 0 {
            assert!(index.remove(id));
        } else {
            live.push((id, vector));
        }
    }
    live
}

#[test]
fn every_live_document_is_found_after_concurrent_writes() {
    let index = VectorIndex::new(Config { exact_below: 800, ..Config::new(24, Metric::Cosine) }).unwrap();
    let done = AtomicBool::new(false);
    let live = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|seed| {
                scope.spawn({
                    let (index, done) = (&index, &done);
                    move || {
                        let mut clusters = Clusters::new(90 + seed, 24, 20);
                        while !done.load(Ordering::Relaxed) {
                            let query = clusters.vector();
                            let hits = index.search(&SearchParams::new(&query, 10)).unwrap();
                            let mut ids: Vec<_> = hits.iter().map(|hit| hit.id).collect();
                            ids.sort_unstable();
                            ids.dedup();
                            assert_eq!(ids.len(), hits.len(), "a document was found twice");
                            assert!(hits.windows(2).all(|pair| pair[0].rank(&pair[1]).is_lt()));
                        }
                    }
                })
            })
            .collect();
        let compactor = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if index.needs_compaction() {
                    index.compact(1, &|| false).unwrap();
                }
                std::thread::yield_now();
            }
        });
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn({
                    let index = &index;
                    move || write(index, writer)
                })
            })
            .collect();
        let live: Vec<_> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        compactor.join().unwrap();
        live
    });
    assert_eq!(index.len(), live.len());
    let missed = live.iter().filter(|(id, vector)| {
        let hits = index.search(&SearchParams { ef: Some(128), ..SearchParams::new(vector, 3) }).unwrap();
        hits[0].id != *id
    });
    assert_eq!(missed.count(), 0);
    for (id, vector) in &live {
        assert_eq!(index.search_exact(&SearchParams::new(vector, 1)).unwrap()[0].id, *id);
    }
}

/// Updates of one document race with searches for it: it is always there, exactly once.
#[test]
fn a_document_under_update_is_never_missed() {
    for exact_below in [0, 100_000] {
        let index = VectorIndex::new(Config { exact_below, ..Config::new(8, Metric::L2) }).unwrap();
        let mut clusters = Clusters::new(4, 8, 5);
        for id in 0..200 {
            index.upsert(id, &clusters.vector()).unwrap();
        }
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = StdRng::seed_from_u64(9);
                for _ in 0..3_000 {
                    let passages = random.random_range(1..4);
                    let vectors: Vec<f32> = (0..passages).flat_map(|_| clusters.vector()).collect();
                    index.upsert(77, &vectors).unwrap();
                    if random.random_ratio(1, 200) {
                        index.compact(1, &|| false).unwrap();
                    }
                }
                done.store(true, Ordering::Relaxed);
            });
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let hits =
                        index.search(&SearchParams { ef: Some(256), ..SearchParams::new(&[0.0; 8], 200) }).unwrap();
                    assert_eq!(hits.len(), 200);
                    assert_eq!(hits.iter().filter(|hit| hit.id == 77).count(), 1);
                    let hits = index.search_among(&[77], &SearchParams::new(&[0.0; 8], 2)).unwrap();
                    assert_eq!(hits.len(), 1);
                }
            });
        });
    }
}
