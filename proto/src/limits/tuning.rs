//! How a collection's recall is measured, with the beams that it is tuned to.

/// One search in so many is repeated exactly to learn how right the answers are: a thousandth of the work at most.
pub const RECALL_SAMPLE_EVERY: u64 = 1_000;
/// The widest beam that a collection is tuned to, and that a search asks for: where more is needed, comparing with everything costs as much.
pub const MAX_TUNED_EF: u32 = 2_048;
/// Vectors that a collection is tuned with, of all its shards together: recall is then told within about 0.01.
pub const TUNE_SAMPLES: u32 = 200;
/// Vectors that a collection is tuned with in each shard at least: every shard is to count.
pub const MIN_TUNE_SAMPLES: u32 = 20;
/// The recall that a collection is tuned to when none is named (SPEC section 5).
pub const DEFAULT_TUNED_RECALL: f64 = 0.95;
