//! Vectors in full precision, compared exactly.

use mira_proto::model::Metric;

use crate::vector::arena::Records;
use crate::vector::config::Config;
use crate::vector::kernels::{self, Isa};
use crate::vector::space::{Lifted, Longest, PREFIX, ScoreRange, Slack, Space};

/// f32 vectors.
pub(crate) struct FullCodes {
    pub(crate) metric: Metric,
    isa: Isa,
    dim: usize,
    records: Records,
    pub(crate) longest: Longest,
}

/// A query in full precision.
#[derive(Default)]
pub(crate) struct FullProbe {
    values: Vec<f32>,
    lifted: Option<Lifted>,
}

impl FullCodes {
    pub(crate) fn new(config: &Config) -> Self {
        let (metric, dim, isa) = (config.metric, config.dim, Isa::detected());
        FullCodes { metric, isa, dim, records: Records::new(PREFIX + dim), longest: Longest::default() }
    }

    pub(crate) fn encode(&self, vector: &[f32]) -> Vec<u32> {
        let norm_squared = kernels::dot_f32(self.isa, vector, vector);
        let mut payload = vec![norm_squared.to_bits(), 0];
        payload.extend(vector.iter().map(|value| value.to_bits()));
        payload
    }

    fn parts(&self, slot: u32) -> (f32, &[f32]) {
        let payload = self.records.payload(slot).expect("the graph links written slots only");
        (f32::from_bits(payload[0]), &bytemuck::cast_slice(&payload[PREFIX..])[..self.dim])
    }

    /// Words of 32 bits of a payload.
    pub(crate) fn payload_words(&self) -> usize {
        PREFIX + self.dim
    }

    /// The row of a written slot.
    pub(crate) fn row(&self, slot: u32) -> Option<&[f32]> {
        let payload = self.records.payload(slot)?;
        Some(&bytemuck::cast_slice(&payload[PREFIX..])[..self.dim])
    }
}

impl Space for FullCodes {
    type Probe = FullProbe;

    fn probe(&self, query: &[f32]) -> FullProbe {
        FullProbe { values: query.to_vec(), lifted: None }
    }

    fn slack(&self, query: &[f32], _: &FullProbe) -> Slack {
        Slack { length: kernels::dot_f64(self.isa, query, query).sqrt(), ..Slack::default() }
    }

    /// What sums in single precision may be off by.
    #[inline]
    fn range(&self, probe: &FullProbe, slack: &Slack, slot: u32) -> ScoreRange {
        let (norm_squared, _) = self.parts(slot);
        let similarity = f64::from(self.similarity(probe, slot));
        let rounding = (self.dim + 8) as f64 * f64::from(f32::EPSILON);
        let tiny = self.dim as f64 * f64::from(f32::MIN_POSITIVE);
        match self.metric {
            Metric::L2 => ScoreRange::of_distance(-similarity, rounding * similarity.abs() + tiny, 0.0),
            Metric::Cosine | Metric::Dot => {
                let lengths = f64::from(norm_squared).sqrt() * slack.length;
                ScoreRange::around(similarity, 1.01 * rounding * lengths + tiny)
            }
        }
    }

    #[inline]
    fn similarity(&self, probe: &FullProbe, slot: u32) -> f32 {
        let (norm_squared, vector) = self.parts(slot);
        match (self.metric, probe.lifted) {
            (Metric::L2, _) => -kernels::l2_f32(self.isa, vector, &probe.values),
            (Metric::Cosine, _) | (Metric::Dot, None) => kernels::dot_f32(self.isa, vector, &probe.values),
            (Metric::Dot, Some(lifted)) => {
                kernels::dot_f32(self.isa, vector, &probe.values) + lifted.product(norm_squared)
            }
        }
    }

    fn probe_slot(&self, slot: u32, probe: &mut FullProbe) {
        let (norm_squared, vector) = self.parts(slot);
        probe.values.clear();
        probe.values.extend_from_slice(vector);
        probe.lifted = (self.metric == Metric::Dot).then(|| self.longest.lift(norm_squared));
    }

    #[inline]
    fn records(&self) -> &Records {
        &self.records
    }
}
