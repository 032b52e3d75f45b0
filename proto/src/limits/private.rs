//! The work that private frames cause: pages of sealed vectors, passphrases to open.

use std::time::Duration;

/// Sealed vectors of private frames in one page, bytes: a router holds one page of each shard that it asks.
pub const PRIVATE_PAGE_BYTES: usize = 4 << 20;
/// Private frames in one page: an entry without vectors has no bytes to speak of.
pub const PRIVATE_PAGE_FRAMES: usize = 20_000;
/// Shards whose private frames a search reads at once: each holds pages.
pub const PRIVATE_FAN_OUT: usize = 4;
/// Sealed vectors of private frames that a router keeps, bytes: those of 50,000 frames of 384 components.
pub const PRIVATE_CACHE_BYTES: usize = 80 << 20;
/// Private frames that one search opens to ask a filter of them, or for their groups: as many as it is likely to have the
/// vectors of, and a few seconds' work.
pub const MAX_PRIVATE_OPENED: usize = 50_000;
/// A private frame's sealed pieces, bytes, beside its content and metadata: names, layers, ranges of passages.
pub const PRIVATE_ROOM_BYTES: usize = 64 << 10;
/// A passphrase, bytes: a long sentence.
pub const MAX_PASSPHRASE_BYTES: usize = 1 << 10;
/// Owners with a passphrase record: the meta group keeps all of them in memory.
pub const MAX_OWNERS: usize = 10_000;
/// Passphrases that a router opens at once: each takes 64 MiB and a CPU for a tenth of a second.
pub const MAX_PASSPHRASES_AT_WORK: usize = 2;
/// Owner keys behind passphrases that a router remembers, so that not every request runs Argon2id.
pub const PASSPHRASE_CACHE: usize = 256;
/// How long a router remembers an owner key after its passphrase was opened: the shorter, the less a dump of its memory
/// shows.
pub const PASSPHRASE_CACHE_TIME: Duration = Duration::from_secs(60);
/// Private candidates that a search with a filter opens first: a round trip costs as much as opening some dozens.
pub const POST_FILTER_FIRST: usize = 64;
/// Private candidates of one round trip at most, so that it ends in a fraction of a deadline.
pub const POST_FILTER_MOST: usize = 4_096;
/// Passphrases of one caller that wait to be opened, the one being opened among them.
pub const MAX_PASSPHRASES_WAITING: usize = 64;
/// Owners that one caller may make at once through a router.
pub const OWNERS_AT_ONCE: u32 = 20;
/// For one more owner of a caller: making all that a cluster keeps takes a month.
pub const OWNER_EVERY: Duration = Duration::from_secs(300);
