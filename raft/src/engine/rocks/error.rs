//! What went wrong below, as an [`EngineError`].

use std::io;

use rocksdb::ErrorKind;

use crate::engine::EngineError;

/// How the C library says that the process, or the machine, has as many files open as it may.
const NO_FILE: &str = "Too many open files";

pub(super) fn io_error(error: io::Error) -> EngineError {
    match error.kind() {
        io::ErrorKind::StorageFull => EngineError::DiskFull(error.to_string()),
        _ if error.to_string().contains(NO_FILE) => EngineError::NoFile(error.to_string()),
        _ => EngineError::Io(error.to_string()),
    }
}

pub(super) fn engine_error(error: rocksdb::Error) -> EngineError {
    let (kind, text) = (error.kind(), error.into_string());
    // The wrapper passes on only the text of an I/O error; both phrases are RocksDB's and the C library's own.
    let full = text.contains("No space left on device") || text.contains("Space limit reached");
    match kind {
        _ if full => EngineError::DiskFull(text),
        _ if text.contains(NO_FILE) => EngineError::NoFile(text),
        ErrorKind::Corruption => EngineError::Damaged(text),
        _ => EngineError::Io(text),
    }
}
