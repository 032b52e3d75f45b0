//! Images: the same answers after a round trip, an error for every byte that is not as it was written.

use std::ops::Bound;

use mira_index::{
    Attributes, Condition, Config, Document, ImageError, Metric, Quantization, RowStorage, SearchParams, Span, Test,
    Times, TypeSet, Value, VectorIndex, Where,
};
use proptest::prelude::*;

use crate::clusters::Clusters;

const DIM: usize = 12;

/// An index with updates, deletes, equal vectors and documents of several passages.
fn sample(metric: Metric, quantization: Quantization, exact_below: usize, documents: u128) -> VectorIndex {
    let mut clusters = Clusters::new(8, DIM, 12);
    let index = VectorIndex::new(Config { quantization, exact_below, ..Config::new(DIM, metric) }).unwrap();
    let repeated = clusters.vector();
    for id in 0..documents {
        match id % 5 {
            0 => index.upsert(id, &repeated).unwrap(),
            1 => index.upsert(id, &[clusters.vector(), clusters.vector(), clusters.vector()].concat()).unwrap(),
            2 => index.upsert(id / 2, &clusters.vector()).unwrap(),
            _ => index.upsert(id, &clusters.vector()).unwrap(),
        }
        if id % 7 == 0 {
            index.remove(id);
        }
    }
    index
}

fn bytes(index: &VectorIndex) -> Vec<u8> {
    let mut bytes = Vec::new();
    index.write_image(&mut bytes).unwrap();
    bytes
}

fn read(bytes: &[u8]) -> Result<VectorIndex, ImageError> {
    VectorIndex::read_image(bytes, &RowStorage::Memory)
}

fn assert_same_answers(a: &VectorIndex, b: &VectorIndex) {
    let mut clusters = Clusters::new(8, DIM, 12);
    assert_eq!((a.len(), a.config()), (b.len(), b.config()));
    for _ in 0..60 {
        let query = clusters.vector();
        let params = SearchParams { ef: Some(24), ..SearchParams::new(&query, 10) };
        assert_eq!(a.search(&params).unwrap(), b.search(&params).unwrap());
        assert_eq!(a.search_exact(&params).unwrap(), b.search_exact(&params).unwrap());
    }
}

#[test]
fn answers_survive_a_round_trip() {
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        for quantization in [Quantization::None, Quantization::Int8, Quantization::Binary] {
            for (exact_below, documents) in [(0, 0), (0, 1), (0, 3_000), (600, 700), (10_000, 500)] {
                let index = sample(metric, quantization, exact_below, documents);
                let image = bytes(&index);
                assert_eq!(image, bytes(&index), "an image is deterministic");
                let restored = read(&image).unwrap();
                assert_same_answers(&index, &restored);
                // The restored index goes on like the first.
                let mut clusters = Clusters::new(3, DIM, 12);
                for id in 0..50 {
                    let vector = clusters.vector();
                    index.upsert(id, &vector).unwrap();
                    restored.upsert(id, &vector).unwrap();
                }
                assert_same_answers(&index, &restored);
                restored.compact(1, &|| false).unwrap();
                assert_eq!(restored.len(), index.len());
            }
        }
    }
}

/// A snapshot holds what was there when it was taken, however long writing it takes.
#[test]
fn a_snapshot_ignores_what_comes_later() {
    let index = sample(Metric::L2, Quantization::Int8, 200, 1_000);
    let frozen = read(&bytes(&index)).unwrap();
    let snapshot = index.snapshot();
    let mut clusters = Clusters::new(4, DIM, 12);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for id in 0..1_500 {
                index.upsert(id, &clusters.vector()).unwrap();
                index.remove(id / 2);
            }
        });
        for _ in 0..5 {
            let mut image = Vec::new();
            snapshot.write(&mut image).unwrap();
            let restored = read(&image).unwrap();
            assert_eq!(restored.len(), frozen.len());
            let mut queries = Clusters::new(5, DIM, 12);
            for _ in 0..20 {
                let query = queries.vector();
                let params = SearchParams::new(&query, 10);
                assert_eq!(restored.search_exact(&params).unwrap(), frozen.search_exact(&params).unwrap());
            }
        }
    });
}

