//! The production engine: RocksDB.
//!
//! A synced write is one append to the write-ahead log and one `fdatasync`; the Raft log's files are recycled, so that the
//! sync does not have to record a new file size each time. Few background threads: nodes share small machines.
//!
//! A full disk makes writes fail with [`EngineError::DiskFull`]; RocksDB watches for room and takes writes again by
//! itself once there is some, so the caller only has to try again.
//!
//! A file that cannot be opened, because the process has as many open as it may, makes RocksDB refuse writes until the
//! database is opened again ([`Engine::reopen`]): it is closed when its last reader is gone, and nothing is lost.
//!
//! A damaged block is found when it is read, and by compaction: then RocksDB writes nothing more, whatever the key, and
//! comes upon the block again after each start. The way out is [`Engine::rebuild`]: everything that can be read moves to a
//! database in the subfolder `rebuilt-N`, which counts from the moment its file `WHOLE` is there; the files of the one
//! before are deleted when nobody reads them any more, or at the next start.

use std::ops::{Bound, Deref};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use rocksdb::{BottommostLevelCompaction, CompactOptions, DB, ErrorKind, WriteBatch, WriteOptions};

use super::{Batch, Durability, Engine, EngineError, KeyBounds, KeyRange, Op, Read, Visitor};

mod error;
mod folder;
mod opening;
mod options;
mod read;
mod rebuild;
#[cfg(test)]
mod tests;

use error::{engine_error, io_error};
use folder::Folder;
use opening::{OpenTimes, open_within};
pub use options::{EngineOptions, EngineRole};
use options::{database_options, recycled_logs};
use read::{RocksView, get, multi_get, read_options, scan};

/// More than any batch has.
const LARGEST_BATCH: usize = 16 << 20;
/// For the last readers of a database that is opened again to end.
const LAST_READERS: Duration = Duration::from_secs(2);

/// A database, its folder, and the mark that it is open.
struct Database {
    // Declared, and so dropped, in this order.
    db: DB,
    folder: Folder,
    _open: Arc<()>,
}

impl Database {
    fn open(folder: Folder, options: EngineOptions, open: &Arc<()>) -> Result<Self, EngineError> {
        let path = folder.path.clone();
        let opening = move || DB::open(&database_options(options), path).map_err(engine_error);
        let db = open_within(&folder.path, &OpenTimes::default(), opening)?;
        Ok(Self { db, folder, _open: open.clone() })
    }
}

impl Deref for Database {
    type Target = DB;

    fn deref(&self) -> &DB {
        &self.db
    }
}

/// Tells when a database is closed: the last user of the engine and of its views is gone, and RocksDB has let go of
/// its threads and files. A process that ends before that may abort.
#[derive(Debug, Clone)]
pub struct Closing(Weak<()>);

impl Closing {
    /// Whether the database is closed.
    pub fn is_done(&self) -> bool {
        self.0.strong_count() == 0
    }
}

/// A RocksDB database as an [`Engine`].
pub struct RocksEngine {
    /// None while it is closed to be opened again.
    current: ArcSwapOption<Database>,
    path: PathBuf,
    options: EngineOptions,
    out_of_service: AtomicBool,
    needs_reopening: AtomicBool,
    // Declared, and so dropped, last.
    open: Arc<()>,
}

impl RocksEngine {
    /// Opens the database in the folder `path`, making it if there is none.
    ///
    /// # Errors
    /// When it is in use, damaged, or the folder cannot be written.
    pub fn open(path: &Path, options: EngineOptions) -> Result<Self, EngineError> {
        let folder = Folder::current(path).map_err(io_error)?;
        let open = Arc::default();
        let database = Database::open(folder, options, &open)?;
        let current = ArcSwapOption::from_pointee(database);
        let (out_of_service, needs_reopening) = Default::default();
        Ok(Self { current, path: path.into(), options, out_of_service, needs_reopening, open })
    }

    fn db(&self) -> Result<Arc<Database>, EngineError> {
        self.current.load_full().ok_or_else(closed)
    }

    /// Something to wait on for the end of this database.
    pub fn closing(&self) -> Closing {
        Closing(Arc::downgrade(&self.open))
    }

    /// Damage that is met in writing ends it; want of a file, until it is opened again.
    fn noted(&self, written: Result<(), EngineError>) -> Result<(), EngineError> {
        match &written {
            Err(EngineError::Damaged(_)) => self.out_of_service.store(true, Ordering::Relaxed),
            Err(EngineError::NoFile(_)) => self.needs_reopening.store(true, Ordering::Relaxed),
            _ => {}
        }
        written
    }

