//! Opening a database within a time.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::engine::EngineError;

/// How long opening may take.
pub(super) struct OpenTimes {
    /// The log says that it takes long after this time, and again after as much.
    pub warning: Duration,
    /// Opening has failed after this time.
    pub limit: Duration,
}

impl Default for OpenTimes {
    fn default() -> Self {
        // Replaying what memtables held takes a second or two.
        Self { warning: Duration::from_secs(5), limit: Duration::from_secs(120) }
    }
}

/// Opens on a thread of its own. RocksDB's log reader turns in a circle for ever over some damaged records (of 80
/// manifests with eight flipped bits, over 6), and a node must not start without a word and without an end.
pub(super) fn open_within<T: Send + 'static>(
    path: &Path,
    times: &OpenTimes,
    open: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    let (done, opened) = mpsc::channel();
    let work = move || {
        // Nobody listens any more after the limit.
        let _ = done.send(open());
    };
    let failed = |error: std::io::Error| EngineError::Io(format!("cannot start a thread: {error}"));
    thread::Builder::new().name("rocksdb-open".into()).spawn(work).map_err(failed)?;
    let started = Instant::now();
    loop {
        match opened.recv_timeout(times.warning) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Disconnected) => return Err(EngineError::Io("opening the database panicked".into())),
            Err(RecvTimeoutError::Timeout) if started.elapsed() < times.limit => {
                let (path, seconds) = (path.display(), started.elapsed().as_secs());
                tracing::warn!(%path, seconds, "the database is still being opened; its files may be damaged");
            }
            Err(RecvTimeoutError::Timeout) => {
                let text = format!("{} was not opened within {} s", path.display(), times.limit.as_secs());
                return Err(EngineError::Damaged(text));
            }
        }
    }
}
