//! A node alone, and one of its shards as a router uses it; several nodes are in [`cluster`].

pub mod cluster;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mira_crypto::ClusterKey;
use mira_node::{FixedKeys, Formation, NodeConfig, RunningNode, Shape, StartError};
pub use mira_proto::clients::NodeClients;
use mira_proto::{Refusal, node_v1};
use mira_raft::Clock;
use mira_testing::{eventually, keys::KEY};
use tonic::transport::Endpoint;

/// Clients of a node at an address.
pub async fn connect(address: SocketAddr) -> Result<NodeClients, tonic::transport::Error> {
    Ok(NodeClients::new(Endpoint::from_shared(format!("http://{address}"))?.connect().await?))
}

/// For a stopped node to let its folder go.
const FREE: Duration = Duration::from_secs(60);

pub const DIM: u32 = 4;
pub const ALONE: Shape = Shape { shards: 2, replication: 1, expect: 1 };

pub fn config(folder: &Path, formation: Formation) -> NodeConfig {
    let key = FixedKeys::new([&ClusterKey::from_text(KEY).expect("a key")]);
    let any = "127.0.0.1:0".parse().expect("an address");
    NodeConfig { listen: any, http_listen: any, ..NodeConfig::new(folder.to_owned(), key, formation) }
}

/// Starts a node; waits until an earlier one in this process has let its folder go.
pub async fn start_with(config: impl Fn() -> NodeConfig) -> Result<RunningNode, StartError> {
    eventually("the folder is free", FREE, async || match RunningNode::start(config()).await {
        Err(StartError::Engine(error)) if error.to_string().contains("lock hold") => None,
        other => Some(other),
    })
    .await
}

pub async fn start(folder: &Path) -> (RunningNode, NodeClients) {
    let node = RunningNode::start(config(folder, Formation::Bootstrap(ALONE))).await.expect("the node starts");
    assert!(node.wait_ready(Duration::from_secs(30)).await, "the node is not ready");
    let client = connect(node.grpc_address()).await.expect("a connection");
    (node, client)
}

/// A collection on shard `shard`, as its leader.
pub struct Shard {
    pub client: NodeClients,
    pub collection: u64,
    pub shard: u32,
    pub epoch: u64,
}

impl Shard {
    pub async fn new(client: NodeClients, name: &str) -> Shard {
        Shard::quantised(client, name, node_v1::Quantization::Int8).await
    }

    pub async fn quantised(client: NodeClients, name: &str, quantization: node_v1::Quantization) -> Shard {
        let request = node_v1::CreateCollectionRequest {
            name: name.into(),
            dim: DIM,
            metric: node_v1::Metric::Cosine.into(),
            quantization: quantization.into(),
            partitions: 1,
            ..Default::default()
        };
        Shard::created(client, request).await
    }

    pub async fn created(client: NodeClients, request: node_v1::CreateCollectionRequest) -> Shard {
        let collection = client.cluster().create_collection(request).await.expect("a collection").into_inner();
        let map = client.cluster().get_map(node_v1::GetMapRequest::default()).await.expect("a map").into_inner();
        Shard { client, collection: collection.id, shard: 0, epoch: map.epoch }
    }

    pub async fn write(&self, frames: Vec<node_v1::FrameWrite>) -> Result<node_v1::WriteReply, Refusal> {
        self.write_as(rand::random(), frames).await
    }

    pub async fn write_as(
        &self,
        request_id: u128,
        frames: Vec<node_v1::FrameWrite>,
    ) -> Result<node_v1::WriteReply, Refusal> {
        let request = node_v1::WriteRequest {
            header: Some(node_v1::WriteHeader {
                epoch: self.epoch,
                shard: self.shard,
                collection: self.collection,
                request_id: request_id.to_be_bytes().to_vec().into(),
                ..Default::default()
            }),
            frames,
            ..Default::default()
        };
        Ok(self.client.clone().shards().write(request).await?.into_inner())
    }

    pub async fn one(&self, frame: node_v1::FrameWrite) -> Result<u64, mira_proto::Problem> {
        let reply = self.write(vec![frame]).await.expect("an answer");
        let outcome = reply.outcomes.into_iter().next().expect("one outcome");
        outcome.problem.map_or(Ok(outcome.version), |problem| Err(problem.into()))
    }

