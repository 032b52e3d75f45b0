//! Keys as callers hold them: their text form, the cluster key.
//!
//! Every key type here wipes itself when dropped, prints only its id, and cannot be cloned: share it behind an `Arc`.
//! The crate reads no files. A caller reads the text (a key file of mode 0600, an environment variable, a provider) and
//! parses it; the text form is standard base64 of 32 bytes, with or without padding and surrounding white space.

use std::fmt;

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use rand_core::CryptoRng;
use secrecy::{ExposeSecret, SecretBox};
use zeroize::Zeroizing;

use crate::{
    CryptoError, KeyId,
    constants::Constant,
    derive::{KEY_LEN, KeyTree, Secret},
};

/// Written with padding, read with or without: people paste both.
const KEY_TEXT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The key that protects the whole cluster: it wraps collection keys and seals the meta group.
///
/// It seals no bulk data, so that rotating it means wrapping the wrapped keys again: seconds, however much is stored.
pub struct ClusterKey {
    secret: Secret,
    tree: KeyTree,
    id: KeyId,
}

impl ClusterKey {
    /// A new random key.
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        Self::new(random_secret(rng))
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// [`CryptoError::NotBase64`], [`CryptoError::KeySize`].
    pub fn from_text(text: &str) -> Result<Self, CryptoError> {
        Ok(Self::new(secret_from_text(text)?))
    }

    /// The text form, for a key file. Wiped when dropped; do not print it.
    pub fn to_text(&self) -> Zeroizing<String> {
        secret_to_text(&self.secret)
    }

    /// The key's name.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    fn new(secret: Secret) -> Self {
        let tree = KeyTree::new(Constant::Gamma, &secret);
        let id = tree.key_id();
        Self { secret, tree, id }
    }

    pub(crate) const fn tree(&self) -> &KeyTree {
        &self.tree
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey({})", self.id)
    }
}

pub(crate) fn random_secret(rng: &mut dyn CryptoRng) -> Secret {
    SecretBox::init_with_mut(|bytes: &mut [u8; KEY_LEN]| rng.fill_bytes(bytes))
}

pub(crate) fn secret_from_slice(bytes: &[u8]) -> Result<Secret, CryptoError> {
    if bytes.len() != KEY_LEN {
        return Err(CryptoError::KeySize { found: bytes.len() });
    }
    Ok(SecretBox::init_with_mut(|secret: &mut [u8; KEY_LEN]| secret.copy_from_slice(bytes)))
}

pub(crate) fn secret_from_text(text: &str) -> Result<Secret, CryptoError> {
    let text = text.trim().as_bytes();
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    let len = KEY_TEXT.decode_slice(text, &mut bytes).map_err(|_| CryptoError::NotBase64)?;
    secret_from_slice(&bytes[..len])
}

pub(crate) fn secret_to_text(secret: &Secret) -> Zeroizing<String> {
    Zeroizing::new(KEY_TEXT.encode(secret.expose_secret()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn text_is_read_with_and_without_padding_and_white_space() {
        let id = ClusterKey::from_text(TEXT).expect("padded").id();
        assert_eq!(ClusterKey::from_text(TEXT.trim_end_matches('=')).expect("bare").id(), id);
        assert_eq!(ClusterKey::from_text(&format!(" {TEXT}\r\n")).expect("white space").id(), id);
        assert_eq!(*ClusterKey::from_text(TEXT).expect("key").to_text(), TEXT);
    }

    #[test]
    fn bad_text_is_named() {
        let error = |text: &str| ClusterKey::from_text(text).expect_err("must fail");
        assert_eq!(error("not a key!"), CryptoError::NotBase64);
        assert_eq!(error(""), CryptoError::KeySize { found: 0 });
        assert_eq!(error("AAEC"), CryptoError::KeySize { found: 3 });
        assert_eq!(error(&"A".repeat(44)), CryptoError::KeySize { found: 33 });
    }

    #[test]
    fn debug_prints_the_id_alone() {
        let key = ClusterKey::from_text(TEXT).expect("key");
        assert_eq!(format!("{key:?}"), format!("ClusterKey({})", key.id()));
        assert_eq!(key.id().to_string().len(), 16);
        assert!(!TEXT.contains(&key.id().to_string()));
    }
}
