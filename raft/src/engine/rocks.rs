//! The production engine: RocksDB.
//!
//! A synced write is one append to the write-ahead log and one `fdatasync`; log files are recycled, so that the sync
//! does not have to record a new file size each time. Few background threads: nodes share small machines.
//!
//! A full disk makes writes fail with [`EngineError::DiskFull`]; RocksDB watches for room and takes writes again by
//! itself once there is some, so the caller only has to try again.

use std::ops::{Bound, ControlFlow, Deref};
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRawIteratorWithThreadMode, ErrorKind, Options, ReadOptions,
    SnapshotWithThreadMode, WriteBatch, WriteOptions,
};

use super::{Batch, Durability, Engine, EngineError, Op, Read, Visitor};

/// What an engine holds, which decides how it is tuned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The Raft log: written once, read seldom, deleted in ranges.
    Log,
    /// State: read often; large values apart, so that compaction does not rewrite them.
    State,
}

/// How an engine is opened.
#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    /// What it holds.
    pub role: Role,
    /// Bytes of cached blocks, index and filter blocks included.
    pub cache_bytes: usize,
    /// Bytes of each of the (at most three) memtables.
    pub memtable_bytes: usize,
}

impl EngineOptions {
    /// Sizes for a node that shares its machine.
    pub fn new(role: Role) -> Self {
        match role {
            Role::Log => Self { role, cache_bytes: 8 << 20, memtable_bytes: 32 << 20 },
            Role::State => Self { role, cache_bytes: 64 << 20, memtable_bytes: 32 << 20 },
        }
    }
}

/// Values from this size on lie in blob files.
const BLOB_BYTES: u64 = 4096;

/// Opening is said to take long after this time, and again after as much.
const OPEN_WARNING: Duration = Duration::from_secs(5);
/// Opening has failed after this time. Replaying what memtables held takes a second or two.
const OPEN_LIMIT: Duration = Duration::from_secs(120);

/// A database, and the mark that it is open.
struct Database {
    // Declared, and so dropped, before its mark.
    db: DB,
    open: Arc<()>,
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
    db: Arc<Database>,
    path: PathBuf,
    memtable_bytes: usize,
}

impl RocksEngine {
    /// Opens the database in the folder `path`, making it if there is none.
    ///
    /// # Errors
    /// When it is in use, damaged, or the folder cannot be written.
    pub fn open(path: &Path, options: EngineOptions) -> Result<Self, EngineError> {
        let folder = path.to_owned();
        let open = move || DB::open(&database_options(options), folder).map_err(engine_error);
        let db = watched(path, (OPEN_WARNING, OPEN_LIMIT), open)?;
        let db = Arc::new(Database { db, open: Arc::default() });
        Ok(Self { db, path: path.into(), memtable_bytes: options.memtable_bytes })
    }

    /// Something to wait on for the end of this database.
    pub fn closing(&self) -> Closing {
        Closing(Arc::downgrade(&self.db.open))
    }

    /// Writes memtables to files and compacts everything: for benchmarks and tests of what lies on disk.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn compact(&self) -> Result<(), EngineError> {
        self.db.flush().map_err(engine_error)?;
        self.db.compact_range::<&[u8], &[u8]>(None, None);
        Ok(())
    }

    /// Fails if the disk has no room for what the memtables hold.
    fn check_room(&self) -> Result<(), EngineError> {
        let disk = rustix::fs::statvfs(&self.path).map_err(|error| EngineError::Io(error.to_string()))?;
        let (left, needed) = (disk.f_bavail * disk.f_frsize, 2 * self.memtable_bytes as u64);
        if left < needed {
            return Err(EngineError::DiskFull(format!("writes have stopped and {left} bytes are left")));
        }
        Ok(())
    }

    /// A figure RocksDB keeps about itself, such as `rocksdb.total-sst-files-size`.
    pub fn figure(&self, name: &str) -> Option<u64> {
        self.db.property_int_value(name).ok().flatten()
    }
}

