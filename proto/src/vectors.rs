//! The vectors of a frame, as they lie in sealed pieces.
//!
//! A collection has a space of its own, in which its texts' passages have their vectors, and may have named ones, in which
//! a frame has at most one vector each. All of a frame's vectors are one piece:
//!
//! ```text
//! piece = version:u8 part*                                   little-endian
//! part  = space:u8 components:u32 component:f32*             in ascending order of spaces
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::model::Metric;

/// Number of a space in its collection: 0 is the collection's own, the named ones follow in their order.
pub type SpaceNumber = u8;

/// The collection's own space.
pub const OWN_SPACE: SpaceNumber = 0;

/// The last space that a collection can have.
pub const LAST_SPACE: SpaceNumber = limits::MAX_NAMED_VECTORS as SpaceNumber;

/// The longest piece.
pub const MAX_BYTES: usize = 1
    + (limits::MAX_PASSAGES + limits::MAX_NAMED_VECTORS) * limits::MAX_DIM as usize * 4
    + (1 + limits::MAX_NAMED_VECTORS) * PART_HEADER_BYTES;

const VERSION: u8 = 2;
const PART_HEADER_BYTES: usize = 5;

/// What is wrong with a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VectorFault {
    /// It has another number of components.
    #[error("it has {have} components, not {want}")]
    Dimension {
        /// Its components.
        have: usize,
        /// Those that it should have.
        want: usize,
    },
    /// A component is NaN or infinite.
    #[error("component {component} is not a finite number")]
    NotFinite {
        /// Which.
        component: usize,
    },
    /// A component is so large that sums of its squares leave the range of a score.
    #[error("component {component} is beyond ±{max:e}, the most that dot and l2 compare", max = limits::MAX_COMPONENT)]
    TooLarge {
        /// Which.
        component: usize,
    },
    /// It has no direction to compare by cosine.
    #[error("it is all zeros: it has no direction to compare by cosine")]
    Zero,
}

/// Whether a vector can be stored, and asked with, where vectors have `dim` components and are compared by `metric`. The one
/// rule: router, node and index go by it, so that what is acknowledged can be found.
pub fn check(vector: &[f32], dim: usize, metric: Metric) -> Result<(), VectorFault> {
    if vector.len() != dim {
        return Err(VectorFault::Dimension { have: vector.len(), want: dim });
    }
    check_finite(vector)?;
    let is_too_large = |value: &f32| metric != Metric::Cosine && value.abs() > limits::MAX_COMPONENT;
    if let Some(component) = vector.iter().position(is_too_large) {
        return Err(VectorFault::TooLarge { component });
    }
    if metric == Metric::Cosine && vector.iter().all(|value| *value == 0.0) {
        return Err(VectorFault::Zero);
    }
    Ok(())
}

/// The part of [`check`] that holds whatever the vector is compared with.
pub fn check_finite(vector: &[f32]) -> Result<(), VectorFault> {
    match vector.iter().position(|value| !value.is_finite()) {
        Some(component) => Err(VectorFault::NotFinite { component }),
        None => Ok(()),
    }
}

/// Why a piece is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VectorsError {
    /// It is of a version that this program does not know.
    #[error("vectors of unknown version {0}")]
    UnknownVersion(u8),
    /// It is no piece.
    #[error("damaged vectors")]
    Damaged,
}

/// Some of a collection's spaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceSet(u16);

impl SpaceSet {
    /// Whether a space is one of them.
    pub fn has(self, space: SpaceNumber) -> bool {
        debug_assert!(space <= LAST_SPACE);
        self.0 & (1 << space) != 0
    }

    /// All of them, in order.
    pub fn iter(self) -> impl Iterator<Item = SpaceNumber> {
        (OWN_SPACE..=LAST_SPACE).filter(move |&space| self.has(space))
    }
}

impl FromIterator<SpaceNumber> for SpaceSet {
    fn from_iter<I: IntoIterator<Item = SpaceNumber>>(spaces: I) -> Self {
        SpaceSet(spaces.into_iter().fold(0, |set, space| set | 1 << space))
    }
}

/// The vectors of a frame, by space: those of one space one after the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FrameVectors(BTreeMap<SpaceNumber, Vec<f32>>);

impl FrameVectors {
    /// Adds components to those of a space; none changes nothing.
    pub fn add(&mut self, space: SpaceNumber, components: &[f32]) {
        if !components.is_empty() {
            self.0.entry(space).or_default().extend_from_slice(components);
        }
    }

    /// Those of a space.
    pub fn in_space(&self, space: SpaceNumber) -> &[f32] {
        self.0.get(&space).map_or(&[], Vec::as_slice)
    }

    /// The spaces in which there are any.
    pub fn spaces(&self) -> SpaceSet {
        self.0.keys().copied().collect()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The piece.
    pub fn encode(&self) -> Vec<u8> {
        let components: usize = self.0.values().map(Vec::len).sum();
        let mut piece = Vec::with_capacity(1 + PART_HEADER_BYTES * self.0.len() + 4 * components);
        piece.push(VERSION);
        for (&space, components) in &self.0 {
            piece.push(space);
            piece.extend((components.len() as u32).to_le_bytes());
            piece.extend(components.iter().flat_map(|component| component.to_le_bytes()));
        }
        piece
    }

    /// Reads a piece.
    pub fn decode(piece: &[u8]) -> Result<Self, VectorsError> {
        let mut vectors = FrameVectors::default();
        for part in parts(piece)? {
            let (space, components) = part?;
            vectors.0.insert(space, components.iter().map(|four| f32::from_le_bytes(*four)).collect());
        }
        Ok(vectors)
    }
}

/// A space, and the components of its vectors, little-endian.
pub type Part<'a> = (SpaceNumber, &'a [[u8; 4]]);

