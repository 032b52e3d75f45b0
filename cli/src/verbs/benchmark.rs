//! `mira benchmark`: how fast a cluster is, beside the goals of the specification.
//!
//! The load comes from this machine, so a cluster on it shares its processors with its callers. What is measured goes
//! into collections of its own, which are removed at the end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use mira_benches::caller::Target;
use mira_benches::input::Input;
use mira_benches::load::Limit;
use mira_benches::machine::{self, Machine};
use mira_benches::page;
use mira_benches::report::{Figure, Report};
use mira_benches::suite::{self, Bench, Scale};
use mira_proto::limits::MAX_DIM;

use crate::args::{Remote, duration};
use crate::client::find_token;
use crate::error::CliError;
use crate::output;

/// Probes of the disk.
const PROBES: u32 = 200;
/// Components of a state vector.
const STATE_DIM: usize = 1_536;
/// Components of a text's vector.
const TEXT_DIM: usize = 384;

/// Measure a cluster, beside the goals it is judged by
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mira benchmark vidmem --operations 1000
  mira benchmark chromadb --vector-type semantic --dataset-size 50000
  mira benchmark faiss --query-complexity simple --vector-dims 384,1536
  mira benchmark mcp --concurrent-users 20 --duration 60s --report-json mcp.json
  mira benchmark report --output performance_report.html *.json")]
pub struct Benchmark {
    #[command(subcommand)]
    what: Measurement,
}

#[derive(Debug, Subcommand)]
enum Measurement {
    /// The frame store: frames of 1 KiB stored and recalled, beside this disk's fdatasync
    Vidmem {
        /// Stores and recalls of each load
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
        operations: u64,
        #[command(flatten)]
        common: Common,
    },
    /// Searches by meaning, and how right they are
    Chromadb {
        /// What is searched
        #[arg(long, value_enum, default_value_t = VectorType::Semantic)]
        vector_type: VectorType,
        #[command(flatten)]
        sizes: Sizes,
        #[command(flatten)]
        common: Common,
    },
    /// The fast path: searches with a vector given and no filter
    Faiss {
        /// What is asked
        #[arg(long, value_enum, default_value_t = Complexity::Simple)]
        query_complexity: Complexity,
        #[command(flatten)]
        sizes: Sizes,
        #[command(flatten)]
        common: Common,
    },
    /// Agents over MCP that search, store and ask for the status
    Mcp {
        /// Agents at once
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
        concurrent_users: u16,
        /// How long
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
        duration: Duration,
        #[command(flatten)]
        common: Common,
    },
    /// All of them, some minutes
    All {
        #[command(flatten)]
        sizes: Sizes,
        #[command(flatten)]
        common: Common,
    },
    /// One page with plots, from the JSON of earlier runs
    Report {
        /// Where the page goes
        #[arg(long, value_name = "FILE", default_value = "performance_report.html")]
        output: PathBuf,
        /// What `--report-json` wrote
        #[arg(required = true, value_name = "JSON")]
        reports: Vec<PathBuf>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum VectorType {
    /// Texts of this machine, with 384-d vectors
    Semantic,
    /// 1536-d state vectors, made up
    Consciousness,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Complexity {
    /// The ten nearest of a collection
    Simple,
}

#[derive(Debug, Clone, Args)]
struct Sizes {
    /// Documents that are searched
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = documents)]
    dataset_size: usize,
    /// Searches of each load; without it, loads of six seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    iterations: Option<u64>,
    /// Measure with vectors of these components, one after the other: 384 are those of texts, others are made up
    #[arg(long, value_name = "DIM", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_DIM)))]
    vector_dims: Vec<u16>,
}

#[derive(Debug, Args)]
struct Common {
    /// The router's gRPC [default: the port above that of --url]
    #[arg(long, env = "MIRA_GRPC_URL", hide_env_values = true, value_name = "URL")]
    grpc: Option<String>,
    /// Write the figures to a file as well, as JSON; one that was made here in the same way is continued
    #[arg(long, value_name = "FILE")]
    report_json: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
}

fn documents(text: &str) -> Result<usize, String> {
    match text.replace('_', "").parse() {
        Ok(count) if (100..=10_000_000).contains(&count) => Ok(count),
        _ => Err("a number from 100 to 10000000".to_owned()),
    }
}

/// One measurement: how it is made, its name in reports, what it needs.
struct Run {
    kind: &'static str,
    name: String,
    scale: Scale,
    input: Input,
}

impl Benchmark {
    /// Measures and prints.
    pub async fn run(self) -> Result<(), CliError> {
        let (runs, common) = match self.what {
            Measurement::Report { output, reports } => return write_page(&output, &reports),
            Measurement::Vidmem { operations, common } => (vec![vidmem(Limit::Operations(operations))], common),
            Measurement::Chromadb { vector_type, sizes, common } => {
                let input = match vector_type {
                    VectorType::Semantic => real(),
                    VectorType::Consciousness => Input::Invented { dim: STATE_DIM },
                };
                (sizes.runs("chromadb", input), common)
            }
            Measurement::Faiss { query_complexity: Complexity::Simple, sizes, common } => {
                (sizes.runs("faiss", real()), common)
            }
            Measurement::Mcp { concurrent_users, duration, common } => {
                let scale = Scale { run: Limit::Time(duration), agents: concurrent_users.into(), ..Scale::full() };
                (vec![Run::of("mcp", scale, real())], common)
            }
            Measurement::All { sizes, common } => {
                let scale = sizes.scale();
                let mut runs = vec![vidmem(scale.run.clone())];
                runs.extend(sizes.runs("chromadb", real()));
                runs.extend(sizes.runs("faiss", real()));
                runs.push(Run::of("mcp", scale, real()));
                (runs, common)
            }
        };
        common.measure(runs).await
    }
}

fn real() -> Input {
    Input::Real { embeddings: None, model: None }
}

fn vidmem(run: Limit) -> Run {
    // Recalls need frames to recall.
    let scale = Scale { run, documents: vec![1_000], ..Scale::full() };
    Run::of("vidmem", scale, Input::Invented { dim: TEXT_DIM })
}

impl Sizes {
    /// One run with this input, or one for each number of components that was asked for.
    fn runs(&self, kind: &'static str, input: Input) -> Vec<Run> {
        if self.vector_dims.is_empty() {
            return vec![Run::of(kind, self.scale(), input)];
        }
        let dims = self.vector_dims.iter().copied().map(usize::from);
        let input = |dim| if dim == TEXT_DIM { real() } else { Input::Invented { dim } };
        dims.map(|dim| Run { name: format!("{kind} {dim}"), ..Run::of(kind, self.scale(), input(dim)) }).collect()
    }

