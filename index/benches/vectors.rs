//! Speed, recall, memory of the vector index beside hnswlib-rs, in one run on the same vectors.
//!
//! Both engines are measured in turns, so that a noisy hour meets both, and each figure is the best of several rounds.
//!
//! - `MIRA_BENCH_DATA`: a folder with `*.base.f16` and `*.query.f16` (little-endian half floats, 384 per row); without it
//!   random vectors in clusters are made, which are harder than real embeddings.
//! - `MIRA_BENCH_VECTORS` (50,000): rows; beyond those of the file, rows are copied with noise. `MIRA_BENCH_ORIGINALS`: how
//!   many of the file are taken, the fewer the more alike rows are (all).
//! - `MIRA_BENCH_PEER=0` leaves hnswlib-rs out. `MIRA_BENCH_ROUNDS` (5).
//! - `MIRA_BENCH_ROWS=disk` keeps full-precision rows in a file, read and opened one by one behind a cache of
//!   `MIRA_BENCH_ROW_CACHE_MIB` (64), as a node has them.
//! - `MIRA_BENCH_SERVE=int8|binary|none` builds one index and then answers beam widths on standard input (0: the one that
//!   widens by itself) with a line of JSON each: `peers/compare.py` compares with engines from PyPI that way.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use half::f16;
use hnswlib_rs::{Hnsw, HnswConfig, InnerProduct, NodeId, VectorStore, VectorStoreMut};
use mira_index::{
    Config, Isa, Metric, Passage, Quantization, RowCache, RowSource, RowStorage, RowsError, SearchParams, VectorIndex,
    exact_top_k,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const DIM: usize = 384;
const K: usize = 10;
const THREADS: usize = 2;
/// 0 is the beam that widens by itself.
const BEAMS: [usize; 15] = [0, 10, 12, 14, 16, 20, 24, 28, 32, 48, 64, 96, 128, 192, 256];

/// Vectors end to end, queries end to end, and the true nearest of each query.
struct Data {
    base: Vec<f32>,
    queries: Vec<f32>,
    truth: Vec<Vec<u128>>,
}

impl Data {
    fn rows(&self) -> usize {
        self.base.len() / DIM
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.base[row * DIM..(row + 1) * DIM]
    }
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |value| value.parse().expect("a number"))
}

