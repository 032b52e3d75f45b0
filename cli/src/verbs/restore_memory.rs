//! `mira restore-memory`: bring memories back from the bin.

use clap::Args;
use mira_proto::model::{ChangeAction, ChangeReply, ChangeRequest, Filter};
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
  mira restore-memory --session release-7
  mira restore-memory --filter '{\"field\": \"type\", \"eq\": \"draft\"}'

What was forgotten rests in the bin for the bin_days of its collection, 7 where it does not say otherwise. What comes back
is a new version of its memory. Ids that are refused are named; the others come back.")]
#[group(id = "what", required = true, multiple = false, args = ["ids", "session", "filter", "all"])]
pub struct RestoreMemory {
    /// Ids of memories
    #[arg(value_name = "ID")]
    ids: Vec<Uuid>,
    /// Everything of this session that rests in the bin
    #[arg(long)]
    session: Option<String>,
    /// Everything in the bin that matches this filter, as JSON (see `mira search --help`)
    #[arg(long, value_name = "JSON", value_parser = super::search::parse_filter)]
    filter: Option<Filter>,
    /// Everything that rests in the bin of the collection
    #[arg(long)]
    all: bool,
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
        if self.ids.is_empty() {
            let RestoreMemory { session, filter, all, collection, .. } = self;
            let request = ChangeRequest { session, filter, all, collection, ..ChangeRequest::default() };
            return output::print_answer(&client.change(&request).await?, self.remote.json, line);
        }
        let (mut restored, mut refused) = (Vec::new(), None::<CliError>);
        for id in self.ids {
            let collection = self.collection.clone();
            let request =
                ChangeRequest { action: ChangeAction::Restore, id: Some(id), collection, ..ChangeRequest::default() };
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
    let (Some(id), Some(version)) = (reply.id, reply.version) else {
        return match reply.restored.unwrap_or_default() {
            1 => "1 memory is there again\n".to_owned(),
            count => format!("{count} memories are there again\n"),
        };
    };
    if reply.unchanged && !reply.forgotten_versions.is_empty() {
        let forgotten: Vec<String> = reply.forgotten_versions.iter().map(u64::to_string).collect();
        format!("{id} was stored again, version {version}; forgotten before: version {}\n", forgotten.join(", "))
    } else if reply.unchanged {
        format!("{id} was not forgotten, version {version}\n")
    } else {
        format!("{id} version {version}\n")
    }
}
