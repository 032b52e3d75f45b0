//! One thing read from a source, with where it stood.

use std::fmt;
use std::sync::Arc;

use mira_proto::model::StoreItem;

use crate::import::files::FileRef;
use crate::import::source::Source;

/// A thing to store, or why it could not be read.
#[derive(Debug)]
pub struct Record {
    /// Where it came from.
    pub place: Place,
    /// Where reading goes on after it.
    pub next: Position,
    /// The thing.
    pub item: Result<StoreItem, RecordError>,
    /// The file that goes with it.
    pub file: Option<FileRef>,
}

/// How far a source has been read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// Bytes.
    pub bytes: u64,
    /// Lines, so that messages after a resumption still name the right one.
    pub lines: u64,
}

impl Position {
    /// The further one.
    pub fn max(self, other: Position) -> Position {
        if self.bytes < other.bytes { other } else { self }
    }

    /// The position after `bytes` more.
    pub fn after(self, bytes: &[u8]) -> Position {
        let newlines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        Position { bytes: self.bytes + bytes.len() as u64, lines: self.lines + newlines }
    }
}

/// A line of a source, as compilers write it: `FILE:LINE`.
#[derive(Debug, Clone)]
pub struct Place {
    /// The file.
    pub source: Arc<Source>,
    /// The line it starts on, from 1.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source.name, self.line)
    }
}

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Text must be UTF-8.
    #[error("not UTF-8 from byte {0} of the record on")]
    Utf8(usize),
    /// Every line of JSON Lines is an object.
    #[error("not a JSON object")]
    NotAnObject,
    /// The JSON is malformed, or has a field that a memory has not or of another type.
    #[error("{0}")]
    Json(String),
    /// Where a file goes cannot be told from the file.
    #[error("a record with an attachment needs an id")]
    NoId,
    /// `--lenient` would have to choose between two values.
    #[error("field `{0}` stands beside `metadata` and in it")]
    TwoValues(String),
    /// Longer than any record can be.
    #[error("longer than {0} bytes")]
    TooLong(usize),
    /// The file could not be read on.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
}
