//! `mira dev`: a whole cluster in one process, for one person on one machine.
//!
//! The data folder holds what the next start needs: `cluster.key` and `token` (both of mode 0600), `nodes.json` with
//! the addresses of the nodes, and a folder for each node. The addresses stay, because a cluster whose nodes have all
//! moved at once would not find itself again.

use std::fs::DirBuilder;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use console::style;
use futures::future::join_all;
use mira_net::descriptors;
use mira_node::{Formation, NodeConfig, RunningNode, Shape};
use mira_router::{RouterConfig, RunningRouter};
use serde::{Deserialize, Serialize};

use crate::args::default_data_folder;
use crate::error::CliError;
use crate::output;
use crate::server::keys::KeySource;
use crate::server::{LogFormat, asked_to_stop, default_model_folder, load_model, secrets, start_logging};

/// Time for all shards to have leaders. A first start takes seconds; a large one recovers its logs first.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Connections of each port at a time: all of a cluster and its clients are on this machine.
const CONNECTIONS: usize = 256;

/// Files that each engine keeps open: those of a small cluster.
const ENGINE_FILES: u32 = 256;

/// Ports between one node and the next, when they are free.
const PORT_STEP: u16 = 10;

/// Run a whole cluster on this machine
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mira dev
  mira dev --data /tmp/mira --http 127.0.0.1:8890
  mira dev --nodes 1")]
pub struct Dev {
    /// Storage nodes; fixed by the first start in a data folder
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: Option<u16>,
    /// Folder of its data [default: mira/dev in the user's data folder]
    #[arg(long, env = "MIRA_DEV_DATA", hide_env_values = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where MCP and REST are served, on this machine only; gRPC is on the next port
    #[arg(long, default_value = "127.0.0.1:7890", value_name = "ADDR")]
    http: SocketAddr,
    /// Folder of the embedding model [default: where `make model` puts it]
    #[arg(long, env = "MIRA_MODEL_DIR", hide_env_values = true, value_name = "DIR")]
    model: Option<PathBuf>,
}

/// Addresses of one node, kept in `nodes.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Addresses {
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Dev {
    /// Serves until Ctrl-C.
    pub async fn run(self) -> Result<(), CliError> {
        let started = Instant::now();
        if !self.http.ip().is_loopback() {
            return Err(CliError::Usage("mira dev serves this machine only; `mira router` serves others".to_owned()));
        }
        start_logging(LogFormat::Text, "warn")?;
        let model = self.model.or_else(default_model_folder);
        let cluster = LocalCluster::start(self.data, self.nodes, self.http, model).await?;
        output::print(&welcome(&cluster.home, cluster.router.http_addr, cluster.router.grpc_addr, started.elapsed()))?;
        asked_to_stop().await?;
        eprintln!("stopping");
        cluster.stop().await;
        Ok(())
    }
}

/// Nodes and a router in this process.
pub(super) struct LocalCluster {
    home: Home,
    nodes: Vec<RunningNode>,
    pub(super) router: RunningRouter,
}

impl LocalCluster {
    /// Starts them, and waits until all shards have leaders. Without a model the router takes vectors only.
    pub(super) async fn start(
        data: Option<PathBuf>,
        nodes: Option<u16>,
        http: SocketAddr,
        model_folder: Option<PathBuf>,
    ) -> Result<LocalCluster, CliError> {
        let home = Home::prepare(data, nodes, http.port())?;
        let nodes = home.node_configs();
        let router = RouterConfig { connections: CONNECTIONS, ..RouterConfig::default() };
        let needed = nodes.iter().map(NodeConfig::descriptors).sum::<u64>() + router.descriptors();
        descriptors::ensure(needed).map_err(CliError::start)?;
        let nodes = start_all(nodes).await?;
        let embedder = match &model_folder {
            Some(folder) => load_model(folder)?,
            None => None,
        };
        let grpc_port = if http.port() == 0 { 0 } else { http.port() + 1 };
        let config = RouterConfig {
            nodes: home.nodes.iter().map(|node| node.grpc.to_string()).collect(),
            http,
            grpc: (http.ip(), grpc_port).into(),
            tokens: vec![home.token.as_str().into()],
            embedder,
            ..router
        };
        let router = mira_router::Router::start(config).await.map_err(CliError::start)?;
        wait_until_ready(&nodes).await?;
        Ok(LocalCluster { home, nodes, router })
    }

    /// The token its router takes.
    #[cfg(feature = "bench")]
    pub(super) fn token(&self) -> &str {
        &self.home.token
    }

    /// Stops them in order.
    pub(super) async fn stop(self) {
        self.router.shutdown().await;
        join_all(self.nodes.into_iter().map(RunningNode::shutdown)).await;
    }
}

/// The data folder.
struct Home {
    folder: PathBuf,
    key_file: PathBuf,
    token: String,
    nodes: Vec<Addresses>,
}

impl Home {
    fn prepare(folder: Option<PathBuf>, nodes: Option<u16>, base_port: u16) -> Result<Home, CliError> {
        let folder = folder.or_else(default_data_folder);
        let folder = folder.ok_or_else(|| CliError::Usage("no home folder: say --data DIR".to_owned()))?;
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(CliError::io(&folder))?;
        let key_file = folder.join("cluster.key");
        let nodes = addresses(&folder.join("nodes.json"), nodes, base_port)?;
        secrets::make_cluster_key_if_missing(&key_file)?;
        let token = secrets::read_or_make_token(&folder.join("token"))?;
        Ok(Home { folder, key_file, token, nodes })
    }

