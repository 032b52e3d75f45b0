//! The owner's key, and its protection by a passphrase.
//!
//! An owner's private frames are sealed under an [`OwnerKey`] that only the owner's clients and, for the length of a
//! request, a router's memory hold. It is 32 random bytes; a passphrase never becomes the key itself but protects it,
//! so that a new passphrase or a higher cost re-seals one short record instead of every private frame.
//!
//! **The passphrase record** may be stored anywhere: reading it gives an attacker a guess per Argon2id run and nothing
//! else. It is text in the PHC string form:
//!
//! ```text
//! $argon2id$v=19$m=65536,t=3,p=4$SALT$BOX
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | `argon2id`, `v=19` | Argon2id version 1.3; anything else is an unknown version |
//! | `m`, `t`, `p` | memory in KiB, passes, lanes |
//! | SALT | 16 random bytes, base64 without padding |
//! | BOX | kind `R` of `envelope`: the owner key under AES-256-GCM-SIV, base64 without padding |
//!
//! Everything before BOX is its associated data, so nobody can lower the cost or change the salt unnoticed. The box's
//! key reference is a key-check value, `HMAC(check key, nonce)`: it tells a wrong passphrase from damage, commits to
//! the key (AES-GCM alone does not, which partitioning attacks on passphrases exploit), and is one-way.
//!
//! A passphrase is used byte for byte: clients agree on a Unicode form (NFC) among themselves.

use std::fmt;

use aes_gcm_siv::Aes256GcmSiv;
use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use hmac::{Hmac, Mac};
use rand_core::CryptoRng;
use secrecy::{ExposeSecret, SecretBox};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    ContentHasher, CryptoError, KEY_LEN, KeyId,
    constants::Constant,
    derive::{KeyTree, Label, Secret},
    envelope::{self, Header, Kind, Parsed, Plain},
    key,
};

const SALT_LEN: usize = 16;
const NONCE_LEN: usize = 12;

/// The key that seals an owner's private frames innermost.
pub struct OwnerKey {
    secret: Secret,
    id: KeyId,
    checked: CheckedCipher,
    tags: Hmac<Sha256>,
    digests: Hmac<Sha256>,
    placement: Hmac<Sha256>,
}

impl OwnerKey {
    /// A new random key.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        Self::new(key::random_secret(rng))
    }

    /// Reads the text form (base64 of 32 bytes), as a header, an environment variable or a key file holds it.
    ///
    /// # Errors
    /// [`CryptoError::NotBase64`], [`CryptoError::KeySize`].
    pub fn from_text(text: &str) -> Result<Self, CryptoError> {
        Ok(Self::new(key::secret_from_text(text)?))
    }

    /// The text form, for the owner's eyes. Wiped when dropped; do not print it.
    pub fn to_text(&self) -> Zeroizing<String> {
        key::secret_to_text(&self.secret)
    }

    /// The key's name: the same owner has the same id everywhere.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The passphrase record that gives this key back to whoever knows the passphrase.
    ///
    /// Call it again with another passphrase or cost to replace the record; the key and all it sealed stay.
    ///
    /// # Errors
    /// [`CryptoError::EmptyPassphrase`], [`CryptoError::PassphraseCost`].
    pub fn protect(
        &self,
        passphrase: &str,
        cost: PassphraseCost,
        rng: &mut dyn CryptoRng,
    ) -> Result<String, CryptoError> {
        let settings = Settings { cost, salt: envelope::random_nonce(rng) };
        let text = settings.to_text();
        let sealed = settings.stretch(passphrase)?.seal(
            &Kind::PASSPHRASE,
            text.as_bytes(),
            &Plain::raw(self.secret.expose_secret()),
            rng,
        );
        Ok(format!("{text}${}", STANDARD_NO_PAD.encode(sealed)))
    }

    /// Opens a passphrase record. Takes as long as its cost says: never on an async thread.
    ///
    /// # Errors
    /// [`CryptoError::WrongOwnerKey`] for a wrong passphrase; [`CryptoError::Damaged`],
    /// [`CryptoError::PassphraseRecord`] for an altered record; [`CryptoError::PassphraseCost`] for one that asks for
    /// too much.
    pub fn from_passphrase(passphrase: &str, record: &str) -> Result<Self, CryptoError> {
        let (settings, sealed) = Settings::parse(record)?;
        let stretched = settings.stretch(passphrase)?;
        let secret = stretched.open(&Kind::PASSPHRASE, settings.to_text().as_bytes(), &sealed, KEY_LEN)?;
        Ok(Self::new(key::secret_from_slice(&secret)?))
    }

    fn new(secret: Secret) -> Self {
        let tree = KeyTree::new(Constant::E, &secret);
        let checked = CheckedCipher::new(&tree, Label::OwnerSeal, Label::OwnerCheck);
        let (tags, digests) = (tree.mac(Label::OwnerTag), tree.mac(Label::OwnerDigest));
        let placement = tree.mac(Label::OwnerPlacement);
        Self { id: tree.key_id(), secret, checked, tags, digests, placement }
    }

    /// A blind stand-in for `value`, equal for equal values of one `domain` and `collection`, under this key alone.
    ///
    /// It names an owner, or an owner's session, to a storage node that may know neither. Bound to the collection, so
    /// that nobody sees in two collections that they have an owner in common.
    pub fn tag(&self, domain: &str, collection: u64, value: &[u8]) -> [u8; 16] {
        let mut mac = self.tags.clone();
        mac.update(&(domain.len() as u64).to_le_bytes());
        mac.update(domain.as_bytes());
        mac.update(&collection.to_le_bytes());
        mac.update(value);
        let full: [u8; 32] = mac.finalize().into_bytes().into();
        *full.first_chunk().expect("32 bytes hold 16")
    }

    /// Digests content in pieces: equal content of this owner is recognised, and nothing else can be told from it.
    pub fn content_hasher(&self) -> ContentHasher {
        ContentHasher::new(&self.digests)
    }

    pub(crate) const fn placement_mac(&self) -> &Hmac<Sha256> {
        &self.placement
    }

    pub(crate) const fn checked_cipher(&self) -> &CheckedCipher {
        &self.checked
    }
}

