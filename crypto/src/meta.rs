//! Sealing what the meta group keeps: commands in its log and records in its state.
//!
//! AES-256-GCM-SIV under a key derived from the cluster key. Records are sealed while a command is applied, on every
//! replica by itself, and replicas are compared byte by byte: so the nonce is given by the caller ([`position_nonce`]
//! of log index and ordinal), and sealing is a function of its inputs. Should a position ever repeat, the cipher gives
//! away no more than whether two records were equal. Proposals, sealed once by the leader before they have a position,
//! take a random nonce.
//!
//! Layout: kind `M` of `envelope`; the context is the caller's associated data, which should be the record's place (its
//! key).

use std::fmt;

use aes_gcm_siv::Aes256GcmSiv;
use rand_core::CryptoRng;

use crate::{
    ClusterKey, CryptoError, KeyId, KeyName,
    derive::Label,
    envelope::{self, Header, Kind, Parsed, Plain},
};

/// Bytes that sealing adds.
pub const OVERHEAD: usize = Kind::META.overhead();

/// Bytes of a nonce.
pub const NONCE_LEN: usize = 12;

/// The nonce of the `ordinal`-th record that applying the log entry at `log_index` writes.
pub fn position_nonce(log_index: u64, ordinal: u32) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[..8].copy_from_slice(&log_index.to_le_bytes());
    nonce[8..].copy_from_slice(&ordinal.to_le_bytes());
    nonce
}

/// Seals and opens the meta group's commands and records. Holds the expanded key: make one per cluster key.
pub struct MetaSealer {
    cipher: Aes256GcmSiv,
    key_id: KeyId,
}

impl MetaSealer {
    /// A sealer under this cluster key.
    pub fn new(cluster: &ClusterKey) -> Self {
        Self { cipher: cluster.tree().cipher(Label::Meta, &[]), key_id: cluster.id() }
    }

    /// The cluster key it seals under.
    pub const fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// Seals `plaintext` under a nonce that the caller chose: the same inputs give the same bytes.
    ///
    /// # Panics
    /// If the plaintext is over [`crate::MAX_PLAIN_LEN`].
    pub fn seal(&self, nonce: &[u8; NONCE_LEN], associated: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let header = Header { kind: &Kind::META, key_ref: self.key_id.as_bytes(), nonce };
        envelope::seal(&self.cipher, &header, associated, &Plain::raw(plaintext))
    }

    /// Seals `plaintext` under a random nonce, for a proposal.
    ///
    /// # Panics
    /// As [`Self::seal`].
    pub fn seal_proposal(&self, associated: &[u8], plaintext: &[u8], rng: &mut dyn CryptoRng) -> Vec<u8> {
        self.seal(&envelope::random_nonce(rng), associated, plaintext)
    }

    /// Opens either form, of at most `max_len` bytes.
    ///
    /// # Errors
    /// [`CryptoError::WrongKey`] when another cluster key sealed it; [`CryptoError::Damaged`] when it was altered or
    /// `associated` is not its own; [`CryptoError::TooLarge`], [`CryptoError::Truncated`],
    /// [`CryptoError::UnknownVersion`].
    pub fn open(&self, associated: &[u8], sealed: &[u8], max_len: usize) -> Result<Vec<u8>, CryptoError> {
        let parsed = Parsed::new(&Kind::META, sealed)?;
        envelope::check_key(KeyName::Id(parsed.key_id()), KeyName::Id(self.key_id))?;
        parsed.open(&self.cipher, associated, max_len)
    }
}

impl fmt::Debug for MetaSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MetaSealer({})", self.key_id)
    }
}

/// The cluster key that a sealed record needs.
///
/// # Errors
/// As [`MetaSealer::open`], but for the key.
pub fn key_id(sealed: &[u8]) -> Result<KeyId, CryptoError> {
    Ok(Parsed::new(&Kind::META, sealed)?.key_id())
}
