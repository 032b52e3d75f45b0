//! The router against a cluster in memory, over real sockets.

mod client;
mod fake;
mod operations;
