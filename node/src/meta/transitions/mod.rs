//! What each command of the meta group does to the records: one function a command.
//!
//! A transition looks at the records, refuses what does not fit them, and writes otherwise. Every replica runs it with the
//! same records, so it takes nothing from outside of the command, the log and these. Each may be asked for twice: the
//! second time finds what the first has done, and says so.

pub mod collections;
pub mod erasure;
pub mod keys;
pub mod migration;
pub mod moves;
pub mod nodes;
pub mod owners;
pub mod repositories;
pub mod requests;
pub mod restore;
