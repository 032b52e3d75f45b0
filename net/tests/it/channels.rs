//! Channels, and gRPC on the port that serves HTTP/1 too.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use mira_net::{ChannelError, Channels, Dialer, ServerSettings};
use mira_proto::raft_v1::raft_client::RaftClient;
use tokio::net::TcpListener;
use tonic::transport::Channel;

use crate::support::{Server, envelopes};

async fn echoed(channel: Channel, ids: std::ops::Range<u64>) -> Vec<u64> {
    let stream = RaftClient::new(channel).exchange(envelopes(ids)).await.unwrap().into_inner();
    let answers: Vec<_> = stream.try_collect().await.unwrap();
    answers.into_iter().flat_map(|answer| answer.envelopes).map(|envelope| envelope.id).collect()
}

#[tokio::test]
async fn one_port_serves_both_versions() {
    let server = Server::start(ServerSettings::default()).await;
    let channel = Dialer::default().connect(&server.address.to_string()).await.unwrap();
    assert_eq!(echoed(channel, 1..4).await, [0, 1, 2, 3]);
    server.connect().await.get("/", "hello").await;
}

#[tokio::test]
async fn an_endless_stream_is_not_idle() {
    let idle_timeout = Duration::from_millis(200);
    let settings = ServerSettings { idle_timeout, drain: idle_timeout, ..ServerSettings::default() };
    let server = Server::start(settings).await;
    let channel = Dialer::default().connect(&server.address.to_string()).await.unwrap();
    let endless = envelopes([1]).chain(futures::stream::pending());
    let mut stream = RaftClient::new(channel).exchange(endless).await.unwrap().into_inner();
    let peer = stream.message().await.unwrap().unwrap().envelopes.remove(0).body;
    assert!(peer.starts_with(b"127.0.0.1:"), "the server says who calls: {peer:?}");
    assert_eq!(stream.message().await.unwrap().unwrap().envelopes[0].id, 1);
    let silent = tokio::time::timeout(5 * idle_timeout, stream.message()).await;
    assert!(silent.is_err(), "the stream goes on: {silent:?}");
    server.stop.send(()).unwrap();
    assert!(stream.message().await.is_err(), "a stream has no end of its own, so it is cut off");
}

#[tokio::test]
async fn a_channel_connects_again_after_the_server_closed_it() {
    let settings = ServerSettings { idle_timeout: Duration::from_millis(100), ..ServerSettings::default() };
    let server = Server::start(settings).await;
    let channels = Channels::default();
    for _ in 0..3 {
        let channel = channels.get(&server.address.to_string()).unwrap();
        assert_eq!(echoed(channel, 1..2).await, [0, 1]);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test]
async fn a_channel_that_cannot_be_says_why() {
    let dialer = Dialer { connect_timeout: Duration::from_millis(300), ..Dialer::default() };
    let invalid = Channels::default().get("no address");
    assert!(matches!(invalid, Err(ChannelError::InvalidAddress { .. })), "{invalid:?}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let refused = dialer.connect(&address).await;
    assert!(matches!(refused, Err(ChannelError::Refused(_))), "{refused:?}");
}

#[tokio::test]
async fn channels_to_others_are_dropped() {
    let channels = Channels::default();
    channels.get("10.0.0.1:1").unwrap();
    channels.get("10.0.0.2:1").unwrap();
    channels.keep_only([&"10.0.0.2:1".to_owned()].into_iter());
    assert!(!format!("{channels:?}").contains("10.0.0.1"));
}
