//! Keeping the log within its bytes, and giving back what it took once nothing is written any more.
//!
//! The consensus library takes snapshots by the number of entries; what is in one is trimmed here but for the last
//! entries. An entry may be a megabyte, so each node also looks at the bytes: a group whose log has too many takes a snapshot
//! and is trimmed to a half of its bound. A leader
//! spares what a follower still lacks, since that would get a snapshot instead, until the log is four times its bound:
//! one that is away must not fill the disks of the others. When the groups of a node have too many bytes together, the
//! largest is trimmed.
//!
//! A group at rest is trimmed to a small remainder after a while; its members all have what goes. Then the engine rewrites
//! its files, because a deleted entry is on the disk until a compaction comes by, and at rest none does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tracing::warn;

use crate::config::Limits;
use crate::host::RaftHost;
use crate::threads::run_blocking;
use crate::types::{GroupId, Runtime};

/// By how many times its bound a log may exceed it for the sake of a follower that is behind.
const SPARED: u64 = 4;

/// A group's log as a look finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogSize {
    pub bytes: u64,
    /// The entry up to which every member has it, as far as this replica knows; `None` if it does not lead.
    pub all_have: Option<u64>,
    /// The group rests and has not changed for a while.
    pub rests: bool,
}

/// Down to how many bytes a group's log is to be trimmed, and whether entries that a member lacks are spared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Trim {
    keep_bytes: u64,
    spares: bool,
}

fn decide(size: &LogSize, limits: &Limits) -> Option<Trim> {
    if size.bytes > limits.log_bytes {
        let spares = size.all_have.is_some() && size.bytes <= SPARED * limits.log_bytes;
        return Some(Trim { keep_bytes: limits.log_bytes / 2, spares });
    }
    let at_rest = size.rests && size.bytes > limits.log_bytes_at_rest;
    at_rest.then_some(Trim { keep_bytes: limits.log_bytes_at_rest, spares: true })
}

/// The groups to trim, and how: those beyond their bound, and the largest if all together are beyond the node's.
fn plan(sizes: &BTreeMap<GroupId, LogSize>, limits: &Limits) -> BTreeMap<GroupId, Trim> {
    let mut plan: BTreeMap<GroupId, Trim> =
        sizes.iter().filter_map(|(id, size)| Some((*id, decide(size, limits)?))).collect();
    let total: u64 = sizes.values().map(|size| size.bytes).sum();
    if total > limits.node_log_bytes
        && let Some((id, size)) = sizes.iter().max_by_key(|(_, size)| size.bytes)
    {
        plan.insert(*id, Trim { keep_bytes: size.bytes / 2, spares: false });
    }
    plan
}

/// What a node remembers between two looks.
#[derive(Default)]
pub(crate) struct LogBound(Mutex<Remembered>);

#[derive(Default)]
struct Remembered {
    /// The last entry of each group, and since when.
    last: BTreeMap<GroupId, (u64, Duration)>,
    /// Bytes of all groups when the engine's files were rewritten last, or at most since.
    greatest: u64,
    rewriting: bool,
}

impl<R: Runtime> RaftHost<R> {
    /// Looks at the logs of all groups and takes the next step for those that are too large. Waits for nothing.
    pub(crate) fn bound_logs(self: &Arc<Self>) {
        let (now, limits, groups) = (self.since_opened(), self.config().limits, self.groups());
        let mut remembered = self.log_bound().0.lock();
        let mut sizes = BTreeMap::new();
        for group in &groups {
            let last = group.last_log_index();
            let since =
                remembered.last.get(&group.id()).filter(|(before, _)| *before == last).map_or(now, |(_, at)| *at);
            let quiet = now.saturating_sub(since) >= self.config().timing.log_rest;
            sizes.insert(group.id(), group.log_size(group.is_at_rest() && quiet));
            remembered.last.insert(group.id(), (last, since));
        }
        remembered.last.retain(|id, _| sizes.contains_key(id));
        let plan = plan(&sizes, &limits);
        for group in groups {
            let by_bytes = plan.get(&group.id()).and_then(|trim| group.log_cut(trim.keep_bytes, trim.spares));
            let Some(upto) = by_bytes.max(group.snapshot_cut(limits.log_kept)) else { continue };
            drop(R::spawn(async move {
                // It fails when the replica has stopped; whoever opens it again goes on.
                let _ = group.trim(upto).await;
            }));
        }
        let total = sizes.values().map(|size| size.bytes).sum::<u64>();
        remembered.greatest = remembered.greatest.max(total);
        let rest = sizes.values().all(|size| size.rests && size.bytes <= limits.log_bytes_at_rest);
        if rest && !remembered.rewriting && remembered.greatest - total > limits.log_bytes_at_rest {
            (remembered.rewriting, remembered.greatest) = (true, total);
            let host = self.clone();
            drop(R::spawn(async move {
                let log = host.config().log.clone();
                let rewritten = run_blocking(host.config().threads.as_ref(), move || log.compact(&[], &[])).await;
                if let Err(error) = rewritten {
                    warn!(%error, "the log's files are not rewritten: they keep room that they do not need");
                }
                host.log_bound().0.lock().rewriting = false;
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { log_bytes: 100, node_log_bytes: 1_000, log_bytes_at_rest: 10, ..Limits::default() }
    }

    fn size(bytes: u64, all_have: Option<u64>, rests: bool) -> LogSize {
        LogSize { bytes, all_have, rests }
    }

    #[test]
    fn a_log_is_trimmed_by_its_bytes() {
        let trim = |keep_bytes, spares| Some(Trim { keep_bytes, spares });
        let table = [
            (size(100, Some(7), false), None),
            (size(101, Some(7), false), trim(50, true)),
            (size(401, Some(7), false), trim(50, false)),
            (size(101, None, false), trim(50, false)),
            (size(11, None, false), None),
            (size(11, None, true), trim(10, true)),
            (size(10, None, true), None),
        ];
        for (size, expected) in table {
            assert_eq!(decide(&size, &limits()), expected, "{size:?}");
        }
    }

    #[test]
    fn a_node_with_too_many_bytes_trims_its_largest_group() {
        let mut sizes: BTreeMap<GroupId, LogSize> = (0..10).map(|id| (id, size(100, Some(7), false))).collect();
        assert_eq!(plan(&sizes, &limits()), BTreeMap::new());
        sizes.insert(4, size(200, Some(7), false));
        assert_eq!(plan(&sizes, &limits()), BTreeMap::from([(4, Trim { keep_bytes: 100, spares: false })]));
    }
}
