//! Tests that need the crate's insides: of formats, and of the stores below the consensus library.

mod library_suite;
mod samples;
mod senders;
