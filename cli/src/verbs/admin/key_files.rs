//! `mira admin keys new|wrap|show`: the files that nodes have their cluster keys in.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use mira_crypto::ClusterKey;
use mira_node::{KeyProvider, ProviderError};
use zeroize::Zeroizing;

use crate::error::CliError;
use crate::output;
use crate::server::keys::{KeySource, Wrapping};
use crate::server::secrets;

/// What is done with a file of cluster keys.
#[derive(Debug, Subcommand)]
pub enum KeyFileAction {
    /// Make a new cluster key and put it first into a node's file, before those that are there
    New(InFile),
    /// Wrap every cluster key in a file again: by another key service, or by a newer version of its key
    Wrap(InFile),
    /// Show which cluster keys a file holds, by name; asks the key service, if one has wrapped them
    Show {
        /// The file
        file: PathBuf,
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
    },
}

/// A file with cluster keys (`mira node --cluster-key-file`). Vault is reached by VAULT_ADDR and VAULT_TOKEN, KMS by
/// AWS_REGION and AWS credentials (AWS_ENDPOINT_URL_KMS for another endpoint); nodes need the same variables then.
#[derive(Debug, Args)]
pub struct InFile {
    /// The file
    file: PathBuf,
    /// Keep the key wrapped by this key of HashiCorp Vault's transit engine
    #[arg(long, value_name = "MOUNT/NAME", conflicts_with = "kms")]
    vault: Option<String>,
    /// Keep the key wrapped by this key of AWS KMS, or of a service that speaks its protocol
    #[arg(long, value_name = "ID")]
    kms: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

impl KeyFileAction {
    /// Does it, and prints the names of the keys.
    pub async fn run(self) -> Result<(), CliError> {
        match self {
            KeyFileAction::New(into) => into.new_key().await,
            KeyFileAction::Wrap(again) => again.wrap_all().await,
            KeyFileAction::Show { file, json } => shown(&held(&file).await?, json),
        }
    }
}

impl InFile {
    async fn new_key(self) -> Result<(), CliError> {
        let key = ClusterKey::generate(&mut mira_crypto::os_rng());
        let before = if self.file.exists() { Zeroizing::new(secrets::read(&self.file)?) } else { Zeroizing::default() };
        let entry = self.wrapping().wrap(&key).await.map_err(unwrapped)?;
        secrets::write(&self.file, Zeroizing::new(format!("{}\n{}", *entry, before.trim_end())).trim_end())?;
        shown(&[key], self.json)
    }

    async fn wrap_all(self) -> Result<(), CliError> {
        let (keys, wrapping) = (held(&self.file).await?, self.wrapping());
        let mut entries = Zeroizing::new(String::new());
        for key in &keys {
            entries.push_str(&wrapping.wrap(key).await.map_err(unwrapped)?);
            entries.push('\n');
        }
        secrets::write(&self.file, entries.trim_end())?;
        shown(&keys, self.json)
    }

    fn wrapping(&self) -> Wrapping {
        match (&self.vault, &self.kms) {
            (Some(key), _) => Wrapping::Vault(key.clone()),
            (_, Some(key)) => Wrapping::Kms(key.clone()),
            (None, None) => Wrapping::Plain,
        }
    }
}

async fn held(file: &Path) -> Result<Vec<ClusterKey>, CliError> {
    KeySource::File(file.to_owned()).load().await.map_err(unwrapped)
}

fn unwrapped(error: ProviderError) -> CliError {
    CliError::Start(error.to_string())
}

/// Ids, the sealing one first; never a key.
fn shown(keys: &[ClusterKey], json: bool) -> Result<(), CliError> {
    let ids: Vec<String> = keys.iter().map(|key| key.id().to_string()).collect();
    output::print_answer(&ids, json, |ids| ids.iter().map(|id| format!("{id}\n")).collect())
}
