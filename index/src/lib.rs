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

#[allow(unsafe_code, reason = "shares records between threads without locks; every block says why it is sound")]
mod arena;
mod attributes;
mod binary;
mod codes;
mod condition;
mod config;
mod error;
mod exact;
pub mod filter;
mod graph;
mod image;
mod index;
#[allow(unsafe_code, reason = "vector instructions; every block says why it is sound")]
mod kernels;
mod kinds;
pub mod ranking;
mod recall;
mod rows;
mod scratch;
mod search;
mod segment;
mod table;
mod topk;

pub use condition::{Attributes, Condition, Number, Span, Test, Value};
pub use config::{Config, MAX_COMPONENT, MAX_DIMENSION, MAX_EF, MAX_K, MAX_PASSAGES, Metric, Quantization};
pub use error::{ImageError, IndexError, RowsError};
pub use exact::{DocumentRows, exact_top_k, indexed_top_k};
pub use image::Snapshot;
pub use index::{Stats, VectorIndex};
pub use kernels::Isa;
pub use kinds::{Clash, Kinds};
pub use recall::{Asked, Samples};
pub use rows::{Passage, RowCache, RowSource, RowStorage};
pub use search::{DEFAULT_EF, Explain, Filter, Plan, SearchParams, Where};
pub use table::{Document, Times};
pub use topk::{Hit, mean_top_k, merge_top_k};
