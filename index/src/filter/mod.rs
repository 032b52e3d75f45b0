//! Filters: which documents a caller means, by their attributes.
//!
//! A filter comes as JSON ([`mira_proto::filter`]); `check` makes a [`Condition`](crate::Condition) of it, and `request` reads
//! the one of a request. What it is asked of are a document's `attributes`, each a field with a `value`; `condition` says when a document meets it, `field_types`
//! which types of values each field holds. `postings` finds the documents of a segment that meet a condition; a document is
//! a slot number there, so that vectors and texts can share them.

pub(crate) mod attributes;
mod check;
pub(crate) mod condition;
pub(crate) mod field_types;
pub(crate) mod postings;
mod request;
pub(crate) mod value;

pub use attributes::{Said, attributes};
pub use check::check;
pub use request::{Wanted, parse, split};
pub use value::to_json;
