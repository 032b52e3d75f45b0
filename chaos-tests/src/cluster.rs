//! Nodes and routers as processes, on loopback addresses of their own.
//!
//! Every program gets an address 127.A.B.N, where A and B are the cluster's at random: standard ports, no clash between
//! clusters, and a restarted program comes back where it was. Dropping a cluster kills its processes.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use mira_crypto::ClusterKey;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    client::Client,
    disk::SmallDisk,
    network::{Network, Party},
    process::{Process, Program},
};

const TOKEN: &str = "chaos-tests-token";
/// Longest wait for a cluster to be ready on a machine that runs other tests beside.
const READY: Duration = Duration::from_secs(90);
/// Longest wait for a program that was asked to stop in order.
const STOP: Duration = Duration::from_secs(20);

/// The shape of a test cluster.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Storage nodes.
    pub nodes: u8,
    /// Routers.
    pub routers: u8,
    /// Shards; few, because tests share two cores.
    pub shards: u32,
    /// Whether all connections to nodes go through [`Cluster::network`].
    pub proxied: bool,
    /// What of the last node's data lies on a disk of its own that can be filled, if one can be mounted here: a folder in
    /// it, or all (an empty name).
    pub small_disk: Option<&'static str>,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { nodes: 3, routers: 1, shards: 4, proxied: false, small_disk: None }
    }
}

/// A cluster of processes.
pub struct Cluster {
    nodes: Vec<Option<Process>>,
    routers: Vec<Option<Process>>,
    /// The wires between them, when the shape says so.
    pub network: Network,
    small_disk: Option<SmallDisk>,
    /// Why there is no small disk, although one was wanted.
    pub no_small_disk: Option<String>,
    program: Program,
    subnet: (u8, u8),
    shape: Shape,
    // Declared last, and so removed when no process writes into it any more.
    folder: TempDir,
}

impl Cluster {
    /// Starts all processes and waits until every router is ready.
    pub async fn start(shape: Shape) -> Cluster {
        Cluster::start_in(shape, tempfile::tempdir().expect("a folder")).await
    }

    /// As [`Cluster::start`], with the data in a folder of the caller's choice.
    pub async fn start_in(shape: Shape, folder: TempDir) -> Cluster {
        Cluster::start_with(shape, folder, &ClusterKey::generate(&mut mira_crypto::os_rng())).await
    }

    /// As [`Cluster::start_in`], with a cluster key of the caller's choice.
    pub async fn start_with(shape: Shape, folder: TempDir, key: &ClusterKey) -> Cluster {
        write_secret(&folder.path().join("cluster-key"), &key.to_text());
        write_secret(&folder.path().join("tokens"), TOKEN);
        let mut cluster = Cluster {
            nodes: Vec::new(),
            routers: Vec::new(),
            network: Network::default(),
            small_disk: None,
            no_small_disk: None,
            program: Program::under_test(),
            subnet: (rand::random_range(1..=254), rand::random_range(1..=254)),
            shape,
            folder,
        };
        if let Some(folder) = shape.small_disk {
            match SmallDisk::mount(&cluster.data(shape.nodes - 1).join(folder)) {
                Ok(disk) => cluster.small_disk = Some(disk),
                Err(why) => cluster.no_small_disk = Some(why),
            }
        }
        for at in 0..shape.nodes {
            cluster.nodes.push(None);
            cluster.restart_node(at);
        }
        for at in 0..shape.routers {
            cluster.routers.push(None);
            cluster.restart_router(at);
        }
        for at in 0..shape.routers {
            cluster.wait_ready(at).await;
        }
        cluster
    }

    /// Its shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Where a node keeps its data.
    pub fn data(&self, node: u8) -> PathBuf {
        self.folder.path().join(format!("node-{node}"))
    }

    /// The last node's disk, if it has one of its own.
    pub fn small_disk(&self) -> Option<&SmallDisk> {
        self.small_disk.as_ref()
    }

    /// A node's process, while it is meant to run.
    pub fn node(&mut self, at: u8) -> Option<&mut Process> {
        self.nodes[at as usize].as_mut()
    }

    /// A router's process, while it is meant to run.
    pub fn router(&mut self, at: u8) -> Option<&mut Process> {
        self.routers[at as usize].as_mut()
    }

