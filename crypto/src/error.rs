//! What can go wrong: one enum, whose variants say what the caller can do.

use std::fmt;

use crate::KeyId;

/// Why a key could not be read or sealed bytes could not be opened.
///
/// No variant carries key bytes or content, so every one may be logged and sent to a caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// The key text is not base64. Check where the text comes from.
    #[error("the key is not base64 text")]
    NotBase64,
    /// The key text is base64 of the wrong number of bytes.
    #[error("the key has {found} bytes and must have 32")]
    KeySize {
        /// Bytes after decoding.
        found: usize,
    },
    /// A passphrase must hold at least one byte.
    #[error("the passphrase is empty")]
    EmptyPassphrase,
    /// A stored passphrase record cannot be read; restore it from a backup.
    #[error("the stored passphrase record is malformed: {reason}")]
    PassphraseRecord {
        /// The part that is wrong.
        reason: &'static str,
    },
    /// The Argon2id cost is outside of what a router may be asked to spend.
    #[error("the passphrase cost is out of range: {reason}")]
    PassphraseCost {
        /// The parameter and its bound.
        reason: &'static str,
    },
    /// Not one of the four constants.
    #[error("unknown constant; there are pi, e, phi and gamma")]
    UnknownConstant,
    /// Written by a newer release (or not by MIRA): upgrade before reading it.
    #[error("unknown {field} {found} in sealed data")]
    UnknownVersion {
        /// The header field with the unknown value.
        field: &'static str,
        /// Its value.
        found: u8,
    },
    /// Sealed under another key than the one offered: fetch that key and try again.
    #[error("sealed under key {sealed_under}, opened with key {offered}")]
    WrongKey {
        /// The key that the sealed bytes name.
        sealed_under: KeyName,
        /// The key that the caller offered.
        offered: KeyName,
    },
    /// Sealed by another owner's key, or under another passphrase. Only the owner can help.
    #[error("the owner key is not the one that sealed this")]
    WrongOwnerKey,
    /// The right key does not open it: the bytes were altered, or belong to another place than the context says.
    #[error("sealed data is damaged or out of place")]
    Damaged,
    /// The content is longer than the caller allows.
    #[error("content of {len} bytes is over the limit of {max}")]
    TooLarge {
        /// Bytes of the content as far as they are known: at least those of the ciphertext.
        len: usize,
        /// The caller's limit.
        max: usize,
    },
    /// Too short to be sealed data at all.
    #[error("sealed data of {len} bytes is shorter than the least possible {least}")]
    Truncated {
        /// Bytes found.
        len: usize,
        /// Header and tag alone.
        least: usize,
    },
}

/// How sealed data names the key it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyName {
    /// A key by its id: cluster keys.
    Id(KeyId),
    /// A key by its version within a collection or the cluster.
    Version(u32),
    /// The key of this collection: the caller mixed up two collections.
    Collection(u64),
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Version(version) => write!(f, "version {version}"),
            Self::Collection(collection) => write!(f, "of collection {collection}"),
        }
    }
}
