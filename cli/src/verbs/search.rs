//! `mira search`: find memories by meaning.

mod batch;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use mira_proto::model::{self, Filter, SearchMode, SearchRequest};
use mira_proto::vectors;

use crate::args::{Freshness, Remote, collection_name};
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
  mira search \"green tea\" \"black tea\" --combine mean
  mira search \"standup notes\" --recency 7d --recency-weight 0.4 --created-from 2026-01-01T00:00:00Z
  mira search --vector embedding.json --exact
  mira search --vector state.json --using state --collection agents
  MIRA_OWNER_KEY=$(cat ~/mira-owner.key) mira search --only-private --mode hybrid \"what I was afraid of\"
  mira search --batch questions.jsonl --collection notes --json
  printf 'deploy key\\n{\"query\": \"open questions\", \"k\": 3}\\n' | mira search --batch -")]
pub struct Search {
    /// What to look for, in words; several, each in quotes, are looked for at once
    #[arg(required_unless_present_any = ["vector", "batch"])]
    query: Vec<String>,
    /// How many hits at most [default: 10; with --min-score 1000]
    #[arg(short, long)]
    k: Option<u32>,
    /// The collection to look in
    #[arg(long, value_parser = collection_name)]
    collection: Option<String>,
    /// A file with an embedding of your own, as a JSON array of numbers, or with several in one array (`-`: standard
    /// input); may be given more than once, and beside words
    #[arg(long, value_name = "FILE")]
    vector: Vec<PathBuf>,
    /// Several searches: a file with a question in words or a search as a JSON object on each line (`-`: standard input).
    /// Other options hold for all lines that do not say otherwise. Answers come in order, with --json one a line; one that
    /// is refused does not stop the others, and then the exit code is 1
    #[arg(long, value_name = "FILE", conflicts_with_all = ["query", "vector", "combine", "cursor"])]
    batch: Option<PathBuf>,
    /// How to look
    #[arg(long, value_enum, default_value = "auto")]
    mode: Mode,
    /// Compare embeddings with the vectors of this name instead of the collection's own
    #[arg(long, value_name = "NAME", conflicts_with = "query")]
    using: Option<String>,
    /// With several queries or embeddings: what makes the score of a hit [default: max]
    #[arg(long, value_enum)]
    combine: Option<Combine>,
    /// Compare with every vector instead of walking the index: slower, never misses
    #[arg(long)]
    exact: bool,
    /// How wide a beam the index is walked with, 1 to 2048: wider finds more of the truly nearest and takes longer
    /// [default: the collection's, or one that widens by itself]
    #[arg(long, value_name = "WIDTH")]
    ef: Option<u32>,
    /// Only memories that match this filter, as JSON: fields type, session, role, created_at and metadata.NAME
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
    /// With --recency: how much of the score is age, above 0 and up to 1 [default: 0.2]
    #[arg(long, value_name = "PART", requires = "recency")]
    recency_weight: Option<f32>,
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
    /// Look among your private memories only; needs your key
    #[arg(long)]
    only_private: bool,
    #[command(flatten)]
    remote: Remote,
}

/// [`SearchMode`] with a help text for each value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// As fits the question
    Auto,
    /// By meaning: nearest vectors
    Vector,
    /// By words; among private memories only
    Text,
    /// By words and meaning; among private memories only
    Hybrid,
}

/// [`model::Combine`] with a help text for each value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Combine {
    /// The best similarity to any of them
    Max,
    /// The mean of the similarities to all of them
    Mean,
}

impl Search {
    /// Searches and prints the hits.
    pub async fn run(self) -> Result<(), CliError> {
        let request = self.request()?;
        let client = Client::new(&self.remote)?.having_seen(self.freshness.at_least.as_deref())?;
        if let Some(file) = &self.batch {
            let lines = batch::read(file, &request)?;
            return batch::run(&client, &lines, self.remote.json).await;
        }
        output::print_answer(&client.search(&request).await?, self.remote.json, output::hits)
    }

    /// What the command line says; with a batch, what holds for all of it.
    fn request(&self) -> Result<SearchRequest, CliError> {
        let mut vectors = Vec::new();
        for file in &self.vector {
            vectors.extend(read_vectors(file)?);
        }
        let recency = self.recency.map(|half_life| model::Recency {
            half_life_seconds: half_life.as_secs().max(1),
            weight: self.recency_weight,
        });
        let mut request = SearchRequest {
            k: self.k,
            collection: self.collection.clone(),
            mode: match self.mode {
                Mode::Auto => SearchMode::Auto,
                Mode::Vector => SearchMode::Vector,
                Mode::Text => SearchMode::Text,
                Mode::Hybrid => SearchMode::Hybrid,
            },
            combine: self.combine.map(|combine| match combine {
                Combine::Max => model::Combine::Max,
                Combine::Mean => model::Combine::Mean,
            }),
            consistency: self.freshness.consistency(),
            created_from: self.created_from.clone(),
            created_to: self.created_to.clone(),
            strict: self.strict,
            exact: self.exact,
            ef: self.ef,
            filter: self.filter.clone(),
            explain: self.explain,
            min_score: self.min_score,
            cursor: self.cursor.clone(),
            group_by: self.group_by.clone(),
            group_size: self.group_size,
            diversity: self.diversity,
            recency,
            include_private: self.include_private,
            only_private: self.only_private,
            using: self.using.clone(),
            ..SearchRequest::default()
        };
        match (&self.query[..], &mut vectors[..]) {
            ([], []) => {}
            ([query], []) => request.query = Some(query.clone()),
            ([], [vector]) => request.vector = Some(std::mem::take(vector)),
            (queries, _) => {
                request.queries = (!queries.is_empty()).then(|| queries.to_vec());
                request.vectors = (!vectors.is_empty()).then_some(vectors);
            }
        }
        check_numbers(&request).map_err(CliError::Usage)?;
        Ok(request)
    }
}

/// Refuses numbers that JSON has not: they would arrive as none at all.
fn check_numbers(request: &SearchRequest) -> Result<(), String> {
    for vector in request.vector.iter().chain(request.vectors.iter().flatten()) {
        vectors::check_finite(vector).map_err(|fault| format!("vector {fault}"))?;
    }
    let weight = request.recency.and_then(|recency| recency.weight);
    let numbers =
        [("min_score", request.min_score), ("diversity", request.diversity), ("the weight of recency", weight)];
    match numbers.into_iter().find(|(_, number)| number.is_some_and(|number| !number.is_finite())) {
        Some((name, _)) => Err(format!("{name} is not a finite number")),
        None => Ok(()),
    }
}

/// A filter from the command line; what is wrong with its meaning the router says.
pub fn parse_filter(json: &str) -> Result<Filter, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

/// A vector, or several in an array.
pub fn read_vectors(file: &Path) -> Result<Vec<Vec<f32>>, CliError> {
    let text = if file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin()).map_err(CliError::io("standard input"))?
    } else {
        std::fs::read_to_string(file).map_err(CliError::io(file))?
    };
    let one = serde_json::from_str::<Vec<f32>>(&text);
    let bad = |detail| CliError::BadFile { path: file.into(), detail };
    match (one, serde_json::from_str::<Vec<Vec<f32>>>(&text)) {
        (Ok(vector), _) if !vector.is_empty() => Ok(vec![vector]),
        (Err(_), Ok(vectors)) => Ok(vectors),
        (Ok(_), _) => Err(bad("there is no embedding in it".to_owned())),
        (Err(error), Err(_)) => Err(bad(format!("not a JSON array of numbers: {error}"))),
    }
}
