//! A storage node put together: engines, Raft host, meta group, shards, servers, and the loop that keeps them in line.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mira_crypto::{CryptoError, KeyId, os_rng};
use mira_index::RowCache;
use mira_proto::{Code, CollectionId, NodeId, Problem, Refusal, ShardId, limits, node_v1};
use mira_raft::{
    ChangeError, EngineError, Group, GroupId, HostConfig, HostError, Others, RaftHost, Role, SystemClock,
    engine::{Closing, EngineOptions, RocksEngine, Role as EngineRole},
    transport::grpc::{GrpcOptions, GrpcTransport},
};
use parking_lot::{Mutex, RwLock};
use rand::SeedableRng;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    background::{chunk_gc, erasure, expiry, key_rotation, migration, verification},
    backup::recovery::Rolls,
    config::{Formation, NodeConfig},
    identity::{Identity, IdentityError},
    keys::keyring::Keyring,
    keys::provider::{KeyProvider, ProviderError},
    meta::{ClusterState, MetaAnswer, MetaCommand, MetaMachine, MoveStep, NodeRecord, state::Header},
    metrics::NodeMetrics,
    peers::AddressBook,
    placement::formation::{self, JOIN_PROOF},
    placement::reconcile::{self, Action, Situation},
    service::{self, http},
    shard::{
        Shard, Shared,
        admission::SearchGate,
        index::image::ImageFolder,
        index::recall_sampler::QualityBoard,
        index::{IndexParts, IndexThreads, ShardIndex},
        machine::ShardMachine,
        migration::ownership::Tenure,
        record, refuse_proposal,
    },
};

/// The meta group; shard `n` is group `n + 1`.
pub const META_GROUP: GroupId = 0;
/// Between two plans when nothing happens.
const TICK: Duration = Duration::from_millis(500);
/// Between two plans while replicas move.
const MOVING_TICK: Duration = Duration::from_millis(100);
/// For the last readers of a stopping node's data to end.
const CLOSE: Duration = Duration::from_secs(5);
/// Least time between two hand-overs of one shard to its preferred leader: a leader that just came back stays a while.
const PREFER_EVERY: Duration = Duration::from_secs(3);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be used.
    #[error("data folder {path}: {source}")]
    Data {
        /// The folder.
        path: String,
        /// What the file system said.
        source: io::Error,
    },
    /// The identity cannot be read or kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The storage engine refused.
    #[error(transparent)]
    Engine(#[from] mira_raft::EngineError),
    /// Replication did not start.
    #[error(transparent)]
    Host(#[from] HostError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A member's log is gone, and the node was told to make a new cluster.
    #[error(
        "the log of node {0:016x} is gone, but it belongs to a cluster: start it with --join or --peers, and it becomes a \
         new node of that cluster"
    )]
    LostLog(NodeId),
    /// What the cluster has told this node cannot be read, nor made anew from the log.
    #[error(
        "this node's copy of the cluster's map is damaged ({0}) and its log does not reach back far enough to make it \
         anew: empty the data folder, start the node with --join, and give it the place of the old one with \
         `mira admin nodes replace`"
    )]
    MetaDamaged(String),
    /// Background threads cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The cluster keys cannot be had.
    #[error("no cluster key: {0}")]
    Keys(#[from] ProviderError),
    /// This node's data is sealed with a cluster key that it was not given.
    #[error("this node's data needs the cluster key {0}: give the node that key too, behind the one that it has")]
    NoClusterKey(KeyId),
}

/// The two engines of a data folder.
struct Engines {
    log: RocksEngine,
    state: RocksEngine,
}

impl Engines {
    fn open(config: &NodeConfig) -> Result<Self, StartError> {
        let state_options = EngineOptions { cache_bytes: config.cache_bytes, ..EngineOptions::new(EngineRole::State) };
        Ok(Engines {
            log: RocksEngine::open(&config.data.join("log"), EngineOptions::new(EngineRole::Log))?,
            state: RocksEngine::open(&config.data.join("state"), state_options)?,
        })
    }

