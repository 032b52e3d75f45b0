//! Filters: which documents a caller means.

pub(crate) mod condition;
pub(crate) mod field_types;
pub(crate) mod postings;
mod request;

pub use request::{Said, Wanted, attributes, condition, parse, split, to_json};
