//! One run: a cluster, its input, the parts in order, the report after each.

#[path = "chroma.rs"]
mod chroma;
#[path = "etcd.rs"]
mod etcd;
#[path = "failover.rs"]
mod failover;
#[path = "keys.rs"]
mod keys;
#[path = "large.rs"]
mod large;
#[path = "membership.rs"]
mod membership;
#[path = "peers.rs"]
mod peers;
#[path = "restart.rs"]
mod restart;
#[path = "scale.rs"]
mod scale;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use mira_benches::BenchError;
use mira_benches::caller::Target;
use mira_benches::input::Input;
use mira_benches::load::Summary;
use mira_benches::machine::{self, Machine};
use mira_benches::report::{Figure, Report, Value};
use mira_benches::servers::Servers;
use mira_benches::suite::{self, Bench, Scale, wait_until_indexed};
use mira_benches::texts::Texts;
use mira_benches::vectors::Vectors;
use mira_chaos_tests::cluster::{Cluster, Shape};
use tokio::time::sleep;

pub use scale::Points;

/// Probes of the disk.
const PROBES: u32 = 500;
const MIB: f64 = (1 << 20) as f64;

/// The parts, in the order in which they disturb each other least: what shows in memory first, what kills last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PartName {
    Import,
    Search,
    Recall,
    Status,
    Resources,
    Mcp,
    Interference,
    Store,
    Batch,
    Private,
    Large,
    Etcd,
    Keys,
    Failover,
    Membership,
    Peers,
    Scale,
}

impl PartName {
    pub const ALL: [PartName; 17] = [
        PartName::Import,
        PartName::Search,
        PartName::Recall,
        PartName::Status,
        PartName::Resources,
        PartName::Mcp,
        PartName::Interference,
        PartName::Store,
        PartName::Batch,
        PartName::Private,
        PartName::Large,
        PartName::Etcd,
        PartName::Keys,
        PartName::Failover,
        PartName::Membership,
        PartName::Peers,
        PartName::Scale,
    ];

    /// Whether it runs only when it is named: it takes long, or installs something.
    pub fn is_extra(self) -> bool {
        matches!(self, PartName::Peers | PartName::Scale)
    }

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
    /// Folder of the reports.
    pub out: PathBuf,
    /// Folder of the data.
    pub dir: PathBuf,
    /// What [`PartName::Scale`] measures.
    pub points: Points,
    /// Documents of [`PartName::Peers`].
    pub peer_documents: usize,
}

/// What all parts need.
struct Prepared {
    texts: Arc<Texts>,
    vectors: Arc<Vectors>,
    fdatasync: Summary,
    machine: Machine,
}

/// Runs all parts; stops at the first that fails, with the figures before it in the report. The reports are those of the
/// one cluster that most parts share, and of the points of [`PartName::Scale`].
pub async fn run(options: Options) -> anyhow::Result<Vec<Report>> {
    let scale = if options.quick { Scale::quick() } else { Scale::full() };
    for folder in [&options.dir, &options.out] {
        fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    }
    let prepared = Prepared::load(&options, &scale)?;
    let mut reports = Vec::new();
    if options.parts.iter().any(|&part| part != PartName::Scale) {
        reports.push(run_in_one_cluster(&options, &scale, &prepared).await?);
    }
    if options.parts.contains(&PartName::Scale) {
        reports.push(scale::run(&options, &scale, &prepared).await?);
    }
    Ok(reports)
}

