//! What the tests of several crates share. No crate depends on it outside its tests.
//!
//! It knows the wire and the mathematics of ranking ([`mira_proto`], [`mira_index`]) and neither the node nor the
//! router, so that the tests of both can use it.

pub mod cluster;
mod eventually;
pub mod extremes;
pub mod keys;

pub use cluster::{FakeCluster, OLD_COPY};
pub use eventually::{Reached, eventually, eventually_blocking};
