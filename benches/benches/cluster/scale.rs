//! From ten thousand documents to a million: what a document costs, how fast searches are, what memory and disk they take,
//! and how soon a stopped cluster answers again. With one node and replication 1, and with three and replication 3.
//!
//! Every point has a new cluster, so that its memory and disk are its own, and one collection as a caller gets it without
//! asking: one partition, `int8`. Texts are short, so that vectors dominate. Points are in the report as soon as they are
//! measured; a run that is told to continues where the last one ended.
//!
//! How many of the nearest a search finds depends on the vectors more than on the program. So the report says which they are,
//! and what a graph over their f32, at the same m and ef_construction, finds on them with beams of some widths.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use mira_benches::BenchError;
use mira_benches::chart::count as short;
use mira_benches::load::Summary;
use mira_benches::machine::Usage;
use mira_benches::page;
use mira_benches::report::{Figure, Report};
use mira_benches::suite::search::{RECALL, by_vector, recall};
use mira_benches::suite::store::plural;
use mira_benches::suite::{Bench, Documents, Scale, import, wait_until_indexed_within};
use mira_benches::vectors::Vectors;
use mira_chaos_tests::cluster::{Cluster, Shape};
use mira_index::{Config, Metric, Quantization, SearchParams, VectorIndex};
use mira_proto::Code;
use mira_proto::model::StatusReply;

use super::restart::{Restarted, restart};
use super::{MIB, Options, Prepared, print, processes, wait_until};

/// Bytes of a document's text: a title.
const TEXT_BYTES: usize = 60;
/// Documents between two lines of progress.
const STEP: usize = 50_000;
/// Longest wait for an index, for each of its documents, on a machine that builds three at once: ten times what it takes.
const INDEXED_WITHIN: Duration = Duration::from_millis(3);
/// And in any case.
const AT_LEAST: Duration = Duration::from_secs(240);
/// What the default beam is widened to where it finds too little: recalls that tuning is asked for, in order.
const TUNED: [f64; 4] = [0.96, 0.97, 0.98, 0.99];
/// Callers of the second load.
const MANY: usize = 20;
/// p99 of a search (SPEC section 5), milliseconds.
const P99_MS: f64 = 15.0;
/// How much more a document may cost in the largest collection than in the smallest (SPEC section 5).
const GROWTH: f64 = 1.5;
/// From this many documents on the goals for a million are judged.
const MILLION: usize = 1_000_000;
/// Resident bytes of a vector and replica (SPEC section 5).
const VECTOR_BYTES: f64 = 700.0;
/// Most rows of the graph that vectors are judged by: it is built in the load generator's memory, on every processor.
const JUDGED_ROWS: usize = 200_000;
/// Queries that it is asked.
const JUDGED_QUERIES: usize = 200;
/// Its beams.
const JUDGED_BEAMS: [usize; 4] = [64, 96, 128, 256];
/// From the start of the nodes until the index is complete.
const READY: Duration = Duration::from_secs(30);

const ACROSS: &str = "documents";
const COSTS: &str = "Cost of a document until it is in every replica's index";
const LATENCIES: &str = "Searches with a vector given, recall@10 ≥ 0.95";
/// The part of the report that judges the vectors.
const VECTORS: &str = "the vectors";
/// The part of the report that compares the points.
const RATIOS: &str = "from the smallest to the largest";

/// Which points.
#[derive(Debug, Clone)]
pub struct Points {
    /// Documents, ascending.
    pub sizes: Vec<usize>,
    /// 1: one node; 3: three.
    pub replication: Vec<u8>,
    /// Leave out points that the report has.
    pub resume: bool,
}

