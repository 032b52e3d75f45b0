//! A three-node etcd on the same disk, with the same number of writers and values of the same size, taking turns with
//! MIRA so that both meet the same machine.
//!
//! etcd gets its best: its own protocol, gRPC, straight to the leader. MIRA is asked as always, through a router, and
//! stores a vector with each frame, which the etcd does not get. `etcd` must be on the PATH (Debian: etcd-server).

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mira_benches::BenchError;
use mira_benches::load::{Limit, Outcome, Summary, closed_loop};
use mira_benches::report::Figure;
use mira_benches::servers::Servers;
use mira_benches::suite::store::{Load, plural};
use mira_benches::suite::{Bench, FRAME_BYTES};
use mira_benches::texts::opaque_text;
use mira_proto::Problem;
use tokio::time::sleep;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

const NODES: usize = 3;
const READY_WITHIN: Duration = Duration::from_secs(60);
/// MIRA's throughput over etcd's (SPEC section 5).
const GOAL: f64 = 2.0;
/// MIRA's processor time over etcd's.
const PROCESSOR_GOAL: f64 = 1.0;

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// Processes that end with this value.
struct Etcd {
    processes: Vec<Child>,
    endpoints: Vec<String>,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // It may have ended by itself; waiting reaps it either way.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Throughput and latency of both, in turns.
pub async fn measure(bench: &mut Bench, folder: &Path) -> Result<Vec<Figure>, BenchError> {
    if Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return Ok(vec![Figure::absent("a three-node etcd beside it", "not measured: etcd is not installed")]);
    }
    let etcd = Etcd::start(&folder.join("etcd"))?;
    let (leader, version) = etcd.leader().await?;
    let writers = bench.scale.writers.iter().copied().max().unwrap_or(1);
    let mut channels = Vec::new();
    for _ in 0..writers {
        channels.push(connect(&leader).await.map_err(BenchError::refused("etcd"))?);
    }
    let collection = bench.collection("beside-etcd", 1).await?;
    let load = Arc::new(Load::new(collection, bench.vectors.clone()));
    let limit = bench.scale.run.clone();
    put_all(&channels, limit.times(0.25), 0).await.summary("etcd warming up")?;
    load.run(bench, writers, limit.times(0.25)).await?.summary("warming up")?;
    let their_servers = Servers::new(etcd.processes.iter().map(Child::id));
    let (mut ours, mut theirs) = (Outcome::default(), Outcome::default());
    for round in 1..=bench.scale.rounds {
        theirs.then(their_servers.during(put_all(&channels, limit.clone(), round)).await);
        ours.then(load.run(bench, writers, limit.clone()).await?);
    }
    let theirs = theirs.summary("etcd")?;
    let ours = ours.summary("store")?;
    let times = ours.per_second / theirs.per_second;
    let with = plural(writers, "writer");
    let processor = processor_times(&ours, &theirs);
    let mut figures = vec![
        Figure::latency(format!("etcd {version}, three nodes: put 1 KiB, {with}"), theirs),
        Figure::latency(format!("MIRA in turns with it: store a 1 KiB frame and its vector, {with}"), ours),
        Figure::amount("MIRA's throughput over etcd's", times, "×").goal(format!("≥ {GOAL} ×"), times >= GOAL),
    ];
    figures.extend(processor);
    Ok(figures)
}

/// What a write costs the servers up to its acknowledgement, beside etcd's: indexing the vector is work that etcd is not
/// asked for.
fn processor_times(ours: &Summary, theirs: &Summary) -> Option<Figure> {
    let acknowledging = ours.servers_us? - ours.indexing_us?;
    let times = acknowledging / theirs.servers_us?;
    let what = "MIRA's processor time for a write over etcd's, without indexing its vector";
    Some(Figure::amount(what, times, "×").goal(format!("≤ {PROCESSOR_GOAL} ×"), times <= PROCESSOR_GOAL))
}

impl Etcd {
    fn start(folder: &Path) -> Result<Etcd, BenchError> {
        fs::create_dir_all(folder).map_err(BenchError::io(folder))?;
        let network = (rand::random_range(1..=254u8), rand::random_range(1..=254u8));
        let address = |node: usize, port: u16| format!("http://127.{}.{}.{}:{port}", network.0, network.1, node + 1);
        let cluster: Vec<String> = (0..NODES).map(|node| format!("n{node}={}", address(node, 2380))).collect();
        let mut etcd = Etcd { processes: Vec::new(), endpoints: (0..NODES).map(|node| address(node, 2379)).collect() };
        for node in 0..NODES {
            let log = folder.join(format!("n{node}.log"));
            let log = File::create(&log).map_err(BenchError::io(&log))?;
            let mut command = Command::new("etcd");
            command
                .args(["--name", &format!("n{node}"), "--data-dir"])
                .arg(folder.join(format!("n{node}")))
                .args(["--listen-peer-urls", &address(node, 2380)])
                .args(["--initial-advertise-peer-urls", &address(node, 2380)])
                .args(["--listen-client-urls", &address(node, 2379)])
                .args(["--advertise-client-urls", &address(node, 2379)])
                .args(["--initial-cluster", &cluster.join(",")])
                .args(["--initial-cluster-state", "new"])
                .env_clear()
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log);
            etcd.processes.push(command.spawn().map_err(BenchError::io("etcd"))?);
        }
        Ok(etcd)
    }

    /// The endpoint of the leader and the program's version.
    async fn leader(&self) -> Result<(String, String), BenchError> {
        let deadline = Instant::now() + READY_WITHIN;
        while Instant::now() < deadline {
            for endpoint in &self.endpoints {
                let Ok(channel) = connect(endpoint).await else { continue };
                let status = call(channel, "/etcdserverpb.Maintenance/Status", StatusRequest {}).await;
                let Ok(StatusResponse { header: Some(header), version, leader }) = status else { continue };
                if leader != 0 && leader == header.member_id {
                    return Ok((endpoint.clone(), version));
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
        Err(BenchError::Late("an etcd without a leader".to_owned()))
    }
}

async fn put_all(channels: &[Channel], limit: Limit, round: usize) -> Outcome {
    let values: Arc<Vec<Vec<u8>>> =
        Arc::new((0..512).map(|number| opaque_text(number, FRAME_BYTES).into_bytes()).collect());
    let put = move |channel: Channel, number: u64| {
        let key = format!("frame/{round}/{number:012}").into_bytes();
        let request = PutRequest { key, value: values[(number % 512) as usize].clone() };
        async move { call::<_, PutResponse>(channel, "/etcdserverpb.KV/Put", request).await.map(drop) }
    };
    closed_loop(channels, limit, put).await
}

async fn connect(endpoint: &str) -> Result<Channel, Problem> {
    let lost = |error: tonic::transport::Error| Problem::internal(format!("{endpoint}: {error}"));
    Endpoint::from_shared(endpoint.to_owned()).map_err(lost)?.tcp_nodelay(true).connect().await.map_err(lost)
}

async fn call<Q, A>(channel: Channel, path: &'static str, request: Q) -> Result<A, Problem>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| Problem::internal(error.to_string()))?;
    let codec = ProstCodec::<Q, A>::default();
    let answer = grpc.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec).await;
    Ok(answer.map_err(Problem::from)?.into_inner())
}
