//! `mira admin keys`: which keys there are, and others in their place. Never a key itself.

#[cfg(feature = "server")]
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
#[cfg(feature = "server")]
use mira_crypto::ClusterKey;
#[cfg(feature = "server")]
use mira_node::{KeyProvider, ProviderError};
use mira_proto::model::{RotateReply, RotateRequest};
#[cfg(feature = "server")]
use zeroize::Zeroizing;

use crate::args::Remote;
use crate::client::Client;
use crate::error::CliError;
use crate::output;
#[cfg(feature = "server")]
use crate::server::{
    keys::{KeySource, Wrapping},
    secrets,
};

/// Between two looks at a rotation.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// List the keys by name; put others in their place
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  mira admin keys
  mira admin keys rotate --collection notes
  mira admin keys new cluster.key && mira admin keys rotate --cluster
  mira admin keys wrap cluster.key --vault transit/mira")]
pub struct Keys {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the keys by name and version
    List(#[command(flatten)] Remote),
    /// Put another key in the place of one in use, and destroy that one when nothing needs it any more
    Rotate(Rotate),
    /// Make a new cluster key and put it first into a node's file, before those that are there
    #[cfg(feature = "server")]
    New(InFile),
    /// Wrap every cluster key in a file anew: by another key service, or by a newer version of its key
    #[cfg(feature = "server")]
    Wrap(InFile),
    /// Show which cluster keys a file holds, by name; asks the key service, if one has wrapped them
    #[cfg(feature = "server")]
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
#[cfg(feature = "server")]
#[derive(Debug, Args)]
struct InFile {
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

/// The new cluster key must be on every node before: as the first in its file, with the one in use behind it. A
/// collection's key is made by the cluster. Given again, the command goes on watching.
#[derive(Debug, Args)]
#[group(id = "whose", required = true, multiple = false, args = ["collection", "cluster"])]
struct Rotate {
    /// Rotate this collection's key: new memories at once, those that are there in the background
    #[arg(long, value_name = "NAME")]
    collection: Option<String>,
    /// Rotate the cluster key
    #[arg(long)]
    cluster: bool,
    /// Do not wait until stored memories are sealed with the new key
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Keys {
    /// Asks or changes, and prints.
    pub async fn run(self) -> Result<(), CliError> {
        match self.action {
            None => list(&self.remote).await,
            Some(Action::List(remote)) => list(&remote).await,
            Some(Action::Rotate(rotate)) => rotate.run().await,
            #[cfg(feature = "server")]
            Some(Action::New(into)) => into.new_key().await,
            #[cfg(feature = "server")]
            Some(Action::Wrap(again)) => again.wrap_all().await,
            #[cfg(feature = "server")]
            Some(Action::Show { file, json }) => shown(&held(&file).await?, json),
        }
    }
}

async fn list(remote: &Remote) -> Result<(), CliError> {
    let reply = Client::new(remote)?.keys().await?;
    output::print_answer(&reply, remote.json, output::keys)
}

#[cfg(feature = "server")]
impl InFile {
    async fn new_key(self) -> Result<(), CliError> {
        let key = ClusterKey::generate(&mut mira_crypto::os_rng());
        let before = match self.file.exists() {
            true => Zeroizing::new(secrets::read(&self.file)?),
            false => Zeroizing::default(),
        };
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

#[cfg(feature = "server")]
async fn held(file: &Path) -> Result<Vec<ClusterKey>, CliError> {
    KeySource::File(file.to_owned()).load().await.map_err(unwrapped)
}

#[cfg(feature = "server")]
fn unwrapped(error: ProviderError) -> CliError {
    CliError::Start(error.to_string())
}

/// Ids, the sealing one first; never a key.
#[cfg(feature = "server")]
fn shown(keys: &[ClusterKey], json: bool) -> Result<(), CliError> {
    let ids: Vec<String> = keys.iter().map(|key| key.id().to_string()).collect();
    output::print_answer(&ids, json, |ids| ids.iter().map(|id| format!("{id}\n")).collect())
}

impl Rotate {
    async fn run(self) -> Result<(), CliError> {
        let client = Client::new(&self.remote)?;
        let reply = client.rotate_key(&RotateRequest { collection: self.collection.clone() }).await?;
        if let Some(name) = self.collection.as_ref().filter(|_| !self.no_wait) {
            watch(&client, name).await?;
        }
        output::print_answer(&reply, self.remote.json, |reply| self.summary(reply))
    }

    fn summary(&self, RotateReply { id, to }: &RotateReply) -> String {
        let end = format!("mira admin shred-status {id} shows the end of the one before");
        match (&self.collection, self.no_wait) {
            (None, _) => format!("the cluster seals with {to}; {end}\n"),
            (Some(name), true) => format!("{name} goes over to version {to} of its key; {end}\n"),
            (Some(name), false) => format!("{name} is sealed with version {to} of its key; {end}\n"),
        }
    }
}

/// Shows how far a rotation is until the key before it is destroyed.
async fn watch(client: &Client, name: &str) -> Result<(), CliError> {
    let plain = !console::user_attended_stderr();
    let bar = output::bar(None, "[{bar:30}] {pos} of {len}, {elapsed}  {msg}");
    let mut told = String::new();
    while let Some(rotation) = client.collection(name).await?.rotation {
        bar.set_length(rotation.of.into());
        bar.set_position(rotation.done.into());
        bar.set_message(rotation.step.clone());
        let line = format!("{}: {} of {} done", rotation.step, rotation.done, rotation.of);
        if plain && line != told {
            eprintln!("{line}");
            told = line;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bar.finish_and_clear();
    Ok(())
}
