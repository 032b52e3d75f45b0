//! Private frames: three layers, three holders, none of whom can read alone.
//!
//! ```text
//!  plaintext ── seal_owner ──▶ O ── seal_collection ──▶ C ── seal_cluster ──▶ L   stored, replicated, backed up
//!               router, for      whoever holds the       whoever holds the
//!               its owner        collection's key        cluster's layer key
//! ```
//!
//! | layer | algorithm | key | bound to |
//! |---|---|---|---|
//! | `O` owner, innermost | AES-256-GCM-SIV | HKDF(salt e, owner key) | [`OwnerContext`] |
//! | `C` collection | XChaCha20-Poly1305 | HKDF(salt φ, collection key) | [`Context`] |
//! | `L` cluster, outermost | AES-256-GCM | HKDF(salt γ, cluster layer key, frame id) | [`Bound`]: [`Context`] and what lies beside it |
//!
//! Three algorithms, so that a break of one leaves two. The three holders: a stolen disk has no key; a collection's key
//! opens one layer of three; the cluster key, together with the meta group's wrapped keys, opens two, but never the
//! owner's; and an owner's key is worth nothing without the cluster's. Destroying a collection's key, wrapped copies
//! included, is enough to forget, whoever still holds the other two. Only the owner layer compresses: what comes out of
//! it does not shrink.
//!
//! **Nonces.** Routers do not know of each other, so the owner layer uses a cipher that survives a repeated nonce. The
//! collection layer has 192-bit nonces, which never repeat by chance. The outermost layer derives a key per frame, as
//! plain frames do.
//!
//! **The cluster layer key** is random and wrapped by the cluster key like a collection key, so that rotating the
//! cluster key rewraps 32 bytes and touches no frame.
//!
//! **Wrong key or damage.** A node opens the outer two layers first, and they authenticate every byte of the owner
//! layer. So when [`open_owner`] says [`CryptoError::WrongOwnerKey`] about bytes that came out of [`open_collection`],
//! no bit was damaged: it is another owner's frame, or a wrong key.

use std::fmt;

use aes_gcm::Aes256Gcm;
use hmac::Mac;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::{
    Bound, ClusterKey, CollectionKey, Context, CryptoError, KeyId, KeyName, OwnerContext, OwnerKey, WrappedKey,
    constants::Constant,
    derive::{KeyTree, Label, Secret},
    envelope::{self, Header, Kind, Parsed, Plain},
    key,
    wrap::Purpose,
};

/// Bytes that the owner layer adds at most.
pub const OWNER_OVERHEAD: usize = Kind::OWNER_LAYER.overhead();

/// Bytes that all three layers add at most.
pub const OVERHEAD: usize = OWNER_OVERHEAD + Kind::COLLECTION_LAYER.overhead() + Kind::CLUSTER_LAYER.overhead();

/// The key of the outermost layer: one for the cluster, versioned, wrapped by the cluster key.
pub struct ClusterLayerKey {
    version: u32,
    id: KeyId,
    secret: Secret,
    tree: KeyTree,
}

impl ClusterLayerKey {
    /// A new random key; versions count from 1.
    pub fn generate(version: u32, rng: &mut dyn CryptoRng) -> Self {
        Self::new(version, key::random_secret(rng))
    }

    fn new(version: u32, secret: Secret) -> Self {
        let tree = KeyTree::new(Constant::Gamma, &secret);
        Self { version, id: tree.key_id(), secret, tree }
    }

    /// The key sealed under the cluster key, bound to its version.
    pub fn wrap(&self, cluster: &ClusterKey, rng: &mut dyn CryptoRng) -> WrappedKey {
        WrappedKey::seal(&self.secret, Purpose::ClusterLayer { version: self.version }, cluster, rng)
    }

    /// Opens what [`Self::wrap`] made for this `version`.
    ///
    /// # Errors
    /// [`CryptoError::WrongKey`] when another cluster key wrapped it; [`CryptoError::Damaged`] when it was altered or
    /// is another key.
    pub fn unwrap(wrapped: &WrappedKey, version: u32, cluster: &ClusterKey) -> Result<Self, CryptoError> {
        Ok(Self::new(version, wrapped.open(Purpose::ClusterLayer { version }, cluster)?))
    }

    /// Its version.
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// The key's name, for operators and receipts.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// What an owner's passphrase record is kept under, from the owner's name: on a disk, no guess at a name can be
    /// confirmed. Take it from the first version: names must stay the same while others are added.
    pub fn owner_record(&self, name: &[u8]) -> [u8; 16] {
        let mut mac = self.tree.mac(Label::OwnerName);
        mac.update(name);
        let full: [u8; 32] = mac.finalize().into_bytes().into();
        *full.first_chunk().expect("32 bytes hold 16")
    }

