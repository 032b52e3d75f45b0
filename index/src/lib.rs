//! Vector search inside one shard: pure data structures, no I/O, no runtime.
//!
//! [`VectorIndex`] holds the documents of one collection (a frame id and its passage vectors) and answers which are most
//! similar to a query. Small collections are scanned; large ones are walked as a graph over quantised codes, and the
//! best candidates are scored again in full precision. The layers, from the outside in:
//!
//! - `index`: documents, compaction, statistics. `image`: the index as bytes.
//! - `search`: one search, from plan to ranked hits. `topk`: ranked lists and merging them. `exact`: without an index.
//! - `recall`: how right searches are, measured with vectors of the index.
//! - `segment`: slots, stamps and who sees what; `table`: ids and slots.
//! - `condition`: what a filter asks of attributes; `attributes`: which documents have them; `filter`: what a frame's
//!   attributes are, and a caller's filter as a condition; `kinds`: what kinds of values a field holds.
//! - `ranking`: what a search asks beyond the nearest.
//! - `graph`: HNSW. `scratch`: a walk's working memory.
//! - `codes`, `binary`: what the graph compares; `rows`: what hits are scored from, in memory or elsewhere.
//! - `arena`: memory that grows without moving. `kernels`: distances in vector instructions.
//!
//! `unsafe` is confined to `kernels` and `arena`. `docs/adr/0002-own-hnsw-graph.md` says why the graph is our own,
//! `docs/adr/0004-rows-on-disk.md` where rows are.

#![deny(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("codes, rows and images are laid out in little-endian order");

mod error;
pub mod filter;
pub mod ranking;
mod topk;
mod vector;

pub use error::{ImageError, IndexError, RowsError};
pub use filter::condition::{Attributes, Condition, Number, Span, Test, Value};
pub use filter::field_types::{Clash, Kinds};
pub use topk::{Hit, mean_top_k, merge_top_k};
pub use vector::config::{Config, MAX_COMPONENT, MAX_DIMENSION, MAX_EF, MAX_K, MAX_PASSAGES, Metric, Quantization};
pub use vector::exact::{DocumentRows, exact_top_k, indexed_top_k};
pub use vector::image::Snapshot;
pub use vector::kernels::Isa;
pub use vector::recall::{Asked, Samples};
pub use vector::rows::{Passage, RowCache, RowSource, RowStorage};
pub use vector::search::{DEFAULT_EF, Explain, Filter, Plan, SearchParams, Where};
pub use vector::table::{Document, Times};
pub use vector::vector_index::{Stats, VectorIndex};