    pub async fn search(&self, vector: [f32; 4], k: u32) -> Result<Vec<(u128, f32)>, Refusal> {
        self.search_as(vector, k, false).await
    }

    pub async fn search_as(&self, vector: [f32; 4], k: u32, exact: bool) -> Result<Vec<(u128, f32)>, Refusal> {
        let request = node_v1::SearchRequest {
            header: Some(node_v1::ReadHeader {
                epoch: self.epoch,
                shard: self.shard,
                collection: self.collection,
                ..Default::default()
            }),
            vector: vector.to_vec(),
            k,
            exact,
            ..Default::default()
        };
        let reply = self.client.clone().shards().search(request).await?.into_inner();
        Ok(reply.hits.into_iter().map(|hit| (number(&hit.id), hit.score)).collect())
    }

    pub async fn fetch(&self, ids: &[u128]) -> Vec<node_v1::Frame> {
        self.fetch_as(ids, node_v1::FetchRequest::default()).await
    }

    /// What the request says beside ids and header.
    pub async fn fetch_as(&self, ids: &[u128], request: node_v1::FetchRequest) -> Vec<node_v1::Frame> {
        let request = node_v1::FetchRequest {
            header: Some(node_v1::ReadHeader {
                epoch: self.epoch,
                shard: self.shard,
                collection: self.collection,
                level: Some(node_v1::ReadLevel {
                    kind: node_v1::read_level::Kind::Linearizable as i32,
                    at_least: 0,
                    last_resort: false,
                }),
                ..Default::default()
            }),
            ids: ids.iter().map(|id| id.to_be_bytes().to_vec().into()).collect(),
            ..request
        };
        self.client.clone().shards().fetch(request).await.expect("an answer").into_inner().frames
    }

    pub async fn forget(&self, request: node_v1::ForgetRequest) -> Vec<u128> {
        self.forgotten(request).await.removed.iter().map(|id| number(id)).collect()
    }

    pub async fn forgotten(&self, request: node_v1::ForgetRequest) -> node_v1::ForgetReply {
        let request = node_v1::ForgetRequest {
            header: Some(node_v1::WriteHeader {
                epoch: self.epoch,
                shard: self.shard,
                collection: self.collection,
                request_id: rand::random::<u128>().to_be_bytes().to_vec().into(),
                ..Default::default()
            }),
            ..request
        };
        self.client.clone().shards().forget(request).await.expect("an answer").into_inner()
    }

    pub async fn session(&self, limit: u32, last: bool) -> Vec<u128> {
        let request = node_v1::SessionRequest {
            header: Some(node_v1::ReadHeader {
                epoch: self.epoch,
                shard: self.shard,
                collection: self.collection,
                ..Default::default()
            }),
            session: "talk".into(),
            limit,
            last,
            ..Default::default()
        };
        let reply = self.client.clone().shards().session(request).await.expect("an answer").into_inner();
        reply.frames.iter().map(|frame| number(&frame.id)).collect()
    }
}

/// A clock that goes when it is told to.
#[derive(Clone)]
pub struct SetClock(pub Arc<AtomicU64>);

impl Clock for SetClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What time it is in the tests of clocks.
pub const NOON_MS: u64 = 1_800_000_000_000;
pub const DAY_MS: u64 = 86_400_000;

pub fn number(id: &[u8]) -> u128 {
    u128::from_be_bytes(id.try_into().expect("16 bytes"))
}

pub fn frame(id: u128, content: &str, vector: [f32; 4]) -> node_v1::FrameWrite {
    node_v1::FrameWrite {
        id: id.to_be_bytes().to_vec().into(),
        content: content.to_owned().into_bytes().into(),
        text: true,
        r#type: "general".into(),
        metadata_json: r#"{"n":1}"#.into(),
        passages: vec![node_v1::Passage { start: 0, end: 0, vector: vector.to_vec() }],
        vector_given: true,
        ..Default::default()
    }
}

pub const EAST: [f32; 4] = [1.0, 0.0, 0.0, 0.0];
pub const NORTH: [f32; 4] = [0.0, 1.0, 0.0, 0.0];
