//! A simulated node: two disks that outlive it, and the process that runs on them.
//!
//! The process is what ships: replication, state machines, shards with all that they seal, the executor of plans and the
//! driver of migrations. Made here is only what production binds to sockets, files and threads: the way to other nodes
//! ([`super::peers`]) and the loops around it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use mira_index::RowCache;
use mira_node::background::migration::Migration;
use mira_node::keys::keyring::Keyring;
use mira_node::member::{Member, MemberParts};
use mira_node::meta::{ClusterState, MetaAnswer, MetaCommand, MetaMachine, NodeRecord};
use mira_node::placement::executor::{self, Executor};
use mira_node::shard::Shared;
use mira_node::shard::admission::Admission;
use mira_node::shard::index::recall_sampler::RecallSampler;
use mira_node::shard::index::{IndexParts, ShardIndex, Workers};
use mira_proto::{NodeId, Problem, Refusal, ShardId, node_v1};
use mira_raft::{
    Clock, Group, HostConfig, HostError, Limits, NoObserver, ProposeError, RaftHost, RequestWindow, Role, Timing,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;

use super::disk::{Disk, SlowThreads};
use super::keys;
use super::network::{Network, Server};
use super::observer::Watched;
use super::peers::Links;
use super::plan::Bug;
use super::protocol::{Answer, Ask, META_GROUP};
use super::runtime::{self, Sim};
use super::world::World;

/// So few that even a few frames make several pages.
const PAGE_FRAMES: usize = 2;
/// Between two bundles of writes, where they come in bundles.
const BUNDLE_EVERY: Duration = Duration::from_millis(25);
/// Images of indexes would lie there: nothing is indexed here, so there are none.
const NO_FOLDER: &str = "simulated";

/// A node's machine: what a power cut leaves.
pub struct Machine {
    /// Its id.
    pub node: NodeId,
    /// The log's disk and the state's disk.
    pub disks: [Disk; 2],
    /// Mean time of a sync.
    pub latency: Arc<Mutex<Duration>>,
    /// How often it was started.
    pub lives: u64,
}

/// The processes that run, each at its node's place in the network.
pub struct Processes {
    network: Arc<Network>,
    running: Mutex<BTreeMap<NodeId, Arc<Process>>>,
}

impl Processes {
    /// None runs yet.
    pub fn new(network: &Arc<Network>) -> Arc<Self> {
        Arc::new(Processes { network: network.clone(), running: Mutex::default() })
    }

    /// Makes a process reachable, in place of an earlier one of its node.
    fn add(&self, process: &Arc<Process>) {
        self.running.lock().insert(process.node, process.clone());
        self.network.connect(process.node, process.clone());
    }

    /// Makes a node unreachable: its process is gone.
    pub fn remove(&self, node: NodeId) {
        self.network.disconnect(node);
        self.running.lock().remove(&node);
    }

    /// The process that runs on a node.
    pub fn get(&self, node: NodeId) -> Option<Arc<Process>> {
        self.running.lock().get(&node).cloned()
    }

    /// All of them, by node.
    pub fn all(&self) -> Vec<Arc<Process>> {
        self.running.lock().values().cloned().collect()
    }
}

/// A running process.
pub struct Process {
    /// Its node.
    pub node: NodeId,
    /// Which of the node's processes, in order.
    pub life: u64,
    /// The disks as this process sees them.
    pub disks: [Disk; 2],
    /// What ships of a node.
    pub member: Arc<Member<Sim>>,
    world: Arc<World>,
    network: Arc<Network>,
}

struct NodeClock(Arc<World>, NodeId);

impl Clock for NodeClock {
    fn now_ms(&self) -> u64 {
        self.0.wall_clock_ms(self.1)
    }
}

/// Nothing is indexed: an index works on threads and in real time.
struct NoWorkers;

impl Workers for NoWorkers {
    fn register(&self, _: &Arc<ShardIndex>) {}
    fn schedule(&self, _: Arc<ShardIndex>) {}
}

fn shared(world: &Arc<World>, node: NodeId, keyring: Arc<Keyring>, cluster: Cluster) -> Shared {
    let drawing = world.clone();
    Shared {
        node_id: node,
        keyring,
        cluster,
        clock: Arc::new(NodeClock(world.clone(), node)),
        page_frames: PAGE_FRAMES,
        randomness: Arc::new(move || StdRng::seed_from_u64(drawing.draw(|rng| rng.random()))),
        admission: Admission::new(1),
        recall_sampler: Arc::new(RecallSampler::new(0)),
    }
}

type Cluster = watch::Receiver<Arc<ClusterState>>;

fn host_config(world: &Arc<World>, machine: &Machine, network: &Arc<Network>) -> HostConfig {
    let plan = &world.plan;
    let mut requests = RequestWindow::default();
    if world.has(Bug::ClockForgetsRequests) {
        requests.kept = 0;
    }
    let (drawing, life) = (world.clone(), machine.lives);
    HostConfig {
        node_id: machine.node,
        log: Arc::new(machine.disks[0].clone()),
        state: Arc::new(machine.disks[1].clone()),
        transport: network.transport(machine.node, life),
        threads: Arc::new(SlowThreads { world: world.clone(), latency: machine.latency.clone() }),
        clock: Arc::new(NodeClock(world.clone(), machine.node)),
        randomness: Arc::new(move || drawing.draw(|rng| rng.random())),
        members: Arc::new(|_, _| true),
        observer: Arc::new(NoObserver),
        timing: Timing {
            propose: Duration::from_secs(2),
            snapshot_message: Duration::from_secs(2),
            // So short that groups rest between the calls of clients that pause.
            quiet: Duration::from_millis(400),
            log_rest: Duration::from_millis(600),
            ..Timing::default()
        },
        limits: Limits {
            snapshot_every: plan.snapshot_every,
            log_kept: plan.log_kept,
            chunk_bytes: plan.chunk_bytes,
            requests,
            // Small enough that old entries are read back from the disk.
            recent_log_bytes: 600,
            // A few entries.
            log_bytes: 4 * plan.chunk_bytes as u64,
            node_log_bytes: 10 * plan.chunk_bytes as u64,
            log_bytes_at_rest: 400,
            ..Limits::default()
        },
    }
}

impl Machine {
    /// A machine that was never started.
    pub fn new(world: &Arc<World>, node: NodeId) -> Self {
        let disks = ["log", "state"].map(|name| Disk::new(world.clone(), node, name));
        Machine { node, disks, latency: Arc::new(Mutex::new(Duration::from_micros(800))), lives: 0 }
    }

    /// Starts a process on what the disks hold.
    pub async fn start(
        &mut self,
        world: &Arc<World>,
        network: &Arc<Network>,
        processes: &Processes,
    ) -> Result<(), HostError> {
        self.lives += 1;
        let (node, life) = (self.node, self.lives);
        let keyring = Arc::new(Keyring::new(vec![keys::cluster_key()]));
        let (machine, cluster) = MetaMachine::new(keyring.clone());
        let host = RaftHost::<Sim>::open(host_config(world, self, network)).await?;
        let (watching, seen, disks) = (world.clone(), network.clone(), self.disks.clone());
        let watched = Watched { world: watching, network: seen, node, life, host: host.clone(), disks };
        let watcher = watched.watcher();
        let meta = host.open_group(META_GROUP, watcher(META_GROUP, machine)).await?;
        let links = Links { world: world.clone(), network: network.clone(), node, life, cluster: cluster.clone() };
        let index = IndexParts {
            keyring: keyring.clone(),
            cluster: cluster.clone(),
            workers: Arc::new(NoWorkers),
            cache: RowCache::new(0),
        };
        let member = Arc::new(Member::new(MemberParts {
            host,
            meta,
            shared: shared(world, node, keyring, cluster),
            index,
            peers: Arc::new(links),
            data: PathBuf::from(NO_FOLDER),
            watcher: Some(watcher),
        })?);
        let disks = self.disks.clone();
        let process = Arc::new(Process { node, life, disks, member, world: world.clone(), network: network.clone() });
        world.note(format_args!("n{node} starts, life {life}"));
        processes.add(&process);
        world.spawn("reconcile", process.clone().reconcile_for_life());
        world.spawn("migration", process.migrate_for_life());
        Ok(())
    }
}

impl Server for Process {
    fn life(&self) -> u64 {
        self.life
    }

    fn handle(&self, request: Bytes) -> BoxFuture<'_, Bytes> {
        Box::pin(self.host().handle(request))
    }

    fn serve(&self, ask: Ask) -> BoxFuture<'_, Result<Answer, Refusal>> {
        Box::pin(async move { self.answer(ask).await.map_err(|refusal| self.mistaken(refusal)) })
    }
}

