//! `mira forget`: remove memories, into the bin or for good.

use std::io::{IsTerminal, Write};

use clap::Args;
use mira_proto::model::{DEFAULT_COLLECTION, Filter, ForgetReply, ForgetRequest};
use uuid::Uuid;

use crate::args::{Remote, collection_name};
use crate::client::Client;
use crate::error::CliError;
use crate::output;

/// Remove memories; they rest in the bin for a while
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mira forget 0198c1f2-7c1a-7bb0-9d3e-0d4b6f1f8a11
  mira forget --session release-7 --yes
  mira forget --filter '{\"field\": \"type\", \"eq\": \"draft\"}' --yes
  mira forget --all --collection drafts
  mira forget --session salaries --now --yes
  mira forget --session salaries --shred --yes

What is forgotten rests in the bin for the bin_days of its collection, 7 where it does not say otherwise, and
`mira restore-memory` brings it back. With --now it is gone at once, and what this means of the bin too.")]
#[group(id = "what", required = true, multiple = false, args = ["ids", "session", "filter", "all"])]
pub struct Forget {
    /// Ids of memories
    #[arg(value_name = "ID")]
    ids: Vec<Uuid>,
    /// Every memory of this session
    #[arg(long)]
    session: Option<String>,
    /// Every memory that matches this filter, as JSON (see `mira search --help`)
    #[arg(long, value_name = "JSON", value_parser = super::search::parse_filter)]
    filter: Option<Filter>,
    /// Every memory of the collection
    #[arg(long)]
    all: bool,
    /// For good at once, instead of into the bin; also what rests there of it
    #[arg(long)]
    now: bool,
    /// Destroy the key too, so that no copy in a log, a file or a backup can be read any more. With --all the collection
    /// goes with its keys; else its other memories are sealed again with another key. `mira admin shred-status` shows how far it is
    #[arg(long)]
    shred: bool,
    /// The collection they are in
    #[arg(long, value_parser = collection_name)]
    collection: Option<String>,
    /// Do not ask; needed for --session, --filter and --all where nobody can answer
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Forget {
    /// Asks, forgets and prints how many there were.
    pub async fn run(self) -> Result<(), CliError> {
        self.confirm()?;
        let request = ForgetRequest {
            id: if let [id] = self.ids[..] { Some(id) } else { None },
            ids: (self.ids.len() > 1).then(|| self.ids.clone()),
            session: self.session,
            collection: self.collection,
            all: self.all,
            filter: self.filter,
            now: self.now,
            shred: self.shred,
        };
        let reply = Client::new(&self.remote)?.forget(&request).await?;
        output::print_answer(&reply, self.remote.json, render)
    }

    /// A person is asked; a script must have said `--yes` to anything wider than ids.
    fn confirm(&self) -> Result<(), CliError> {
        let interactive = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        match (self.yes, interactive) {
            (true, _) => Ok(()),
            (false, true) => ask(&self.question()),
            (false, false) if self.ids.is_empty() => Err(CliError::Usage(
                "without a terminal to ask on, --session, --filter and --all need --yes".to_owned(),
            )),
            (false, false) => Ok(()),
        }
    }

    fn question(&self) -> String {
        let collection = self.collection.as_deref().unwrap_or(DEFAULT_COLLECTION);
        match (&self.session, self.ids.len()) {
            (Some(session), _) => format!("Forget every memory of session {session} in collection {collection}?"),
            (None, 0) if self.filter.is_some() => {
                format!("Forget every memory in collection {collection} that the filter means?")
            }
            (None, 0) => format!("Forget every memory in collection {collection}?"),
            (None, 1) => "Forget this memory?".to_owned(),
            (None, count) => format!("Forget these {count} memories?"),
        }
    }
}

fn ask(question: &str) -> Result<(), CliError> {
    let mut answer = String::new();
    let mut terminal = std::io::stderr();
    write!(terminal, "{question} [y/N] ").and_then(|()| terminal.flush()).map_err(CliError::io("the terminal"))?;
    std::io::stdin().read_line(&mut answer).map_err(CliError::io("the terminal"))?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(CliError::Stopped("nothing was forgotten".to_owned())),
    }
}

fn render(reply: &ForgetReply) -> String {
    let private = reply
        .private_left
        .map(|count| format!("private memories that stay, whose owner's key was not sent: {count}\n"));
    [forgotten(reply), private.unwrap_or_default()].concat()
}

fn forgotten(reply: &ForgetReply) -> String {
    let noun = if reply.removed == 1 { "memory" } else { "memories" };
    match (reply.removed, reply.shred) {
        (0, Some(id)) => format!("shredding: mira admin shred-status {id} shows when nothing is left of the key\n"),
        (count, Some(id)) => format!(
            "forgot {count} {noun}; shredding: mira admin shred-status {id} shows when nothing is left of the key\n"
        ),
        (count, None) => match reply.restorable_until.as_ref().filter(|_| count > 0) {
            Some(until) => {
                let what = if count == 1 { "it" } else { "them" };
                format!("forgot {count} {noun}; until {until} mira restore-memory brings {what} back\n")
            }
            None => format!("forgot {count} {noun}\n"),
        },
    }
}
