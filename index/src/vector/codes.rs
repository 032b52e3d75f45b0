//! What the graph walks over: vectors in the form in which two of them are compared most cheaply.
//!
//! **Int8** keeps a vector `x` as one scale `s = max|x| / 63` and bytes `c = round(x / s) + 64` in 1..=127, so that
//! `x ≈ s · (c - 64)`. A query is `t · r` with signed bytes `r`. Then `x · q ≈ s · t · (Σ c·r - 64 · Σ r)`, an integer
//! sum, one constant per query and one multiplication. L2 also wants `‖x‖²`, kept as a second number per vector. A
//! stored vector becomes a query by `r = c - 64`, so linking needs nothing but codes.
//!
//! **Full** keeps f32 and compares exactly. **Binary** is in `binary`.
//!
//! **Inner product** is no metric: the best match of a vector need not be the vector itself, and a graph linked by it
//! strands short vectors. So nodes are *linked* as if lifted to the sphere of the longest vector (Bachrach et al. 2014:
//! an extra component `√(L² - ‖x‖²)`), while a search, whose extra component is 0, compares by the plain product. L
//! grows with the data; older links keep the L of their time.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::vector::arena::Records;
use crate::vector::binary::BinaryCodes;
use crate::vector::config::{Config, Metric, Quantization};
use crate::vector::kernels::{self, CODE_BLOCK, Isa};
use crate::vector::rows::Row;
use crate::vector::search::default_ef;

/// How many times more is rescored after a scan of one-bit codes than after a walk: less leaves filters below a recall of
/// 0.95 that the same beam reaches without one (`conditions_keep_recall_at_any_selectivity`).
const BINARY_SCAN: usize = 3;
/// Fewest documents rescored.
const MIN_RESCORED: usize = 20;

/// Vectors by slot, comparable with a prepared query.
pub(crate) trait Space: Sync {
    /// A query in the form this space compares with.
    type Probe: Default;

    /// Higher is nearer. Equal to the metric's score up to quantisation.
    fn similarity(&self, probe: &Self::Probe, slot: u32) -> f32;

    /// Asks for the memory that `similarity` will read.
    fn prefetch(&self, slot: u32);

    /// Turns a stored vector into a query for linking.
    fn probe_slot(&self, slot: u32, probe: &mut Self::Probe);

    /// Whether two written slots cannot be told apart.
    fn is_same(&self, a: u32, b: u32) -> bool;
}

/// Two numbers of a vector, before its components.
pub(crate) const PREFIX: usize = 2;

/// The longest vector so far, squared. Bits of non-negative floats order like the floats.
#[derive(Default)]
pub(crate) struct Longest(AtomicU32);

