//! Vectors to store and to ask with, and what the right answers are.
//!
//! Real ones: from a folder of embeddings, or texts of this machine through the embedding model. A few thousand texts
//! become more by copying rows with noise (a copy's cosine to its original is about 0.85, as between texts about the
//! same thing), because embedding 50,000 texts takes most of an hour on two cores.

use std::fs;
use std::path::Path;

use half::f16;
use mira_embed::Embedder;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::BenchError;

/// The squared length of the noise that makes a copy.
const NOISE: f32 = 0.384;
/// Texts embedded at a time.
const BATCH: usize = 64;
/// Two scores are the same answer when they are this near: vectors pass through f32 and int8 on their way.
const SAME_SCORE: f32 = 1e-4;

/// Base vectors and queries, each of length 1.
pub struct Vectors {
    dim: usize,
    base: Vec<f32>,
    queries: Vec<f32>,
    /// Where they come from, for the report.
    pub origin: String,
}

impl Vectors {
    /// The files `*.base.f16` and `*.query.f16` (IEEE half floats, little-endian, row by row, 384 components) of a
    /// folder, copied with noise up to `rows` base vectors if there are fewer.
    pub fn read(folder: &Path, rows: usize) -> Result<Vectors, BenchError> {
        let dim = 384;
        let read = |ending: &str| -> Result<Vec<f32>, BenchError> {
            let files = fs::read_dir(folder).map_err(BenchError::io(folder))?.flatten().map(|entry| entry.path());
            let mut files = files.filter(|path| path.to_string_lossy().ends_with(ending));
            let file = files.next();
            let file = file.ok_or_else(|| BenchError::Input(format!("no *{ending} in {}", folder.display())))?;
            read_f16(&file, dim)
        };
        let originals = read(".base.f16")?;
        let known = originals.len() / dim;
        let copied = if rows > known { format!(", {known} of them copied with noise") } else { String::new() };
        let origin = format!("all-MiniLM-L6-v2 of package descriptions{copied}");
        let base = with_copies(&originals, dim, rows.max(known));
        Ok(Vectors { dim, base, queries: read(".query.f16")?, origin })
    }

    /// Embeds texts, a tenth of them as queries, and copies them with noise up to `rows` base vectors. What was
    /// embedded is kept in `cache` and used again.
    pub fn embed(texts: &[String], rows: usize, cache: &Path, model: &dyn Embedder) -> Result<Vectors, BenchError> {
        let dim = model.model().dim;
        let file = cache.join(format!("{}-{}-{:016x}.f16", model.model().name, texts.len(), fingerprint(texts)));
        let embedded = if file.exists() {
            read_f16(&file, dim)?
        } else {
            let embedded = embed_all(texts, model)?;
            fs::create_dir_all(cache).map_err(BenchError::io(cache))?;
            write_f16(&file, &embedded)?;
            embedded
        };
        let (queries, originals) = embedded.split_at((texts.len() / 10).max(1) * dim);
        let origin = format!("{} of {} texts of this machine, copied with noise", model.model().name, texts.len());
        Ok(Vectors { dim, base: with_copies(originals, dim, rows), queries: queries.to_vec(), origin })
    }

    /// Random directions in a few heaps; for trying the measurements out, not for figures.
    pub fn invent(rows: usize, dim: usize) -> Vectors {
        let mut random = StdRng::seed_from_u64(7);
        let mut heaps: Vec<f32> = (0..20 * dim).map(|_| gaussian(&mut random)).collect();
        heaps.chunks_mut(dim).for_each(normalize);
        let (queries, originals) = heaps.split_at(10 * dim);
        let origin = "invented".to_owned();
        Vectors { dim, base: with_copies(originals, dim, rows), queries: queries.to_vec(), origin }
    }

    /// Components of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How many base vectors.
    pub fn rows(&self) -> usize {
        self.base.len() / self.dim
    }

    /// How many queries.
    pub fn queries(&self) -> usize {
        self.queries.len() / self.dim
    }

    /// A base vector; numbers beyond the last begin again.
    pub fn row(&self, number: usize) -> &[f32] {
        let at = number % self.rows() * self.dim;
        &self.base[at..at + self.dim]
    }

    /// A query; numbers beyond the last begin again.
    pub fn query(&self, number: usize) -> &[f32] {
        let at = number % self.queries() * self.dim;
        &self.queries[at..at + self.dim]
    }

