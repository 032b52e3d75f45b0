//! Where the other nodes are, and clients to ask them.

use std::sync::Arc;

use mira_net::Channels;
use mira_proto::{NodeId, Refusal, limits, node_v1};
use mira_raft::transport::grpc::Peers;
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::meta::ClusterState;

/// Clients of a node's services, over one connection.
#[derive(Clone)]
pub struct Client(Channel);

/// A client of one service, which takes messages of the size that every message of a node may have.
macro_rules! services {
    ($($name:ident: $module:ident::$client:ident, $doc:literal;)+) => {
        impl Client {
            $(
                #[doc = $doc]
                pub fn $name(&self) -> node_v1::$module::$client<Channel> {
                    node_v1::$module::$client::new(self.0.clone()).max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
                }
            )+
        }
    };
}

services! {
    shards: shard_service_client::ShardServiceClient, "Reads and writes of its shards.";
    cluster: cluster_service_client::ClusterServiceClient, "The cluster as a whole.";
    keys: key_service_client::KeyServiceClient, "Keys and owners.";
    migration: migration_service_client::MigrationServiceClient, "Collections that move to more shards.";
    backup: backup_service_client::BackupServiceClient, "Backup and restore.";
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
    pub fn client(&self, address: &str) -> Result<Client, tonic::Status> {
        let channel = self.channels.get(address);
        channel.map(Client).map_err(|error| tonic::Status::invalid_argument(error.to_string()))
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
        self.cluster.borrow().nodes.get(&node).map(|record| record.address.clone())
    }
}
