//! A simulated node: two disks that outlive it, and the process that runs on them.
//!
//! The process is production's replication and state machines. What stands around them in production and is bound to
//! sockets and threads stands here a second time, as thin as it can be: the loop that executes what [`reconcile::plan`] decides,
//! and the service that answers clients by the same rules as `mira_node::shard`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use mira_crypto::ClusterKey;
use mira_node::background::migration::{self as grow, Task};
use mira_node::keys::keyring::Keyring;
use mira_node::meta::{ClusterState, MetaCommand, MetaMachine, MoveStep, NodeRecord};
use mira_node::meta::{CollectionRecord, Growth};
use mira_node::placement::reconcile::{self, Action, Observed};
use mira_node::shard::command::{
    self, AdoptedFrame, Asker, GrowStep, ShardAnswer, ShardCommand, StoreFrame, StoreOutcome,
};
use mira_node::shard::machine::{Change, Follower, ShardMachine};
use mira_node::shard::migration::ownership::{Claim, Homes, Span, Tenure};
use mira_node::shard::migration::transfer::{list_gone, list_moved, list_moving, tenure_of};
use mira_node::shard::record::{self, FrameRecord};
use mira_node::shard::write::{MAX_ROUNDS, round_id};
use mira_node::shard::{refuse_engine, refuse_proposal, refuse_read};
use mira_proto::vectors::OWN_SPACE;
use mira_proto::{FrameId, NodeId, Refusal, ShardId};
use mira_raft::{
    Clock, EngineError, Group, GroupId, GroupStatus, HostConfig, HostError, Limits, NoObserver, Others, ProposeError,
    RaftHost, RequestId, RequestWindow, Role, StateReader, Timing,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;

use super::disk::{Disk, SlowThreads};
use super::network::{Network, Server};
use super::observer::{Observed, Watched};
use super::plan::Bug;
use super::protocol::{
    Answer, Ask, COLLECTION, FrameChange, META_GROUP, ReadOf, Write, body_of, operation_of, shard_of,
};
use super::runtime::{self, Sim};
use super::world::World;

const TICK: Duration = Duration::from_millis(500);
const PREFER_EVERY: Duration = Duration::from_secs(3);

/// The record of the only collection.
pub fn collection(partitions: u32) -> CollectionRecord {
    CollectionRecord {
        id: COLLECTION,
        name: "only".into(),
        dim: 4,
        metric: "cosine".into(),
        quantization: "int8".into(),
        partitions,
        first_partitions: partitions,
        ttl_seconds: 0,
        created_ms: 0,
        model: String::new(),
        ef: 0,
        spaces: Vec::new(),
        key_version: 1,
        wrapped_keys: BTreeMap::new(),
    }
}

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
    /// Replication.
    pub host: Arc<RaftHost<Sim>>,
    /// The disks as this process sees them.
    pub disks: [Disk; 2],
    /// The cluster as it knows it.
    pub cluster: watch::Receiver<Arc<ClusterState>>,
    world: Arc<World>,
    network: Arc<Network>,
    keyring: Arc<Keyring>,
    preferred_at: Mutex<BTreeMap<ShardId, Duration>>,
}

struct NodeClock(Arc<World>, NodeId);

impl Clock for NodeClock {
    fn now_ms(&self) -> u64 {
        self.0.wall_clock_ms(self.1)
    }
}

/// Nothing is derived from frames here.
struct NoFollower;

impl Follower for NoFollower {
    fn changed(&self, _: Vec<Change>, _: u64) {}
    fn replaced(&self, _: StateReader, _: u64) {}
}