    /// Of the `k` rows that a search among the first `rows` found for a query, the share that is right: as near as the
    /// k-th nearest, by comparing with every row. The oracle shares no code with what it judges.
    pub fn recall(&self, query: usize, rows: usize, found: &[usize], k: usize) -> f64 {
        let query = self.query(query);
        let mut scores: Vec<f32> = (0..rows).map(|row| dot(query, self.row(row))).collect();
        let right = |row: usize, worst: f32| dot(query, self.row(row)) >= worst - SAME_SCORE;
        let (_, worst, _) = scores.select_nth_unstable_by(k.min(rows) - 1, |a, b| b.total_cmp(a));
        let worst = *worst;
        found.iter().take(k).filter(|&&row| row < rows && right(row, worst)).count() as f64 / k.min(rows) as f64
    }
}

fn embed_all(texts: &[String], model: &dyn Embedder) -> Result<Vec<f32>, BenchError> {
    let mut all = Vec::with_capacity(texts.len() * model.model().dim);
    for batch in texts.chunks(BATCH) {
        let batch: Vec<&str> = batch.iter().map(String::as_str).collect();
        let vectors = model.embed(&batch).map_err(|error| BenchError::Input(error.to_string()))?;
        vectors.iter().for_each(|vector| all.extend_from_slice(vector));
    }
    Ok(all)
}

/// The originals, then noisy copies of each in turn.
fn with_copies(originals: &[f32], dim: usize, rows: usize) -> Vec<f32> {
    let mut random = StdRng::seed_from_u64(1);
    let sigma = (NOISE / dim as f32).sqrt();
    let mut base = originals[..originals.len().min(rows * dim)].to_vec();
    for number in base.len() / dim..rows {
        let at = number * dim % originals.len();
        let mut copy = originals[at..at + dim].to_vec();
        copy.iter_mut().for_each(|component| *component += sigma * gaussian(&mut random));
        normalize(&mut copy);
        base.append(&mut copy);
    }
    base
}

fn read_f16(path: &Path, dim: usize) -> Result<Vec<f32>, BenchError> {
    let bytes = fs::read(path).map_err(BenchError::io(path))?;
    let (halves, rest) = bytes.as_chunks::<2>();
    if halves.is_empty() || !rest.is_empty() || !halves.len().is_multiple_of(dim) {
        return Err(BenchError::Input(format!("{} does not hold rows of {dim} half floats", path.display())));
    }
    let mut vectors: Vec<f32> = halves.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect();
    // Rounding to half floats has changed the lengths a little.
    vectors.chunks_mut(dim).for_each(normalize);
    Ok(vectors)
}

fn write_f16(path: &Path, vectors: &[f32]) -> Result<(), BenchError> {
    let bytes: Vec<u8> = vectors.iter().flat_map(|&component| f16::from_f32(component).to_le_bytes()).collect();
    let part = path.with_added_extension("part");
    fs::write(&part, bytes).and_then(|()| fs::rename(&part, path)).map_err(BenchError::io(path))
}

fn fingerprint(texts: &[String]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    texts.hash(&mut hasher);
    hasher.finish()
}

/// Eight sums side by side, which the compiler keeps in one register.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

fn normalize(vector: &mut [f32]) {
    let length = dot(vector, vector).sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|component| *component /= length);
    }
}

/// Box and Muller's transform.
fn gaussian(random: &mut StdRng) -> f32 {
    let (u, v): (f32, f32) = (1.0 - random.random::<f32>(), random.random());
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

#[cfg(test)]
mod tests {
    use mira_embed::HashEmbedder;

    use super::*;

    #[test]
    fn recall_counts_what_is_as_near_as_the_nearest() {
        let vectors = Vectors::invent(200, 16);
        let mut order: Vec<usize> = (0..200).collect();
        let score = |row: usize| dot(vectors.query(3), vectors.row(row));
        order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
        assert_eq!(vectors.recall(3, 200, &order[..10], 10), 1.0);
        assert_eq!(vectors.recall(3, 200, &order[5..15], 10), 0.5);
        assert_eq!(vectors.recall(3, 200, &order[100..110], 10), 0.0);
        assert_eq!(vectors.recall(3, 200, &order[..4], 10), 0.4, "what is missing counts as wrong");
    }

    #[test]
    fn texts_are_embedded_once() {
        let folder = tempfile::tempdir().unwrap();
        let texts: Vec<String> = (0..30).map(|at| format!("text number {at}")).collect();
        let model = HashEmbedder::new(32);
        let first = Vectors::embed(&texts, 100, folder.path(), &model).unwrap();
        let again = Vectors::embed(&texts, 100, folder.path(), &model).unwrap();
        assert_eq!((first.rows(), first.queries()), (100, 3));
        let differs = (0..100).map(|row| 1.0 - dot(first.row(row), again.row(row))).fold(0.0, f32::max);
        assert!(differs < 1e-3, "half floats round: {differs}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_copy_is_near_its_original_but_not_the_same() {
        let vectors = Vectors::invent(30, 64);
        let near = dot(vectors.row(0), vectors.row(10));
        assert!((0.7..0.95).contains(&near), "{near}");
    }
}
