//! Private frames: sealed with a key that only their owner has.

pub(crate) mod cache;
mod compare;
pub mod credential;
pub(crate) mod owners;
pub mod post_filter;
pub mod seal;
pub mod search;
pub mod text;
