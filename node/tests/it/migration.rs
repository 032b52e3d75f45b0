//! Golden scripts of a migration: one node with a replica of every shard, whose driver takes a step when the script says so.
//! `UPDATE_GOLDENFILES=1` writes the outputs anew.

use std::{
    collections::BTreeMap,
    error::Error,
    fmt::{Display, Write},
    ops::ControlFlow,
    path::PathBuf,
    str::FromStr,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use goldenscript::{ArgumentConsumer, Command, Context, Runner};
use mira_crypto::{ClusterKey, ClusterLayerKey, CollectionKey};
use mira_index::RowCache;
use mira_node::{
    background::migration::{Migration, Step, Task},
    keys::keyring::{FIRST_KEY, Keyring, TAG_KEY},
    member::{Member, MemberParts},
    meta::{
        ClusterState, CollectionRecord, GrowthStep, META_GROUP, MetaAnswer, MetaCommand, MetaMachine, NameKey,
        NodeRecord,
    },
    peers::Peer,
    shard::{
        Shard, Shared,
        admission::Admission,
        index::{IndexParts, ShardIndex, Workers, recall_sampler::RecallSampler},
        migration::ownership::{FramePlacement, Ownership, Progress, Span},
        record,
    },
};
use mira_proto::{
    CollectionId, FORMAT_LEVEL, FrameId, HEADER_VERSION, NodeId, Problem, Refusal, ShardId, limits, node_v1,
};
use mira_raft::{Clock, HostConfig, RaftHost, engine::MemEngine, transport::local::LocalNetwork};
use rand::{SeedableRng, rngs::StdRng};

const ME: NodeId = 1;
const COLLECTION: CollectionId = 7;
/// So few that a few frames make several pages.
const PAGE_FRAMES: usize = 2;

/// Commands of the scripts; frames are named by small numbers:
/// - `cluster shards=S partitions=P`: a new cluster, with a collection on so many of its shards
/// - `write FRAME [at=source|target] [epoch=E]`: stores a frame as a new version, as a router with that map would; at the
///   shard where it lay first, or where it will be
/// - `read FRAME [at=source|target] [epoch=E]`: what that shard shows of a frame to a router with that map
/// - `grow to=P`, `pause`, `resume`: what an operator asks for
/// - `round [N]`: every shard takes its next step, so many times
/// - `forget-growth`: so much time goes by that nobody retries anything from before
/// - `growth`: how far it is
/// - `shards`: which frames each shard has, and what it knows of the growth
#[derive(Default)]
struct Scripted {
    node: Option<(tokio::runtime::Runtime, Node)>,
}

type Output = Result<String, Box<dyn Error>>;

impl Runner for Scripted {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Output {
        let mut args = command.consume_args();
        if command.name == "cluster" {
            let (shards, partitions) = (named(&mut args, "shards")?, named(&mut args, "partitions")?);
            args.reject_next()?;
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let node = runtime.block_on(Node::form(shards, partitions))?;
            self.node = Some((runtime, node));
            return Ok(String::new());
        }
        let (runtime, node) = self.node.as_mut().ok_or("there is no cluster yet")?;
        runtime.block_on(node.run(&command.name, &mut args))
    }
}

/// The argument of a name.
fn named<T: FromStr<Err: Error + 'static>>(args: &mut ArgumentConsumer<'_>, name: &str) -> Result<T, Box<dyn Error>> {
    Ok(args.take_key(name).ok_or_else(|| format!("{name}=…?"))?.parse()?)
}

/// A line of output: what was done, or why not.
fn said<T: Display>(outcome: Result<T, Refusal>) -> String {
    match outcome {
        Ok(text) => format!("{text}\n"),
        Err(refusal) => format!("refused: {refusal}\n"),
    }
}

struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Nothing is searched, so nothing is indexed.
struct NoWorkers;

impl Workers for NoWorkers {
    fn register(&self, _: &Arc<ShardIndex>) {}
    fn schedule(&self, _: Arc<ShardIndex>) {}
}

/// The only node there is, as it asks itself.
#[derive(Default)]
struct Myself(OnceLock<Weak<Member>>);

impl Myself {
    fn shard(&self, shard: ShardId) -> Result<Arc<Shard>, Refusal> {
        let member = self.0.get().and_then(Weak::upgrade);
        member.ok_or_else(|| Refusal::NotReady("the node is being made".into()))?.shard(shard)
    }
}

fn nobody<T>() -> Result<T, Refusal> {
    Err(Problem::internal("the only node asks nobody else").into())
}

