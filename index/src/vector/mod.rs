//! Vectors: one index for each space of a collection in a shard.
//!
//! [`VectorIndex`](crate::VectorIndex) holds documents and answers which are most similar to a query. Small collections are
//! scanned; large ones are walked as a graph over quantised codes, and the best candidates are scored again in full
//! precision. The layers, from the outside in:
//!
//! - `vector_index`: documents, statistics, compaction. `image`: the index as bytes. `recall`: how right searches are.
//! - `search`: one search, from plan to ranked hits. `params`: what it is asked; `planner`: which way is cheapest.
//!   `exact`: the same without an index.
//! - `segment`: slots, stamps, who sees what. `table`: from a document to its slots; `labels`: from a slot to its document.
//! - `graph`: HNSW. `scratch`: a walk's working memory.
//! - `space`: what the graph asks of vectors. `codes`: which of the spaces an index has: `int8`, `binary`, `full`. `centre`:
//!   the point that codes are taken around.
//! - `rows`: what hits are scored from, in memory or elsewhere. `row`: one of them; `row_cache`: those used last.
//! - `config`: what a collection chooses once. `input`: what may come in.
//! - `arena`: memory that grows without moving. `kernels`: distances in vector instructions.
//!
//! `unsafe` is confined to `kernels` and `arena`. `docs/adr/0002-own-hnsw-graph.md` says why the graph is our own,
//! `docs/adr/0004-rows-on-disk.md` where rows are.

#[allow(unsafe_code, reason = "shares records between threads without locks; every block says why it is sound")]
mod arena;
mod binary;
mod centre;
mod codes;
mod config;
mod exact;
mod full;
mod graph;
mod image;
mod input;
mod int8;
#[allow(unsafe_code, reason = "vector instructions; every block says why it is sound")]
mod kernels;
mod labels;
mod params;
mod planner;
mod recall;
mod row;
mod row_cache;
mod rows;
mod scratch;
mod search;
mod segment;
mod space;
mod table;
mod vector_index;

pub use config::{Config, DEFAULT_EF};
pub use exact::{DocumentRows, exact_top_k, indexed_top_k};
pub use image::Snapshot;
pub use input::check_document;
pub use kernels::Isa;
pub use params::{Explain, Filter, Plan, SearchParams, Where};
pub use recall::{MeasuredSearch, Samples};
pub use row_cache::RowCache;
pub use rows::{Passage, RowSource, RowStorage};
pub use vector_index::{Stats, VectorIndex};