impl Process {
    /// Replication.
    pub fn host(&self) -> &Arc<RaftHost<Sim>> {
        self.member.host()
    }

    /// The cluster as it knows it.
    pub fn cluster(&self) -> Arc<ClusterState> {
        self.member.cluster()
    }

    /// A shard's group, if it is open here.
    pub fn shard(&self, shard: ShardId) -> Option<Group<Sim>> {
        self.host().group(shard + 1)
    }

    /// Whether a disk of this process failed for good.
    pub fn disk_failed(&self) -> bool {
        self.disks.iter().any(Disk::failed)
    }

    fn runs(&self) -> bool {
        self.network.lives(self.node, self.life)
    }

    /// Has a meta command applied, here or by the leader that this node knows.
    pub async fn propose_meta(&self, command: &MetaCommand) -> Result<MetaAnswer, Refusal> {
        self.member.propose_meta(command).await
    }

    /// A node's record.
    pub fn record(node: NodeId) -> NodeRecord {
        NodeRecord {
            id: node,
            address: format!("n{node}:1"),
            http_address: format!("n{node}:2"),
            zone: String::new(),
            version: String::new(),
            format: mira_proto::FORMAT_LEVEL,
        }
    }

    async fn reconcile_for_life(self: Arc<Self>) {
        let mut executor = Executor::new(self.member.clone());
        while self.runs() {
            let cluster = self.cluster();
            let seen = self.world.invariants.lock().map_epochs.seen((self.node, self.life), &cluster);
            self.world.check("map epochs", seen);
            self.member.shared().keyring.retain(&cluster);
            for (action, done) in executor.reconcile().await {
                self.world.figures.lock().action(&action, done.is_ok());
                self.world.note(format_args!("n{} {action:?}: {done:?}", self.node));
            }
            let wait = executor::pause(&self.cluster());
            runtime::sleep(self.world.draw(|rng| wait.mul_f64(rng.random_range(0.8..1.2)))).await;
        }
    }

