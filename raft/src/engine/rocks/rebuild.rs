//! Rebuilding a damaged database: what can be read of it moves to a new one.

use std::ops::ControlFlow;

use bytes::Bytes;
use rocksdb::DB;

use super::error::engine_error;
use super::read::{read_options, scan};
use super::writes_of;
use crate::engine::{Batch, EngineError, KeyRange};

/// Bytes that are copied in one batch.
const BATCH_BYTES: usize = 1 << 20;

/// Copies those of `ranges` that can be read whole, durably; the indexes of the others.
pub(super) fn copy_readable(damaged: &DB, fresh: &DB, ranges: &[KeyRange]) -> Result<Vec<usize>, EngineError> {
    let mut lost = Vec::new();
    for (at, range) in ranges.iter().enumerate() {
        match copy_range(damaged, fresh, range) {
            Err(EngineError::Damaged(_)) => {
                let mut half = Batch::default();
                half.delete_range(range.from.clone(), range.to.clone());
                fresh.write(writes_of(&half)).map_err(engine_error)?;
                lost.push(at);
            }
            copied => copied?,
        }
    }
    fresh.flush().map_err(engine_error)?;
    Ok(lost)
}

/// Copies the pairs of a range; what was copied of it before an error stays.
fn copy_range(from: &DB, to: &DB, range: &KeyRange) -> Result<(), EngineError> {
    let (mut batch, mut failed) = (Batch::default(), None);
    let mut bytes = 0;
    let mut options = read_options();
    options.fill_cache(false);
    scan(from, options, range.bounds(), false, &mut |key, value| {
        bytes += key.len() + value.len();
        batch.put(key, Bytes::copy_from_slice(value));
        if bytes >= BATCH_BYTES {
            bytes = 0;
            failed = to.write(writes_of(&std::mem::take(&mut batch))).err();
        }
        if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let written = failed.map_or_else(|| to.write(writes_of(&batch)), Err);
    written.map_err(engine_error)
}
