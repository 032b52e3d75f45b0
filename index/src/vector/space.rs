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

    /// Whether two written slots cannot be told apart.
    fn is_same(&self, a: u32, b: u32) -> bool {
        self.records().payload(a) == self.records().payload(b)
    }
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