    fn cipher(&self, frame: u128) -> Aes256Gcm {
        self.tree.cipher(Label::ClusterLayer, &frame.to_le_bytes())
    }
}

impl fmt::Debug for ClusterLayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterLayerKey(version {}, {})", self.version, self.id)
    }
}

/// Compresses and seals the innermost layer.
///
/// # Panics
/// If the plaintext is over [`crate::MAX_PLAIN_LEN`].
pub fn seal_owner(key: &OwnerKey, context: &OwnerContext, plaintext: &[u8], rng: &mut dyn CryptoRng) -> Vec<u8> {
    let plain = Plain { bytes: plaintext, compressible: context.part.compressible() };
    key.checked_cipher().seal(&Kind::OWNER_LAYER, &context.encode(), &plain, rng)
}

/// Opens the innermost layer; the plaintext has at most `max_len` bytes and is wiped when dropped.
///
/// # Errors
/// [`CryptoError::WrongOwnerKey`] when another owner sealed it; [`CryptoError::Damaged`] when it was altered or the
/// context is not its own; [`CryptoError::TooLarge`], [`CryptoError::Truncated`], [`CryptoError::UnknownVersion`].
pub fn open_owner(
    key: &OwnerKey,
    context: &OwnerContext,
    sealed: &[u8],
    max_len: usize,
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    key.checked_cipher().open(&Kind::OWNER_LAYER, &context.encode(), sealed, max_len)
}

/// Seals the middle layer around an owner layer.
///
/// # Panics
/// If the context names another collection than the key.
pub fn seal_collection(key: &CollectionKey, context: &Context, inner: &[u8], rng: &mut dyn CryptoRng) -> Vec<u8> {
    assert_eq!(context.collection, key.collection(), "a frame is sealed with its own collection's key");
    let header = Header {
        kind: &Kind::COLLECTION_LAYER,
        key_ref: &key.version().to_le_bytes(),
        nonce: &envelope::random_nonce::<24>(rng),
    };
    envelope::seal(key.layer_cipher(), &header, &context.encode(), &Plain::raw(inner))
}

/// Opens the middle layer; what it holds has at most `max_len` bytes.
///
/// # Errors
/// [`CryptoError::WrongKey`] when another version of the key sealed it ([`collection_key_version`] says which);
/// otherwise as [`open_owner`].
pub fn open_collection(
    key: &CollectionKey,
    context: &Context,
    sealed: &[u8],
    max_len: usize,
) -> Result<Vec<u8>, CryptoError> {
    let parsed = Parsed::new(&Kind::COLLECTION_LAYER, sealed)?;
    key.check(context.collection, parsed.key_version())?;
    parsed.open(key.layer_cipher(), &context.encode(), max_len)
}

/// Seals the outermost layer around a collection layer.
///
/// # Panics
/// If what it holds is over [`crate::MAX_PLAIN_LEN`].
pub fn seal_cluster<'a>(
    key: &ClusterLayerKey,
    bound: impl Into<Bound<'a>>,
    inner: &[u8],
    rng: &mut dyn CryptoRng,
) -> Vec<u8> {
    let bound = bound.into();
    let header = Header {
        kind: &Kind::CLUSTER_LAYER,
        key_ref: &key.version.to_le_bytes(),
        nonce: &envelope::random_nonce::<12>(rng),
    };
    envelope::seal(&key.cipher(bound.context.frame), &header, &bound.encode(), &Plain::raw(inner))
}

/// Opens the outermost layer; what it holds has at most `max_len` bytes.
///
/// # Errors
/// [`CryptoError::WrongKey`] when another version of the key sealed it ([`cluster_layer_version`] says which);
/// otherwise as [`open_owner`].
pub fn open_cluster<'a>(
    key: &ClusterLayerKey,
    bound: impl Into<Bound<'a>>,
    sealed: &[u8],
    max_len: usize,
) -> Result<Vec<u8>, CryptoError> {
    let bound = bound.into();
    let parsed = Parsed::new(&Kind::CLUSTER_LAYER, sealed)?;
    envelope::check_key(KeyName::Version(parsed.key_version()), KeyName::Version(key.version))?;
    parsed.open(&key.cipher(bound.context.frame), &bound.encode(), max_len)
}

/// The version of the collection key that a middle layer needs.
///
/// # Errors
/// As [`open_collection`], but for the key.
pub fn collection_key_version(sealed: &[u8]) -> Result<u32, CryptoError> {
    Ok(Parsed::new(&Kind::COLLECTION_LAYER, sealed)?.key_version())
}

/// The version of the cluster layer key that an outermost layer needs.
///
/// # Errors
/// As [`open_cluster`], but for the key.
pub fn cluster_layer_version(sealed: &[u8]) -> Result<u32, CryptoError> {
    Ok(Parsed::new(&Kind::CLUSTER_LAYER, sealed)?.key_version())
}
