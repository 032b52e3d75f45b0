//! The tests that need a whole cluster: on real processes, within one process, and simulated.
//!
//! They are one program, so that the storage engine is linked once. `.config/nextest.toml` runs the modules other than
//! [`sim`] one test at a time, with nothing beside it.

mod attachments;
mod backup;
mod chaos;
mod faults;
mod full_disk;
mod growth;
mod keys;
mod past;
mod plaintext;
mod sim;
mod support;
