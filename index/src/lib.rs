//! Search inside one shard: pure data structures, no I/O, no runtime.
//!
//! A collection keeps frames, and a shard a part of them. This crate finds among that part: the layer above brings
//! documents, which are a frame's id with its vectors and attributes, and gets back ranked ids; what a frame says is sealed
//! and never comes here. An index can always be rebuilt from what the layer above keeps, so nothing here is the only copy
//! of anything.
//!
//! - [`VectorIndex`] and its folder `vector`: which documents are most similar to a query.
//! - [`filter`]: what a caller's filter asks of attributes, and which documents of an index meet it.
//! - [`ranking`]: what a search asks beyond the nearest: a least score, recency, groups, pages.
//! - `topk`: ranked lists, their order and how they are merged.
//! - `document`, `limits`, `error`: what all of them name.
//!
//! `vector` stands on `filter` and `topk`; neither knows vectors, so that an index of another kind can stand beside it.

#![deny(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("codes, rows and images are laid out in little-endian order");

mod document;
mod error;
pub mod filter;
mod limits;
pub mod ranking;
mod topk;
mod vector;

pub use document::{Document, Times};
pub use error::{ImageError, IndexError, RowsError};
pub use filter::attributes::Attributes;
pub use filter::condition::{Condition, Span, Test, TypeMismatch};
pub use filter::field_types::TypeSet;
pub use filter::value::{Number, Value};
pub use limits::{MAX_COMPONENT, MAX_DIMENSION, MAX_EF, MAX_K, MAX_PASSAGES};
pub use mira_proto::model::{Metric, Quantization};
pub use topk::{Hit, Place, mean_top_k, merge_top_k, short_name};
pub use vector::{
    Config, DEFAULT_EF, DocumentRows, Explain, Filter, Isa, MeasuredSearch, Passage, Plan, RowCache, RowSource,
    RowStorage, Samples, SearchParams, Snapshot, Stats, VectorIndex, Where, check_document, exact_top_k, indexed_top_k,
};