/// Measures all points; stops at the first that fails, with those before it in the report.
pub async fn run(options: &Options, scale: &Scale, prepared: &Prepared) -> anyhow::Result<Report> {
    let file = options.out.join("scale.json");
    let cluster = "one node or three with the same replication, a new cluster for each size, 1 router, 16 shards; \
                   collections of one partition, int8";
    let mut report =
        Report::resume(&file, Report::new(prepared.machine.clone(), prepared.parameters(options, scale, cluster)));
    if let Some(rows) = options.points.sizes.iter().max().map(|&size| size.min(JUDGED_ROWS)) {
        let vectors = Arc::clone(&prepared.vectors);
        let among = among_first(rows);
        let is_measured = report
            .parts
            .iter()
            .any(|part| part.name == VECTORS && part.figures.iter().any(|figure| figure.what.contains(&among)));
        if options.points.resume && is_measured {
            eprintln!("\n{VECTORS}: in {} already", file.display());
        } else {
            eprintln!("\n{VECTORS}: {}", vectors.origin);
            let figures = tokio::task::spawn_blocking(move || f32_graph(&vectors, rows)).await??;
            figures.iter().for_each(print);
            report.put(VECTORS, figures);
        }
    }
    for &size in &options.points.sizes {
        for &replication in &options.points.replication {
            let name = format!("{} documents, replication {replication}", short(size as f64));
            if options.points.resume && report.parts.iter().any(|part| part.name == name) {
                eprintln!("\n{name}: in {} already", file.display());
                continue;
            }
            let started = Instant::now();
            eprintln!("\n{name}");
            let point = measure(options, scale, prepared, size, replication).await.with_context(|| name.clone())?;
            point.figures.iter().for_each(print);
            eprintln!("  ({:.0} s)", started.elapsed().as_secs_f64());
            point.draw(&mut report, size, replication);
            report.put(&name, point.figures);
            compare(&mut report);
            report.write_json(&file)?;
            fs::write(options.out.join("scale.md"), report.to_markdown())?;
            fs::write(options.out.join("scale.html"), page::of(std::slice::from_ref(&report)))?;
        }
    }
    Ok(report)
}

fn among_first(rows: usize) -> String {
    format!("over the first {}", short(rows as f64))
}

/// What a graph over the first rows in f32 finds of the nearest.
fn f32_graph(vectors: &Vectors, rows: usize) -> Result<Vec<Figure>, BenchError> {
    let refused = |error: mira_index::IndexError| BenchError::Wrong(error.to_string());
    let config =
        Config { quantization: Quantization::None, exact_below: 0, ..Config::new(vectors.dim(), Metric::Cosine) };
    let index = VectorIndex::new(config).map_err(refused)?;
    let next = AtomicUsize::new(0);
    let insert = || {
        loop {
            let row = next.fetch_add(1, Ordering::Relaxed);
            if row >= rows {
                return Ok(());
            }
            index.upsert(row as u128, vectors.row(row)).map_err(refused)?;
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(insert)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("inserting does not panic"))
    })?;
    let queries = JUDGED_QUERIES.min(vectors.queries());
    let figure = |ef: usize| {
        let mut sum = 0.0;
        for query in 0..queries {
            let params = SearchParams { ef: Some(ef), ..SearchParams::new(vectors.query(query), 10) };
            let hits = index.search(&params).map_err(refused)?;
            let found: Vec<usize> = hits.iter().map(|hit| hit.id as usize).collect();
            sum += vectors.recall(query, rows, &found, 10);
        }
        let what = format!("recall@10 of an f32 graph {}, beam {ef}", among_first(rows));
        Ok(Figure::amount(what, sum / queries as f64, ""))
    };
    JUDGED_BEAMS.into_iter().map(figure).collect()
}

/// What was found of one size.
struct Point {
    figures: Vec<Figure>,
    wall_us: f64,
    cpu_us: f64,
    alone: Summary,
    many: Summary,
}

impl Point {
    fn draw(&self, report: &mut Report, size: usize, replication: u8) {
        let x = size as f64;
        let costs = report.chart(COSTS, ACROSS, "µs");
        costs.put(&format!("time, replication {replication}"), x, self.wall_us);
        costs.put(&format!("CPU, replication {replication}"), x, self.cpu_us);
        for (callers, of) in [(1, &self.alone), (MANY, &self.many)] {
            let title = format!("{LATENCIES}, {}", plural(callers, "caller"));
            let latencies = report.chart(&title, ACROSS, "ms");
            latencies.put(&format!("p50, replication {replication}"), x, of.p50_ms);
            latencies.put(&format!("p99, replication {replication}"), x, of.p99_ms);
        }
    }
}