/// Opens on a thread of its own. RocksDB's log reader turns in a circle for ever over some damaged records (of 80
/// manifests with eight flipped bits, over 6), and a node must not start without a word and without an end.
fn watched<T: Send + 'static>(
    path: &Path,
    (warning, limit): (Duration, Duration),
    open: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    let (done, opened) = std::sync::mpsc::channel();
    let work = move || {
        // Nobody listens any more after the limit.
        let _ = done.send(open());
    };
    let failed = |error: std::io::Error| EngineError::Io(format!("cannot start a thread: {error}"));
    std::thread::Builder::new().name("rocksdb-open".into()).spawn(work).map_err(failed)?;
    let started = Instant::now();
    loop {
        match opened.recv_timeout(warning) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Disconnected) => return Err(EngineError::Io("opening the database panicked".into())),
            Err(RecvTimeoutError::Timeout) if started.elapsed() < limit => {
                let (path, seconds) = (path.display(), started.elapsed().as_secs());
                tracing::warn!(%path, seconds, "the database is still being opened; its files may be damaged");
            }
            Err(RecvTimeoutError::Timeout) => {
                let text = format!("{} was not opened within {} s", path.display(), limit.as_secs());
                return Err(EngineError::Damaged(text));
            }
        }
    }
}

fn database_options(options: EngineOptions) -> Options {
    let mut db = Options::default();
    db.create_if_missing(true);
    db.set_paranoid_checks(true);
    db.set_max_background_jobs(2);
    db.set_write_buffer_size(options.memtable_bytes);
    db.set_max_write_buffer_number(3);
    db.set_max_open_files(512);
    db.set_recycle_log_file_num(4);
    db.set_compression_type(DBCompressionType::Lz4);
    db.set_level_compaction_dynamic_level_bytes(true);
    db.set_keep_log_file_num(2);
    db.set_max_log_file_size(1 << 20);
    db.set_stats_dump_period_sec(0);
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(options.cache_bytes));
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    if options.role == Role::State {
        // Most request ids are new: the filter answers "not there" without a read.
        blocks.set_bloom_filter(10.0, false);
        db.set_enable_blob_files(true);
        db.set_min_blob_size(BLOB_BYTES);
        db.set_enable_blob_gc(true);
        // Large values are ciphertext: compressing them gains nothing.
        db.set_blob_compression_type(DBCompressionType::None);
    }
    db.set_block_based_table_factory(&blocks);
    db
}

impl Engine for RocksEngine {
    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), EngineError> {
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        // When memtables cannot be flushed for want of room, RocksDB holds writers up instead of failing them. So the
        // first try does not wait, and only a stall with room on the disk is sat out.
        options.set_no_slowdown(true);
        match self.db.write_opt(writes_of(batch), &options) {
            Err(error) if error.kind() == ErrorKind::Incomplete => {
                self.check_room()?;
                options.set_no_slowdown(false);
                self.db.write_opt(writes_of(batch), &options).map_err(engine_error)
            }
            result => result.map_err(engine_error),
        }
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.db.flush_wal(true).map_err(engine_error)
    }

    fn view(&self) -> Arc<dyn Read> {
        Arc::new(RocksView::new(self.db.clone()))
    }
}

impl Read for RocksEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        get(&self.db, key, &read_options())
    }

    fn multi_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, EngineError> {
        multi_get(&self.db, keys, &read_options())
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError> {
        scan(&self.db, read_options(), (from, to), reverse, visit)
    }
}

/// A snapshot that keeps its database open.
struct RocksView {
    // Declared, and so dropped, before the database it belongs to.
    snapshot: SnapshotWithThreadMode<'static, DB>,
    db: Arc<Database>,
}

impl RocksView {
    fn new(db: Arc<Database>) -> Self {
        let snapshot = db.snapshot();
        // SAFETY: the snapshot borrows the `DB` inside the `Arc`, whose address does not change, and which the field
        // `db` keeps alive. `snapshot` is dropped first (fields drop in order of declaration), is never moved out, and
        // the lengthened lifetime does not leave this struct: the field is private and read only through `&self`.
        let snapshot = unsafe {
            std::mem::transmute::<SnapshotWithThreadMode<'_, DB>, SnapshotWithThreadMode<'static, DB>>(snapshot)
        };
        Self { snapshot, db }
    }

