//! A cluster within one process, the router's own code in front of it, and workers that each know what their frames must
//! be: nothing may be lost, come back, be there twice, be applied twice, or be hidden, at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use mira_crypto::ClusterKey;
use mira_node::{ChunkGcSettings, Formation, KeyProvider, NodeConfig, ProviderError, RunningNode, Shape};
use mira_proto::model::{
    CollectionSettings, Consistency, ForgetRequest, Metric, NamedVectors, Quantization, RecallRequest, ScanRequest,
    SearchRequest, SessionsRequest, StoreItem, StoreRequest,
};
use mira_proto::{Code, Problem, ShardId};
use mira_router::cluster::Cluster as Map;
use mira_router::embedding::Embedding;
use mira_router::metrics::Metrics;
use mira_router::private::credential::Credential;
use mira_router::{Memory, RequestContext};
use mira_testing::eventually;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
pub const SHARDS: u32 = 6;
const NODES: u32 = 3;
pub const DIM: u32 = 8;
/// Further vectors of the frames.
pub const STATE: &str = "state";
pub const STATE_DIM: u32 = 12;
pub const PATIENCE: Duration = Duration::from_secs(120);
pub const NAME: &str = "grows";
/// Of workers whose frames are private.
const OWNER_KEYS: [&str; 2] =
    ["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="];

/// How long nodes keep chunks that nothing refers to, unless a test waits for their end.
const CHUNKS_KEPT_FOR: Duration = Duration::from_secs(3_600);

/// Whether a file below a folder holds these bytes.
pub fn holds(folder: &Path, wanted: &[u8]) -> bool {
    std::fs::read_dir(folder).expect("a folder").flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return holds(&path, wanted);
        }
        // A file may go while it is looked for.
        let bytes = std::fs::read(&path).unwrap_or_default();
        memchr::memmem::find(&bytes, wanted).is_some()
    })
}

/// Three nodes and a router.
pub struct Cluster {
    pub nodes: BTreeMap<usize, RunningNode>,
    pub folders: Vec<TempDir>,
    pub memory: Arc<Memory>,
    /// What every node's provider gives out.
    pub keys: Arc<Keys>,
    chunks_kept_for: Duration,
    follower: JoinHandle<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// Cluster keys that a test changes while nodes run.
pub struct Keys(Mutex<Vec<String>>);

impl Keys {
    /// Puts a key before all others.
    pub fn put_first(&self, key: &str) {
        self.0.lock().unwrap().insert(0, key.to_owned());
    }

    /// Takes a key away.
    pub fn remove(&self, key: &str) {
        self.0.lock().unwrap().retain(|known| known != key);
    }
}

#[async_trait]
impl KeyProvider for Keys {
    async fn load(&self) -> Result<Vec<ClusterKey>, ProviderError> {
        Ok(self.0.lock().unwrap().iter().map(|text| ClusterKey::from_text(text).expect("a key")).collect())
    }

    fn describe(&self) -> String {
        "a test".into()
    }
}

/// What a node's configuration depends on.
struct Settings<'a> {
    folder: &'a TempDir,
    keys: &'a Arc<Keys>,
    formation: Formation,
    chunks_kept_for: Duration,
}

impl Settings<'_> {
    fn config(self) -> NodeConfig {
        let any = "127.0.0.1:0".parse().expect("an address");
        let chunk_gc = ChunkGcSettings { every: Duration::from_millis(300), idle: self.chunks_kept_for };
        NodeConfig {
            listen: any,
            http_listen: any,
            chunk_gc,
            ..NodeConfig::new(self.folder.path().to_owned(), self.keys.clone(), self.formation)
        }
    }
}

impl Cluster {
    /// Three nodes and the collection.
    pub async fn start() -> Cluster {
        Cluster::with_chunks_kept_for(CHUNKS_KEPT_FOR).await
    }

