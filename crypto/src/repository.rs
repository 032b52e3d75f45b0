//! The key of a backup repository: it seals the pieces of backups, it signs their manifests.
//!
//! What a piece holds is sealed already, frame by frame; this layer also hides times, sizes and digests, which a node
//! keeps in clear, and binds a piece to its place in its backup. The key lies wrapped by the cluster key in the
//! repository's key file, so it is of no use to who has the repository alone.
//!
//! Layout: kind `B` of `envelope`; the context is the caller's associated data: the place of the piece.

use std::fmt;

use aes_gcm_siv::Aes256GcmSiv;
use hmac::{Hmac, Mac};
use rand_core::CryptoRng;
use sha2::Sha256;

use crate::{
    ClusterKey, CryptoError, KeyId, KeyName, WrappedKey,
    constants::Constant,
    derive::{KeyTree, Label, Secret},
    envelope::{self, Header, Kind, Parsed, Plain},
    key,
    wrap::Purpose,
};

/// Seals and opens what lies in a backup repository.
pub struct RepositoryKey {
    secret: Secret,
    id: KeyId,
    cipher: Aes256GcmSiv,
    mac: Hmac<Sha256>,
}

impl RepositoryKey {
    /// A new random key.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        Self::new(key::random_secret(rng))
    }

    fn new(secret: Secret) -> Self {
        let tree = KeyTree::new(Constant::Gamma, &secret);
        Self { id: tree.key_id(), cipher: tree.cipher(Label::Backup, &[]), mac: tree.mac(Label::BackupMac), secret }
    }

    /// The key sealed under the cluster key.
    pub fn wrap(&self, cluster: &ClusterKey, rng: &mut dyn CryptoRng) -> WrappedKey {
        WrappedKey::seal(&self.secret, Purpose::Repository, cluster, rng)
    }

    /// Opens what [`Self::wrap`] made.
    ///
    /// # Errors
    /// [`CryptoError::WrongKey`] when another cluster key wrapped it; [`CryptoError::Damaged`] when it was altered.
    pub fn unwrap(wrapped: &WrappedKey, cluster: &ClusterKey) -> Result<Self, CryptoError> {
        Ok(Self::new(wrapped.open(Purpose::Repository, cluster)?))
    }

    /// Its name.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Seals a piece, bound to its place.
    ///
    /// # Panics
    /// If the piece is over [`crate::MAX_PLAIN_LEN`].
    pub fn seal(&self, place: &[u8], piece: &[u8], rng: &mut dyn CryptoRng) -> Vec<u8> {
        let nonce = envelope::random_nonce::<12>(rng);
        let header = Header { kind: &Kind::BACKUP, key_ref: self.id.as_bytes(), nonce: &nonce };
        envelope::seal(&self.cipher, &header, place, &Plain::raw(piece))
    }

    /// Opens a piece of at most `max_len` bytes.
    ///
    /// # Errors
    /// [`CryptoError::WrongKey`] when it is of another repository; [`CryptoError::Damaged`] when it was altered or
    /// belongs elsewhere; [`CryptoError::TooLarge`], [`CryptoError::Truncated`], [`CryptoError::UnknownVersion`].
    pub fn open(&self, place: &[u8], sealed: &[u8], max_len: usize) -> Result<Vec<u8>, CryptoError> {
        let parsed = Parsed::new(&Kind::BACKUP, sealed)?;
        envelope::check_key(KeyName::Id(parsed.key_id()), KeyName::Id(self.id))?;
        parsed.open(&self.cipher, place, max_len)
    }

    /// Signs bytes that stay in clear, such as a manifest: HMAC-SHA256.
    pub fn sign(&self, bytes: &[u8]) -> [u8; 32] {
        self.mac.clone().chain_update(bytes).finalize().into_bytes().into()
    }

    /// Whether this key signed exactly these bytes.
    pub fn verifies(&self, bytes: &[u8], mac: &[u8]) -> bool {
        self.mac.clone().chain_update(bytes).verify_slice(mac).is_ok()
    }
}

impl fmt::Debug for RepositoryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RepositoryKey({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os_rng;

    #[test]
    fn a_piece_opens_in_its_place_with_its_key_only() {
        let cluster = ClusterKey::generate(&mut os_rng());
        let key = RepositoryKey::generate(&mut os_rng());
        let key = RepositoryKey::unwrap(&key.wrap(&cluster, &mut os_rng()), &cluster).expect("opens");
        let sealed = key.seal(b"here", b"piece", &mut os_rng());
        assert_eq!(key.open(b"here", &sealed, 99).expect("opens"), b"piece");
        assert_eq!(key.open(b"there", &sealed, 99), Err(CryptoError::Damaged));
        let other = RepositoryKey::generate(&mut os_rng());
        assert!(matches!(other.open(b"here", &sealed, 99), Err(CryptoError::WrongKey { .. })));
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(key.open(b"here", &altered, 99).is_err(), "byte {at}");
        }
        assert!(key.verifies(b"manifest", &key.sign(b"manifest")));
        assert!(
            !key.verifies(b"manifest!", &key.sign(b"manifest")) && !other.verifies(b"manifest", &key.sign(b"manifest"))
        );
    }
}