async fn run_in_one_cluster(options: &Options, scale: &Scale, prepared: &Prepared) -> anyhow::Result<Report> {
    let folder = tempfile::Builder::new().prefix("mira-bench-").tempdir_in(&options.dir)?;
    let shape = Shape { shards: if options.quick { 4 } else { 16 }, ..Shape::default() };
    let mut cluster = Cluster::start_in(shape, folder).await;
    let what = format!("{} nodes, {} router, {} shards", shape.nodes, shape.routers, shape.shards);
    let file = options.out.join("cluster.json");
    let fresh = Report::new(prepared.machine.clone(), prepared.parameters(options, scale, &what));
    let mut report = Report::resume(&file, fresh);
    let mut bench = prepared.bench(&mut cluster, scale);
    for &part in options.parts.iter().filter(|&&part| part != PartName::Scale) {
        let started = Instant::now();
        let figures = measure(part, options, &mut bench, &mut cluster)
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

async fn measure(
    part: PartName,
    options: &Options,
    bench: &mut Bench,
    cluster: &mut Cluster,
) -> Result<Vec<Figure>, BenchError> {
    // A part may have ended some of them, and started others.
    bench.servers = servers(cluster);
    // What the last part left to be indexed is not this part's load.
    wait_until_indexed(&bench.callers(1).await?[0]).await?;
    let figures = match part {
        PartName::Import => suite::import::measure(bench).await,
        PartName::Search => suite::search::measure(bench).await,
        PartName::Recall => suite::recall::measure(bench).await,
        PartName::Status => suite::status::measure(bench).await,
        PartName::Resources => suite::resources::measure(bench).await,
        PartName::Mcp => suite::mcp::measure(bench).await,
        PartName::Interference => suite::interference::measure(bench).await,
        PartName::Store => suite::store::measure(bench).await,
        PartName::Batch => suite::batch::measure(bench).await,
        PartName::Private => suite::private::measure(bench).await,
        PartName::Large => large::measure(bench, cluster).await,
        PartName::Etcd => etcd::measure(bench, cluster.folder()).await,
        PartName::Keys => keys::measure(bench, cluster).await,
        PartName::Failover => failover::measure(bench, cluster).await,
        PartName::Membership => membership::measure(bench, cluster).await,
        PartName::Peers => peers::measure(bench, cluster, options.peer_documents).await,
        PartName::Scale => Err(BenchError::Wrong("each point of it has a cluster of its own".to_owned())),
    }?;
    // The last of the reads, and those that fill the most: what comes after needs the room.
    if matches!(part, PartName::Mcp | PartName::Interference | PartName::Batch) {
        bench.clean_up().await?;
    }
    Ok(figures)
}

impl Prepared {
    fn load(options: &Options, scale: &Scale) -> anyhow::Result<Prepared> {
        let wants = |part| options.parts.contains(&part);
        let mut rows = scale.rows();
        if wants(PartName::Peers) {
            rows = rows.max(options.peer_documents);
        }
        if wants(PartName::Scale) {
            rows = rows.max(options.points.sizes.iter().copied().max().unwrap_or(0));
        }
        let (texts, vectors) = options.input.load(rows)?;
        eprintln!("input: {}; vectors: {}", texts.origin, vectors.origin);
        let fdatasync = machine::fdatasync(&options.dir, if options.quick { 20 } else { PROBES })?;
        Ok(Prepared { texts, vectors, fdatasync, machine: Machine::describe(&options.dir) })
    }

    fn bench(&self, cluster: &mut Cluster, scale: &Scale) -> Bench {
        let target = Target {
            url: cluster.router_url(0),
            grpc: format!("http://{}", cluster.router_grpc(0)),
            token: cluster.token().to_owned(),
        };
        let (vectors, texts) = (Arc::clone(&self.vectors), Arc::clone(&self.texts));
        let mut bench = Bench::new(target, scale.clone(), vectors, texts, self.fdatasync.clone());
        bench.servers = servers(cluster);
        bench
    }

    /// What the figures were measured with.
    fn parameters(&self, options: &Options, scale: &Scale, cluster: &str) -> Vec<(String, String)> {
        let pair = |name: &str, value: String| (name.to_owned(), value);
        let is_trial = options.quick || cfg!(debug_assertions);
        vec![
            pair("Version", version()),
            pair("Cluster", format!("{cluster}, with the load generator on the same machine")),
            pair("Build", (if is_trial { "for trying out, not for figures" } else { "release" }).to_owned()),
            pair(
                "Requests",
                format!("gRPC, closed loop, {}; collections of one partition unless said; 384 components", scale.run),
            ),
            pair("Input", format!("{}; vectors: {}", self.texts.origin, self.vectors.origin)),
        ]
    }
}

/// Those whose time on a processor is the servers'.
fn servers(cluster: &mut Cluster) -> Servers {
    Servers::new(processes(cluster).into_iter().map(|(_, process)| process))
}

/// The processes of a cluster that run, by name.
fn processes(cluster: &mut Cluster) -> Vec<(String, u32)> {
    let shape = cluster.shape();
    let nodes = (0..shape.nodes).filter_map(|at| Some((format!("node {}", at + 1), cluster.node(at)?.id())));
    let mut all: Vec<(String, u32)> = nodes.collect();
    let named = |at: u8| if shape.routers == 1 { "the router".to_owned() } else { format!("router {}", at + 1) };
    all.extend((0..shape.routers).filter_map(|at| Some((named(at), cluster.router(at)?.id()))));
    all
}

async fn wait_until<F: Future<Output = bool>>(
    what: &str,
    patience: Duration,
    condition: impl Fn() -> F,
) -> Result<(), BenchError> {
    let started = Instant::now();
    while !condition().await {
        if started.elapsed() > patience {
            return Err(BenchError::Late(what.to_owned()));
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
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
            "p50 {:.2} ms, p99 {:.2} ms, longest {:.1} ms, {:.0}/s ({} done){}",
            of.p50_ms,
            of.p99_ms,
            of.max_ms,
            of.per_second,
            of.count,
            of.servers_time().map(|time| format!(", servers {time} µs each")).unwrap_or_default()
        ),
        Value::Amount { amount, unit } => format!("{amount:.3} {unit}"),
        Value::Absent(why) => why.clone(),
    };
    let goal =
        figure.goal.as_ref().map(|goal| format!("  [{}: {}]", goal.text, if goal.met { "met" } else { "MISSED" }));
    eprintln!("  {:<64} {value}{}", figure.what, goal.unwrap_or_default());
}
