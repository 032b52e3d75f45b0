//! `mira store`: remember one text.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use mira_proto::limits::{MAX_CONTENT_BYTES, embedding_time};
use mira_proto::model::{
    DEFAULT_COLLECTION, Metadata, StoreItem, StoreReply, StoreRequest, UploadRequest, parse_metadata,
};
use uuid::Uuid;

use crate::args::{Remote, collection_name};
use crate::client::Client;
use crate::error::CliError;
use crate::output;
use crate::transfer::Upload;
use crate::verbs::search::read_vectors;

/// Remember a text
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mira store \"The deploy key lives in the vault under ci/deploy\"
  mira store --type insight --metadata '{\"project\": \"atlas\"}' \"Retries must be idempotent\"
  git log -1 --format=%B | mira store - --session release-7 --role tool
  mira store --collection agents --vectors state=state.json \"Rather sure of the plan by now\"
  mira store --file minutes.pdf \"Minutes of the meeting about the move to Lisbon\"
  MIRA_OWNER_KEY=$(cat ~/mira-owner.key) mira store --private \"I am not sure that this will hold\"")]
pub struct Store {
    /// The text; `-` or nothing reads it from standard input, unless there is a file
    text: Option<String>,
    /// What kind of memory it is: general (default), insight, conversation, code, thought, or a word of your own
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// The conversation or task it belongs to
    #[arg(long)]
    session: Option<String>,
    /// Who said it: user, assistant, tool, system, or a word of your own
    #[arg(long)]
    role: Option<String>,
    /// A JSON object to keep with it
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    metadata: Option<Metadata>,
    /// A file with an embedding of your own, as a JSON array of numbers; otherwise the text is embedded
    #[arg(long, value_name = "FILE")]
    vector: Option<PathBuf>,
    /// A file with the embedding of this name, one of those that the collection has; may be repeated
    #[arg(long = "vectors", value_name = "NAME=FILE", value_parser = named_file)]
    vectors: Vec<(String, PathBuf)>,
    /// The collection to put it into
    #[arg(long, value_parser = collection_name)]
    collection: Option<String>,
    /// A UUID of your own; storing the same text under it again changes nothing
    #[arg(long, group = "named")]
    id: Option<Uuid>,
    /// What names it in the source it comes from, such as a path; storing it again under this changes nothing
    #[arg(long, value_name = "KEY", group = "named")]
    source_key: Option<String>,
    /// Put a new version in place of the memory with this id or source key
    #[arg(long, requires = "named")]
    replace: bool,
    /// Store a new version only if this one is current; 0: only if the id is new
    #[arg(long, value_name = "N", requires = "named")]
    expected_version: Option<u64>,
    /// Forget it at this RFC 3339 time, such as 2030-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    /// Seal it with your key: nobody else can read or find it
    #[arg(long)]
    private: bool,
    /// Keep this file with it, up to 256 MiB, of any kind; the text, if there is one, is what it is found by
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Media type of the file; told from its name when absent
    #[arg(long, value_name = "TYPE", requires = "file")]
    content_type: Option<String>,
    /// Go on with the upload of a file that broke off
    #[arg(long, value_name = "UPLOAD", requires = "file")]
    resume: Option<Uuid>,
    #[command(flatten)]
    remote: Remote,
}

impl Store {
    /// Stores and prints the id.
    pub async fn run(self) -> Result<(), CliError> {
        let content = match (self.text, &self.file) {
            (Some(text), _) if text != "-" => Some(text),
            (None, Some(_)) => None,
            _ => Some(read_standard_input()?),
        };
        let mut vectors = BTreeMap::new();
        for (name, file) in &self.vectors {
            if vectors.insert(name.clone(), one_vector(file)?).is_some() {
                return Err(CliError::Usage(format!("--vectors names {name} twice")));
            }
        }
        let item = StoreItem {
            vector: self.vector.as_deref().map(one_vector).transpose()?,
            vectors,
            content,
            kind: self.kind,
            session: self.session,
            role: self.role,
            metadata: self.metadata,
            id: self.id,
            replace: self.replace,
            expected_version: self.expected_version,
            expires_at: self.expires_at,
            collection: self.collection,
            private: self.private,
            source_key: self.source_key,
            ..StoreItem::default()
        };
        if let Some(path) = &self.file {
            let client = Client::new(&self.remote)?;
            let collection = item.collection.as_deref().unwrap_or(DEFAULT_COLLECTION).to_owned();
            let upload = Upload { client: &client, collection: &collection, path, is_quiet: false };
            let guess = || mime_guess::from_path(path).first_or_octet_stream().to_string();
            let content_type = Some(self.content_type.clone().unwrap_or_else(guess));
            let stored = match self.resume {
                Some(begun) => upload.resume(begun).await?,
                None => upload.begin(UploadRequest { frame: item, content_type, size: None }).await?,
            };
            return output::print_answer(&stored, self.remote.json, |stored| format!("{}\n", stored.id));
        }
        let client = Client::new(&self.remote)?;
        // A long text takes its time to be embedded.
        let needed = item.content.as_ref().filter(|_| item.vector.is_none()).map_or(0, String::len);
        let client = client.within(self.remote.timeout + embedding_time(needed));
        let reply = client.store(&StoreRequest { item, items: None }).await?;
        output::print_answer(&reply, self.remote.json, render)
    }
}

fn render(reply: &StoreReply) -> String {
    let id = reply.id.map(|id| id.to_string()).unwrap_or_default();
    match reply.version {
        Some(version) if version > 1 => format!("{id} version {version}\n"),
        _ => format!("{id}\n"),
    }
}

/// `NAME=FILE`.
fn named_file(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("not of the form NAME=FILE")?;
    Ok((name.to_owned(), file.into()))
}

fn one_vector(file: &Path) -> Result<Vec<f32>, CliError> {
    let mut vectors = read_vectors(file)?;
    match vectors.len() {
        1 => Ok(vectors.remove(0)),
        count => Err(CliError::BadFile { path: file.into(), detail: format!("{count} embeddings, one is wanted") }),
    }
}

fn json_object(text: &str) -> Result<Metadata, String> {
    parse_metadata(text).map_err(|error| format!("not a JSON object to keep: {error}"))
}

/// Reads no more than one byte over the limit: the cluster says what is too large, but not after gigabytes.
fn read_standard_input() -> Result<String, CliError> {
    let mut bytes = Vec::new();
    let limit = MAX_CONTENT_BYTES as u64 + 1;
    std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(CliError::io("standard input"))?;
    if bytes.len() as u64 == limit {
        let detail = format!(
            "more than {MAX_CONTENT_BYTES} bytes, the most one memory holds; `mira import` splits longer texts"
        );
        return Err(CliError::BadFile { path: "standard input".into(), detail });
    }
    String::from_utf8(bytes).map_err(|error| CliError::BadFile {
        path: "standard input".into(),
        detail: format!("not UTF-8 from byte {} on", error.utf8_error().valid_up_to()),
    })
}
