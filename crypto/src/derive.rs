//! Deriving keys from keys: one HKDF-SHA256 tree per secret and holder.
//!
//! A tree is HKDF's pseudorandom key: `extract(salt = digits of a constant, secret)`. Every key in use is a leaf:
//! `expand(info = label ‖ 0 ‖ id)`. The salt separates the holders (who has the secret), the label separates what a
//! leaf is for, the id separates instances (a frame, a file). Labels hold no zero byte and ids have a fixed length per
//! label, so no two leaves can share their info. Labels are part of the format: a changed label is a new format
//! version.
//!
//! | salt | secret | what hangs on it |
//! |---|---|---|
//! | π | collection key | frames, pages, tags, digests, the placement key |
//! | e | owner key | innermost layer of private frames, tags, digests, placement |
//! | φ | collection key | middle layer of private frames |
//! | γ | cluster key, cluster layer key | key wrapping, meta records; outermost layer of private frames, names of owners' records |
//! | γ | repository key | pieces and manifests of backups |
//!
//! Extraction runs once per key, so a leaf costs one short HMAC.

use aes_gcm::aead::{KeyInit, KeySizeUser, consts::U32};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretBox};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{KeyId, constants::Constant};

/// Bytes of every key in MIRA.
pub const KEY_LEN: usize = 32;

/// 32 secret bytes: on the heap, so that moves leave no copies; wiped when dropped; not printable.
pub(crate) type Secret = SecretBox<[u8; KEY_LEN]>;

/// What a leaf is for.
#[derive(Clone, Copy)]
pub(crate) enum Label {
    KeyId,
    Wrap,
    Meta,
    Frame,
    Page,
    Tag,
    Digest,
    Placement,
    OwnerSeal,
    OwnerCheck,
    OwnerTag,
    OwnerDigest,
    OwnerPlacement,
    CollectionLayer,
    ClusterLayer,
    OwnerName,
    PassphraseSeal,
    PassphraseCheck,
    Backup,
    BackupMac,
}

impl Label {
    const fn info(self) -> &'static [u8] {
        match self {
            Self::KeyId => b"mira/v1/key-id\0",
            Self::Wrap => b"mira/v1/wrap\0",
            Self::Meta => b"mira/v1/meta\0",
            Self::Frame => b"mira/v1/frame\0",
            Self::Page => b"mira/v1/page\0",
            Self::Tag => b"mira/v1/tag\0",
            Self::Digest => b"mira/v1/content-digest\0",
            Self::Placement => b"mira/v1/placement\0",
            Self::OwnerSeal => b"mira/v1/owner\0",
            Self::OwnerCheck => b"mira/v1/owner-check\0",
            Self::OwnerTag => b"mira/v1/owner-tag\0",
            Self::OwnerDigest => b"mira/v1/owner-digest\0",
            Self::OwnerPlacement => b"mira/v1/owner-placement\0",
            Self::CollectionLayer => b"mira/v1/collection-layer\0",
            Self::ClusterLayer => b"mira/v1/cluster-layer\0",
            Self::OwnerName => b"mira/v1/owner-name\0",
            Self::PassphraseSeal => b"mira/v1/passphrase\0",
            Self::PassphraseCheck => b"mira/v1/passphrase-check\0",
            Self::Backup => b"mira/v1/backup\0",
            Self::BackupMac => b"mira/v1/backup-mac\0",
        }
    }
}

/// All keys derived from one secret under one salt. Wiped when dropped.
pub(crate) struct KeyTree(Hkdf<Sha256>);

impl KeyTree {
    pub(crate) fn new(salt: Constant, secret: &Secret) -> Self {
        Self(Hkdf::new(Some(salt.salt()), secret.expose_secret()))
    }

    /// A cipher with its key schedule expanded, keyed by the leaf (`label`, `id`).
    pub(crate) fn cipher<C: KeyInit + KeySizeUser<KeySize = U32>>(&self, label: Label, id: &[u8]) -> C {
        C::new((&*self.leaf::<KEY_LEN>(label, id)).into())
    }

    /// A keyed hash, ready for use, keyed by the leaf of `label`.
    pub(crate) fn mac(&self, label: Label) -> Hmac<Sha256> {
        <Hmac<Sha256> as KeyInit>::new_from_slice(&*self.leaf::<KEY_LEN>(label, &[]))
            .expect("HMAC takes any key length")
    }

    /// A key that is handed on by itself.
    pub(crate) fn secret(&self, label: Label) -> Secret {
        SecretBox::init_with_mut(|secret: &mut [u8; KEY_LEN]| *secret = *self.leaf::<KEY_LEN>(label, &[]))
    }

    /// A name for the secret that says nothing about it.
    pub(crate) fn key_id(&self) -> KeyId {
        KeyId::from_bytes(*self.leaf(Label::KeyId, &[]))
    }

    fn leaf<const N: usize>(&self, label: Label, id: &[u8]) -> Zeroizing<[u8; N]> {
        let mut leaf = Zeroizing::new([0; N]);
        self.0.expand_multi_info(&[label.info(), id], &mut *leaf).expect("a leaf is at most 32 bytes");
        leaf
    }
}

/// The keyed hash of several values, each after its length, so that no two lists of values are hashed alike.
pub(crate) fn mac_of_parts(keyed: &Hmac<Sha256>, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = keyed.clone();
    for part in parts {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}
