//! The point that codes are taken around, where vectors lie far from the origin.
//!
//! A code has seven bits, or one, for each component, and a scale for all: of vectors around (10,000, 10,000) that differ
//! by a few units it says nothing. Under L2 and inner product all of them may be moved by the same vector without changing
//! who is nearer to whom. So codes are made of what is left when a *centre*, the mean, is taken off, where that is much
//! less. Rows stay as they are. Under cosine there is no such freedom, and none is needed: lengths are 1.
//!
//! A centre is chosen when an index is rebuilt, and kept as long as it does. The first vectors of an index say whether it
//! needs one; until it has it, searches look at everything (`search/scan.rs`), which is right at any resolution.

use mira_proto::model::{Metric, Quantization};
use parking_lot::Mutex;

use crate::vector::config::Config;

/// A centre is worth having where it takes this part of the squared length off.
const WORTH: f64 = 0.75;
/// An old centre is kept until what is left of vectors around it is so many times what a new one would leave.
const STALE: f64 = 2.0;
/// Vectors by which an index is judged.
pub(crate) const SAMPLE: usize = 256;

/// Whether codes of this shape are taken around a centre where that helps. Those that are the rows are not.
pub(crate) fn is_useful(config: &Config) -> bool {
    config.metric != Metric::Cosine && config.quantization != Quantization::None
}

/// Whether codes of this shape may say too little where vectors lie far from the origin. Differences of single-precision
/// numbers do not; their products do, and searches of such an index look at everything.
pub(crate) fn is_needed(config: &Config) -> bool {
    is_useful(config) || config.metric == Metric::Dot
}

/// Sums over the first vectors of an index.
#[derive(Default)]
pub(crate) struct Moments {
    count: usize,
    sums: Vec<f64>,
    squares: f64,
}

impl Moments {
    fn add(&mut self, vector: &[f32]) {
        self.sums.resize(vector.len(), 0.0);
        for (sum, value) in self.sums.iter_mut().zip(vector) {
            let value = f64::from(*value);
            *sum += value;
            self.squares += value * value;
        }
        self.count += 1;
    }

    fn mean(&self) -> impl Iterator<Item = f64> {
        self.sums.iter().map(|sum| sum / self.count as f64)
    }

    /// Mean squared distance of the vectors to a point.
    fn spread_around(&self, point: impl Iterator<Item = f64>) -> f64 {
        let (mut cross, mut length) = (0.0, 0.0);
        for (mean, value) in self.mean().zip(point) {
            cross += mean * value;
            length += value * value;
        }
        self.squares / self.count as f64 - 2.0 * cross + length
    }

    /// The centre that codes of such vectors should have.
    fn centre(&self, old: Option<&[f32]>) -> Option<Box<[f32]>> {
        if self.count == 0 {
            return old.map(Box::from);
        }
        let left = self.spread_around(self.mean()).max(0.0);
        if let Some(old) = old.filter(|old| old.len() == self.sums.len()) {
            let kept = self.spread_around(old.iter().map(|value| f64::from(*value)));
            if kept <= STALE * left {
                return Some(old.into());
            }
        }
        let all = self.squares / self.count as f64;
        (left < (1.0 - WORTH) * all).then(|| self.mean().map(|value| value as f32).collect())
    }
}

/// The centre that codes of some vectors should have, where those so far were taken around `old`.
pub(crate) fn of_rows<'a>(rows: impl IntoIterator<Item = &'a [f32]>, old: Option<&[f32]>) -> Option<Box<[f32]>> {
    let mut moments = Moments::default();
    rows.into_iter().for_each(|row| moments.add(row));
    moments.centre(old)
}

/// Judges an index by the first vectors that come in: `None` once that is done.
pub(crate) struct Judge(Mutex<Option<Moments>>);

impl Judge {
    /// For an index of this shape.
    pub(crate) fn new(config: &Config) -> Self {
        Judge(Mutex::new(is_needed(config).then(Moments::default)))
    }

    /// Takes a vector; at the last one that is needed says whether another centre than the index has would be better.
    pub(crate) fn add(&self, vector: &[f32], centre: Option<&[f32]>) -> Option<bool> {
        let mut moments = self.0.lock();
        let moments_so_far = moments.as_mut()?;
        moments_so_far.add(vector);
        if moments_so_far.count < SAMPLE {
            return None;
        }
        let better = moments_so_far.centre(centre);
        *moments = None;
        Some(better.as_deref() != centre)
    }
}

/// A vector as its code is made of it.
pub(crate) fn around(centre: Option<&[f32]>, vector: &[f32], out: &mut Vec<f32>) {
    out.clear();
    match centre {
        None => out.extend_from_slice(vector),
        Some(centre) => out.extend(vector.iter().zip(centre).map(|(value, middle)| value - middle)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(offset: f32) -> Vec<[f32; 2]> {
        (0..100).map(|at| [offset + (at % 10) as f32 - 4.5, -offset + (at / 10) as f32 - 4.5]).collect()
    }

    fn centre(rows: &[[f32; 2]], old: Option<&[f32]>) -> Option<Box<[f32]>> {
        of_rows(rows.iter().map(<[f32; 2]>::as_slice), old)
    }

    #[test]
    fn far_vectors_have_a_centre_and_keep_it_while_it_does() {
        assert_eq!(centre(&rows(0.0), None), None, "those around the origin need none");
        let far = centre(&rows(10_000.0), None).unwrap();
        assert_eq!(*far, [10_000.0, -10_000.0]);
        assert_eq!(centre(&rows(10_001.0), Some(&far)), Some(far.clone()), "it still does");
        assert_eq!(centre(&rows(20_000.0), Some(&far)).unwrap()[0], 20_000.0);
        assert_eq!(centre(&rows(0.0), Some(&far)), None);
        assert_eq!(centre(&[], Some(&far)), Some(far));
        let mut outlier = rows(0.0);
        outlier.push([1e15, 0.0]);
        assert_eq!(centre(&outlier, None), None, "one vector makes no centre");
    }
}
