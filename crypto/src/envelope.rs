//! The byte layout that everything sealed shares.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | kind: one letter, see below |
//! | 1 | 1 | format version, 1 |
//! | 2 | 1 | algorithm: 1 AES-256-GCM, 2 AES-256-GCM-SIV, 3 XChaCha20-Poly1305 |
//! | 3 | 1 | flags: bit 0 = the payload is compressed (lz4, see `payload`); other bits 0 |
//! | 4 | k | key reference: which key opens it (little-endian numbers) |
//! | 4 + k | n | nonce: 12 bytes, 24 for XChaCha20 |
//! | 4 + k + n | … | ciphertext |
//! | last 16 | 16 | authentication tag |
//!
//! | kind | what | algorithm | key reference | nonce | overhead |
//! |---|---|---|---|---|---|
//! | `F` | piece of a frame ([`crate::frame`]) | 1 | collection key version, 4 | random | 36 |
//! | `P` | page of an index image ([`crate::page`]) | 1 | collection key version, 4 | random | 36 |
//! | `M` | meta record ([`crate::meta`]) | 2 | cluster key id, 8 | given or random | 40 |
//! | `K` | wrapped key ([`crate::wrap`]) | 2 | cluster key id, 8 | random | 40 |
//! | `O` | owner layer ([`crate::private`]) | 2 | key-check value, 16 | random | 48 |
//! | `C` | collection layer ([`crate::private`]) | 3 | collection key version, 4 | random | 48 |
//! | `L` | cluster layer ([`crate::private`]) | 1 | cluster layer key version, 4 | random | 36 |
//! | `B` | piece of a backup ([`crate::RepositoryKey`]) | 2 | repository key id, 8 | random | 40 |
//! | `R` | owner key under a passphrase ([`crate::owner`]) | 2 | key-check value, 16 | random | 48 |
//!
//! Header (with nonce) and context are associated data, in this order. Invariants: a kind has one algorithm per format
//! version; a value of a header field never changes its meaning; opening checks kind, version, algorithm and flags
//! before it touches a key.
//!
//! Altered bytes are an error whatever they hit: [`CryptoError::Damaged`] for most; in the header they may read as an
//! unknown version or as another key, because nothing can be authenticated before version and key are known.

use aes_gcm::aead::{AeadInOut, Nonce, Tag};
use rand_core::CryptoRng;
use zeroize::Zeroize;

use crate::{CryptoError, KeyId, KeyName, payload};

/// Longest plaintext that may be sealed in one piece. Larger content is cut into chunks long before.
pub const MAX_PLAIN_LEN: usize = 1 << 30;

pub(crate) const TAG_LEN: usize = 16;

const FORMAT_VERSION: u8 = 1;
const PREFIX_LEN: usize = 4;
const FLAGS_AT: usize = 3;
const FLAG_LZ4: u8 = 1;

const AES_256_GCM: u8 = 1;
const AES_256_GCM_SIV: u8 = 2;
const XCHACHA20_POLY1305: u8 = 3;

/// One row of the table of kinds.
pub(crate) struct Kind {
    letter: u8,
    algorithm: u8,
    key_ref_len: usize,
    nonce_len: usize,
}

impl Kind {
    const fn new(letter: u8, algorithm: u8, key_ref_len: usize) -> Self {
        let nonce_len = if algorithm == XCHACHA20_POLY1305 { 24 } else { 12 };
        Self { letter, algorithm, key_ref_len, nonce_len }
    }

    pub(crate) const FRAME: Self = Self::new(b'F', AES_256_GCM, 4);
    pub(crate) const PAGE: Self = Self::new(b'P', AES_256_GCM, 4);
    pub(crate) const META: Self = Self::new(b'M', AES_256_GCM_SIV, 8);
    pub(crate) const WRAPPED_KEY: Self = Self::new(b'K', AES_256_GCM_SIV, 8);
    pub(crate) const OWNER_LAYER: Self = Self::new(b'O', AES_256_GCM_SIV, 16);
    pub(crate) const COLLECTION_LAYER: Self = Self::new(b'C', XCHACHA20_POLY1305, 4);
    pub(crate) const CLUSTER_LAYER: Self = Self::new(b'L', AES_256_GCM, 4);
    pub(crate) const BACKUP: Self = Self::new(b'B', AES_256_GCM_SIV, 8);
    pub(crate) const PASSPHRASE: Self = Self::new(b'R', AES_256_GCM_SIV, 16);

    const fn header_len(&self) -> usize {
        PREFIX_LEN + self.key_ref_len + self.nonce_len
    }

    /// How many bytes sealing adds.
    pub(crate) const fn overhead(&self) -> usize {
        self.header_len() + TAG_LEN
    }
}

/// A fresh random nonce.
pub(crate) fn random_nonce<const N: usize>(rng: &mut dyn CryptoRng) -> [u8; N] {
    let mut nonce = [0; N];
    rng.fill_bytes(&mut nonce);
    nonce
}

/// The clear fields of something about to be sealed.
pub(crate) struct Header<'a> {
    pub(crate) kind: &'static Kind,
    pub(crate) key_ref: &'a [u8],
    pub(crate) nonce: &'a [u8],
}

/// Plaintext, and whether compressing it is worth a try.
pub(crate) struct Plain<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) compressible: bool,
}

impl<'a> Plain<'a> {
    pub(crate) const fn raw(bytes: &'a [u8]) -> Self {
        Self { bytes, compressible: false }
    }
}

