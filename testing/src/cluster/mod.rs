//! A cluster in memory that speaks `mira.node.v1`, with switches for everything that can go wrong.
//!
//! All nodes share one state, as replicas do when nothing lags; what differs between them is who leads a shard and
//! which faults they show. Every request is written down, so that a test can say what a router did.

mod collections;
mod frames;
mod migration;
mod node;
mod private;
mod search;
mod state;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mira_proto::node_v1::backup_service_server::BackupServiceServer;
use mira_proto::node_v1::cluster_service_server::ClusterServiceServer;
use mira_proto::node_v1::key_service_server::KeyServiceServer;
use mira_proto::node_v1::migration_service_server::MigrationServiceServer;
use mira_proto::node_v1::shard_service_server::ShardServiceServer;
use mira_proto::{NodeId, ShardId, limits};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

pub use migration::OLD_COPY;
use node::FakeNode;
use state::{Kept, State};

/// What one node does wrong.
#[derive(Clone, Default)]
pub struct Faults {
    /// Answers nothing but a broken connection.
    pub down: bool,
    /// Answers late.
    pub slow: Option<Duration>,
    /// Has no replica ready.
    pub not_ready: bool,
    /// Does the next so many writes and loses the answer.
    pub lost_answers: usize,
    /// Does not learn of frames: lags behind in reads at level `any`.
    pub lags: bool,
    /// Is of a version that does not say what types of values fields hold.
    pub says_no_types: bool,
    /// How old what it knows is, milliseconds; beyond the bound it answers as the last resort only.
    pub stale_ms: u64,
}

/// A request as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// The method's name, in snake case.
    pub operation: &'static str,
    /// The node that was asked.
    pub node: NodeId,
    /// The shard that was asked; 0 for what concerns none.
    pub shard: ShardId,
    /// Of a write; empty for reads.
    pub request_id: Bytes,
    /// The index a read must have seen.
    pub at_least: u64,
    /// The read level's kind, as on the wire.
    pub kind: i32,
    /// Whether a lagging replica may answer.
    pub last_resort: bool,
}

/// The cluster.
pub struct FakeCluster {
    state: Arc<Mutex<State>>,
    /// The nodes and where they listen.
    pub nodes: Vec<(NodeId, SocketAddr)>,
    shards: u32,
    stop: CancellationToken,
}

impl Drop for FakeCluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A service that takes messages of the size that a real node takes.
macro_rules! bounded {
    ($server:ident, $service:expr) => {
        $server::from_arc($service).max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
    };
}

