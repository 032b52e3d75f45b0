//! What one search may ask for, with the memory that searches may take.

/// Hits of one search: more are read page by page.
pub const MAX_K: u32 = 1_000;
/// `k` when a search names none: what a model reads with ease.
pub const DEFAULT_K: u32 = 10;
/// Most similar frames that a shard looks through for a search that ranks by more than similarity to one vector, and the
/// deepest place that its pages reach; a collection of so many vectors in a shard is looked through whole. Pages by
/// similarity alone have no such end.
pub const MAX_POOL: usize = 100_000;
/// As [`MAX_POOL`], where the group of each frame of the pool is looked up; frames with attributes that are not indexed are
/// opened for it.
pub const MAX_GROUP_POOL: usize = 2_048;
/// Hits of one group: a group is to show what it is about, not to list itself.
pub const MAX_GROUP_SIZE: u32 = 100;
/// Query vectors of one search: each is a search of its own.
pub const MAX_QUERY_VECTORS: usize = 16;
/// Searches of one batch: they share one deadline.
pub const MAX_BATCH_SEARCHES: usize = 100;
/// Searches of a batch at work at once: a batch is to leave room for others.
pub const MAX_BATCH_IN_FLIGHT: usize = 8;
/// Query text, bytes: what does not fit one passage of the model would be cut.
pub const MAX_QUERY_BYTES: usize = 8 << 10;
/// Words of a query that are looked for: each is compared with every word of every text.
pub const MAX_QUERY_WORDS: usize = 64;
/// Places in a hit's content that are named as what matched: enough to show.
pub const MAX_HIGHLIGHTS: usize = 32;
/// Memory that the searches of a node at work may take together, however many they are.
pub const SEARCH_MEMORY_BYTES: usize = 256 << 20;
/// Searches of a node that wait for their turn: at a millisecond each on two cores, half a second.
pub const MAX_SEARCHES_WAITING: usize = 1_024;
/// Query embeddings a router remembers: agents ask the same things again, and 5,000 of 384 components are 8 MB.
pub const QUERY_CACHE: usize = 5_000;
