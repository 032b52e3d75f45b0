//! Backups in a folder or an S3-compatible store. This program carries sealed pieces between nodes and the repository; it
//! can open none of them. What they hold and how they are bound is in the node's `backup.rs`.
//!
//! ```text
//! repository.json                    its id
//! keys                               all keys that its backups need, sealed with the cluster key; written with every backup
//! lock                               while somebody writes
//! backups/ID/manifest                what the backup consists of, with checksums; a line of JSON and its signature
//! backups/ID/SHARD-COLLECTION-N      a page
//! backups/ID/SHARD-start             what a replay of the shard's log from here must know
//! backups/ID/SHARD-log-N             a page of a shard's log: what happened since the backup before, or as much of it
//!                                    as the shard still had
//! ```
//! A backup without a manifest was not finished, and is removed by the next one. One may consist of logs alone.

mod create;
mod follow;
mod logs;
mod manifest;
mod page;
mod recovery_points;
mod replay;
mod repository;
mod restore;
mod verify;

pub use create::{Contents, Created, create, forget, rewrite_keys};
pub use replay::restore_at;
pub use repository::{Listed, Repository};
pub use restore::{Restored, restore};
pub use verify::verify;
