//! How much of a memory's past is kept, and how long what was forgotten rests.

/// Past versions of a memory that are kept where its collection does not say otherwise.
pub const DEFAULT_VERSIONS: u32 = 10;
/// Days for which they are kept where its collection does not say otherwise.
pub const DEFAULT_VERSION_DAYS: u32 = 90;
/// Days for which forgotten memories rest where their collection does not say otherwise.
pub const DEFAULT_BIN_DAYS: u32 = 7;
/// Past versions of a memory: each replacement writes a list of them.
pub const MAX_VERSIONS: u32 = 100;
/// Days, ten years of them: for longer, a memory is stored anew under another id.
pub const MAX_DAYS: u32 = 3_650;
/// Bytes of a frame with its past versions, unless its newest one alone has more; the oldest go first. It moves whole, in one
/// proposal beside a page of others.
pub const MAX_FRAME_BYTES: usize = 6 << 20;
/// Bytes of the frames that one step puts into the bin, unless one frame alone has more: they are written once more.
pub const BIN_STEP_BYTES: usize = 4 << 20;
