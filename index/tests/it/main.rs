//! The index as its users see it.

mod clusters;
mod concurrency;
mod filters;
mod found;
mod histories;
mod image;
mod input;
mod oracle;
mod peer;
mod recall;
mod shelf;
mod source;
