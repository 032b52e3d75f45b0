//! What a collection chooses once: metric, dimension, quantisation, parameters of the graph.

use mira_proto::model::{Metric, Quantization};

use crate::error::IndexError;
use crate::limits::MAX_DIMENSION;

/// The beam with which a search begins where the caller names none; twice as wide over one-bit codes. It widens until the
/// best hits change no more.
pub const DEFAULT_EF: usize = 48;

/// The shape of one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Components per vector, 1 to [`MAX_DIMENSION`].
    pub dim: usize,
    /// How vectors are compared; a score is always higher for the better hit. Under cosine vectors are normalised when they
    /// enter, and the zero vector is refused; under L2 scores are negative squared distances, in (-∞, 0].
    pub metric: Metric,
    /// What the graph walks over; hits are always rescored from full-precision rows. `None` walks over f32 vectors, which
    /// are the rows. `Int8` takes one byte per component (7 bits used) and one scale per vector, with rows beside it.
    /// `Binary` takes one bit per component after a random rotation and two numbers per vector, with the same
    /// rows: a sixth of the memory of `Int8` for codes, for a wider beam and more rows read at the same recall.
    pub quantization: Quantization,
    /// Links of a new node per layer (4..=64); the bottom layer holds up to twice as many.
    pub m: usize,
    /// Beam width while linking (`m` to 4,096).
    pub ef_construction: usize,
    /// Up to this many vectors every search scans all of them; beyond, a graph is built.
    pub exact_below: usize,
    /// Decides the layers of nodes; the same seed and the same order of inserts give the same graph.
    pub seed: u64,
}

impl Config {
    /// The defaults of `docs/adr/0002-own-hnsw-graph.md` for this dimension and metric.
    pub fn new(dim: usize, metric: Metric) -> Self {
        Config {
            dim,
            metric,
            quantization: Quantization::Int8,
            m: 16,
            ef_construction: 128,
            exact_below: 2_000,
            seed: 0,
        }
    }

    /// Refuses what the index cannot hold.
    pub(crate) fn check(&self) -> Result<(), IndexError> {
        if !(1..=MAX_DIMENSION).contains(&self.dim) {
            return Err(IndexError::InvalidDimension { dim: self.dim });
        }
        if !(4..=64).contains(&self.m) {
            return Err(IndexError::InvalidParameter { name: "m", value: self.m, allowed: "4..=64" });
        }
        if !(self.m..=4_096).contains(&self.ef_construction) {
            let value = self.ef_construction;
            return Err(IndexError::InvalidParameter { name: "ef_construction", value, allowed: "m..=4096" });
        }
        Ok(())
    }
}
