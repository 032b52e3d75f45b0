//! `mira status`: how the cluster is.

use clap::Args;
use mira_proto::model::StatusRequest;

use crate::args::Remote;
use crate::client::Client;
use crate::error::CliError;
use crate::output;

/// Show how the cluster is
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mira status
  mira status --detailed
  mira status --json | jq -r .state")]
pub struct Status {
    /// Every shard and collection too
    #[arg(short, long)]
    detailed: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Status {
    /// Asks and prints.
    pub async fn run(self) -> Result<(), CliError> {
        let reply = Client::new(&self.remote)?.status(&StatusRequest { detailed: self.detailed }).await?;
        output::print_answer(&reply, self.remote.json, output::status)
    }
}
