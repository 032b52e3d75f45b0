//! The connections to nodes: one for each address, which the clients of a node's services share.

use std::error::Error;

use mira_net::Channels;
use mira_proto::clients::NodeClients;
use mira_proto::{Code, Problem, Refusal, limits};
use tonic::{ConnectError, Status};

/// The connections to all nodes, each made when it is first used.
#[derive(Default)]
pub struct Connections(Channels);

impl Connections {
    /// The clients of the node at `address` (host:port).
    pub fn clients(&self, address: &str) -> Result<NodeClients, Status> {
        let channel = self.0.get(address);
        channel.map(NodeClients::new).map_err(|error| Status::unavailable(error.to_string()))
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
