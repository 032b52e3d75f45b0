//! Starting a router, and stopping it without cutting anyone off.

use std::net::SocketAddr;
use std::sync::Arc;

use mira_embed::EmbedError;
use mira_net::ServerSettings;
use mira_proto::limits;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::{self, Api};
use crate::cluster::Cluster;
use crate::embedding::Embedding;
use crate::metrics::Metrics;
use crate::{AccessToken, Memory, RouterConfig};

/// Why a router could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No tokens, and nobody said that this is meant.
    #[error("no token is set: give the router a token, or say explicitly that it may serve without")]
    NoToken,
    /// No node to ask for the cluster map.
    #[error("no storage node is given: the router needs the address of at least one")]
    NoNode,
    /// An address is taken or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The embedding threads did not start.
    #[error(transparent)]
    Embedding(#[from] EmbedError),
}

/// Starts routers.
pub struct Router;

/// A router that serves. Dropping it stops serving at once; [`RunningRouter::shutdown`] lets requests end first.
pub struct RunningRouter {
    /// Where HTTP is served.
    pub http_addr: SocketAddr,
    /// Where gRPC is served.
    pub grpc_addr: SocketAddr,
    api: Arc<Api>,
    stop: CancellationToken,
    servers: Vec<JoinHandle<()>>,
    map_follower: JoinHandle<()>,
}

impl Router {
    /// Binds the ports and begins to serve. The cluster need not be up yet: until it is, requests are `unavailable`
    /// and `/readyz` says no.
    pub async fn start(config: RouterConfig) -> Result<RunningRouter, StartError> {
        if config.tokens.is_empty() && !config.insecure_without_tokens {
            return Err(StartError::NoToken);
        }
        if config.nodes.is_empty() {
            return Err(StartError::NoNode);
        }
        let (http, http_addr) = listen(config.http).await?;
        let (grpc, grpc_addr) = listen(config.grpc).await?;
        let metrics = Arc::new(Metrics::new());
        let cluster = Arc::new(Cluster::new(config.nodes.clone(), metrics.clone()));
        let embedding = Embedding::start(config.embedder.clone(), metrics.clone())?;
        let memory = Arc::new(Memory::new(cluster.clone(), embedding, metrics.clone()));
        memory.owners.set_cost(config.passphrase_cost);
        let api = Arc::new(Api::new(memory, metrics, &config));
        let follower = cluster.clone();
        let map_follower = tokio::spawn(async move { follower.follow_map().await });
        let stop = CancellationToken::new();
        let app = api::rest::app(api.clone(), http_addr);
        let settings = settings(config.connections);
        let servers = vec![
            tokio::spawn(mira_net::serve(http, app, settings.clone(), stop.clone().cancelled_owned())),
            tokio::spawn(api::grpc::serve(grpc, api.clone(), settings, stop.clone())),
        ];
        info!(%http_addr, %grpc_addr, nodes = ?config.nodes, "router serves");
        Ok(RunningRouter { http_addr, grpc_addr, api, stop, servers, map_follower })
    }
}

impl RunningRouter {
    /// Lets the holders of these tokens in from the next request on, and nobody else; refused without any, because then the
    /// door would stand open.
    pub fn replace_tokens(&self, tokens: &[AccessToken]) -> Result<(), StartError> {
        if tokens.is_empty() {
            return Err(StartError::NoToken);
        }
        self.api.gate.replace(tokens);
        Ok(())
    }

    /// Takes no new requests, waits for those at work (at most [`limits::SHUTDOWN_DRAIN`]), and ends.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        for server in &mut self.servers {
            if let Err(error) = server.await {
                warn!(%error, "a server ended by itself");
            }
        }
        info!("router stopped");
    }
}

impl Drop for RunningRouter {
    fn drop(&mut self) {
        self.stop.cancel();
        self.map_follower.abort();
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    mira_net::listen(address).await.map_err(|source| StartError::Listen { address, source })
}

/// How both ports are served.
pub(crate) fn settings(connections: usize) -> ServerSettings {
    ServerSettings { drain: limits::SHUTDOWN_DRAIN, connections, ..ServerSettings::public() }
}
