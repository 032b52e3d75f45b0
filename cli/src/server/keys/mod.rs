//! Where `mira node` and `mira dev` get cluster keys from: a file, or the environment.
//!
//! Both hold text of the same form: a key an entry, the one that is to seal first, older ones behind it. Entries end with a
//! line or a comma; `#` begins a comment. A key stands there as it is, or wrapped by a key service:
//!
//! ```text
//! AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=                base64 of 32 bytes
//! vault transit/mira vault:v1:8SDd3WHDOjf7mq69…                by HashiCorp Vault: mount and name of the transit key
//! kms AQICAHhoZ…                                               by AWS KMS, or what speaks its protocol
//! ```
//! One file may have all forms, so that a cluster can go from one to another. How the services are reached is said by the
//! variables that their own programs read.

mod kms;
mod service;
mod vault;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use mira_crypto::ClusterKey;
use mira_node::{KeyProvider, ProviderError};
use zeroize::Zeroizing;

use crate::error::CliError;
use crate::server::secrets;

/// The variable that may hold cluster keys themselves.
const VARIABLE: &str = "MIRA_CLUSTER_KEY";

/// A file, or the environment.
pub enum KeySource {
    /// A file of mode 0600 or stricter, read again whenever keys are asked for.
    File(PathBuf),
    /// `MIRA_CLUSTER_KEY`.
    Environment,
}

/// Who wraps a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrapping {
    /// Nobody.
    Plain,
    /// Vault, with the transit key of this mount and name.
    Vault(String),
    /// KMS, with this key: an id, ARN or alias.
    Kms(String),
}

/// One key of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry<'a> {
    Plain(&'a str),
    Vault { key: &'a str, ciphertext: &'a str },
    Kms { blob: &'a str },
}

impl KeySource {
    /// The file that was named, else the environment if it has keys.
    pub fn choose(file: Option<PathBuf>) -> Result<Arc<Self>, CliError> {
        match file {
            Some(file) => Ok(Arc::new(KeySource::File(file))),
            None if std::env::var_os(VARIABLE).is_some() => Ok(Arc::new(KeySource::Environment)),
            None => Err(CliError::Usage(format!("no cluster key: say --cluster-key-file FILE or set {VARIABLE}"))),
        }
    }

    fn text(&self) -> Result<Zeroizing<String>, ProviderError> {
        let place = self.describe();
        let text = match self {
            KeySource::File(file) => secrets::read(file).map_err(|error| match error {
                CliError::BadFile { detail, .. } => ProviderError::Denied { place, detail },
                CliError::Io { source, .. } => ProviderError::NotFound { place, detail: source.to_string() },
                other => ProviderError::Malformed { place, detail: other.to_string() },
            }),
            KeySource::Environment => {
                std::env::var(VARIABLE).map_err(|error| ProviderError::NotFound { place, detail: error.to_string() })
            }
        };
        text.map(Zeroizing::new)
    }
}

#[async_trait]
impl KeyProvider for KeySource {
    async fn load(&self) -> Result<Vec<ClusterKey>, ProviderError> {
        let text = self.text()?;
        let malformed = |detail| ProviderError::Malformed { place: self.describe(), detail };
        let entries = entries(&text).map_err(malformed)?;
        let mut keys: Vec<ClusterKey> = Vec::with_capacity(entries.len());
        for (number, entry) in (1..).zip(&entries) {
            let which = if entries.len() == 1 { String::new() } else { format!("key {number}: ") };
            let key = entry.open().await?;
            let key =
                ClusterKey::from_text(&key).map_err(|error| malformed(format!("{which}not a cluster key: {error}")))?;
            if keys.iter().any(|known| known.id() == key.id()) {
                return Err(malformed(format!("{which}{} is there twice", key.id())));
            }
            keys.push(key);
        }
        Ok(keys)
    }

    fn describe(&self) -> String {
        match self {
            KeySource::File(file) => file.display().to_string(),
            KeySource::Environment => VARIABLE.to_owned(),
        }
    }
}

impl Entry<'_> {
    /// The key's text.
    async fn open(&self) -> Result<Zeroizing<String>, ProviderError> {
        match self {
            Entry::Plain(text) => Ok(Zeroizing::new((*text).to_owned())),
            Entry::Vault { key, ciphertext } => vault::Vault::from_env()?.decrypt(key, ciphertext).await,
            Entry::Kms { blob } => kms::Kms::from_env()?.decrypt(blob).await,
        }
    }
}

