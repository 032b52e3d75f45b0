//! What one frame may hold: its content, its metadata, its names, its vectors, its times.

use std::time::Duration;

/// Content of one frame, bytes. One log entry must stay small enough that replicating it does not delay heartbeats.
pub const MAX_CONTENT_BYTES: usize = 1 << 20;
/// Metadata of one frame as JSON text, bytes: it is opened with every hit.
pub const MAX_METADATA_BYTES: usize = 64 << 10;
/// Levels of metadata: people write three or four; the JSON reader's own stack limit lies at 128.
pub const MAX_METADATA_DEPTH: usize = 32;
/// Type, role, session and collection names, bytes: they are keys, not prose.
pub const MAX_NAME_BYTES: usize = 256;
/// Components of a vector (SPEC: 384 text, 1,536 state; the largest public models have 4,096).
pub const MAX_DIM: u32 = 4_096;
/// Largest component, either way, where vectors are compared by dot or L2: the squared distance of any two vectors of
/// [`MAX_DIM`] components stays within single precision.
pub const MAX_COMPONENT: f32 = 1e15;
/// Passages of one frame: 1 MiB of text at about 700 bytes a passage, with room for overlap.
pub const MAX_PASSAGES: usize = 2_048;
/// How far a caller's clock may be ahead of a router's: a `created_at` within it is "now", beyond it a mistake.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);
