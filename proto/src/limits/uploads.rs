//! How much large content a frame may have, with the times after which unfinished uploads lose their chunks.

use std::time::Duration;

/// Large content of a frame, bytes: images, recordings, archives. Every replica stores all of it.
pub const MAX_ATTACHMENT_BYTES: u64 = 256 << 20;
/// Chunks of a large content: as many as there are megabytes, and room for those that an interrupted upload cut short.
pub const MAX_ATTACHMENT_CHUNKS: usize = 1_024;
/// Chunks of one upload or download at work in a router at once: what it holds of each in memory.
pub const CHUNKS_IN_FLIGHT: usize = 4;
/// Uploads, downloads and streams of items of a router at once: each holds [`CHUNKS_IN_FLIGHT`] chunks.
pub const MAX_STREAMS: usize = 16;
/// How long an unfinished upload waits for its next chunk: a caller may continue it on the next day.
pub const UPLOAD_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long a finished upload goes on keeping its chunks, so that they are never without a frame that needs them: more
/// than [`CHUNK_GC_PATIENCE`] and the longest write.
pub const UPLOAD_MEMORY: Duration = Duration::from_secs(1_800);
/// How often chunks that nothing refers to are looked for: they only take disk meanwhile.
pub const CHUNK_GC_EVERY: Duration = Duration::from_secs(300);
/// How long ago an unused chunk must have been stored last to be removed: longer than between storing it and noting it in
/// its upload.
pub const CHUNK_IDLE: Duration = Duration::from_secs(3_600);
/// How long asking every shard which chunks it refers to may take before the answers are thrown away: they age.
pub const CHUNK_GC_PATIENCE: Duration = Duration::from_secs(300);
/// How long the body of an upload or a download may stand still before it is given up: it holds one of [`MAX_STREAMS`].
pub const STREAM_IDLE: Duration = Duration::from_secs(60);
