//! The production engine: RocksDB.
//!
//! A synced write is one append to the write-ahead log and one `fdatasync`; log files are recycled, so that the sync
//! does not have to record a new file size each time. Few background threads: nodes share small machines.
//!
//! A full disk makes writes fail with [`EngineError::DiskFull`]; RocksDB watches for room and takes writes again by
//! itself once there is some, so the caller only has to try again.
//!
//! A damaged block is found when it is read, and by compaction: then RocksDB writes nothing more, whatever the key, and
//! comes upon the block again after each start. The way out is [`Engine::salvage`]: everything that can be read moves to a
//! database in the subfolder `salvaged-N`, which counts from the moment its file `WHOLE` is there; the files of the one
//! before are deleted when nobody reads them any more, or at the next start.

use std::fs::{self, File};
use std::io;
use std::ops::{Bound, ControlFlow, Deref};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BottommostLevelCompaction, Cache, CompactOptions, DB, DBCompressionType,
    DBRawIteratorWithThreadMode, ErrorKind, Options, ReadOptions, SnapshotWithThreadMode, WriteBatch, WriteOptions,
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
/// Bytes of a block of entries: a few rows of vectors.
const BLOCK_BYTES: usize = 8 << 10;
/// Bytes of a piece of an index or filter.
const METADATA_BLOCK_BYTES: usize = 4 << 10;

/// Opening is said to take long after this time, and again after as much.
const OPEN_WARNING: Duration = Duration::from_secs(5);
/// Opening has failed after this time. Replaying what memtables held takes a second or two.
const OPEN_LIMIT: Duration = Duration::from_secs(120);

/// Name of the subfolders for databases that something was saved into, before their number.
const SALVAGED: &str = "salvaged-";
/// The file that says that such a database has all there was to save.
const WHOLE: &str = "WHOLE";
/// Bytes that are saved in one batch.
const SALVAGE_BATCH: usize = 1 << 20;

/// A database, its folder, and the mark that it is open.
struct Database {
    // Declared, and so dropped, in this order.
    db: DB,
    folder: Folder,
    _open: Arc<()>,
}

/// The folder of a database; when it is doomed, its files go with its last user.
struct Folder {
    path: PathBuf,
    /// Counted up from 0, the engine's own folder.
    number: u32,
    doomed: AtomicBool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.doomed.load(Ordering::Relaxed)
            && let Err(error) = remove_database(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "a damaged database is not removed now, but at the next start");
        }
    }
}

/// Removes a database's files, and its folder unless others lie in it.
fn remove_database(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true if entry.file_name().to_string_lossy().starts_with(SALVAGED) => {}
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}

/// The database that counts, after removing those before it and those that were never whole.
fn current_folder(path: &Path) -> io::Result<(PathBuf, u32)> {
    let mut salvaged = Vec::new();
    for entry in fs::read_dir(path).into_iter().flatten() {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.strip_prefix(SALVAGED)?.parse::<u32>().ok());
        salvaged.extend(number.map(|number| (number, entry.path())));
    }
    salvaged.sort();
    let newest = salvaged.iter().rposition(|(_, folder)| folder.join(WHOLE).exists());
    for (at, (_, folder)) in salvaged.iter().enumerate() {
        if Some(at) != newest {
            fs::remove_dir_all(folder)?;
        }
    }
    let Some((number, folder)) = newest.map(|at| salvaged.swap_remove(at)) else { return Ok((path.to_owned(), 0)) };
    remove_database(path)?;
    Ok((folder, number))
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
    current: ArcSwap<Database>,
    path: PathBuf,
    options: EngineOptions,
    out_of_service: AtomicBool,
    // Declared, and so dropped, last.
    open: Arc<()>,
}

impl RocksEngine {
    /// Opens the database in the folder `path`, making it if there is none.
    ///
    /// # Errors
    /// When it is in use, damaged, or the folder cannot be written.
    pub fn open(path: &Path, options: EngineOptions) -> Result<Self, EngineError> {
        let (folder, number) = current_folder(path).map_err(io_error)?;
        let open = Arc::default();
        let database = open_database((folder, number), options, &open)?;
        let (current, out_of_service) = (ArcSwap::from_pointee(database), AtomicBool::new(false));
        Ok(Self { current, path: path.into(), options, out_of_service, open })
    }

    fn db(&self) -> arc_swap::Guard<Arc<Database>> {
        self.current.load()
    }

    /// Something to wait on for the end of this database.
    pub fn closing(&self) -> Closing {
        Closing(Arc::downgrade(&self.open))
    }

