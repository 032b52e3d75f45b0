//! gRPC: the public services of `mira.v1`.
//!
//! Fields that are empty in protobuf are absent in the model. Metadata means what the HTTP headers of the same names
//! mean, so both are read by the same code.

mod admin;
mod admit;
mod convert;
mod ingest;
mod memory;
mod server;

pub use server::serve;
