//! How much a backup, or a recovery from one, takes at once.

use std::time::Duration;

/// Bytes of one page of a shard's log in a backup, unless one entry alone has more: a proposal of the largest size fits.
pub const ARCHIVE_PAGE_BYTES: usize = 4 << 20;
/// Shards that a node recovers to a point in time at once: each holds the frames that its log names on disk.
pub const MAX_RECOVERIES: usize = 8;
/// How long a recovery waits for its next request before it is given up, with its files.
pub const RECOVERY_IDLE: Duration = Duration::from_secs(300);
/// Places of backups that a cluster knows: the meta group keeps all of them in memory.
pub const MAX_REPOSITORIES: usize = 64;
/// Views of a shard that are kept for backups under way: each keeps replaced frames on the disk.
pub const MAX_BACKUP_VIEWS: usize = 8;
/// How long a view waits for its next request before it is given up.
pub const BACKUP_VIEW_IDLE: Duration = Duration::from_secs(120);
