//! `mira echo`: has the cluster say something back.

use clap::Args;
use mira_proto::model::EchoRequest;

use crate::args::Remote;
use crate::client::Client;
use crate::error::CliError;
use crate::output;

/// Have something said back
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mira echo hello")]
pub struct Echo {
    /// What to say
    text: String,
    #[command(flatten)]
    remote: Remote,
}

impl Echo {
    /// Asks and prints.
    pub async fn run(self) -> Result<(), CliError> {
        let reply = Client::new(&self.remote)?.echo(&EchoRequest { text: self.text }).await?;
        output::print_answer(&reply, self.remote.json, |reply| format!("{}\n", reply.text))
    }
}
