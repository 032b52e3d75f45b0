//! How often the leaders of shards look after what is stored.

use std::time::Duration;

/// How often a shard's leader looks for frames whose time is over: no reader sees them meanwhile, so this is about disk.
pub const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// How often the replicas of a shard are compared in the background: damage is found while other replicas are whole, and
/// reading everything once a day is little beside serving.
pub const VERIFY_EVERY: Duration = Duration::from_secs(24 * 3600);
/// How long a verification in the background waits for the slowest replica: it reads at no more than 200 MB/s.
pub const VERIFY_PATIENCE: Duration = Duration::from_secs(3600);
