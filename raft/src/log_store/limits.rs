//! How much the log store of a node holds at once.

/// Bounds of the log store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogLimits {
    /// Requests that wait for the writer; more wait for a place.
    pub queue: usize,
    /// Bytes the writer puts into one batch.
    pub batch_bytes: usize,
    /// Bytes of recent entries kept in memory per group.
    pub recent_bytes: usize,
    /// Bytes read at once for replication or applying.
    pub read_bytes: usize,
    /// Bytes of entries that are counted together.
    pub piece_bytes: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { queue: 4096, batch_bytes: 8 << 20, recent_bytes: 4 << 20, read_bytes: 1 << 20, piece_bytes: 64 << 10 }
    }
}
