//! The node's gRPC: one file a service, each method four lines over [`Node`], its shards or [`crate::meta::admin`].

mod backup;
mod cluster;
pub mod http;
mod keys;
mod migration;
mod shard;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mira_net::ServerSettings;
use mira_proto::{
    Code, HEADER_VERSION, Problem, Refusal, ShardId, limits,
    node_v1::{
        self, backup_service_server::BackupServiceServer, cluster_service_server::ClusterServiceServer,
        key_service_server::KeyServiceServer, migration_service_server::MigrationServiceServer,
        shard_service_server::ShardServiceServer,
    },
};
use mira_raft::transport::grpc::RaftService;
use tokio::{net::TcpListener, sync::watch};
use tonic::{Response, Status, service::Routes};

use crate::node::Node;

/// For requests under way when the node stops.
const DRAIN: Duration = Duration::from_secs(2);

/// A service whose messages have the size that every message of a node may have.
macro_rules! bounded {
    ($server:ident, $service:expr) => {
        $server::new($service)
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_MESSAGE_BYTES)
    };
}

/// Serves until told to stop, and then until the requests under way are answered.
pub async fn serve(
    node: Arc<Node>,
    listener: TcpListener,
    settings: ServerSettings,
    mut stopped: watch::Receiver<bool>,
) {
    let raft = RaftService::new(node.id(), node.host().clone());
    let service = NodeService(node);
    let app = Routes::new(raft)
        .add_service(bounded!(ShardServiceServer, service.clone()))
        .add_service(bounded!(ClusterServiceServer, service.clone()))
        .add_service(bounded!(KeyServiceServer, service.clone()))
        .add_service(bounded!(MigrationServiceServer, service.clone()))
        .add_service(bounded!(BackupServiceServer, service))
        .into_axum_router();
    // Replication streams of peers never end by themselves, so the drain always takes as long as it may.
    let settings = ServerSettings { drain: DRAIN, ..settings };
    let stop = async {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    mira_net::serve(listener, app, settings, stop).await;
}

#[derive(Clone)]
struct NodeService(Arc<Node>);

type Answer<T> = Result<Response<T>, Status>;

impl NodeService {
    /// Times an operation of a shard and turns its refusal into a status.
    async fn timed<T>(&self, operation: &str, work: impl Future<Output = Result<T, Refusal>>) -> Answer<T> {
        let started = Instant::now();
        let result = work.await;
        self.0.metrics.operation("shard", operation, started.elapsed());
        Ok(Response::new(result?))
    }
}

/// The shard that a read or a write is meant for.
fn header_shard(header: &Option<impl RequestHeader>) -> Result<ShardId, Problem> {
    let header = header.as_ref().ok_or_else(|| Problem::invalid("the header is missing"))?;
    if header.version() > HEADER_VERSION {
        let detail = format!("the header has version {}, this node knows {HEADER_VERSION}", header.version());
        return Err(Problem::new(Code::UnsupportedVersion, detail));
    }
    Ok(header.shard())
}

/// What the headers of reads and of writes have in common.
trait RequestHeader {
    fn version(&self) -> u32;
    fn shard(&self) -> ShardId;
}

impl RequestHeader for node_v1::ReadHeader {
    fn version(&self) -> u32 {
        self.version
    }

    fn shard(&self) -> ShardId {
        self.shard
    }
}

impl RequestHeader for node_v1::WriteHeader {
    fn version(&self) -> u32 {
        self.version
    }

    fn shard(&self) -> ShardId {
        self.shard
    }
}
