//! How a database is tuned for what it holds.

use rocksdb::{BlockBasedIndexType, BlockBasedOptions, Cache, DBCompressionType, Options};

/// What an engine holds, which decides how it is tuned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineRole {
    /// The Raft log: written once, read seldom, deleted in ranges.
    Log,
    /// State: read often; large values apart, so that compaction does not rewrite them.
    State,
}

/// How an engine is opened.
#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    /// What it holds.
    pub role: EngineRole,
    /// Bytes of cached blocks, index and filter blocks included.
    pub cache_bytes: usize,
    /// Bytes of each of the (at most three) memtables.
    pub memtable_bytes: usize,
    /// Files that it keeps open.
    pub open_files: u32,
}

impl EngineOptions {
    /// Sizes for a node that shares its machine.
    pub fn new(role: EngineRole) -> Self {
        match role {
            EngineRole::Log => Self { role, cache_bytes: 8 << 20, memtable_bytes: 32 << 20, open_files: 512 },
            EngineRole::State => Self { role, cache_bytes: 64 << 20, memtable_bytes: 32 << 20, open_files: 512 },
        }
    }
}

/// Values from this size on lie in blob files.
const BLOB_BYTES: u64 = 4096;
/// Bytes of a block of entries: a few rows of vectors.
const BLOCK_BYTES: usize = 8 << 10;
/// Bytes of a piece of an index or filter.
const METADATA_BLOCK_BYTES: usize = 4 << 10;

/// Write-ahead logs that are kept to be used again, with what was in them. Only the Raft log is synced with each write.
pub(super) fn recycled_logs(role: EngineRole) -> usize {
    match role {
        EngineRole::Log => 2,
        EngineRole::State => 0,
    }
}

/// As RocksDB takes them.
pub(super) fn database_options(options: EngineOptions) -> Options {
    let mut db = Options::default();
    db.create_if_missing(true);
    db.set_paranoid_checks(true);
    db.set_max_background_jobs(2);
    db.set_write_buffer_size(options.memtable_bytes);
    db.set_max_write_buffer_number(3);
    db.set_max_open_files(options.open_files as i32);
    db.set_recycle_log_file_num(recycled_logs(options.role));
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
    if options.role == EngineRole::State {
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
