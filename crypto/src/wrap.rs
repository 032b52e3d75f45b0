//! Keys wrapped by the cluster key, as the meta group stores them.
//!
//! A wrapped key is an envelope of kind `K` (layout: `envelope`) around 32 key bytes, 72 bytes in all. AES-256-GCM-SIV,
//! because one cluster key may wrap millions of keys and must survive a repeated nonce. The context binds what the key
//! is for, so that a wrapped key moved to another collection or version does not open:
//!
//! | bytes | field |
//! |---|---|
//! | 1 | purpose: 1 collection key, 2 cluster layer key, 3 receipt key, 4 repository key |
//! | 8 | collection id, 0 for the others |
//! | 4 | key version |
//!
//! Rotating the cluster key is unwrapping with the old one and wrapping with the new one.

use std::fmt;

use aes_gcm_siv::Aes256GcmSiv;
use rand_core::CryptoRng;
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use crate::{
    ClusterKey, CryptoError, KEY_LEN, KeyId, KeyName,
    derive::{Label, Secret},
    envelope::{self, Header, Kind, Parsed, Plain},
    key,
};

/// A key that only the holder of the cluster key can use. Safe to store, replicate and back up.
#[derive(Clone, PartialEq, Eq)]
pub struct WrappedKey([u8; Self::LEN]);

impl WrappedKey {
    /// Bytes of a wrapped key.
    pub const LEN: usize = Kind::WRAPPED_KEY.overhead() + KEY_LEN;

    /// Reads stored bytes, without opening them.
    ///
    /// # Errors
    /// [`CryptoError::Truncated`], [`CryptoError::UnknownVersion`], or [`CryptoError::Damaged`] when it is no wrapped
    /// key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CryptoError> {
        Parsed::new(&Kind::WRAPPED_KEY, bytes)?;
        if bytes.len() < Self::LEN {
            return Err(CryptoError::Truncated { len: bytes.len(), least: Self::LEN });
        }
        bytes.try_into().map(Self).map_err(|_| CryptoError::Damaged)
    }

    /// The bytes to store.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The cluster key that opens it.
    pub fn cluster_key_id(&self) -> KeyId {
        self.parsed().key_id()
    }

    fn parsed(&self) -> Parsed<'_> {
        Parsed::new(&Kind::WRAPPED_KEY, &self.0).expect("checked when it was made")
    }

    pub(crate) fn seal(secret: &Secret, purpose: Purpose, cluster: &ClusterKey, rng: &mut dyn CryptoRng) -> Self {
        let (id, nonce) = (cluster.id(), envelope::random_nonce::<12>(rng));
        let header = Header { kind: &Kind::WRAPPED_KEY, key_ref: id.as_bytes(), nonce: &nonce };
        let plain = Plain::raw(secret.expose_secret());
        let sealed = envelope::seal(&wrapping_cipher(cluster), &header, &purpose.encode(), &plain);
        Self(sealed.try_into().expect("a wrapped key has a fixed length"))
    }

    pub(crate) fn open(&self, purpose: Purpose, cluster: &ClusterKey) -> Result<Secret, CryptoError> {
        let parsed = self.parsed();
        envelope::check_key(KeyName::Id(parsed.key_id()), KeyName::Id(cluster.id()))?;
        let secret = Zeroizing::new(parsed.open(&wrapping_cipher(cluster), &purpose.encode(), KEY_LEN)?);
        key::secret_from_slice(&secret)
    }
}

impl fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappedKey(under {})", self.cluster_key_id())
    }
}

/// What a wrapped key is for.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Collection { collection: u64, version: u32 },
    ClusterLayer { version: u32 },
    Receipt,
    Repository,
}

impl Purpose {
    fn encode(self) -> [u8; 13] {
        let (code, collection, version) = match self {
            Self::Collection { collection, version } => (1, collection, version),
            Self::ClusterLayer { version } => (2, 0, version),
            Self::Receipt => (3, 0, 0),
            Self::Repository => (4, 0, 0),
        };
        let mut bytes = [code; 13];
        bytes[1..9].copy_from_slice(&collection.to_le_bytes());
        bytes[9..].copy_from_slice(&version.to_le_bytes());
        bytes
    }
}

fn wrapping_cipher(cluster: &ClusterKey) -> Aes256GcmSiv {
    cluster.tree().cipher(Label::Wrap, &[])
}
