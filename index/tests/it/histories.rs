//! Random histories of an index: documents that come, change and go, with compactions and restarts between them.

use mira_index::{Hit, Metric, RowStorage, VectorIndex};
use proptest::prelude::*;

pub(crate) const DIM: usize = 5;
pub(crate) const METRICS: [Metric; 3] = [Metric::Cosine, Metric::Dot, Metric::L2];

/// One step of a history.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Upsert {
        id: u8,
        vectors: Vec<i8>,
    },
    Remove {
        id: u8,
    },
    Compact,
    /// Written as an image and read back.
    Restart,
}

/// Few distinct components, so that equal vectors and tied scores are common; never the zero vector.
pub(crate) fn vectors() -> impl Strategy<Value = Vec<i8>> {
    let one = proptest::collection::vec(-2i8..=2, DIM).prop_map(|mut vector| {
        if vector.iter().all(|value| *value == 0) {
            vector[0] = 1;
        }
        vector
    });
    proptest::collection::vec(one, 1..4).prop_map(|passages| passages.concat())
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        24 => (any::<u8>(), vectors()).prop_map(|(id, vectors)| Step::Upsert { id, vectors }),
        8 => any::<u8>().prop_map(|id| Step::Remove { id }),
        2 => Just(Step::Compact),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..250)
}

pub(crate) fn to_f32(vector: &[i8]) -> Vec<f32> {
    vector.iter().map(|value| f32::from(*value)).collect()
}

/// Components this small make scores that equal the model's bit for bit under dot and L2; under cosine, normalising rounds.
pub(crate) fn same(metric: Metric, found: &[Hit], expected: &[Hit]) -> bool {
    let close = |(a, b): (&Hit, &Hit)| (a.score - b.score).abs() < 2e-3;
    match metric {
        Metric::Cosine => found.len() == expected.len() && found.iter().zip(expected).all(close),
        _ => found == expected,
    }
}

/// The index as its image gives it back.
pub(crate) fn restart(index: &VectorIndex, storage: &RowStorage) -> VectorIndex {
    let mut image = Vec::new();
    index.write_image(&mut image).unwrap();
    VectorIndex::read_image(image.as_slice(), storage).unwrap()
}
