//! What a node is started with.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use mira_net::{ServerSettings, descriptors};
use mira_proto::limits;
use mira_raft::{Clock, Limits, RequestWindow, SystemClock, Timing};

use crate::keys::provider::KeyProvider;

/// How a node that belongs to no cluster yet comes to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Formation {
    /// Make a new cluster, with this node as its first.
    Bootstrap(Shape),
    /// Ask these nodes (host:port of their gRPC) to be let in.
    Join(Vec<String>),
    /// A fixed list of nodes, this one among them, as Kubernetes gives it: if none of them belongs to a cluster, the
    /// first of the list makes one; the others join.
    Peers(Vec<String>, Shape),
}

/// The fixed shape of a new cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Shards, for ever.
    pub shards: u32,
    /// Replicas of each shard.
    pub replication: u32,
    /// Nodes to wait for before shards are placed.
    pub expect: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { shards: 16, replication: 3, expect: 3 }
    }
}

/// When chunks that no frame refers to are removed.
#[derive(Debug, Clone, Copy)]
pub struct ChunkGcSettings {
    /// Between two looks.
    pub every: Duration,
    /// How long ago a chunk must have been stored last.
    pub idle: Duration,
}

impl Default for ChunkGcSettings {
    fn default() -> Self {
        ChunkGcSettings { every: limits::CHUNK_GC_EVERY, idle: limits::CHUNK_IDLE }
    }
}

/// When and how replicas are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerificationSettings {
    /// Each shard this often; never if none.
    pub every: Option<Duration>,
    /// Whether a replica that is wrong is rebuilt from the others.
    pub repairs: bool,
}

impl Default for VerificationSettings {
    fn default() -> Self {
        VerificationSettings { every: Some(limits::VERIFY_EVERY), repairs: true }
    }
}

/// A node's configuration.
pub struct NodeConfig {
    /// Folder of its data; made if missing.
    pub data: PathBuf,
    /// Where gRPC listens. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where HTTP (metrics, health) listens. Port 0 takes a free one.
    pub http_listen: SocketAddr,
    /// host:port under which others reach `listen`; the bound address if `None`.
    pub advertise: Option<String>,
    /// Failure domain; may be empty.
    pub zone: String,
    /// Gives the cluster keys, which open everything.
    pub keys: Arc<dyn KeyProvider>,
    /// How to come to a cluster.
    pub formation: Formation,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Elections and calls.
    pub timing: Timing,
    /// Bounds of each Raft group.
    pub limits: Limits,
    /// Threads that keep indexes up to date.
    pub index_threads: usize,
    /// One search in so many is repeated exactly in the background, to measure recall; 0 for none.
    pub recall_sample_every: u64,
    /// Bytes of block cache of the state engine.
    pub cache_bytes: usize,
    /// Bytes of full-precision vectors kept in memory for rescoring, of all shards together. They lie in the state; more
    /// saves reading and opening them (some 10 µs each, 20 a search).
    pub row_cache_bytes: usize,
    /// Connections of each port at a time.
    pub connections: usize,
    /// Files that each engine keeps open, the log's and the state's.
    pub engine_files: u32,
    /// Removing chunks that nothing needs.
    pub chunk_gc: ChunkGcSettings,
    /// Comparing replicas in the background.
    pub verification: VerificationSettings,
}

/// Files of an engine beside those that it keeps open: logs, manifests, what it writes just now.
const ENGINE_WORK_FILES: u64 = 64;

impl NodeConfig {
    /// Files and connections that the node may have open at once.
    pub fn descriptors(&self) -> u64 {
        let listener = descriptors::of_listener(&self.server());
        2 * listener + 2 * (u64::from(self.engine_files) + ENGINE_WORK_FILES) + descriptors::OWN_DESCRIPTORS
    }

    /// How both of its ports are served.
    pub(crate) fn server(&self) -> ServerSettings {
        ServerSettings { connections: self.connections, ..ServerSettings::default() }
    }

    /// Defaults for a node with this folder, keys and formation, on loopback.
    pub fn new(data: PathBuf, keys: Arc<dyn KeyProvider>, formation: Formation) -> Self {
        // The longest answer is a list of forgotten ids, at most 19 bytes each; it must be there for a retry.
        let requests = RequestWindow { response_bytes: 20 * limits::MAX_FORGET_STEP, ..RequestWindow::default() };
        NodeConfig {
            data,
            listen: ([127, 0, 0, 1], 7892).into(),
            http_listen: ([127, 0, 0, 1], 7893).into(),
            advertise: None,
            zone: String::new(),
            keys,
            formation,
            clock: Arc::new(SystemClock),
            timing: Timing::default(),
            limits: Limits { requests, ..Limits::default() },
            index_threads: 1,
            recall_sample_every: mira_proto::limits::RECALL_SAMPLE_EVERY,
            cache_bytes: 64 << 20,
            row_cache_bytes: 64 << 20,
            connections: mira_net::limits::MAX_CONNECTIONS,
            engine_files: 512,
            chunk_gc: ChunkGcSettings::default(),
            verification: VerificationSettings::default(),
        }
    }
}
