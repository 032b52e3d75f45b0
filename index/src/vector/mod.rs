//! Vector search.

#[allow(unsafe_code, reason = "shares records between threads without locks; every block says why it is sound")]
pub(crate) mod arena;
pub(crate) mod binary;
pub(crate) mod codes;
pub(crate) mod config;
pub(crate) mod exact;
pub(crate) mod graph;
pub(crate) mod image;
#[allow(unsafe_code, reason = "vector instructions; every block says why it is sound")]
pub(crate) mod kernels;
pub(crate) mod recall;
pub(crate) mod rows;
pub(crate) mod scratch;
pub(crate) mod search;
pub(crate) mod segment;
pub(crate) mod table;
pub(crate) mod vector_index;