    fn node_configs(&self) -> Vec<NodeConfig> {
        let config = |(at, addresses): (usize, &Addresses)| {
            let keys = Arc::new(KeySource::File(self.key_file.clone()));
            let folder = self.folder.join(format!("node-{}", at + 1));
            let mut config = NodeConfig::new(folder, keys, self.formation(at));
            config.connections = CONNECTIONS;
            config.engine_files = ENGINE_FILES;
            config.listen = addresses.grpc;
            config.http_listen = addresses.http;
            config
        };
        self.nodes.iter().enumerate().map(config).collect()
    }

    /// The first node makes the cluster, the others join it.
    fn formation(&self, at: usize) -> Formation {
        let count = self.nodes.len() as u32;
        match at {
            0 => Formation::Bootstrap(Shape { replication: count.min(3), expect: count, ..Shape::default() }),
            _ => Formation::Join(vec![self.nodes[0].grpc.to_string()]),
        }
    }
}

async fn start_all(nodes: Vec<NodeConfig>) -> Result<Vec<RunningNode>, CliError> {
    let mut running = Vec::with_capacity(nodes.len());
    for config in nodes {
        running.push(RunningNode::start(config).await.map_err(CliError::start)?);
    }
    Ok(running)
}

/// The addresses of an earlier start, or new ones.
fn addresses(file: &Path, nodes: Option<u16>, base_port: u16) -> Result<Vec<Addresses>, CliError> {
    let bad = |detail: String| CliError::BadFile { path: file.to_owned(), detail };
    if file.exists() {
        let text = std::fs::read_to_string(file).map_err(CliError::io(file))?;
        let known: Vec<Addresses> = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        return match nodes {
            Some(wanted) if known.len() != usize::from(wanted) => {
                Err(bad(format!("this folder has {} nodes, not {wanted}: choose another with --data", known.len())))
            }
            _ => Ok(known),
        };
    }
    let chosen = choose_addresses(nodes.unwrap_or(3), base_port).map_err(CliError::io("a free port"))?;
    let text = serde_json::to_string_pretty(&chosen).map_err(|error| bad(error.to_string()))?;
    std::fs::write(file, text).map_err(CliError::io(file))?;
    Ok(chosen)
}

/// Ports above the router's where they are free, any free ones else.
fn choose_addresses(nodes: u16, base_port: u16) -> std::io::Result<Vec<Addresses>> {
    // Held until all are chosen, so that no port is chosen twice.
    let mut held = Vec::new();
    let mut choose = |wanted: u16| -> std::io::Result<SocketAddr> {
        let any = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = match wanted {
            0 => any()?,
            wanted => TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).or_else(|_| any())?,
        };
        let address = listener.local_addr()?;
        held.push(listener);
        Ok(address)
    };
    let port =
        |node: u16, offset: u16| if base_port == 0 { 0 } else { base_port.saturating_add(node * PORT_STEP + offset) };
    (0..nodes).map(|node| Ok(Addresses { grpc: choose(port(node, 2))?, http: choose(port(node, 3))? })).collect()
}

async fn wait_until_ready(nodes: &[RunningNode]) -> Result<(), CliError> {
    let ready = join_all(nodes.iter().map(|node| node.wait_ready(READY_WITHIN))).await;
    match ready.iter().position(|ready| !ready) {
        None => Ok(()),
        Some(at) => {
            let seconds = READY_WITHIN.as_secs();
            Err(CliError::Start(format!("node {} was not ready after {seconds} s; RUST_LOG=info shows why", at + 1)))
        }
    }
}

fn welcome(home: &Home, http: SocketAddr, grpc: SocketAddr, took: Duration) -> String {
    let folder = home.folder.display();
    let count = home.nodes.len();
    let nodes = if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") };
    let line = |name: &str, value: String| format!("  {:<7}{value}\n", style(name).dim());
    let mut text =
        format!("{} with {nodes} in {folder}, ready in {:.1} s\n\n", style("mira dev").bold(), took.as_secs_f64());
    text += &line("MCP", format!("http://{http}/mcp"));
    text += &line("REST", format!("http://{http}/mcp/<tool>, described at http://{http}/openapi.json"));
    text += &line("gRPC", format!("http://{grpc}, mira.v1"));
    text += &line("token", format!("{folder}/token"));
    text += "\nAdd it to Claude Code:\n";
    text += &format!(
        "  claude mcp add --transport http mira http://{http}/mcp --header \"Authorization: Bearer {}\"\n",
        home.token
    );
    text += "\nTry it from another shell:\n";
    text += &format!("  {}mira store \"The deploy key lives in the vault under ci/deploy\"\n", environment(home, http));
    text += &format!("  {}mira search \"where is the deploy key?\"\n", environment(home, http));
    text += "\nCtrl-C stops it; what it remembers stays.\n";
    text
}

/// What a client must be told, where the defaults do not fit.
fn environment(home: &Home, http: SocketAddr) -> String {
    let mut text = String::new();
    if http != SocketAddr::from((Ipv4Addr::LOCALHOST, 7890)) {
        text += &format!("MIRA_URL=http://{http} ");
    }
    if default_data_folder().as_ref() != Some(&home.folder) {
        text += &format!("MIRA_TOKEN_FILE={}/token ", home.folder.display());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_chosen_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("nodes.json");
        let first = addresses(&file, Some(2), 0).unwrap();
        assert_eq!(first.len(), 2);
        assert_eq!(addresses(&file, None, 0).unwrap(), first);
        assert!(addresses(&file, Some(3), 0).is_err());
    }

    #[test]
    fn a_taken_port_is_avoided() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = listener.local_addr().unwrap().port();
        let chosen = choose_addresses(3, taken - 2).unwrap();
        assert!(chosen.iter().all(|node| node.grpc.port() != taken && node.http.port() != taken));
        let mut ports: Vec<_> = chosen.iter().flat_map(|node| [node.grpc.port(), node.http.port()]).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 6);
    }
}
