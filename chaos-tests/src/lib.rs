//! The proof on real processes: clusters of `mira node` and `mira router`, faults, and judges of what callers saw.
//!
//! - [`cluster`]: nodes and routers as [`process`]es of their own, to be killed, frozen, stopped and started again;
//! - [`network`], [`disk`]: what else can fail;
//! - [`client`]: a caller, patient or not;
//! - [`workload`]: callers at work, whose calls and answers make a [`history`];
//! - [`nemesis`]: the faults, by a schedule that a seed decides;
//! - [`checker`]: whether a history keeps MIRA's promises;
//! - [`round`]: all of these together, once; [`report`]: what came of many rounds;
//! - [`scan`]: searches every byte on disk for text that must not be there;
//! - [`sim`]: the same code without processes: a deterministic simulation of a cluster.
//!
//! Each cluster takes loopback addresses of its own, so that tests run side by side and a restarted process finds its
//! port free.

pub mod checker;
pub mod client;
pub mod cluster;
pub mod disk;
pub mod history;
pub mod nemesis;
pub mod network;
pub mod process;
pub mod report;
pub mod round;
pub mod scan;
pub mod sim;
pub mod workload;
