//! Waiting for room on a full disk, and the end of that wait.
//!
//! A full disk stops nothing: whoever writes waits and tries again. Two must not wait with it: a reader, who is told at
//! once, and the end of the program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::warn;

use crate::engine::EngineError;
use crate::types::{GroupId, Runtime};

/// How long to wait before trying a full disk again.
pub(crate) const RETRY: Duration = Duration::from_millis(500);

/// One group's wait for room for its state.
pub(crate) struct Room {
    group: GroupId,
    /// The state of some group of this node found no room.
    node_full: Arc<AtomicBool>,
    /// The host is closing.
    closing: Arc<AtomicBool>,
    /// This group's state waits for room.
    waits: AtomicBool,
    /// This group is being stopped.
    stopping: AtomicBool,
}

impl Room {
    pub fn new(group: GroupId, node_full: Arc<AtomicBool>, closing: Arc<AtomicBool>) -> Arc<Self> {
        Arc::new(Room { group, node_full, closing, waits: AtomicBool::new(false), stopping: AtomicBool::new(false) })
    }

    /// Whether the state of any group of this node found no room lately.
    pub fn is_node_full(&self) -> bool {
        self.node_full.load(Ordering::Relaxed)
    }

    /// Whether this group's state does not go on for want of room.
    pub fn is_waited_for(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    /// From now on a full disk is a failure: there is nobody to wait for.
    pub fn stop_waiting(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// A write found room.
    pub fn found(&self) {
        self.waits.store(false, Ordering::Relaxed);
        self.node_full.store(false, Ordering::Relaxed);
    }

    /// Waits a little if the disk is full; any other failure is passed on, and this one too when nobody is to wait.
    pub async fn wait<R: Runtime>(&self, error: EngineError) -> Result<(), EngineError> {
        let EngineError::DiskFull(cause) = &error else { return Err(error) };
        if self.stopping.load(Ordering::Relaxed) || self.closing.load(Ordering::Relaxed) {
            return Err(error);
        }
        self.node_full.store(true, Ordering::Relaxed);
        if !self.waits.swap(true, Ordering::Relaxed) {
            warn!(group = self.group, cause, "state device is full, waiting for room");
        }
        R::sleep(RETRY).await;
        Ok(())
    }
}
