//! What users of the crate rely on: formats that stay, keys that open only what is theirs, damage that is always noticed.

mod common;
mod constants;
mod keys;
mod samples;
mod tamper;
mod vectors;
