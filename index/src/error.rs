//! Why an index call was refused. Each variant says what the caller can do.

use crate::limits::{MAX_COMPONENT, MAX_DIMENSION, MAX_EF, MAX_K, MAX_PASSAGES};

/// Errors of [`VectorIndex`](crate::VectorIndex) and [`exact_top_k`](crate::exact_top_k).
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The collection was configured with a dimension out of range.
    #[error("dimension {dim} is not in 1..={MAX_DIMENSION}")]
    InvalidDimension {
        /// The dimension asked for.
        dim: usize,
    },
    /// The graph parameters are out of range.
    #[error("graph parameter {name} is {value}, allowed is {allowed}")]
    InvalidParameter {
        /// Which parameter.
        name: &'static str,
        /// What was given.
        value: usize,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The vector has another length than the collection's dimension (or a multiple of it, for passages).
    #[error("expected vectors of dimension {expected}, got {actual} components")]
    DimensionMismatch {
        /// The collection's dimension.
        expected: usize,
        /// The number of components given.
        actual: usize,
    },
    /// A component is NaN or infinite.
    #[error("component {component} of passage {passage} is not a finite number")]
    NotFinite {
        /// Which of the document's vectors.
        passage: usize,
        /// Which component of it.
        component: usize,
    },
    /// A component is so large that its square, summed over the dimension, leaves the range of f32.
    #[error("component {component} of passage {passage} is larger than {MAX_COMPONENT:e}")]
    TooLarge {
        /// Which of the document's vectors.
        passage: usize,
        /// Which component of it.
        component: usize,
    },
    /// Under the cosine metric a vector needs a direction.
    #[error("passage {passage} is the zero vector, which has no cosine")]
    ZeroVector {
        /// Which of the document's vectors.
        passage: usize,
    },
    /// A document has no passage at all, or more than the limit.
    #[error("a document has 1 to {MAX_PASSAGES} passages, got {count}")]
    PassageCount {
        /// How many were given.
        count: usize,
    },
    /// `k` is 0 or beyond the limit.
    #[error("k is {k}, allowed is 1..={MAX_K}")]
    InvalidK {
        /// What was asked for.
        k: usize,
    },
    /// `ef` is 0 or beyond the limit.
    #[error("ef is {ef}, allowed is 1..={MAX_EF}")]
    InvalidEf {
        /// What was asked for.
        ef: usize,
    },
    /// The caller's abort check answered yes: the deadline passed or the caller went away.
    #[error("stopped by the caller")]
    Aborted,
    /// Slot numbers ran out; compact the index, or spread the collection over more partitions.
    #[error("the index is out of slots: compact it")]
    Full,
    /// Full-precision rows could not be read or written.
    #[error("full-precision rows: {0}")]
    Rows(#[from] RowsError),
}

/// Why full-precision rows could not be read. Rows in memory only fail on a slot never written.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// The slot holds no row: the index and its rows disagree, rebuild the index.
    #[error("slot {0} holds no row")]
    Missing(u32),
    /// The source of rows could not read them.
    #[error("{0}")]
    Source(String),
}

/// Why an image could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The reader or writer failed.
    #[error("index image: {0}")]
    Io(#[from] std::io::Error),
    /// The bytes do not begin like an index image.
    #[error("not an index image")]
    NotAnImage,
    /// The image was written by another release: rebuild the index.
    #[error("index image version {0} is not supported")]
    UnsupportedVersion(u32),
    /// The image ends early: rebuild the index.
    #[error("index image is truncated")]
    Truncated,
    /// A checksum or an invariant does not hold: rebuild the index.
    #[error("index image is damaged: {0}")]
    Damaged(&'static str),
    /// The image cannot be taken because rows could not be read.
    #[error("index image: {0}")]
    Rows(#[from] RowsError),
}
