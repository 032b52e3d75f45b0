//! Who owns private frames, as a request says it: by a key, or by a passphrase that stands for one.
//!
//! A key arrives in a header, lives as long as the request, and is wiped with it. What a passphrase opens,
//! `super::owners` says.

use std::fmt;
use std::sync::Arc;

use mira_crypto::{CryptoError, OwnerKey};
use mira_proto::{Code, Problem, limits};
use zeroize::Zeroizing;

/// What a request says about the owner. Prints no secret.
#[derive(Clone)]
pub enum Credential {
    /// The key itself.
    Key(Arc<OwnerKey>),
    /// A passphrase, to be turned into the key.
    Passphrase(Arc<Passphrase>),
}

/// A passphrase and whose it is.
pub struct Passphrase {
    /// Names the owner: a hash of its name.
    pub(super) owner: [u8; 16],
    pub(super) secret: Zeroizing<String>,
}

impl Credential {
    /// A key as a header holds it.
    pub fn key(text: &str) -> Result<Self, Problem> {
        match OwnerKey::from_text(text) {
            Ok(key) => Ok(Credential::Key(Arc::new(key))),
            Err(error) => Err(Problem::invalid(format!("the owner's key is not base64 of 32 bytes: {error}"))),
        }
    }

    /// A passphrase of the owner of that name.
    pub fn passphrase(owner: &str, secret: &str) -> Result<Self, Problem> {
        if secret.is_empty() {
            return Err(Problem::invalid("the owner's passphrase is empty"));
        }
        if secret.len() > limits::MAX_PASSPHRASE_BYTES {
            let limit = limits::MAX_PASSPHRASE_BYTES;
            return Err(Problem::new(Code::TooLarge, format!("the owner's passphrase is over {limit} bytes")));
        }
        let hash = blake3::derive_key("mira 2026 owner name", owner.as_bytes());
        let owner = *hash.first_chunk().expect("a hash has 32 bytes");
        Ok(Credential::Passphrase(Arc::new(Passphrase { owner, secret: Zeroizing::new(secret.to_owned()) })))
    }
}

/// A passphrase that is to take another's place.
pub struct NewPassphrase(pub(super) Zeroizing<String>);

impl NewPassphrase {
    /// As a header holds it.
    pub fn new(secret: &str) -> Result<Self, Problem> {
        let limit = limits::MAX_PASSPHRASE_BYTES;
        match secret.len() {
            0 => Err(Problem::invalid("the new passphrase is empty")),
            length if length > limit => {
                Err(Problem::new(Code::TooLarge, format!("the new passphrase is over {limit} bytes")))
            }
            _ => Ok(NewPassphrase(Zeroizing::new(secret.to_owned()))),
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credential::Key(key) => key.fmt(f),
            Credential::Passphrase(_) => f.write_str("Passphrase"),
        }
    }
}

/// What a caller is told when its key, or something sealed with it, is wrong.
pub(crate) fn problem_of(error: CryptoError) -> Problem {
    let code = match &error {
        CryptoError::WrongOwnerKey => Code::WrongOwnerKey,
        CryptoError::NotBase64
        | CryptoError::KeySize { .. }
        | CryptoError::EmptyPassphrase
        | CryptoError::PassphraseCost { .. } => Code::InvalidArgument,
        CryptoError::UnknownVersion { .. } => Code::UnsupportedVersion,
        _ => Code::Damaged,
    };
    Problem::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RequestContext;

    #[test]
    fn a_key_of_the_wrong_size_is_told_from_one_that_is_no_base64() {
        for (text, says) in [("AAEC", "3 bytes"), ("no key!", "not base64")] {
            let problem = Credential::key(text).unwrap_err();
            assert_eq!(problem.code, Code::InvalidArgument);
            assert!(problem.detail.contains(says), "{problem}");
        }
    }

    #[test]
    fn nothing_secret_is_printed() {
        let text = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let mut context = RequestContext::new("ada", std::time::Duration::from_secs(1));
        context.owner = Some(Credential::key(text).unwrap());
        assert!(!format!("{context:?}").contains("AAEC"));
        context.owner = Some(Credential::passphrase("ada", "open sesame").unwrap());
        assert!(!format!("{context:?}").contains("sesame"));
    }

    #[test]
    fn an_owner_is_its_name_whatever_the_passphrase() {
        let owner = |name: &str, secret: &str| match Credential::passphrase(name, secret).unwrap() {
            Credential::Passphrase(passphrase) => passphrase.owner,
            Credential::Key(_) => unreachable!("it is a passphrase"),
        };
        assert_eq!(owner("ada", "x"), owner("ada", "y"));
        assert_ne!(owner("ada", "x"), owner("bob", "x"));
        assert_eq!(Credential::passphrase("ada", "").unwrap_err().code, Code::InvalidArgument);
        let long = "x".repeat(limits::MAX_PASSPHRASE_BYTES + 1);
        assert_eq!(Credential::passphrase("ada", &long).unwrap_err().code, Code::TooLarge);
    }
}
