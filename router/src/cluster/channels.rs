//! Connections to nodes: one channel per address, made when first used, shared by all requests.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::time::Duration;

use mira_proto::node_v1::node_client::NodeClient;
use mira_proto::{Code, Problem, Refusal, limits};
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};
use tonic::{ConnectError, Status};

use super::Client;

/// A node in the same network accepts within milliseconds; one that does not is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A node that vanished without closing its connections is noticed after two of these.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// The HTTP/2 window: frames of up to 1 MiB should not wait for the reader's permission.
const WINDOW_BYTES: u32 = 4 << 20;
/// Beside its frames a message has ids and lengths.
const MESSAGE_SLACK_BYTES: usize = 1 << 20;

/// Channels by address.
#[derive(Default)]
pub struct Channels {
    by_address: Mutex<HashMap<String, Channel>>,
}

impl Channels {
    /// A client for the node at `address` (host:port); connects when used.
    pub fn client(&self, address: &str) -> Result<Client, Status> {
        let mut channels = self.by_address.lock();
        let channel = match channels.get(address) {
            Some(channel) => channel.clone(),
            None => {
                let channel = connect(address)?;
                channels.insert(address.to_owned(), channel.clone());
                channel
            }
        };
        Ok(NodeClient::new(channel)
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES + MESSAGE_SLACK_BYTES)
            .max_encoding_message_size(limits::MAX_MESSAGE_BYTES + MESSAGE_SLACK_BYTES))
    }

    /// Drops the connections to nodes that have left.
    pub fn keep_only<'a>(&self, addresses: impl Iterator<Item = &'a String>) {
        let keep: HashSet<&String> = addresses.collect();
        self.by_address.lock().retain(|address, _| keep.contains(address));
    }
}

fn connect(address: &str) -> Result<Channel, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Status::unavailable(format!("{address} is no address of a node: {error}")))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .connect_lazy())
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
        let mut client = Channels::default().client(&free.to_string()).unwrap();
        let status = client.get_map(GetMapRequest::default()).await.unwrap_err();
        assert!(matches!(refusal_of(status), Refusal::NotReady(_)));
    }
}