    fn options(&self) -> ReadOptions {
        let mut options = read_options();
        options.set_snapshot(&self.snapshot);
        options
    }
}

impl Read for RocksView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        get(&self.db, key, &self.options())
    }

    fn multi_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, EngineError> {
        multi_get(&self.db, keys, &self.options())
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError> {
        let mut options = self.options();
        // A view is scanned whole, to send it: that must not drive out what readers need.
        options.fill_cache(false);
        scan(&self.db, options, (from, to), reverse, visit)
    }
}

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

fn read_options() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    options
}

fn get(db: &DB, key: &[u8], options: &ReadOptions) -> Result<Option<Bytes>, EngineError> {
    let found = db.get_pinned_opt(key, options).map_err(engine_error)?;
    Ok(found.map(|value| Bytes::copy_from_slice(&value)))
}

fn multi_get(db: &DB, keys: &[Vec<u8>], options: &ReadOptions) -> Result<Vec<Option<Bytes>>, EngineError> {
    let found = db.multi_get_opt(keys, options);
    found.into_iter().map(|value| Ok(value.map_err(engine_error)?.map(Bytes::from))).collect()
}

fn scan(
    db: &DB,
    mut options: ReadOptions,
    (from, to): (Bound<&[u8]>, Bound<&[u8]>),
    reverse: bool,
    visit: &mut Visitor<'_>,
) -> Result<(), EngineError> {
    let low = match from {
        Bound::Included(key) => key.to_vec(),
        Bound::Excluded(key) => after(key),
        Bound::Unbounded => Vec::new(),
    };
    let high = match to {
        Bound::Included(key) => Some(after(key)),
        Bound::Excluded(key) => Some(key.to_vec()),
        Bound::Unbounded => None,
    };
    if high.as_ref().is_some_and(|high| *high <= low) {
        return Ok(());
    }
    options.set_iterate_lower_bound(low);
    if let Some(high) = high {
        options.set_iterate_upper_bound(high);
    }
    let mut pairs: DBRawIteratorWithThreadMode<'_, DB> = db.raw_iterator_opt(options);
    if reverse {
        pairs.seek_to_last()
    } else {
        pairs.seek_to_first()
    }
    while let Some((key, value)) = pairs.item() {
        if visit(key, value) == ControlFlow::Break(()) {
            return Ok(());
        }
        if reverse { pairs.prev() } else { pairs.next() }
    }
    // The end of the range and an unreadable block both end the loop.
    pairs.status().map_err(engine_error)
}

/// The smallest key greater than `key`.
fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