impl FakeCluster {
    /// A cluster of so many nodes and shards that listens at ports of its own until it is dropped.
    pub async fn start(nodes: u64, shards: u32) -> FakeCluster {
        let leaders = (0..shards).map(|shard| (shard, u64::from(shard) % nodes + 1)).collect();
        let state = State {
            epoch: 1,
            next_collection: 1,
            leaders,
            clock_ms: 1_800_000_000_000,
            forget_step: 2,
            ..State::default()
        };
        let state = Arc::new(Mutex::new(state));
        let stop = CancellationToken::new();
        let mut listeners = Vec::new();
        for node in 1..=nodes {
            listeners.push((node, TcpListener::bind("127.0.0.1:0").await.unwrap()));
        }
        let nodes: Vec<(NodeId, SocketAddr)> =
            listeners.iter().map(|(node, listener)| (*node, listener.local_addr().unwrap())).collect();
        for (node, listener) in listeners {
            let service = FakeNode { id: node, state: state.clone(), nodes: nodes.clone(), shards };
            let service = Arc::new(service);
            let server = tonic::transport::Server::builder()
                .add_service(bounded!(ShardServiceServer, service.clone()))
                .add_service(bounded!(ClusterServiceServer, service.clone()))
                .add_service(bounded!(KeyServiceServer, service.clone()))
                .add_service(bounded!(MigrationServiceServer, service.clone()))
                .add_service(bounded!(BackupServiceServer, service));
            let stopped = stop.clone().cancelled_owned();
            tokio::spawn(server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopped));
        }
        FakeCluster { state, nodes, shards, stop }
    }

    /// Where the nodes listen, as a router's settings name them.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|(_, address)| address.to_string()).collect()
    }

    /// Changes what one node does wrong.
    pub fn fault(&self, node: NodeId, change: impl FnOnce(&mut Faults)) {
        change(self.state.lock().faults.entry(node).or_default());
    }

    /// The node that leads a shard.
    pub fn leader(&self, shard: ShardId) -> NodeId {
        self.state.lock().leaders[&shard]
    }

    /// Has this node lead a shard, or none.
    pub fn set_leader(&self, shard: ShardId, node: Option<NodeId>) {
        let mut state = self.state.lock();
        match node {
            Some(node) => state.leaders.insert(shard, node),
            None => state.leaders.remove(&shard),
        };
    }

    /// Has somebody else rotate keys.
    pub fn set_rotating(&self, rotating: bool) {
        self.state.lock().rotating = rotating;
    }

    /// Refuses each frame whose id `nth` divides, the first time it comes.
    pub fn refuse_frames_once(&self, nth: u128) {
        self.state.lock().refused_once = Some(nth);
    }

    /// Does so many more steps of removals, and then none; without a number, all.
    pub fn forget_no_more_than(&self, steps: Option<usize>) {
        self.state.lock().forgets_left = steps;
    }

    /// Moves the map on, as a change of nodes or placement does.
    pub fn bump_epoch(&self) {
        self.state.lock().epoch += 1;
    }

    /// Has the nodes lack what ids of frames are made with.
    pub fn withhold_placement_keys(&self) {
        let mut state = self.state.lock();
        state.epoch += 1;
        state.collections.values_mut().for_each(|collection| collection.placement_key.clear());
    }

    /// The requests of one operation so far, in their order.
    pub fn seen(&self, operation: &str) -> Vec<Seen> {
        self.state.lock().seen.iter().filter(|seen| seen.operation == operation).cloned().collect()
    }

    /// Forgets the requests so far.
    pub fn clear_seen(&self) {
        self.state.lock().seen.clear();
    }

    /// Frames of all shards.
    pub fn frame_count(&self) -> usize {
        self.state.lock().frames.len()
    }

    /// Frames of a shard.
    pub fn frames_in(&self, shard: ShardId) -> usize {
        self.state.lock().frames.keys().filter(|(_, held, _)| *held == shard).count()
    }

    /// The shards that hold a collection.
    pub fn shards_of(&self, collection: &str) -> Vec<ShardId> {
        let state = self.state.lock();
        let info = &state.collections[collection];
        mira_proto::placement::shards_of_collection(info.id, info.partitions, self.shards)
    }

    /// Forgets this frame just before frames are fetched next.
    pub fn vanish_at_fetch(&self, id: &str) {
        self.state.lock().vanishing = Some(id.parse::<uuid::Uuid>().unwrap().into_bytes().to_vec());
    }

    /// Has the time of a frame be over.
    pub fn expire(&self, id: &str) {
        let id = id.parse::<uuid::Uuid>().unwrap().into_bytes();
        let mut state = self.state.lock();
        for (_, kept) in state.frames.iter_mut().filter(|((_, _, held), _)| *held == id) {
            kept.frame.expires_ms = 1;
        }
    }

    /// How many sealed vectors were given out.
    pub fn private_vectors(&self) -> usize {
        self.state.lock().private_vectors
    }

    /// All bytes that nodes were told of frames, to look for what should not be among them.
    pub fn everything(&self) -> Vec<u8> {
        let state = self.state.lock();
        let mut bytes = Vec::new();
        for Kept { frame, vectors, private, .. } in state.frames.values() {
            for part in
                [&frame.content, &frame.private, &private.owner, &private.session, &private.digest, &private.vectors]
            {
                bytes.extend_from_slice(part);
            }
            for text in [&frame.r#type, &frame.session, &frame.role, &frame.metadata_json] {
                bytes.extend_from_slice(text.as_bytes());
            }
            bytes.extend(vectors.iter().flatten().flat_map(|component| component.to_le_bytes()));
        }
        bytes
    }

    /// The passphrase records of all owners.
    pub fn owner_records(&self) -> Vec<String> {
        self.state.lock().owners.values().cloned().collect()
    }

    /// Changes the sealed pieces of private frames, as damage behind the nodes' own layers would.
    pub fn tamper(&self, change: impl Fn(&mut Bytes, &mut Bytes)) {
        let mut state = self.state.lock();
        for kept in state.frames.values_mut().filter(|kept| !kept.private.owner.is_empty()) {
            change(&mut kept.frame.private, &mut kept.private.vectors);
        }
    }

    /// Copies every frame of a shard to another, as while a shard is moving.
    pub fn copy_frames(&self, from: ShardId, to: ShardId) {
        let mut state = self.state.lock();
        let copies: Vec<_> = state
            .frames
            .iter()
            .filter(|((_, shard, _), _)| *shard == from)
            .map(|((collection, _, id), kept)| ((*collection, to, id.clone()), kept.clone()))
            .collect();
        state.frames.extend(copies);
    }
}