    /// Whether votes that this node gave, or entries it acknowledged, are gone.
    fn lost_log(&self, identity: &Identity) -> Result<bool, StartError> {
        let expected = (identity.cluster_id != 0).then_some(META_GROUP);
        Ok(mira_raft::has_lost_log(&self.log, &self.state, expected)?)
    }
}

fn new_node_id() -> NodeId {
    rand::random_range(1..=u64::MAX)
}

/// Moves what is left of a lost node's data out of the way; an operator may look at it, and remove it.
fn set_aside(data: &std::path::Path, lost: NodeId) -> io::Result<()> {
    for name in ["log", "state"] {
        fs::rename(data.join(name), data.join(format!("{name}.lost-{lost:016x}")))?;
    }
    Ok(())
}

/// Opens the meta group, with whatever its state needs before that.
async fn open_meta(
    host: &RaftHost,
    machine: &Arc<MetaMachine>,
    replication: u32,
    keyring: &Keyring,
) -> Result<Group, StartError> {
    let refused = match host.open_group(META_GROUP, machine.clone()).await {
        Ok(meta) => return Ok(meta),
        // Nothing is damaged: it only cannot be read.
        Err(error) if keyring.missing().is_some() => return Err(error.into()),
        Err(error) => error.to_string(),
    };
    match reopen_meta(host, machine, refused).await {
        Err(_) if host.is_state_out_of_service() => salvage(host, machine, replication).await,
        reopened => reopened,
    }
}

/// Moves to a new database, with what can be read of the old one, and opens the meta group there. What cannot be read is made
/// anew, the meta group's state from its log and that of shards from their other replicas; where there are none, damaged
/// data is better kept as it is.
async fn salvage(host: &RaftHost, machine: &Arc<MetaMachine>, replication: u32) -> Result<Group, StartError> {
    if replication < 2 {
        let text = "the cluster keeps one replica of each shard, so what is damaged is not given up: restore a backup";
        return Err(EngineError::Damaged(text.into()).into());
    }
    tracing::error!("the state on this node's disk is damaged: what can be read of it moves to a new database");
    let lost = host.salvage_state().await?;
    tracing::error!(groups = ?lost, "state that could not be read is made anew from logs and other replicas");
    match host.open_group(META_GROUP, machine.clone()).await {
        Ok(meta) => Ok(meta),
        Err(error) => reopen_meta(host, machine, error.to_string()).await,
    }
}

/// Makes the meta group's state anew from its log, which is short and seldom trimmed.
async fn reopen_meta(host: &RaftHost, machine: &Arc<MetaMachine>, cause: String) -> Result<Group, StartError> {
    if !host.discard_state(META_GROUP).await? {
        return Err(StartError::MetaDamaged(cause));
    }
    tracing::error!(cause, "the meta group's replica here is damaged: it is made anew from its log");
    Ok(host.open_group(META_GROUP, machine.clone()).await?)
}

/// A storage node.
pub struct Node {
    data: std::path::PathBuf,
    identity: Mutex<Identity>,
    host: Arc<RaftHost>,
    meta: RwLock<Group>,
    meta_machine: Arc<MetaMachine>,
    shared: Shared,
    peers: Arc<AddressBook>,
    index_threads: Arc<IndexThreads>,
    row_cache: Arc<RowCache>,
    shards: RwLock<BTreeMap<ShardId, Arc<Shard>>>,
    /// Shards of which there is data here, open or not.
    present: Mutex<BTreeSet<ShardId>>,
    /// Shards that could not be opened, and why.
    unopened: Mutex<BTreeMap<ShardId, String>>,
    /// Those of them whose data is damaged.
    damaged: Mutex<BTreeSet<ShardId>>,
    preferred_at: Mutex<BTreeMap<ShardId, Instant>>,
    provider: Arc<dyn KeyProvider>,
    rolls: Rolls,
    leaving: AtomicBool,
    started: Instant,
    /// What is measured.
    pub metrics: Arc<NodeMetrics>,
}

