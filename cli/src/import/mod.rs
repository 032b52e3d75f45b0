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
//! A record is known by its name in its file ([`identity`]), and a list in the collection says what was made of each file
//! ([`manifest`]): a second run finds everything there and adds nothing, whatever stopped the first; what changed replaces what
//! it was, and what is gone ends. A record may name a file that goes with it ([`files`]). A record that cannot be read or
//! stored is reported with its place and counted; the others go on.

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