    /// Damage that is met in writing ends it.
    fn noted(&self, written: Result<(), EngineError>) -> Result<(), EngineError> {
        if let Err(EngineError::Damaged(_)) = &written {
            self.out_of_service.store(true, Ordering::Relaxed);
        }
        written
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

    /// A figure RocksDB keeps about itself, such as `rocksdb.total-sst-files-size`.
    pub fn figure(&self, name: &str) -> Option<u64> {
        self.db().property_int_value(name).ok().flatten()
    }
}

fn open_database(
    (path, number): (PathBuf, u32),
    options: EngineOptions,
    open: &Arc<()>,
) -> Result<Database, EngineError> {
    let folder = path.clone();
    let opening = move || DB::open(&database_options(options), folder).map_err(engine_error);
    let db = watched(&path, (OPEN_WARNING, OPEN_LIMIT), opening)?;
    let folder = Folder { path, number, doomed: AtomicBool::new(false) };
    Ok(Database { db, folder, _open: open.clone() })
}

/// Copies the pairs of a part; what was copied of it before an error stays.
fn copy_part(from: &DB, to: &DB, part: (Bound<&[u8]>, Bound<&[u8]>)) -> Result<(), EngineError> {
    let (mut batch, mut failed) = (Batch::default(), None);
    let mut bytes = 0;
    let mut options = read_options();
    options.fill_cache(false);
    scan(from, options, part, false, &mut |key, value| {
        bytes += key.len() + value.len();
        batch.put(key, Bytes::copy_from_slice(value));
        if bytes >= SALVAGE_BATCH {
            bytes = 0;
            failed = to.write(writes_of(&std::mem::take(&mut batch))).err();
        }
        if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let written = failed.map_or_else(|| to.write(writes_of(&batch)), Err);
    written.map_err(engine_error)
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
    // All but keys is ciphertext: compressing it gains nothing.
    db.set_compression_type(DBCompressionType::None);
    db.set_level_compaction_dynamic_level_bytes(true);
    db.set_keep_log_file_num(2);
    db.set_max_log_file_size(1 << 20);
    db.set_stats_dump_period_sec(0);
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(options.cache_bytes));
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // An index of one block per file is a megabyte: beyond a few hundred thousand frames they would push each other out of
    // the cache, and every read would bring one back.
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_metadata_block_size(METADATA_BLOCK_BYTES);
    blocks.set_pin_top_level_index_and_filter(true);
    blocks.set_block_size(BLOCK_BYTES);
    if options.role == Role::State {
        // Most request ids are new: the filter answers "not there" without a read.
        blocks.set_bloom_filter(10.0, false);
        blocks.set_partition_filters(true);
        db.set_enable_blob_files(true);
        db.set_min_blob_size(BLOB_BYTES);
        db.set_enable_blob_gc(true);
        db.set_blob_compression_type(DBCompressionType::None);
    }
    db.set_block_based_table_factory(&blocks);
    db
}

impl Engine for RocksEngine {
    fn compact(&self, from: &[u8], to: &[u8]) -> Result<(), EngineError> {
        let db = self.db();
        db.flush().map_err(engine_error)?;
        let mut options = CompactOptions::default();
        // Also the lowest level: what is overwritten there is what must go.
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        let to = (!to.is_empty()).then_some(to);
        db.compact_range_opt(Some(from), to, &options);
        Ok(())
    }

    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), EngineError> {
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        // When memtables cannot be flushed for want of room, RocksDB holds writers up instead of failing them. So the
        // first try does not wait, and only a stall with room on the disk is sat out.
        options.set_no_slowdown(true);
        let db = self.db();
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
        let synced = self.db().flush_wal(true).map_err(engine_error);
        self.noted(synced)
    }

    fn view(&self) -> Arc<dyn Read> {
        Arc::new(RocksView::new(self.current.load_full()))
    }

    fn is_out_of_service(&self) -> bool {
        self.out_of_service.load(Ordering::Relaxed)
    }

    fn salvage(&self, parts: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<usize>, EngineError> {
        let damaged = self.current.load_full();
        let number = damaged.folder.number + 1;
        let folder = self.path.join(format!("{SALVAGED}{number}"));
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(io_error)?;
        }
        let fresh = open_database((folder.clone(), number), self.options, &self.open)?;
        let mut lost = Vec::new();
        for (at, (from, to)) in parts.iter().enumerate() {
            match copy_part(&damaged.db, &fresh.db, (Bound::Included(from), Bound::Excluded(to))) {
                Err(EngineError::Damaged(_)) => {
                    let mut half = Batch::default();
                    half.delete_range(from.clone(), to.clone());
                    fresh.db.write(writes_of(&half)).map_err(engine_error)?;
                    lost.push(at);
                }
                copied => copied?,
            }
        }
        fresh.db.flush().map_err(engine_error)?;
        let whole = || {
            File::create(folder.join(WHOLE))?.sync_all()?;
            File::open(&folder)?.sync_all()?;
            File::open(&self.path)?.sync_all()
        };
        whole().map_err(io_error)?;
        self.current.store(Arc::new(fresh));
        self.out_of_service.store(false, Ordering::Relaxed);
        damaged.folder.doomed.store(true, Ordering::Relaxed);
        Ok(lost)
    }
}

impl Read for RocksEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        get(&self.db(), key, &read_options())
    }

    fn multi_get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, EngineError> {
        multi_get(&self.db(), keys, &read_options())
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError> {
        // A scan may take long: it keeps its database open, whatever takes its place meanwhile.
        scan(&self.current.load_full(), read_options(), (from, to), reverse, visit)
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

fn io_error(error: io::Error) -> EngineError {
    match error.kind() {
        io::ErrorKind::StorageFull => EngineError::DiskFull(error.to_string()),
        _ => EngineError::Io(error.to_string()),
    }
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

    /// Flips a bit in every place where the file says `text`.
    fn damage(folder: &Path, text: &[u8]) {
        let mut hits = 0;
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "sst") {
                let mut bytes = fs::read(&path).unwrap();
                while let Some(at) = bytes.windows(text.len()).position(|window| window == text) {
                    bytes[at] ^= 1;
                    hits += 1;
                }
                fs::write(&path, bytes).unwrap();
            }
        }
        assert!(hits > 0, "nothing was damaged");
    }

    #[test]
    fn what_is_readable_of_a_damaged_database_is_saved() {
        let folder = tempfile::tempdir().unwrap();
        let options = EngineOptions::new(Role::State);
        let part = |group: u8| (vec![group], vec![group + 1]);
        let key = |group: u8, number: u32| [&[group][..], &number.to_be_bytes()].concat();
        // Incompressible and short: a part has many blocks in one file.
        let value = |group: u8, number: u32| {
            let mut bytes = [0; 200];
            blake3::Hasher::new().update(&key(group, number)).finalize_xof().fill(&mut bytes);
            bytes
        };
        let rocks = RocksEngine::open(folder.path(), options).unwrap();
        let mut batch = Batch::default();
        for (group, number) in (0..3).flat_map(|group| (0..200).map(move |number| (group, number))) {
            batch.put(key(group, number), value(group, number).to_vec());
        }
        rocks.write(&batch, Durability::Synced).unwrap();
        rocks.compact(&[], &[]).unwrap();
        drop(rocks);
        damage(folder.path(), &value(1, 150)[..8]);

        let rocks = RocksEngine::open(folder.path(), options).unwrap();
        assert!(matches!(rocks.get(&key(1, 150)), Err(EngineError::Damaged(_))));
        // Compaction meets the block, and from then on nothing is written.
        let mut later = Batch::default();
        (0..3).for_each(|group| later.put(key(group, 500), vec![group; 10]));
        rocks.write(&later, Durability::Synced).unwrap();
        rocks.compact(&[], &[]).unwrap();
        let refused = rocks.write(&later, Durability::Buffered);
        assert!(matches!(refused, Err(EngineError::Damaged(_))) && rocks.is_out_of_service(), "{refused:?}");

        let view = rocks.view();
        assert_eq!(rocks.salvage(&[part(0), part(1), part(2)]).unwrap(), [1]);
        assert!(!rocks.is_out_of_service());
        assert_eq!(keys(&rocks, Bound::Unbounded, Bound::Unbounded, false).len(), 2 * 201);
        rocks.write(&later, Durability::Synced).unwrap();
        assert!(view.get(&key(2, 7)).unwrap().is_some(), "views of the old database live on");
        drop(view);
        rocks.compact(&[], &[]).unwrap();
        drop(rocks);

        // Half of another, from a crash while it was made.
        fs::create_dir(folder.path().join("salvaged-2")).unwrap();
        let rocks = RocksEngine::open(folder.path(), options).unwrap();
        for (group, number) in [0, 2].into_iter().flat_map(|group| (0..200).map(move |number| (group, number))) {
            assert_eq!(rocks.get(&key(group, number)).unwrap().as_deref(), Some(&value(group, number)[..]));
        }
        assert_eq!(rocks.get(&key(1, 3)).unwrap(), None);
        assert_eq!(rocks.get(&key(1, 500)).unwrap().as_deref(), Some(&[1; 10][..]), "written after");
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["salvaged-1"], "the old files are gone");
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
