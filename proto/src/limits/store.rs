//! How much is written at once: batches, proposals, streams of items.

use std::time::Duration;

/// Items of one `store` call, as SPEC section 2 promises.
pub const MAX_BATCH_ITEMS: usize = 1_000;
/// Frames sealed into one proposal: bounds the time one entry holds the log.
pub const MAX_PROPOSAL_FRAMES: usize = 100;
/// Payload of one proposal, bytes: a frame of the largest size with its vectors fits.
pub const MAX_PROPOSAL_BYTES: usize = 4 << 20;
/// The longest that a small write waits for others to share its message: little beside the write itself.
pub const BUNDLE_WINDOW: Duration = Duration::from_millis(1);
/// A write of more bytes, vectors included, is not bundled: a hundred of these make a message of moderate size.
pub const BUNDLE_WRITE_BYTES: usize = 16 << 10;
/// Items of one ingest stream in work at once: they wait in the router's memory.
pub const MAX_INGEST_IN_FLIGHT: usize = 256;
/// How far a position that a caller has seen may be ahead of the clock of the shard that it stores in: more than clocks of one
/// cluster differ, little enough that a made-up one does not lead every later memory astray.
pub const MAX_POSITION_LEAD: Duration = Duration::from_secs(60);
/// Bytes of one ingest stream in work at once, unless one item alone has more.
pub const INGEST_BYTES_IN_FLIGHT: usize = 2 << 20;
/// One message of a stream, bytes: an item of the largest size with its vectors, or a piece of an upload.
pub const MAX_STREAM_MESSAGE_BYTES: usize = 4 << 20;
/// An `Idempotency-Key`, bytes: as long as other names, for it is one.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 256;
/// A `source_key`, bytes: a path or an address of a record fits, and it is hashed, never kept.
pub const MAX_SOURCE_KEY_BYTES: usize = 4 << 10;
