//! One bit per component: the signs of a randomly rotated vector (RaBitQ, Gao & Long 2024, without its centroids).
//!
//! A rotation `R` spreads whatever structure the components have evenly, so that the signs alone say much: for a rotated
//! vector `x' = R x` and a rotated query `q' = R q`,
//!
//! ```text
//! x · q ≈ (‖x‖² / ‖x'‖₁) · Σ sign(x'_i) · q'_i
//! ```
//!
//! which is exact for `q = x` and right on average over rotations; its error falls with √dim. The query is rounded to
//! four bits, of which each makes a plane of bits, so a comparison is a handful of `popcount`s. A stored vector becomes a
//! query of ±1 for linking, so linking needs nothing but codes; there both sides are signs, which orders by angle too.
//!
//! The rotation is three rounds of random signs and Walsh–Hadamard transforms over the first and the last `2^n`
//! components: orthogonal, and O(dim · log dim). It follows from the seed and the dimension, so that an index read back
//! from an image has the same.

use mira_proto::model::Metric;

use crate::vector::arena::Records;
use crate::vector::config::Config;
use crate::vector::kernels::{self, Isa, PLANES};
use crate::vector::space::{Longest, PREFIX, ProbeScale, ScoreRange, Slack, Space};

/// Rounds of signs and transforms; one mixes each half, the second both, the third is for small dimensions.
const ROUNDS: usize = 3;

/// A random orthogonal matrix that is quick to multiply with.
struct Rotation {
    /// ±1, `dim` for each transform.
    signs: Vec<f32>,
    dim: usize,
}

impl Rotation {
    fn new(dim: usize, seed: u64) -> Self {
        let mut state = seed ^ 0x6d69_7261_2072_6f74;
        let mut sign = || {
            // splitmix64.
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut x = state;
            x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            if (x ^ (x >> 31)) & 1 == 1 { 1.0 } else { -1.0 }
        };
        Rotation { signs: (0..2 * ROUNDS * dim).map(|_| sign()).collect(), dim }
    }

    fn apply(&self, vector: &[f32]) -> Vec<f32> {
        let mut rotated = vector.to_vec();
        let width = 1 << self.dim.ilog2();
        for (number, signs) in self.signs.chunks_exact(self.dim).enumerate() {
            rotated.iter_mut().zip(signs).for_each(|(value, sign)| *value *= sign);
            let start = if number % 2 == 0 { 0 } else { self.dim - width };
            hadamard(&mut rotated[start..start + width]);
        }
        rotated
    }
}

