//! The router against a cluster in memory, over real sockets.

mod batches;
mod client;
mod content;
mod doors;
mod errors;
mod faults;
mod field_types;
mod grpc;
mod history;
mod ids;
mod mcp;
mod migration;
mod named;
mod operations;
mod pages;
mod principals;
mod private;
mod retries;
mod strangers;
mod values;
