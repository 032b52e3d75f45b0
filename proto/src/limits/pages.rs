//! How many frames one page of a recall, a scan or a removal has.

/// Frames of one recall: they travel in one message.
pub const MAX_RECALL: u32 = 1_000;
/// Frames of one recall by session when it names no limit: a long conversation.
pub const DEFAULT_RECALL: u32 = 100;
/// Frames of a page of a scan, at most: they travel in one message.
pub const MAX_SCAN: u32 = 1_000;
/// Frames of a page of a scan that names no limit.
pub const DEFAULT_SCAN: u32 = 200;
/// Bytes after which a shard ends its page of a scan: a page comes from several shards at once.
pub const SCAN_PAGE_BYTES: usize = 2 << 20;
/// Ids of one `forget`, and of its answer.
pub const MAX_FORGET_IDS: usize = 1_000;
/// Frames that one proposal of a `forget` removes, so that it does not hold the log; larger sets go in several. A shard
/// remembers the answer for who asks again: with 19 bytes an id, it must stay below 16 KiB.
pub const MAX_FORGET_STEP: usize = 800;
/// Bytes after which a recall is cut: its frames travel in one message, in which JSON may escape what they hold.
pub const RECALL_BYTES: usize = 8 << 20;