/// The Walsh–Hadamard transform, scaled to keep lengths. The length is a power of two.
fn hadamard(values: &mut [f32]) {
    let mut half = 1;
    while half < values.len() {
        for block in values.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (values.len() as f32).sqrt();
    values.iter_mut().for_each(|value| *value *= scale);
}

/// One-bit codes: a payload is `‖x‖² / ‖x'‖₁`, the norm squared (0 under cosine, negative under L2), and the signs.
pub(crate) struct BinaryCodes {
    pub(crate) metric: Metric,
    isa: Isa,
    /// Words of 64 signs; those beyond the dimension are 0 in codes and queries.
    words: usize,
    dim: usize,
    rotation: Rotation,
    records: Records,
    pub(crate) longest: Longest,
}

/// A query as planes of bits, of two's complement: plane `j` counts `2^j`, the last one negative.
#[derive(Default)]
pub(crate) struct BinaryProbe {
    planes: Vec<u64>,
    /// Σ r over the components.
    sum: i32,
    scale: ProbeScale,
}

impl BinaryCodes {
    pub(crate) fn new(config: &Config) -> Self {
        let words = config.dim.div_ceil(64);
        BinaryCodes {
            metric: config.metric,
            isa: Isa::detected(),
            words,
            dim: config.dim,
            rotation: Rotation::new(config.dim, config.seed),
            records: Records::new(PREFIX + 2 * words),
            longest: Longest::default(),
        }
    }

    /// Words of 32 bits of a payload.
    pub(crate) fn payload_words(&self) -> usize {
        PREFIX + 2 * self.words
    }

    pub(crate) fn encode(&self, vector: &[f32]) -> Vec<u32> {
        // In f64: components may be as large as 1e15 and as small as they like.
        let rotated = self.rotation.apply(vector);
        let norm_squared: f64 = rotated.iter().map(|value| f64::from(*value).powi(2)).sum();
        let sum: f64 = rotated.iter().map(|value| f64::from(value.abs())).sum();
        let factor = if sum > 0.0 { norm_squared / sum } else { 0.0 };
        let mut payload = vec![0u32; self.payload_words()];
        payload[0] = (factor as f32).to_bits();
        let second = match self.metric {
            Metric::Cosine => 0.0,
            Metric::Dot => norm_squared as f32,
            Metric::L2 => -norm_squared as f32,
        };
        payload[1] = second.to_bits();
        for (at, value) in rotated.iter().enumerate() {
            payload[PREFIX + at / 32] |= u32::from(*value > 0.0) << (at % 32);
        }
        payload
    }

    fn parts(&self, slot: u32) -> (f32, f32, &[u64]) {
        let payload = self.records.payload(slot).expect("the graph links written slots only");
        let bits = bytemuck::cast_slice(&payload[PREFIX..PREFIX + 2 * self.words]);
        (f32::from_bits(payload[0]), f32::from_bits(payload[1]), bits)
    }
}

impl Space for BinaryCodes {
    type Probe = BinaryProbe;

    fn probe(&self, query: &[f32]) -> BinaryProbe {
        let rotated = self.rotation.apply(query);
        let largest = rotated.iter().fold(0.0f32, |max, value| max.max(value.abs()));
        let scale = largest / 7.0;
        let inverse = if scale > 0.0 { 1.0 / f64::from(scale) } else { 0.0 };
        let mut probe = BinaryProbe { planes: vec![0; PLANES * self.words], ..BinaryProbe::default() };
        for (at, value) in rotated.iter().enumerate() {
            let rounded = (f64::from(*value) * inverse).round() as i32;
            probe.sum += rounded;
            for plane in 0..PLANES {
                probe.planes[plane * self.words + at / 64] |= ((rounded >> plane & 1) as u64) << (at % 64);
            }
        }
        let norm_squared = query.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
        probe.scale = ProbeScale::new(self.metric, scale, -(norm_squared as f32));
        probe
    }

    fn slack(&self, _: &[f32], _: &BinaryProbe) -> Slack {
        Slack::default()
    }

    /// Signs estimate; what they rule out for certain is next to nothing.
    fn range(&self, _: &BinaryProbe, _: &Slack, _: u32) -> ScoreRange {
        ScoreRange::ANY
    }

    #[inline]
    fn similarity(&self, probe: &BinaryProbe, slot: u32) -> f32 {
        let (factor, second, bits) = self.parts(slot);
        // A sign is 2 · bit - 1.
        let product = 2 * kernels::dot_bits(self.isa, bits, &probe.planes) - probe.sum;
        probe.scale.similarity(self.metric, factor, second, product)
    }

    fn probe_slot(&self, slot: u32, probe: &mut BinaryProbe) {
        let (factor, second, bits) = self.parts(slot);
        probe.planes.clear();
        let positive: u32 = bits.iter().map(|word| word.count_ones()).sum();
        probe.sum = 2 * positive as i32 - self.dim as i32;
        // 1 is 0001 and -1 is 1111.
        let in_use = |at: usize| if 64 * (at + 1) <= self.dim { u64::MAX } else { (1 << (self.dim % 64)) - 1 };
        probe.planes.extend((0..self.words).map(in_use));
        for _ in 1..PLANES {
            probe.planes.extend(bits.iter().enumerate().map(|(at, word)| !word & in_use(at)));
        }
        probe.scale = ProbeScale::linking(self.metric, factor, second, &self.longest);
    }

    #[inline]
    fn records(&self) -> &Records {
        &self.records
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn random(seed: u64, dim: usize) -> Vec<f32> {
        let mut random = StdRng::seed_from_u64(seed);
        (0..dim).map(|_| random.random_range(-1.0..1.0)).collect()
    }

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn a_rotation_keeps_products() {
        for dim in [1, 2, 3, 48, 100, 384, 1_536] {
            let rotation = Rotation::new(dim, 7);
            for seed in 0..5 {
                let (a, b) = (random(seed, dim), random(seed + 50, dim));
                let (before, after) = (dot(&a, &b), dot(&rotation.apply(&a), &rotation.apply(&b)));
                assert!((before - after).abs() < 1e-3 * dim as f32, "{dim} {before} {after}");
            }
        }
    }

    /// Estimates are right on average, and their error is that of one bit per component.
    #[test]
    fn similarity_estimates_the_score() {
        let dim = 384;
        for metric in [Metric::Dot, Metric::L2] {
            let codes = BinaryCodes::new(&Config::new(dim, metric));
            let (mut error, mut squares) = (0.0f64, 0.0f64);
            let vectors: Vec<_> = (0..100).map(|seed| random(seed, dim)).collect();
            for (slot, vector) in (0..).zip(&vectors) {
                codes.records.write(slot, &codes.encode(vector));
            }
            for query in (200..220).map(|seed| random(seed, dim)) {
                let probe = codes.probe(&query);
                for (slot, vector) in (0..).zip(&vectors) {
                    let l2: f32 = vector.iter().zip(&query).map(|(x, y)| (x - y) * (x - y)).sum();
                    let (expected, unit) = match metric {
                        Metric::L2 => (-l2, 2.0),
                        _ => (dot(vector, &query), 1.0),
                    };
                    let off = f64::from((codes.similarity(&probe, slot) - expected) / unit);
                    (error, squares) = (error + off, squares + off * off);
                }
            }
            let (mean, deviation) = (error / 2_000.0, (squares / 2_000.0f64).sqrt());
            // Norms are √128 each: 128 · √((π/2 - 1) / 384) is 4.9 for signs alone.
            assert!(mean.abs() < 0.5 && deviation < 6.0, "{metric:?}: {mean} ± {deviation}");
        }
    }
}
