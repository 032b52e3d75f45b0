//! When a shard's index lets writes wait, when it writes an image.

use std::time::Duration;

/// Changes of a shard that wait for its indexer, of which every search looks at all: beyond them its leader lets writes
/// wait. Comparing a query with so many takes as long as searching the graph.
pub const INDEX_TAIL: usize = 1_024;
/// Changes that wait for the indexer of a replica that falls behind its leader; more slow its apply loop down instead of
/// filling memory.
pub const MAX_INDEX_TAIL: usize = 16_384;
/// Vectors of a collection in a shard from which on its index is kept as an image: fewer are indexed again in a second.
pub const MIN_IMAGE_VECTORS: usize = 2_000;
/// Changes of an index below which no image of it is written: indexing them again takes less than a second.
pub const MIN_IMAGE_CHANGES: u64 = 1_000;
/// Least time between two images of one index: without it an import would write little else.
pub const IMAGE_PAUSE: Duration = Duration::from_secs(60);