impl Node {
    /// Opens what is in the data folder; serves nothing yet.
    async fn open(config: NodeConfig) -> Result<(Arc<Self>, NodeConfigRest), StartError> {
        let data_error = |source| StartError::Data { path: config.data.display().to_string(), source };
        fs::create_dir_all(&config.data).map_err(data_error)?;
        let mut identity = Identity::load_or_create(&config.data, new_node_id)?;
        let mut engines = Engines::open(&config)?;
        if engines.lost_log(&identity)? {
            let lost = identity.node_id;
            if matches!(config.formation, Formation::Bootstrap(_)) {
                return Err(StartError::LostLog(lost));
            }
            tracing::error!(node = %format_args!("{lost:016x}"), "this node's log is gone: it joins as a new node");
            drop(engines);
            // The new identity first: a crash before the rest finds state without its log again, under another name.
            identity = Identity::renew(&config.data, new_node_id)?;
            set_aside(&config.data, lost).map_err(data_error)?;
            engines = Engines::open(&config)?;
        }
        let node_id = identity.node_id;
        let (log, state) = (Arc::new(engines.log), Arc::new(engines.state));
        let engines = vec![log.closing(), state.closing()];

        let keyring = Arc::new(Keyring::new(config.keys.load().await?));
        let (meta_machine, cluster) = MetaMachine::new(keyring.clone());
        let peers = AddressBook::new(cluster.clone());
        let metrics = NodeMetrics::new();
        let transport = GrpcTransport::new(peers.clone(), GrpcOptions::default());
        let mut host_config = HostConfig::new(node_id, log, state, transport);
        host_config.timing = config.timing;
        host_config.limits = config.limits;
        let rolls = Rolls::new(&config.data, config.limits.requests).map_err(data_error)?;
        host_config.observer = metrics.clone();
        let host = RaftHost::open(host_config).await?;
        let present =
            host.existing_groups()?.into_iter().filter_map(|group| group.checked_sub(META_GROUP + 1)).collect();
        let opened = open_meta(&host, &meta_machine, identity.replication, &keyring).await;
        if let Some(missing) = keyring.missing() {
            return Err(StartError::NoClusterKey(missing));
        }
        let meta = opened?;
        let node = Arc::new(Node {
            data: config.data,
            identity: Mutex::new(identity),
            host,
            meta: RwLock::new(meta),
            meta_machine,
            shared: Shared {
                node_id,
                keyring,
                cluster,
                clock: Arc::new(SystemClock),
                randomness: Arc::new(rand::rngs::StdRng::from_os_rng),
                gate: SearchGate::new(std::thread::available_parallelism().map_or(1, usize::from)),
                quality: Arc::new(QualityBoard::new(config.quality_sample_every)),
            },
            peers,
            index_threads: IndexThreads::start(config.index_threads.max(1)).map_err(StartError::Thread)?,
            row_cache: RowCache::new(config.row_cache_bytes),
            shards: RwLock::default(),
            present: Mutex::new(present),
            unopened: Mutex::default(),
            damaged: Mutex::default(),
            preferred_at: Mutex::default(),
            provider: config.keys,
            rolls,
            leaving: AtomicBool::new(false),
            started: Instant::now(),
            metrics,
        });
        let rest = NodeConfigRest {
            listen: config.listen,
            http_listen: config.http_listen,
            advertise: config.advertise,
            zone: config.zone,
            formation: config.formation,
            collecting: config.collecting,
            verification: config.verification,
            engines,
        };
        Ok((node, rest))
    }

    /// Shards that are rolled forward here.
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
            Header { cluster_id: known, replication, .. } if known == cluster_id => replication,
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