impl Longest {
    pub(crate) fn add(&self, norm_squared: f32) {
        self.0.fetch_max(norm_squared.to_bits(), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> f32 {
        f32::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// The extra component that lifts a vector of this squared norm to the sphere.
pub(crate) fn lift(longest: f32, norm_squared: f32) -> f32 {
    (longest - norm_squared).max(0.0).sqrt()
}

/// Seven-bit codes.
pub(crate) struct Int8Codes {
    metric: Metric,
    isa: Isa,
    padded: usize,
    /// Adds up codes by the same kernel that multiplies them: linking turns some hundred codes into queries.
    ones: Vec<i8>,
    pub(crate) records: Records,
    longest: Longest,
}

/// A query as signed bytes.
#[derive(Default)]
pub(crate) struct Int8Probe {
    bytes: Vec<i8>,
    /// 64 · Σ r.
    offset: i32,
    /// t, doubled under L2.
    factor: f32,
    /// -‖q‖² under L2, else 0.
    constant: f32,
    /// The query's lifted component and the sphere it was taken on; `None` for a plain comparison.
    lifted: Option<(f32, f32)>,
}

impl Int8Codes {
    fn new(config: &Config) -> Self {
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

    fn encode(&self, vector: &[f32]) -> Vec<u32> {
        let largest = vector.iter().fold(0.0f32, |max, value| max.max(value.abs()));
        let scale = largest / 63.0;
        let inverse = if scale > 0.0 { 1.0 / f64::from(scale) } else { 0.0 };
        let mut payload = vec![0u32; PREFIX + self.padded / 4];
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

    /// A query from outside, in eight bits.
    pub(crate) fn probe(&self, query: &[f32]) -> Int8Probe {
        let largest = query.iter().fold(0.0f32, |max, value| max.max(value.abs()));
        let scale = largest / 127.0;
        let inverse = if scale > 0.0 { 1.0 / f64::from(scale) } else { 0.0 };
        let mut probe = Int8Probe { bytes: vec![0; self.padded], ..Int8Probe::default() };
        for (byte, value) in probe.bytes.iter_mut().zip(query) {
            *byte = (f64::from(*value) * inverse).round() as i8;
        }
        let (sum, squares) = probe.bytes.iter().fold((0, 0), |(sum, squares), byte| {
            let value = i32::from(*byte);
            (sum + value, squares + value * value)
        });
        self.finish(&mut probe, scale, sum, -(scale * scale * squares as f32));
        probe
    }

    /// Sets the numbers of a query from its scale, the sum of its bytes and its `-‖q‖²`.
    fn finish(&self, probe: &mut Int8Probe, scale: f32, sum: i32, minus_norm_squared: f32) {
        let is_l2 = self.metric == Metric::L2;
        probe.offset = 64 * sum;
        probe.factor = if is_l2 { 2.0 * scale } else { scale };
        probe.constant = if is_l2 { minus_norm_squared } else { 0.0 };
        probe.lifted = None;
    }
}

impl Space for Int8Codes {
    type Probe = Int8Probe;

    #[inline]
    fn similarity(&self, probe: &Int8Probe, slot: u32) -> f32 {
        let (scale, second, codes) = self.parts(slot);
        let product = kernels::dot_u7(self.isa, codes, &probe.bytes) - probe.offset;
        let similarity = scale * probe.factor * product as f32;
        match (self.metric, probe.lifted) {
            (Metric::Cosine, _) | (Metric::Dot, None) => similarity,
            (Metric::L2, _) => similarity + (second + probe.constant),
            (Metric::Dot, Some((component, longest))) => similarity + component * lift(longest, second),
        }
    }

    #[inline]
    fn prefetch(&self, slot: u32) {
        if let Some(record) = self.records.location(slot) {
            kernels::prefetch(record);
        }
    }

    fn probe_slot(&self, slot: u32, probe: &mut Int8Probe) {
        let (scale, second, codes) = self.parts(slot);
        probe.bytes.clear();
        probe.bytes.extend(codes.iter().map(|code| code.wrapping_sub(64) as i8));
        // Padding is 64, which stands for 0, so it may be summed along.
        let sum = kernels::dot_u7(self.isa, codes, &self.ones) - 64 * self.padded as i32;
        self.finish(probe, scale, sum, second);
        if self.metric == Metric::Dot {
            let longest = self.longest.get();
            probe.lifted = Some((lift(longest, second), longest));
        }
    }

    fn is_same(&self, a: u32, b: u32) -> bool {
        self.records.payload(a) == self.records.payload(b)
    }
}

/// f32 vectors.
pub(crate) struct FullCodes {
    metric: Metric,
    isa: Isa,
    dim: usize,
    pub(crate) records: Records,
    longest: Longest,
}

/// A query in full precision.
#[derive(Default)]
pub(crate) struct FullProbe {
    values: Vec<f32>,
    lifted: Option<(f32, f32)>,
}

impl FullCodes {
    fn new(config: &Config) -> Self {
        let (metric, dim, isa) = (config.metric, config.dim, Isa::detected());
        FullCodes { metric, isa, dim, records: Records::new(PREFIX + dim), longest: Longest::default() }
    }

    fn encode(&self, vector: &[f32]) -> Vec<u32> {
        let norm_squared = kernels::dot_f32(self.isa, vector, vector);
        let mut payload = vec![norm_squared.to_bits(), 0];
        payload.extend(vector.iter().map(|value| value.to_bits()));
        payload
    }

    fn parts(&self, slot: u32) -> (f32, &[f32]) {
        let payload = self.records.payload(slot).expect("the graph links written slots only");
        (f32::from_bits(payload[0]), &bytemuck::cast_slice(&payload[PREFIX..])[..self.dim])
    }

    /// A query from outside.
    pub(crate) fn probe(&self, query: &[f32]) -> FullProbe {
        FullProbe { values: query.to_vec(), lifted: None }
    }

    /// The row of a written slot.
    pub(crate) fn row(&self, slot: u32) -> Option<Row<'_>> {
        let payload = self.records.payload(slot)?;
        Some(Row::Full(&bytemuck::cast_slice(&payload[PREFIX..])[..self.dim]))
    }
}

impl Space for FullCodes {
    type Probe = FullProbe;

    #[inline]
    fn similarity(&self, probe: &FullProbe, slot: u32) -> f32 {
        let (norm_squared, vector) = self.parts(slot);
        match (self.metric, probe.lifted) {
            (Metric::L2, _) => -kernels::l2_f32(self.isa, vector, &probe.values),
            (Metric::Cosine, _) | (Metric::Dot, None) => kernels::dot_f32(self.isa, vector, &probe.values),
            (Metric::Dot, Some((component, longest))) => {
                kernels::dot_f32(self.isa, vector, &probe.values) + component * lift(longest, norm_squared)
            }
        }
    }

    #[inline]
    fn prefetch(&self, slot: u32) {
        if let Some(record) = self.records.location(slot) {
            kernels::prefetch(record);
        }
    }

    fn probe_slot(&self, slot: u32, probe: &mut FullProbe) {
        let (norm_squared, vector) = self.parts(slot);
        probe.values.clear();
        probe.values.extend_from_slice(vector);
        let longest = self.longest.get();
        probe.lifted = (self.metric == Metric::Dot).then(|| (lift(longest, norm_squared), longest));
    }

    fn is_same(&self, a: u32, b: u32) -> bool {
        self.records.payload(a) == self.records.payload(b)
    }
}

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

    /// The beam where the caller names none.
    pub(crate) fn default_ef(&self, live: usize) -> usize {
        match self {
            Codes::Full(_) | Codes::Int8(_) => default_ef(live),
            Codes::Binary(_) => 2 * default_ef(live),
        }
    }

    /// The records: their state is the stamp of the slot's birth, their mark that of its death.
    #[inline]
    pub(crate) fn records(&self) -> &Records {
        with_space!(self, space => &space.records)
    }

    /// Encodes and writes a vector that [`prepare`](crate::vector::config::prepare) has prepared.
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
        match self {
            Codes::Int8(space) => PREFIX + space.padded / 4,
            Codes::Full(space) => PREFIX + space.dim,
            Codes::Binary(space) => space.payload_words(),
        }
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

    /// Similarity is the metric's score, up to the error that 7 bits allow, from outside and from a stored slot.
    #[test]
    fn similarity_approximates_the_score() {
        for metric in [Metric::Dot, Metric::L2] {
            let codes = Int8Codes::new(&config(metric, Quantization::Int8));
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

    #[test]
    fn zero_and_extreme_vectors_encode() {
        let codes = Int8Codes::new(&config(Metric::L2, Quantization::Int8));
        codes.records.write(0, &codes.encode(&[0.0; 37]));
        codes.records.write(1, &codes.encode(&[-1e15; 37]));
        codes.records.write(2, &codes.encode(&[f32::MIN_POSITIVE / 8.0; 37]));
        let probe = codes.probe(&[0.0; 37]);
        assert_eq!(codes.similarity(&probe, 0), 0.0);
        assert!(codes.similarity(&probe, 1).is_finite());
        assert!(codes.similarity(&probe, 2).is_finite());
    }
}
