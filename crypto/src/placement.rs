//! The placement key of a collection: what the ids of its frames are made with.
//!
//! Frames of one session are to lie on one shard, and a frame's shard follows from its id alone. So the id carries a digest
//! of the session, and whoever makes ids needs a key for it: an unkeyed digest in an id would let a thief of a disk
//! confirm a guessed name. The key is a leaf of the collection's key that makes tags (version 0, which is never rotated),
//! under a label of its own. It opens nothing and no tag can be computed with it, so routers get it with the collection's
//! record.
//!
//! Everything is HMAC-SHA256 over `(length:u64 part)*`, lengths little-endian, the first part being the domain:
//!
//! | value | domain and parts | bits |
//! |---|---|---|
//! | [`PlacementKey::session_digest`] | `session`, session | first 32, big-endian |
//! | [`PlacementKey::private_session_digest`] | `private-session`, owner's MAC of (`session`, session) | first 32, big-endian |
//! | [`PlacementKey::derived_id_bits`] | `id`, purpose, principal, key, position:u64 | first 128, big-endian |
//! | the same for an owner | `private-id`, owner's MAC of (`id`, purpose, principal, key, position:u64) | first 128, big-endian |
//!
//! The owner's MAC is keyed by a leaf of the owner's key, so nobody but the owner can confirm a guess about private
//! frames, holders of the collection's key included.

use std::fmt;

use hmac::{Hmac, KeyInit};
use secrecy::ExposeSecret;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{
    CryptoError, KEY_LEN, OwnerKey,
    derive::{Secret, mac_of_parts},
    key,
};

/// Makes the digests and derived numbers that go into the ids of a collection's frames.
///
/// Get it from [`crate::CollectionKey::placement_key`], or from the bytes that a node sent.
pub struct PlacementKey {
    secret: Secret,
    mac: Hmac<Sha256>,
}

/// What a derived id stands for: the same source gives the same bits, any other source gives others.
#[derive(Clone, Copy)]
pub struct IdSource<'a> {
    /// What kind of key `key` is, such as `idempotency-key` or `source-key`.
    pub purpose: &'a str,
    /// Whose key it is: two principals may use the same one.
    pub principal: &'a str,
    /// The caller's key.
    pub key: &'a str,
    /// Which frame of the key's request: 0 for the first.
    pub position: u64,
    /// The owner, for a private frame: its bits can then be computed by the owner alone.
    pub owner: Option<&'a OwnerKey>,
}

impl PlacementKey {
    /// The key from its bytes.
    ///
    /// # Errors
    /// [`CryptoError::KeySize`] when they are not 32.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CryptoError> {
        key::secret_from_slice(bytes).map(Self::new)
    }

    /// The bytes to hand to a router. Wiped when dropped; do not print them.
    pub fn to_bytes(&self) -> Zeroizing<[u8; KEY_LEN]> {
        Zeroizing::new(*self.secret.expose_secret())
    }

    pub(crate) fn new(secret: Secret) -> Self {
        let mac = Hmac::new_from_slice(secret.expose_secret()).expect("HMAC takes any key length");
        Self { secret, mac }
    }

    /// The digest of a session: 32 bits that all its frames' ids have in common.
    ///
    /// Two sessions of a collection share one by chance at a rate of 2⁻³²; they then lie on one shard, and nothing else
    /// happens.
    pub fn session_digest(&self, session: &str) -> u32 {
        first_4(mac_of_parts(&self.mac, &[b"session", session.as_bytes()]))
    }

    /// The digest of an owner's private session.
    ///
    /// Another than that of a session of the same name that is not private, or is another owner's.
    pub fn private_session_digest(&self, owner: &OwnerKey, session: &str) -> u32 {
        let owners = mac_of_parts(owner.placement_mac(), &[b"session", session.as_bytes()]);
        first_4(mac_of_parts(&self.mac, &[b"private-session", &owners]))
    }

    /// 128 bits for the id of a frame that a caller's key names, so that the same request sent again names the same
    /// frame.
    ///
    /// All of them are keyed. An id overwrites 6 with its version and variant, and 32 with the digest of a session; the 90
    /// that are left make two ids of one session equal by chance only among some 2⁴⁵.
    pub fn derived_id_bits(&self, source: &IdSource<'_>) -> u128 {
        let position = source.position.to_le_bytes();
        let parts =
            [b"id", source.purpose.as_bytes(), source.principal.as_bytes(), source.key.as_bytes(), &position[..]];
        let full = if let Some(owner) = source.owner {
            mac_of_parts(&self.mac, &[b"private-id", &mac_of_parts(owner.placement_mac(), &parts)])
        } else {
            mac_of_parts(&self.mac, &parts)
        };
        u128::from_be_bytes(*full.first_chunk().expect("32 bytes hold 16"))
    }
}

fn first_4(mac: [u8; 32]) -> u32 {
    u32::from_be_bytes(*mac.first_chunk().expect("32 bytes hold 4"))
}

impl fmt::Debug for PlacementKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlacementKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CollectionKey, os_rng};

    fn placement_key() -> PlacementKey {
        CollectionKey::generate(7, 0, &mut os_rng()).placement_key()
    }

    #[test]
    fn a_key_from_its_bytes_says_the_same() {
        let key = placement_key();
        let again = PlacementKey::from_bytes(&*key.to_bytes()).expect("32 bytes");
        assert_eq!(key.session_digest("s"), again.session_digest("s"));
        assert_eq!(PlacementKey::from_bytes(&[0; 31]).err(), Some(CryptoError::KeySize { found: 31 }));
        assert_eq!(format!("{key:?}"), "PlacementKey");
    }

    #[test]
    fn digests_differ_by_session_owner_and_collection() {
        let (key, other) = (placement_key(), placement_key());
        let (ada, bob) = (OwnerKey::generate(&mut os_rng()), OwnerKey::generate(&mut os_rng()));
        let digests = [
            key.session_digest("s"),
            key.session_digest("t"),
            key.session_digest(""),
            other.session_digest("s"),
            key.private_session_digest(&ada, "s"),
            key.private_session_digest(&ada, "t"),
            key.private_session_digest(&bob, "s"),
            other.private_session_digest(&ada, "s"),
        ];
        for (at, digest) in digests.iter().enumerate() {
            assert!(!digests[..at].contains(digest), "digest {at} is there twice");
        }
    }

    #[test]
    fn derived_bits_differ_by_every_part_of_their_source() {
        let (key, other) = (placement_key(), placement_key());
        let (ada, bob) = (OwnerKey::generate(&mut os_rng()), OwnerKey::generate(&mut os_rng()));
        let source = IdSource { purpose: "p", principal: "ab", key: "c", position: 0, owner: None };
        let sources = [
            source,
            IdSource { purpose: "q", ..source },
            IdSource { principal: "a", key: "bc", ..source },
            IdSource { key: "d", ..source },
            IdSource { position: 1, ..source },
            IdSource { owner: Some(&ada), ..source },
            IdSource { owner: Some(&bob), ..source },
        ];
        let mut bits: Vec<u128> = sources.iter().map(|source| key.derived_id_bits(source)).collect();
        assert_eq!(bits[0], key.derived_id_bits(&source), "the same source gives the same bits");
        bits.push(other.derived_id_bits(&source));
        for (at, value) in bits.iter().enumerate() {
            assert!(!bits[..at].contains(value), "bits {at} are there twice");
        }
    }
}
