//! The vector index of a shard: derived from its frames, following behind, never missing an acknowledged one.
//!
//! The apply loop hands over every change; a change first enters the *tail* of its collection and from there, by a
//! background worker, the index. A search asks both: the tail exactly, the index for everything the tail does not
//! mention. So a frame is found as soon as its store returns, however far the worker is.
//!
//! Invariants:
//! - a frame in the tail is newer than what the index holds under its id; the index's version of it is not shown;
//! - an entry leaves the tail only after the index holds it (or no longer holds it), and only if no newer change of the
//!   same frame took its place meanwhile;
//! - changes of a shard are taken one at a time, in the order of the log.
//!
//! When the whole state is replaced (start, snapshot) the index is built anew from the frames; until that is done a
//! search is told to ask another replica.

use std::{
    collections::{HashMap, VecDeque},
    ops::{ControlFlow, Range},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use mira_index::{Config, Filter, Hit, Metric, Quantization, SearchParams, VectorIndex, exact_top_k, merge_top_k};
use mira_proto::{Code, CollectionId, FrameId, Problem, ShardId, limits};
use mira_raft::{EngineError, StateReader};
use parking_lot::{Mutex, RwLock};
use rpds::RedBlackTreeMapSync;
use tokio::sync::watch;

use crate::{
    keyring::Keyring,
    meta::{ClusterState, CollectionRecord},
};

use super::{
    machine::{Change, Follower},
    record::{self, FramePlace, FrameRecord},
};

/// Changes a worker takes before it lets another shard have its turn.
const TURN: usize = 64;
/// Wait for the meta group to tell this node of a collection.
const UNKNOWN_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// A nearest-neighbour question to one collection of a shard.
#[derive(Debug, Clone)]
pub struct Query {
    /// As many components as the collection has dimensions, checked.
    pub vector: Vec<f32>,
    /// Hits wanted.
    pub k: usize,
    /// Beam width; the index's own if `None`.
    pub ef: Option<usize>,
    /// Look at every vector.
    pub exact: bool,
    /// Only frames created in this time.
    pub created_ms: Range<u64>,
    /// Frames whose time is over by now are not hits.
    pub now_ms: u64,
}

/// The answer to a [`Query`].
#[derive(Debug, Default)]
pub struct Found {
    /// Best first.
    pub hits: Vec<Hit>,
    /// Frames with vectors in the collection.
    pub searched: u64,
    /// Of them, in the tail.
    pub tail: u64,
}

/// Why a search has no answer here.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IndexError {
    /// The index is being built; another replica may have its own.
    #[error("the index is being built")]
    Building,
    /// The caller's fault, or damage.
    #[error(transparent)]
    Refused(#[from] Problem),
}

/// Sizes of a shard's index.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct IndexStats {
    /// Vectors that can be found.
    pub vectors: u64,
    /// Memory of codes, graph, rows and ids.
    pub bytes: u64,
    /// Changes in the tail.
    pub lag: u64,
    /// Whether searches are answered.
    pub ready: bool,
    /// Frames whose vectors could not be opened.
    pub damaged: u64,
}

/// The indexes of one shard.
pub struct ShardIndex {
    shard: ShardId,
    keyring: Arc<Keyring>,
    cluster: watch::Receiver<Arc<ClusterState>>,
    workers: Arc<dyn Workers>,
    collections: RwLock<HashMap<CollectionId, Arc<CollectionIndex>>>,
    work: Mutex<Work>,
    /// Held by whoever takes changes into the index: the worker, or the apply loop when the worker cannot keep up.
    turn: Mutex<()>,
    ready: AtomicBool,
    /// Counts replacements of the whole state.
    generation: AtomicU64,
    damaged: AtomicU64,
    sequence: AtomicU64,
}

/// What waits for the worker.
#[derive(Default)]
struct Work {
    changes: VecDeque<(CollectionId, FrameId, u64)>,
    /// Build everything from this state first.
    rebuild: Option<StateReader>,
    /// A worker has the shard or is about to.
    scheduled: bool,
}

/// Runs [`ShardIndex::work`] somewhere else.
pub trait Workers: Send + Sync + 'static {
    /// Sees to it that `index.work()` is called soon, once for each call of this.
    fn schedule(&self, index: Arc<ShardIndex>);
}

