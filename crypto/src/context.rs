//! What sealed bytes are bound to.
//!
//! A context is associated data: it is not stored with the ciphertext, but opening with another context fails. So a
//! piece copied to another frame, collection, shard, version or part cannot pass for the piece that belongs there.
//!
//! Encoded little-endian, every field of fixed length, so that no two contexts share an encoding:
//!
//! A piece may also be bound to fields that lie beside it in clear ([`Bound`]); they follow the context, whose length is
//! fixed.
//!
//! | context | bytes |
//! |---|---|
//! | [`Context`] | collection 8 · frame 16 · part 1 · chunk 4 · shard 4 · version 8 = 41 |
//! | [`OwnerContext`] | collection 8 · frame 16 · part 1 · chunk 4 = 29 |

/// The piece of a frame that is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The content of a frame that fits into one piece.
    Body,
    /// Type, session, role, times and the caller's metadata.
    Metadata,
    /// The frame's vectors. Never compressed: floats do not shrink.
    Vectors,
    /// The list of chunks of a frame too large for one piece. It must hold their number: chunks do not know it.
    Manifest,
    /// One chunk of a large frame, counted from 0.
    Chunk(u32),
}

impl Part {
    /// The stored code and the chunk number. Codes are part of the format: never reuse one.
    const fn code(self) -> (u8, u32) {
        match self {
            Self::Body => (1, 0),
            Self::Metadata => (2, 0),
            Self::Vectors => (3, 0),
            Self::Manifest => (4, 0),
            Self::Chunk(n) => (5, n),
        }
    }

    pub(crate) const fn compressible(self) -> bool {
        !matches!(self, Self::Vectors)
    }
}

/// Where a sealed piece of a frame belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    /// The collection's id.
    pub collection: u64,
    /// The shard that keeps the frame.
    pub shard: u32,
    /// The frame's id.
    pub frame: u128,
    /// The frame's version, from 1.
    pub version: u64,
    /// The piece.
    pub part: Part,
}

impl Context {
    /// The part of the context that the owner layer is bound to.
    pub const fn owner(&self) -> OwnerContext {
        OwnerContext { collection: self.collection, frame: self.frame, part: self.part }
    }

    pub(crate) fn encode(&self) -> [u8; 41] {
        let mut bytes = [0; 41];
        bytes[..29].copy_from_slice(&self.owner().encode());
        bytes[29..33].copy_from_slice(&self.shard.to_le_bytes());
        bytes[33..].copy_from_slice(&self.version.to_le_bytes());
        bytes
    }
}

/// All that a sealed piece is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound<'a> {
    /// Where it belongs.
    pub context: Context,
    /// What lies beside it in clear, as it is stored; may be empty.
    pub beside: &'a [u8],
}

impl From<&Context> for Bound<'_> {
    /// Bound to its place alone.
    fn from(context: &Context) -> Self {
        Bound { context: *context, beside: &[] }
    }
}

impl Bound<'_> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        [&self.context.encode(), self.beside].concat()
    }
}

/// Where a piece sealed by its owner belongs, as far as the owner's router can know it.
///
/// The shard may change when a collection grows and the version is decided by the shard's leader, both without the
/// owner; the two outer layers bind those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnerContext {
    /// The collection's id.
    pub collection: u64,
    /// The frame's id.
    pub frame: u128,
    /// The piece.
    pub part: Part,
}

impl OwnerContext {
    pub(crate) fn encode(&self) -> [u8; 29] {
        let (code, chunk) = self.part.code();
        let mut bytes = [0; 29];
        bytes[..8].copy_from_slice(&self.collection.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.frame.to_le_bytes());
        bytes[24] = code;
        bytes[25..].copy_from_slice(&chunk.to_le_bytes());
        bytes
    }
}