    /// As [`Cluster::start`], with nodes that remove chunks after this time without a frame that refers to them.
    pub async fn with_chunks_kept_for(chunks_kept_for: Duration) -> Cluster {
        let cluster = Cluster::empty(chunks_kept_for).await;
        let state =
            NamedVectors { dim: STATE_DIM, metric: Metric::default(), quantization: Quantization::Binary, ef: None };
        let vectors = [(STATE.to_owned(), state)].into();
        let settings = CollectionSettings { dim: Some(DIM), partitions: Some(2), vectors, ..Default::default() };
        cluster.memory.put_collection(&context(), NAME, settings).await.expect("a collection");
        cluster
    }

    async fn empty(chunks_kept_for: Duration) -> Cluster {
        let keys = Arc::new(Keys(Mutex::new(vec![KEY.to_owned()])));
        let folders: Vec<TempDir> = (0..NODES).map(|_| tempfile::tempdir().expect("a folder")).collect();
        let mut nodes: BTreeMap<usize, RunningNode> = BTreeMap::new();
        for (at, folder) in folders.iter().enumerate() {
            let shape = Shape { shards: SHARDS, replication: NODES, expect: NODES };
            let formation = match nodes.get(&0) {
                None => Formation::Bootstrap(shape),
                Some(first) => Formation::Join(vec![first.grpc_address().to_string()]),
            };
            let settings = Settings { folder, keys: &keys, formation, chunks_kept_for };
            nodes.insert(at, RunningNode::start(settings.config()).await.expect("the node starts"));
        }
        for node in nodes.values() {
            assert!(node.wait_ready(PATIENCE).await, "not ready");
        }
        let metrics = Arc::new(Metrics::new());
        let seeds = nodes.values().map(|node| node.grpc_address().to_string()).collect();
        let map = Arc::new(Map::new(seeds, metrics.clone()));
        let embedding = Embedding::start(None, metrics.clone()).expect("no model is needed");
        let memory = Arc::new(Memory::new(map.clone(), embedding, metrics));
        let follower = tokio::spawn(async move { map.follow_map().await });
        Cluster { nodes, folders, memory, keys, chunks_kept_for, follower }
    }

    /// Waits for a moment.
    pub async fn until(&self, what: &str, is_there: impl Fn(&Cluster) -> bool) {
        eventually(what, PATIENCE, async || is_there(self)).await;
    }

    /// The node that leads a shard, as far as it knows itself.
    pub fn leader_of(&self, shard: ShardId) -> Option<usize> {
        let leads = |node: &RunningNode| node.node().shard(shard).is_ok_and(|shard| shard.group().status().is_leader());
        self.nodes.iter().find(|(_, node)| leads(node)).map(|(&at, _)| at)
    }

    /// Stops a node and starts it again at its old address.
    pub async fn restart(&mut self, at: usize) {
        let node = self.nodes.remove(&at).expect("a node");
        let (listen, http_listen) = (node.grpc_address(), node.http_address());
        node.shutdown().await;
        let node = eventually("the node starts at its old address", PATIENCE, async || {
            let settings = Settings {
                folder: &self.folders[at],
                keys: &self.keys,
                formation: Formation::Join(Vec::new()),
                chunks_kept_for: self.chunks_kept_for,
            };
            let config = NodeConfig { listen, http_listen, ..settings.config() };
            RunningNode::start(config).await.ok()
        });
        let node = node.await;
        self.nodes.insert(at, node);
    }

    pub async fn stop(mut self) {
        let nodes = std::mem::take(&mut self.nodes);
        futures::future::join_all(nodes.into_values().map(RunningNode::shutdown)).await;
    }

    /// Frames of the collection in each shard, as its leader counts them.
    pub fn held(&self, collection: u64) -> BTreeMap<ShardId, u64> {
        let count = |shard: ShardId| {
            let leader = self.leader_of(shard)?;
            let open = self.nodes[&leader].node().shard(shard).ok()?;
            let stored = open.group().reader().get(&mira_node::shard::record::count_key(collection)).ok()?;
            mira_node::shard::machine::decode_count(stored.as_deref()).ok()
        };
        (0..SHARDS).filter_map(|shard| Some((shard, count(shard)?))).filter(|(_, count)| *count > 0).collect()
    }
}