/// One collection's part.
#[derive(Default)]
struct CollectionIndex {
    /// Made when the collection's settings are known.
    vectors: OnceLock<VectorIndex>,
    /// Times of the frames in `vectors`, for filters.
    times: RwLock<HashMap<FrameId, Times>>,
    /// Whether any frame ever had an expiry.
    expiring: AtomicBool,
    tail: Mutex<Tail>,
}

/// Changes not yet in the index. Persistent, so that a search takes a copy of this moment in no time.
type Tail = RedBlackTreeMapSync<FrameId, Pending>;

#[derive(Debug, Clone, Copy)]
struct Times {
    created_ms: u64,
    expires_ms: u64,
}

impl Times {
    fn within(&self, query: &Query) -> bool {
        query.created_ms.contains(&self.created_ms) && (self.expires_ms == 0 || self.expires_ms > query.now_ms)
    }
}

/// A change that the index does not have yet.
#[derive(Clone)]
struct Pending {
    sequence: u64,
    /// `None`: the frame is gone, or has no vectors any more.
    stored: Option<Arc<Stored>>,
}

struct Stored {
    version: u64,
    times: Times,
    sealed: Bytes,
    opened: OnceLock<Option<Vec<f32>>>,
}

impl Follower for Arc<ShardIndex> {
    fn changed(&self, changes: Vec<Change>, _applied_index: u64) {
        if changes.is_empty() {
            return;
        }
        let mut work = self.work.lock();
        for change in changes {
            self.enqueue(change, &mut work);
        }
        let behind = work.changes.len() > limits::MAX_INDEX_TAIL;
        self.schedule(&mut work);
        drop(work);
        // The worker cannot keep up: index here, which slows the apply loop to the pace of indexing.
        if behind && self.ready.load(Ordering::Acquire) {
            self.take_turn();
        }
    }

    fn replaced(&self, state: StateReader, _applied_index: u64) {
        let mut work = self.work.lock();
        self.ready.store(false, Ordering::Release);
        self.generation.fetch_add(1, Ordering::AcqRel);
        work.changes.clear();
        self.collections.write().clear();
        work.rebuild = Some(state);
        self.schedule(&mut work);
    }
}

impl ShardIndex {
    /// An index that is not ready until the state machine has reported the state it starts from.
    pub fn new(
        shard: ShardId,
        keyring: Arc<Keyring>,
        cluster: watch::Receiver<Arc<ClusterState>>,
        workers: Arc<dyn Workers>,
    ) -> Arc<Self> {
        Arc::new(ShardIndex {
            shard,
            keyring,
            cluster,
            workers,
            collections: RwLock::default(),
            work: Mutex::default(),
            turn: Mutex::new(()),
            ready: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            sequence: AtomicU64::new(0),
        })
    }

    /// The nearest frames of a collection, best first.
    pub fn search(&self, collection: &CollectionRecord, query: &Query) -> Result<Found, IndexError> {
        let generation = self.generation.load(Ordering::Acquire);
        if !self.ready.load(Ordering::Acquire) {
            return Err(IndexError::Building);
        }
        let found = self.search_parts(collection, query)?;
        // The state was replaced meanwhile: what was found belongs to no one state.
        if self.generation.load(Ordering::Acquire) != generation {
            return Err(IndexError::Building);
        }
        Ok(found)
    }

    fn search_parts(&self, collection: &CollectionRecord, query: &Query) -> Result<Found, IndexError> {
        let Some(index) = self.collections.read().get(&collection.id).cloned() else { return Ok(Found::default()) };
        // The tail first: a frame that moves to the index meanwhile is then seen twice, not missed, and counts once.
        let tail: Tail = index.tail.lock().clone();
        let mut lists = vec![self.search_tail(collection, query, &tail)?];
        if let Some(vectors) = index.vectors.get() {
            lists.push(search_indexed(&index, vectors, query, &tail)?);
        }
        let in_tail = tail.values().filter(|pending| pending.stored.is_some()).count() as u64;
        let indexed = index.vectors.get().map_or(0, VectorIndex::len) as u64;
        Ok(Found { hits: merge_top_k(lists, query.k), searched: indexed + in_tail, tail: in_tail })
    }

