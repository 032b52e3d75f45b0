//! Clients of nodes: one connection per address, which the clients of a node's five services share.

use std::error::Error;

use mira_net::Channels;
use mira_proto::node_v1::backup_service_client::BackupServiceClient;
use mira_proto::node_v1::cluster_service_client::ClusterServiceClient;
use mira_proto::node_v1::key_service_client::KeyServiceClient;
use mira_proto::node_v1::migration_service_client::MigrationServiceClient;
use mira_proto::node_v1::shard_service_client::ShardServiceClient;
use mira_proto::{Code, Problem, Refusal, limits};
use tonic::transport::Channel;
use tonic::{ConnectError, Status};

/// Beside its frames a message has ids and lengths.
const MESSAGE_SLACK_BYTES: usize = 1 << 20;
const MAX_WIRE_BYTES: usize = limits::MAX_MESSAGE_BYTES + MESSAGE_SLACK_BYTES;

/// The clients of one node, a connection for all of them.
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

/// The connections to all nodes, each made when it is first used.
#[derive(Default)]
pub struct Connections(Channels);

impl Connections {
    /// The clients of the node at `address` (host:port).
    pub fn clients(&self, address: &str) -> Result<NodeClients, Status> {
        let channel = self.0.get(address);
        channel.map(NodeClients).map_err(|error| Status::unavailable(error.to_string()))
    }

    /// Drops the connections to nodes that have left.
    pub fn keep_only<'a>(&self, addresses: impl Iterator<Item = &'a String>) {
        self.0.keep_only(addresses);
    }
}

/// Reads why a node, or the way to it, refused.
///
/// Two cases that a bare status hides: a connection that was never made did nothing, so its outcome is not unknown; and
/// an answer over the message limit is the caller's to fix.
pub fn refusal_of(status: Status) -> Refusal {
    if status.details().is_empty() && never_connected(&status) {
        return Refusal::NotReady(status.message().to_owned());
    }
    if status.details().is_empty() && status.code() == tonic::Code::OutOfRange {
        let limit = limits::MAX_MESSAGE_BYTES >> 20;
        let detail = format!("the answer has more than {limit} MiB: ask for fewer frames at once");
        return Refusal::Problem(Problem::new(Code::TooLarge, detail));
    }
    status.into()
}

fn never_connected(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use mira_proto::node_v1::GetMapRequest;

    #[tokio::test]
    async fn a_refused_connection_is_no_unknown_outcome() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let clients = Connections::default().clients(&free.to_string()).unwrap();
        let status = clients.cluster().get_map(GetMapRequest::default()).await.unwrap_err();
        assert!(matches!(refusal_of(status), Refusal::NotReady(_)));
    }
}
