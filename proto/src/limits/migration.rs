//! How fast frames move between shards while a collection grows.

use std::time::Duration;

/// Collections that grow at once: each copies frames on every node that leads one of its shards.
pub const MAX_GROWTHS: usize = 16;
/// Frames of one page that moves from shard to shard; one proposal takes them.
pub const GROWTH_PAGE_FRAMES: usize = 100;
/// Bytes of one page that moves, unless one frame alone has more: no heartbeat waits long behind it.
pub const GROWTH_PAGE_BYTES: usize = 1 << 20;
/// Frames looked at for one page: a pass over what has not changed is quick, and still yields to others.
pub const GROWTH_PAGE_HEADS: usize = 5_000;
/// Bytes per second that move from shard to shard for the targets that one node leads, so that copying stays small beside serving.
pub const GROWTH_BYTES_PER_SECOND: usize = 16 << 20;
/// Passes over a source's frames before the last one is begun, however much still changes: each is shorter than the one
/// before unless writers outrun it, and then waiting helps nobody.
pub const GROWTH_PASSES: u32 = 5;
/// Frames that changed during a pass, at most, for the next one to be the last: writers of moving frames wait for that.
pub const GROWTH_LAST_FRAMES: u64 = 200;
/// How long after a growth retries of earlier writes are still sent to where they were first written: as long as a shard
/// remembers requests.
pub const GROWTH_MEMORY: Duration = Duration::from_secs(600);
/// Least pause after a page that was moved or sealed with another key, so that others get their turn.
pub const MIGRATION_PAGE_PAUSE: Duration = Duration::from_millis(2);
