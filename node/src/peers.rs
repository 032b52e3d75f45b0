//! The way to the other nodes of the cluster: what is asked of them, and the clients that ask.

use std::{fmt::Display, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use mira_net::Channels;
use mira_proto::{NodeId, Refusal, clients::NodeClients, limits, node_v1};
use mira_raft::transport::grpc::Peers;
use mira_raft::{Runtime, TokioRuntime};
use tokio::sync::watch;

use crate::meta::ClusterState;

/// What the drivers of a node's own replicas ask of another node. Who asks bounds the time; an answer that does not come
/// is [`Refusal::Unknown`].
///
/// [`AddressBook`] asks by gRPC, a simulator over its own network.
#[async_trait]
pub trait Peer: Send + Sync + 'static {
    /// Has the leader of the meta group apply a sealed command; returns the answer as the state machine encoded it.
    async fn propose_meta(&self, leader: NodeId, sealed: Bytes) -> Result<Bytes, Refusal>;

    /// The map as the leader of the meta group has it, after a quorum has confirmed that it leads.
    async fn confirmed_map(&self, leader: NodeId) -> Result<node_v1::ClusterMap, Refusal>;

    /// How a node's replicas are.
    async fn status(&self, node: NodeId) -> Result<node_v1::NodeStatus, Refusal>;

    /// Has the leader of a source begin a pass over its frames.
    async fn begin_pass(
        &self,
        node: NodeId,
        request: node_v1::BeginPassRequest,
    ) -> Result<node_v1::BeginPassReply, Refusal>;

    /// The next page of a pass over a source's frames.
    async fn export(&self, node: NodeId, request: node_v1::ExportRequest) -> Result<node_v1::ExportReply, Refusal>;
}

#[async_trait]
impl Peer for AddressBook {
    async fn propose_meta(&self, leader: NodeId, sealed: Bytes) -> Result<Bytes, Refusal> {
        let request = node_v1::ProposeMetaRequest { sealed };
        Ok(self.client_of(leader)?.cluster().propose_meta(request).await?.into_inner().answer)
    }

    async fn confirmed_map(&self, leader: NodeId) -> Result<node_v1::ClusterMap, Refusal> {
        let request = node_v1::GetMapRequest { linearizable: true, ..Default::default() };
        Ok(self.client_of(leader)?.cluster().get_map(request).await?.into_inner())
    }

    async fn status(&self, node: NodeId) -> Result<node_v1::NodeStatus, Refusal> {
        let request = node_v1::StatusRequest::default();
        Ok(self.client_of(node)?.cluster().status(request).await?.into_inner())
    }

    async fn begin_pass(
        &self,
        node: NodeId,
        request: node_v1::BeginPassRequest,
    ) -> Result<node_v1::BeginPassReply, Refusal> {
        Ok(self.client_of(node)?.migration().begin_pass(request).await?.into_inner())
    }

    async fn export(&self, node: NodeId, request: node_v1::ExportRequest) -> Result<node_v1::ExportReply, Refusal> {
        Ok(self.client_of(node)?.migration().export(request).await?.into_inner())
    }
}

/// The outcome of `asked`, or that `whom` did not answer in this time.
pub async fn within<R: Runtime, T: Send>(
    time: Duration,
    asked: impl Future<Output = Result<T, Refusal>> + Send,
    whom: impl Display + Send,
) -> Result<T, Refusal> {
    match R::timeout(time, asked).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Refusal::Unknown(format!("{whom} did not answer"))),
    }
}

/// Asks one node after the other until one answers; the last refusal if none does.
pub async fn ask_in_turn<R: Runtime, T: Send, F>(nodes: &[NodeId], send: impl Fn(NodeId) -> F) -> Result<T, Refusal>
where
    F: Future<Output = Result<T, Refusal>> + Send,
{
    let mut last = Refusal::NotReady("the shard has no replica".into());
    for &node in nodes {
        match within::<R, T>(limits::WRITE_TRY, send(node), format!("node {node:016x}")).await {
            Ok(reply) => return Ok(reply),
            Err(refusal) => last = refusal,
        }
    }
    Err(last)
}

/// Finds nodes by id in the replicated cluster state.
pub struct AddressBook {
    cluster: watch::Receiver<Arc<ClusterState>>,
    /// Connections for questions outside of replication.
    channels: Channels,
}

impl AddressBook {
    /// A book that follows the cluster state.
    pub fn new(cluster: watch::Receiver<Arc<ClusterState>>) -> Arc<Self> {
        Arc::new(AddressBook { cluster, channels: Channels::default() })
    }

    /// A client for a node by its address; connects when it is first used.
    pub fn client(&self, address: &str) -> Result<NodeClients, tonic::Status> {
        let channel = self.channels.get(address);
        channel.map(NodeClients::new).map_err(|error| tonic::Status::invalid_argument(error.to_string()))
    }

    /// Asks one node after the other until one answers; the last refusal if none does.
    pub async fn ask<T: Send, F>(&self, nodes: &[NodeId], send: impl Fn(NodeClients) -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>> + Send,
    {
        let send = |node| {
            let asked = self.client_of(node).map(&send);
            async move { Ok(asked?.await?.into_inner()) }
        };
        ask_in_turn::<TokioRuntime, T, _>(nodes, send).await
    }

    /// A client for a node by its id.
    pub fn client_of(&self, node: NodeId) -> Result<NodeClients, tonic::Status> {
        let known = self.cluster.borrow().nodes.get(&node).map(|record| record.address.clone());
        self.client(&known.ok_or_else(|| tonic::Status::unavailable(format!("node {node} is unknown")))?)
    }
}

impl Peers for AddressBook {
    fn address(&self, node: NodeId) -> Option<String> {
        self.cluster.borrow().nodes.get(&node).map(|record| record.address.clone())
    }
}