impl Wrapping {
    /// The entry for a key.
    pub async fn wrap(&self, key: &ClusterKey) -> Result<Zeroizing<String>, ProviderError> {
        let text = key.to_text();
        Ok(match self {
            Wrapping::Plain => text,
            Wrapping::Vault(key) => {
                let ciphertext = vault::Vault::from_env()?.encrypt(key, &text).await?;
                Zeroizing::new(format!("vault {key} {ciphertext}"))
            }
            Wrapping::Kms(key) => Zeroizing::new(format!("kms {}", kms::Kms::from_env()?.encrypt(key, &text).await?)),
        })
    }
}

/// The keys of a text; the error says which entry is wrong, and nothing of what it holds.
fn entries(text: &str) -> Result<Vec<Entry<'_>>, String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let parts: Vec<&str> =
        lines.flat_map(|line| line.split(',')).map(str::trim).filter(|part| !part.is_empty()).collect();
    let mut entries = Vec::with_capacity(parts.len());
    for (number, part) in (1..).zip(&parts) {
        let words: Vec<&str> = part.split_whitespace().collect();
        entries.push(match words[..] {
            ["vault", key, ciphertext] => Entry::Vault { key, ciphertext },
            ["kms", blob] => Entry::Kms { blob },
            [text] => Entry::Plain(text),
            _ => {
                let forms = "BASE64, `vault MOUNT/NAME CIPHERTEXT` or `kms CIPHERTEXT`";
                return Err(format!("key {number} is of none of the forms {forms}"));
            }
        });
    }
    if entries.is_empty() { Err("holds no cluster key".to_owned()) } else { Ok(entries) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const TWO: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";

    #[test]
    fn entries_stand_in_lines_or_behind_commas() {
        let both = [Entry::Plain(TWO), Entry::Plain(ONE)];
        assert_eq!(entries(&format!("# of this year\n{TWO}   # new\n\n{ONE}\n")).unwrap(), both);
        assert_eq!(entries(&format!("{TWO},{ONE}")).unwrap(), both);
        let wrapped = entries("vault transit/mira vault:v1:abc\nkms AQID").unwrap();
        assert_eq!(
            wrapped,
            [Entry::Vault { key: "transit/mira", ciphertext: "vault:v1:abc" }, Entry::Kms { blob: "AQID" }]
        );
    }

    #[test]
    fn a_wrong_entry_is_named_and_not_shown() {
        assert_eq!(entries("# nothing\n").unwrap_err(), "holds no cluster key");
        let error = entries(&format!("{ONE}\nsecret in words")).unwrap_err();
        assert!(error.starts_with("key 2 is of none") && !error.contains("secret"), "{error}");
    }

    async fn loaded(text: &str) -> Result<Vec<String>, ProviderError> {
        use std::os::unix::fs::OpenOptionsExt;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file).unwrap();
        std::io::Write::write_all(&mut out, text.as_bytes()).unwrap();
        Ok(KeySource::File(file).load().await?.iter().map(|key| key.id().to_string()).collect())
    }

    #[tokio::test]
    async fn keys_come_in_order_and_each_once() {
        let ids = loaded(&format!("{TWO}\n{ONE}")).await.unwrap();
        assert_eq!(ids, [loaded(TWO).await.unwrap(), loaded(ONE).await.unwrap()].concat());
        assert!(loaded(&format!("{ONE}\n{ONE}")).await.unwrap_err().to_string().contains("key 2"));
        let error = loaded(&format!("{ONE}\nc2VjcmV0")).await.unwrap_err().to_string();
        assert!(error.contains("key 2: not a cluster key") && !error.contains("c2VjcmV0"), "{error}");
    }
}