fn engine_error(error: rocksdb::Error) -> EngineError {
    let (kind, text) = (error.kind(), error.into_string());
    // The wrapper passes on only the text of an I/O error; both phrases are RocksDB's and the C library's own.
    let full = text.contains("No space left on device") || text.contains("Space limit reached");
    match kind {
        _ if full => EngineError::DiskFull(text),
        ErrorKind::Corruption => EngineError::Damaged(text),
        _ => EngineError::Io(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(read: &dyn Read, from: Bound<&[u8]>, to: Bound<&[u8]>, reverse: bool) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        read.scan(from, to, reverse, &mut |key, _| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        })
        .unwrap();
        keys
    }

    #[test]
    fn a_database_that_does_not_open_is_damaged() {
        let (warning, limit) = (Duration::from_millis(1), Duration::from_millis(20));
        let (release, held) = std::sync::mpsc::channel::<()>();
        let stuck = move || held.recv().map_err(|_| EngineError::Io("released".into()));
        let failed = watched(Path::new("here"), (warning, limit), stuck);
        assert!(matches!(failed, Err(EngineError::Damaged(_))), "{failed:?}");
        drop(release);
        let panicked =
            watched(Path::new("here"), (OPEN_WARNING, OPEN_LIMIT), || -> Result<(), EngineError> { panic!("as told") });
        assert!(matches!(panicked, Err(EngineError::Io(_))), "{panicked:?}");
    }

    #[test]
    fn a_database_is_closed_when_its_last_view_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let rocks = RocksEngine::open(folder.path(), EngineOptions::new(Role::State)).unwrap();
        let (view, closing) = (rocks.view(), rocks.closing());
        drop(rocks);
        assert!(!closing.is_done());
        drop(view);
        assert!(closing.is_done());
        RocksEngine::open(folder.path(), EngineOptions::new(Role::State)).unwrap();
    }

    #[test]
    fn scans_like_the_engine_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let rocks = RocksEngine::open(folder.path(), EngineOptions::new(Role::State)).unwrap();
        let memory = super::super::MemEngine::new();
        let mut batch = Batch::default();
        for key in [&b"a"[..], b"b", b"ba", b"c", b"\xff"] {
            batch.put(key, vec![7; 5000]);
        }
        batch.delete(b"c".to_vec());
        batch.put(b"d".to_vec(), vec![1]);
        batch.delete_range(b"ba".to_vec(), b"bb".to_vec());
        rocks.write(&batch, Durability::Synced).unwrap();
        memory.write(&batch, Durability::Synced).unwrap();
        let view = rocks.view();
        let mut later = Batch::default();
        later.delete_range(Vec::new(), vec![0xff; 4]);
        rocks.write(&later, Durability::Buffered).unwrap();

        let bounds = [Bound::Unbounded, Bound::Included(&b"b"[..]), Bound::Excluded(b"b"), Bound::Included(b"d")];
        for (from, to) in bounds.iter().flat_map(|from| bounds.iter().map(move |to| (*from, *to))) {
            for reverse in [false, true] {
                assert_eq!(keys(view.as_ref(), from, to, reverse), keys(&memory, from, to, reverse), "{from:?} {to:?}");
            }
        }
        assert!(keys(&rocks, Bound::Unbounded, Bound::Unbounded, false).is_empty(), "a view holds what is gone");
        assert_eq!(view.get(b"a").unwrap().map(|value| value.len()), Some(5000));
        drop(rocks);
        assert_eq!(view.multi_get(&[b"d".to_vec(), b"c".to_vec()]).unwrap(), [Some(Bytes::from_static(&[1])), None]);
    }

    /// On a file system of a few dozen megabytes, for instance `mount -t tmpfs -o size=32m tmpfs DIR`.
    #[test]
    #[ignore = "needs a small file system: MIRA_SMALL_DISK=DIR"]
    fn a_full_disk_is_named_and_left_behind() {
        let disk = std::path::PathBuf::from(std::env::var_os("MIRA_SMALL_DISK").expect("MIRA_SMALL_DISK"));
        for role in [Role::Log, Role::State] {
            let folder = tempfile::tempdir_in(&disk).unwrap();
            let filler = folder.path().join("filler");
            std::fs::write(&filler, vec![1; 12 << 20]).unwrap();
            let options = EngineOptions { memtable_bytes: 1 << 20, ..EngineOptions::new(role) };
            let engine = RocksEngine::open(&folder.path().join("db"), options).unwrap();
            let value = |n: u64| {
                // Incompressible, so that the disk fills.
                let mut bytes = vec![0; 32 << 10];
                blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
                bytes
            };
            let write = |n: u64| {
                let mut batch = Batch::default();
                batch.put(n.to_be_bytes(), value(n));
                engine.write(&batch, Durability::Synced)
            };
            let mut n = 0;
            let refused = loop {
                match write(n) {
                    Ok(()) => n += 1,
                    Err(error) => break error,
                }
                assert!(n < 10_000, "the disk is not small");
            };
            assert!(matches!(refused, EngineError::DiskFull(_)), "{role:?}: {refused}");
            assert_eq!(engine.get(&0u64.to_be_bytes()).unwrap().as_deref(), Some(&value(0)[..]), "reads go on");
            std::fs::remove_file(&filler).unwrap();
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
            while let Err(error) = write(n) {
                assert!(std::time::Instant::now() < deadline, "{role:?}: {error}");
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            for key in 0..=n {
                assert_eq!(engine.get(&key.to_be_bytes()).unwrap().as_deref(), Some(&value(key)[..]), "{role:?}");
            }
        }
    }
}