impl fmt::Debug for OwnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerKey({})", self.id)
    }
}

/// What one guess of a passphrase costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassphraseCost {
    /// Memory that Argon2id fills, in KiB; at least 8 per lane.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Independent lanes. They run one after the other here.
    pub lanes: u32,
}

impl PassphraseCost {
    /// The second recommended option of RFC 9106: 64 MiB, three passes, four lanes.
    pub const RECOMMENDED: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };

    /// What a router can be made to spend at most, whoever wrote the record.
    pub const LIMIT: Self = Self { memory_kib: 256 * 1024, passes: 16, lanes: 16 };

    /// The cost that a stored record was made with.
    ///
    /// # Errors
    /// [`CryptoError::PassphraseRecord`], [`CryptoError::UnknownVersion`].
    pub fn of_record(record: &str) -> Result<Self, CryptoError> {
        Ok(Settings::parse(record)?.0.cost)
    }

    /// Whether a record of this cost should be replaced by one of `wanted` at the next chance.
    pub const fn is_below(&self, wanted: &Self) -> bool {
        self.memory_kib < wanted.memory_kib || self.passes < wanted.passes
    }

    fn check(&self) -> Result<(), CryptoError> {
        let reason = if self.memory_kib > Self::LIMIT.memory_kib {
            "memory over 256 MiB"
        } else if self.passes == 0 || self.passes > Self::LIMIT.passes {
            "passes not within 1 to 16"
        } else if self.lanes == 0 || self.lanes > Self::LIMIT.lanes {
            "lanes not within 1 to 16"
        } else if self.memory_kib < 8 * self.lanes {
            "memory under 8 KiB per lane"
        } else {
            return Ok(());
        };
        Err(CryptoError::PassphraseCost { reason })
    }
}

impl Default for PassphraseCost {
    fn default() -> Self {
        Self::RECOMMENDED
    }
}

/// A passphrase record without its box.
struct Settings {
    cost: PassphraseCost,
    salt: [u8; SALT_LEN],
}

impl Settings {
    fn to_text(&self) -> String {
        let PassphraseCost { memory_kib, passes, lanes } = self.cost;
        format!("$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${}", STANDARD_NO_PAD.encode(self.salt))
    }

