//! One byte per component: seven bits and one scale per vector.
//!
//! A vector `x` is kept as one scale `s = max|x| / 63` and bytes `c = round(x / s) + 64` in 1..=127, so that
//! `x ≈ s · (c - 64)`. A query is `t · r` with signed bytes `r`. Then `x · q ≈ s · t · (Σ c·r - 64 · Σ r)`, an integer
//! sum, one constant per query and one multiplication. L2 also wants `‖x‖²`, kept as a second number per vector. A
//! stored vector becomes a query by `r = c - 64`, so linking needs nothing but codes.

use mira_proto::model::Metric;

use crate::vector::arena::Records;
use crate::vector::config::Config;
use crate::vector::kernels::{self, CODE_BLOCK, Isa};
use crate::vector::space::{Longest, PREFIX, ProbeScale, ScoreRange, Slack, Space};

/// Seven-bit codes.
pub(crate) struct Int8Codes {
    pub(crate) metric: Metric,
    isa: Isa,
    padded: usize,
    /// Adds up codes by the same kernel that multiplies them: linking turns some hundred codes into queries.
    ones: Vec<i8>,
    records: Records,
    pub(crate) longest: Longest,
}

/// A query as signed bytes.
#[derive(Default)]
pub(crate) struct Int8Probe {
    bytes: Vec<i8>,
    /// 64 · Σ r.
    offset: i32,
    scale: ProbeScale,
}

impl Int8Codes {
    pub(crate) fn new(config: &Config) -> Self {
        let padded = config.dim.next_multiple_of(CODE_BLOCK);
        Int8Codes {
            metric: config.metric,
            isa: Isa::detected(),
            padded,
            ones: vec![1; padded],
            records: Records::new(PREFIX + padded / 4),
            longest: Longest::default(),
        }
    }

    pub(crate) fn encode(&self, vector: &[f32]) -> Vec<u32> {
        let largest = vector.iter().fold(0.0f32, |max, value| max.max(value.abs()));
        let scale = largest / 63.0;
        let inverse = if scale > 0.0 { 1.0 / f64::from(scale) } else { 0.0 };
        let mut payload = vec![0u32; self.payload_words()];
        let (prefix, words) = payload.split_at_mut(PREFIX);
        let codes: &mut [u8] = bytemuck::cast_slice_mut(words);
        codes.fill(64);
        for (code, value) in codes.iter_mut().zip(vector) {
            *code = ((f64::from(*value) * inverse).round() as i8 + 64) as u8;
        }
        prefix.copy_from_slice(&[scale.to_bits(), self.second_number(scale, codes).to_bits()]);
        payload
    }

    /// What a comparison needs of `‖x‖²`: of the coded vector, so that codes form a metric space of their own and
    /// the error of near vectors is small.
    fn second_number(&self, scale: f32, codes: &[u8]) -> f32 {
        let squares: i32 = codes.iter().map(|code| (i32::from(*code) - 64).pow(2)).sum();
        let norm_squared = scale * scale * squares as f32;
        match self.metric {
            Metric::Cosine => 0.0,
            Metric::Dot => norm_squared,
            Metric::L2 => -norm_squared,
        }
    }

    fn parts(&self, slot: u32) -> (f32, f32, &[u8]) {
        let payload = self.records.payload(slot).expect("the graph links written slots only");
        let codes = &bytemuck::cast_slice(&payload[PREFIX..])[..self.padded];
        (f32::from_bits(payload[0]), f32::from_bits(payload[1]), codes)
    }

    /// Words of 32 bits of a payload.
    pub(crate) fn payload_words(&self) -> usize {
        PREFIX + self.padded / 4
    }
}

/// The scale of a query in eight bits.
fn probe_scale(query: &[f32]) -> f32 {
    query.iter().fold(0.0f32, |max, value| max.max(value.abs())) / 127.0
}

impl Space for Int8Codes {
    type Probe = Int8Probe;

    fn probe(&self, query: &[f32]) -> Int8Probe {
        let scale = probe_scale(query);
        let inverse = if scale > 0.0 { 1.0 / f64::from(scale) } else { 0.0 };
        let mut bytes = vec![0; self.padded];
        for (byte, value) in bytes.iter_mut().zip(query) {
            *byte = (f64::from(*value) * inverse).round() as i8;
        }
        let (sum, squares) = bytes.iter().fold((0, 0), |(sum, squares), byte| {
            let value = i32::from(*byte);
            (sum + value, squares + value * value)
        });
        let scale = ProbeScale::new(self.metric, scale, -(scale * scale * squares as f32));
        Int8Probe { bytes, offset: 64 * sum, scale }
    }

