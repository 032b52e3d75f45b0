//! A storage node: its identity, its groups, its keys, and the shards of which it has a replica.
//!
//! Everything a node does starts from [`Node`]: requests (`crate::service`), the plan of replicas
//! ([`crate::placement`]) and the jobs in the background ([`crate::background`]). It knows none of them;
//! [`crate::server`] puts them together.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use mira_crypto::{CryptoError, os_rng};
use mira_index::RowCache;
use mira_proto::{FORMAT_LEVEL, NodeId, Refusal, ShardId, limits, node_v1};
use mira_raft::{
    Group, GroupId, GroupStatus, HostConfig, RaftHost, Role,
    engine::Closing,
    transport::grpc::{GrpcOptions, GrpcTransport},
};
use parking_lot::Mutex;
use rand::{SeedableRng, rngs::StdRng};
use tokio::sync::watch;

use crate::{
    backup::recovery::Recoveries,
    challenge::Challenges,
    config::NodeConfig,
    data::DataFolder,
    error::StartError,
    identity::Identity,
    keys::{keyring::Keyring, provider::KeyProvider},
    member::{Member, MemberParts},
    meta::{ClusterState, META_GROUP, MetaAnswer, MetaCommand, MetaMachine, NodeRecord, state::ClusterHeader},
    metrics::{NodeFigures, NodeMetrics},
    peers::AddressBook,
    placement::repair,
    shard::{
        Shard, Shared,
        admission::Admission,
        index::{IndexParts, IndexThreads, recall_sampler::RecallSampler},
    },
    system,
};

/// For a node to say who it is.
const IDENTIFY_TRY: Duration = Duration::from_millis(500);
/// Context of the proof of a joiner that it holds the cluster key.
const JOIN_PROOF: &[u8] = b"mira join proof";
/// Longest text that such a proof seals.
const MAX_JOIN_PROOF: usize = 4096;

/// A storage node.
pub struct Node {
    data: PathBuf,
    identity: Mutex<Identity>,
    member: Arc<Member>,
    meta_machine: Arc<MetaMachine>,
    peers: Arc<AddressBook>,
    provider: Arc<dyn KeyProvider>,
    recoveries: Recoveries,
    challenges: Challenges,
    started: Instant,
    /// What is measured.
    pub metrics: Arc<NodeMetrics>,
}

impl Node {
    /// Opens what is in the data folder; serves nothing yet. Also says how to know that its databases are closed.
    pub(crate) async fn open(config: &NodeConfig) -> Result<(Arc<Self>, Vec<Closing>), StartError> {
        let DataFolder { identity, log, state } = DataFolder::open(config)?;
        let node_id = identity.node_id;
        let closing = vec![log.closing(), state.closing()];

        let keyring = Arc::new(Keyring::new(config.keys.load().await?));
        let (meta_machine, cluster) = MetaMachine::new(keyring.clone());
        let peers = AddressBook::new(cluster.clone());
        let metrics = NodeMetrics::new();
        let transport = GrpcTransport::new(peers.clone(), GrpcOptions::default());
        let mut host_config = HostConfig::new(node_id, Arc::new(log), Arc::new(state), transport);
        host_config.clock = config.clock.clone();
        host_config.timing = config.timing;
        host_config.limits = config.limits;
        host_config.observer = metrics.clone();
        let known = cluster.clone();
        host_config.members = Arc::new(move |group, node| is_meant_to_be_member(&known.borrow(), group, node));
        let recoveries = Recoveries::new(&config.data, config.limits.requests)
            .map_err(|source| StartError::Data { path: config.data.display().to_string(), source })?;
        let host = RaftHost::open(host_config).await?;
        let opened = repair::open_meta(&host, &meta_machine, identity.replication, &keyring).await;
        if let Some(missing) = keyring.missing() {
            return Err(StartError::NoClusterKey(missing));
        }
        let written = cluster.borrow().header.format;
        if written > FORMAT_LEVEL {
            return Err(StartError::Format { written, known: FORMAT_LEVEL });
        }
        let index = IndexParts {
            keyring: keyring.clone(),
            cluster: cluster.clone(),
            workers: IndexThreads::start(config.index_threads.max(1)).map_err(StartError::Thread)?,
            cache: RowCache::new(config.row_cache_bytes),
        };
        let shared = Shared {
            node_id,
            keyring,
            cluster,
            clock: config.clock.clone(),
            page_frames: limits::GROWTH_PAGE_FRAMES,
            randomness: Arc::new(StdRng::from_os_rng),
            admission: Admission::new(std::thread::available_parallelism().map_or(1, usize::from)),
            recall_sampler: Arc::new(RecallSampler::new(config.recall_sample_every)),
        };
        let (meta, data) = (opened?, config.data.clone());
        let parts = MemberParts { host, meta, shared, index, peers: peers.clone(), data, watcher: None };
        let node = Node {
            data: config.data.clone(),
            identity: Mutex::new(identity),
            member: Arc::new(Member::new(parts)?),
            meta_machine,
            peers,
            provider: config.keys.clone(),
            recoveries,
            challenges: Challenges::default(),
            started: Instant::now(),
            metrics,
        };
        Ok((Arc::new(node), closing))
    }