#[async_trait]
impl Peer for Myself {
    async fn propose_meta(&self, _: NodeId, _: Bytes) -> Result<Bytes, Refusal> {
        nobody()
    }

    async fn confirmed_map(&self, _: NodeId) -> Result<node_v1::ClusterMap, Refusal> {
        nobody()
    }

    async fn status(&self, _: NodeId) -> Result<node_v1::NodeStatus, Refusal> {
        nobody()
    }

    async fn begin_pass(
        &self,
        _: NodeId,
        request: node_v1::BeginPassRequest,
    ) -> Result<node_v1::BeginPassReply, Refusal> {
        let start = self.shard(request.shard)?.begin_pass(&request).await?;
        Ok(node_v1::BeginPassReply { start })
    }

    async fn export(&self, _: NodeId, request: node_v1::ExportRequest) -> Result<node_v1::ExportReply, Refusal> {
        self.shard(request.shard)?.export(&request).await
    }
}

fn cluster_key() -> ClusterKey {
    ClusterKey::generate(&mut StdRng::seed_from_u64(1))
}

fn layer_key() -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(2);
    ClusterLayerKey::generate(FIRST_KEY, &mut rng).wrap(&cluster_key(), &mut rng).as_bytes().to_vec()
}

fn collection(partitions: u32) -> CollectionRecord {
    let mut rng = StdRng::seed_from_u64(3);
    let mut key = |version| {
        let key = CollectionKey::generate(COLLECTION, version, &mut rng).wrap(&cluster_key(), &mut rng);
        (version, key.as_bytes().to_vec())
    };
    CollectionRecord {
        partitions,
        first_partitions: partitions,
        wrapped_keys: [TAG_KEY, FIRST_KEY].map(&mut key).into(),
        ..CollectionRecord::new(COLLECTION, "notes", 4)
    }
}

/// The id of a frame that a script names by a number: they spread over the shards.
fn id_of(number: u64) -> FrameId {
    u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
}

/// A node that holds everything.
struct Node {
    member: Arc<Member>,
    migration: Migration,
    clock: Arc<TestClock>,
    /// The frames that a script has named.
    numbers: BTreeMap<FrameId, u64>,
    writes: u128,
}

impl Node {
    async fn form(shards: u32, partitions: u32) -> Result<Self, Box<dyn Error>> {
        let clock = Arc::new(TestClock(AtomicU64::new(1_000_000)));
        let keyring = Arc::new(Keyring::new(vec![cluster_key()]));
        let (machine, cluster) = MetaMachine::new(keyring.clone());
        let network: LocalNetwork = LocalNetwork::default();
        let (log, state) = (Arc::new(MemEngine::new()), Arc::new(MemEngine::new()));
        let config = HostConfig { clock: clock.clone(), ..HostConfig::new(ME, log, state, network.transport(ME)) };
        let host = RaftHost::open(config).await?;
        let meta = host.open_group(META_GROUP, machine).await?;
        meta.initialize([ME].into()).await?;
        let drawn = AtomicU64::new(0);
        let shared = Shared {
            node_id: ME,
            keyring: keyring.clone(),
            cluster: cluster.clone(),
            clock: clock.clone(),
            page_frames: PAGE_FRAMES,
            randomness: Arc::new(move || StdRng::seed_from_u64(drawn.fetch_add(1, Ordering::Relaxed))),
            admission: Admission::new(1),
            recall_sampler: Arc::new(RecallSampler::new(0)),
        };
        let peers = Arc::new(Myself::default());
        let member = Arc::new(Member::new(MemberParts {
            host,
            meta,
            shared,
            index: IndexParts { keyring, cluster, workers: Arc::new(NoWorkers), cache: RowCache::new(0) },
            peers: peers.clone(),
            data: PathBuf::from("none"),
            watcher: None,
        })?);
        peers.0.set(Arc::downgrade(&member)).map_err(|_| "made once")?;
        let migration = Migration::new(member.clone());
        let node = Node { member, migration, clock, numbers: BTreeMap::new(), writes: 0 };
        node.place(shards, partitions).await?;
        Ok(node)
    }

    /// Forms the cluster, and starts every shard here.
    async fn place(&self, shards: u32, partitions: u32) -> Result<(), Box<dyn Error>> {
        leads(&self.member.meta()).await?;
        let me = NodeRecord {
            id: ME,
            address: "h1:1".into(),
            http_address: String::new(),
            zone: String::new(),
            version: String::new(),
            format: FORMAT_LEVEL,
        };
        let form = MetaCommand::Form {
            cluster_id: 1,
            shards,
            replication: 1,
            expect: 1,
            layer_key: layer_key(),
            name_key: NameKey([3; 32]),
        };
        let placement = vec![vec![ME]; shards as usize];
        let created = MetaCommand::CreateCollection(collection(partitions));
        for command in [form, MetaCommand::PutNode(me), MetaCommand::PlaceShards(placement), created] {
            self.propose(&command).await?;
        }
        for id in 0..shards {
            self.member.open_shard(id).await?;
            let shard = self.member.shard(id)?;
            shard.group().initialize([ME].into()).await?;
            leads(shard.group()).await?;
        }
        Ok(())
    }

