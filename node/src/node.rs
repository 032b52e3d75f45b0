//! A storage node: its identity, its groups, its keys, and the shards of which it has a replica.
//!
//! Everything a node does starts from [`Node`]: requests ([`crate::service`]), the plan of replicas
//! ([`crate::placement`]) and the jobs in the background ([`crate::background`]). It knows none of them;
//! [`crate::server`] puts them together.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mira_crypto::{CryptoError, os_rng};
use mira_index::RowCache;
use mira_proto::{Code, NodeId, Problem, Refusal, ShardId, limits, node_v1};
use mira_raft::{
    Group, HostConfig, HostError, RaftHost, Role, SystemClock,
    engine::Closing,
    transport::grpc::{GrpcOptions, GrpcTransport},
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::{
    backup::recovery::Rolls,
    config::NodeConfig,
    data::DataFolder,
    error::StartError,
    identity::Identity,
    keys::{keyring::Keyring, provider::KeyProvider},
    meta::{
        ClusterState, CollectionRecord, META_GROUP, MetaAnswer, MetaCommand, MetaMachine, NodeRecord,
        state::ClusterHeader,
    },
    metrics::{NodeFigures, NodeMetrics},
    peers::AddressBook,
    placement::repair,
    replicas::Replicas,
    shard::{
        Shard, Shared,
        admission::SearchGate,
        index::{IndexParts, IndexThreads, ShardIndex, image::ImageFolder, recall_sampler::QualityBoard},
        machine::ShardMachine,
        refuse_proposal,
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
    host: Arc<RaftHost>,
    meta: RwLock<Group>,
    meta_machine: Arc<MetaMachine>,
    shared: Shared,
    peers: Arc<AddressBook>,
    index_threads: Arc<IndexThreads>,
    row_cache: Arc<RowCache>,
    replicas: Replicas,
    provider: Arc<dyn KeyProvider>,
    rolls: Rolls,
    leaving: AtomicBool,
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
        host_config.timing = config.timing;
        host_config.limits = config.limits;
        host_config.observer = metrics.clone();
        let rolls = Rolls::new(&config.data, config.limits.requests)
            .map_err(|source| StartError::Data { path: config.data.display().to_string(), source })?;
        let host = RaftHost::open(host_config).await?;
        let present = host.existing_groups()?.into_iter().filter_map(|group| group.checked_sub(META_GROUP + 1));
        let replicas = Replicas::new(present);
        let opened = repair::open_meta(&host, &meta_machine, identity.replication, &keyring).await;
        if let Some(missing) = keyring.missing() {
            return Err(StartError::NoClusterKey(missing));
        }
        let node = Node {
            data: config.data.clone(),
            identity: Mutex::new(identity),
            host,
            meta: RwLock::new(opened?),
            meta_machine,
            shared: Shared {
                node_id,
                keyring,
                cluster,
                clock: Arc::new(SystemClock),
                gate: SearchGate::new(std::thread::available_parallelism().map_or(1, usize::from)),
                quality: Arc::new(QualityBoard::new(config.recall_sample_every)),
            },
            peers,
            index_threads: IndexThreads::start(config.index_threads.max(1)).map_err(StartError::Thread)?,
            row_cache: RowCache::new(config.row_cache_bytes),
            replicas,
            provider: config.keys.clone(),
            rolls,
            leaving: AtomicBool::new(false),
            started: Instant::now(),
            metrics,
        };
        Ok((Arc::new(node), closing))
    }

    /// Point-in-time recoveries that run here.
    pub(crate) fn rolls(&self) -> &Rolls {
        &self.rolls
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.shared.node_id
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
        self.shared.cluster.borrow().clone()
    }

    /// Follows the cluster state.
    pub fn watch_cluster(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.shared.cluster.clone()
    }

    /// The meta group.
    pub fn meta(&self) -> Group {
        self.meta.read().clone()
    }

    /// Replaces the meta group after it was opened again.
    pub(crate) fn set_meta(&self, meta: Group) {
        *self.meta.write() = meta;
    }

    /// What applies the meta group's commands.
    pub(crate) fn meta_machine(&self) -> &Arc<MetaMachine> {
        &self.meta_machine
    }

    /// The shards of which it has a replica.
    pub(crate) fn replicas(&self) -> &Replicas {
        &self.replicas
    }

    /// Replication of all groups.
    pub fn host(&self) -> &Arc<RaftHost> {
        &self.host
    }

    /// The other nodes.
    pub fn peers(&self) -> &Arc<AddressBook> {
        &self.peers
    }

    /// The keys.
    pub fn keyring(&self) -> &Keyring {
        &self.shared.keyring
    }

    /// Asks the provider again which cluster keys this node may use; the ids of those that it holds then.
    pub(crate) async fn hold_keys(&self) -> Result<Vec<String>, Refusal> {
        let loaded = self.provider.load().await;
        let keys = loaded.map_err(|error| Refusal::NotReady(format!("its cluster keys cannot be had: {error}")))?;
        self.keyring().hold(keys);
        Ok(self.keyring().cluster_key_ids().iter().map(ToString::to_string).collect())
    }

    /// The names of a collection's keys by version.
    pub(crate) fn key_names(&self, record: &CollectionRecord) -> Result<BTreeMap<u32, [u8; 8]>, Refusal> {
        let names = self.keyring().key_names(record)?;
        Ok(names.into_iter().map(|(version, id)| (version, *id.as_bytes())).collect())
    }

    /// What its shards share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// This node's clock.
    pub fn now_ms(&self) -> u64 {
        self.shared.clock.now_ms()
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Vectors of all shards that were read last.
    pub fn row_cache(&self) -> &RowCache {
        &self.row_cache
    }

    /// Time since the start.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// An open shard.
    pub fn shard(&self, shard: ShardId) -> Result<Arc<Shard>, Refusal> {
        if let Some(open) = self.replicas.get(shard) {
            return Ok(open);
        }
        let cluster = self.cluster();
        if cluster.replicas(shard).contains(&self.id()) {
            return Err(Refusal::NotReady(format!("shard {shard} is being opened")));
        }
        Err(Refusal::StaleMap { epoch: cluster.header.epoch })
    }

    /// How right the answers to searches are.
    pub fn recall_sampler(&self) -> &QualityBoard {
        &self.shared.quality
    }

    /// Searches that wait for their turn.
    pub fn searches_waiting(&self) -> usize {
        self.shared.gate.waiting()
    }

    /// The open shards.
    pub fn shards(&self) -> Vec<(ShardId, Arc<Shard>)> {
        self.replicas.open()
    }

    /// The replicas of a shard, most likely leader first.
    pub fn replicas_leader_first(&self, cluster: &ClusterState, shard: ShardId) -> Vec<NodeId> {
        let known = self.replicas.get(shard).and_then(|shard| shard.group().status().leader);
        let mut replicas: Vec<NodeId> = known.into_iter().collect();
        replicas.extend(cluster.replicas(shard).iter().copied().filter(|&replica| Some(replica) != known));
        replicas
    }

    /// What it exports when its metrics are scraped.
    pub fn figures(&self) -> NodeFigures {
        NodeFigures {
            groups: self.host.groups().into_iter().map(|group| group.status()).collect(),
            shards: self.shards().into_iter().map(|(shard, open)| (shard, open.index().stats())).collect(),
            recall: self.recall_sampler().found(),
            searches_waiting: self.searches_waiting(),
            resident_bytes: system::resident_bytes(),
            disk_free_bytes: system::disk_space(&self.data),
            row_cache_bytes: self.row_cache.bytes(),
            uptime: self.uptime(),
            ready: self.ready(),
        }
    }

    /// Whether the node has a cluster, all its shards, and a leader for each.
    pub fn ready(&self) -> bool {
        let cluster = self.cluster();
        let mine = cluster.placement.iter().filter(|replicas| replicas.contains(&self.id())).count();
        let shards = self.shards();
        !cluster.placement.is_empty()
            && self.meta().status().leader.is_some()
            && shards.len() == mine
            && shards.iter().all(|(_, shard)| shard.group().status().leader.is_some() && shard.index().stats().ready)
    }

    /// Has a meta command applied: here, if this node leads the meta group, else by the node that does.
    pub async fn propose_meta(&self, command: &MetaCommand) -> Result<MetaAnswer, Refusal> {
        let sealed: bytes::Bytes = command.seal(&self.shared.keyring.meta_sealer(), &mut os_rng()).into();
        let answer = match self.meta().status().leader {
            Some(leader) if leader != self.id() => {
                let mut client = self.peers.client_of(leader)?.cluster();
                let asked = client.propose_meta(node_v1::ProposeMetaRequest { sealed });
                let reply = tokio::time::timeout(limits::WRITE_TRY, asked).await;
                reply.map_err(|_| Refusal::Unknown("the meta leader did not answer".into()))??.into_inner().answer
            }
            _ => self.propose_sealed(sealed).await?,
        };
        postcard::from_bytes(&answer).map_err(|error| Problem::internal(format!("meta answer: {error}")).into())
    }

    /// Has a sealed meta command applied; on the meta leader only. One that does not open was sealed by nobody of this
    /// cluster and is refused before it reaches the log.
    pub async fn propose_sealed(&self, sealed: bytes::Bytes) -> Result<bytes::Bytes, Refusal> {
        let refused = |error: String| Problem::new(Code::PermissionDenied, format!("meta command: {error}"));
        let sealer = self.shared.keyring.sealer_of(&sealed).map_err(|error| refused(error.to_string()))?;
        MetaCommand::open(&sealer, &sealed).map_err(refused)?;
        Ok(self.meta().propose(None, sealed).await.map_err(refuse_proposal)?.response)
    }

    /// Shows that this node holds the cluster key, bound to who and where it is.
    pub fn join_proof(&self, me: &NodeRecord) -> Vec<u8> {
        self.shared.keyring.meta_sealer().seal_proposal(JOIN_PROOF, &proof_text(me), &mut os_rng())
    }

    /// Checks a joiner's proof.
    pub fn check_join_proof(&self, joiner: &NodeRecord, proof: &[u8]) -> Result<(), CryptoError> {
        let sealer = self.shared.keyring.sealer_of(proof).map_err(|_| CryptoError::Damaged)?;
        let opened = sealer.open(JOIN_PROOF, proof, MAX_JOIN_PROOF)?;
        if opened == proof_text(joiner) { Ok(()) } else { Err(CryptoError::Damaged) }
    }

    /// Opens this node's replica of a shard, or makes it.
    pub(crate) async fn open_shard(&self, id: ShardId) -> Result<(), HostError> {
        let parts = IndexParts {
            keyring: self.shared.keyring.clone(),
            cluster: self.shared.cluster.clone(),
            workers: self.index_threads.clone(),
            cache: self.row_cache.clone(),
        };
        let index = ShardIndex::new(id, parts, &self.data);
        self.index_threads.look_after(&index);
        let machine = Arc::new(ShardMachine::new(Arc::new(index.clone())));
        let verifier = machine.verifier().clone();
        self.replicas.note_present(id);
        let opened = self.host.open_group(id + 1, machine).await;
        let group = opened.inspect_err(|error| self.replicas.note_unopened(id, error))?;
        self.replicas.insert(id, Arc::new(Shard::new(id, group, index, verifier, self.shared.clone())));
        Ok(())
    }

    /// Closes a shard and removes all this node has of it.
    pub(crate) async fn destroy_shard(&self, id: ShardId) -> Result<(), String> {
        if let Some(shard) = self.replicas.remove(id) {
            shard.index().discard();
        }
        self.host.destroy_group(id + 1).await.map_err(|error| error.to_string())?;
        // Also those of a shard that was not opened since the start.
        ImageFolder::new(&self.data, id).delete_all().map_err(|error| error.to_string())?;
        self.replicas.forget(id);
        tracing::info!(shard = id, "replica removed");
        Ok(())
    }

    /// The map as routers get it.
    pub fn map(&self) -> node_v1::ClusterMap {
        self.cluster().to_map(|shard| self.host.group(shard + 1)?.status().leader)
    }

    /// Whether a node of the cluster answers, under its own id.
    pub async fn answers(&self, node: NodeId) -> bool {
        let Ok(client) = self.peers.client_of(node) else { return false };
        let answer = tokio::time::timeout(IDENTIFY_TRY, client.cluster().identify(node_v1::IdentifyRequest {})).await;
        matches!(answer, Ok(Ok(identity)) if identity.get_ref().node_id == node)
    }

    /// Whether the node gives its leaderships away and wants none back.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Gives every leadership to another voter, best informed first; returns how many were given away.
    pub async fn hand_over(&self) -> u32 {
        self.leaving.store(true, Ordering::Relaxed);
        let handed = self.host.groups().into_iter().map(|group| async move {
            let status = group.status();
            if status.role != Role::Leader {
                return false;
            }
            let best = status
                .voters
                .iter()
                .filter(|voter| **voter != self.id())
                .min_by_key(|voter| status.lag.get(voter).copied().flatten().unwrap_or(u64::MAX));
            let Some(&target) = best else { return false };
            group.transfer_leader(target).await.is_ok()
        });
        futures::future::join_all(handed).await.into_iter().filter(|&moved| moved).count() as u32
    }
}

fn proof_text(node: &NodeRecord) -> Vec<u8> {
    format!("{}\n{}\n{}", node.id, node.address, node.http_address).into_bytes()
}
