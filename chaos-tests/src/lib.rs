//! Faults on real processes: the harness that the tests in `tests/` stand on.
//!
//! - [`cluster`]: nodes and routers as processes of their own, to be killed, stopped and started again;
//! - [`client`]: a caller that retries as the shell does;
//! - [`scan`]: searches every byte on disk for text that must not be there.
//!
//! Each cluster takes loopback addresses of its own, so that tests run side by side and a restarted process finds its
//! port free.

pub mod client;
pub mod cluster;
pub mod scan;
