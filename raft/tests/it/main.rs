//! Replication between hosts in one process.

mod found;
mod groups;
#[cfg(feature = "grpc")]
mod grpc;
mod simulated;
mod support;
