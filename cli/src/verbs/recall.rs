//! `mira recall`: memories by id, or a session in order.

use std::path::PathBuf;

use clap::Args;
use console::style;
use mira_proto::model::{DEFAULT_COLLECTION, RecallReply, RecallRequest};
use uuid::Uuid;

use crate::args::{Freshness, Remote, collection_name};
use crate::client::Client;
use crate::error::CliError;
use crate::output;
use crate::transfer::{self, MemoryPlace};

/// Read memories by id, or a session in order
#[derive(Debug, Args)]
#[command(
    disable_version_flag = true,
    after_help = "\
Examples:
  mira recall 0198c1f2-7c1a-7bb0-9d3e-0d4b6f1f8a11
  mira recall 0198c1f2-7c1a-7bb0-9d3e-0d4b6f1f8a11 --output minutes.pdf
  mira recall 0198c1f2-7c1a-7bb0-9d3e-0d4b6f1f8a11 --version 2
  mira recall 0198c1f2-7c1a-7bb0-9d3e-0d4b6f1f8a11 --known-at 2026-11-01T00:00:00Z
  mira recall --session release-7
  mira recall --session release-7 --last 5 --json"
)]
pub struct Recall {
    /// Ids of memories
    #[arg(required_unless_present = "session", value_name = "ID")]
    ids: Vec<Uuid>,
    /// This version of the one memory, current or past
    #[arg(long, value_name = "N", conflicts_with_all = ["session", "known_at", "output"])]
    version: Option<u64>,
    /// What was known at this RFC 3339 time
    #[arg(long, value_name = "TIME", conflicts_with_all = ["session", "output"])]
    known_at: Option<String>,
    /// The memories of this session, oldest first
    #[arg(long, conflicts_with = "ids")]
    session: Option<String>,
    /// Only the newest N of the session
    #[arg(long, value_name = "N", requires = "session")]
    last: Option<u32>,
    /// Only the oldest N of the session
    #[arg(long, value_name = "N", requires = "session", conflicts_with = "last")]
    limit: Option<u32>,
    /// Only those made at or after this RFC 3339 time
    #[arg(long, value_name = "TIME", requires = "session")]
    created_from: Option<String>,
    /// Only those made before this RFC 3339 time
    #[arg(long, value_name = "TIME", requires = "session")]
    created_to: Option<String>,
    /// Go on where an answer was cut: what it named, with the same request
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    /// Write the content of the one memory to this file, whatever it is and however large
    #[arg(long, value_name = "PATH", conflicts_with = "session")]
    output: Option<PathBuf>,
    /// The collection they are in
    #[arg(long, value_parser = collection_name)]
    collection: Option<String>,
    #[command(flatten)]
    freshness: Freshness,
    #[command(flatten)]
    remote: Remote,
}

impl Recall {
    /// Recalls and prints the frames.
    pub async fn run(self) -> Result<(), CliError> {
        if let Some(path) = &self.output {
            let [id] = self.ids[..] else {
                return Err(CliError::Usage("--output takes one memory's content: name one id".into()));
            };
            let client = Client::new(&self.remote)?.having_seen(self.freshness.at_least.as_deref())?;
            let collection = self.collection.as_deref().unwrap_or(DEFAULT_COLLECTION);
            let bytes = transfer::download(&client, MemoryPlace { collection, id }, path).await?;
            let answer = serde_json::json!({ "id": id, "path": path, "bytes": bytes });
            let render = |_: &serde_json::Value| format!("{bytes} bytes in {}\n", path.display());
            return output::print_answer(&answer, self.remote.json, render);
        }
        let request = RecallRequest {
            // A single unknown id is a `not_found` problem, which is what a person who names one wants to hear.
            id: if let [id] = self.ids[..] { Some(id) } else { None },
            ids: (self.ids.len() > 1).then(|| self.ids.clone()),
            version: self.version,
            known_at: self.known_at,
            session: self.session,
            created_from: self.created_from,
            created_to: self.created_to,
            limit: self.last.or(self.limit),
            last: self.last.is_some(),
            cursor: self.cursor,
            collection: self.collection,
            consistency: self.freshness.consistency(),
        };
        let reply =
            Client::new(&self.remote)?.having_seen(self.freshness.at_least.as_deref())?.recall(&request).await?;
        output::print_answer(&reply, self.remote.json, render)
    }
}

fn render(reply: &RecallReply) -> String {
    let mut text = output::frames(&reply.frames);
    if reply.frames.is_empty() {
        text.push_str("nothing there\n");
    }
    for id in &reply.missing {
        text.push_str(&format!("{} {id}\n", style("not found:").yellow()));
    }
    text.push_str(&output::more(reply.next_cursor.as_deref()));
    text.push_str(&output::staleness(reply.staleness_ms, reply.lagging));
    text
}
