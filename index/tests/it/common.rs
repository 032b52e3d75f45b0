//! Data for the tests: vectors in clusters, as embeddings of real texts are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mira_index::{Hit, Passage, RowSource, RowsError, SearchParams, VectorIndex};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Makes vectors around a number of centres.
pub struct Clusters {
    random: StdRng,
    centres: Vec<Vec<f32>>,
}

impl Clusters {
    /// `centres` random centres of dimension `dim`.
    pub fn new(seed: u64, dim: usize, centres: usize) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let centres = (0..centres).map(|_| (0..dim).map(|_| gauss(&mut random)).collect()).collect();
        Clusters { random, centres }
    }

    /// A vector near a random centre.
    pub fn vector(&mut self) -> Vec<f32> {
        let centre = self.random.random_range(0..self.centres.len());
        self.vector_near(centre)
    }

    /// A vector near one centre.
    pub fn vector_near(&mut self, centre: usize) -> Vec<f32> {
        let random = &mut self.random;
        self.centres[centre].iter().map(|value| value + 0.6 * gauss(random)).collect()
    }
}

/// A normally distributed number, by Box and Muller.
pub fn gauss(random: &mut StdRng) -> f32 {
    let (u, v): (f32, f32) = (random.random_range(1e-7..1.0), random.random());
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

/// The share of the exact answer's hits that an answer has.
pub fn recall(found: &[Hit], exact: &[Hit]) -> f64 {
    let hits = exact.iter().filter(|hit| found.iter().any(|other| other.id == hit.id)).count();
    hits as f64 / exact.len().max(1) as f64
}

/// Mean recall over some queries.
pub fn mean_recall(index: &VectorIndex, queries: &[Vec<f32>], k: usize, ef: usize) -> f64 {
    let one = |query: &Vec<f32>| {
        let params = SearchParams { ef: Some(ef), ..SearchParams::new(query, k) };
        recall(&index.search(&params).unwrap(), &index.search_exact(&params).unwrap())
    };
    queries.iter().map(one).sum::<f64>() / queries.len() as f64
}

/// Documents in a map, as a node has them on disk.
pub struct Shelf {
    dim: usize,
    pub documents: Mutex<BTreeMap<u128, Vec<f32>>>,
    pub reads: AtomicUsize,
}

impl Shelf {
    pub fn new(dim: usize) -> Arc<Self> {
        Arc::new(Shelf { dim, documents: Mutex::default(), reads: AtomicUsize::new(0) })
    }
}

impl RowSource for Shelf {
    fn read(&self, wanted: &[Passage], visit: &mut dyn FnMut(usize, &[f32])) -> Result<(), RowsError> {
        let documents = self.documents.lock();
        for (position, wanted) in wanted.iter().enumerate() {
            self.reads.fetch_add(1, Ordering::Relaxed);
            let vectors = documents.get(&wanted.id);
            if let Some(vector) = vectors.and_then(|all| all.chunks_exact(self.dim).nth(wanted.passage as usize)) {
                visit(position, vector);
            }
        }
        Ok(())
    }
}