/// Seals `plain` with `cipher`, bound to `header` and `context`.
///
/// # Panics
/// If the plaintext is longer than [`MAX_PLAIN_LEN`], or the header's fields do not have the lengths of its kind.
pub(crate) fn seal<C: AeadInOut>(cipher: &C, header: &Header<'_>, context: &[u8], plain: &Plain<'_>) -> Vec<u8> {
    let kind = header.kind;
    assert!(plain.bytes.len() <= MAX_PLAIN_LEN, "content must be cut into chunks before it is sealed");
    assert_eq!(
        (header.key_ref.len(), header.nonce.len()),
        (kind.key_ref_len, kind.nonce_len),
        "header of the wrong kind"
    );

    let packed = payload::deflate(plain.bytes, plain.compressible);
    let (flags, payload) = packed.as_ref().map_or((0, plain.bytes), |packed| (FLAG_LZ4, packed.as_slice()));

    let mut sealed = Vec::with_capacity(kind.overhead() + payload.len());
    sealed.extend_from_slice(&[kind.letter, FORMAT_VERSION, kind.algorithm, flags]);
    sealed.extend_from_slice(header.key_ref);
    sealed.extend_from_slice(header.nonce);
    let associated = associated_data(&sealed, context);
    sealed.extend_from_slice(payload);

    let nonce = <&Nonce<C>>::try_from(header.nonce).expect("the kind's nonce fits its cipher");
    let tag = cipher
        .encrypt_inout_detached(nonce, &associated, sealed[kind.header_len()..].as_mut().into())
        .expect("the length is far below every cipher's limit");
    sealed.extend_from_slice(&tag);
    sealed
}

/// Sealed bytes taken apart, not yet authenticated.
pub(crate) struct Parsed<'a> {
    header: &'a [u8],
    pub(crate) key_ref: &'a [u8],
    nonce: &'a [u8],
    ciphertext: &'a [u8],
    tag: &'a [u8],
}

impl<'a> Parsed<'a> {
    /// Takes `sealed` apart and checks every clear field but the key reference.
    pub(crate) fn new(kind: &Kind, sealed: &'a [u8]) -> Result<Self, CryptoError> {
        if sealed.len() < kind.overhead() {
            return Err(CryptoError::Truncated { len: sealed.len(), least: kind.overhead() });
        }
        let [letter, version, algorithm, flags] = [sealed[0], sealed[1], sealed[2], sealed[FLAGS_AT]];
        if letter != kind.letter {
            return Err(CryptoError::Damaged);
        }
        let unknown = |field, found| Err(CryptoError::UnknownVersion { field, found });
        if version != FORMAT_VERSION {
            return unknown("format version", version);
        }
        if algorithm != kind.algorithm {
            return unknown("algorithm", algorithm);
        }
        if flags & !FLAG_LZ4 != 0 {
            return unknown("flags", flags);
        }
        let (header, body) = sealed.split_at(kind.header_len());
        let (key_ref, nonce) = header[PREFIX_LEN..].split_at(kind.key_ref_len);
        let (ciphertext, tag) = body.split_at(body.len() - TAG_LEN);
        Ok(Self { header, key_ref, nonce, ciphertext, tag })
    }

    /// The nonce, of the length that the kind says.
    pub(crate) fn nonce<const N: usize>(&self) -> &'a [u8; N] {
        self.nonce.try_into().expect("the kind's nonce length")
    }

    /// A key reference that is a number.
    pub(crate) fn key_version(&self) -> u32 {
        u32::from_le_bytes(self.key_ref.try_into().expect("the kind's key reference is a version"))
    }

    /// A key reference that is a key id.
    pub(crate) fn key_id(&self) -> KeyId {
        KeyId::from_bytes(self.key_ref.try_into().expect("the kind's key reference is a key id"))
    }

    /// Opens with `cipher`; the plaintext is at most `max_len` bytes.
    pub(crate) fn open<C: AeadInOut>(
        &self,
        cipher: &C,
        context: &[u8],
        max_len: usize,
    ) -> Result<Vec<u8>, CryptoError> {
        // A compressed payload is shorter than its plaintext, so this bound holds for both forms.
        if self.ciphertext.len() > max_len {
            return Err(CryptoError::TooLarge { len: self.ciphertext.len(), max: max_len });
        }
        let mut payload = self.ciphertext.to_vec();
        let nonce = <&Nonce<C>>::try_from(self.nonce).expect("the kind's nonce fits its cipher");
        let tag = <&Tag<C>>::try_from(self.tag).expect("every cipher's tag has 16 bytes");
        cipher
            .decrypt_inout_detached(nonce, &associated_data(self.header, context), payload.as_mut_slice().into(), tag)
            .map_err(|_| CryptoError::Damaged)?;
        if self.header[FLAGS_AT] & FLAG_LZ4 == 0 {
            return Ok(payload);
        }
        let plain = payload::inflate(&payload, max_len);
        payload.zeroize();
        plain
    }
}

/// Refuses sealed bytes that name another key than the one offered.
pub(crate) fn check_key(sealed_under: KeyName, offered: KeyName) -> Result<(), CryptoError> {
    if sealed_under == offered { Ok(()) } else { Err(CryptoError::WrongKey { sealed_under, offered }) }
}

fn associated_data(header: &[u8], context: &[u8]) -> Vec<u8> {
    [header, context].concat()
}
