//! One run: a cluster, its input, the parts in order, the report after each.

#[path = "etcd.rs"]
mod etcd;
#[path = "failover.rs"]
mod failover;
#[path = "keys.rs"]
mod keys;
#[path = "membership.rs"]
mod membership;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use clap::ValueEnum;
use mira_benches::BenchError;
use mira_benches::caller::Target;
use mira_benches::input::Input;
use mira_benches::machine::{self, Machine};
use mira_benches::report::{Figure, Report, Value};
use mira_benches::suite::{self, Bench, Scale, wait_until_indexed};
use mira_chaos_tests::cluster::{Cluster, Shape};

/// Probes of the disk.
const PROBES: u32 = 500;

/// The parts, in the order in which they disturb each other least: what shows in memory first, what kills last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PartName {
    Import,
    Search,
    Recall,
    Status,
    Resources,
    Mcp,
    Store,
    Private,
    Etcd,
    Keys,
    Failover,
    Membership,
}

impl PartName {
    pub const ALL: [PartName; 12] = [
        PartName::Import,
        PartName::Search,
        PartName::Recall,
        PartName::Status,
        PartName::Resources,
        PartName::Mcp,
        PartName::Store,
        PartName::Private,
        PartName::Etcd,
        PartName::Keys,
        PartName::Failover,
        PartName::Membership,
    ];

    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    pub parts: Vec<PartName>,
    pub quick: bool,
    pub input: Input,
    /// Folder of the report.
    pub out: PathBuf,
    /// Folder of the data.
    pub dir: PathBuf,
}

/// Runs all parts; stops at the first that fails, with the figures before it in the report.
pub async fn run(options: Options) -> anyhow::Result<Report> {
    let scale = if options.quick { Scale::quick() } else { Scale::full() };
    fs::create_dir_all(&options.dir).with_context(|| format!("{}", options.dir.display()))?;
    fs::create_dir_all(&options.out).with_context(|| format!("{}", options.out.display()))?;
    let (texts, vectors) = options.input.load(scale.rows())?;
    eprintln!("input: {}; vectors: {}", texts.origin, vectors.origin);

    let probes = if options.quick { 20 } else { PROBES };
    let fdatasync = machine::fdatasync(&options.dir, probes)?;
    let folder = tempfile::Builder::new().prefix("mira-bench-").tempdir_in(&options.dir)?;
    let machine = Machine::describe(folder.path());
    let shape = Shape { shards: if options.quick { 4 } else { 16 }, ..Shape::default() };
    let mut cluster = Cluster::start_in(shape, folder).await;
    let target = Target {
        url: cluster.router_url(0),
        grpc: format!("http://{}", cluster.router_grpc(0)),
        token: cluster.token().to_owned(),
    };

    let parameters = parameters(&options, &scale, shape, (&texts.origin, &vectors.origin));
    let file = options.out.join("cluster.json");
    let mut report = Report::resume(&file, Report::new(machine, parameters));
    let mut bench = Bench::new(target, scale, vectors, texts, fdatasync);
    for &part in &options.parts {
        let started = Instant::now();
        let figures = measure(part, &mut bench, &mut cluster)
            .await
            .with_context(|| format!("{}; the cluster said:{}", part.name(), cluster.logs()))?;
        eprintln!("\n{} ({:.0} s)", part.name(), started.elapsed().as_secs_f64());
        figures.iter().for_each(print);
        report.put(&part.name(), figures);
        report.parts.sort_by_key(|part| PartName::ALL.iter().position(|known| known.name() == part.name));
        report.write_json(&file)?;
        fs::write(options.out.join("cluster.md"), report.to_markdown())?;
    }
    Ok(report)
}

async fn measure(part: PartName, bench: &mut Bench, cluster: &mut Cluster) -> Result<Vec<Figure>, BenchError> {
    // What the last part left to be indexed is not this part's load.
    wait_until_indexed(&bench.callers(1).await?[0]).await?;
    match part {
        PartName::Import => suite::import::measure(bench).await,
        PartName::Search => suite::search::measure(bench).await,
        PartName::Recall => suite::recall::measure(bench).await,
        PartName::Status => suite::status::measure(bench).await,
        PartName::Resources => suite::resources::measure(bench).await,
        PartName::Mcp => {
            let figures = suite::mcp::measure(bench).await?;
            // The last of the reads: writers need the room.
            bench.clean_up().await?;
            Ok(figures)
        }
        PartName::Store => suite::store::measure(bench).await,
        PartName::Private => suite::private::measure(bench).await,
        PartName::Etcd => etcd::measure(bench, cluster.folder()).await,
        PartName::Keys => keys::measure(bench, cluster).await,
        PartName::Failover => failover::measure(bench, cluster).await,
        PartName::Membership => membership::measure(bench, cluster).await,
    }
}

fn parameters(options: &Options, scale: &Scale, shape: Shape, origins: (&str, &str)) -> Vec<(String, String)> {
    let pair = |name: &str, value: String| (name.to_owned(), value);
    vec![
        pair("Version", version()),
        pair(
            "Cluster",
            format!(
                "{} nodes, {} router, {} shards, with the load generator on the same machine",
                shape.nodes, shape.routers, shape.shards
            ),
        ),
        pair(
            "Build",
            (if options.quick || cfg!(debug_assertions) { "for trying out, not for figures" } else { "release" })
                .to_owned(),
        ),
        pair(
            "Requests",
            format!("gRPC, closed loop, {}; collections of one partition unless said; 384 components", scale.run),
        ),
        pair("Input", format!("{}; vectors: {}", origins.0, origins.1)),
    ]
}

/// The commit, if this is a clone.
fn version() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let commit =
        std::process::Command::new("git").arg("-C").arg(root).args(["rev-parse", "--short=10", "HEAD"]).output();
    let commit = commit.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let commit = commit.map(|text| String::from_utf8_lossy(&text).trim().to_owned()).unwrap_or_default();
    format!("{} {commit}", env!("CARGO_PKG_VERSION")).trim().to_owned()
}

fn print(figure: &Figure) {
    let value = match &figure.value {
        Value::Latency(of) => format!(
            "p50 {:.2} ms, p99 {:.2} ms, longest {:.1} ms, {:.0}/s ({} done)",
            of.p50_ms, of.p99_ms, of.max_ms, of.per_second, of.count
        ),
        Value::Amount { amount, unit } => format!("{amount:.3} {unit}"),
        Value::Absent(why) => why.clone(),
    };
    let goal =
        figure.goal.as_ref().map(|goal| format!("  [{}: {}]", goal.text, if goal.met { "met" } else { "MISSED" }));
    eprintln!("  {:<64} {value}{}", figure.what, goal.unwrap_or_default());
}
