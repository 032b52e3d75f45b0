//! Where the other nodes are, and clients to ask them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use mira_proto::{NodeId, Refusal, limits, node_v1::node_client::NodeClient};
use mira_raft::transport::grpc::Peers;
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

use crate::meta::ClusterState;

/// Time to connect to a peer, and between two signs of life on an idle connection.
const CONNECT: Duration = Duration::from_secs(1);

/// A node's client.
pub type Client = NodeClient<Channel>;

/// Finds nodes by id in the replicated cluster state.
pub struct AddressBook {
    cluster: watch::Receiver<Arc<ClusterState>>,
    /// Connections for questions outside of replication, by address.
    clients: Mutex<HashMap<String, Channel>>,
}

impl AddressBook {
    /// A book that follows the cluster state.
    pub fn new(cluster: watch::Receiver<Arc<ClusterState>>) -> Arc<Self> {
        Arc::new(AddressBook { cluster, clients: Mutex::default() })
    }

    /// A client for a node by its address; connects when it is first used.
    pub fn client(&self, address: &str) -> Result<Client, tonic::Status> {
        let mut clients = self.clients.lock();
        let channel = match clients.get(address) {
            Some(channel) => channel.clone(),
            None => {
                let endpoint = Endpoint::from_shared(format!("http://{address}"))
                    .map_err(|error| tonic::Status::invalid_argument(format!("address {address:?}: {error}")))?
                    .connect_timeout(CONNECT)
                    .tcp_nodelay(true);
                let channel = endpoint.connect_lazy();
                clients.insert(address.to_owned(), channel.clone());
                channel
            }
        };
        Ok(NodeClient::new(channel).max_decoding_message_size(limits::MAX_MESSAGE_BYTES))
    }

    /// Asks one node after the other until one answers; the last refusal if none does.
    pub async fn ask<T, F>(&self, nodes: &[NodeId], send: impl Fn(Client) -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let mut last = Refusal::NotReady("the shard has no replica".into());
        for &node in nodes {
            let asked = match self.client_of(node) {
                Ok(client) => tokio::time::timeout(limits::WRITE_TRY, send(client)).await,
                Err(status) => Ok(Err(status)),
            };
            match asked {
                Ok(Ok(reply)) => return Ok(reply.into_inner()),
                Ok(Err(status)) => last = status.into(),
                Err(_) => last = Refusal::Unknown(format!("node {node:016x} did not answer")),
            }
        }
        Err(last)
    }

    /// A client for a node by its id.
    pub fn client_of(&self, node: NodeId) -> Result<Client, tonic::Status> {
        let known = self.cluster.borrow().nodes.get(&node).map(|record| record.address.clone());
        self.client(&known.ok_or_else(|| tonic::Status::unavailable(format!("node {node} is unknown")))?)
    }
}

impl Peers for AddressBook {
    fn address(&self, node: NodeId) -> Option<String> {
        self.cluster.borrow().nodes.get(&node).map(|record| format!("http://{}", record.address))
    }
}
