//! A collection grows over more shards while it is written, read and searched, and while nodes go and come back.
//!
//! Real nodes and the router's own code in one process. Every worker owns its frames, so it knows what each must be:
//! nothing may be lost, come back, be there twice, be applied twice, or be hidden, at any moment of the growth.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mira_crypto::ClusterKey;
use mira_node::meta::{Growth, GrowthStep};
use mira_node::shard::tenure::{Progress, Tenure};
use mira_node::{Formation, NodeConfig, RunningNode, Shape};
use mira_proto::model::{
    CollectionSettings, Consistency, ForgetRequest, GrowRequest, RecallRequest, ScanRequest, SearchRequest,
    SessionsRequest, StoreItem, StoreRequest,
};
use mira_proto::{Code, Problem, ShardId};
use mira_router::cluster::Cluster as Map;
use mira_router::embedding::Embedding;
use mira_router::metrics::Metrics;
use mira_router::owner::Credential;
use mira_router::{ClusterMemory, Memory, RequestContext};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use uuid::Uuid;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const SHARDS: u32 = 6;
const DIM: u32 = 8;
const PATIENCE: Duration = Duration::from_secs(120);
const NAME: &str = "grows";
/// Of workers whose frames are private.
const OWNER_KEYS: [&str; 2] =
    ["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="];

/// Three nodes and a router.
struct Cluster {
    nodes: BTreeMap<usize, RunningNode>,
    folders: Vec<TempDir>,
    memory: Arc<ClusterMemory>,
    follower: JoinHandle<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

fn config(folder: &TempDir, formation: Formation) -> NodeConfig {
    let any = "127.0.0.1:0".parse().expect("an address");
    let key = ClusterKey::from_text(KEY).expect("a key");
    NodeConfig { listen: any, http_listen: any, ..NodeConfig::new(folder.path().to_owned(), key, formation) }
}

impl Cluster {
    async fn start() -> Cluster {
        let folders: Vec<TempDir> = (0..3).map(|_| tempfile::tempdir().expect("a folder")).collect();
        let mut nodes: BTreeMap<usize, RunningNode> = BTreeMap::new();
        for (at, folder) in folders.iter().enumerate() {
            let shape = Shape { shards: SHARDS, replication: 3, expect: 3 };
            let formation = match nodes.get(&0) {
                None => Formation::Bootstrap(shape),
                Some(first) => Formation::Join(vec![first.grpc_address().to_string()]),
            };
            nodes.insert(at, RunningNode::start(config(folder, formation)).await.expect("the node starts"));
        }
        for node in nodes.values() {
            assert!(node.wait_ready(PATIENCE).await, "not ready");
        }
        let metrics = Arc::new(Metrics::new());
        let seeds = nodes.values().map(|node| node.grpc_address().to_string()).collect();
        let map = Arc::new(Map::new(seeds, metrics.clone()));
        let embedding = Embedding::start(None, None, metrics.clone()).expect("no model is needed");
        let memory = Arc::new(ClusterMemory::new(map.clone(), embedding, metrics));
        let follower = tokio::spawn(async move { map.follow_map().await });
        let cluster = Cluster { nodes, folders, memory, follower };
        let settings = CollectionSettings { dim: Some(DIM), partitions: Some(2), ..Default::default() };
        cluster.memory.put_collection(&context(), NAME, settings).await.expect("a collection");
        cluster
    }

    async fn grow(&self, partitions: u32, dry_run: bool) -> Result<mira_proto::model::GrowReply, Problem> {
        self.memory.grow_collection(&context(), NAME, GrowRequest { partitions, dry_run }).await
    }

    /// The growth as some node knows it.
    fn growth(&self) -> Option<(u64, Growth)> {
        let newest =
            self.nodes.values().map(|node| node.node().cluster()).max_by_key(|cluster| cluster.header.epoch)?;
        newest.growths.iter().next().map(|(&collection, growth)| (collection, growth.clone()))
    }