    /// The folder with the data and logs of all processes.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A client that asks router `at` only.
    pub fn client(&self, at: u8) -> Client {
        Client::new(vec![self.router_url(at)], TOKEN)
    }

    /// A client that asks any router.
    pub fn client_of_all(&self) -> Client {
        Client::new((0..self.shape.routers).map(|at| self.router_url(at)).collect(), TOKEN)
    }

    /// `http://host:port` of a router.
    pub fn router_url(&self, at: u8) -> String {
        format!("http://{}:7890", self.address(100 + at))
    }

    /// host:port of a router's gRPC.
    pub fn router_grpc(&self, at: u8) -> String {
        format!("{}:7891", self.address(100 + at))
    }

    /// The node that others know under this address, if it is one of this cluster's.
    pub fn node_at(&self, address: &str) -> Option<u8> {
        (0..self.nodes.len() as u8).find(|&at| self.advertised(at) == address)
    }

    /// The bearer token.
    pub fn token(&self) -> &str {
        TOKEN
    }

    /// Kills a node as a power cut would: no goodbye.
    pub async fn kill_node(&mut self, at: u8) {
        self.nodes[at as usize] = None;
        self.network.close_door(at).await;
    }

    /// Starts a node again, with the data it has.
    pub fn restart_node(&mut self, at: u8) {
        assert!(self.nodes[at as usize].is_none(), "node {at} is running");
        if self.shape.proxied {
            let (proxy, node) = (parse(&self.advertised(at)), parse(&self.node_address(at)));
            self.network.open_door(at, proxy, node);
        }
        let process = self.spawn_node(at);
        self.network.register(Party::Node(at), process.id());
        self.nodes[at as usize] = Some(process);
    }

    /// Starts one more node, which joins but holds nothing until it is told to; returns its number.
    pub fn add_node(&mut self) -> u8 {
        self.nodes.push(None);
        let at = self.nodes.len() as u8 - 1;
        self.restart_node(at);
        at
    }

    /// Stops a node in order (SIGTERM) and waits for its end.
    pub async fn stop_node(&mut self, at: u8) {
        if let Err(why) = self.try_stop_node(at).await {
            panic!("{why}; {}", self.logs());
        }
    }