    /// Point-in-time recoveries that run here.
    pub(crate) fn recoveries(&self) -> &Recoveries {
        &self.recoveries
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.member.id()
    }

    /// The cluster it belongs to; 0 = none yet.
    pub fn cluster_id(&self) -> u128 {
        self.identity.lock().cluster_id
    }

    /// Keeps which cluster this node belongs to, and how many replicas that has.
    pub fn remember_cluster(&self, cluster_id: u128) {
        let mut identity = self.identity.lock();
        let replication = match self.cluster().header {
            ClusterHeader { cluster_id: known, replication, .. } if known == cluster_id => replication,
            _ => identity.replication,
        };
        if (identity.cluster_id, identity.replication) != (cluster_id, replication) {
            (identity.cluster_id, identity.replication) = (cluster_id, replication);
            if let Err(error) = identity.save(&self.data) {
                // Not kept, it is asked for again at the next start: joining twice does no harm.
                tracing::error!(%error, "cluster id not kept");
            }
        }
    }

    /// The cluster as this node knows it.
    pub fn cluster(&self) -> Arc<ClusterState> {
        self.member.cluster()
    }

    /// Follows the cluster state.
    pub fn watch_cluster(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.member.shared().cluster.clone()
    }

    /// The meta group.
    pub fn meta(&self) -> Group {
        self.member.meta()
    }

    /// What applies the meta group's commands.
    pub(crate) fn meta_machine(&self) -> &Arc<MetaMachine> {
        &self.meta_machine
    }

    /// The node as a member of its cluster.
    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// Replication of all groups.
    pub fn host(&self) -> &Arc<RaftHost> {
        self.member.host()
    }

    /// The other nodes.
    pub fn peers(&self) -> &Arc<AddressBook> {
        &self.peers
    }

    /// The keys.
    pub fn keyring(&self) -> &Keyring {
        &self.member.shared().keyring
    }

    /// Asks the provider again which cluster keys this node may use; the ids of those that it holds then.
    pub(crate) async fn hold_keys(&self) -> Result<Vec<String>, Refusal> {
        let loaded = self.provider.load().await;
        let keys = loaded.map_err(|error| Refusal::NotReady(format!("its cluster keys cannot be had: {error}")))?;
        self.keyring().hold(keys);
        Ok(self.keyring().cluster_key_ids().iter().map(ToString::to_string).collect())
    }

    /// What its shards share.
    pub fn shared(&self) -> &Shared {
        self.member.shared()
    }