    async fn migrate_for_life(self: Arc<Self>) {
        let migration = Migration::new(self.member.clone());
        while self.runs() {
            let round = migration.round().await;
            for step in &round.steps {
                self.world.note(format_args!("n{} s{} migrates: {:?}", self.node, step.shard, step.outcome));
            }
            // A busy node takes longer, so that more can happen between two steps.
            let busy = self.world.draw(|rng| Duration::from_millis(rng.random_range(20..80)));
            runtime::sleep(round.more_after.unwrap_or_default().max(busy)).await;
        }
    }

    /// Where writes come in bundles, waits until the next one arrives.
    async fn gather(&self) {
        if self.world.plan.bundles {
            let since = (runtime::now().as_nanos() % BUNDLE_EVERY.as_nanos()) as u64;
            runtime::sleep(BUNDLE_EVERY - Duration::from_nanos(since)).await;
        }
    }

    /// Answers as the services of a node do.
    async fn answer(&self, ask: Ask) -> Result<Answer, Refusal> {
        let member = &self.member;
        match ask {
            Ask::Map => Ok(Answer::Map(self.cluster())),
            Ask::ConfirmedMap => member.confirmed_map().await.map(Answer::ConfirmedMap),
            Ask::Status => Ok(Answer::Status(self.status())),
            Ask::Propose(sealed) => member.propose_sealed(sealed).await.map(Answer::Proposed),
            Ask::Write(mut request) => {
                if self.world.has(Bug::RetriesNotRecognised)
                    && let Some(header) = request.header.as_mut()
                {
                    // The four bytes that a name has no use for.
                    let (drawn, mut id) = (self.world.draw(|rng| rng.random::<u32>()), header.request_id.to_vec());
                    id[8..12].copy_from_slice(&drawn.to_be_bytes());
                    header.request_id = id.into();
                }
                self.gather().await;
                member
                    .shard(shard_in(request.header.as_ref().map(|header| header.shard))?)?
                    .write(request)
                    .await
                    .map(Answer::Written)
            }
            Ask::Forget(request) => {
                self.gather().await;
                let shard = member.shard(shard_in(request.header.as_ref().map(|header| header.shard))?)?;
                shard.forget(request).await.map(Answer::Forgotten)
            }
            Ask::Fetch(mut request) => {
                if self.world.has(Bug::UnconfirmedReads)
                    && let Some(level) = request.header.as_mut().and_then(|header| header.level.as_mut())
                    && level.kind() == node_v1::read_level::Kind::Linearizable
                {
                    level.set_kind(node_v1::read_level::Kind::Leader);
                }
                member
                    .shard(shard_in(request.header.as_ref().map(|header| header.shard))?)?
                    .fetch(request)
                    .await
                    .map(Answer::Fetched)
            }
            Ask::BeginPass(request) => {
                let start = member.shard(request.shard)?.begin_pass(&request).await?;
                Ok(Answer::PassBegun(node_v1::BeginPassReply { start }))
            }
            Ask::Export(request) => member.shard(request.shard)?.export(&request).await.map(Answer::Exported),
        }
    }

    /// What becomes of a refusal on its way out.
    fn mistaken(&self, refusal: Refusal) -> Refusal {
        let stopped = ProposeError::Unknown { leader: None }.to_string();
        match refusal {
            Refusal::Unknown(text) if self.world.has(Bug::StoppedMeansUndone) && text == stopped => {
                Refusal::NotReady(text)
            }
            refusal => refusal,
        }
    }

    /// A shard that is open counts as ready: there is no index to wait for.
    fn status(&self) -> node_v1::NodeStatus {
        let open = self.member.replicas().open();
        let works = |shard: &mira_node::shard::Shard<Sim>| !matches!(shard.group().status().role, Role::Stopped(_));
        let ready = open.into_iter().filter(|(_, shard)| works(shard));
        let groups =
            ready.map(|(id, _)| node_v1::GroupStatus { group: id + 1, index_ready: true, ..Default::default() });
        node_v1::NodeStatus { node_id: self.node, groups: groups.collect(), ..Default::default() }
    }
}

/// The shard that a header names.
fn shard_in(shard: Option<ShardId>) -> Result<ShardId, Refusal> {
    shard.ok_or_else(|| Problem::invalid("the request has no header").into())
}
