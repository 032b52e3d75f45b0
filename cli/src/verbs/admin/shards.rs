//! `mira admin shards`: every replica of every shard.

use clap::Args;
use mira_proto::model::StatusRequest;

use crate::args::Remote;
use crate::client::Client;
use crate::error::CliError;
use crate::output;

/// List the shards with their replicas
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mira admin shards\n  mira admin shards --json")]
pub struct Shards {
    #[command(flatten)]
    remote: Remote,
}

impl Shards {
    /// Asks, and prints.
    pub async fn run(self) -> Result<(), CliError> {
        let reply = Client::new(&self.remote)?.status(&StatusRequest { detailed: true }).await?;
        output::print_answer(&reply.groups, self.remote.json, |groups| output::shards(groups))
    }
}
