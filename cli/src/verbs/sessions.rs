//! `mira sessions`: what conversations and tasks there are.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use mira_proto::model::{DEFAULT_COLLECTION, Session, SessionsRequest};

use crate::args::{Remote, collection_name, duration};
use crate::client::Client;
use crate::error::CliError;
use crate::output;

/// Sessions that are asked for at once.
const PAGE: u32 = 500;

/// List sessions, the one that was spoken in last first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mira sessions --active 1d
  mira sessions --agent planner --collection chats --json")]
pub struct Sessions {
    /// Only those that were spoken in within this time, such as 2h or 7d: the ones that are still open
    #[arg(long, value_name = "TIME", value_parser = duration)]
    active: Option<Duration>,
    /// Only those whose newest memory has this `agent` in its metadata
    #[arg(long)]
    agent: Option<String>,
    /// The collection they are in
    #[arg(long, default_value = DEFAULT_COLLECTION, value_parser = collection_name)]
    collection: String,
    #[command(flatten)]
    remote: Remote,
}

impl Sessions {
    /// Lists them.
    pub async fn run(self) -> Result<(), CliError> {
        let client = Client::new(&self.remote)?;
        let since = self.active.map(|active| {
            let since = Timestamp::now().checked_sub(jiff::SignedDuration::try_from(active).unwrap_or_default());
            since.unwrap_or(Timestamp::UNIX_EPOCH).max(Timestamp::UNIX_EPOCH).to_string()
        });
        let mut request = SessionsRequest { agent: self.agent, active_since: since, cursor: None, limit: Some(PAGE) };
        let mut sessions: Vec<Session> = Vec::new();
        loop {
            let page = client.sessions(&self.collection, &request).await?;
            sessions.extend(page.sessions);
            match page.next_cursor {
                Some(next) => request.cursor = Some(next),
                None => break,
            }
        }
        sessions.sort_by(|a, b| (&b.last_at, &a.session).cmp(&(&a.last_at, &b.session)));
        output::print_answer(&sessions, self.remote.json, |sessions| output::sessions(sessions))
    }
}