    /// What the replicas of a shard know of its part.
    fn tenures(&self, collection: u64, shard: ShardId) -> Vec<Tenure> {
        let open = self.nodes.values().filter_map(|node| node.node().shard(shard).ok());
        open.filter_map(|shard| shard.tenure(collection).ok().flatten()).collect()
    }

    /// Waits for a moment of the growth.
    async fn until(&self, what: &str, is_there: impl Fn(&Cluster) -> bool) {
        let started = Instant::now();
        while !is_there(self) {
            assert!(started.elapsed() < PATIENCE, "not in time: {what}; {:?}", self.growth());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn has_step(&self, step: GrowthStep) -> bool {
        self.growth().is_some_and(|(_, growth)| growth.step >= step)
    }

    /// The node that leads a shard, as far as it knows itself.
    fn leader_of(&self, shard: ShardId) -> Option<usize> {
        let leads = |node: &RunningNode| node.node().shard(shard).is_ok_and(|shard| shard.group().status().is_leader());
        self.nodes.iter().find(|(_, node)| leads(node)).map(|(&at, _)| at)
    }

    /// Stops a node and starts it again at its old address.
    async fn restart(&mut self, at: usize) {
        let node = self.nodes.remove(&at).expect("a node");
        let (listen, http_listen) = (node.grpc_address(), node.http_address());
        node.shutdown().await;
        let started = Instant::now();
        let node = loop {
            let config = NodeConfig { listen, http_listen, ..config(&self.folders[at], Formation::Join(Vec::new())) };
            match RunningNode::start(config).await {
                Ok(node) => break node,
                Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        self.nodes.insert(at, node);
    }

    async fn stop(mut self) {
        let nodes = std::mem::take(&mut self.nodes);
        futures::future::join_all(nodes.into_values().map(RunningNode::shutdown)).await;
    }

    /// Frames of the collection in each shard, as its leader counts them.
    fn held(&self, collection: u64) -> BTreeMap<ShardId, u64> {
        let count = |shard: ShardId| {
            let leader = self.leader_of(shard)?;
            let open = self.nodes[&leader].node().shard(shard).ok()?;
            let stored = open.group().reader().get(&mira_node::shard::record::count_key(collection)).ok()?;
            mira_node::shard::machine::decode_count(stored.as_deref()).ok()
        };
        (0..SHARDS).filter_map(|shard| Some((shard, count(shard)?))).filter(|(_, count)| *count > 0).collect()
    }
}

fn context() -> RequestContext {
    RequestContext::new("test", Duration::from_secs(60))
}

/// A direction of a frame's own.
fn vector(id: Uuid) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(id.as_u128() as u64 ^ (id.as_u128() >> 64) as u64);
    (0..DIM).map(|_| rng.random_range(-1.0..1.0f32)).collect()
}

/// What a frame must be.
#[derive(Debug, Clone, PartialEq)]
struct Expected {
    version: u64,
    content: String,
}

/// One who writes, reads and searches frames of his own.
struct Worker {
    memory: Arc<ClusterMemory>,
    session: String,
    owner: Option<Credential>,
    rng: StdRng,
    ids: Vec<Uuid>,
    frames: BTreeMap<Uuid, Expected>,
    done: Arc<AtomicU64>,
}

impl Worker {
    fn new(cluster: &Cluster, number: u64, frames: usize, done: &Arc<AtomicU64>) -> Worker {
        let mut rng = StdRng::seed_from_u64(number);
        let ids = (0..frames).map(|_| Uuid::from_u128(rng.random())).collect();
        Worker {
            memory: cluster.memory.clone(),
            session: format!("worker {number}"),
            // Every other one keeps what it stores to itself.
            owner: (number % 2 == 1).then(|| Credential::key(OWNER_KEYS[number as usize / 2]).expect("a key")),
            rng,
            ids,
            frames: BTreeMap::new(),
            done: done.clone(),
        }
    }

    fn context(&self) -> RequestContext {
        RequestContext { owner: self.owner.clone(), ..context() }
    }

    fn item(&self, id: Uuid, content: &str) -> StoreItem {
        StoreItem {
            content: Some(content.to_owned()),
            vector: Some(vector(id)),
            session: Some(self.session.clone()),
            id: Some(id),
            collection: Some(NAME.into()),
            private: self.owner.is_some(),
            ..Default::default()
        }
    }

    async fn store(&self, context: &RequestContext, item: StoreItem) -> Result<u64, Problem> {
        let reply = self.memory.store(context, StoreRequest { item, items: None }).await?;
        Ok(reply.version.expect("a single item has a version"))
    }

    /// All frames at once, so that there is something to move.
    async fn fill(&mut self) {
        for ids in self.ids.clone().chunks(100) {
            let items = ids.iter().map(|&id| self.item(id, "first")).collect();
            let request = StoreRequest { items: Some(items), ..Default::default() };
            let reply = self.memory.store(&self.context(), request).await.expect("stored");
            for (id, item) in ids.iter().zip(reply.items.expect("a batch")) {
                assert!(matches!(item, mira_proto::model::ItemResult::Stored(_)), "{item:?}");
                self.frames.insert(*id, Expected { version: 1, content: "first".into() });
            }
        }
    }

    async fn run(mut self, running: Arc<AtomicBool>) -> Worker {
        while running.load(Ordering::Relaxed) {
            self.step().await;
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        self
    }

    async fn step(&mut self) {
        let id = self.ids[self.rng.random_range(0..self.ids.len())];
        match self.rng.random_range(0..100) {
            0..25 => self.replace(id).await,
            25..40 => self.compare_and_set(id).await,
            40..50 => self.forget(id).await,
            50..60 => self.replace_with_a_late_retry(id).await,
            60..75 => self.recall(id).await,
            75..90 => self.search(id).await,
            90..93 => self.recall_session().await,
            93..95 => self.list_sessions().await,
            95..97 => self.scan().await,
            _ => self.recall_batch().await,
        }
    }

    fn version(&self, id: Uuid) -> u64 {
        self.frames.get(&id).map_or(0, |frame| frame.version)
    }

    fn content(&mut self) -> String {
        format!("content {:016x}", self.rng.random::<u64>())
    }

    async fn replace(&mut self, id: Uuid) {
        let content = self.content();
        let item = StoreItem { replace: true, ..self.item(id, &content) };
        let version = self.store(&self.context(), item).await.expect("replaced");
        assert_eq!(version, self.version(id) + 1, "{id} was replaced once");
        self.frames.insert(id, Expected { version, content });
    }

    async fn compare_and_set(&mut self, id: Uuid) {
        let (content, current) = (self.content(), self.version(id));
        let wrong = StoreItem { expected_version: Some(current + 5), ..self.item(id, &content) };
        let refused = self.store(&self.context(), wrong).await.expect_err("another version is current");
        assert_eq!(refused.code, Code::Conflict, "{refused}");
        let right = StoreItem { expected_version: Some(current), ..self.item(id, &content) };
        let version = self.store(&self.context(), right).await.expect("the version is current");
        assert_eq!(version, current + 1);
        self.frames.insert(id, Expected { version, content });
    }

    async fn forget(&mut self, id: Uuid) {
        let request = ForgetRequest { id: Some(id), collection: Some(NAME.into()), ..Default::default() };
        let reply = self.memory.forget(&self.context(), request).await.expect("forgotten");
        assert_eq!(reply.removed, u64::from(self.frames.remove(&id).is_some()), "{id} is forgotten once");
        self.recall(id).await;
    }

    /// The first write is sent again, under its key, when another has taken its place: it must not take effect again,
    /// wherever the frame is by then.
    async fn replace_with_a_late_retry(&mut self, id: Uuid) {
        let (first, second) = (self.content(), self.content());
        let keyed = RequestContext { idempotency_key: Some(first.as_str().into()), ..self.context() };
        let item = StoreItem { replace: true, ..self.item(id, &first) };
        let told = self.store(&keyed, item.clone()).await.expect("replaced");
        assert_eq!(told, self.version(id) + 1);
        self.frames.insert(id, Expected { version: told, content: first });
        let replaced = StoreItem { replace: true, ..self.item(id, &second) };
        let version = self.store(&self.context(), replaced).await.expect("replaced");
        self.frames.insert(id, Expected { version, content: second });
        let pause = Duration::from_millis(self.rng.random_range(0..60));
        tokio::time::sleep(pause).await;
        let again = self.store(&keyed, item).await.expect("answered as before");
        assert_eq!(again, told, "a retry of {id} is answered as the first time");
        self.recall(id).await;
    }

    async fn recall(&self, id: Uuid) {
        let request = RecallRequest { id: Some(id), collection: Some(NAME.into()), ..Default::default() };
        match (self.memory.recall(&self.context(), request).await, self.frames.get(&id)) {
            (Ok(reply), Some(expected)) => self.check(&reply.frames[0], expected),
            (Err(problem), None) => assert_eq!(problem.code, Code::NotFound, "{problem}"),
            other => panic!("{id}: {other:?}"),
        }
    }

    fn check(&self, frame: &mira_proto::model::Frame, expected: &Expected) {
        let found = (frame.version, frame.content.as_deref());
        assert_eq!(found, (expected.version, Some(expected.content.as_str())), "{}", frame.id);
    }

    async fn recall_batch(&self) {
        let ids: Vec<Uuid> = self.ids.iter().copied().take(200).collect();
        let request = RecallRequest { ids: Some(ids.clone()), collection: Some(NAME.into()), ..Default::default() };
        let reply = self.memory.recall(&self.context(), request).await.expect("recalled");
        let found: BTreeSet<Uuid> = reply.frames.iter().map(|frame| frame.id).collect();
        let expected: BTreeSet<Uuid> = ids.into_iter().filter(|id| self.frames.contains_key(id)).collect();
        assert_eq!(found, expected);
        reply.frames.iter().for_each(|frame| self.check(frame, &self.frames[&frame.id]));
    }

    async fn recall_session(&self) {
        let request = RecallRequest {
            session: Some(self.session.clone()),
            limit: Some(1_000),
            collection: Some(NAME.into()),
            ..Default::default()
        };
        let reply = self.memory.recall(&self.context(), request).await.expect("recalled");
        let found: Vec<Uuid> = reply.frames.iter().map(|frame| frame.id).collect();
        let once: BTreeSet<Uuid> = found.iter().copied().collect();
        assert_eq!(once.len(), found.len(), "a frame is there twice");
        assert_eq!(once, self.frames.keys().copied().collect(), "{}", self.session);
        reply.frames.iter().for_each(|frame| self.check(frame, &self.frames[&frame.id]));
    }

    /// Its session has as many frames as it should, whichever shards they are in.
    async fn list_sessions(&self) {
        let mut request = SessionsRequest { limit: Some(1), ..Default::default() };
        let mut counts = Vec::new();
        loop {
            let page = self.memory.sessions(&self.context(), NAME, request.clone()).await.expect("listed");
            counts.extend(page.sessions.into_iter().filter(|found| found.session == self.session));
            match page.next {
                Some(next) => request.after = Some(next),
                None => break,
            }
        }
        let counts: Vec<u64> = counts.iter().map(|found| found.frames).collect();
        assert_eq!(counts, [self.frames.len() as u64], "{}", self.session);
    }

    /// Every frame of its own is on one page, once; others come and go meanwhile.
    async fn scan(&self) {
        let mut request = ScanRequest { limit: Some(170), after: None };
        let mut found = Vec::new();
        loop {
            let page = self.memory.scan(&self.context(), NAME, request.clone()).await.expect("scanned");
            let mine = |frame: &&mira_proto::model::ScannedFrame| frame.frame.session.as_ref() == Some(&self.session);
            for scanned in page.frames.iter().filter(mine) {
                self.check(&scanned.frame, &self.frames[&scanned.frame.id]);
                assert_eq!(scanned.vector.as_deref(), Some(&vector(scanned.frame.id)[..]));
                found.push(scanned.frame.id);
            }
            match page.next {
                Some(next) => request.after = Some(next),
                None => break,
            }
        }
        let once: BTreeSet<Uuid> = found.iter().copied().collect();
        assert_eq!((once.len(), once), (found.len(), self.frames.keys().copied().collect()), "{}", self.session);
    }

    async fn search(&self, id: Uuid) {
        let request = SearchRequest {
            vector: Some(vector(id)),
            k: Some(3),
            collection: Some(NAME.into()),
            consistency: Some(Consistency::Linearizable),
            include_private: self.owner.is_some(),
            strict: true,
            ..Default::default()
        };
        let reply = self.memory.search(&self.context(), request).await.expect("searched");
        let hits: Vec<_> = reply.hits.iter().filter(|hit| hit.frame.id == id).collect();
        match (&hits[..], self.frames.get(&id)) {
            ([hit], Some(expected)) => self.check(&hit.frame, expected),
            ([], None) => {}
            other => panic!("{id} is found as {other:?}"),
        }
        assert_eq!(reply.hits.len(), 3, "there are more than three frames at all times");
    }

    async fn check_all(&self) {
        self.recall_session().await;
        self.list_sessions().await;
        self.scan().await;
        for &id in &self.ids {
            self.recall(id).await;
        }
    }
}

/// Workers at work.
struct Work {
    running: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    workers: Vec<JoinHandle<Worker>>,
}

impl Work {
    async fn begin(cluster: &Cluster, workers: u64, frames: usize) -> Work {
        let (running, done) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let mut filled = Vec::new();
        for number in 0..workers {
            let mut worker = Worker::new(cluster, number, frames, &done);
            worker.fill().await;
            filled.push(worker);
        }
        let workers = filled.into_iter().map(|worker| tokio::spawn(worker.run(running.clone()))).collect();
        Work { running, done, workers }
    }

    /// Lets them do a few more things.
    async fn some_more(&self) {
        let (before, started) = (self.done.load(Ordering::Relaxed), Instant::now());
        while self.done.load(Ordering::Relaxed) < before + 60 {
            assert!(self.workers.iter().all(|worker| !worker.is_finished()), "a worker has failed");
            assert!(started.elapsed() < PATIENCE, "the workers hang");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(self) -> Vec<Worker> {
        self.running.store(false, Ordering::Relaxed);
        let mut ended = Vec::new();
        for worker in self.workers {
            ended.push(worker.await.expect("no worker saw anything wrong"));
        }
        ended
    }
}

/// The growth is over: every frame is in its new shard, nothing is left in another, and all are as they must be.
async fn settled(cluster: &Cluster, workers: &[Worker]) {
    cluster.until("everything is cleared", |cluster| cluster.has_step(GrowthStep::Remembering)).await;
    for worker in workers {
        worker.check_all().await;
    }
    let (collection, growth) = cluster.growth().expect("it is remembered");
    let frames: u64 = workers.iter().map(|worker| worker.frames.len() as u64).sum();
    cluster
        .until("every shard has a leader", |cluster| (0..SHARDS).all(|shard| cluster.leader_of(shard).is_some()))
        .await;
    let held = cluster.held(collection);
    assert_eq!(held.values().sum::<u64>(), frames, "{held:?}");
    assert_eq!(held.len(), growth.to as usize, "{held:?}");
    let info = cluster.memory.get_collection(&context(), NAME).await.expect("it is there");
    assert_eq!((info.partitions, info.growth.expect("remembered").step.as_str()), (growth.to, "remembering"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_grows_while_it_is_used_and_nothing_is_lost_doubled_or_hidden() {
    let cluster = Cluster::start().await;
    let work = Work::begin(&cluster, 4, 250).await;
    let planned = cluster.grow(5, true).await.expect("a plan");
    assert_eq!((planned.from, planned.to), (2, 5));
    assert_eq!((planned.shards.len(), planned.added_shards.len()), (2, 3));
    assert!(cluster.growth().is_none(), "a dry run changes nothing");
    for wrong in [1, 2, SHARDS + 1] {
        assert_eq!(cluster.grow(wrong, false).await.expect_err("refused").code, Code::InvalidArgument, "{wrong}");
    }
    work.some_more().await;
    assert_eq!(cluster.grow(5, false).await.expect("it begins"), planned);
    assert_eq!(cluster.grow(4, false).await.expect_err("it grows already").code, Code::Conflict);
    assert_eq!(cluster.grow(5, false).await.expect("asking again does no harm"), planned);
    work.some_more().await;
    cluster.until("everything is cleared", |cluster| cluster.has_step(GrowthStep::Remembering)).await;
    work.some_more().await;
    assert_eq!(cluster.grow(6, false).await.expect_err("retries still go the old way").code, Code::Conflict);
    settled(&cluster, &work.end().await).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_growth_goes_on_after_its_drivers_and_every_node_were_restarted_at_each_of_its_steps() {
    let mut cluster = Cluster::start().await;
    let work = Work::begin(&cluster, 2, 250).await;
    let planned = cluster.grow(4, false).await.expect("it begins");
    let (source, heir) = (planned.shards[1], planned.added_shards[0]);
    let collection = cluster.growth().expect("it has begun").0;
    let adopting = |cluster: &Cluster, wanted: fn(&mira_node::shard::tenure::Adoption) -> bool| {
        let tenures = cluster.tenures(collection, heir);
        tenures.iter().any(|tenure| tenure.adopting.values().any(wanted)) || cluster.has_step(GrowthStep::Clearing)
    };
    type Moment<'a> = (&'a str, Box<dyn Fn(&Cluster) -> bool + 'a>, ShardId);
    let moments: Vec<Moment<'_>> = vec![
        ("a pass runs", Box::new(|cluster| adopting(cluster, |adoption| adoption.brought > 0)), heir),
        ("a second pass", Box::new(|cluster| adopting(cluster, |adoption| adoption.pass > 1)), source),
        (
            "frames are released",
            Box::new(|cluster| {
                let released = |tenure: &Tenure| tenure.released.contains_key(&heir);
                cluster.tenures(collection, source).iter().any(released) || cluster.has_step(GrowthStep::Clearing)
            }),
            heir,
        ),
        ("a source is open", Box::new(|cluster| adopting(cluster, |adoption| adoption.at == Progress::Open)), heir),
        ("clearing", Box::new(|cluster| cluster.has_step(GrowthStep::Clearing)), source),
        ("remembering", Box::new(|cluster| cluster.has_step(GrowthStep::Remembering)), source),
    ];
    for (what, is_there, shard) in &moments {
        cluster.until(what, is_there).await;
        let leader = cluster.leader_of(*shard).unwrap_or(0);
        cluster.restart(leader).await;
        work.some_more().await;
    }
    // Everything at once, and the growth's own record is all that is left of it.
    let workers = work.end().await;
    for at in 0..3 {
        cluster.restart(at).await;
    }
    settled(&cluster, &workers).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_growth_can_be_paused_and_a_dropped_collection_ends_it() {
    let cluster = Cluster::start().await;
    let work = Work::begin(&cluster, 2, 100).await;
    cluster.memory.set_moves(&context(), true).await.expect("paused");
    let planned = cluster.grow(4, false).await.expect("it begins");
    let collection = cluster.growth().expect("it has begun").0;
    work.some_more().await;
    let begun =
        |cluster: &Cluster| planned.added_shards.iter().any(|&heir| !cluster.tenures(collection, heir).is_empty());
    assert!(!begun(&cluster), "nothing moves while moves are paused");
    cluster.memory.set_moves(&context(), false).await.expect("it goes on");
    cluster.until("frames move", begun).await;
    drop(work.end().await);
    cluster.memory.delete_collection(&context(), NAME).await.expect("dropped");
    let left = |cluster: &Cluster| {
        (0..SHARDS).any(|shard| !cluster.tenures(collection, shard).is_empty()) || !cluster.held(collection).is_empty()
    };
    cluster.until("nothing of it is left", |cluster| cluster.growth().is_none() && !left(cluster)).await;
    cluster.stop().await;
}
