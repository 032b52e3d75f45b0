//! The index as its users see it.

mod clusters;
mod concurrency;
mod equal;
mod exact;
mod filters;
mod found;
mod histories;
mod image;
mod input;
mod oracle;
mod pages;
mod peer;
mod recall;
mod shelf;
mod source;