/// How much more a document costs in the largest collection than in the smallest, line by line.
fn compare(report: &mut Report) {
    let lines = report.charts.iter().filter(|chart| chart.title == COSTS).flat_map(|chart| &chart.lines);
    let ratios = lines.filter_map(|line| match (line.points.first(), line.points.last()) {
        (Some(first), Some(last)) if first.0 < last.0 => {
            let (from, to, ratio) = (short(first.0), short(last.0), last.1 / first.1);
            let what = format!("cost of a document, {}: that of {to} over that of {from}", line.name);
            Some(Figure::amount(what, ratio, "×").goal(format!("≤ {GROWTH} ×"), ratio <= GROWTH))
        }
        _ => None,
    });
    let ratios: Vec<Figure> = ratios.collect();
    report.parts.retain(|part| part.name != RATIOS);
    if !ratios.is_empty() {
        ratios.iter().for_each(print);
        report.put(RATIOS, ratios);
    }
}

async fn measure(
    options: &Options,
    scale: &Scale,
    prepared: &Prepared,
    size: usize,
    replication: u8,
) -> anyhow::Result<Point> {
    let folder = tempfile::Builder::new().prefix("mira-scale-").tempdir_in(&options.dir)?;
    let shape = Shape { nodes: replication, shards: 16, ..Shape::default() };
    let mut cluster = Cluster::start_in(shape, folder).await;
    let mut bench = prepared.bench(&mut cluster, scale);
    let point = point(&mut bench, &mut cluster, size).await;
    point.with_context(|| format!("the cluster said:{}", cluster.logs()))
}

async fn point(bench: &mut Bench, cluster: &mut Cluster, size: usize) -> Result<Point, BenchError> {
    let empty = Held::of(cluster).await?;
    let (documents, ingested, status) = ingest(bench, cluster, size).await?;
    let full = Held::of(cluster).await?;
    let mut figures = ingested.figures(size);
    let searched = search(bench, &documents).await?;
    figures.extend(searched.figures);
    figures.extend(full.figures(&empty, size, "with all indexed"));
    let replicas = f64::from(cluster.shape().nodes);
    let per_document = import::disk_bytes(&status) as f64 / replicas / size as f64;
    let raw = 4 * bench.vectors.dim() + TEXT_BYTES;
    let what = format!("disk per document and replica, log included ({raw} bytes of vector and text)");
    figures.push(Figure::amount(what, per_document, "bytes"));
    figures.extend(restarted(bench, cluster, &documents, &empty).await?);
    let (wall_us, cpu_us) = (ingested.wall_us(size), ingested.cpu_us(size));
    Ok(Point { figures, wall_us, cpu_us, alone: searched.alone, many: searched.many })
}

/// What storing the documents took.
struct Ingested {
    acknowledged: Duration,
    indexed: Duration,
    cpu: Duration,
}

impl Ingested {
    /// Time per document, until all are indexed.
    fn wall_us(&self, size: usize) -> f64 {
        self.indexed.as_secs_f64() * 1e6 / size as f64
    }

    fn cpu_us(&self, size: usize) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / size as f64
    }

    fn figures(&self, size: usize) -> Vec<Figure> {
        let rest = self.indexed.saturating_sub(self.acknowledged).as_secs_f64();
        let acknowledged = self.acknowledged.as_secs_f64();
        vec![
            Figure::amount("ingest, until the last is acknowledged", size as f64 / acknowledged, "documents/s"),
            Figure::amount("from then until every replica has indexed all", rest, "s"),
            Figure::amount("ingest, until all are indexed", 1e6 / self.wall_us(size), "documents/s"),
            Figure::amount("time per document, until all are indexed", self.wall_us(size), "µs"),
            Figure::amount("CPU per document, nodes and router, until all are indexed", self.cpu_us(size), "µs"),
        ]
    }
}

