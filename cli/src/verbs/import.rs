//! `mira import`: files into memory.

use std::path::PathBuf;

use clap::Args;
use mira_proto::limits::MAX_BATCH_ITEMS;

use crate::args::{Remote, collection_name};
use crate::client::Client;
use crate::error::CliError;
use crate::import::checkpoint::Checkpoint;
use crate::import::pipeline::{self, Options, Summary};
use crate::import::reader::ReadOptions;
use crate::import::source::{self, Format, Skipped};
use crate::import::writer::Writer;
use crate::output;

/// Import JSON Lines, text, Markdown, and memories of other programs
///
/// Records of JSON Lines have the fields of `mira store`: content, type, session, role, metadata, vector, vectors, id,
/// expires_at, created_at, collection, private, source_key; beside them attachment names a file that `mira export` has
/// written. Markdown is split at its headings.
///
/// A file that is imported again supersedes what it had before: what changed is replaced, what is no longer in it is
/// forgotten, and what is the same is left as it is. So are files that are gone from a folder. A file that could not be read to
/// its end, or says nothing, ends nothing; nor does what comes from standard input.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mira import notes/ --collection notes
  mira import today.log --keep-old
  mira import chat.jsonl --session chat-7 --type conversation
  mira import notes.jsonl --files notes.jsonl.files
  mira import big.jsonl --state big.state --writers 16
  zcat dump.jsonl.gz | mira import - --lenient
  mira import memory.json --format mcp-memory --collection graph
  mira import mem0.json --format mem0")]
pub struct Import {
    /// Files and folders; `-` is standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// How to read them; otherwise the ending of a file's name tells
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Collection of records that name none
    #[arg(long, value_parser = collection_name)]
    collection: Option<String>,
    /// Type of records that name none
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Session of records that name none
    #[arg(long)]
    session: Option<String>,
    /// Put fields that a memory has not into its metadata instead of refusing the record
    #[arg(long)]
    lenient: bool,
    /// Where the files are that records name (otherwise beside each input, under its name with `.files` added)
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
    /// Keep what a file had before: what changed is added beside it, and what is no longer there stays
    #[arg(long)]
    keep_old: bool,
    /// Stop at the first record that is refused
    #[arg(long)]
    strict: bool,
    /// Note in this file how far each input is done, and skip that much next time
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Requests under way at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    writers: u16,
    /// Most records of a request; fewer are sent while the cluster is slow
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=MAX_BATCH_ITEMS as i64))]
    batch: u16,
    #[command(flatten)]
    remote: Remote,
}

impl Import {
    /// Imports and prints a summary.
    pub async fn run(self) -> Result<(), CliError> {
        let found = source::find(&self.paths, self.format)?;
        let checkpoint = Checkpoint::load(self.state.as_deref(), &self.target())?;
        let client = Client::new(&self.remote)?;
        let writer = Writer::new(client.clone(), self.batch.into(), self.remote.timeout).keeping_old(self.keep_old);
        let options = Options {
            read: ReadOptions {
                batch: self.batch.into(),
                collection: self.collection,
                kind: self.kind,
                session: self.session,
                lenient: self.lenient,
                files: self.files,
            },
            writers: self.writers.into(),
            strict: self.strict,
            keep_old: self.keep_old,
        };
        let (summary, ended) = pipeline::run(found, client, writer, checkpoint, options).await;
        output::print_answer(&summary, self.remote.json, render)?;
        ended?;
        match summary.refused {
            0 => Ok(()),
            refused => Err(CliError::Refused { refused, seen: summary.seen() }),
        }
    }

    /// What must be the same for the state of an earlier import to mean anything.
    fn target(&self) -> String {
        let names = [&self.collection, &self.kind, &self.session].map(|name| name.as_deref().unwrap_or_default());
        format!("{} {names:?}", self.remote.url)
    }
}

fn render(summary: &Summary) -> String {
    let some = |count: u64, what: &str| if count == 0 { String::new() } else { format!(", {what} {count}") };
    let mut text = format!(
        "added {}{}, already there {}{}{}, refused {} in {:.1} s ({:.0} documents/s)\n",
        summary.added,
        some(summary.replaced, "replaced"),
        summary.already_there,
        some(summary.repeated, "repeated in their files"),
        some(summary.ended, "ended"),
        summary.refused,
        summary.seconds,
        summary.docs_per_second
    );
    let Skipped { files, hidden, links, special } = &summary.skipped;
    if *files > 0 {
        text.push_str(&format!("skipped {files} files of other kinds; --format text takes them too\n"));
    }
    if *hidden > 0 {
        text.push_str(&format!("skipped {hidden} hidden files and folders; named themselves, they are read\n"));
    }
    if links.len() + special.len() > 0 {
        text.push_str(&format!("skipped {} links and {} special files\n", links.len(), special.len()));
    }
    text
}
