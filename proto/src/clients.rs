//! The clients of a node's services, as routers and other nodes use them, over one connection.

use tonic::transport::Channel;

use crate::limits;
use crate::node_v1::backup_service_client::BackupServiceClient;
use crate::node_v1::cluster_service_client::ClusterServiceClient;
use crate::node_v1::key_service_client::KeyServiceClient;
use crate::node_v1::migration_service_client::MigrationServiceClient;
use crate::node_v1::shard_service_client::ShardServiceClient;

/// Beside its frames a message has ids and lengths.
const MESSAGE_SLACK_BYTES: usize = 1 << 20;
const MAX_WIRE_BYTES: usize = limits::MAX_MESSAGE_BYTES + MESSAGE_SLACK_BYTES;

/// The clients of one node.
#[derive(Debug, Clone)]
pub struct NodeClients(Channel);

/// Makes one client over the node's connection, with the bounds that hold for all.
macro_rules! client {
    ($(#[$doc:meta])* $name:ident: $client:ident) => {
        $(#[$doc])*
        pub fn $name(&self) -> $client<Channel> {
            $client::new(self.0.clone())
                .max_decoding_message_size(MAX_WIRE_BYTES)
                .max_encoding_message_size(MAX_WIRE_BYTES)
        }
    };
}

impl NodeClients {
    /// Over a channel to the node.
    pub fn new(channel: Channel) -> Self {
        NodeClients(channel)
    }

    client! {
        /// Reads and writes of its shards.
        shards: ShardServiceClient
    }
    client! {
        /// The cluster as a whole.
        cluster: ClusterServiceClient
    }
    client! {
        /// Keys, and the records of owners.
        keys: KeyServiceClient
    }
    client! {
        /// Collections on their way to more shards.
        migration: MigrationServiceClient
    }
    client! {
        /// Backup and restore.
        backup: BackupServiceClient
    }
}
