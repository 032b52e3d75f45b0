//! The order of hits: merging lists of shards, spreading hits, paging through them.

pub mod cursor;
pub mod diversity;
pub mod merge;
