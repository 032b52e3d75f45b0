//! Sealing the pieces of a frame: what a shard leader does before it proposes.
//!
//! The key of a frame is `HKDF(collection key, frame id)`, so a key seals only the few pieces of one frame: AES-256-GCM
//! with random 96-bit nonces stays far from its limit (2³² messages per key) however large the collection grows.
//! Layout: kind `F` of `envelope`; bound to a [`crate::Context`] and what lies beside the piece ([`Bound`]). Deriving and
//! expanding a frame's key takes about half a
//! microsecond (`benches/sealing.rs`), so there is no cache of frame keys to keep secret. The same plaintext sealed
//! twice gives different bytes, so sealing happens once, before the proposal, and every replica stores the same bytes.

use aes_gcm::Aes256Gcm;
use rand_core::CryptoRng;

use crate::{
    Bound, CollectionKey, CryptoError,
    derive::Label,
    envelope::{self, Header, Kind, Parsed, Plain},
};

/// Bytes that sealing adds at most (compression may save some).
pub const OVERHEAD: usize = Kind::FRAME.overhead();

/// Compresses and seals one piece of a frame.
///
/// # Panics
/// If the context names another collection than the key, or the plaintext is over [`crate::MAX_PLAIN_LEN`].
pub fn seal<'a>(
    key: &CollectionKey,
    bound: impl Into<Bound<'a>>,
    plaintext: &[u8],
    rng: &mut dyn CryptoRng,
) -> Vec<u8> {
    let bound = bound.into();
    let context = bound.context;
    assert_eq!(context.collection, key.collection(), "a frame is sealed with its own collection's key");
    let header =
        Header { kind: &Kind::FRAME, key_ref: &key.version().to_le_bytes(), nonce: &envelope::random_nonce::<12>(rng) };
    let plain = Plain { bytes: plaintext, compressible: context.part.compressible() };
    envelope::seal(&frame_cipher(key, context.frame), &header, &bound.encode(), &plain)
}

/// Opens one piece of a frame, of at most `max_len` bytes.
///
/// # Errors
/// [`CryptoError::WrongKey`] when another version of the key sealed it ([`key_version`] says which);
/// [`CryptoError::Damaged`] when it was altered or it is bound to something else; [`CryptoError::TooLarge`],
/// [`CryptoError::Truncated`], [`CryptoError::UnknownVersion`].
pub fn open<'a>(
    key: &CollectionKey,
    bound: impl Into<Bound<'a>>,
    sealed: &[u8],
    max_len: usize,
) -> Result<Vec<u8>, CryptoError> {
    let bound = bound.into();
    let parsed = Parsed::new(&Kind::FRAME, sealed)?;
    key.check(bound.context.collection, parsed.key_version())?;
    parsed.open(&frame_cipher(key, bound.context.frame), &bound.encode(), max_len)
}

/// The version of the collection key that a sealed piece needs.
///
/// # Errors
/// As [`open`], but for the key.
pub fn key_version(sealed: &[u8]) -> Result<u32, CryptoError> {
    Ok(Parsed::new(&Kind::FRAME, sealed)?.key_version())
}

fn frame_cipher(key: &CollectionKey, frame: u128) -> Aes256Gcm {
    key.tree().cipher(Label::Frame, &frame.to_le_bytes())
}
