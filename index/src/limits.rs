//! The bounds on what an index holds, each with its reason.

/// Largest dimension. Integer kernels sum 4,096 products of 127 × 127 into an i32 with room to spare.
pub const MAX_DIMENSION: usize = mira_proto::limits::MAX_DIM as usize;
/// Most passages of one document: a frame of 1 MiB cut into overlapping passages stays far below. Labels count them in
/// 16 bits.
pub const MAX_PASSAGES: usize = 65_535;
/// Most hits of one search.
pub const MAX_K: usize = mira_proto::limits::MAX_POOL;
/// Widest beam of one search; wider is slower than scanning exactly.
pub const MAX_EF: usize = 65_536;
/// Largest component under dot and L2.
pub const MAX_COMPONENT: f32 = mira_proto::limits::MAX_COMPONENT;
/// Slots of one index, live and dead. Stamps count two per slot at most, so that a u32 stamp never wraps.
pub(crate) const MAX_SLOTS: u32 = 1 << 30;
