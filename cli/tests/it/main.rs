//! The program as a person or a script runs it: against a router over a cluster in memory, and as a server.
#![cfg(all(feature = "server", feature = "backup", feature = "parquet", feature = "bench"))]

mod dev;
mod files;
mod import;
mod import_sources;
mod key_providers;
mod scripts;
mod strangers;
mod support;
