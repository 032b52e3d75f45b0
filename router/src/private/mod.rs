//! Private frames: sealed with a key that only their owner has.

pub mod credential;
pub mod post_filter;
pub mod seal;
pub mod search;
pub mod text;
