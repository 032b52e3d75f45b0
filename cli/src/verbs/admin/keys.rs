//! `mira admin keys`: which keys there are, and others in their place. Never a key itself.

use std::time::Duration;

use clap::{Args, Subcommand};
use mira_proto::model::{RotateReply, RotateRequest};

#[cfg(feature = "server")]
use super::key_files::KeyFileAction;
use crate::args::{Remote, collection_name};
use crate::client::Client;
use crate::error::CliError;
use crate::output;
#[cfg(not(feature = "server"))]
use crate::verbs::absent::Absent;

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
    action: Option<KeysAction>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Subcommand)]
enum KeysAction {
    /// List the keys by name and version
    List(#[command(flatten)] Remote),
    /// Put another key in the place of one in use, and destroy that one when nothing needs it any more
    Rotate(Rotate),
    #[cfg(feature = "server")]
    #[command(flatten)]
    InFile(KeyFileAction),
    #[cfg(not(feature = "server"))]
    #[command(hide = true)]
    New(Absent),
    #[cfg(not(feature = "server"))]
    #[command(hide = true)]
    Wrap(Absent),
    #[cfg(not(feature = "server"))]
    #[command(hide = true)]
    Show(Absent),
}

/// The new cluster key must be on every node before: as the first in its file, with the one in use behind it. A
/// collection's key is made by the cluster. Given again, the command goes on watching.
#[derive(Debug, Args)]
#[group(id = "whose", required = true, multiple = false, args = ["collection", "cluster"])]
struct Rotate {
    /// Rotate this collection's key: new memories at once, those that are there in the background
    #[arg(long, value_name = "NAME", value_parser = collection_name)]
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
            Some(KeysAction::List(remote)) => list(&remote).await,
            Some(KeysAction::Rotate(rotate)) => rotate.run().await,
            #[cfg(feature = "server")]
            Some(KeysAction::InFile(action)) => action.run().await,
            #[cfg(not(feature = "server"))]
            Some(KeysAction::New(absent)) => absent.refuse("admin keys new", "server"),
            #[cfg(not(feature = "server"))]
            Some(KeysAction::Wrap(absent)) => absent.refuse("admin keys wrap", "server"),
            #[cfg(not(feature = "server"))]
            Some(KeysAction::Show(absent)) => absent.refuse("admin keys show", "server"),
        }
    }
}

async fn list(remote: &Remote) -> Result<(), CliError> {
    let reply = Client::new(remote)?.keys().await?;
    output::print_answer(&reply, remote.json, output::keys)
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
            output::say(&line);
            told = line;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bar.finish_and_clear();
    Ok(())
}
