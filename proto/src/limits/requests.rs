//! How large a request may be, how long each try of it may take.

use std::time::Duration;

/// One gRPC message or HTTP body, bytes: a full batch of large items is refused before it fills memory.
pub const MAX_MESSAGE_BYTES: usize = 32 << 20;
/// Requests a router works on at once; more wait in the accept queue of the kernel or are told `overloaded`.
pub const MAX_REQUESTS_IN_FLIGHT: usize = 1_024;
/// Access tokens of a router: each is compared for each request, which takes some 30 ns.
pub const MAX_ACCESS_TOKENS: usize = 1_000;
/// An access token, bytes: 16 random characters are beyond guessing; most names are shorter, so that a line of a token file
/// written the wrong way round is found.
pub const MIN_ACCESS_TOKEN_BYTES: usize = 16;
/// An access token, bytes: many times what a random one has.
pub const MAX_ACCESS_TOKEN_BYTES: usize = 1 << 10;
/// A file of secrets, bytes: the most access tokens with the longest names fit.
pub const MAX_SECRET_FILE_BYTES: usize = 2 << 20;
/// The deadline of a request that names none: longer than an election with a retry after it.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);
/// The longest deadline that a caller may ask for; what takes longer should be asked for in parts.
pub const MAX_DEADLINE: Duration = Duration::from_secs(600);
/// Wait between two tries of a request that found no leader: about a heartbeat.
pub const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long a read waits for one replica before another is asked.
pub const READ_TRY: Duration = Duration::from_secs(2);
/// How long a write waits for one leader before the map is asked again: a write takes longer than a read, as it waits for
/// a quorum.
pub const WRITE_TRY: Duration = Duration::from_secs(5);
/// State older than this is not what a read at level `any` is answered from while another replica answers: longer than
/// an election, in which nobody knows better.
pub const MAX_STALENESS: Duration = Duration::from_secs(3);
/// Entries that a replica may lack, as far as it knows, and still be asked by a read at level `any`: a second of a busy
/// shard.
pub const MAX_READ_LAG: u64 = 5_000;
/// How long a search waits for a shard whose replicas refuse before its answer goes out without it: longer than an
/// election, shorter than a caller's patience.
pub const SHARD_PATIENCE: Duration = Duration::from_secs(5);
/// Shards that one request asks at once: each has a connection and an answer in memory; a collection spread wider is asked
/// in turns.
pub const MAX_FAN_OUT: usize = 64;
/// A node that does not answer `status` within this is listed as unreachable: `status` is to answer while nodes are down.
pub const STATUS_TRY: Duration = Duration::from_secs(1);
/// How long a stopping router waits for requests in flight: less than service managers wait before they kill.
pub const SHUTDOWN_DRAIN: Duration = Duration::from_secs(10);
/// How long a request for a newer map is held open: less than proxies keep an idle connection.
pub const MAP_WAIT: Duration = Duration::from_secs(20);
/// Text that a busy router of two slow cores embeds in a second at least, bytes (SPEC section 5 has its own goals).
const EMBEDDED_BYTES_PER_SECOND: usize = 8 << 10;

/// How long embedding a text may take: 1 MiB gets two minutes beside what every request gets.
pub const fn embedding_time(text_bytes: usize) -> Duration {
    Duration::from_millis((text_bytes as u64).saturating_mul(1_000) / EMBEDDED_BYTES_PER_SECOND as u64)
}
/// Bytes of request bodies that a router reads and works on at once: their contents are in memory a few times over on their
/// way to the shards, and a router stays under 500 MB (SPEC section 2). Two of the largest fit.
pub const BODY_BYTES: usize = 64 << 20;
/// A body of so many bytes takes no part in that, so that it never waits for large ones: as many as may be at work take no
/// more than the large ones do.
pub const SMALL_BODY_BYTES: usize = 64 << 10;
/// How long a body waits for its room before its sender is told to come again: longer than the largest body takes.
pub const BODY_PATIENCE: Duration = Duration::from_secs(10);
/// For a whole body to arrive once it has its room, which others wait for: 32 MiB at 6 Mbit/s.
pub const BODY_TIME: Duration = Duration::from_secs(45);
/// A body of more bytes is parsed on a thread of its own: less takes under a millisecond.
pub const INLINE_PARSE_BYTES: usize = 128 << 10;
/// Bytes in memory that the metadata, filters and searches of one request may take together: a thousand items with a
/// thousand values each.
pub const MAX_REQUEST_TREES_BYTES: usize = 96 << 20;
/// Entries of all lists of one gRPC message: a full batch with everything that an item may have.
pub const MAX_MESSAGE_ENTRIES: usize = 64 << 10;
/// A JSON-RPC message without the arguments of its tool, bytes.
pub const MAX_ENVELOPE_BYTES: usize = 64 << 10;