    fn scale(&self) -> Scale {
        let full = Scale::full();
        let run = self.iterations.map_or(full.run.clone(), Limit::Operations);
        Scale { documents: vec![self.dataset_size], run, ..full }
    }
}

impl Common {
    async fn measure(self, runs: Vec<Run>) -> Result<(), CliError> {
        let target = self.target()?;
        let here = std::env::temp_dir();
        let mut report = Report::new(Machine::describe(&here), vec![("Router".to_owned(), target.url.clone())]);
        if let Some(file) = &self.report_json {
            report = Report::resume(file, report);
        }
        for run in runs {
            let name = run.name.clone();
            eprintln!("{name}");
            let figures = run.measure(target.clone(), &here).await?;
            report.put(&name, figures);
            if let Some(file) = &self.report_json {
                report.write_json(file).map_err(CliError::bench)?;
            }
        }
        output::print_answer(&report, self.remote.json, Report::to_markdown)
    }

    fn target(&self) -> Result<Target, CliError> {
        let url = self.remote.url.as_str().trim_end_matches('/').to_owned();
        let grpc = match &self.grpc {
            Some(grpc) => grpc.clone(),
            None => {
                let mut grpc = self.remote.url.clone();
                let above = grpc.port_or_known_default().unwrap_or(7890).checked_add(1);
                grpc.set_port(above)
                    .map_err(|()| CliError::Usage("say where gRPC is served: --grpc URL".to_owned()))?;
                grpc.as_str().trim_end_matches('/').to_owned()
            }
        };
        Ok(Target { url, grpc, token: find_token(&self.remote)?.unwrap_or_default() })
    }
}

impl Run {
    fn of(kind: &'static str, scale: Scale, input: Input) -> Self {
        Run { kind, name: kind.to_owned(), scale, input }
    }

    async fn measure(self, target: Target, folder: &Path) -> Result<Vec<Figure>, CliError> {
        let rows = self.scale.most_documents();
        let input = self.input.clone();
        // Reading and embedding keep a processor busy for seconds.
        let loaded = tokio::task::spawn_blocking(move || input.load(rows)).await;
        let (texts, vectors) = loaded.map_err(CliError::start)?.map_err(CliError::bench)?;
        let fdatasync = machine::fdatasync(folder, PROBES).map_err(CliError::bench)?;
        let mut bench = Bench::new(target, self.scale, vectors, texts, fdatasync);
        let measured = match (self.kind, &self.input) {
            ("vidmem", _) => frames(&mut bench).await,
            ("chromadb", Input::Real { .. }) => suite::search::measure(&mut bench).await,
            // No model makes state vectors from words.
            ("chromadb" | "faiss", _) => suite::search::measure_with_vectors(&mut bench).await,
            _ => {
                let (agents, limit) = (bench.scale.agents, bench.scale.run.clone());
                suite::mcp::load(&mut bench, agents, limit).await
            }
        };
        // Measurement was measured matters more than a collection that stays.
        if let Err(error) = bench.clean_up().await {
            eprintln!("the benchmark's collections (bench-…) were not removed: {error}");
        }
        measured.map_err(CliError::bench)
    }
}

/// Stores and recalls, with the disk beside them.
pub(super) async fn frames(bench: &mut Bench) -> Result<Vec<Figure>, mira_benches::BenchError> {
    let mut figures = suite::store::measure(bench).await?;
    figures.extend(suite::private::measure(bench).await?);
    figures.extend(suite::recall::measure(bench).await?);
    Ok(figures)
}

fn write_page(output: &Path, files: &[PathBuf]) -> Result<(), CliError> {
    let read = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).map_err(CliError::io(file))?;
        serde_json::from_str::<Report>(&text)
            .map_err(|error| CliError::BadFile { path: file.clone(), detail: format!("not a report: {error}") })
    };
    let reports = files.iter().map(read).collect::<Result<Vec<Report>, CliError>>()?;
    std::fs::write(output, page::of(&reports)).map_err(CliError::io(output))?;
    output::print(&format!("{}\n", output.display()))
}
