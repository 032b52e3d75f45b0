//! Nodes and routers as processes, on loopback addresses of their own.
//!
//! Every program gets an address 127.A.B.N, where A and B are the cluster's at random: standard ports, no clash between
//! clusters, and a restarted program comes back where it was. Dropping a cluster kills its processes.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mira_crypto::ClusterKey;
use serde_json::Value;
use tempfile::TempDir;

use crate::client::Client;

const TOKEN: &str = "chaos-tests-token";
/// Longest wait for a cluster to be ready on a machine that runs other tests beside.
const READY: Duration = Duration::from_secs(90);

/// The shape of a test cluster.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Storage nodes.
    pub nodes: u8,
    /// Routers.
    pub routers: u8,
    /// Shards; few, because tests share two cores.
    pub shards: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { nodes: 3, routers: 1, shards: 4 }
    }
}

/// A cluster of processes.
pub struct Cluster {
    folder: TempDir,
    program: PathBuf,
    network: (u8, u8),
    shape: Shape,
    nodes: Vec<Option<Child>>,
    routers: Vec<Option<Child>>,
}

impl Cluster {
    /// Starts all processes and waits until every router is ready.
    pub async fn start(shape: Shape) -> Cluster {
        Cluster::start_in(shape, tempfile::tempdir().expect("a folder")).await
    }

    /// As [`Cluster::start`], with the data in a folder of the caller's choice.
    pub async fn start_in(shape: Shape, folder: TempDir) -> Cluster {
        let key = ClusterKey::generate(&mut mira_crypto::os_rng());
        write_secret(&folder.path().join("cluster-key"), &key.to_text());
        write_secret(&folder.path().join("tokens"), TOKEN);
        let mut cluster = Cluster {
            folder,
            program: program(),
            network: (rand::random_range(1..=254), rand::random_range(1..=254)),
            shape,
            nodes: Vec::new(),
            routers: Vec::new(),
        };
        for at in 0..shape.nodes {
            let node = cluster.spawn_node(at);
            cluster.nodes.push(Some(node));
        }
        for at in 0..shape.routers {
            let router = cluster.spawn_router(at);
            cluster.routers.push(Some(router));
        }
        for at in 0..shape.routers {
            cluster.wait_ready(at).await;
        }
        cluster
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
        (0..self.shape.nodes).find(|&at| self.node_address(at) == address)
    }

    /// The bearer token.
    pub fn token(&self) -> &str {
        TOKEN
    }

    /// Kills a node as a power cut would: no goodbye.
    pub fn kill_node(&mut self, at: u8) {
        kill(self.nodes[at as usize].take());
    }

    /// Starts a node again, with the data it has.
    pub fn restart_node(&mut self, at: u8) {
        assert!(self.nodes[at as usize].is_none(), "node {at} is running");
        self.nodes[at as usize] = Some(self.spawn_node(at));
    }

    /// Stops a node in order (SIGTERM) and waits for its end.
    pub fn stop_node(&mut self, at: u8) {
        let mut node = self.nodes[at as usize].take().expect("the node runs");
        signal(&node, "TERM");
        let status = node.wait().expect("the node ends");
        assert!(status.success(), "node {at} ended with {status}");
    }

    /// Kills a router.
    pub fn kill_router(&mut self, at: u8) {
        kill(self.routers[at as usize].take());
    }

    /// Waits until a router says that it is ready: a map, and a leader for every shard.
    pub async fn wait_ready(&self, router: u8) {
        let client = self.client(router);
        let what = format!("router {router} ready");
        self.wait_for(&what, || async { client.get("/readyz").await.is_ok_and(|(status, _)| status == 200) }).await;
    }

    /// Waits until the detailed status satisfies a condition, and returns that status.
    pub async fn wait_status(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let client = self.client_of_all();
        let started = Instant::now();
        loop {
            let status = client.call("status", &serde_json::json!({ "detailed": true })).await;
            match status {
                Ok(status) if condition(&status) => return status,
                last if started.elapsed() > READY => {
                    panic!("not in time: {what}; last status {last:?}; {}", self.logs())
                }
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

    /// The ends of all logs, for a failing test's message.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(self.folder.path()).expect("the folder").flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log") {
                let log = fs::read_to_string(entry.path()).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(15)..].join("\n");
                text += &format!("\n== {}\n{tail}", entry.file_name().display());
            }
        }
        text
    }

    fn address(&self, host: u8) -> String {
        format!("127.{}.{}.{host}", self.network.0, self.network.1)
    }

    fn node_address(&self, at: u8) -> String {
        format!("{}:7892", self.address(1 + at))
    }

    fn spawn_node(&self, at: u8) -> Child {
        let mut command = self.command("node", at);
        command
            .arg("--data")
            .arg(self.folder.path().join(format!("node-{at}")))
            .arg("--cluster-key-file")
            .arg(self.folder.path().join("cluster-key"))
            .args(["--listen", &self.node_address(at)])
            .args(["--http", &format!("{}:7893", self.address(1 + at))])
            .args(["--shards", &self.shape.shards.to_string()])
            .args(["--replication", &self.shape.nodes.min(3).to_string()])
            .args(["--expect", &self.shape.nodes.to_string()]);
        match at {
            0 => command.arg("--bootstrap"),
            _ => command.args(["--join", &self.node_address(0)]),
        };
        command.spawn().expect("a node starts")
    }

    fn spawn_router(&self, at: u8) -> Child {
        let nodes: Vec<String> = (0..self.shape.nodes).map(|node| self.node_address(node)).collect();
        let mut command = self.command("router", at);
        command
            .args(["--nodes", &nodes.join(",")])
            .args(["--http", &format!("{}:7890", self.address(100 + at))])
            .args(["--grpc", &self.router_grpc(at)])
            .arg("--token-file")
            .arg(self.folder.path().join("tokens"));
        command.spawn().expect("a router starts")
    }

    /// `mira ROLE` with its log in the folder.
    fn command(&self, role: &str, at: u8) -> Command {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.path().join(format!("{role}-{at}.log")))
            .expect("a log file");
        let mut command = Command::new(&self.program);
        command
            .arg(role)
            .env("RUST_LOG", "info")
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log);
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.nodes.drain(..).chain(self.routers.drain(..)) {
            kill(process);
        }
    }
}

/// The program under test: `MIRA_BIN`, or the one built beside the tests.
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("MIRA_BIN") {
        return path.into();
    }
    let tests = std::env::current_exe().expect("this test's path");
    let path = tests.parent().and_then(Path::parent).expect("a target folder").join("mira");
    assert!(path.exists(), "{} is missing: build it first (make build)", path.display());
    path
}

fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).expect("a secret is written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("a secret is closed");
}

fn kill(process: Option<Child>) {
    if let Some(mut process) = process {
        // It may have ended by itself; waiting reaps it either way.
        let _ = process.kill();
        let _ = process.wait();
    }
}

fn signal(process: &Child, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(process.id().to_string()).status();
    assert!(status.is_ok_and(|status| status.success()), "signal {name} could not be sent");
}