async fn ingest(
    bench: &mut Bench,
    cluster: &mut Cluster,
    size: usize,
) -> Result<(Documents, Ingested, StatusReply), BenchError> {
    let collection = bench.collection("scale", 1).await?;
    let document = import::document(bench, &collection, TEXT_BYTES);
    let before = cpu(cluster)?;
    let started = Instant::now();
    for first in (0..size).step_by(STEP) {
        let rows = first..size.min(first + STEP);
        let (stored, took) = (rows.end, import::store(bench, rows.clone(), document.clone()).await?);
        let (of, rate) = (short(size as f64), rows.len() as f64 / took.as_secs_f64());
        eprintln!("  {} of {of} stored, the last {rate:.0} documents/s", short(stored as f64));
    }
    let acknowledged = started.elapsed();
    let patience = INDEXED_WITHIN.saturating_mul(size as u32).max(AT_LEAST);
    let status = wait_until_indexed_within(&bench.callers(1).await?[0], patience).await?;
    let indexed = started.elapsed();
    let ingested = Ingested { acknowledged, indexed, cpu: cpu(cluster)?.saturating_sub(before) };
    eprintln!("  indexed after {:.1} s", indexed.as_secs_f64());
    let wanted = size as u64 * u64::from(cluster.shape().nodes);
    if vectors(&status) != wanted {
        return Err(BenchError::Wrong(format!("{} vectors are indexed of {wanted}", vectors(&status))));
    }
    let stored = import::Imported {
        per_second: size as f64 / acknowledged.as_secs_f64(),
        indexed_after: indexed.saturating_sub(acknowledged),
        disk_bytes: import::disk_bytes(&status),
    };
    Ok((Documents { collection, count: size, stored }, ingested, status))
}

/// Vectors in the indexes of all replicas.
fn vectors(status: &StatusReply) -> u64 {
    status.groups.iter().flat_map(|group| &group.replicas).map(|replica| replica.vectors).sum()
}

/// Time on a processor of all nodes and the router.
fn cpu(cluster: &mut Cluster) -> Result<Duration, BenchError> {
    processes(cluster).iter().map(|(_, process)| Ok(Usage::of(*process)?.cpu)).sum()
}

/// What searching came to.
struct Searched {
    figures: Vec<Figure>,
    alone: Summary,
    many: Summary,
}

/// Latencies with a beam that finds enough: the index's own, or else the narrowest that tuning gives.
async fn search(bench: &Bench, documents: &Documents) -> Result<Searched, BenchError> {
    let caller = &bench.callers(1).await?[0];
    by_vector(bench, documents, 1, bench.scale.run.times(0.25)).await?.summary("warming up")?;
    let mut found = recall(bench, documents).await?;
    let mut beam = "the index's own beam".to_owned();
    let mut figures = Vec::new();
    for wanted in TUNED {
        if found >= RECALL {
            break;
        }
        let tuned = match caller.tune(&documents.collection, Some(wanted)).await {
            // No beam finds so much: it stays as it is, and the figure says so.
            Err(problem) if problem.code == Code::Conflict => break,
            tuned => tuned.map_err(BenchError::refused("tune"))?,
        };
        figures.push(Figure::amount(format!("recall@10 with {beam}"), found, ""));
        beam = tuned.ef.map_or(beam, |ef| format!("a tuned beam of {ef}"));
        found = recall(bench, documents).await?;
    }
    let figure = Figure::amount(format!("recall@10 with {beam}"), found, "");
    figures.push(figure.goal(format!("≥ {RECALL}"), found >= RECALL));
    let mut loads = Vec::new();
    for callers in [1, MANY] {
        let what = format!("search, vector given, {}", plural(callers, "caller"));
        let summary = by_vector(bench, documents, callers, bench.scale.run.clone()).await?.summary(&what)?;
        let met = summary.p99_ms < P99_MS;
        let figure = Figure::latency(what, summary.clone());
        figures.push(if callers == 1 { figure.goal(format!("p99 < {P99_MS} ms"), met) } else { figure });
        loads.push(summary);
    }
    let many = loads.pop().ok_or_else(|| BenchError::Wrong("no load was run".to_owned()))?;
    let alone = loads.pop().ok_or_else(|| BenchError::Wrong("one load was run".to_owned()))?;
    Ok(Searched { figures, alone, many })
}

