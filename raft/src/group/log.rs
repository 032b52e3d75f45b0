//! One replica's log: how large it is, and how it is trimmed.

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;

use super::{ChangeError, Group, stopped};
use crate::log_bound::LogSize;
use crate::types::{Runtime, index_of};

impl<R: Runtime> Group<R> {
    /// Bytes of the entries in this replica's log.
    pub fn log_bytes(&self) -> u64 {
        self.inner.parts.entries.bytes()
    }

    pub(crate) fn last_log_index(&self) -> u64 {
        self.inner.parts.entries.last_index()
    }

    /// How large the log is, and who still needs what of it.
    pub(crate) fn log_size(&self, rests: bool) -> LogSize {
        LogSize { bytes: self.log_bytes(), all_have: self.all_have(), rests }
    }

    /// The entry up to which every other member has this leader's log; `None` if it does not lead.
    fn all_have(&self) -> Option<u64> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state != ServerState::Leader {
            return None;
        }
        let others = metrics.replication.iter().flatten().filter(|(node, _)| **node != metrics.id);
        // Of one that has not answered yet nothing is known: it may lack everything.
        Some(others.map(|(_, matched)| index_of(matched.as_ref())).min().unwrap_or(u64::MAX))
    }

    /// The last entry to trim for so many bytes to be left: applied here, and, if they are to be spared, not lacked by a
    /// member. `None` if there is nothing to trim.
    pub(crate) fn log_cut(&self, keep_bytes: u64, spares: bool) -> Option<u64> {
        let entries = &self.inner.parts.entries;
        let spared = self.all_have().filter(|_| spares).unwrap_or(u64::MAX);
        let upto = entries.cut(keep_bytes)?.min(spared).min(self.reader().applied_index());
        (upto > entries.purged_index()).then_some(upto)
    }

    /// The last entry to trim for `keep` entries of those in the snapshot to be left; `None` if fewer than a quarter as many
    /// would go.
    pub(crate) fn snapshot_cut(&self, keep: u64) -> Option<u64> {
        let snapshot = index_of(self.raft().metrics().borrow_watched().snapshot.as_ref());
        let upto = snapshot.checked_sub(keep)?;
        (upto >= self.inner.parts.entries.purged_index() + (keep / 4).clamp(1, 256)).then_some(upto)
    }

    /// Takes a snapshot now, after which the log is trimmed; does not wait for it.
    ///
    /// # Errors
    /// When this replica has stopped.
    pub async fn trigger_snapshot(&self) -> Result<(), ChangeError> {
        self.raft().trigger().snapshot().await.map_err(stopped)
    }

    /// Takes the next step towards a log without the entries up to `index`, all applied: a snapshot, then trimming. True
    /// once they are gone. Followers that still need them get a snapshot instead.
    ///
    /// # Errors
    /// When this replica has stopped.
    pub async fn trim(&self, index: u64) -> Result<bool, ChangeError> {
        let status = self.status();
        if status.purged >= index {
            return Ok(true);
        }
        let triggered = if status.snapshot_index >= index {
            self.raft().trigger().purge_log(index).await
        } else {
            self.raft().trigger().snapshot().await
        };
        triggered.map_err(stopped)?;
        Ok(false)
    }
}