    async fn propose(&self, command: &MetaCommand) -> Result<(), Box<dyn Error>> {
        match self.member.propose_meta(command).await? {
            MetaAnswer::Done => Ok(()),
            other => Err(format!("{command:?}: {other:?}").into()),
        }
    }

    fn cluster(&self) -> Arc<ClusterState> {
        self.member.cluster()
    }

    async fn run(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Output {
        match name {
            "write" | "read" => {
                let number: u64 = args.next_pos().ok_or("which frame?")?.parse()?;
                self.numbers.insert(id_of(number), number);
                let shard = self.shard_of(number, args.take_key("at").unwrap_or("source"))?;
                let epoch = args.take_key("epoch").map(str::parse).transpose()?;
                let epoch = epoch.unwrap_or(self.cluster().header.epoch);
                args.reject_next()?;
                let outcome = if name == "write" {
                    self.write(number, shard, epoch).await
                } else {
                    self.read(number, shard, epoch).await
                };
                Ok(format!("shard {shard}: {}", said(outcome)))
            }
            "grow" => {
                let to = named(args, "to")?;
                args.reject_next()?;
                self.propose(&MetaCommand::StartGrowth { collection: COLLECTION, to }).await?;
                Ok(format!("epoch {}\n", self.cluster().header.epoch))
            }
            "pause" | "resume" => {
                self.propose(&MetaCommand::PauseMoves(name == "pause")).await?;
                Ok(String::new())
            }
            "round" => {
                let times: u64 = args.next_pos().map_or(Ok(1), str::parse)?;
                args.reject_next()?;
                self.rounds(times).await
            }
            "forget-growth" => {
                self.clock.0.fetch_add(limits::GROWTH_MEMORY.as_millis() as u64, Ordering::Relaxed);
                Ok(String::new())
            }
            "growth" => Ok(self.growth()),
            "shards" => self.shards(),
            other => Err(format!("no command {other}").into()),
        }
    }

    /// Where a frame was before the growth, or where it is after it.
    fn shard_of(&self, number: u64, at: &str) -> Result<ShardId, Box<dyn Error>> {
        let cluster = self.cluster();
        let record = cluster.collections.get(&COLLECTION).ok_or("there is no collection")?;
        let growth = cluster.growths.get(&COLLECTION);
        let (from, to) = growth.map_or((record.first_partitions, record.partitions), |growth| (growth.from, growth.to));
        let span = Span { from, to, shards: cluster.header.shards };
        let (source, target) = FramePlacement::new(COLLECTION, span).of(id_of(number));
        match at {
            "source" => Ok(source),
            "target" => Ok(target),
            other => Err(format!("no place {other}").into()),
        }
    }

    async fn write(&mut self, number: u64, shard: ShardId, epoch: u64) -> Result<String, Refusal> {
        self.writes += 1;
        let header = node_v1::WriteHeader {
            version: HEADER_VERSION,
            epoch,
            shard,
            collection: COLLECTION,
            request_id: self.writes.to_be_bytes().to_vec().into(),
            ..Default::default()
        };
        let frame = node_v1::FrameWrite {
            id: id_of(number).to_be_bytes().to_vec().into(),
            content: format!("{}", self.writes).into_bytes().into(),
            replace: true,
            ..Default::default()
        };
        let request = node_v1::WriteRequest { header: Some(header), frames: vec![frame], ..Default::default() };
        let reply = self.member.shard(shard)?.write(request).await?;
        let outcome = reply.outcomes.into_iter().next().ok_or_else(|| Problem::internal("no outcome"))?;
        Ok(match outcome.problem {
            Some(problem) => format!("{problem:?}"),
            None if outcome.moved => "moved".into(),
            None => format!("version {}", outcome.version),
        })
    }

    async fn read(&self, number: u64, shard: ShardId, epoch: u64) -> Result<String, Refusal> {
        let cluster = self.cluster();
        let growth = cluster.growths.get(&COLLECTION);
        let copying = growth.filter(|growth| growth.step == GrowthStep::Copying);
        let migration =
            copying.map(|growth| node_v1::MigrationView { from: growth.from, to: growth.to, without: Vec::new() });
        let grown = cluster.collections.get(&COLLECTION).filter(|record| record.partitions > record.first_partitions);
        let header = node_v1::ReadHeader {
            version: HEADER_VERSION,
            epoch,
            shard,
            collection: COLLECTION,
            grown_to: if migration.is_some() { 0 } else { grown.map_or(0, |record| record.partitions) },
            migration,
            ..Default::default()
        };
        let ids = vec![id_of(number).to_be_bytes().to_vec().into()];
        let request = node_v1::FetchRequest { header: Some(header), ids, ..Default::default() };
        let reply = self.member.shard(shard)?.fetch(request).await?;
        let found = reply.frames.first().map_or("nothing".into(), |frame| format!("version {}", frame.version));
        let taken_over = reply.state.map(|state| state.taken_over).unwrap_or_default();
        Ok(if taken_over.is_empty() { found } else { format!("{found}, taken over from {taken_over:?}") })
    }

    async fn rounds(&self, times: u64) -> Output {
        let mut text = String::new();
        for _ in 0..times {
            let round = self.migration.round().await;
            for Step { shard, outcome, .. } in round.steps {
                write!(text, "shard {shard}: {}", said(outcome.map(|task| self.task(&task))))?;
            }
        }
        Ok(if text.is_empty() { "nothing to do\n".into() } else { text })
    }

    fn task(&self, task: &Task) -> String {
        let last = |last: bool| if last { ", the last" } else { "" };
        match task {
            Task::BeginPass { source, pass, last: is_last } => {
                format!("begins pass {pass} over shard {source}{}", last(*is_last))
            }
            Task::ApplyPage { source, backfill, after } => {
                let after = after.map(|after| format!(" after frame {}", self.number(after))).unwrap_or_default();
                format!("takes a page of pass {} over shard {source}{after}{}", backfill.pass, last(backfill.last))
            }
            other => format!("{other:?}"),
        }
    }

    fn number(&self, frame: FrameId) -> String {
        self.numbers.get(&frame).map_or("?".into(), u64::to_string)
    }

    fn growth(&self) -> String {
        let cluster = self.cluster();
        let Some(growth) = cluster.growths.get(&COLLECTION) else { return "nothing grows\n".into() };
        let (sources, targets) = growth.shards(COLLECTION, cluster.header.shards);
        let done: Vec<ShardId> = growth.done.iter().copied().collect();
        format!("{:?} from {sources:?} to {targets:?}, done by {done:?}, epoch {}\n", growth.step, growth.epoch)
    }

    fn shards(&self) -> Output {
        let mut text = String::new();
        for (id, shard) in self.member.replicas().open() {
            let mut frames = Vec::new();
            let prefix = record::collection_prefix(record::Table::Heads, COLLECTION);
            shard.group().reader().scan_prefix(&prefix, false, &mut |key, _| {
                frames.extend(record::parse_pair_key(key).map(|(_, frame)| self.number(frame)));
                ControlFlow::Continue(())
            })?;
            let ownership = shard.ownership(COLLECTION)?;
            if frames.is_empty() && ownership.is_none() {
                continue;
            }
            let known = ownership.map(|ownership| known(&ownership)).unwrap_or_default();
            writeln!(text, "shard {id} has [{}]{known}", frames.join(" "))?;
        }
        Ok(text)
    }
}

/// What a shard knows of a growth.
fn known(ownership: &Ownership) -> String {
    let mut text = String::new();
    for target in ownership.frozen.keys() {
        text += &format!(", frozen for {target}");
    }
    if ownership.finalized {
        text += ", finalized";
    }
    for (source, backfill) in &ownership.backfills {
        let at = match backfill.at {
            Progress::Running(_) => "running",
            Progress::Complete => "complete",
            Progress::Open => "open",
        };
        text += &format!(", pass {} over {source} {at}", backfill.pass);
    }
    text
}

async fn leads(group: &mira_raft::Group) -> Result<(), Box<dyn Error>> {
    let mut watch = group.watch();
    let leads = watch.wait_for(Duration::from_secs(60), |status| status.is_leader()).await;
    leads.map(drop).ok_or_else(|| "the group has no leader".into())
}

fn run(script: &str) {
    goldenscript::run(&mut Scripted::default(), format!("tests/it/scripts/{script}")).expect("the script runs");
}

#[test]
fn migration_takes_source_after_source_and_clears_up() {
    run("migration/growing");
}

#[test]
fn migration_lets_one_shard_decide_about_a_frame() {
    run("migration/writing");
}

#[test]
fn migration_pauses_but_not_while_writers_wait() {
    run("migration/pausing");
}