fn main() {
    if let Ok(quantization) = std::env::var("MIRA_BENCH_SERVE") {
        return serve(&quantization);
    }
    let wanted = setting("MIRA_BENCH_VECTORS", 50_000);
    let data = load(wanted);
    println!("{} vectors of {DIM}, {} queries, k = {K}, cosine", data.rows(), data.queries.len() / DIM);
    println!("machine: {}, {} threads, kernels {:?}", cpu(), threads(), Isa::detected());
    println!("m = 16, ef_construction = 128, built by {THREADS} threads, searched by one; hnswlib-rs 0.8.0, f32\n");

    let mut engines: Vec<(&str, Box<dyn Engine + '_>)> = Vec::new();
    for (name, quantization) in
        [("mira int8", Quantization::Int8), ("mira binary", Quantization::Binary), ("mira f32", Quantization::None)]
    {
        let (engine, seconds) = timed(|| Mira::build(&data, quantization));
        println!("{name}: built in {seconds:.1} s, {:?}", engine.0.stats());
        image(&engine.0, &storage(&data));
        engines.push((name, Box::new(engine)));
    }
    if setting("MIRA_BENCH_PEER", 1) == 1 {
        let (engine, seconds) = timed(|| Peer::build(&data));
        println!("hnswlib-rs: built in {seconds:.1} s");
        engines.push(("hnswlib-rs", Box::new(engine)));
    }
    compare(&data, &engines);
}

/// Times an image of the index, in memory.
fn image(index: &VectorIndex, storage: &RowStorage) {
    let mut bytes = Vec::new();
    let (written, write_seconds) = timed(|| index.write_image(&mut bytes));
    written.expect("memory does not fail");
    let (read, read_seconds) = timed(|| VectorIndex::read_image(bytes.as_slice(), storage));
    assert_eq!(read.expect("was just written").len(), index.len());
    println!("  image: {} bytes, written in {write_seconds:.2} s, read in {read_seconds:.2} s", bytes.len());
}

/// Builds one index and answers beam widths with measurements, line by line.
fn serve(quantization: &str) {
    let quantization = match quantization {
        "int8" => Quantization::Int8,
        "binary" => Quantization::Binary,
        "none" => Quantization::None,
        other => panic!("MIRA_BENCH_SERVE is {other}, allowed are int8, binary and none"),
    };
    let data = load(setting("MIRA_BENCH_VECTORS", 50_000));
    let (engine, seconds) = timed(|| Mira::build(&data, quantization));
    let stats = engine.0.stats();
    let parts = [stats.code_bytes, stats.graph_bytes, stats.id_bytes, stats.row_bytes];
    let [codes, graph, ids, rows] = parts.map(|bytes| bytes / data.rows());
    let sum = parts.iter().sum::<usize>() as f64 / data.rows() as f64;
    println!(
        r#"{{"seconds": {seconds}, "bytes_per_vector": {sum}, "parts": "codes {codes}, graph {graph}, ids {ids}, rows {rows}, {:?}"}}"#,
        Isa::detected()
    );
    for line in std::io::stdin().lines() {
        let ef = line.expect("readable").trim().parse().expect("a beam width");
        let Point { recall, best, latencies } = measure(&data, &engine, ef);
        let qps = latencies.len() as f64 / best.as_secs_f64();
        let micros = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
        let (p50, p99) = (micros(0.5), micros(0.99));
        println!(r#"{{"recall": {recall}, "qps": {qps}, "p50": {p50}, "p99": {p99}}}"#);
    }
}

/// Rows in a file of half floats.
struct RowFile {
    file: std::fs::File,
}

impl RowSource for RowFile {
    fn read(&self, wanted: &[Passage], visit: &mut dyn FnMut(usize, &[f32])) -> Result<(), RowsError> {
        let mut bytes = [0u8; 2 * DIM];
        for (position, wanted) in wanted.iter().enumerate() {
            let offset = wanted.id as u64 * bytes.len() as u64;
            self.file.read_exact_at(&mut bytes, offset).map_err(|error| RowsError::Source(error.to_string()))?;
            visit(position, &floats(&bytes));
        }
        Ok(())
    }
}

/// Where an index over this data has its rows.
fn storage(data: &Data) -> RowStorage {
    if std::env::var("MIRA_BENCH_ROWS").is_ok_and(|rows| rows == "disk") {
        let mut file = tempfile::tempfile().expect("a temporary file");
        for row in data.base.chunks_exact(DIM) {
            let bytes: Vec<u8> = row.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect();
            file.write_all(&bytes).expect("room for the rows");
        }
        let cache = RowCache::new(setting("MIRA_BENCH_ROW_CACHE_MIB", 64) << 20);
        return RowStorage::Source(Arc::new(RowFile { file }), cache);
    }
    RowStorage::Memory
}

/// What the sweep needs of an engine.
trait Engine {
    /// Row numbers of the nearest.
    fn search(&self, query: &[f32], ef: usize) -> Vec<u128>;
}

struct Mira(VectorIndex);

impl Mira {
    fn build(data: &Data, quantization: Quantization) -> Self {
        let config = Config { quantization, exact_below: 0, ..Config::new(DIM, Metric::Cosine) };
        let index = VectorIndex::with_storage(config, &storage(data)).expect("a valid shape");
        in_threads(data.rows(), |row| index.upsert(row as u128, data.row(row)).expect("a valid vector"));
        Mira(index)
    }
}

impl Engine for Mira {
    fn search(&self, query: &[f32], ef: usize) -> Vec<u128> {
        let params = SearchParams { ef: (ef > 0).then_some(ef), ..SearchParams::new(query, K) };
        self.0.search(&params).expect("a valid query").iter().map(|hit| hit.id).collect()
    }
}

/// A store for hnswlib-rs over the flat matrix: its own store holds every vector in a box of its own and is slower.
struct Flat<'a> {
    data: &'a Data,
    /// Row of each node: two building threads number nodes in another order than rows.
    rows: Vec<AtomicU32>,
}

impl VectorStore for Flat<'_> {
    type Vector<'b>
        = &'b [f32]
    where
        Self: 'b;

    fn dim(&self) -> usize {
        DIM
    }

    fn vector(&self, id: NodeId) -> Option<&[f32]> {
        let row = self.rows.get(id.as_usize())?.load(Ordering::Acquire) as usize;
        self.data.base.get(row * DIM..(row + 1) * DIM)
    }
}

