//! `mira admin shards`: every replica of every shard, and whether they hold the same.

use clap::{Args, Subcommand};
use mira_proto::model::{StatusRequest, VerifyRequest};

use crate::args::Remote;
use crate::client::Client;
use crate::error::CliError;
use crate::output;

/// List the shards with their replicas; compare what the replicas hold
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  mira admin shards
  mira admin shards verify --timeout 5m
  mira admin shards verify --shard 3 --repair")]
pub struct Shards {
    #[command(subcommand)]
    action: Option<ShardsAction>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Subcommand)]
enum ShardsAction {
    /// List the shards with their replicas
    List(#[command(flatten)] Remote),
    /// Have every replica read and digest all it holds as of one log position, and compare
    Verify {
        /// Only this shard; may be given several times
        #[arg(long = "shard", value_name = "N")]
        shards: Vec<u32>,
        /// Have a replica that differs from the majority, or cannot be read, rebuilt from the others
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        remote: Remote,
    },
}

impl Shards {
    /// Asks, and prints. A shard that is not sound makes the command fail.
    pub async fn run(self) -> Result<(), CliError> {
        match self.action {
            None => list(&self.remote).await,
            Some(ShardsAction::List(remote)) => list(&remote).await,
            Some(ShardsAction::Verify { shards, repair, remote }) => {
                let shards = (!shards.is_empty()).then_some(shards);
                let reply = Client::new(&remote)?.verify(&VerifyRequest { shards, repair }).await?;
                output::print_answer(&reply.shards, remote.json, |shards| output::verifications(shards))?;
                match reply.shards.iter().filter(|shard| shard.state != "sound").count() {
                    0 => Ok(()),
                    unsound => Err(CliError::Unsound { unsound, seen: reply.shards.len() }),
                }
            }
        }
    }
}

async fn list(remote: &Remote) -> Result<(), CliError> {
    let reply = Client::new(remote)?.status(&StatusRequest { detailed: true }).await?;
    output::print_answer(&reply.groups, remote.json, |groups| output::shards(groups))
}
