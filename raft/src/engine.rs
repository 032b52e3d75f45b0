//! The small storage trait that everything durable stands on.
//!
//! Ordered keys, atomic batches, point-in-time views and an explicit sync: no more, so that RocksDB implements it in
//! production and a faulty in-memory disk implements it in the simulator, and both run the same code above.
//!
//! Guarantees every implementation gives:
//! - a batch is applied whole or not at all, also across a crash;
//! - batches become durable in the order they were written: what [`Durability::Synced`] returns for has every earlier
//!   batch behind it on disk as well;
//! - a view never changes, however many batches follow it.

use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

mod mem;
#[cfg(feature = "rocksdb")]
mod rocks;

pub use mem::{Fault, MemEngine};
#[cfg(feature = "rocksdb")]
pub use rocks::{Closing, EngineOptions, EngineRole, RocksEngine};

/// Why the engine could not do what was asked. None of these is a result that every replica would see: the caller
/// stops the group (or the node) rather than go on with a state it does not know.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The disk is full. Reads go on; writes may be tried again once there is room.
    #[error("disk full: {0}")]
    DiskFull(String),
    /// No file can be opened: the process, or the machine, has as many open as it may. It passes when others close theirs,
    /// and writing goes on once the store has been opened again.
    #[error("no file can be opened: {0}")]
    NoFile(String),
    /// A block or record failed its checksum.
    #[error("damaged data: {0}")]
    Damaged(String),
    /// Any other failure of the device or file system.
    #[error("storage failed: {0}")]
    Io(String),
}

impl EngineError {
    /// Whether it passes by itself, and says nothing against what is on the disk.
    pub fn is_passing(&self) -> bool {
        matches!(self, EngineError::DiskFull(_) | EngineError::NoFile(_))
    }
}

/// The keys from `from` on that come before `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key.
    pub from: Vec<u8>,
    /// The first key behind the range.
    pub to: Vec<u8>,
}

impl KeyRange {
    pub(crate) fn bounds(&self) -> KeyBounds<'_> {
        KeyBounds { from: Bound::Included(&self.from), to: Bound::Excluded(&self.to) }
    }
}

/// Where a scan begins and ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyBounds<'a> {
    pub from: Bound<&'a [u8]>,
    pub to: Bound<&'a [u8]>,
}

impl<'a> KeyBounds<'a> {
    pub(crate) const ALL: Self = Self { from: Bound::Unbounded, to: Bound::Unbounded };
}

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets `key` to `value`.
    Put {
        /// The whole key.
        key: Vec<u8>,
        /// The whole value.
        value: Bytes,
    },
    /// Removes `key`, if it is there.
    Delete {
        /// The whole key.
        key: Vec<u8>,
    },
    /// Removes every key in `from..to`.
    DeleteRange {
        /// First key removed.
        from: Vec<u8>,
        /// First key kept.
        to: Vec<u8>,
    },
}

impl Op {
    /// Bytes of its keys and value.
    pub fn bytes(&self) -> usize {
        match self {
            Op::Put { key, value } => key.len() + value.len(),
            Op::Delete { key } => key.len(),
            Op::DeleteRange { from, to } => from.len() + to.len(),
        }
    }
}

/// Changes that take effect together, in order: a later one wins.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The changes, first to last.
    pub ops: Vec<Op>,
}

impl Batch {
    /// Adds a put.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Bytes>) {
        self.ops.push(Op::Put { key: key.into(), value: value.into() });
    }

    /// Adds a delete of one key.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.ops.push(Op::Delete { key: key.into() });
    }

    /// Adds a delete of every key in `from..to`.
    pub fn delete_range(&mut self, from: impl Into<Vec<u8>>, to: impl Into<Vec<u8>>) {
        self.ops.push(Op::DeleteRange { from: from.into(), to: to.into() });
    }

    /// Bytes of keys and values, for bounding a batch.
    pub fn bytes(&self) -> usize {
        self.ops.iter().map(Op::bytes).sum()
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// Whether a write waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Returns once the batch, and every batch before it, survives a power cut.
    Synced,
    /// Returns once the batch is visible; a crash may lose it, but never half of it.
    Buffered,
}

/// What [`Read::scan`] calls for each pair; `Break` ends the scan.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Reading, from the newest state or from a view.
pub trait Read: Send + Sync + 'static {
    /// The value at `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The values at `keys`, in their order.
    fn multi_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, EngineError> {
        keys.iter().map(|key| self.get(key)).collect()
    }

    /// Visits the pairs between the bounds in key order, upwards (or downwards if `reverse`).
    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError>;
}

/// An ordered, durable key-value store.
pub trait Engine: Read {
    /// Applies a batch atomically. Borrowed, so that a write refused for want of room can be tried again.
    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), EngineError>;

    /// Returns once every batch written before the call survives a power cut.
    fn sync(&self) -> Result<(), EngineError>;

    /// A view of this moment, cheap to take and to keep for minutes. What its scans read is not kept in any cache: they
    /// are for reading everything, which must not drive out what is read again and again.
    fn view(&self) -> std::sync::Arc<dyn Read>;

    /// A view of this moment for a request, whose scans leave what they read in the cache as those of the engine do.
    fn cached_view(&self) -> std::sync::Arc<dyn Read> {
        self.view()
    }

    /// Rewrites the files that hold keys in `from..to`, so that what was deleted or replaced there is on no disk any more.
    fn compact(&self, _from: &[u8], _to: &[u8]) -> Result<(), EngineError> {
        Ok(())
    }

    /// Whether nothing can be written any more, because what is on the disk is damaged.
    fn is_out_of_service(&self) -> bool {
        false
    }

    /// Whether nothing can be written before the store is opened again, because it could open no file.
    fn needs_reopening(&self) -> bool {
        false
    }

    /// Closes the store and opens it again, as it is on disk. Nobody may use it meanwhile; who does is told that there is no
    /// file. When it fails, trying again goes on where it was.
    fn reopen(&self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Moves to a new store with all the pairs of those ranges that can be read whole; the indexes of the others. Nobody
    /// may write meanwhile. Interrupted, it leaves everything as it was.
    fn rebuild(&self, _ranges: &[KeyRange]) -> Result<Vec<usize>, EngineError> {
        Err(EngineError::Io("this engine cannot save what is readable".into()))
    }
}