/// Memory of the nodes, bytes.
struct Held {
    resident: Vec<f64>,
    /// What each node's index counts of itself.
    index: Vec<f64>,
    router: f64,
}

impl Held {
    async fn of(cluster: &mut Cluster) -> Result<Held, BenchError> {
        let (mut resident, mut router) = (Vec::new(), 0.0);
        for (name, process) in processes(cluster) {
            let bytes = Usage::of(process)?.resident_bytes as f64;
            if name.starts_with("node") { resident.push(bytes) } else { router += bytes }
        }
        let mut index = Vec::new();
        for at in 0..cluster.shape().nodes {
            index.push(index_bytes(&cluster.node_metrics(at).await));
        }
        Ok(Held { resident, index, router })
    }

    /// Beside what the nodes held when they were empty.
    fn figures(&self, empty: &Held, size: usize, when: &str) -> Vec<Figure> {
        let mut figures = Vec::new();
        let mut most = 0.0f64;
        for (number, (bytes, before)) in (1..).zip(self.resident.iter().zip(&empty.resident)) {
            figures.push(Figure::amount(format!("resident memory of node {number} {when}"), bytes / MIB, "MiB"));
            most = most.max((bytes - before).max(0.0) / size as f64);
        }
        let figure = Figure::amount(
            format!("resident memory per vector and replica {when}, beyond an empty node"),
            most,
            "bytes",
        );
        figures.push(if size >= MILLION {
            figure.goal(format!("≤ {VECTOR_BYTES} bytes"), most <= VECTOR_BYTES)
        } else {
            figure
        });
        let index = self.index.iter().copied().fold(0.0, f64::max) / size as f64;
        figures.push(Figure::amount(format!("index per vector and replica {when}, by its own count"), index, "bytes"));
        figures.push(Figure::amount(format!("resident memory of the router {when}"), self.router / MIB, "MiB"));
        figures
    }
}

/// The sum over all shards of `mira_shard_index{what="bytes"}`.
fn index_bytes(metrics: &str) -> f64 {
    let lines = metrics.lines().filter(|line| line.starts_with("mira_shard_index{") && line.contains("what=\"bytes\""));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Stops all nodes, starts them, and waits for answers and for the whole index.
async fn restarted(
    bench: &Bench,
    cluster: &mut Cluster,
    documents: &Documents,
    empty: &Held,
) -> Result<Vec<Figure>, BenchError> {
    let nodes: Vec<u8> = (0..cluster.shape().nodes).collect();
    let Restarted { stopping, killed, started, answering } = restart(bench, cluster, &nodes, documents).await?;
    let wanted = documents.count as u64 * nodes.len() as u64;
    let caller = &bench.callers(1).await?[0];
    let patience = INDEXED_WITHIN.saturating_mul(documents.count as u32).max(AT_LEAST);
    wait_until("a cluster that was started has its index", patience, || async {
        caller.status().await.is_ok_and(|status| {
            let mut replicas = status.groups.iter().flat_map(|group| &group.replicas);
            vectors(&status) == wanted && replicas.all(|replica| replica.apply_lag + replica.index_lag == 0)
        })
    })
    .await?;
    let ready = started.elapsed();
    eprintln!("  stopped in {:.1} s, ready again in {:.1} s", stopping.as_secs_f64(), ready.as_secs_f64());
    let stopped = "stop of all nodes in order, one after the other";
    let figure = Figure::amount("start of all nodes: until their indexes are complete", ready.as_secs_f64(), "s");
    let mut figures = vec![
        match killed {
            None => Figure::amount(stopped, stopping.as_secs_f64(), "s"),
            Some(why) => Figure::absent(stopped, why),
        },
        Figure::amount("start of all nodes: until a search is whole", answering.as_secs_f64(), "s"),
        figure.goal(format!("< {} s", READY.as_secs()), ready < READY),
    ];
    figures.extend(Held::of(cluster).await?.figures(empty, documents.count, "after the restart"));
    let what = "search, vector given, 1 caller, after the restart";
    figures
        .push(Figure::latency(what, by_vector(bench, documents, 1, bench.scale.run.times(0.25)).await?.summary(what)?));
    Ok(figures)
}
