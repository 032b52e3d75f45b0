//! `mira restore-memory`: bring memories back from the bin.

use clap::Args;
use mira_proto::model::{ChangeAction, ChangeReply, ChangeRequest};
use uuid::Uuid;

use crate::args::{Remote, collection_name};
use crate::client::Client;
use crate::error::CliError;
use crate::output;

/// Bring memories back that were forgotten and rest in the bin
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mira restore-memory 0198c1f2-7c1a-7bb0-9d3e-0d4b6f1f8a11
  mira forget --filter '{\"field\": \"type\", \"eq\": \"draft\"}' --yes --json | jq -r '.ids[]' | xargs mira restore-memory

What was forgotten rests in the bin for the bin_days of its collection, 7 where it does not say otherwise. What comes back
is a new version of its memory. Ids that are refused are named; the others come back.")]
pub struct RestoreMemory {
    /// Ids of memories
    #[arg(value_name = "ID", required = true)]
    ids: Vec<Uuid>,
    /// The collection they are in
    #[arg(long, value_parser = collection_name)]
    collection: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

impl RestoreMemory {
    /// Brings each back, and prints what became of it; fails with the last refusal.
    pub async fn run(self) -> Result<(), CliError> {
        let client = Client::new(&self.remote)?;
        let (mut restored, mut refused) = (Vec::new(), None::<CliError>);
        for id in self.ids {
            let collection = self.collection.clone();
            let request = ChangeRequest { action: ChangeAction::Restore, id, collection };
            match client.change(&request).await {
                Ok(reply) => restored.push(reply),
                Err(error) => {
                    if let Some(earlier) = refused.replace(error) {
                        output::say(&earlier.to_string());
                    }
                }
            }
        }
        if !restored.is_empty() {
            output::print_answer(&restored, self.remote.json, |restored| restored.iter().map(line).collect())?;
        }
        refused.map_or(Ok(()), Err)
    }
}

fn line(reply: &ChangeReply) -> String {
    let ChangeReply { id, version, .. } = reply;
    if reply.unchanged {
        format!("{id} was not forgotten, version {version}\n")
    } else {
        format!("{id} version {version}\n")
    }
}