fn keyring() -> Arc<Keyring> {
    Arc::new(Keyring::new(vec![ClusterKey::generate(&mut StdRng::seed_from_u64(1))]))
}

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
        observer: Arc::new(NoObserver),
        timing: Timing {
            propose: Duration::from_secs(2),
            snapshot_message: Duration::from_secs(2),
            ..Timing::default()
        },
        limits: Limits {
            snapshot_every: plan.snapshot_every,
            log_kept: plan.log_kept,
            chunk_bytes: plan.chunk_bytes,
            requests,
            // Small enough that old entries are read back from the disk.
            recent_log_bytes: 600,
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
    ) -> Result<Arc<Process>, HostError> {
        self.lives += 1;
        let keyring = keyring();
        let (machine, cluster) = MetaMachine::new(keyring.clone());
        let host = RaftHost::<Sim>::open(host_config(world, self, network)).await?;
        let process = Arc::new(Process {
            node: self.node,
            life: self.lives,
            host,
            disks: self.disks.clone(),
            cluster,
            world: world.clone(),
            network: network.clone(),
            keyring,
            preferred_at: Mutex::default(),
        });
        process.open_group(META_GROUP, machine).await?;
        world.note(format_args!("n{} starts, life {}", self.node, self.lives));
        processes.add(&process);
        let (reconciling, growing) = (process.clone(), process.clone());
        world.spawn("reconcile", async move { reconciling.reconcile_for_life().await });
        world.spawn("grow", async move { growing.grow_for_life().await });
        Ok(process)
    }
}

impl Server for Process {
    fn life(&self) -> u64 {
        self.life
    }

    fn handle(&self, request: Bytes) -> BoxFuture<'_, Bytes> {
        Box::pin(self.host.handle(request))
    }

    fn serve(&self, ask: Ask) -> BoxFuture<'_, Result<Answer, Refusal>> {
        Box::pin(self.answer(ask))
    }
}

impl Process {
    async fn open_group(
        self: &Arc<Self>,
        id: GroupId,
        machine: Arc<dyn mira_raft::StateMachine>,
    ) -> Result<(), HostError> {
        let observed = Observed::new(self.world.clone(), (self.node, id), self.disks[1].clone(), machine);
        let group = self.host.open_group(id, Arc::new(observed)).await?;
        self.watched().watch(group);
        Ok(())
    }

