//! A node's way to its peers, over the simulated network.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use mira_node::meta::ClusterState;
use mira_node::peers::Peer;
use mira_proto::{NodeId, Problem, Refusal, node_v1};
use tokio::sync::watch;

use super::network::Network;
use super::plan::Bug;
use super::protocol::{Answer, Ask};
use super::world::World;

/// What a process sends to other nodes, for as long as it lives.
pub struct Links {
    /// The run.
    pub world: Arc<World>,
    /// Where it sends.
    pub network: Arc<Network>,
    /// Its node.
    pub node: NodeId,
    /// Which of the node's processes, in order.
    pub life: u64,
    /// The cluster as it knows it.
    pub cluster: watch::Receiver<Arc<ClusterState>>,
}

impl Links {
    async fn ask(&self, node: NodeId, ask: Ask) -> Result<Answer, Refusal> {
        if !self.network.lives(self.node, self.life) {
            return Err(Refusal::NotReady("this process is dead".into()));
        }
        self.network.ask(self.node, node, ask).await
    }
}

fn odd<T>(answer: &Answer) -> Result<T, Refusal> {
    Err(Problem::internal(format!("a peer answered with {answer:?}")).into())
}

#[async_trait]
impl Peer for Links {
    async fn propose_meta(&self, leader: NodeId, sealed: Bytes) -> Result<Bytes, Refusal> {
        match self.ask(leader, Ask::Propose(sealed)).await? {
            Answer::Proposed(answer) => Ok(answer),
            other => odd(&other),
        }
    }

    async fn confirmed_map(&self, leader: NodeId) -> Result<node_v1::ClusterMap, Refusal> {
        if self.world.has(Bug::DestroysUnconfirmed) {
            return Ok(self.cluster.borrow().to_map(0, |_| None, |_| Bytes::new()));
        }
        match self.ask(leader, Ask::ConfirmedMap).await? {
            Answer::ConfirmedMap(map) => Ok(map),
            other => odd(&other),
        }
    }

    async fn status(&self, node: NodeId) -> Result<node_v1::NodeStatus, Refusal> {
        match self.ask(node, Ask::Status).await? {
            Answer::Status(status) => Ok(status),
            other => odd(&other),
        }
    }

    async fn begin_pass(
        &self,
        node: NodeId,
        mut request: node_v1::BeginPassRequest,
    ) -> Result<node_v1::BeginPassReply, Refusal> {
        request.freeze &= !self.world.has(Bug::OpensUnfrozen);
        match self.ask(node, Ask::BeginPass(request)).await? {
            Answer::PassBegun(reply) => Ok(reply),
            other => odd(&other),
        }
    }

    async fn export(&self, node: NodeId, request: node_v1::ExportRequest) -> Result<node_v1::ExportReply, Refusal> {
        match self.ask(node, Ask::Export(request)).await? {
            Answer::Exported(reply) => Ok(reply),
            other => odd(&other),
        }
    }
}