    /// The settings and the box. A record has one spelling: what would not be written so is malformed.
    fn parse(record: &str) -> Result<(Self, Vec<u8>), CryptoError> {
        let malformed = |reason| CryptoError::PassphraseRecord { reason };
        let fields: Vec<&str> = record.split('$').collect();
        let ["", algorithm, version, cost, salt, sealed] = fields[..] else {
            return Err(malformed("not five fields, each after a $"));
        };
        if (algorithm, version) != ("argon2id", "v=19") {
            return Err(malformed("not argon2id version 19"));
        }
        let cost = parse_cost(cost).ok_or(malformed("cost is not m=…,t=…,p=…"))?;
        let decode = |text: &str| STANDARD_NO_PAD.decode(text);
        let salt = decode(salt).ok().and_then(|salt| salt.try_into().ok()).ok_or(malformed("salt is not 16 bytes"))?;
        let sealed = decode(sealed).map_err(|_| malformed("box is not base64"))?;
        let settings = Self { cost, salt };
        if !record.starts_with(&settings.to_text()) {
            return Err(malformed("not in canonical form"));
        }
        Ok((settings, sealed))
    }

    fn stretch(&self, passphrase: &str) -> Result<CheckedCipher, CryptoError> {
        if passphrase.is_empty() {
            return Err(CryptoError::EmptyPassphrase);
        }
        self.cost.check()?;
        let PassphraseCost { memory_kib, passes, lanes } = self.cost;
        let params = Params::new(memory_kib, passes, lanes, Some(KEY_LEN)).expect("within Argon2's own bounds");
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let stretched = SecretBox::init_with_mut(|key: &mut [u8; KEY_LEN]| {
            argon
                .hash_password_into(passphrase.as_bytes(), &self.salt, key)
                .expect("lengths are within Argon2's bounds");
        });
        let tree = KeyTree::new(Constant::E, &stretched);
        Ok(CheckedCipher::new(&tree, Label::PassphraseSeal, Label::PassphraseCheck))
    }
}

/// `m=…,t=…,p=…`, nothing else.
fn parse_cost(text: &str) -> Option<PassphraseCost> {
    let (memory, rest) = text.strip_prefix("m=")?.split_once(",t=")?;
    let (passes, lanes) = rest.split_once(",p=")?;
    Some(PassphraseCost { memory_kib: memory.parse().ok()?, passes: passes.parse().ok()?, lanes: lanes.parse().ok()? })
}

/// AES-256-GCM-SIV whose key reference is a key-check value: `HMAC-SHA256(check key, nonce)`, 16 bytes.
///
/// Bound to the nonce, so that two sealed pieces do not show that they have the same owner.
pub(crate) struct CheckedCipher {
    cipher: Aes256GcmSiv,
    check: Hmac<Sha256>,
}

impl CheckedCipher {
    fn new(tree: &KeyTree, seal: Label, check: Label) -> Self {
        Self { cipher: tree.cipher(seal, &[]), check: tree.mac(check) }
    }

    fn check_value(&self, nonce: &[u8; NONCE_LEN]) -> [u8; 16] {
        let mut mac = self.check.clone();
        mac.update(nonce);
        let full: [u8; 32] = mac.finalize().into_bytes().into();
        *full.first_chunk().expect("32 bytes hold 16")
    }

    pub(crate) fn seal(
        &self,
        kind: &'static Kind,
        context: &[u8],
        plain: &Plain<'_>,
        rng: &mut dyn CryptoRng,
    ) -> Vec<u8> {
        let nonce = envelope::random_nonce::<NONCE_LEN>(rng);
        let header = Header { kind, key_ref: &self.check_value(&nonce), nonce: &nonce };
        envelope::seal(&self.cipher, &header, context, plain)
    }

    pub(crate) fn open(
        &self,
        kind: &Kind,
        context: &[u8],
        sealed: &[u8],
        max_len: usize,
    ) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let parsed = Parsed::new(kind, sealed)?;
        if !bool::from(self.check_value(parsed.nonce()).ct_eq(parsed.key_ref)) {
            return Err(CryptoError::WrongOwnerKey);
        }
        parsed.open(&self.cipher, context, max_len).map(Zeroizing::new)
    }
}
