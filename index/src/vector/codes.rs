//! What the graph walks over: vectors in the form in which two of them are compared most cheaply.
//!
//! One of three spaces holds them, as the collection chose: seven-bit codes (`int8`), one-bit codes (`binary`), or f32
//! (`full`).

use mira_proto::model::{Metric, Quantization};

use crate::vector::arena::Records;
use crate::vector::binary::BinaryCodes;
use crate::vector::config::{Config, DEFAULT_EF};
use crate::vector::full::FullCodes;
use crate::vector::graph::Patience;
use crate::vector::int8::Int8Codes;
use crate::vector::space::Space;

/// How many times more is rescored after a scan of one-bit codes than after a walk: less leaves filters below a recall of
/// 0.95 that the same beam reaches without one (`conditions_keep_recall_at_any_selectivity`).
const BINARY_SCAN: usize = 3;
/// How many times as many nodes are expanded as when the best hits changed last.
const PATIENCE: f32 = 2.0;
/// Fewest best hits that are to be settled: a few may have been found early by chance. More, and more patience, find more
/// where vectors lie in clusters, and cost every other search as much: sampled answers raise it where it is needed.
const FEWEST_SETTLED: usize = 10;
/// The widest beam that a search comes to by itself.
const WIDEST: usize = 1_024;
/// Fewest documents rescored.
const MIN_RESCORED: usize = 20;

/// The codes of one index.
pub(crate) enum Codes {
    /// Seven-bit codes.
    Int8(Int8Codes),
    /// f32.
    Full(FullCodes),
    /// One-bit codes.
    Binary(BinaryCodes),
}

/// Runs the same expression on whichever space the index has.
macro_rules! with_space {
    ($codes:expr, $space:ident => $body:expr) => {
        match $codes {
            $crate::vector::codes::Codes::Int8($space) => $body,
            $crate::vector::codes::Codes::Full($space) => $body,
            $crate::vector::codes::Codes::Binary($space) => $body,
        }
    };
}
pub(crate) use with_space;

impl Codes {
    pub(crate) fn new(config: &Config) -> Self {
        match config.quantization {
            Quantization::Int8 => Codes::Int8(Int8Codes::new(config)),
            Quantization::None => Codes::Full(FullCodes::new(config)),
            Quantization::Binary => Codes::Binary(BinaryCodes::new(config)),
        }
    }

    /// How many times the documents wanted are scored again from full-precision rows, and at least how many: what the
    /// codes rank among the best must hold the true best.
    pub(crate) fn rescored(&self, k: usize, ef: usize) -> usize {
        match self {
            Codes::Full(_) | Codes::Int8(_) => (2 * k).max(MIN_RESCORED),
            // One bit ranks roughly: everything that the beam found.
            Codes::Binary(_) => ef.max(4 * k),
        }
    }

    /// As [`rescored`](Self::rescored), after a scan of codes in the place of a walk with this beam.
    pub(crate) fn rescored_after_scan(&self, k: usize, beam: usize) -> usize {
        match self {
            Codes::Full(_) | Codes::Int8(_) => self.rescored(k, beam),
            // What a filter leaves may lie far away and almost equally far, where one bit tells little apart.
            Codes::Binary(_) => self.rescored(k, BINARY_SCAN * beam),
        }
    }

    /// The beam with which a search begins where the caller names none.
    pub(crate) fn first_ef(&self) -> usize {
        match self {
            Codes::Full(_) | Codes::Int8(_) => DEFAULT_EF,
            Codes::Binary(_) => 2 * DEFAULT_EF,
        }
    }

    /// When such a beam widens, with so many times the usual patience.
    pub(crate) fn patience(&self, k: usize, effort: f32) -> Patience {
        let (top, widest) = match self {
            Codes::Full(_) | Codes::Int8(_) => (k.max(FEWEST_SETTLED), WIDEST),
            // Rows of the whole beam are read.
            Codes::Binary(_) => (k.max(FEWEST_SETTLED), WIDEST / 2),
        };
        Patience { top, factor: PATIENCE * effort, widest }
    }

    /// The records: their state is the stamp of the slot's birth, their mark that of its death.
    #[inline]
    pub(crate) fn records(&self) -> &Records {
        with_space!(self, space => space.records())
    }

    /// Encodes and writes a vector that [`prepare`](crate::vector::input::prepare) has prepared.
    pub(crate) fn push(&self, slot: u32, vector: &[f32]) {
        let payload = with_space!(self, space => space.encode(vector));
        self.push_payload(slot, &payload);
    }

    /// Writes a payload of another index of the same shape.
    pub(crate) fn push_payload(&self, slot: u32, payload: &[u32]) {
        match self {
            Codes::Int8(space) if space.metric == Metric::Dot => space.longest.add(f32::from_bits(payload[1])),
            Codes::Full(space) if space.metric == Metric::Dot => space.longest.add(f32::from_bits(payload[0])),
            Codes::Binary(space) if space.metric == Metric::Dot => space.longest.add(f32::from_bits(payload[1])),
            _ => {}
        }
        self.records().write(slot, payload);
    }

    /// Words of a payload.
    pub(crate) fn payload_words(&self) -> usize {
        with_space!(self, space => space.payload_words())
    }

    /// The payload of a written slot.
    pub(crate) fn payload(&self, slot: u32) -> Option<&[u32]> {
        self.records().payload(slot).map(|payload| &payload[..self.payload_words()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(metric: Metric, quantization: Quantization) -> Config {
        Config { quantization, ..Config::new(37, metric) }
    }

    fn vector(seed: u64) -> Vec<f32> {
        (0..37u64).map(|i| (((seed * 37 + i) * 2_654_435_761 % 1_000) as f32 / 500.0) - 1.0).collect()
    }

    #[test]
    fn linking_is_symmetric_and_a_vector_is_nearest_to_itself() {
        for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
            for quantization in [Quantization::Int8, Quantization::None, Quantization::Binary] {
                let codes = Codes::new(&config(metric, quantization));
                for slot in 0..30 {
                    codes.push(slot, &vector(u64::from(slot) + 1));
                }
                with_space!(&codes, space => {
                    let (mut probe, mut other) = (Default::default(), Default::default());
                    for a in 0..30 {
                        space.probe_slot(a, &mut probe);
                        let own = space.similarity(&probe, a);
                        for b in 0..30 {
                            space.probe_slot(b, &mut other);
                            let (ab, ba) = (space.similarity(&probe, b), space.similarity(&other, a));
                            assert!((ab - ba).abs() < 1e-4, "{metric:?} {ab} {ba}");
                            // Signs estimate: only of real distances is a vector's own the least for certain.
                            if metric != Metric::Cosine && quantization != Quantization::Binary {
                                assert!(ab <= own + 1e-4);
                            }
                        }
                    }
                });
            }
        }
    }
}
