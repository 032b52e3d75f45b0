//! A node that serves: the one place that puts a [`Node`], its listeners and everything that runs beside them together.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use mira_proto::limits;
use mira_raft::engine::Closing;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    background::{
        Background, Trigger,
        chunk_gc::ChunkGc,
        erasure::{self, ErasureJob},
        expiry::ExpiryJob,
        format_level::{self, FormatLevelJob},
        key_rotation::{self, KeyRotationJob},
        migration::{self, Migration},
        verification::{self, VerificationJob},
    },
    config::NodeConfig,
    error::StartError,
    meta::NodeRecord,
    node::Node,
    placement::{formation, keeper},
    service::{self, http},
};

/// For the last readers of a stopping node's data to end.
const CLOSE: Duration = Duration::from_secs(5);

/// A node that serves. Dropping it stops it hard; [`RunningNode::shutdown`] stops it in order.
pub struct RunningNode {
    node: Arc<Node>,
    grpc_address: SocketAddr,
    http_address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    engines: Vec<Closing>,
}

impl RunningNode {
    /// Opens the data folder and serves; forming or joining a cluster goes on in the background.
    pub async fn start(config: NodeConfig) -> Result<Self, StartError> {
        let (node, engines) = Node::open(&config).await?;
        let (grpc_listener, grpc_address) = listen(config.listen).await?;
        let (http_listener, http_address) = listen(config.http_listen).await?;
        let advertise = config.advertise.clone().unwrap_or_else(|| grpc_address.to_string());
        let me = NodeRecord {
            id: node.id(),
            http_address: with_port(&advertise, http_address.port()),
            address: advertise,
            zone: config.zone.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            format: mira_proto::FORMAT_LEVEL,
        };
        let (stop, stopped) = watch::channel(false);
        let background = Background { metrics: node.metrics.clone(), stopped: stopped.clone() };
        let mut tasks = spawn_jobs(&node, &config, &background);
        tasks.extend([
            tokio::spawn(service::serve(node.clone(), grpc_listener, config.server(), stopped.clone())),
            tokio::spawn(http::serve(node.clone(), http_listener, config.server(), stopped.clone())),
            tokio::spawn(keeper::reconcile_loop(node.clone(), stopped.clone())),
            tokio::spawn(until_stopped(stopped, {
                let node = node.clone();
                async move { formation::form(&node, &config.formation, &me).await }
            })),
        ]);
        tracing::info!(node = %format_args!("{:016x}", node.id()), grpc = %grpc_address, http = %http_address, "node started");
        Ok(RunningNode { node, grpc_address, http_address, tasks, stop, engines })
    }

    /// The node.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Where gRPC listens.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// Where HTTP listens.
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// Waits until the node has a cluster and all its shards have leaders; false if not in time.
    pub async fn wait_ready(&self, timeout: Duration) -> bool {
        let ready = async {
            while !self.node.ready() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(timeout, ready).await.is_ok()
    }

    /// Hands leadership over, answers what is under way, makes everything durable, and lets the data folder go.
    pub async fn shutdown(mut self) {
        let engines = std::mem::take(&mut self.engines);
        self.stop().await;
        drop(self);
        // The engine's own threads must end before the process does, and whoever opens the folder next must find it free.
        let closed = async {
            while !engines.iter().all(Closing::is_done) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(CLOSE, closed).await {
            Ok(()) => tracing::info!("node stopped"),
            Err(_) => tracing::warn!("node stopped, but something still reads its data"),
        }
    }

    async fn stop(&mut self) {
        // What waits for a full disk holds up everything that is waited for here.
        self.node.host().stop_waiting_for_room();
        let moved = self.node.hand_over().await;
        tracing::info!(moved, "leadership handed over");
        self.stop.send_replace(true);
        futures::future::join_all(self.tasks.drain(..)).await;
        self.node.recoveries().clear();
        self.node.host().shutdown().await;
        // Nothing is applied any more, so the images are those of the state.
        let node = self.node.clone();
        let saved = tokio::task::spawn_blocking(move || {
            node.shards().iter().for_each(|(_, shard)| shard.index().save_images());
        });
        if let Err(error) = saved.await {
            tracing::error!(%error, "index images not written");
        }
    }
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Starts what the node does by itself.
fn spawn_jobs(node: &Arc<Node>, config: &NodeConfig, background: &Background) -> Vec<JoinHandle<()>> {
    let cluster = Trigger::Cluster(node.watch_cluster());
    let nodes = Trigger::Cluster(node.watch_cluster());
    let migration = Migration::new(node.member().clone());
    let key_rotation = KeyRotationJob { node: node.clone(), cursors: key_rotation::ResealCursors::new() };
    let chunk_gc = ChunkGc { node: node.clone(), idle: config.chunk_gc.idle };
    let mut tasks = vec![
        background.spawn_periodic("migration", migration::EVERY, cluster, migration),
        background.spawn_periodic("key_rotation", key_rotation::EVERY, Trigger::None, key_rotation),
        background.spawn_periodic("erasure", erasure::EVERY, Trigger::None, ErasureJob(node.clone())),
        background.spawn_periodic("format_level", format_level::EVERY, nodes, FormatLevelJob(node.clone())),
        background.spawn_periodic("expiry", limits::SWEEP_EVERY, Trigger::None, ExpiryJob(node.clone())),
        background.spawn_periodic("chunk_gc", config.chunk_gc.every, Trigger::None, chunk_gc),
    ];
    if let Some(every) = config.verification.every {
        let (node, repairs) = (node.clone(), config.verification.repairs);
        let verification = VerificationJob { node, every, repairs, due: BTreeMap::new() };
        let look_every = verification::look_every(every);
        tasks.push(background.spawn_periodic("verification", look_every, Trigger::None, verification));
    }
    tasks
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    mira_net::listen(address).await.map_err(|source| StartError::Listen { address, source })
}

/// The host of an address with another port.
fn with_port(address: &str, port: u16) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    format!("{host}:{port}")
}

async fn until_stopped(mut stopped: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
}