    /// Opens a shard's replica, if it is not open.
    pub async fn open_shard(self: &Arc<Self>, shard: ShardId) -> Result<(), HostError> {
        let machine = Arc::new(ShardMachine::new(Arc::new(NoFollower)));
        match self.open_group(shard + 1, machine).await {
            Ok(()) | Err(HostError::AlreadyOpen(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A shard's group, if it is open here.
    pub fn shard(&self, shard: ShardId) -> Option<Group<Sim>> {
        self.host.group(shard + 1)
    }

    /// The meta group.
    pub fn meta(&self) -> Option<Group<Sim>> {
        self.host.group(META_GROUP)
    }

    fn watched(&self) -> Watched {
        Watched {
            world: self.world.clone(),
            network: self.network.clone(),
            node: self.node,
            life: self.life,
            host: self.host.clone(),
            disks: self.disks.clone(),
        }
    }

    /// Whether a disk of this process failed for good.
    pub fn disk_failed(&self) -> bool {
        self.watched().disk_failed()
    }

    fn runs(&self) -> bool {
        self.network.lives(self.node, self.life)
    }

    /// Has a meta command applied, here or by the leader that this node knows.
    pub async fn propose_meta(&self, command: &MetaCommand) -> Result<(), String> {
        let mut rng = self.world.draw(|rng| StdRng::seed_from_u64(rng.random()));
        let sealed: Bytes = command.seal(&self.keyring.meta_sealer(), &mut rng).into();
        self.ask_meta(Ask::Propose(sealed)).await.map(drop)
    }

    async fn ask_meta(&self, ask: Ask) -> Result<Answer, String> {
        let leader = self.meta().and_then(|meta| meta.status().leader).ok_or("the meta group has no leader")?;
        let asked = async {
            match leader == self.node {
                true => self.answer(ask).await,
                false => self.network.ask(self.node, leader, ask).await,
            }
        };
        let answer = runtime::timeout(mira_proto::limits::READ_TRY, asked).await.ok_or("no answer")?;
        answer.map_err(|refusal| refusal.to_string())
    }

    /// Whether a quorum of the meta group says that this node is to have a replica: only then may one be destroyed.
    async fn confirmed_to_hold(&self, shard: ShardId) -> Result<bool, String> {
        match self.ask_meta(Ask::Map { confirmed: true }).await? {
            Answer::Map(map) => Ok(map.placement.is_empty() || map.holds(self.node, shard)),
            other => Err(format!("a map was answered with {other:?}")),
        }
    }

    async fn destroy_shard(&self, shard: ShardId) -> Result<(), String> {
        match self.confirmed_to_hold(shard).await? {
            true => Err("its own map is behind".into()),
            false => self.host.destroy_group(shard + 1).await.map_err(|error| error.to_string()),
        }
    }

    /// This node's record.
    pub fn record(node: NodeId) -> NodeRecord {
        NodeRecord {
            id: node,
            address: format!("n{node}:1"),
            http_address: format!("n{node}:2"),
            zone: String::new(),
            version: String::new(),
        }
    }

    async fn reconcile_for_life(self: Arc<Self>) {
        while self.runs() {
            self.reconcile().await;
            let wait = self.world.draw(|rng| TICK.mul_f64(rng.random_range(0.8..1.2)));
            runtime::sleep(wait).await;
        }
    }

    async fn reconcile(self: &Arc<Self>) {
        let cluster = self.cluster.borrow().clone();
        self.world.check("map epochs", self.world.invariants.lock().map_epochs.seen((self.node, self.life), &cluster));
        let Some(meta) = self.meta().map(|meta| meta.status()) else { return };
        let shards: BTreeMap<ShardId, GroupStatus> = self
            .host
            .groups()
            .into_iter()
            .filter(|group| group.id() != META_GROUP)
            .map(|group| (group.id() - 1, group.status()))
            .collect();
        let Ok(groups) = self.host.existing_groups() else { return };
        let present = groups.into_iter().filter(|group| *group != META_GROUP).map(|group| group - 1).collect();
        let stopped = shards.iter().filter(|(_, status)| matches!(status.role, Role::Stopped(_)));
        let damaged = stopped.map(|(&shard, _)| shard).collect();
        let (cluster, meta, shards, present, damaged) = (&*cluster, &meta, &shards, &present, &damaged);
        let situation = Observed { me: self.node, cluster, meta, shards, present, damaged, leftovers: &[] };
        for action in reconcile::plan(&situation) {
            let done = self.execute(&action).await;
            self.world.note(format_args!("n{} {action:?}: {done:?}", self.node));
        }
    }

    async fn execute(self: &Arc<Self>, action: &Action) -> Result<(), String> {
        let text = |error: mira_raft::ChangeError| error.to_string();
        match action {
            Action::OpenShard(shard) => self.open_shard(*shard).await.map_err(|error| error.to_string()),
            Action::InitializeShard(shard, voters) => {
                self.group(reconcile::Group::Shard(*shard))?.initialize(voters.clone()).await.map_err(text)
            }
            Action::DestroyShard(shard) => self.destroy_shard(*shard).await,
            Action::ClearShard(shard) => {
                self.destroy_shard(*shard).await?;
                let (shard, to, step) = (*shard, self.node, MoveStep::Joining);
                self.propose_meta(&MetaCommand::StepMove { shard, to, step }).await
            }
            Action::AddLearner(group, node) => self.group(*group)?.add_learner(*node).await.map_err(text),
            Action::SetVoters(group, voters) => {
                let others = if *group == reconcile::Group::Meta { Others::Learn } else { Others::Leave };
                self.group(*group)?.change_voters(voters.clone(), others).await.map_err(text)
            }
            Action::RemoveLearner(group, node) => self.group(*group)?.remove_learner(*node).await.map_err(text),
            Action::HandTo(group, target) => self.group(*group)?.transfer_leader(*target).await.map_err(text),
            Action::Propose(command) => self.propose_meta(command).await,
            Action::Prefer(shard, target) => self.prefer(*shard, *target).await,
            Action::Purge(..) => Err("no collection is ever dropped here".into()),
        }
    }

    fn group(&self, group: reconcile::Group) -> Result<Group<Sim>, String> {
        let group = match group {
            reconcile::Group::Meta => self.meta(),
            reconcile::Group::Shard(shard) => self.shard(shard),
        };
        group.ok_or_else(|| "not open".to_owned())
    }

    async fn prefer(&self, shard: ShardId, target: NodeId) -> Result<(), String> {
        let now = runtime::now();
        let recent = |last: &Duration| now - *last < PREFER_EVERY;
        if self.preferred_at.lock().get(&shard).is_some_and(recent) {
            return Ok(());
        }
        self.preferred_at.lock().insert(shard, now);
        let group = self.shard(shard).ok_or("not open")?;
        group.transfer_leader(target).await.map_err(|error| error.to_string())
    }

    /// Answers a client.
    async fn answer(&self, ask: Ask) -> Result<Answer, Refusal> {
        match ask {
            Ask::Map { confirmed } => {
                if confirmed {
                    let meta = self.meta().ok_or_else(|| Refusal::NotReady("not open".into()))?;
                    meta.read_index().await.map_err(refuse_read)?;
                }
                Ok(Answer::Map(self.cluster.borrow().clone()))
            }
            Ask::Propose(sealed) => {
                let meta = self.meta().ok_or_else(|| Refusal::NotReady("not open".into()))?;
                meta.propose(None, sealed).await.map_err(|error| self.refuse(error))?;
                Ok(Answer::Proposed)
            }
            Ask::Write(write) => {
                let group = self.group_for(write.shard)?;
                must_lead(&group, self.node)?;
                self.write(&group, &write).await
            }
            Ask::BeginPass { shard, span, epoch, heir, release } => {
                self.begin_pass(shard, (span, epoch), heir, release).await
            }
            Ask::Export { shard, span, heir, start, since, after } => {
                let group = self.group_for(shard)?;
                let patience = mira_proto::limits::READ_TRY / 2;
                group.wait_applied(start, patience).await.map_err(refuse_read)?;
                export(&group.reader(), span, heir, (after, since)).map_err(refuse_engine)
            }
            Ask::Read { epoch, shard, frame, at_least, growing } => {
                let group = self.group_for(shard)?;
                match at_least {
                    None if self.world.has(Bug::UnconfirmedReads) => must_lead(&group, self.node)?,
                    None => drop(group.read_index().await.map_err(refuse_read)?),
                    Some(index) => {
                        let patience = mira_proto::limits::READ_TRY / 2;
                        group.wait_applied(index, patience).await.map_err(refuse_read)?;
                    }
                }
                let plan = &self.world.plan;
                let is_heir = shard_of(plan, plan.partitions, frame) != shard;
                read(&group.reader(), (frame, shard, is_heir), (epoch, growing))
            }
        }
    }

    fn group_for(&self, shard: ShardId) -> Result<Group<Sim>, Refusal> {
        let cluster = self.cluster.borrow().clone();
        self.shard(shard).ok_or_else(|| match cluster.holds(self.node, shard) {
            true => Refusal::NotReady(format!("shard {shard} is being opened")),
            false => Refusal::StaleMap { epoch: cluster.header.epoch },
        })
    }

    /// The rounds of `mira_node::shard::write`, without sealing.
    async fn write(&self, group: &Group<Sim>, write: &Write) -> Result<Answer, Refusal> {
        if claim(&group.reader(), write.frame)? == Claim::NotYet {
            return Err(Refusal::NotReady("the frame is still on its way to this shard".into()));
        }
        // Rounds where the frame has moved to are others than those where it was.
        let first = if write.request.0 >> 120 == 0 { 0 } else { MAX_ROUNDS };
        for round in 0..MAX_ROUNDS {
            let (command, content) = command_of(&group.reader(), write, first + round)?;
            let request = match self.world.has(Bug::RetriesNotRecognised) {
                true => RequestId(self.world.draw(|rng| rng.random())),
                false => round_id(write.request, round),
            };
            let proposed = group.propose_content(request, &content, command::encode(&command)).await;
            let proposed = proposed.map_err(|error| self.refuse(error))?;
            let answer = command::decode(&proposed.response).map_err(refuse_engine)?;
            if !matches!(&answer, ShardAnswer::Store(outcomes) if matches!(outcomes[..], [StoreOutcome::Raced(_)])) {
                return Ok(Answer::Written { index: proposed.index, response: proposed.response.to_vec() });
            }
        }
        Err(mira_proto::Problem::new(mira_proto::Code::Conflict, "others keep winning").into())
    }

    fn refuse(&self, error: ProposeError) -> Refusal {
        match error {
            ProposeError::Unknown { leader: None } if self.world.has(Bug::StoppedMeansUndone) => {
                Refusal::NotReady(error.to_string())
            }
            error => refuse_proposal(error),
        }
    }
}

fn must_lead(group: &Group<Sim>, node: NodeId) -> Result<(), Refusal> {
    let status = group.status();
    match status.leader == Some(node) && !matches!(status.role, Role::Stopped(_)) {
        true => Ok(()),
        false => Err(Refusal::NotLeader { leader: status.leader }),
    }
}

fn command_of(reader: &StateReader, write: &Write, round: u32) -> Result<(ShardCommand, Vec<u8>), Refusal> {
    let FrameChange::Store(content, condition) = write.change else {
        let command = ShardCommand::Forget { collection: COLLECTION, frames: vec![write.frame], asker: Asker::Anyone };
        return Ok((command, write.frame.to_be_bytes().to_vec()));
    };
    let current = version(reader, write.frame)?.map_or(0, |record| record.version);
    let digest = [content; 32];
    let frame = StoreFrame {
        collection: COLLECTION,
        frame: write.frame,
        version: current + 1,
        condition,
        digest,
        owner: None,
        session: content.is_multiple_of(2).then_some([content; 16]),
        expires_ms: 0,
        created_ms: 0,
        ttl_ms: 0,
        spaces: content.is_multiple_of(3).then_some(OWN_SPACE).into_iter().collect(),
        class: record::Class::Memory,
        chunks: Vec::new(),
        body: body_of(write.operation, round).into(),
        vectors: if content.is_multiple_of(3) { vec![content; 16].into() } else { Vec::new().into() },
        key_version: mira_node::keys::keyring::FIRST_KEY,
    };
    Ok((ShardCommand::Store(vec![frame]), digest.to_vec()))
}

fn version(reader: &StateReader, frame: FrameId) -> Result<Option<FrameRecord>, Refusal> {
    let stored = reader.get(&record::frame_key(COLLECTION, frame)).map_err(refuse_engine)?;
    stored.map(|stored| FrameRecord::decode(&stored)).transpose().map_err(refuse_engine)
}

/// As `mira_node::shard::read`, with what a growth means for it.
fn read(
    reader: &StateReader,
    (frame, shard, is_heir): (FrameId, ShardId, bool),
    (epoch, growing): (u64, ReadOf),
) -> Result<Answer, Refusal> {
    let view = reader.view().map_err(refuse_engine)?;
    let tenure = tenure_of(&view, COLLECTION).map_err(refuse_engine)?;
    if let Some(tenure) = tenure.as_ref().filter(|tenure| tenure.min_epoch > epoch) {
        return Err(Refusal::StaleMap { epoch: tenure.min_epoch });
    }
    let homes = |tenure: &Tenure| Homes::new(COLLECTION, tenure.span);
    let mine = match growing {
        // An heir shows only what it has opened; a source shows what it holds, and the reader knows whom to ask first.
        ReadOf::Growing => tenure.map_or(!is_heir, |tenure| {
            let homes = homes(&tenure);
            homes.of(frame).0 == shard || tenure.claim(&homes, frame) == Claim::Mine
        }),
        ReadOf::Grown(to) => to == 0 || tenure.is_some_and(|tenure| tenure.has_grown_to(&homes(&tenure), to)),
    };
    if !mine && growing != ReadOf::Growing {
        return Err(Refusal::NotReady("frames of the collection are still on their way here".into()));
    }
    let found = version(&view, frame)?.map(|record| (record.version, operation_of(&record.body).0));
    Ok(Answer::Read { applied: view.applied_index(), found, mine })
}

fn claim(reader: &StateReader, frame: FrameId) -> Result<Claim, Refusal> {
    let tenure = tenure_of(reader, COLLECTION).map_err(refuse_engine)?;
    Ok(tenure.map_or(Claim::Mine, |tenure| tenure.claim(&Homes::new(COLLECTION, tenure.span), frame)))
}

/// A page of two frames at most, so that even few frames make several.
fn export(
    reader: &StateReader,
    span: Span,
    heir: ShardId,
    (after, since): (Option<FrameId>, u64),
) -> Result<Answer, EngineError> {
    let view = reader.view()?;
    let homes = Homes::new(COLLECTION, span);
    let listed = list_moving(&view, COLLECTION, &homes, (heir, 2), (after, since))?;
    let mut frames = Vec::new();
    for &frame in &listed.changed {
        let keys = [record::frame_key(COLLECTION, frame), record::vectors_key(COLLECTION, frame)];
        let stored = view.multi_get(&keys)?;
        let lost = || EngineError::Damaged("a head without a frame".into());
        let record = FrameRecord::decode(stored[0].as_ref().ok_or_else(lost)?)?;
        let vectors = match &stored[1] {
            Some(stored) => Bytes::copy_from_slice(record::decode_vectors(stored)?.1),
            None => Bytes::new(),
        };
        frames.push(AdoptedFrame { frame, record, vectors });
    }
    Ok(Answer::Page(Arc::new(listed), frames))
}

/// Driving growths: the steps of `mira_node::background::migration`, performed here over the simulated network.
impl Process {
    async fn grow_for_life(self: Arc<Self>) {
        let mut cleared: BTreeMap<ShardId, FrameId> = BTreeMap::new();
        while self.runs() {
            let cluster = self.cluster.borrow().clone();
            if let Some(growth) = cluster.growths.get(&COLLECTION) {
                for shard in 0..cluster.header.shards {
                    let done = self.grow(&cluster, growth, shard, &mut cleared).await;
                    if let Err(error) = done {
                        self.world.note(format_args!("n{} s{shard} does not grow: {error}", self.node));
                    }
                }
            }
            let wait = self.world.draw(|rng| Duration::from_millis(rng.random_range(20..80)));
            runtime::sleep(wait).await;
        }
    }

    async fn grow(
        &self,
        cluster: &ClusterState,
        growth: &Growth,
        shard: ShardId,
        cleared: &mut BTreeMap<ShardId, FrameId>,
    ) -> Result<(), String> {
        let Some(group) = self.shard(shard).filter(|group| group.status().is_leader()) else { return Ok(()) };
        let text = |error: EngineError| error.to_string();
        let shards = cluster.header.shards;
        let span = Span { from: growth.from, to: growth.to, shards };
        let homes = Homes::new(COLLECTION, span);
        let tenure = tenure_of(&group.reader(), COLLECTION).map_err(text)?;
        let next = grow::next((COLLECTION, growth, shards), shard, tenure.as_ref(), cluster.moves_paused);
        let Some(task) = next else { return Ok(()) };
        self.world.note(format_args!("n{} s{shard} grows: {task:?}", self.node));
        let step = match task {
            Task::Begin { source, pass, last } => {
                let release = last && !self.world.has(Bug::OpensUnreleased);
                let ask = Ask::BeginPass { shard: source, span, epoch: growth.epoch, heir: shard, release };
                match self.ask_replicas(cluster, source, ask).await? {
                    Answer::Start(start) => GrowStep::Begin { source, pass, start, last },
                    other => return Err(format!("a pass was answered with {other:?}")),
                }
            }
            Task::Page { source, adoption, after } => {
                let (start, since) = (adoption.start, adoption.since);
                let ask = Ask::Export { shard: source, span, heir: shard, start, since, after };
                let (listed, frames) = match self.ask_replicas(cluster, source, ask).await? {
                    Answer::Page(listed, frames) => (listed, frames),
                    other => return Err(format!("a page was answered with {other:?}")),
                };
                let gone = list_gone(&group.reader(), COLLECTION, &homes, source, (after, &listed)).map_err(text)?;
                GrowStep::Adopt { source, pass: adoption.pass, after, upto: listed.upto, frames, gone }
            }
            Task::Settle => GrowStep::Settle { min_epoch: growth.epoch },
            Task::Clear => {
                let tenure = tenure.ok_or("no tenure")?;
                let after = cleared.get(&shard).copied();
                let (frames, upto) = list_moved(&group.reader(), COLLECTION, (&tenure, &homes), after).map_err(text)?;
                match upto {
                    Some(upto) => drop(cleared.insert(shard, upto)),
                    None => drop(cleared.remove(&shard)),
                }
                if frames.is_empty() && upto.is_none() {
                    return self.report(growth, shard).await;
                }
                GrowStep::Clear { frames }
            }
            Task::Report => return self.report(growth, shard).await,
        };
        self.take_step(&group, (shard, span), step).await.map(drop).map_err(|refusal| refusal.to_string())
    }

    async fn report(&self, growth: &Growth, shard: ShardId) -> Result<(), String> {
        let (collection, to, step) = (COLLECTION, growth.to, growth.step);
        self.propose_meta(&MetaCommand::GrowthDone { collection, to, step, shard }).await
    }

    async fn take_step(
        &self,
        group: &Group<Sim>,
        (shard, span): (ShardId, Span),
        step: GrowStep,
    ) -> Result<Option<Tenure>, Refusal> {
        let command = ShardCommand::Grow { collection: COLLECTION, shard, span, step };
        let proposed = group.propose(None, command::encode(&command)).await.map_err(|error| self.refuse(error))?;
        match command::decode(&proposed.response).map_err(refuse_engine)? {
            ShardAnswer::Grow(tenure) => Ok(tenure),
            other => Err(Refusal::NotReady(format!("a step was answered with {other:?}"))),
        }
    }

    async fn begin_pass(
        &self,
        shard: ShardId,
        (span, epoch): (Span, u64),
        heir: ShardId,
        release: bool,
    ) -> Result<Answer, Refusal> {
        let group = self.group_for(shard)?;
        must_lead(&group, self.node)?;
        let cluster = self.cluster.borrow().clone();
        if cluster.growths.get(&COLLECTION).is_none_or(|growth| growth.epoch != epoch) {
            return Err(Refusal::NotReady("this node does not know of that growth".into()));
        }
        if !release {
            return Ok(Answer::Start(group.read_index().await.map_err(refuse_read)?));
        }
        let tenure = self.take_step(&group, (shard, span), GrowStep::Release { heir, min_epoch: epoch }).await?;
        let released =
            tenure.filter(|tenure| tenure.span == span).and_then(|tenure| tenure.released.get(&heir).copied());
        released.map(Answer::Start).ok_or_else(|| Refusal::NotReady("it grows otherwise here".into()))
    }

    /// Asks the replicas of a shard in turn, this node's own first.
    async fn ask_replicas(&self, cluster: &ClusterState, shard: ShardId, ask: Ask) -> Result<Answer, String> {
        let mut replicas = cluster.replicas(shard).to_vec();
        replicas.sort_by_key(|&node| node != self.node);
        let mut last = "it has no replica".to_owned();
        for replica in replicas {
            let asked = async {
                match replica == self.node {
                    true => self.answer(ask.clone()).await,
                    false => self.network.ask(self.node, replica, ask.clone()).await,
                }
            };
            match runtime::timeout(mira_proto::limits::READ_TRY, asked).await {
                Some(Ok(answer)) => return Ok(answer),
                Some(Err(refusal)) => last = refusal.to_string(),
                None => last = "no answer".into(),
            }
        }
        Err(last)
    }
}
