//! A Chroma server (`chroma run` of PyPI's chromadb), asked over its HTTP API by the same program that asks MIRA, on
//! connections that stay open: no Python stands between it and the load.
//!
//! The package is installed once per machine, into a virtual environment in the cache folder. The server reads the beam of
//! a collection's graph (`ef_search`) only when it opens the graph, so that another beam needs a restart.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mira_benches::BenchError;
use mira_benches::input::cache_folder;
use mira_benches::machine::Usage;
use mira_benches::rest::{answer, http_client};
use mira_proto::Problem;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::sleep;

const REQUIREMENTS: &str = include_str!("requirements-chroma.txt");
const READY_WITHIN: Duration = Duration::from_secs(120);
const PORT: u16 = 8000;
const COLLECTIONS: &str = "api/v2/tenants/default_tenant/databases/default_database/collections";

/// A running server and its one collection.
pub struct Chroma {
    program: PathBuf,
    folder: PathBuf,
    host: String,
    process: Option<Child>,
    http: reqwest::Client,
    collection: String,
}

impl Drop for Chroma {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One connection. A clone shares it.
#[derive(Clone)]
pub struct ChromaCaller {
    http: reqwest::Client,
    collection: String,
}

/// What a query found: one list for each of its vectors.
#[derive(Deserialize)]
struct Found {
    ids: Vec<Vec<String>>,
    documents: Vec<Vec<Option<String>>>,
}

/// Installs the package where it is not yet; the path of its program.
///
/// # Errors
/// Why it could not be installed, in words.
pub fn install() -> Result<PathBuf, String> {
    let folder = cache_folder().join(REQUIREMENTS.trim().replace("==", "-"));
    let (program, whole) = (folder.join("bin/chroma"), folder.join("whole"));
    if whole.exists() {
        return Ok(program);
    }
    eprintln!("installing {} (once per machine)", REQUIREMENTS.trim());
    // What an interrupted installation has left.
    let _ = fs::remove_dir_all(&folder);
    let python = std::env::var_os("MIRA_PYTHON").unwrap_or_else(|| "python3".into());
    succeed(Command::new(python).args(["-m", "venv"]).arg(&folder))?;
    let mut pip = Command::new(folder.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]);
    succeed(pip.args(REQUIREMENTS.split_whitespace()))?;
    fs::write(&whole, REQUIREMENTS).map_err(|error| format!("{}: {error}", whole.display()))?;
    Ok(program)
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

impl Chroma {
    /// Starts a server with an empty collection, whose graph is as MIRA's: cosine, m = 16, ef_construction = 128.
    pub async fn start(program: PathBuf, folder: &Path) -> Result<Chroma, BenchError> {
        fs::create_dir_all(folder).map_err(BenchError::io(folder))?;
        let (a, b) = (rand::random_range(1..=254u8), rand::random_range(1..=254u8));
        let host = format!("127.{a}.{b}.1");
        let http = http_client(&format!("http://{host}")).map_err(BenchError::refused("chroma"))?;
        let (folder, collection) = (folder.to_owned(), String::new());
        let mut chroma = Chroma { program, folder, host, process: None, http, collection };
        chroma.spawn().await?;
        let url = format!("http://{}:{PORT}/{COLLECTIONS}", chroma.host);
        let hnsw = json!({ "space": "cosine", "max_neighbors": 16, "ef_construction": 128 });
        let wanted = json!({ "name": "documents", "configuration": { "hnsw": hnsw } });
        let made: Value = answer(chroma.http.post(&url).json(&wanted)).await.map_err(BenchError::refused("chroma"))?;
        let id = made["id"].as_str().ok_or_else(|| BenchError::Wrong(format!("chroma made {made}")))?;
        chroma.collection = format!("{url}/{id}");
        Ok(chroma)
    }

    async fn spawn(&mut self) -> Result<(), BenchError> {
        let log = self.folder.join("chroma.log");
        let log = File::options().create(true).append(true).open(&log).map_err(BenchError::io(&log))?;
        let mut command = Command::new(&self.program);
        command
            .args(["run", "--path"])
            .arg(self.folder.join("data"))
            .args(["--host", &self.host, "--port", &PORT.to_string()])
            .env("ANONYMIZED_TELEMETRY", "False")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(BenchError::io(&self.folder))?)
            .stderr(log);
        self.process = Some(command.spawn().map_err(BenchError::io(&self.program))?);
        let url = format!("http://{}:{PORT}/api/v2/heartbeat", self.host);
        let started = Instant::now();
        while answer::<Value>(self.http.get(&url)).await.is_err() {
            if started.elapsed() > READY_WITHIN {
                let said = fs::read_to_string(self.folder.join("chroma.log")).unwrap_or_default();
                return Err(BenchError::Late(format!("chroma is not ready; it said: {said}")));
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Sets the beam of searches and starts the server again, so that it is used.
    pub async fn set_ef(&mut self, ef: u32) -> Result<(), BenchError> {
        let wanted = json!({ "new_configuration": { "hnsw": { "ef_search": ef } } });
        let set: Result<Value, Problem> = answer(self.http.put(&self.collection).json(&wanted)).await;
        set.map_err(BenchError::refused("chroma's ef_search"))?;
        self.kill();
        self.spawn().await
    }

    /// Connections.
    pub fn callers(&self, count: usize) -> Result<Vec<ChromaCaller>, BenchError> {
        let caller = |_| Ok(ChromaCaller { http: http_client(&self.collection)?, collection: self.collection.clone() });
        (0..count).map(caller).collect::<Result<_, Problem>>().map_err(BenchError::refused("chroma"))
    }

    /// Its process, if it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Its resident memory, bytes.
    pub fn resident_bytes(&self) -> Result<f64, BenchError> {
        let process = self.process.as_ref().ok_or_else(|| BenchError::Wrong("chroma does not run".to_owned()))?;
        Ok(Usage::of(process.id())?.resident_bytes as f64)
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself; waiting reaps it either way.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl ChromaCaller {
    /// Adds documents with their vectors.
    pub async fn add(&self, ids: Vec<String>, vectors: Vec<&[f32]>, texts: Vec<&str>) -> Result<(), Problem> {
        let body = json!({ "ids": ids, "embeddings": vectors, "documents": texts });
        answer::<Value>(self.http.post(format!("{}/add", self.collection)).json(&body)).await.map(drop)
    }

    /// Ids of the `k` nearest of a vector; their documents come along, as MIRA's contents do.
    pub async fn search(&self, vector: &[f32], k: usize) -> Result<Vec<String>, Problem> {
        let body = json!({ "query_embeddings": [vector], "n_results": k, "include": ["documents", "distances"] });
        let found: Found = answer(self.http.post(format!("{}/query", self.collection)).json(&body)).await?;
        let documents = found.documents.first().map_or(0, Vec::len);
        match found.ids.into_iter().next() {
            Some(ids) if ids.len() == documents => Ok(ids),
            ids => Err(Problem::internal(format!("{documents} documents of {ids:?}"))),
        }
    }
}
