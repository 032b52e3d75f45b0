//! The operations of MIRA, each in a file of its own.

pub mod admin;
pub mod change;
pub mod content;
pub mod convert;
pub(crate) mod field_types;
pub mod forget;
mod key_claim;
pub mod recall;
pub mod scan;
pub mod search;
pub mod sessions;
pub mod status;
pub mod store;
pub mod uploads;
pub mod validate;