    fn search_tail(&self, collection: &CollectionRecord, query: &Query, tail: &Tail) -> Result<Vec<Hit>, IndexError> {
        let documents = tail.iter().filter_map(|(&frame, pending)| {
            let stored = pending.stored.as_deref().filter(|stored| stored.times.within(query))?;
            let vectors = self.open(collection, frame, stored)?;
            Some((frame, vectors))
        });
        exact_top_k(metric(collection), collection.dim as usize, &query.vector, documents, query.k).map_err(refuse)
    }

    /// The vectors of a frame in the tail, opened once; `None` (counted, logged) if they cannot be.
    fn open<'a>(&self, collection: &CollectionRecord, frame: FrameId, stored: &'a Stored) -> Option<&'a [f32]> {
        let opened = stored.opened.get_or_init(|| {
            let place = FramePlace { collection: collection.id, shard: self.shard, frame, version: stored.version };
            let vectors = open_vectors(&self.keyring, collection, &place, &stored.sealed);
            vectors.map_err(|error| self.report_damage(frame, &error)).ok()
        });
        opened.as_deref()
    }

    fn report_damage(&self, frame: FrameId, error: &str) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
        tracing::error!(shard = self.shard, frame = %uuid::Uuid::from_u128(frame), error, "vectors cannot be opened");
    }

    fn enqueue(&self, change: Change, work: &mut Work) {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let (collection, frame, stored) = match change {
            Change::Purged { collection } => {
                self.collections.write().remove(&collection);
                return;
            }
            Change::Removed { collection, frame } => (collection, frame, None),
            Change::Stored { collection, frame, version, created_ms, expires_ms, vectors } => {
                let times = Times { created_ms, expires_ms };
                let stored = Stored { version, times, sealed: vectors, opened: OnceLock::new() };
                (collection, frame, (!stored.sealed.is_empty()).then(|| Arc::new(stored)))
            }
        };
        let index = self.collections.write().entry(collection).or_default().clone();
        index.tail.lock().insert_mut(frame, Pending { sequence, stored });
        work.changes.push_back((collection, frame, sequence));
    }

    fn schedule(self: &Arc<Self>, work: &mut Work) {
        if !work.scheduled && (work.rebuild.is_some() || !work.changes.is_empty()) {
            work.scheduled = true;
            self.workers.schedule(self.clone());
        }
    }

    /// One turn of the background worker; asks for another if there is more to do.
    ///
    /// Blocks for as long as the work takes: call it on a thread of its own.
    pub fn work(self: Arc<Self>) {
        let rebuild = self.work.lock().rebuild.take();
        match rebuild {
            Some(state) => self.rebuild(&state),
            None => self.take_turn(),
        }
        self.compact();
        let mut work = self.work.lock();
        work.scheduled = false;
        self.schedule(&mut work);
    }

    fn take_turn(&self) {
        let _turn = self.turn.lock();
        for _ in 0..TURN {
            let Some((collection, frame, sequence)) = self.work.lock().changes.pop_front() else { return };
            let Some(index) = self.collections.read().get(&collection).cloned() else { continue };
            let pending = index.tail.lock().get(&frame).cloned();
            // A newer change of the same frame is further back in the queue.
            let Some(pending) = pending.filter(|pending| pending.sequence == sequence) else { continue };
            let Some(record) = self.settings(collection) else {
                // The meta group has not told this node yet (or the collection is dropped and its purge will follow).
                self.work.lock().changes.push_back((collection, frame, sequence));
                std::thread::sleep(UNKNOWN_PAUSE);
                return;
            };
            self.index_one(&index, &record, frame, &pending);
            let mut tail = index.tail.lock();
            if tail.get(&frame).is_some_and(|now| now.sequence == sequence) {
                tail.remove_mut(&frame);
            }
        }
    }

    fn settings(&self, collection: CollectionId) -> Option<CollectionRecord> {
        self.cluster.borrow().collections.get(&collection).cloned()
    }

    fn index_one(&self, index: &CollectionIndex, record: &CollectionRecord, frame: FrameId, pending: &Pending) {
        let stored = pending.stored.as_deref();
        let vectors = stored.and_then(|stored| Some((stored.times, self.open(record, frame, stored)?)));
        match vectors {
            Some((times, vectors)) => {
                if let Err(error) = insert(index, record, frame, times, vectors) {
                    self.report_damage(frame, &error);
                }
            }
            None => {
                if let Some(vectors) = index.vectors.get() {
                    vectors.remove(frame);
                }
                index.times.write().remove(&frame);
            }
        }
    }

    /// Builds every collection's index from the frames, unless the state is replaced once more meanwhile.
    fn rebuild(&self, state: &StateReader) {
        let _turn = self.turn.lock();
        let started = std::time::Instant::now();
        match self.build_from(state) {
            Ok(frames) => {
                let work = self.work.lock();
                if work.rebuild.is_none() {
                    self.ready.store(true, Ordering::Release);
                }
                let millis = started.elapsed().as_millis() as u64;
                tracing::info!(shard = self.shard, frames, millis, "vector index built");
            }
            Err(BuildError::Replaced) => {}
            Err(BuildError::UnknownCollection(collection)) => {
                tracing::debug!(shard = self.shard, collection, "collection not known here yet, building later");
                std::thread::sleep(UNKNOWN_PAUSE);
                self.work.lock().rebuild.get_or_insert_with(|| state.clone());
            }
            Err(BuildError::Engine(error)) => {
                tracing::error!(shard = self.shard, %error, "vector index cannot be built");
            }
        }
    }

    fn build_from(&self, state: &StateReader) -> Result<u64, BuildError> {
        let view = state.view()?;
        let mut frames = 0;
        for id in collections_of(&view)? {
            let cluster = self.cluster.borrow().clone();
            if cluster.dropped.contains(&id) {
                continue;
            }
            let record = cluster.collections.get(&id).ok_or(BuildError::UnknownCollection(id))?;
            let index = {
                let work = self.work.lock();
                if work.rebuild.is_some() {
                    return Err(BuildError::Replaced);
                }
                self.collections.write().entry(id).or_default().clone()
            };
            let mut failed = None;
            view.scan_prefix(&record::collection_prefix(b'f', id), false, &mut |key, value| match self.build_one(
                &view,
                &index,
                record,
                (key, value),
            ) {
                Ok(added) => {
                    frames += u64::from(added);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            })?;
            failed.map_or(Ok(()), Err)?;
        }
        Ok(frames)
    }

    fn build_one(
        &self,
        view: &StateReader,
        index: &CollectionIndex,
        record: &CollectionRecord,
        (key, value): (&[u8], &[u8]),
    ) -> Result<bool, EngineError> {
        let Some((_, frame)) = record::parse_pair_key(key) else { return Ok(false) };
        let header = FrameRecord::decode(value)?;
        if header.passages == 0 {
            return Ok(false);
        }
        let Some(sealed) = view.get(&record::vectors_key(record.id, frame))? else {
            return Err(EngineError::Damaged(format!("frame {frame:032x} has lost its vectors")));
        };
        let place = FramePlace { collection: record.id, shard: self.shard, frame, version: header.version };
        let times = Times { created_ms: header.created_ms, expires_ms: header.expires_ms };
        let inserted = open_vectors(&self.keyring, record, &place, &sealed)
            .and_then(|vectors| insert(index, record, frame, times, &vectors));
        if let Err(error) = &inserted {
            self.report_damage(frame, error);
        }
        Ok(inserted.is_ok())
    }

    fn compact(&self) {
        let collections: Vec<_> = self.collections.read().values().cloned().collect();
        for index in collections {
            let Some(vectors) = index.vectors.get().filter(|vectors| vectors.needs_compaction()) else { continue };
            if let Err(error) = vectors.compact(1, &|| false) {
                tracing::warn!(shard = self.shard, %error, "vector index cannot be compacted");
            }
        }
    }

    /// Sizes and state.
    pub fn stats(&self) -> IndexStats {
        let mut stats = IndexStats {
            ready: self.ready.load(Ordering::Acquire),
            damaged: self.damaged.load(Ordering::Relaxed),
            ..IndexStats::default()
        };
        for index in self.collections.read().values() {
            stats.lag += index.tail.lock().size() as u64;
            let Some(vectors) = index.vectors.get() else { continue };
            let sizes = vectors.stats();
            stats.vectors += sizes.live_vectors as u64;
            stats.bytes += (sizes.code_bytes + sizes.graph_bytes + sizes.row_bytes + sizes.id_bytes) as u64;
        }
        stats
    }
}

