//! How large a cluster may be, with the moves of replicas that it does at once.

use std::time::Duration;

/// Collections of a cluster: every node keeps all of their records in memory, half a kilobyte each.
pub const MAX_COLLECTIONS: usize = 200_000;
/// Collections whose records a router keeps at hand; it asks for others when they are named.
pub const ROUTED_COLLECTIONS: usize = 10_000;
/// Changes of collections that a node remembers, for routers that have an older map: more than happen between two looks.
pub const REMEMBERED_CHANGES: usize = 4_096;
/// Collections in one page of a list of them.
pub const LISTED_COLLECTIONS: usize = 1_000;
/// Named vectors of a collection: each is an index of its own, and a bit in what is known of a frame.
pub const MAX_NAMED_VECTORS: usize = 8;
/// Shards of a cluster: each is a Raft group of its own (DESIGN 3.2).
pub const MAX_SHARDS: u32 = 1_024;
/// Nodes of a cluster: every router asks all of them for `status`.
pub const MAX_NODES: usize = 1_000;
/// Replicas of a cluster that move at once: copying is to stay small beside serving.
pub const MAX_MOVES: usize = 4;
/// Entries a replica may lack to be handed leadership or a vote: less than a heartbeat's worth under load.
pub const CAUGHT_UP_ENTRIES: u64 = 100;
/// Ends of keys that the meta group remembers: it keeps all of them in memory, and forgets the oldest finished ones.
pub const MAX_ERASURES: usize = 1_000;
/// Collections that one caller may make at once through a router: as many as a large import brings.
pub const COLLECTIONS_AT_ONCE: u32 = 2_000;
/// For one more collection of a caller.
pub const COLLECTION_EVERY: Duration = Duration::from_secs(1);
/// Commands of the meta group for which it remembers a request that it carried out, so that the same request is answered alike:
/// far more than are made while a caller tries again. Each takes some hundred bytes on every node.
pub const REMEMBERED_REQUESTS: u64 = 4_096;