    /// This node's clock.
    pub fn now_ms(&self) -> u64 {
        self.member.shared().clock.now_ms()
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Vectors of all shards that were read last.
    pub fn row_cache(&self) -> &RowCache {
        &self.member.index_parts().cache
    }

    /// Time since the start.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// An open shard.
    pub fn shard(&self, shard: ShardId) -> Result<Arc<Shard>, Refusal> {
        self.member.shard(shard)
    }

    /// How right the answers to searches are.
    pub fn recall_sampler(&self) -> &RecallSampler {
        &self.member.shared().recall_sampler
    }

    /// Searches that wait for their turn.
    pub fn searches_waiting(&self) -> usize {
        self.member.shared().admission.waiting()
    }

    /// The open shards.
    pub fn shards(&self) -> Vec<(ShardId, Arc<Shard>)> {
        self.member.replicas().open()
    }

    /// The replicas of a shard, most likely leader first.
    pub fn replicas_leader_first(&self, cluster: &ClusterState, shard: ShardId) -> Vec<NodeId> {
        self.member.replicas_leader_first(cluster, shard)
    }

    /// What it exports when its metrics are scraped.
    pub fn figures(&self) -> NodeFigures {
        NodeFigures {
            groups: self.host().groups().into_iter().map(|group| group.status()).collect(),
            shards: self.shards().into_iter().map(|(shard, open)| (shard, open.index().stats())).collect(),
            recall: self.recall_sampler().found(),
            searches_waiting: self.searches_waiting(),
            resident_bytes: system::resident_bytes(),
            disk_free_bytes: system::disk_space(&self.data),
            row_cache_bytes: self.row_cache().bytes(),
            uptime: self.uptime(),
            ready: self.ready(),
        }
    }

    /// Whether the node has a cluster, all its shards, and a leader for each.
    pub fn ready(&self) -> bool {
        self.obstacles().is_empty()
    }

    /// What stands against serving, group by group.
    pub fn obstacles(&self) -> Vec<String> {
        let cluster = self.cluster();
        if cluster.placement.is_empty() {
            return vec!["the node belongs to no cluster whose shards have a place".to_owned()];
        }
        let of_group = |name: &str, status: &GroupStatus| match (&status.role, status.leader) {
            (Role::Stopped(_), _) => Some(format!("{name} has stopped")),
            (_, None) => Some(format!("{name} has no leader")),
            (_, Some(_)) => None,
        };
        let meta = of_group("the meta group", &self.meta().status());
        let mine = (0..).zip(&cluster.placement).filter(|(_, replicas)| replicas.contains(&self.id()));
        let shards = mine.filter_map(|(shard, _)| {
            let name = format!("shard {shard}");
            let Ok(open) = self.shard(shard) else { return Some(format!("{name} is not open")) };
            let building = || (!open.index().stats().ready).then(|| format!("the index of {name} is not ready"));
            of_group(&name, &open.group().status()).or_else(building)
        });
        meta.into_iter().chain(shards).collect()
    }

    /// Has a meta command applied: here, if this node leads the meta group, else by the node that does.
    pub async fn propose_meta(&self, command: &MetaCommand) -> Result<MetaAnswer, Refusal> {
        self.member.propose_meta(command).await
    }

    /// Has a sealed meta command applied; on the meta leader only.
    pub async fn propose_sealed(&self, sealed: bytes::Bytes) -> Result<bytes::Bytes, Refusal> {
        self.member.propose_sealed(sealed).await
    }

    /// Shows that this node holds the cluster key, bound to who and where it is and to the challenge of the node that is asked.
    pub fn join_proof(&self, me: &NodeRecord, challenge: &[u8]) -> Vec<u8> {
        let text = proof_text(me, challenge);
        self.member.shared().keyring.meta_sealer().seal_proposal(JOIN_PROOF, &text, &mut os_rng())
    }

    /// What proofs to this node are made over.
    pub fn challenges(&self) -> &Challenges {
        &self.challenges
    }

    /// Checks a joiner's proof, which is good once.
    pub fn check_join_proof(&self, joiner: &NodeRecord, challenge: &[u8], proof: &[u8]) -> Result<(), CryptoError> {
        if !self.challenges.take(challenge) {
            return Err(CryptoError::Damaged);
        }
        let sealer = self.member.shared().keyring.sealer_of(proof).map_err(|_| CryptoError::Damaged)?;
        let opened = sealer.open(JOIN_PROOF, proof, MAX_JOIN_PROOF)?;
        if opened == proof_text(joiner, challenge) { Ok(()) } else { Err(CryptoError::Damaged) }
    }

    /// The map as a router gets it that has the one of epoch `known`.
    pub fn map(&self, known: u64) -> node_v1::ClusterMap {
        self.member.map(known)
    }

    /// Whether a node of the cluster answers, under its own id.
    pub async fn answers(&self, node: NodeId) -> bool {
        let Ok(client) = self.peers.client_of(node) else { return false };
        let answer = tokio::time::timeout(IDENTIFY_TRY, client.cluster().identify(node_v1::IdentifyRequest {})).await;
        matches!(answer, Ok(Ok(identity)) if identity.get_ref().node_id == node)
    }

    /// Gives every leadership to another voter, best informed first; returns how many were given away.
    pub async fn hand_over(&self) -> u32 {
        self.member.hand_over().await
    }
}

/// Whether a node is, as the map says, a member of a group or becomes one. A node without a map knows nothing against it.
fn is_meant_to_be_member(cluster: &ClusterState, group: GroupId, node: NodeId) -> bool {
    if cluster.header.cluster_id == 0 {
        return true;
    }
    let Some(shard) = group.checked_sub(META_GROUP + 1) else { return cluster.nodes.contains_key(&node) };
    let moves = cluster.moves.get(&shard);
    cluster.replicas(shard).contains(&node) || moves.is_some_and(|found| found.to == node || found.from == Some(node))
}

fn proof_text(node: &NodeRecord, challenge: &[u8]) -> Vec<u8> {
    let who = format!("\n{}\n{}\n{}", node.id, node.address, node.http_address);
    [challenge, who.as_bytes()].concat()
}