    /// As [`stop_node`](Self::stop_node), and says what went wrong; the node is down either way.
    pub async fn try_stop_node(&mut self, at: u8) -> Result<(), String> {
        let node = self.nodes[at as usize].take().expect("the node runs");
        let ended = node.stop(STOP).await;
        self.network.close_door(at).await;
        match ended {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("node {at}, asked to stop, ended with {status}")),
            None => Err(format!("node {at}, asked to stop, still ran after {STOP:?}")),
        }
    }

    /// Kills a router.
    pub fn kill_router(&mut self, at: u8) {
        self.routers[at as usize] = None;
    }

    /// Starts a router again.
    pub fn restart_router(&mut self, at: u8) {
        assert!(self.routers[at as usize].is_none(), "router {at} is running");
        let process = self.spawn_router(at);
        self.network.register(Party::Router(at), process.id());
        self.routers[at as usize] = Some(process);
    }

    /// Which node leads which shard, as far as anybody says.
    pub async fn leaders(&self) -> BTreeMap<u32, u8> {
        let mut client = self.client_of_all();
        client.patience = Duration::ZERO;
        let status = client.call("status", &serde_json::json!({ "detailed": true })).await.unwrap_or_default();
        let list = |name: &str| status[name].as_array().cloned().unwrap_or_default();
        let nodes = list("nodes");
        let at = |id: &Value| {
            let node = nodes.iter().find(|node| node["id"] == *id)?;
            self.node_at(node["address"].as_str()?)
        };
        let leader = |group: Value| Some((u32::try_from(group["shard"].as_u64()?).ok()?, at(&group["leader"])?));
        list("groups").into_iter().filter_map(leader).collect()
    }

    /// Waits until a router says that it is ready: a map, and a leader for every shard.
    pub async fn wait_ready(&self, router: u8) {
        let client = self.client(router);
        let what = format!("router {router} ready");
        self.wait_for(&what, || async { client.get("/readyz").await.is_ok_and(|(status, _)| status == 200) }).await;
    }

    /// Waits until the detailed status satisfies a condition, and returns that status.
    pub async fn wait_status(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        match self.status_when(READY, condition).await {
            Ok(status) => status,
            Err(last) => panic!("not in time: {what}; last status {last}; {}", self.logs()),
        }
    }

    /// Waits for such a status as long as `patience` says; else returns the last answer.
    pub async fn status_when(&self, patience: Duration, condition: impl Fn(&Value) -> bool) -> Result<Value, String> {
        let client = self.client_of_all();
        let started = Instant::now();
        loop {
            let status = client.call("status", &serde_json::json!({ "detailed": true })).await;
            match status {
                Ok(status) if condition(&status) => return Ok(status),
                last if started.elapsed() > patience => return Err(format!("{last:?}")),
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn wait_for<F: Future<Output = bool>>(&self, what: &str, condition: impl Fn() -> F) {
        let started = Instant::now();
        while !condition().await {
            assert!(started.elapsed() < READY, "not in time: {what}; {}", self.logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What a node's metrics say.
    pub async fn node_metrics(&self, at: u8) -> String {
        let url = format!("http://{}:7893/metrics", self.address(1 + at));
        reqwest::get(url).await.expect("metrics").text().await.expect("metrics are text")
    }

    /// The last lines of a program's log.
    pub fn log_of(&self, party: Party, lines: usize) -> String {
        let name = match party {
            Party::Node(at) => format!("node-{at}.log"),
            Party::Router(at) => format!("router-{at}.log"),
        };
        tail(&self.folder.path().join(name), lines)
    }

    /// The ends of all logs, for a failing test's message.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(self.folder.path()).expect("the folder").flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log") {
                text += &format!("\n== {}\n{}", entry.file_name().display(), tail(&entry.path(), 15));
            }
        }
        text
    }

    fn address(&self, host: u8) -> String {
        format!("127.{}.{}.{host}", self.subnet.0, self.subnet.1)
    }

    fn node_address(&self, at: u8) -> String {
        format!("{}:7892", self.address(1 + at))
    }

    /// The address under which others reach a node.
    pub fn advertised(&self, at: u8) -> String {
        if self.shape.proxied { format!("{}:7892", self.address(50 + at)) } else { self.node_address(at) }
    }

    fn spawn_node(&self, at: u8) -> Process {
        let (mut command, container) = self.command("node", at);
        command
            .arg("--data")
            .arg(self.data(at))
            .arg("--cluster-key-file")
            .arg(self.folder.path().join("cluster-key"))
            .args(["--listen", &self.node_address(at)])
            .args(["--advertise", &self.advertised(at)])
            .args(["--http", &format!("{}:7893", self.address(1 + at))])
            .args(["--shards", &self.shape.shards.to_string()])
            .args(["--replication", &self.shape.nodes.min(3).to_string()])
            .args(["--expect", &self.shape.nodes.to_string()]);
        match at {
            0 => command.arg("--bootstrap"),
            _ => command.args(["--join", &self.advertised(0)]),
        };
        Process::spawn(&mut command, container)
    }

    fn spawn_router(&self, at: u8) -> Process {
        let nodes: Vec<String> = (0..self.shape.nodes).map(|node| self.advertised(node)).collect();
        let (mut command, container) = self.command("router", at);
        command
            .args(["--nodes", &nodes.join(",")])
            .args(["--http", &format!("{}:7890", self.address(100 + at))])
            .args(["--grpc", &self.router_grpc(at)])
            .arg("--token-file")
            .arg(self.folder.path().join("tokens"));
        Process::spawn(&mut command, container)
    }

    /// `mira ROLE` with its log in the folder.
    fn command(&self, role: &str, at: u8) -> (Command, Option<String>) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.path().join(format!("{role}-{at}.log")))
            .expect("a log file");
        let name = format!("mira-chaos-{}-{}-{role}-{at}", self.subnet.0, self.subnet.1);
        let (mut command, container) = self.program.command(&name, self.folder.path());
        command
            .arg(role)
            .env("RUST_LOG", "info")
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log);
        (command, container)
    }
}

fn tail(path: &Path, lines: usize) -> String {
    let log = fs::read_to_string(path).unwrap_or_default();
    let all: Vec<&str> = log.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn parse(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).expect("a secret is written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("a secret is closed");
}