    /// Closes the database once nobody uses it any more.
    fn close(&self) -> Result<(), EngineError> {
        let Some(mut database) = self.current.swap(None) else { return Ok(()) };
        let until = Instant::now() + LAST_READERS;
        loop {
            match Arc::try_unwrap(database) {
                Ok(database) => {
                    drop(database);
                    return Ok(());
                }
                Err(shared) if Instant::now() >= until => {
                    self.current.store(Some(shared));
                    return Err(EngineError::NoFile(
                        "the database is still read, so it is not opened again now".into(),
                    ));
                }
                Err(shared) => database = shared,
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn view_of(&self, fills_cache: bool) -> Arc<dyn Read> {
        match self.db() {
            Ok(db) => Arc::new(RocksView::new(db, fills_cache)),
            Err(_) => Arc::new(ClosedView),
        }
    }

    /// Fails if the disk has no room for what the memtables hold.
    fn check_room(&self) -> Result<(), EngineError> {
        let disk = rustix::fs::statvfs(&self.path).map_err(|error| EngineError::Io(error.to_string()))?;
        let (left, needed) = (disk.f_bavail * disk.f_frsize, 2 * self.options.memtable_bytes as u64);
        if left < needed {
            return Err(EngineError::DiskFull(format!("writes have stopped and {left} bytes are left")));
        }
        Ok(())
    }

    /// Writes over the write-ahead logs that are kept to be used again, each from end to end: the log is as long as its memtable
    /// and the largest batch at most.
    fn overwrite_recycled_logs(&self, db: &DB) -> Result<(), EngineError> {
        let recycled = recycled_logs(self.options.role);
        let nothing = vec![0; self.options.memtable_bytes + LARGEST_BATCH];
        // The one that is in use becomes one of them.
        for _ in 0..if recycled > 0 { recycled + 1 } else { 0 } {
            let mut batch = WriteBatch::default();
            batch.put_log_data(&nothing);
            // A memtable that holds nothing is not flushed, and its log goes on. No key is empty.
            batch.delete(b"");
            db.write(batch).map_err(engine_error)?;
            db.flush().map_err(engine_error)?;
        }
        Ok(())
    }

    /// A figure RocksDB keeps about itself, such as `rocksdb.total-sst-files-size`.
    pub fn figure(&self, name: &str) -> Option<u64> {
        self.db().ok()?.property_int_value(name).ok().flatten()
    }
}

impl Engine for RocksEngine {
    fn compact(&self, from: &[u8], to: &[u8]) -> Result<(), EngineError> {
        let db = self.db()?;
        wait_for_older_views(&db)?;
        db.flush().map_err(engine_error)?;
        let mut options = CompactOptions::default();
        // Also the lowest level: what is overwritten there is what must go.
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        let to = (!to.is_empty()).then_some(to);
        db.compact_range_opt(Some(from), to, &options);
        self.overwrite_recycled_logs(&db)
    }

    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), EngineError> {
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        // When memtables cannot be flushed for want of room, RocksDB holds writers up instead of failing them. So the
        // first try does not wait, and only a stall with room on the disk is sat out.
        options.set_no_slowdown(true);
        let db = self.db()?;
        let written = match db.write_opt(writes_of(batch), &options) {
            Err(error) if error.kind() == ErrorKind::Incomplete => {
                self.check_room()?;
                options.set_no_slowdown(false);
                db.write_opt(writes_of(batch), &options).map_err(engine_error)
            }
            result => result.map_err(engine_error),
        };
        self.noted(written)
    }

    fn sync(&self) -> Result<(), EngineError> {
        let synced = self.db()?.flush_wal(true).map_err(engine_error);
        self.noted(synced)
    }

    fn view(&self) -> Arc<dyn Read> {
        self.view_of(false)
    }

    fn cached_view(&self) -> Arc<dyn Read> {
        self.view_of(true)
    }

    fn is_out_of_service(&self) -> bool {
        self.out_of_service.load(Ordering::Relaxed)
    }

    fn needs_reopening(&self) -> bool {
        self.needs_reopening.load(Ordering::Relaxed)
    }

    fn reopen(&self) -> Result<(), EngineError> {
        self.close()?;
        let folder = Folder::current(&self.path).map_err(io_error)?;
        let database = Database::open(folder, self.options, &self.open)?;
        self.current.store(Some(Arc::new(database)));
        self.needs_reopening.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn rebuild(&self, ranges: &[KeyRange]) -> Result<Vec<usize>, EngineError> {
        let damaged = self.db()?;
        let folder = damaged.folder.next(&self.path).map_err(io_error)?;
        let fresh = Database::open(folder, self.options, &self.open)?;
        let lost = rebuild::copy_readable(&damaged, &fresh, ranges)?;
        fresh.folder.mark_whole(&self.path).map_err(io_error)?;
        self.current.store(Some(Arc::new(fresh)));
        self.out_of_service.store(false, Ordering::Relaxed);
        damaged.folder.remove_on_drop();
        Ok(lost)
    }
}

impl Read for RocksEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        get(self.db()?.as_ref(), key, &read_options())
    }

    fn multi_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, EngineError> {
        multi_get(self.db()?.as_ref(), keys, &read_options())
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError> {
        // A scan may take long: it keeps its database open, whatever takes its place meanwhile.
        scan(self.db()?.as_ref(), read_options(), KeyBounds { from, to }, reverse, visit)
    }
}

/// What is read of a database that is closed to be opened again.
struct ClosedView;

impl Read for ClosedView {
    fn get(&self, _: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Err(closed())
    }

    fn scan(&self, _: Bound<&[u8]>, _: Bound<&[u8]>, _: bool, _: &mut Visitor<'_>) -> Result<(), EngineError> {
        Err(closed())
    }
}

fn closed() -> EngineError {
    EngineError::NoFile("the database is being opened again".into())
}

/// Waits until nobody reads a view from before this call: compactions keep what such a view shows.
fn wait_for_older_views(db: &DB) -> Result<(), EngineError> {
    let (now, until) = (db.latest_sequence_number(), Instant::now() + LAST_READERS);
    loop {
        let figure = |name| db.property_int_value(name).map_err(engine_error);
        let oldest = figure("rocksdb.oldest-snapshot-sequence")?.unwrap_or_default();
        if figure("rocksdb.num-snapshots")? == Some(0) || oldest >= now {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(EngineError::Io("a view of what is to go is still read".into()));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A batch as RocksDB takes it.
fn writes_of(batch: &Batch) -> WriteBatch {
    let mut writes = WriteBatch::default();
    for op in &batch.ops {
        match op {
            Op::Put { key, value } => writes.put(key, value),
            Op::Delete { key } => writes.delete(key),
            Op::DeleteRange { from, to } if from < to => writes.delete_range(from, to),
            Op::DeleteRange { .. } => {}
        }
    }
    writes
}
