//! A collection's key, and what it does by itself: blind tags and digests.
//!
//! One random key per collection and version. It lives wrapped in the meta group ([`crate::wrap`]) and, unwrapped, in
//! the memory of nodes that serve the collection. Destroying every wrapped copy makes all that hangs on it unreadable:
//! frames, pages, tags, digests.
//!
//! **Tags** stand in for values that must be found by equality (a session, an idempotency key) without being stored: a
//! keyed hash cannot be guessed offline, as a plain hash of a short value can. Tags and digests of two key versions
//! differ, so while a rotation runs a lookup asks once per version in use, and re-sealing a frame also renews its tags.

use std::fmt;

use chacha20poly1305::XChaCha20Poly1305;
use hmac::{Hmac, Mac};
use rand_core::CryptoRng;
use sha2::Sha256;

use crate::{
    ClusterKey, CryptoError, KeyId, KeyName, PlacementKey, WrappedKey,
    constants::Constant,
    derive::{KeyTree, Label, Secret},
    envelope, key,
    wrap::Purpose,
};

/// One version of one collection's key.
///
/// Making it derives and expands what hot paths need, so keep it (behind an `Arc`) instead of unwrapping per request.
pub struct CollectionKey {
    collection: u64,
    version: u32,
    id: KeyId,
    secret: Secret,
    frames: KeyTree,
    tags: Hmac<Sha256>,
    digests: Hmac<Sha256>,
    layer: XChaCha20Poly1305,
}

impl CollectionKey {
    /// A new random key for `collection`; versions count from 1.
    pub fn generate(collection: u64, version: u32, rng: &mut dyn CryptoRng) -> Self {
        Self::new(collection, version, key::random_secret(rng))
    }

    fn new(collection: u64, version: u32, secret: Secret) -> Self {
        let frames = KeyTree::new(Constant::Pi, &secret);
        Self {
            collection,
            version,
            id: frames.key_id(),
            tags: frames.mac(Label::Tag),
            digests: frames.mac(Label::Digest),
            layer: KeyTree::new(Constant::Phi, &secret).cipher(Label::CollectionLayer, &[]),
            frames,
            secret,
        }
    }

    /// The key sealed under the cluster key, bound to collection and version.
    pub fn wrap(&self, cluster: &ClusterKey, rng: &mut dyn CryptoRng) -> WrappedKey {
        WrappedKey::seal(&self.secret, self.purpose(), cluster, rng)
    }

    /// Opens what [`Self::wrap`] made for this `collection` and `version`.
    ///
    /// # Errors
    /// [`CryptoError::WrongKey`] when another cluster key wrapped it; [`CryptoError::Damaged`] when it was altered or
    /// belongs to another collection or version.
    pub fn unwrap(
        wrapped: &WrappedKey,
        collection: u64,
        version: u32,
        cluster: &ClusterKey,
    ) -> Result<Self, CryptoError> {
        let secret = wrapped.open(Purpose::Collection { collection, version }, cluster)?;
        Ok(Self::new(collection, version, secret))
    }

    /// The collection it belongs to.
    pub const fn collection(&self) -> u64 {
        self.collection
    }

    /// Its version within the collection.
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// The key's name, for operators and receipts.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// A blind stand-in for `value`, equal for equal values of one `domain` (such as `session`).
    ///
    /// HMAC-SHA256 cut to 16 bytes: 2⁶⁴ values before two are likely to share a tag.
    pub fn tag(&self, domain: &str, value: &[u8]) -> [u8; 16] {
        let mut mac = self.tags.clone();
        mac.update(&(domain.len() as u64).to_le_bytes());
        mac.update(domain.as_bytes());
        mac.update(value);
        let full: [u8; 32] = mac.finalize().into_bytes().into();
        *full.first_chunk().expect("32 bytes hold 16")
    }

    /// A keyed digest of `content`: equal content of this collection is recognised, and nothing else can be told from
    /// it.
    pub fn content_digest(&self, content: &[u8]) -> [u8; 32] {
        let mut hasher = self.content_hasher();
        hasher.update(content);
        hasher.finish()
    }

    /// [`Self::content_digest`] of content that arrives in pieces.
    pub fn content_hasher(&self) -> ContentHasher {
        ContentHasher(self.digests.clone())
    }

    /// The key that ids of the collection's frames are made with. It opens nothing, so routers may hold it.
    ///
    /// Take it from the version that makes tags: ids must stay the same while other versions are rotated.
    pub fn placement_key(&self) -> PlacementKey {
        PlacementKey::new(self.frames.secret(Label::Placement))
    }

    pub(crate) const fn tree(&self) -> &KeyTree {
        &self.frames
    }

    pub(crate) const fn layer_cipher(&self) -> &XChaCha20Poly1305 {
        &self.layer
    }

    /// Refuses sealed data of another version, and a context of another collection.
    pub(crate) fn check(&self, collection: u64, sealed_under: u32) -> Result<(), CryptoError> {
        envelope::check_key(KeyName::Collection(collection), KeyName::Collection(self.collection))?;
        envelope::check_key(KeyName::Version(sealed_under), KeyName::Version(self.version))
    }

    const fn purpose(&self) -> Purpose {
        Purpose::Collection { collection: self.collection, version: self.version }
    }
}

impl fmt::Debug for CollectionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CollectionKey({} version {}, {})", self.collection, self.version, self.id)
    }
}

/// A content digest in the making.
pub struct ContentHasher(Hmac<Sha256>);

impl ContentHasher {
    pub(crate) fn new(keyed: &Hmac<Sha256>) -> Self {
        Self(keyed.clone())
    }

    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The digest of all pieces so far.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into_bytes().into()
    }
}

impl fmt::Debug for ContentHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentHasher")
    }
}
