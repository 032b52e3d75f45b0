//! A document as filters and searches name it: an id with its times.

/// What a document carries for its owner's filters. Milliseconds; what is beyond [`Times::MAX_MS`] counts as that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// When it was made.
    pub created_ms: u64,
    /// When it is over; 0 for never.
    pub expires_ms: u64,
}

impl Times {
    /// The latest time that is kept: 48 bits, the year 10889.
    pub const MAX_MS: u64 = (1 << 48) - 1;
}

/// A document as a filter sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Document {
    /// Its id.
    pub id: u128,
    /// Its times.
    pub times: Times,
}
