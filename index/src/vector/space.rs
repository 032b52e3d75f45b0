//! What the graph asks of vectors: how near one of them is to another.
//!
//! **Inner product** is no metric: the best match of a vector need not be the vector itself, and a graph linked by it
//! strands short vectors. So nodes are *linked* as if lifted to the sphere of the longest vector (Bachrach et al. 2014:
//! an extra component `√(L² - ‖x‖²)`), while a search, whose extra component is 0, compares by the plain product. L
//! grows with the data; older links keep the L of their time.

use std::sync::atomic::{AtomicU32, Ordering};

use mira_proto::model::Metric;

use crate::vector::arena::Records;
use crate::vector::kernels;

/// Vectors by slot, comparable with a prepared query.
pub(crate) trait Space: Sync {
    /// A query in the form this space compares with.
    type Probe: Default;

    /// A query from outside.
    fn probe(&self, query: &[f32]) -> Self::Probe;

    /// Higher is nearer. Equal to the metric's score up to quantisation.
    fn similarity(&self, probe: &Self::Probe, slot: u32) -> f32;

    /// Turns a stored vector into a query for linking.
    fn probe_slot(&self, slot: u32, probe: &mut Self::Probe);

    /// The vectors in this space's form: the state of a record is the stamp of the slot's birth, its mark that of its death.
    fn records(&self) -> &Records;

    /// Asks for the memory that `similarity` will read.
    #[inline]
    fn prefetch(&self, slot: u32) {
        if let Some(record) = self.records().location(slot) {
            kernels::prefetch(record);
        }
    }

    /// The numbers by which `range` judges a query from outside, whose probe this is.
    fn slack(&self, query: &[f32], probe: &Self::Probe) -> Slack;

    /// Between which numbers the metric's score of a written slot must lie.
    fn range(&self, probe: &Self::Probe, slack: &Slack, slot: u32) -> ScoreRange;

    /// Whether two written slots cannot be told apart.
    fn is_same(&self, a: u32, b: u32) -> bool {
        self.records().payload(a) == self.records().payload(b)
    }
}

/// What a code leaves open about a score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ScoreRange {
    /// The score is not below this.
    pub(crate) least: f64,
    /// The score is not above this.
    pub(crate) most: f64,
}

impl ScoreRange {
    /// Any score.
    pub(crate) const ANY: ScoreRange = ScoreRange { least: f64::NEG_INFINITY, most: f64::INFINITY };

    /// Around an estimate.
    pub(crate) fn around(score: f64, error: f64) -> Self {
        ScoreRange { least: score - error, most: score + error }
    }

    /// Scores under L2, from an estimate of the squared distance, by how much rounding may have changed it, and how far both
    /// ends may have moved.
    pub(crate) fn of_distance(squared: f64, rounding: f64, moved: f64) -> Self {
        let (near, far) = ((squared - rounding).max(0.0).sqrt(), (squared + rounding).max(0.0).sqrt());
        ScoreRange { least: -(far + moved).powi(2), most: -(near - moved).max(0.0).powi(2) }
    }

    /// The range of the score that callers see, which is rounded to single precision.
    pub(crate) fn rounded(self) -> Self {
        let outwards = |value: f64| value.abs() * f64::from(f32::EPSILON) + f64::from(f32::MIN_POSITIVE);
        ScoreRange { least: self.least - outwards(self.least), most: self.most + outwards(self.most) }
    }
}

/// What a query contributes to the error of its scores, where a space knows it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Slack {
    /// Half of the sum of the query's absolute components: an error of half a step in each component of a vector.
    pub(crate) half_sum: f64,
    /// The length of what the probe rounds off the query.
    pub(crate) moved: f64,
    /// The length of the query.
    pub(crate) length: f64,
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

    /// Lifts a query for linking, of this squared norm, to the sphere of the longest vector.
    pub(crate) fn lift(&self, norm_squared: f32) -> Lifted {
        let longest = f32::from_bits(self.0.load(Ordering::Relaxed));
        Lifted { component: extra_component(longest, norm_squared), longest }
    }
}

/// A query lifted to the sphere of the longest vector.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lifted {
    /// Its extra component.
    component: f32,
    /// The longest vector when it was lifted, squared.
    longest: f32,
}

impl Lifted {
    /// What the extra components add to the product with a vector of this squared norm.
    #[inline]
    pub(crate) fn product(self, norm_squared: f32) -> f32 {
        self.component * extra_component(self.longest, norm_squared)
    }
}

/// The extra component that lifts a vector of this squared norm to the sphere.
#[inline]
fn extra_component(longest: f32, norm_squared: f32) -> f32 {
    (longest - norm_squared).max(0.0).sqrt()
}

/// The numbers that turn the integer product of a quantised query into a similarity.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ProbeScale {
    /// The query's scale, doubled under L2.
    factor: f32,
    /// -‖q‖² under L2, else 0.
    constant: f32,
    /// The query lifted for linking by inner product; `None` for a plain comparison.
    lifted: Option<Lifted>,
}

impl ProbeScale {
    /// Of a query from outside, by its scale and its `-‖q‖²`.
    pub(crate) fn new(metric: Metric, scale: f32, minus_norm_squared: f32) -> Self {
        let is_l2 = metric == Metric::L2;
        ProbeScale {
            factor: if is_l2 { 2.0 * scale } else { scale },
            constant: if is_l2 { minus_norm_squared } else { 0.0 },
            lifted: None,
        }
    }

    /// Of a stored vector as a query for linking: `second` is what a comparison needs of its `‖x‖²`, which is 0 under cosine
    /// and negative under L2.
    pub(crate) fn linking(metric: Metric, scale: f32, second: f32, longest: &Longest) -> Self {
        let lifted = (metric == Metric::Dot).then(|| longest.lift(second));
        ProbeScale { lifted, ..ProbeScale::new(metric, scale, second) }
    }

    /// How far rounding to single precision may have moved what [`similarity`](Self::similarity) returns.
    pub(crate) fn rounding(&self, scale: f32, second: f32, product: i32) -> f64 {
        let terms = f64::from(scale * self.factor).abs() * f64::from(product).abs()
            + f64::from(second).abs()
            + f64::from(self.constant).abs();
        4.0 * f64::from(f32::EPSILON) * terms
    }

    /// The similarity of a stored vector with this scale and second number to the query.
    #[inline]
    pub(crate) fn similarity(&self, metric: Metric, scale: f32, second: f32, product: i32) -> f32 {
        let similarity = scale * self.factor * product as f32;
        match (metric, self.lifted) {
            (Metric::Cosine, _) | (Metric::Dot, None) => similarity,
            (Metric::L2, _) => similarity + (second + self.constant),
            (Metric::Dot, Some(lifted)) => similarity + lifted.product(second),
        }
    }
}
