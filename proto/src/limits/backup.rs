//! How much a backup, or a recovery from one, takes at once.

use std::time::Duration;

/// Bytes of one page of a shard's log in a backup, unless one entry alone has more: a proposal of the largest size fits.
pub const ARCHIVE_PAGE_BYTES: usize = 4 << 20;
/// Shards whose logs a node replays at once while a backup is restored: each holds the frames that its log names on disk.
pub const MAX_ROLLS: usize = 8;
/// How long a replay waits for the next request before it is given up, with its files.
pub const ROLL_IDLE: Duration = Duration::from_secs(300);
/// Places of backups that a cluster knows: the meta group keeps all of them in memory.
pub const MAX_REPOSITORIES: usize = 64;
