//! Vectors in clusters, as embeddings of real texts are.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Makes vectors around a number of centres.
pub(crate) struct Clusters {
    random: StdRng,
    centres: Vec<Vec<f32>>,
}

impl Clusters {
    /// `centres` random centres of dimension `dim`.
    pub(crate) fn new(seed: u64, dim: usize, centres: usize) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let centres = (0..centres).map(|_| (0..dim).map(|_| gauss(&mut random)).collect()).collect();
        Clusters { random, centres }
    }

    /// A vector near a random centre.
    pub(crate) fn vector(&mut self) -> Vec<f32> {
        let centre = self.random.random_range(0..self.centres.len());
        self.vector_near(centre)
    }

    /// A vector near one centre.
    pub(crate) fn vector_near(&mut self, centre: usize) -> Vec<f32> {
        let random = &mut self.random;
        self.centres[centre].iter().map(|value| value + 0.6 * gauss(random)).collect()
    }
}

/// A normally distributed number, by Box and Muller.
fn gauss(random: &mut StdRng) -> f32 {
    let (u, v): (f32, f32) = (random.random_range(1e-7..1.0), random.random());
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}
