//! Signing receipts: Ed25519, so that whoever knows the cluster's public key can check one without the cluster.
//!
//! One key per cluster, kept wrapped in the meta group like every other. The signature is over the exact bytes of the
//! receipt. Ed25519 is *ring*'s.

use std::fmt;

use rand_core::CryptoRng;
use ring::signature::{self, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use secrecy::ExposeSecret;

use crate::{ClusterKey, CryptoError, WrappedKey, derive::Secret, key, wrap::Purpose};

/// The key that a cluster signs receipts with.
pub struct ReceiptKey {
    secret: Secret,
    pair: Ed25519KeyPair,
}

impl ReceiptKey {
    /// A new random key.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        Self::new(key::random_secret(rng))
    }

    fn new(secret: Secret) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(secret.expose_secret()).expect("a seed has 32 bytes");
        Self { secret, pair }
    }

    /// The key sealed under the cluster key.
    pub fn wrap(&self, cluster: &ClusterKey, rng: &mut dyn CryptoRng) -> WrappedKey {
        WrappedKey::seal(&self.secret, Purpose::Receipt, cluster, rng)
    }

    /// Opens what [`Self::wrap`] made.
    ///
    /// # Errors
    /// [`CryptoError::WrongKey`] when another cluster key wrapped it; [`CryptoError::Damaged`] when it was altered.
    pub fn unwrap(wrapped: &WrappedKey, cluster: &ClusterKey) -> Result<Self, CryptoError> {
        Ok(Self::new(wrapped.open(Purpose::Receipt, cluster)?))
    }

    /// The 32 bytes that anybody may know.
    pub fn public_key(&self) -> Vec<u8> {
        self.pair.public_key().as_ref().to_vec()
    }

    /// The 64 bytes of the signature; the same for the same receipt.
    pub fn sign(&self, receipt: &[u8]) -> Vec<u8> {
        self.pair.sign(receipt).as_ref().to_vec()
    }

    /// Whether the holder of the key behind `public_key` signed exactly this receipt.
    pub fn verifies(public_key: &[u8], receipt: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&signature::ED25519, public_key).verify(receipt, signature).is_ok()
    }
}

impl fmt::Debug for ReceiptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReceiptKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os_rng;

    #[test]
    fn a_receipt_is_signed_by_the_key_that_was_wrapped_and_by_no_other() {
        let (cluster, other) = (ClusterKey::generate(&mut os_rng()), ClusterKey::generate(&mut os_rng()));
        let key = ReceiptKey::generate(&mut os_rng());
        let wrapped = key.wrap(&cluster, &mut os_rng());
        let again = ReceiptKey::unwrap(&wrapped, &cluster).expect("its own cluster key opens it");
        let (public, signature) = (key.public_key(), again.sign(b"erased"));
        assert_eq!(signature, key.sign(b"erased"), "signing says the same twice");
        assert!(ReceiptKey::verifies(&public, b"erased", &signature));
        assert!(!ReceiptKey::verifies(&public, b"erased!", &signature));
        assert!(!ReceiptKey::verifies(&ReceiptKey::generate(&mut os_rng()).public_key(), b"erased", &signature));
        assert!(!ReceiptKey::verifies(&[], b"erased", &signature));
        assert!(matches!(ReceiptKey::unwrap(&wrapped, &other), Err(CryptoError::WrongKey { .. })));
    }
}