impl Cluster {
    /// Stores a record that its source names; its id, and whether it was there already.
    pub async fn store_named(&self, source_key: &str) -> (Uuid, bool) {
        let item = StoreItem { source_key: Some(source_key.to_owned()), ..named_item() };
        let reply = self.memory.store(&context(), StoreRequest { item, items: None }).await.expect("stored");
        (reply.id.expect("one item was stored"), reply.unchanged)
    }

    /// Stores another frame of the session that such records have, under an id that the router makes.
    pub async fn store_beside_named(&self) -> Uuid {
        let request = StoreRequest { item: named_item(), items: None };
        let reply = self.memory.store(&context(), request).await.expect("stored");
        reply.id.expect("one item was stored")
    }
}

/// The session of records that a test's source names; no worker has it.
pub const NAMED_SESSION: &str = "named";

fn named_item() -> StoreItem {
    StoreItem {
        content: Some("a record".to_owned()),
        vector: Some(vec![1.0; DIM as usize]),
        session: Some(NAMED_SESSION.to_owned()),
        collection: Some(NAME.into()),
        ..Default::default()
    }
}

pub fn context() -> RequestContext {
    RequestContext::new("test", Duration::from_secs(60))
}

/// A direction of a frame's own.
pub fn vector(id: Uuid) -> Vec<f32> {
    direction(id, DIM)
}

/// Another one, its vector named [`STATE`]; none for every third frame.
pub fn state(id: Uuid) -> Option<Vec<f32>> {
    (!id.as_u128().is_multiple_of(3)).then(|| direction(id, STATE_DIM))
}

fn direction(id: Uuid, dim: u32) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(id.as_u128() as u64 ^ (id.as_u128() >> 64) as u64 ^ u64::from(dim));
    (0..dim).map(|_| rng.random_range(-1.0..1.0f32)).collect()
}

/// What a frame must be.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    pub version: u64,
    pub content: String,
}

/// One who writes, reads and searches frames of his own.
pub struct Worker {
    pub memory: Arc<Memory>,
    session: String,
    owner: Option<Credential>,
    rng: StdRng,
    ids: Vec<Uuid>,
    pub frames: BTreeMap<Uuid, Expected>,
    /// The last versions of those that were forgotten: the next is above.
    forgotten: BTreeMap<Uuid, u64>,
    done: Arc<AtomicU64>,
}