impl VectorStoreMut for Flat<'_> {
    fn set(&self, id: NodeId, vector: &[f32]) -> hnswlib_rs::Result<()> {
        // The vector is a row of the matrix, so its address says which.
        let offset = vector.as_ptr() as usize - self.data.base.as_ptr() as usize;
        self.rows[id.as_usize()].store((offset / size_of::<f32>() / DIM) as u32, Ordering::Release);
        Ok(())
    }
}

struct Peer<'a> {
    graph: Hnsw<u32, InnerProduct>,
    store: Flat<'a>,
}

impl<'a> Peer<'a> {
    fn build(data: &'a Data) -> Self {
        let config = HnswConfig::new(DIM, data.rows()).m(16).ef_construction(128);
        let graph = Hnsw::new(InnerProduct::new(), config);
        let store = Flat { data, rows: (0..data.rows()).map(|_| AtomicU32::new(0)).collect() };
        in_threads(data.rows(), |row| graph.insert(&store, row as u32, data.row(row)).expect("a valid vector"));
        Peer { graph, store }
    }
}

impl Engine for Peer<'_> {
    fn search(&self, query: &[f32], ef: usize) -> Vec<u128> {
        self.graph.set_ef_search(ef.max(K));
        let hits = self.graph.search(&self.store, query, K, None).expect("a valid query");
        hits.iter().map(|hit| u128::from(hit.key)).collect()
    }
}

/// One point of a sweep.
struct Point {
    recall: f64,
    best: Duration,
    latencies: Vec<Duration>,
}

/// Sweeps all engines in turns and prints their points.
fn compare(data: &Data, engines: &[(&str, Box<dyn Engine + '_>)]) {
    let rounds = setting("MIRA_BENCH_ROUNDS", 5);
    let mut sweeps: Vec<Vec<Point>> = engines.iter().map(|_| Vec::new()).collect();
    for ef in BEAMS {
        let mut points: Vec<Option<Point>> = engines.iter().map(|_| None).collect();
        for _ in 0..rounds {
            for ((_, engine), point) in engines.iter().zip(&mut points) {
                let round = measure(data, engine.as_ref(), ef);
                if point.as_ref().is_none_or(|point| round.best < point.best) {
                    *point = Some(round);
                }
            }
        }
        sweeps.iter_mut().zip(points).for_each(|(sweep, point)| sweep.extend(point));
    }
    for ((name, _), sweep) in engines.iter().zip(&sweeps) {
        println!("\n{name}\n   ef  recall     QPS  p50 µs  p99 µs");
        for (ef, point) in BEAMS.iter().zip(sweep) {
            println!("{ef:5}  {}", show(data, point));
        }
        for goal in [0.95, 0.99] {
            let reached = sweep.iter().zip(BEAMS).find(|(point, ef)| *ef > 0 && point.recall >= goal);
            match reached {
                Some((point, ef)) => println!("first at recall {goal}: ef {ef}, {}", show(data, point)),
                None => println!("recall {goal} is not reached"),
            }
        }
    }
}

fn show(data: &Data, point: &Point) -> String {
    let queries = data.queries.len() / DIM;
    let quantile = |share: f64| point.latencies[((queries - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    let qps = queries as f64 / point.best.as_secs_f64();
    format!("{:.4}  {qps:6.0}  {:6.0}  {:6.0}", point.recall, quantile(0.5), quantile(0.99))
}

/// One round over all queries.
fn measure(data: &Data, engine: &dyn Engine, ef: usize) -> Point {
    let mut latencies = Vec::with_capacity(data.truth.len());
    let mut found = 0;
    for (query, truth) in data.queries.chunks_exact(DIM).zip(&data.truth) {
        let start = Instant::now();
        let hits = engine.search(query, ef);
        latencies.push(start.elapsed());
        found += hits.iter().filter(|hit| truth.contains(hit)).count();
    }
    let best = latencies.iter().sum();
    latencies.sort_unstable();
    Point { recall: found as f64 / (K * data.truth.len()) as f64, best, latencies }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let start = Instant::now();
    (work(), start.elapsed().as_secs_f64())
}

/// Runs `work` for every number below `count` on the building threads.
fn in_threads(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    work(number);
                }
            });
        }
    });
}