/// What a piece holds, read in place: one space after the other. After an error it ends.
pub fn parts(piece: &[u8]) -> Result<impl Iterator<Item = Result<Part<'_>, VectorsError>>, VectorsError> {
    let mut rest = match piece.split_first() {
        Some((&VERSION, rest)) => rest,
        Some((&version, _)) => return Err(VectorsError::UnknownVersion(version)),
        None => return Err(VectorsError::Damaged),
    };
    let mut least = 0;
    Ok(std::iter::from_fn(move || {
        let (&space, more) = rest.split_first()?;
        let part = || {
            let (count, more) = more.split_first_chunk()?;
            let (components, more) = more.split_at_checked(u32::from_le_bytes(*count) as usize * 4)?;
            let is_next = space >= least && space <= LAST_SPACE && !components.is_empty();
            is_next.then_some((components.as_chunks::<4>().0, more))
        };
        let Some((components, more)) = part() else {
            rest = &[];
            return Some(Err(VectorsError::Damaged));
        };
        (rest, least) = (more, space + 1);
        Some(Ok((space, components)))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vectors(parts: &[(SpaceNumber, &[f32])]) -> FrameVectors {
        let mut vectors = FrameVectors::default();
        parts.iter().for_each(|(space, components)| vectors.add(*space, components));
        vectors
    }

    #[test]
    fn a_vector_is_taken_or_refused_by_one_rule() {
        use Metric::{Cosine, Dot, L2};
        use VectorFault::{Dimension, NotFinite, TooLarge, Zero};
        let max = limits::MAX_COMPONENT;
        let table: [(&[f32], Metric, Result<(), VectorFault>); 14] = [
            (&[1.0, 2.0], Cosine, Ok(())),
            (&[0.0, 0.0], Cosine, Err(Zero)),
            (&[0.0, -0.0], Cosine, Err(Zero)),
            (&[0.0, 1e-45], Cosine, Ok(())),
            (&[f32::MAX, -f32::MAX], Cosine, Ok(())),
            (&[0.0, 0.0], Dot, Ok(())),
            (&[0.0, 0.0], L2, Ok(())),
            (&[max, -max], Dot, Ok(())),
            (&[1.0, 2e15], Dot, Err(TooLarge { component: 1 })),
            (&[-2e15, 1.0], L2, Err(TooLarge { component: 0 })),
            (&[1.0, f32::NAN], L2, Err(NotFinite { component: 1 })),
            (&[f32::INFINITY, 1.0], Cosine, Err(NotFinite { component: 0 })),
            (&[1.0], Cosine, Err(Dimension { have: 1, want: 2 })),
            (&[1.0, 2.0, 3.0], L2, Err(Dimension { have: 3, want: 2 })),
        ];
        for (vector, metric, expected) in table {
            assert_eq!(check(vector, 2, metric), expected, "{vector:?} {metric:?}");
        }
        // The largest vectors of all, as far apart as can be, have a score.
        let squares = f64::from(max).powi(2) * 4.0 * f64::from(limits::MAX_DIM);
        assert!(squares < f64::from(f32::MAX));
    }

    #[test]
    fn version_2_reads_as_it_was_written() {
        let sample = vectors(&[(3, &[0.5]), (0, &[1.0, -2.0])]);
        let piece = [2, 0, 2, 0, 0, 0, 0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0, 3, 1, 0, 0, 0, 0, 0, 0, 0x3f];
        assert_eq!(sample.encode(), piece);
        assert_eq!(FrameVectors::decode(&piece).unwrap(), sample);
        assert_eq!((sample.spaces().has(0), sample.spaces().has(1), sample.spaces().has(3)), (true, false, true));
        assert_eq!((sample.in_space(0), sample.in_space(1)), (&[1.0, -2.0][..], &[][..]));
    }

    #[test]
    fn what_is_no_piece_is_refused() {
        let damaged: [&[u8]; 6] = [
            &[],
            &[2, 0],
            &[2, 0, 2, 0, 0, 0, 1, 2, 3, 4],
            &[2, 0, 0, 0, 0, 0],
            &[2, 9, 1, 0, 0, 0, 1, 2, 3, 4],
            &[2, 1, 1, 0, 0, 0, 1, 2, 3, 4, 1, 1, 0, 0, 0, 1, 2, 3, 4],
        ];
        for piece in damaged {
            assert_eq!(FrameVectors::decode(piece), Err(VectorsError::Damaged), "{piece:?}");
        }
        assert_eq!(FrameVectors::decode(&[1, 0, 0, 0, 0]), Err(VectorsError::UnknownVersion(1)));
    }

    proptest! {
        #[test]
        fn every_piece_reads_back(own in prop::collection::vec(-1e9f32..1e9, 0..9), named in prop::collection::btree_map(1u8..=8, prop::collection::vec(-1.0f32..1.0, 1..5), 0..8)) {
            let mut sample = vectors(&[(OWN_SPACE, &own)]);
            named.iter().for_each(|(space, components)| sample.add(*space, components));
            let piece = sample.encode();
            prop_assert!(piece.len() <= MAX_BYTES);
            prop_assert_eq!(FrameVectors::decode(&piece).unwrap(), sample);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(vectors) = FrameVectors::decode(&bytes) {
                prop_assert_eq!(vectors.encode(), bytes);
            }
        }
    }
}
