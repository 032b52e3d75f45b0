//! The index as its users see it.

mod common;
mod concurrency;
mod filters;
mod image;
mod input;
mod oracle;
mod peer;
mod recall;
mod source;