impl Worker {
    pub fn new(cluster: &Cluster, number: u64, frames: usize, done: &Arc<AtomicU64>) -> Worker {
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
            forgotten: BTreeMap::new(),
            done: done.clone(),
        }
    }

    pub fn context(&self) -> RequestContext {
        RequestContext { owner: self.owner.clone(), ..context() }
    }

    pub fn item(&self, id: Uuid, content: &str) -> StoreItem {
        StoreItem {
            content: Some(content.to_owned()),
            vector: Some(vector(id)),
            vectors: state(id).map(|state| (STATE.to_owned(), state)).into_iter().collect(),
            session: Some(self.session.clone()),
            id: Some(id),
            collection: Some(NAME.into()),
            private: self.owner.is_some(),
            ..Default::default()
        }
    }

    pub async fn store(&self, context: &RequestContext, item: StoreItem) -> Result<u64, Problem> {
        let reply = self.memory.store(context, StoreRequest { item, items: None }).await?;
        Ok(reply.version.expect("a single item has a version"))
    }

    /// All frames at once, so that there is something to move.
    pub async fn fill(&mut self) {
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

    pub async fn run(mut self, running: Arc<AtomicBool>) -> Worker {
        while running.load(Ordering::Relaxed) {
            self.step().await;
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        self
    }

    pub async fn step(&mut self) {
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

    pub fn version(&self, id: Uuid) -> u64 {
        self.frames.get(&id).map_or(0, |frame| frame.version)
    }

    /// A frame gets the next version; one that was forgotten begins anew somewhere above its last.
    fn check_next(&self, id: Uuid, version: u64) {
        match self.frames.get(&id) {
            Some(frame) => assert_eq!(version, frame.version + 1, "{id} was replaced once"),
            None => assert!(version > self.forgotten.get(&id).copied().unwrap_or_default(), "{id} went back"),
        }
    }

    pub fn content(&mut self) -> String {
        format!("content {:016x}", self.rng.random::<u64>())
    }

    pub async fn replace(&mut self, id: Uuid) {
        let content = self.content();
        let item = StoreItem { replace: true, ..self.item(id, &content) };
        let version = self.store(&self.context(), item).await.expect("replaced");
        self.check_next(id, version);
        self.frames.insert(id, Expected { version, content });
    }

    pub async fn compare_and_set(&mut self, id: Uuid) {
        let (content, current) = (self.content(), self.version(id));
        let wrong = StoreItem { expected_version: Some(current + 5), ..self.item(id, &content) };
        let refused = self.store(&self.context(), wrong).await.expect_err("another version is current");
        assert_eq!(refused.code, Code::Conflict, "{refused}");
        let right = StoreItem { expected_version: Some(current), ..self.item(id, &content) };
        let version = self.store(&self.context(), right).await.expect("the version is current");
        self.check_next(id, version);
        self.frames.insert(id, Expected { version, content });
    }

    pub async fn forget(&mut self, id: Uuid) {
        let request = ForgetRequest { id: Some(id), collection: Some(NAME.into()), ..Default::default() };
        let reply = self.memory.forget(&self.context(), request).await.expect("forgotten");
        let was = self.frames.remove(&id);
        assert_eq!(reply.removed, u64::from(was.is_some()), "{id} is forgotten once");
        self.forgotten.extend(was.map(|frame| (id, frame.version)));
        self.recall(id).await;
    }

    /// The first write is sent again, under its key, when another has taken its place: it must not take effect again,
    /// wherever the frame is by then.
    pub async fn replace_with_a_late_retry(&mut self, id: Uuid) {
        let (first, second) = (self.content(), self.content());
        let keyed = RequestContext { idempotency_key: Some(first.as_str().into()), ..self.context() };
        let item = StoreItem { replace: true, ..self.item(id, &first) };
        let told = self.store(&keyed, item.clone()).await.expect("replaced");
        self.check_next(id, told);
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

    pub async fn recall(&self, id: Uuid) {
        let request = RecallRequest { id: Some(id), collection: Some(NAME.into()), ..Default::default() };
        match (self.memory.recall(&self.context(), request).await, self.frames.get(&id)) {
            (Ok(reply), Some(expected)) => self.check(&reply.frames[0], expected),
            (Err(problem), None) => assert_eq!(problem.code, Code::NotFound, "{problem}"),
            other => panic!("{id}: {other:?}"),
        }
    }

    pub fn check(&self, frame: &mira_proto::model::Frame, expected: &Expected) {
        let found = (frame.version, frame.content.as_deref());
        assert_eq!(found, (expected.version, Some(expected.content.as_str())), "{}", frame.id);
    }

    pub async fn recall_batch(&self) {
        let ids: Vec<Uuid> = self.ids.iter().copied().take(200).collect();
        let request = RecallRequest { ids: Some(ids.clone()), collection: Some(NAME.into()), ..Default::default() };
        let reply = self.memory.recall(&self.context(), request).await.expect("recalled");
        let found: BTreeSet<Uuid> = reply.frames.iter().map(|frame| frame.id).collect();
        let expected: BTreeSet<Uuid> = ids.into_iter().filter(|id| self.frames.contains_key(id)).collect();
        assert_eq!(found, expected);
        reply.frames.iter().for_each(|frame| self.check(frame, &self.frames[&frame.id]));
    }

    pub async fn recall_session(&self) {
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
    pub async fn list_sessions(&self) {
        let mut request = SessionsRequest { limit: Some(1), ..Default::default() };
        let mut counts = Vec::new();
        loop {
            let page = self.memory.sessions(&self.context(), NAME, request.clone()).await.expect("listed");
            counts.extend(page.sessions.into_iter().filter(|found| found.session == self.session));
            match page.next_cursor {
                Some(next) => request.cursor = Some(next),
                None => break,
            }
        }
        let counts: Vec<u64> = counts.iter().map(|found| found.frames).collect();
        assert_eq!(counts, [self.frames.len() as u64], "{}", self.session);
    }

    /// Every frame of its own is on one page, once; others come and go meanwhile.
    pub async fn scan(&self) {
        let mut request = ScanRequest { limit: Some(170), cursor: None };
        let mut found = Vec::new();
        loop {
            let page = self.memory.scan(&self.context(), NAME, request.clone()).await.expect("scanned");
            let mine = |frame: &&mira_proto::model::ScannedFrame| frame.frame.session.as_ref() == Some(&self.session);
            for scanned in page.frames.iter().filter(mine) {
                self.check(&scanned.frame, &self.frames[&scanned.frame.id]);
                assert_eq!(scanned.vector.as_deref(), Some(&vector(scanned.frame.id)[..]));
                assert_eq!(scanned.vectors.get(STATE), state(scanned.frame.id).as_ref());
                found.push(scanned.frame.id);
            }
            match page.next_cursor {
                Some(next) => request.cursor = Some(next),
                None => break,
            }
        }
        let once: BTreeSet<Uuid> = found.iter().copied().collect();
        assert_eq!((once.len(), once), (found.len(), self.frames.keys().copied().collect()), "{}", self.session);
    }

    /// A frame is found by each of its vectors, and by no other.
    pub async fn search(&self, id: Uuid) {
        self.search_using(id, None, Some(vector(id))).await;
        self.search_using(id, Some(STATE), state(id)).await;
    }

    async fn search_using(&self, id: Uuid, using: Option<&str>, own: Option<Vec<f32>>) {
        let is_findable = own.is_some();
        let request = SearchRequest {
            vector: Some(own.unwrap_or_else(|| direction(id, STATE_DIM))),
            using: using.map(str::to_owned),
            k: Some(3),
            collection: Some(NAME.into()),
            consistency: Some(Consistency::Linearizable),
            include_private: self.owner.is_some(),
            strict: true,
            ..Default::default()
        };
        let reply = self.memory.search(&self.context(), request).await.expect("searched");
        let hits: Vec<_> = reply.hits.iter().filter(|hit| hit.frame.id == id).collect();
        match (&hits[..], self.frames.get(&id).filter(|_| is_findable)) {
            ([hit], Some(expected)) => self.check(&hit.frame, expected),
            ([], None) => {}
            other => panic!("{id} is found as {other:?}"),
        }
        assert_eq!(reply.hits.len(), 3, "there are more than three frames at all times");
    }

    pub async fn check_all(&self) {
        self.recall_session().await;
        self.list_sessions().await;
        self.scan().await;
        for &id in &self.ids {
            self.recall(id).await;
        }
    }
}

/// Workers at work.
pub struct Work {
    running: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    workers: Vec<JoinHandle<Worker>>,
}

impl Work {
    pub async fn begin(cluster: &Cluster, workers: u64, frames: usize) -> Work {
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
    pub async fn some_more(&self) {
        let before = self.done.load(Ordering::Relaxed);
        eventually("the workers do more", PATIENCE, async || {
            assert!(self.workers.iter().all(|worker| !worker.is_finished()), "a worker has failed");
            self.done.load(Ordering::Relaxed) >= before + 60
        })
        .await;
    }

    pub async fn end(self) -> Vec<Worker> {
        self.running.store(false, Ordering::Relaxed);
        let mut ended = Vec::new();
        for worker in self.workers {
            ended.push(worker.await.expect("no worker saw anything wrong"));
        }
        ended
    }
}