    /// Where its cluster keys come from.
    pub fn provider(&self) -> &dyn KeyProvider {
        self.provider.as_ref()
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
    pub fn data(&self) -> &std::path::Path {
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
        if let Some(open) = self.shards.read().get(&shard) {
            return Ok(open.clone());
        }
        let cluster = self.cluster();
        match cluster.replicas(shard).contains(&self.id()) {
            true => Err(Refusal::NotReady(format!("shard {shard} is being opened"))),
            false => Err(Refusal::StaleMap { epoch: cluster.header.epoch }),
        }
    }

    /// How right the answers to searches are.
    pub fn quality(&self) -> &QualityBoard {
        &self.shared.quality
    }

    /// Searches that wait for their turn.
    pub fn searches_waiting(&self) -> usize {
        self.shared.gate.waiting()
    }

    /// The open shards.
    pub fn shards(&self) -> Vec<(ShardId, Arc<Shard>)> {
        self.shards.read().iter().map(|(&id, shard)| (id, shard.clone())).collect()
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
                let mut client = self.peers.client_of(leader)?;
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
        let opened = sealer.open(JOIN_PROOF, proof, 4096)?;
        if opened == proof_text(joiner) { Ok(()) } else { Err(CryptoError::Damaged) }
    }

    async fn open_shard(self: &Arc<Self>, id: ShardId) -> Result<(), HostError> {
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
        self.present.lock().insert(id);
        let opened = self.host.open_group(id + 1, machine).await;
        self.note_opening(id, opened.as_ref().err());
        let shard = Arc::new(Shard::new(id, opened?, index, verifier, self.shared.clone()));
        self.shards.write().insert(id, shard);
        Ok(())
    }

    /// Says that a shard cannot be opened, once for each reason: it is tried again every half second.
    fn note_opening(&self, shard: ShardId, error: Option<&HostError>) {
        if let Some(HostError::Engine(EngineError::Damaged(_))) = error {
            self.damaged.lock().insert(shard);
        }
        let mut unopened = self.unopened.lock();
        match error.map(ToString::to_string) {
            None => drop(unopened.remove(&shard)),
            Some(error) if unopened.get(&shard) == Some(&error) => {}
            Some(error) => {
                tracing::error!(shard, error, "shard cannot be opened, this replica is out of service");
                unopened.insert(shard, error);
            }
        }
    }

    /// Shards whose replica here cannot be opened or read, or has stopped.
    pub fn damaged_shards(&self) -> BTreeSet<ShardId> {
        let mut damaged = self.damaged.lock().clone();
        let unsound =
            |shard: &Shard| shard.verifier().damaged() || matches!(shard.group().status().role, Role::Stopped(_));
        damaged.extend(self.shards().into_iter().filter(|(_, shard)| unsound(shard)).map(|(id, _)| id));
        damaged
    }

    /// Closes a shard and removes all this node has of it.
    async fn destroy_shard(&self, id: ShardId) -> Result<(), String> {
        if let Some(shard) = self.shards.write().remove(&id) {
            shard.index().discard();
        }
        self.host.destroy_group(id + 1).await.map_err(|error| error.to_string())?;
        // Also those of a shard that was not opened since the start.
        ImageFolder::new(&self.data, id).delete_all().map_err(|error| error.to_string())?;
        self.present.lock().remove(&id);
        self.unopened.lock().remove(&id);
        self.damaged.lock().remove(&id);
        tracing::info!(shard = id, "replica removed");
        Ok(())
    }

    /// Whether the cluster, as a quorum of the meta group knows it, gives this node a replica of the shard.
    ///
    /// What this node has applied may be older than what it once knew: the state is not synced, only its log. So
    /// nothing is destroyed on its word alone.
    async fn confirmed_to_hold(&self, shard: ShardId) -> Result<bool, String> {
        let leader = self.meta().status().leader.ok_or("the meta group has no leader")?;
        let request = node_v1::GetMapRequest { linearizable: true, ..Default::default() };
        let map = match leader == self.id() {
            true => {
                self.meta().read_index().await.map_err(|error| error.to_string())?;
                self.map()
            }
            false => {
                let mut client = self.peers.client_of(leader).map_err(|status| status.message().to_owned())?;
                let asked = tokio::time::timeout(limits::READ_TRY, client.get_map(request)).await;
                asked.map_err(|_| "no answer")?.map_err(|status| status.message().to_owned())?.into_inner()
            }
        };
        let placed = map.shards.get(shard as usize).is_none_or(|info| info.replicas.contains(&self.id()));
        let moved = map.moves.iter().find(|found| found.shard == shard && found.to == self.id());
        Ok(moved.map_or(placed, |found| found.step != "clearing"))
    }

    /// The map as routers get it.
    pub fn map(&self) -> node_v1::ClusterMap {
        self.cluster().to_map(|shard| self.host.group(shard + 1)?.status().leader)
    }

    /// Dropped collections that still have frames in shards that this node leads.
    fn leftovers(&self, cluster: &ClusterState) -> Vec<(ShardId, CollectionId)> {
        let mut found = Vec::new();
        for (id, shard) in self.shards() {
            if !shard.group().status().is_leader() {
                continue;
            }
            let reader = shard.group().reader();
            let full = |collection: &&CollectionId| {
                let keys = [record::count_key(**collection), Tenure::key(**collection)];
                reader.multi_get(&keys).is_ok_and(|found| found.iter().any(Option::is_some))
            };
            found.extend(cluster.dropped.iter().filter(full).map(|&collection| (id, collection)));
        }
        found
    }

    async fn reconcile(self: &Arc<Self>) {
        let cluster = self.cluster();
        self.shared.keyring.retain(&cluster);
        let mut meta = self.meta().status();
        if let Role::Stopped(cause) = &meta.role {
            if let Err(error) = self.mend_meta(cause).await {
                tracing::error!(%error, "the meta group is out of service here");
                if !self.host.is_state_out_of_service() {
                    return;
                }
            }
            meta = self.meta().status();
        }
        if self.host.is_state_out_of_service() {
            self.shards.write().clear();
            match salvage(&self.host, &self.meta_machine, cluster.header.replication).await {
                Ok(meta) => *self.meta.write() = meta,
                Err(error) => return tracing::error!(%error, "nothing can be written to the state on this node's disk"),
            }
            // Whether a shard is damaged is found anew when it is opened.
            self.damaged.lock().clear();
            self.unopened.lock().clear();
            meta = self.meta().status();
        }
        if cluster.header.cluster_id != 0 {
            self.remember_cluster(cluster.header.cluster_id);
        }
        let shards = self.shards().into_iter().map(|(id, shard)| (id, shard.group().status())).collect();
        let leftovers = self.leftovers(&cluster);
        let present = self.present.lock().clone();
        let damaged = self.damaged_shards();
        let situation = Situation {
            me: self.id(),
            cluster: &cluster,
            meta: &meta,
            shards: &shards,
            present: &present,
            damaged: &damaged,
            leftovers: &leftovers,
        };
        for action in reconcile::plan(&situation) {
            if let Err(error) = self.perform(&action).await {
                tracing::debug!(?action, error, "not done now");
            }
        }
    }

    /// Opens the meta group again after it has stopped.
    async fn mend_meta(&self, cause: &str) -> Result<(), StartError> {
        if let Some(missing) = self.keyring().missing() {
            // It applied a command of a key that came after its own; its provider may know that by now.
            let held = self.hold_keys().await;
            if held.is_err() || self.keyring().missing().is_some() {
                return Err(StartError::NoClusterKey(missing));
            }
            self.host.close_group(META_GROUP).await;
            let meta = self.host.open_group(META_GROUP, self.meta_machine.clone()).await?;
            *self.meta.write() = meta;
            return Ok(());
        }
        let meta = reopen_meta(&self.host, &self.meta_machine, cause.to_owned()).await?;
        *self.meta.write() = meta;
        Ok(())
    }

    async fn perform(self: &Arc<Self>, action: &Action) -> Result<(), String> {
        let text = |error: ChangeError| error.to_string();
        match action {
            Action::OpenShard(shard) => self.open_shard(*shard).await.map_err(|error| error.to_string()),
            Action::InitializeShard(shard, voters) => {
                self.shard_group(*shard)?.initialize(voters.clone()).await.map_err(text)
            }
            Action::DestroyShard(shard) => match self.confirmed_to_hold(*shard).await? {
                true => Err("the cluster gives this node a replica: its own map is behind".into()),
                false => self.destroy_shard(*shard).await,
            },
            Action::ClearShard(shard) => {
                if self.confirmed_to_hold(*shard).await? {
                    return Err("its own map is behind".into());
                }
                self.destroy_shard(*shard).await?;
                let (shard, to, step) = (*shard, self.id(), MoveStep::Joining);
                self.propose_checked(&MetaCommand::StepMove { shard, to, step }).await
            }
            Action::AddLearner(group, node) => self.group(*group)?.add_learner(*node).await.map_err(text),
            Action::SetVoters(group, voters) => {
                let others = if *group == reconcile::Group::Meta { Others::Learn } else { Others::Leave };
                self.group(*group)?.change_voters(voters.clone(), others).await.map_err(text)
            }
            Action::RemoveLearner(group, node) => self.group(*group)?.remove_learner(*node).await.map_err(text),
            Action::HandTo(group, target) => self.group(*group)?.transfer_leader(*target).await.map_err(text),
            Action::Propose(command) => self.propose_checked(command).await,
            Action::Prefer(shard, target) => self.prefer(*shard, *target).await,
            Action::Purge(shard, collection) => {
                let shard = self.shard(*shard).map_err(|error| error.to_string())?;
                shard.purge(*collection).await.map_err(|error| error.to_string())
            }
        }
    }

    fn shard_group(&self, shard: ShardId) -> Result<Group, String> {
        self.host.group(shard + 1).ok_or_else(|| format!("shard {shard} is not open"))
    }

    fn group(&self, group: reconcile::Group) -> Result<Group, String> {
        match group {
            reconcile::Group::Meta => Ok(self.meta()),
            reconcile::Group::Shard(shard) => self.shard_group(shard),
        }
    }

    async fn propose_checked(&self, command: &MetaCommand) -> Result<(), String> {
        self.propose_meta(command).await.map(drop).map_err(|error| error.to_string())
    }

    /// Hands a shard to its preferred leader, if that node answers searches of it and the last try is a while ago.
    async fn prefer(&self, shard: ShardId, target: NodeId) -> Result<(), String> {
        if self.leaving.load(Ordering::Relaxed) {
            return Ok(());
        }
        let now = Instant::now();
        let last = self.preferred_at.lock().insert(shard, now);
        if last.is_some_and(|last| now - last < PREFER_EVERY) {
            self.preferred_at.lock().insert(shard, last.expect("it was there"));
            return Ok(());
        }
        if !self.is_ready(target, shard).await {
            return Err(format!("node {target:016x} does not answer searches of shard {shard} yet"));
        }
        self.shard_group(shard)?.transfer_leader(target).await.map_err(|error| error.to_string())
    }

    /// Whether a node's replica of a shard has its index: most reads ask the leader.
    async fn is_ready(&self, node: NodeId, shard: ShardId) -> bool {
        let Ok(mut client) = self.peers.client_of(node) else { return false };
        let answer = tokio::time::timeout(TICK, client.status(node_v1::StatusRequest { detailed: false })).await;
        let Ok(Ok(status)) = answer else { return false };
        status.get_ref().groups.iter().any(|group| group.group == shard + 1 && group.index_ready)
    }

    /// Whether a node of the cluster answers, under its own id.
    pub async fn answers(&self, node: NodeId) -> bool {
        let Ok(mut client) = self.peers.client_of(node) else { return false };
        let answer = tokio::time::timeout(TICK, client.identify(node_v1::IdentifyRequest {})).await;
        matches!(answer, Ok(Ok(identity)) if identity.get_ref().node_id == node)
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

/// What is needed of the configuration once the node is open.
struct NodeConfigRest {
    listen: SocketAddr,
    http_listen: SocketAddr,
    advertise: Option<String>,
    zone: String,
    formation: Formation,
    engines: Vec<Closing>,
    collecting: chunk_gc::Collecting,
    verification: verification::Verification,
}

/// A node that serves. Dropping it stops it hard; [`RunningNode::shutdown`] stops it in order.
pub struct RunningNode {
    node: Arc<Node>,
    grpc_address: SocketAddr,
    http_address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    engines: Vec<Closing>,
}

impl RunningNode {
    /// Opens the data folder and serves; forming or joining a cluster goes on in the background.
    pub async fn start(config: NodeConfig) -> Result<Self, StartError> {
        let (node, rest) = Node::open(config).await?;
        let (grpc_listener, grpc_address) = listen(rest.listen).await?;
        let (http_listener, http_address) = listen(rest.http_listen).await?;
        let advertise = rest.advertise.unwrap_or_else(|| grpc_address.to_string());
        let me = NodeRecord {
            id: node.id(),
            http_address: with_port(&advertise, http_address.port()),
            address: advertise,
            zone: rest.zone,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let (stop, stopped) = watch::channel(false);
        let tasks = vec![
            tokio::spawn(service::serve(node.clone(), grpc_listener, stopped.clone())),
            tokio::spawn(http::serve(node.clone(), http_listener, stopped.clone())),
            tokio::spawn(keep_in_line(node.clone(), stopped.clone())),
            tokio::spawn(migration::drive(node.clone(), stopped.clone())),
            tokio::spawn(expiry::drive(node.clone(), stopped.clone())),
            tokio::spawn(key_rotation::drive(node.clone(), stopped.clone())),
            tokio::spawn(erasure::drive(node.clone(), stopped.clone())),
            tokio::spawn(chunk_gc::drive(node.clone(), rest.collecting, stopped.clone())),
            tokio::spawn(verification::drive(node.clone(), rest.verification, stopped.clone())),
            tokio::spawn(until_stopped(stopped, {
                let node = node.clone();
                async move { formation::form(&node, &rest.formation, &me).await }
            })),
        ];
        tracing::info!(node = %format_args!("{:016x}", node.id()), grpc = %grpc_address, http = %http_address, "node started");
        Ok(RunningNode { node, grpc_address, http_address, tasks, stop, engines: rest.engines })
    }

    /// The node.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Where gRPC listens.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// Where HTTP listens.
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// Waits until the node has a cluster and all its shards have leaders; false if not in time.
    pub async fn wait_ready(&self, timeout: Duration) -> bool {
        let ready = async {
            while !self.node.ready() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(timeout, ready).await.is_ok()
    }

    /// Hands leadership over, answers what is under way, makes everything durable, and lets the data folder go.
    pub async fn shutdown(mut self) {
        let engines = std::mem::take(&mut self.engines);
        self.stop().await;
        drop(self);
        // The engine's own threads must end before the process does, and whoever opens the folder next must find it free.
        let closed = async {
            while !engines.iter().all(Closing::is_done) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(CLOSE, closed).await {
            Ok(()) => tracing::info!("node stopped"),
            Err(_) => tracing::warn!("node stopped, but something still reads its data"),
        }
    }

    async fn stop(&mut self) {
        let moved = self.node.hand_over().await;
        tracing::info!(moved, "leadership handed over");
        self.stop.send_replace(true);
        futures::future::join_all(self.tasks.drain(..)).await;
        self.node.rolls.clear();
        self.node.host.shutdown().await;
        // Nothing is applied any more, so the images are those of the state.
        let node = self.node.clone();
        let saved = tokio::task::spawn_blocking(move || {
            node.shards().iter().for_each(|(_, shard)| shard.index().save_images());
        });
        if let Err(error) = saved.await {
            tracing::error!(%error, "index images not written");
        }
    }
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// The host of an address with another port.
fn with_port(address: &str, port: u16) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    format!("{host}:{port}")
}

async fn until_stopped(mut stopped: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
}

async fn keep_in_line(node: Arc<Node>, mut stopped: watch::Receiver<bool>) {
    let mut cluster = node.watch_cluster();
    loop {
        node.reconcile().await;
        let pause = if node.cluster().moves.is_empty() { TICK } else { MOVING_TICK };
        tokio::select! {
            changed = cluster.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}
