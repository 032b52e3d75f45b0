//! `mira search`: find memories by meaning.

use std::path::{Path, PathBuf};

use clap::Args;
use mira_proto::model::{Filter, Recency, SearchRequest};

use crate::args::{Freshness, Remote};
use crate::client::Client;
use crate::error::CliError;
use crate::output;

/// Find memories by meaning
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mira search \"where is the deploy key?\"
  mira search -k 3 --collection manuals \"recover deleted files\" --json
  mira search \"open questions\" --filter '{\"field\": \"metadata.project\", \"eq\": \"atlas\"}'
  mira search --vector embedding.json --exact")]
pub struct Search {
    /// What to look for, in words
    #[arg(required_unless_present = "vector")]
    query: Option<String>,
    /// How many hits at most
    #[arg(short, long, default_value_t = 10)]
    k: u32,
    /// The collection to look in
    #[arg(long)]
    collection: Option<String>,
    /// A file with an embedding of your own, as a JSON array of numbers (`-`: standard input), instead of words
    #[arg(long, value_name = "FILE", conflicts_with = "query")]
    vector: Option<PathBuf>,
    /// Compare with every vector instead of walking the index: slower, never misses
    #[arg(long)]
    exact: bool,
    /// Only memories that this filter means, as JSON: fields type, session, role, created_at and metadata.NAME
    #[arg(long, value_name = "JSON", value_parser = parse_filter)]
    filter: Option<Filter>,
    /// Say how the answer came about: plan, candidates and times of each shard
    #[arg(long)]
    explain: bool,
    /// Only hits of at least this score
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    min_score: Option<f32>,
    /// Go on where the last page of the same search ended
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    /// The best of each value of this field: session, type, role or metadata.NAME
    #[arg(long, value_name = "FIELD")]
    group_by: Option<String>,
    /// Hits of each group
    #[arg(long, value_name = "COUNT", requires = "group_by")]
    group_size: Option<u32>,
    /// Prefer hits that differ from those before them, 0 to 1
    #[arg(long, value_name = "PART")]
    diversity: Option<f32>,
    /// Rank newer memories higher: a memory of this age (such as 7d) gets half of what a new one gets
    #[arg(long, value_name = "HALF_LIFE", value_parser = crate::args::duration)]
    recency: Option<std::time::Duration>,
    /// Fail instead of leaving out what a shard could not answer
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    freshness: Freshness,
    /// Only memories made at or after this RFC 3339 time
    #[arg(long, value_name = "TIME")]
    created_from: Option<String>,
    /// Only memories made before this RFC 3339 time
    #[arg(long, value_name = "TIME")]
    created_to: Option<String>,
    /// Also look among your private memories; needs your key
    #[arg(long)]
    include_private: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Search {
    /// Searches and prints the hits.
    pub async fn run(self) -> Result<(), CliError> {
        let vector = self.vector.as_deref().map(read_vector).transpose()?;
        let request = SearchRequest {
            query: self.query,
            vector,
            k: Some(self.k),
            collection: self.collection,
            consistency: self.freshness.consistency(),
            created_from: self.created_from,
            created_to: self.created_to,
            strict: self.strict,
            exact: self.exact,
            filter: self.filter,
            explain: self.explain,
            min_score: self.min_score,
            cursor: self.cursor,
            group_by: self.group_by,
            group_size: self.group_size,
            diversity: self.diversity,
            recency: self
                .recency
                .map(|half_life| Recency { half_life_seconds: half_life.as_secs().max(1), weight: None }),
            include_private: self.include_private,
            ..SearchRequest::default()
        };
        let reply =
            Client::new(&self.remote)?.having_seen(self.freshness.at_least.as_deref())?.search(&request).await?;
        output::print_answer(&reply, self.remote.json, output::hits)
    }
}

/// A filter from the command line; what is wrong with its meaning the router says.
pub fn parse_filter(json: &str) -> Result<Filter, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

fn read_vector(file: &Path) -> Result<Vec<f32>, CliError> {
    let text = match file.as_os_str() == "-" {
        true => std::io::read_to_string(std::io::stdin()).map_err(CliError::io("standard input"))?,
        false => std::fs::read_to_string(file).map_err(CliError::io(file))?,
    };
    serde_json::from_str(&text).map_err(|error| CliError::BadFile {
        path: file.into(),
        detail: format!("not a JSON array of numbers: {error}"),
    })
}