fn load(wanted: usize) -> Data {
    let folder = std::env::var("MIRA_BENCH_DATA").ok();
    let (mut base, queries) = match &folder {
        Some(folder) => (read(folder.as_ref(), ".base.f16"), read(folder.as_ref(), ".query.f16")),
        None => clustered(wanted),
    };
    eprintln!("data: {}", folder.as_deref().map_or("made, in clusters", |_| "embeddings from files"));
    let mut random = StdRng::seed_from_u64(1);
    base.truncate(setting("MIRA_BENCH_ORIGINALS", base.len() / DIM) * DIM);
    let rows = base.len() / DIM;
    base.truncate(wanted * DIM);
    while base.len() / DIM < wanted {
        let from = (base.len() / DIM % rows) * DIM;
        let noisy: Vec<f32> = (from..from + DIM).map(|at| base[at] + 0.0316 * gauss(&mut random)).collect();
        base.extend(normalised(noisy));
    }
    let documents = || base.chunks_exact(DIM).enumerate().map(|(row, vector)| (row as u128, vector));
    let nearest = |query| exact_top_k(Metric::Cosine, DIM, query, documents(), K).expect("valid vectors");
    let truth = queries.chunks_exact(DIM).map(|query| nearest(query).iter().map(|hit| hit.id).collect()).collect();
    Data { base, queries, truth }
}

fn read(folder: &Path, suffix: &str) -> Vec<f32> {
    let entries = std::fs::read_dir(folder).expect("the data folder is readable");
    let mut paths = entries.map(|entry| entry.expect("readable").path());
    let path = paths.find(|path| path.to_string_lossy().ends_with(suffix)).expect("a file of this suffix");
    let bytes = std::fs::read(path).expect("the file is readable");
    floats(&bytes)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]]).to_f32()).collect()
}

fn clustered(rows: usize) -> (Vec<f32>, Vec<f32>) {
    let mut random = StdRng::seed_from_u64(2);
    let centres: Vec<Vec<f32>> = (0..500).map(|_| (0..DIM).map(|_| gauss(&mut random)).collect()).collect();
    let mut make = |count: usize| -> Vec<f32> {
        let mut all = Vec::with_capacity(count * DIM);
        for _ in 0..count {
            let centre = &centres[random.random_range(0..centres.len())];
            all.extend(normalised(centre.iter().map(|value| value + 0.8 * gauss(&mut random)).collect()));
        }
        all
    };
    (make(rows), make(1_000))
}

fn normalised(vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.into_iter().map(|value| value / norm).collect()
}

fn gauss(random: &mut StdRng) -> f32 {
    let (u, v): (f32, f32) = (random.random_range(1e-7..1.0), random.random());
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1).map(str::to_owned));
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}
