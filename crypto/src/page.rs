//! Sealing files page by page: index images, and the text index's files.
//!
//! A file is cut into pages of [`PAGE_LEN`] plain bytes, the last one shorter, so that any page can be read by itself.
//! Each file has a key of its own, `HKDF(collection key, file id)`; the context is `page number (8) ‖ last page? (1)`,
//! little-endian. So a page opens only in its own place in its own file, and a file cut off at a page boundary is
//! noticed, because the page that is now the last does not open as one. Layout: kind `P` of `envelope`. Pages are never
//! compressed, so that page `n` starts at `n × SEALED_PAGE_LEN`.
//!
//! File ids must never repeat within a collection (use random ones): two files under one id could exchange their pages.

use std::fmt;

use aes_gcm::Aes256Gcm;
use rand_core::CryptoRng;

use crate::{
    CollectionKey, CryptoError, KeyName,
    derive::Label,
    envelope::{self, Header, Kind, Parsed, Plain},
};

/// Plain bytes of a page.
pub const PAGE_LEN: usize = 64 * 1024;

/// Bytes that sealing adds to a page.
pub const OVERHEAD: usize = Kind::PAGE.overhead();

/// Bytes of a full page on disk.
pub const SEALED_PAGE_LEN: usize = PAGE_LEN + OVERHEAD;

/// A page's place in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PagePosition {
    /// Counted from 0.
    pub number: u64,
    /// Whether the file ends with this page.
    pub last: bool,
}

impl PagePosition {
    fn encode(self) -> [u8; 9] {
        let mut bytes = [u8::from(self.last); 9];
        bytes[..8].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }
}

/// Seals and opens the pages of one file. Holds the expanded key: make one per open file.
pub struct PageSealer {
    cipher: Aes256Gcm,
    collection: u64,
    key_version: u32,
    file: u128,
}

impl PageSealer {
    /// A sealer for the file with this id.
    pub fn new(key: &CollectionKey, file: u128) -> Self {
        let cipher = key.tree().cipher(Label::Page, &file.to_le_bytes());
        Self { cipher, collection: key.collection(), key_version: key.version(), file }
    }

    /// Seals one page.
    ///
    /// # Panics
    /// If the page is longer than [`PAGE_LEN`], or shorter without being the last.
    pub fn seal(&self, position: PagePosition, page: &[u8], rng: &mut dyn CryptoRng) -> Vec<u8> {
        assert!(page.len() == PAGE_LEN || (position.last && page.len() < PAGE_LEN), "a page of the wrong length");
        let header = Header {
            kind: &Kind::PAGE,
            key_ref: &self.key_version.to_le_bytes(),
            nonce: &envelope::random_nonce::<12>(rng),
        };
        envelope::seal(&self.cipher, &header, &position.encode(), &Plain::raw(page))
    }

    /// Opens the page at `position`.
    ///
    /// # Errors
    /// [`CryptoError::WrongKey`] when another version of the key sealed it ([`key_version`]); [`CryptoError::Damaged`]
    /// when it was altered or belongs elsewhere; [`CryptoError::Truncated`], [`CryptoError::TooLarge`],
    /// [`CryptoError::UnknownVersion`].
    pub fn open(&self, position: PagePosition, sealed: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let parsed = Parsed::new(&Kind::PAGE, sealed)?;
        envelope::check_key(KeyName::Version(parsed.key_version()), KeyName::Version(self.key_version))?;
        parsed.open(&self.cipher, &position.encode(), PAGE_LEN)
    }
}

impl fmt::Debug for PageSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { collection, key_version, file, .. } = self;
        write!(f, "PageSealer(collection {collection}, key version {key_version}, file {file:032x})")
    }
}

/// The version of the collection key that a sealed page needs.
///
/// # Errors
/// As [`PageSealer::open`], but for the key.
pub fn key_version(sealed: &[u8]) -> Result<u32, CryptoError> {
    Ok(Parsed::new(&Kind::PAGE, sealed)?.key_version())
}
