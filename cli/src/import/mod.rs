//! Importing: files in, memories out, in bounded space.
//!
//! ```text
//! source      files and folders named on the command line, sorted
//!   └ reader  one thread: JSON Lines, text, Markdown or another program's format -> records, with the place each came from
//!       └ pipeline   batches -> `writers` requests at a time -> outcomes
//!           └ writer one batch: store what is not there, say what was refused
//!               └ checkpoint  how far each file is done (only with `--state`)
//! ```
//!
//! A record without an id or source key gets a source key made from what it says ([`identity`]), so a second run finds
//! everything there and adds nothing, whatever stopped the first. A record may name a file that goes with it ([`files`]). A record that cannot be
//! read or stored is reported with its place and counted; the others go on.

pub mod checkpoint;
pub mod files;
pub mod foreign;
pub mod identity;
pub mod jsonl;
pub mod known;
pub mod manifest;
pub mod manifests;
pub mod markdown;
#[cfg(feature = "parquet")]
pub mod parquet;
pub mod pipeline;
pub mod progress;
pub mod reader;
pub mod record;
pub mod sightings;
pub mod source;
pub mod text;
pub mod writer;
