//! Replication between hosts in one process.

mod found;
mod groups;
#[cfg(feature = "grpc")]
mod grpc;
mod log_bytes;
mod rest;
mod shared_entries;
mod simulated;
mod support;
