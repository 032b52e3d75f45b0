//! Measuring recall with an index's own vectors: as asking one by one would, beside the exact answers.

use std::sync::atomic::{AtomicUsize, Ordering};

use mira_index::{Config, IndexError, Metric, Quantization, RowCache, RowStorage, Samples, SearchParams, VectorIndex};

use crate::clusters::Clusters;
use crate::shelf::Shelf;

const DIM: usize = 24;
const K: usize = 10;

fn never() -> bool {
    false
}

fn filled(quantization: Quantization, count: u128) -> (VectorIndex, std::sync::Arc<Shelf>) {
    let mut clusters = Clusters::new(3, DIM, 10);
    let shelf = Shelf::new(DIM);
    let config = Config { quantization, exact_below: 500, ..Config::new(DIM, Metric::Cosine) };
    let index = VectorIndex::with_storage(config, &RowStorage::Source(shelf.clone(), RowCache::new(1 << 20))).unwrap();
    for id in 0..count {
        // Some documents have several passages, of which the best counts.
        let passages: Vec<f32> = (0..1 + id % 3).flat_map(|_| clusters.vector()).collect();
        shelf.documents.lock().insert(id, passages.clone());
        index.upsert(id, &passages).unwrap();
    }
    (index, shelf)
}

fn mean(index: &VectorIndex, samples: &Samples, ef: usize) -> f64 {
    let asked = (0..samples.len()).map(|number| samples.ask(index, number, ef, &never).unwrap().recall);
    asked.sum::<f64>() / samples.len() as f64
}

#[test]
fn a_wider_beam_finds_more_until_it_finds_all() {
    for quantization in [Quantization::Int8, Quantization::Binary, Quantization::None] {
        let (index, shelf) = filled(quantization, 4_000);
        assert!(index.has_graph());
        let before = shelf.reads.load(Ordering::Relaxed);
        let samples = Samples::take(&index, 200, K, 7, &never).unwrap();
        assert_eq!(samples.len(), 200);
        let read = shelf.reads.load(Ordering::Relaxed) - before;
        assert!(read <= index.stats().live_vectors + 200, "each row is read once, not {read} times");
        let found: Vec<f64> = [16, 64, 4_000].iter().map(|ef| mean(&index, &samples, *ef)).collect();
        println!("{quantization:?}: {found:?}");
        // One bit of 24 components says next to nothing: only where nearly everything is rescored, nearly all is found.
        let all = if quantization == Quantization::Binary { 0.98 } else { 0.999 };
        assert!(found[2] > all, "{quantization:?}: {found:?}");
        assert!(found.is_sorted(), "{quantization:?}: {found:?}");
    }
}

/// Documents that go after the right answers were found are not expected any more, and new nearer ones are no mistake.
#[test]
fn changes_meanwhile_are_no_mistakes() {
    let (index, shelf) = filled(Quantization::Int8, 2_000);
    let samples = Samples::take(&index, 50, K, 1, &never).unwrap();
    let before = mean(&index, &samples, 2_000);
    for id in (0..2_000).step_by(3) {
        shelf.documents.lock().remove(&id);
        index.remove(id);
    }
    let twins: Vec<(u128, Vec<f32>)> =
        shelf.documents.lock().iter().take(400).map(|(id, vectors)| (id + 10_000, vectors.clone())).collect();
    for (id, vectors) in twins {
        shelf.documents.lock().insert(id, vectors.clone());
        index.upsert(id, &vectors).unwrap();
    }
    let after = mean(&index, &samples, 2_000);
    assert!(before > 0.999 && after > 0.99, "{before} {after}");
}

#[test]
fn small_and_empty_indexes_have_no_graph() {
    let (index, _) = filled(Quantization::Int8, 50);
    assert!(!index.has_graph());
    let samples = Samples::take(&index, 200, K, 3, &never).unwrap();
    assert_eq!(samples.len(), 50, "each document once");
    assert_eq!(mean(&index, &samples, 16), 1.0);
    let (empty, _) = filled(Quantization::Int8, 0);
    assert!(Samples::take(&empty, 200, K, 3, &never).unwrap().is_empty());
    // Alone, a document has no neighbours to be missed.
    let (one, _) = filled(Quantization::Int8, 1);
    assert_eq!(mean(&one, &Samples::take(&one, 200, K, 3, &never).unwrap(), 16), 1.0);
}

#[test]
fn a_pass_stops_when_it_is_told_to() {
    let (index, _) = filled(Quantization::Int8, 2_000);
    let asked = AtomicUsize::new(0);
    let third = || asked.fetch_add(1, Ordering::Relaxed) == 2;
    assert!(matches!(Samples::take(&index, 10, K, 0, &third), Err(IndexError::Aborted)));
    assert!(Samples::take(&index, 10, 0, 0, &never).is_err());
    assert!(index.search(&SearchParams::new(&[1.0; DIM], K)).is_ok());
}