#[test]
fn foreign_and_future_images_are_refused() {
    let image = bytes(&sample(Metric::L2, Quantization::Int8, 0, 50));
    assert!(matches!(read(b"not an index image at all"), Err(ImageError::NotAnImage)));
    assert!(matches!(read(b""), Err(ImageError::Truncated)));
    let mut future = image.clone();
    future[8] = 6;
    assert!(matches!(read(&future), Err(ImageError::UnsupportedVersion(6))));
    let past = [
        (1, &include_bytes!("../samples/version-1.image")[..]),
        (2, include_bytes!("../samples/version-2.image")),
        (3, include_bytes!("../samples/version-3.image")),
        (4, include_bytes!("../samples/version-4.image")),
    ];
    for (version, past) in past {
        assert!(matches!(read(past), Err(ImageError::UnsupportedVersion(found)) if found == version));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_changed_byte_is_noticed(place in any::<prop::sample::Index>(), change in 1u8..=255) {
        let mut image = bytes(&sample(Metric::Cosine, Quantization::Int8, 0, 60));
        let place = place.index(image.len());
        image[place] ^= change;
        prop_assert!(read(&image).is_err());
    }

    #[test]
    fn a_truncated_image_is_noticed(end in any::<prop::sample::Index>()) {
        let image = bytes(&sample(Metric::Cosine, Quantization::Int8, 0, 60));
        let end = end.index(image.len());
        let refused = read(&image[..end]);
        prop_assert!(matches!(refused, Err(ImageError::Truncated)));
    }
}

/// Whether a number is even, its square, and a text too long to be indexed for the last.
fn parity(id: u128) -> Attributes {
    let mut pairs = vec![
        ("even".to_owned(), Value::Bool(id.is_multiple_of(2))),
        ("square".to_owned(), Value::Number((id as i64 * id as i64).into())),
        ("name".to_owned(), format!("n{id}").as_str().into()),
    ];
    if id == 11 {
        pairs.push(("long".to_owned(), "x".repeat(1_000).as_str().into()));
    }
    Attributes::new(pairs)
}

/// A small index whose answers can be told by hand: points on a line.
fn line() -> VectorIndex {
    let index = VectorIndex::new(Config { exact_below: 0, ..Config::new(2, Metric::L2) }).unwrap();
    for id in 0..12u128 {
        index.upsert_with(Document { id, times: Times::default() }, &parity(id), &[id as f32, 1.0]).unwrap();
    }
    index.upsert(20, &[3.0, 1.0, 3.0, 1.5]).unwrap();
    index.remove(5);
    index
}

/// The layout does not change without a new version.
#[test]
fn the_committed_sample_of_version_5_reads() {
    let sample = include_bytes!("../samples/version-5.image");
    let index = read(sample).unwrap();
    let hits = index.search(&SearchParams::new(&[5.0, 1.0], 3)).unwrap();
    let found: Vec<_> = hits.iter().map(|hit| (hit.id, hit.score)).collect();
    assert_eq!(found, [(4, -1.0), (6, -1.0), (3, -4.0)]);
    let even = Condition::Field("even".into(), Test::In(vec![Value::Bool(true)]));
    let square = Span::new(Bound::Included(Value::Number(10i64.into())), Bound::Unbounded).unwrap();
    let condition = Condition::All(vec![even, Condition::Field("square".into(), Test::Within(square))]);
    let verify = |document: &Document| document.id == 11;
    let condition = Some(Where { condition: &condition, verify: &verify });
    let params = SearchParams { condition, ..SearchParams::new(&[5.0, 1.0], 9) };
    let found: Vec<_> = index.search(&params).unwrap().iter().map(|hit| hit.id).collect();
    assert_eq!(found, [4, 6, 8, 10, 11], "11 may match, and was asked about");
    let types = ["even", "square", "long", "absent"].map(|field| index.field_types(field));
    assert_eq!(types, [TypeSet::BOOL, TypeSet::NUMBER, TypeSet::TEXT, TypeSet::NONE]);
    let among = index.search_among(&[20, 5], &SearchParams::new(&[3.0, 1.5], 2)).unwrap();
    assert_eq!((among.len(), among[0].id, among[0].passage, among[0].score), (1, 20, 1, 0.0));
    assert_eq!(bytes(&line()), sample, "the layout changed: raise the version and add a sample");
}

/// Run by hand after the version was raised: `cargo test -p mira-index --test it image:: -- --ignored`.
#[test]
#[ignore = "writes the sample"]
fn write_the_sample() {
    std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples/version-5.image"), bytes(&line())).unwrap();
}
