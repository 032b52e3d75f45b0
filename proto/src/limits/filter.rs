//! How large a filter may be, so that every search can afford it.

/// Levels of a filter: what people and models write has two or three.
pub const MAX_FILTER_DEPTH: usize = 8;
/// Parts of a filter, its tests and what joins them: each is evaluated for every search.
pub const MAX_FILTER_PARTS: usize = 128;
/// Values of all `in` lists of a filter.
pub const MAX_FILTER_VALUES: usize = 1_000;
/// Text of a filter, bytes: a full `in` list of long names.
pub const MAX_FILTER_BYTES: usize = 64 << 10;
/// Frames that one step of a `forget` by filter opens and looks at: about a second.
pub const MAX_FILTER_STEP: usize = 20_000;