/// Why an index was not built.
#[derive(Debug, thiserror::Error)]
enum BuildError {
    #[error("the state was replaced")]
    Replaced,
    #[error("collection {0} is not known here yet")]
    UnknownCollection(CollectionId),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The collections that have frames in this state.
fn collections_of(view: &StateReader) -> Result<Vec<CollectionId>, EngineError> {
    let mut collections = Vec::new();
    view.scan_prefix(b"n", false, &mut |key, _| {
        collections.extend(key.get(1..).and_then(|id| id.try_into().ok()).map(u64::from_be_bytes));
        ControlFlow::Continue(())
    })?;
    Ok(collections)
}

fn search_indexed(
    index: &CollectionIndex,
    vectors: &VectorIndex,
    query: &Query,
    tail: &Tail,
) -> Result<Vec<Hit>, IndexError> {
    let by_time = query.created_ms != (0..u64::MAX) || index.expiring.load(Ordering::Relaxed);
    let times = by_time.then(|| index.times.read());
    let matches = |frame: FrameId| {
        !tail.contains_key(&frame)
            && times.as_ref().is_none_or(|times| times.get(&frame).is_some_and(|times| times.within(query)))
    };
    let filtered = by_time || !tail.is_empty();
    let params = SearchParams {
        ef: query.ef,
        filter: filtered.then_some(Filter { matches: &matches, selectivity: None }),
        ..SearchParams::new(&query.vector, query.k)
    };
    let hits = if query.exact { vectors.search_exact(&params) } else { vectors.search(&params) };
    hits.map_err(refuse)
}

fn insert(
    index: &CollectionIndex,
    record: &CollectionRecord,
    frame: FrameId,
    times: Times,
    vectors: &[f32],
) -> Result<(), String> {
    let into = match index.vectors.get() {
        Some(into) => into,
        None => {
            let made = VectorIndex::new(config(record)).map_err(|error| error.to_string())?;
            index.vectors.get_or_init(|| made)
        }
    };
    if times.expires_ms != 0 {
        index.expiring.store(true, Ordering::Relaxed);
    }
    // Times first: a frame that the index shows must have them.
    index.times.write().insert(frame, times);
    into.upsert(frame, vectors).map_err(|error| error.to_string())
}

fn open_vectors(
    keyring: &Keyring,
    record: &CollectionRecord,
    place: &FramePlace,
    sealed: &[u8],
) -> Result<Vec<f32>, String> {
    let version = mira_crypto::frame::key_version(sealed).map_err(|error| error.to_string())?;
    let key = keyring.version(record, version).map_err(|error| error.to_string())?;
    place.open_vectors(&key, sealed).map_err(|error| error.to_string())
}

fn config(record: &CollectionRecord) -> Config {
    let quantization = if record.quantization == "none" { Quantization::None } else { Quantization::Int8 };
    Config { quantization, ..Config::new(record.dim as usize, metric(record)) }
}

fn metric(record: &CollectionRecord) -> Metric {
    match record.metric.as_str() {
        "dot" => Metric::Dot,
        "l2" => Metric::L2,
        _ => Metric::Cosine,
    }
}

fn refuse(error: mira_index::IndexError) -> IndexError {
    Problem::new(Code::InvalidArgument, error.to_string()).into()
}

/// Background threads of a node, shared by its shards.
pub struct IndexThreads(std::sync::mpsc::Sender<Arc<ShardIndex>>);

impl IndexThreads {
    /// Starts `count` threads; they end when this and every index that uses it are gone.
    pub fn start(count: usize) -> std::io::Result<Arc<Self>> {
        let (sender, receiver) = std::sync::mpsc::channel::<Arc<ShardIndex>>();
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..count {
            let receiver = receiver.clone();
            std::thread::Builder::new().name(format!("indexer-{number}")).spawn(move || {
                loop {
                    let next = receiver.lock().recv();
                    let Ok(index) = next else { return };
                    index.work();
                }
            })?;
        }
        Ok(Arc::new(IndexThreads(sender)))
    }
}

impl Workers for IndexThreads {
    fn schedule(&self, index: Arc<ShardIndex>) {
        // The receivers live as long as this sender does.
        let _ = self.0.send(index);
    }
}
