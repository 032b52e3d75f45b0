//! The production transport: three hosts on loopback, their messages over real gRPC.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::support::{Register, SECONDS, eventually, set};
use bytes::Bytes;
use mira_raft::engine::MemEngine;
use mira_raft::transport::grpc::{GrpcOptions, GrpcTransport, Peers, RaftService};
use mira_raft::{Group, GroupId, HostConfig, NodeId, ProposeError, RaftHost, RequestId, Transport, TransportError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

/// More groups than one, so that they share the connections.
const GROUPS: GroupId = 5;

struct Addresses(BTreeMap<NodeId, String>);

impl Peers for Addresses {
    fn address(&self, node: NodeId) -> Option<String> {
        self.0.get(&node).cloned()
    }
}

struct Node {
    host: Arc<RaftHost>,
    server: JoinHandle<()>,
}

async fn start() -> (BTreeMap<NodeId, Node>, Arc<Addresses>) {
    let mut listeners = BTreeMap::new();
    for id in 1..=3u64 {
        listeners.insert(id, TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    let peers = Arc::new(Addresses(listeners.iter().map(|(id, listener)| (*id, address(listener))).collect()));
    let mut nodes = BTreeMap::new();
    for (id, listener) in listeners {
        let transport = GrpcTransport::new(peers.clone(), GrpcOptions::default());
        let config = HostConfig::new(id, Arc::new(MemEngine::new()), Arc::new(MemEngine::new()), transport);
        let host = RaftHost::open(config).await.unwrap();
        for group in 0..GROUPS {
            host.open_group(group, Arc::new(Register::default())).await.unwrap();
        }
        let service = RaftService::new(id, host.clone());
        let server = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        nodes.insert(id, Node { host, server });
    }
    for group in 0..GROUPS {
        nodes[&1].host.group(group).unwrap().initialize(BTreeSet::from([1, 2, 3])).await.unwrap();
    }
    (nodes, peers)
}

async fn propose(nodes: &BTreeMap<NodeId, Node>, group: GroupId, id: u128, payload: Bytes) {
    eventually("a proposal is acknowledged", SECONDS, async || {
        for node in nodes.values() {
            let group: Group = node.host.group(group).unwrap();
            let proposed = group.propose(Some(RequestId(id)), payload.clone()).await;
            assert_ne!(proposed, Err(ProposeError::RequestIdReused));
            if proposed.is_ok() {
                return Some(());
            }
        }
        None
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_share_connections_and_outlive_a_node() {
    let (mut nodes, peers) = start().await;
    for n in 0..20u128 {
        for group in 0..GROUPS {
            propose(&nodes, group, n << 8 | u128::from(group), set(&format!("k{n}"), "v")).await;
        }
    }
    let large = "x".repeat(3 << 20);
    propose(&nodes, 0, 1 << 64, set("large", &large)).await;
    let applied = nodes[&1].host.group(0).unwrap().status().applied;
    for node in nodes.values() {
        let group = node.host.group(0).unwrap();
        group.wait_applied(applied, SECONDS).await.unwrap();
        assert_eq!(group.reader().get(b"=large").unwrap().map(|value| value.len()), Some(large.len()));
    }

    let gone = nodes.remove(&1).unwrap();
    gone.host.shutdown().await;
    gone.server.abort();
    for group in 0..GROUPS {
        propose(&nodes, group, 2 << 64 | u128::from(group), set("after", "v")).await;
    }
    drop(peers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_cannot_arrive_says_why() {
    let (nodes, peers) = start().await;
    // An address that has passed to another node: the message must not be taken for its own.
    let moved = Addresses(BTreeMap::from([(9, peers.address(1).unwrap()), (8, "127.0.0.1:1".into())]));
    let transport = GrpcTransport::new(Arc::new(moved), GrpcOptions::default());
    for (peer, why) in [(9, "this is node 1"), (8, ""), (7, "not known")] {
        let refused = transport.call(peer, Bytes::from_static(b"?"), Duration::from_secs(5)).await.unwrap_err();
        match refused {
            TransportError::Unreachable(node, text) => assert!(node == peer && text.contains(why), "{text}"),
            other => panic!("{other}"),
        }
    }
    // A host answers what it cannot read with a refusal, not with silence.
    let transport = GrpcTransport::new(peers, GrpcOptions::default());
    let reply = transport.call(2, Bytes::from_static(b"?"), Duration::from_secs(5)).await.unwrap();
    assert!(reply.len() > 2 && reply[1] != 0, "{reply:?}");
    drop(nodes);
}