    fn slack(&self, query: &[f32], probe: &Int8Probe) -> Slack {
        let step = f64::from(probe_scale(query));
        let (mut sum, mut moved, mut length) = (0.0, 0.0, 0.0);
        for (value, byte) in query.iter().zip(&probe.bytes) {
            let value = f64::from(*value);
            sum += value.abs();
            moved += (value - step * f64::from(*byte)).powi(2);
            length += value * value;
        }
        Slack { half_sum: sum / 2.0, moved: moved.sqrt(), length: length.sqrt() }
    }

    #[inline]
    fn range(&self, probe: &Int8Probe, slack: &Slack, slot: u32) -> ScoreRange {
        let (scale, second, codes) = self.parts(slot);
        let product = kernels::dot_u7(self.isa, codes, &probe.bytes) - probe.offset;
        let similarity = f64::from(probe.scale.similarity(self.metric, scale, second, product));
        let rounding = probe.scale.rounding(scale, second, product);
        // Rounding to a code moves a component by half a step, a hair more where the step itself was rounded; taking the
        // centre off, by a last bit.
        let step = f64::from(scale) * (1.0 + 1e-5);
        let moved = step / 2.0 * (self.padded as f64).sqrt();
        match self.metric {
            Metric::L2 => {
                let lengths = f64::from(-second).sqrt() + slack.length;
                let moved = moved + slack.moved + f64::from(f32::EPSILON) * lengths;
                ScoreRange::of_distance(-similarity, rounding, moved)
            }
            // A vector has length 1, its code that and what rounding moved it by.
            Metric::Cosine => {
                ScoreRange::around(similarity, step * slack.half_sum + (1.0 + moved) * slack.moved + rounding)
            }
            Metric::Dot => {
                let length = f64::from(second).sqrt() * (1.0 + 1e-5);
                let moved = slack.moved + f64::from(f32::EPSILON) * slack.length;
                ScoreRange::around(similarity, step * slack.half_sum + length * moved + rounding)
            }
        }
    }

    #[inline]
    fn similarity(&self, probe: &Int8Probe, slot: u32) -> f32 {
        let (scale, second, codes) = self.parts(slot);
        let product = kernels::dot_u7(self.isa, codes, &probe.bytes) - probe.offset;
        probe.scale.similarity(self.metric, scale, second, product)
    }

    fn probe_slot(&self, slot: u32, probe: &mut Int8Probe) {
        let (scale, second, codes) = self.parts(slot);
        probe.bytes.clear();
        probe.bytes.extend(codes.iter().map(|code| code.wrapping_sub(64) as i8));
        // Padding is 64, which stands for 0, so it may be summed along.
        probe.offset = 64 * (kernels::dot_u7(self.isa, codes, &self.ones) - 64 * self.padded as i32);
        probe.scale = ProbeScale::linking(self.metric, scale, second, &self.longest);
    }

    #[inline]
    fn records(&self) -> &Records {
        &self.records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(seed: u64) -> Vec<f32> {
        (0..37u64).map(|i| (((seed * 37 + i) * 2_654_435_761 % 1_000) as f32 / 500.0) - 1.0).collect()
    }

    /// Similarity is the metric's score, up to the error that 7 bits allow, from outside and from a stored slot.
    #[test]
    fn similarity_approximates_the_score() {
        for metric in [Metric::Dot, Metric::L2] {
            let codes = Int8Codes::new(&Config::new(37, metric));
            let all: Vec<_> = (1..40).map(vector).collect();
            for (slot, vector) in all.iter().enumerate() {
                codes.records.write(slot as u32, &codes.encode(vector));
            }
            for query in &all {
                let probe = codes.probe(query);
                for (slot, vector) in all.iter().enumerate() {
                    let dot: f32 = vector.iter().zip(query).map(|(x, y)| x * y).sum();
                    let l2: f32 = vector.iter().zip(query).map(|(x, y)| (x - y) * (x - y)).sum();
                    let expected = if metric == Metric::Dot { dot } else { -l2 };
                    let got = codes.similarity(&probe, slot as u32);
                    assert!((got - expected).abs() < 0.35, "{metric:?} {got} {expected}");
                }
            }
        }
    }

    #[test]
    fn zero_and_extreme_vectors_encode() {
        let codes = Int8Codes::new(&Config::new(37, Metric::L2));
        codes.records.write(0, &codes.encode(&[0.0; 37]));
        codes.records.write(1, &codes.encode(&[-1e15; 37]));
        codes.records.write(2, &codes.encode(&[f32::MIN_POSITIVE / 8.0; 37]));
        let probe = codes.probe(&[0.0; 37]);
        assert_eq!(codes.similarity(&probe, 0), 0.0);
        assert!(codes.similarity(&probe, 1).is_finite());
        assert!(codes.similarity(&probe, 2).is_finite());
    }
}
