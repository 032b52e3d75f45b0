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
//! A collection has an index for each of its spaces of vectors; a frame is in those in which it has any. What is said here
//! of a collection holds for each of its spaces by itself.
//!
//! When the whole state is replaced (start, snapshot) the index is rebuilt (`build`), from its last image and the frames
//! that changed since; until that is done a search is told to ask another replica. Images and compaction happen in the
//! background (`upkeep`). The index has codes, graph, times and attributes of its frames; full-precision vectors stay in
//! the state ([`rows`]). So do bodies: attributes are read from there when a frame is indexed, or when a filter
//! asks about a frame of the tail, once.

mod build;
pub mod image;
mod maintenance;
pub mod recall;
pub mod recall_sampler;
pub mod rows;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::{Range, RangeInclusive},
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use mira_index::{
    Attributes, Condition, Config, Document, DocumentRows, Explain, Filter, Hit, RowCache, RowStorage, SearchParams,
    Times, TypeSet, Value, VectorIndex, Where, indexed_top_k, merge_top_k,
};
use mira_proto::vectors::{FrameVectors, LAST_SPACE, OWN_SPACE, SpaceNumber, SpaceSet};
use mira_proto::{Code, CollectionId, FrameId, Problem, ShardId, limits};
use mira_raft::StateReader;
use parking_lot::{Mutex, RwLock};
use rpds::RedBlackTreeMapSync;
use tokio::sync::{Notify, watch};

use crate::{
    keys::keyring::Keyring,
    meta::{ClusterState, CollectionRecord, Space},
};

use crate::shard::{
    index::image::ImageFolder,
    index::rows::{Opener, StateRows},
    machine::{Change, Follower},
    migration::ownership::Shown,
    read::field_types,
    record,
};

pub use maintenance::IndexThreads;

/// Changes a worker takes before it lets another shard have its turn.
const TURN: usize = 64;
/// Wait for the meta group to tell this node of a collection.
const UNKNOWN_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// A nearest-neighbour question to one collection of a shard.
#[derive(Debug, Clone)]
pub struct Query {
    /// The space to look in.
    pub space: SpaceNumber,
    /// As many components as the vectors of the space have, checked.
    pub vector: Vec<f32>,
    /// Hits wanted.
    pub k: usize,
    /// Beam width; the index's own if `None`.
    pub ef: Option<usize>,
    /// Look at every vector.
    pub exact: bool,
    /// Only frames created in this time.
    pub created_ms: Range<u64>,
    /// Only frames that meet this.
    pub condition: Option<Condition>,
    /// Only these frames, in ascending order, exactly.
    pub among: Option<Vec<FrameId>>,
    /// Frames whose time is over by now are not hits.
    pub now_ms: u64,
    /// Set when nobody waits for the answer any more.
    pub stopped: Arc<AtomicBool>,
    /// While the collection grows: the frames that this shard shows.
    pub shown: Shown,
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
    /// What was done, if anything is indexed and the search was not to be exact.
    pub explain: Option<Explain>,
    /// Fields of the condition that no indexed frame has had.
    pub unknown_fields: Vec<String>,
    /// With a condition: what the fields that it compares hold.
    pub field_types: Option<FieldTypes>,
}

/// Fields, each with the types of its values.
pub type FieldTypes = Vec<(String, TypeSet)>;

/// Why a search has no answer here.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IndexError {
    /// The index is being built; another replica may have its own.
    #[error("the index is being built")]
    Building,
    /// Nobody waits for the answer any more.
    #[error("the search was given up")]
    Stopped,
    /// The caller's fault, or damage.
    #[error(transparent)]
    Refused(#[from] Problem),
}

/// Sizes of a shard's index.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct IndexStats {
    /// Vectors that can be found.
    pub vectors: u64,
    /// Memory of codes, graph and ids (and of vectors, where they are not quantised).
    pub bytes: u64,
    /// Changes in the tail.
    pub lag: u64,
    /// Whether searches are answered.
    pub ready: bool,
    /// Searches that were given up because nobody waited any more.
    pub given_up: u64,
    /// Frames whose vectors could not be opened.
    pub damaged: u64,
    /// Frames that came from an image when the index was last made.
    pub from_images: u64,
}

/// What the indexes of a node's shards share.
#[derive(Clone)]
pub struct IndexParts {
    /// The node's keys.
    pub keyring: Arc<Keyring>,
    /// Collections and their keys.
    pub cluster: watch::Receiver<Arc<ClusterState>>,
    /// Runs what is to be done.
    pub workers: Arc<dyn Workers>,
    /// Vectors read last.
    pub cache: Arc<RowCache>,
}

/// The indexes of one shard.
pub struct ShardIndex {
    shard: ShardId,
    parts: IndexParts,
    opener: Opener,
    images: ImageFolder,
    /// Held while an image is put into its place or taken away.
    placing: Mutex<()>,
    /// Held by whoever compacts or writes images.
    upkeep: Mutex<()>,
    stopping: AtomicBool,
    /// The state, live, once it is known.
    state: Mutex<Option<StateReader>>,
    indexes: RwLock<BTreeMap<SpaceId, Arc<SpaceIndex>>>,
    work: Mutex<Work>,
    /// Told after every turn.
    taken: Notify,
    /// Held by whoever takes changes into the index: the worker, or the apply loop when the worker cannot keep up.
    turn: Mutex<()>,
    ready: AtomicBool,
    /// Counts replacements of the whole state.
    generation: AtomicU64,
    changed: Mutex<Changed>,
    from_images: AtomicU64,
    given_up: AtomicU64,
    sequence: AtomicU64,
}

/// Log positions at which collections last changed, as far as they are known: no later than these.
#[derive(Default)]
struct Changed {
    /// Of collections that have not changed since the state was replaced.
    at_start: u64,
    since: HashMap<CollectionId, u64>,
}

/// A change that the worker has not taken yet.
struct Queued {
    space: SpaceId,
    frame: FrameId,
    sequence: u64,
    /// A log position before it, and at or after every change handed over before its batch.
    after: u64,
}

/// What waits for the worker.
#[derive(Default)]
struct Work {
    changes: VecDeque<Queued>,
    /// The last log position whose changes were handed over.
    handed: u64,
    /// Build everything from this state first.
    rebuild: Option<StateReader>,
    /// A worker has the shard or is about to.
    scheduled: bool,
}

/// Runs [`ShardIndex::work`] somewhere else: [`IndexThreads`] on threads; a simulated node not at all.
pub trait Workers: Send + Sync + 'static {
    /// Compacts the index and writes its images, from time to time, as long as it lives.
    fn register(&self, index: &Arc<ShardIndex>);

    /// Sees to it that `index.work()` is called soon, once for each call of this.
    fn schedule(&self, index: Arc<ShardIndex>);
}

/// Which index of a shard: that of a space of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpaceId {
    /// The collection.
    pub collection: CollectionId,
    /// Its space.
    pub number: SpaceNumber,
}

impl SpaceId {
    /// Every space that a collection may have, in order.
    pub fn each_of(collection: CollectionId) -> impl Iterator<Item = SpaceId> {
        (OWN_SPACE..=LAST_SPACE).map(move |number| SpaceId { collection, number })
    }

    fn range_of(collection: CollectionId) -> RangeInclusive<SpaceId> {
        SpaceId { collection, number: OWN_SPACE }..=SpaceId { collection, number: LAST_SPACE }
    }
}

impl From<&Space<'_>> for SpaceId {
    fn from(space: &Space<'_>) -> Self {
        SpaceId { collection: space.collection.id, number: space.number }
    }
}

/// One space's part.
struct SpaceIndex {
    /// Made when the settings of the space are known.
    vectors: OnceLock<VectorIndex>,
    /// Whether any frame ever had an expiry.
    expiring: AtomicBool,
    tail: Mutex<Tail>,
    /// Changes that `vectors` took since the last image.
    unsaved: AtomicU64,
    /// When this was made, or its last image written.
    saved_at: Mutex<Instant>,
}

impl Default for SpaceIndex {
    fn default() -> Self {
        SpaceIndex {
            vectors: OnceLock::new(),
            expiring: AtomicBool::new(false),
            tail: Mutex::default(),
            unsaved: AtomicU64::new(0),
            saved_at: Mutex::new(Instant::now()),
        }
    }
}

/// Changes not yet in the index. Persistent, so that a search takes a copy of this moment in no time.
type Tail = RedBlackTreeMapSync<FrameId, Pending>;

fn is_within(times: &Times, query: &Query) -> bool {
    query.created_ms.contains(&times.created_ms) && (times.expires_ms == 0 || times.expires_ms > query.now_ms)
}

/// A change that the index does not have yet.
#[derive(Clone)]
struct Pending {
    sequence: u64,
    /// `None`: the frame is gone, or has no vectors in this space any more.
    stored: Option<Arc<Stored>>,
    /// What queries are compared with: its vectors in this space. `None` inside: they cannot be opened.
    rows: Arc<OnceLock<Option<DocumentRows>>>,
}

struct Stored {
    version: u64,
    times: Times,
    /// Its sealed vectors, in this space and others.
    sealed: Bytes,
    opened: OnceLock<Option<FrameVectors>>,
    attributes: OnceLock<Attributes>,
}

impl Follower for Arc<ShardIndex> {
    fn changed(&self, changes: Vec<Change>, applied_index: u64) {
        let mut work = self.work.lock();
        let after = std::mem::replace(&mut work.handed, applied_index);
        {
            let mut changed = self.changed.lock();
            changed.since.extend(changes.iter().map(|change| (change.collection(), applied_index)));
        }
        for change in changes {
            self.enqueue(change, after, &mut work);
        }
        let behind = work.changes.len() > limits::MAX_INDEX_TAIL;
        self.schedule(&mut work);
        drop(work);
        // The worker cannot keep up: index here, which slows the apply loop to the pace of indexing.
        if behind && self.ready.load(Ordering::Acquire) {
            self.take_turn();
        }
    }

    fn replaced(&self, state: StateReader, applied_index: u64) {
        let mut work = self.work.lock();
        work.handed = applied_index;
        *self.changed.lock() = Changed { at_start: applied_index, since: HashMap::new() };
        *self.state.lock() = Some(state.clone());
        self.ready.store(false, Ordering::Release);
        self.generation.fetch_add(1, Ordering::AcqRel);
        work.changes.clear();
        self.indexes.write().clear();
        work.rebuild = Some(state);
        self.schedule(&mut work);
        self.taken.notify_waiters();
    }
}

impl ShardIndex {
    /// An index that is not ready until the state machine has reported the state it starts from. Images lie in the
    /// node's data folder.
    pub fn new(shard: ShardId, parts: IndexParts, data: &Path) -> Arc<Self> {
        Arc::new(ShardIndex {
            shard,
            opener: Opener { shard, keyring: parts.keyring.clone(), damaged: Arc::default() },
            parts,
            images: ImageFolder::new(data, shard),
            placing: Mutex::new(()),
            upkeep: Mutex::new(()),
            stopping: AtomicBool::new(false),
            state: Mutex::default(),
            indexes: RwLock::default(),
            work: Mutex::default(),
            taken: Notify::new(),
            turn: Mutex::new(()),
            ready: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            changed: Mutex::default(),
            from_images: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            sequence: AtomicU64::new(0),
        })
    }

    /// Waits while there are more than [`limits::INDEX_TAIL`] changes to be taken: until then a write is better not
    /// proposed. Not while the index is being built, which takes long, and searches are told to ask elsewhere.
    pub async fn has_room(&self) {
        loop {
            let taken = self.taken.notified();
            if self.work.lock().changes.len() <= limits::INDEX_TAIL || !self.is_ready() {
                return;
            }
            taken.await;
        }
    }

    /// The nearest frames of a collection, best first.
    pub fn search(&self, collection: &CollectionRecord, query: &Query) -> Result<Found, IndexError> {
        let unknown = || Problem::invalid(format!("collection {:?} has no space {}", collection.name, query.space));
        let space = collection.space(query.space).ok_or_else(unknown)?;
        let generation = self.generation.load(Ordering::Acquire);
        if !self.ready.load(Ordering::Acquire) {
            return Err(IndexError::Building);
        }
        let found = self.search_parts(&space, query).inspect_err(|error| {
            if let IndexError::Stopped = error {
                self.given_up.fetch_add(1, Ordering::Relaxed);
            }
        })?;
        // The state was replaced meanwhile: what was found belongs to no one state.
        if self.generation.load(Ordering::Acquire) != generation {
            return Err(IndexError::Building);
        }
        Ok(found)
    }

    /// What the fields that a condition compares hold in frames with vectors of their own; `None` while the index is being built.
    pub(super) fn field_types(&self, collection: &CollectionRecord, condition: &Condition) -> Option<FieldTypes> {
        let generation = self.generation.load(Ordering::Acquire);
        let index = self.index_of((&collection.own_space()).into());
        let fields = index.map(|index| {
            let tail = index.tail.lock().clone();
            self.known_types(collection, condition, (&index, &tail))
        });
        let is_sound = self.is_ready() && self.generation.load(Ordering::Acquire) == generation;
        is_sound.then(|| fields.unwrap_or_default())
    }

    fn known_types(
        &self,
        collection: &CollectionRecord,
        condition: &Condition,
        (index, tail): (&SpaceIndex, &Tail),
    ) -> FieldTypes {
        let stored = tail.iter().filter_map(|(&frame, pending)| Some((frame, pending.stored.as_deref()?)));
        let attributes = stored.map(|(frame, stored)| self.attributes_of(collection, frame, stored));
        field_types::known(condition, index.vectors.get(), attributes)
    }

    /// Whether an answer of the collection as of a log position is still what a search would give: nothing was stored or
    /// removed since, and no frame's time runs out by itself.
    pub fn is_unchanged_since(&self, collection: CollectionId, position: u64) -> bool {
        let last = {
            let changed = self.changed.lock();
            changed.since.get(&collection).copied().unwrap_or(changed.at_start)
        };
        last <= position && !self.is_expiring(collection) && self.ready.load(Ordering::Acquire)
    }

    /// Vectors of a space that can be found, about.
    pub fn vectors(&self, space: SpaceId) -> usize {
        self.look_into(space, VectorIndex::len).unwrap_or(0)
    }

    /// What `look` sees in the index of a space, without the tail; none if nothing of it is indexed.
    pub(super) fn look_into<T>(&self, space: SpaceId, look: impl FnOnce(&VectorIndex) -> T) -> Option<T> {
        self.index_of(space).and_then(|index| index.vectors.get().map(look))
    }

    fn index_of(&self, space: SpaceId) -> Option<Arc<SpaceIndex>> {
        self.indexes.read().get(&space).cloned()
    }

    /// Whether searches are answered: the index is not being built.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Whether frames of the collection may be over their time some day.
    pub fn is_expiring(&self, collection: CollectionId) -> bool {
        let indexes = self.indexes.read();
        indexes.range(SpaceId::range_of(collection)).any(|(_, index)| index.expiring.load(Ordering::Relaxed))
    }

    fn search_parts(&self, space: &Space<'_>, query: &Query) -> Result<Found, IndexError> {
        let Some(index) = self.index_of(space.into()) else {
            return Ok(Found { field_types: query.condition.as_ref().map(|_| FieldTypes::new()), ..Found::default() });
        };
        // The tail first: a frame that moves to the index meanwhile is then seen twice, not missed, and counts once.
        let tail: Tail = index.tail.lock().clone();
        let mut lists = vec![self.search_tail(space, query, &tail)?];
        let mut found = Found::default();
        if let Some(vectors) = index.vectors.get() {
            let (hits, explain) = self.search_indexed((space.collection, &index), vectors, query, &tail)?;
            lists.push(hits);
            found.explain = explain;
            found.unknown_fields =
                query.condition.as_ref().map(|condition| vectors.unknown_fields(condition)).unwrap_or_default();
            found.searched = vectors.len() as u64;
        }
        let known = |condition| self.known_types(space.collection, condition, (&index, &tail));
        found.field_types = query.condition.as_ref().map(known);
        found.tail = tail.values().filter(|pending| pending.stored.is_some()).count() as u64;
        found.searched += found.tail;
        found.hits = merge_top_k(lists, query.k);
        Ok(found)
    }

    fn search_tail(&self, space: &Space<'_>, query: &Query, tail: &Tail) -> Result<Vec<Hit>, IndexError> {
        let documents = tail.iter().filter_map(|(&frame, pending)| {
            if query.among.as_ref().is_some_and(|among| among.binary_search(&frame).is_err()) {
                return None;
            }
            let stored = pending
                .stored
                .as_deref()
                .filter(|stored| is_within(&stored.times, query) && query.shown.shows(frame))?;
            if let Some(condition) = &query.condition
                && !condition.matches(self.attributes_of(space.collection, frame, stored), &stored.times)
            {
                return None;
            }
            let rows = pending.rows.get_or_init(|| self.rows_of(space, frame, stored));
            Some((frame, rows.as_ref()?))
        });
        indexed_top_k(&config(space), &query.vector, documents, query.k).map_err(refuse)
    }

    /// The rows of a frame in the tail; `None` (counted, logged) if there can be none.
    fn rows_of(&self, space: &Space<'_>, frame: FrameId, stored: &Stored) -> Option<DocumentRows> {
        let vectors = self.open(space.collection, frame, stored)?;
        let rows = DocumentRows::new(&config(space), vectors.in_space(space.number));
        rows.map_err(|error| self.opener.report(frame, &error.to_string())).ok()
    }

    /// The vectors of a frame in the tail, opened once; `None` (counted, logged) if they cannot be.
    fn open<'a>(&self, collection: &CollectionRecord, frame: FrameId, stored: &'a Stored) -> Option<&'a FrameVectors> {
        let opened = stored.opened.get_or_init(|| self.opener.open(collection, frame, stored.version, &stored.sealed));
        opened.as_ref()
    }

    /// The attributes of a frame in the tail, read once.
    fn attributes_of<'a>(&self, collection: &CollectionRecord, frame: FrameId, stored: &'a Stored) -> &'a Attributes {
        stored.attributes.get_or_init(|| self.read_attributes(collection, frame).unwrap_or_default())
    }

    /// The first value of a field of a frame with vectors in a space: from the index if it knows, else from the frame.
    pub(super) fn first_value(
        &self,
        collection: &CollectionRecord,
        number: SpaceNumber,
        (frame, field): (FrameId, &str),
    ) -> Option<Value> {
        let index = self.index_of(SpaceId { collection: collection.id, number })?;
        let pending = index.tail.lock().get(&frame).cloned();
        if let Some(stored) = pending.and_then(|pending| pending.stored) {
            return self.attributes_of(collection, frame, &stored).of(field).next().cloned();
        }
        let known = index.vectors.get().and_then(|vectors| vectors.first_value(frame, field));
        known.unwrap_or_else(|| self.read_attributes(collection, frame)?.of(field).next().cloned())
    }

    /// The attributes of a frame as the state has it now; `None` if it is gone or cannot be opened (counted, logged).
    fn read_attributes(&self, collection: &CollectionRecord, frame: FrameId) -> Option<Attributes> {
        let state = self.state.lock().clone()?;
        let stored = match state.get(&record::frame_key(collection.id, frame)) {
            Ok(stored) => stored?,
            Err(error) => {
                self.opener.report(frame, &error.to_string());
                return None;
            }
        };
        self.opener.open_attributes(collection, frame, &stored)
    }

    /// Asks the index for everything that the tail does not mention.
    fn search_indexed(
        &self,
        (collection, index): (&CollectionRecord, &SpaceIndex),
        vectors: &VectorIndex,
        query: &Query,
        tail: &Tail,
    ) -> Result<(Vec<Hit>, Option<Explain>), IndexError> {
        let is_ranged = query.created_ms != (0..u64::MAX);
        let by_time = is_ranged || index.expiring.load(Ordering::Relaxed);
        let matches = |document: &Document| {
            !tail.contains_key(&document.id)
                && (!by_time || is_within(&document.times, query))
                && query.shown.shows(document.id)
        };
        let filtered = by_time || !tail.is_empty() || !query.shown.is_all();
        let is_stopped = || query.stopped.load(Ordering::Relaxed);
        let verified = Mutex::new(HashMap::new());
        let verify = |document: &Document| {
            // Each opens a frame: nobody waits for them any more.
            if is_stopped() {
                return false;
            }
            *verified.lock().entry(document.id).or_insert_with(|| {
                let (Some(condition), Some(attributes)) =
                    (&query.condition, self.read_attributes(collection, document.id))
                else {
                    return false;
                };
                condition.matches(&attributes, &document.times)
            })
        };
        let selectivity = is_ranged.then(|| vectors.share(&|document| is_within(&document.times, query)));
        let params = SearchParams {
            ef: query.ef,
            filter: filtered.then_some(Filter { matches: &matches, selectivity }),
            condition: query.condition.as_ref().map(|condition| Where { condition, verify: &verify }),
            abort: Some(&is_stopped),
            ..SearchParams::new(&query.vector, query.k)
        };
        if let Some(among) = &query.among {
            let among: Vec<FrameId> = among.iter().copied().filter(|frame| !tail.contains_key(frame)).collect();
            return vectors.search_among(&among, &params).map(|hits| (hits, None)).map_err(refuse);
        }
        let found = match query.exact {
            true => vectors.search_exact(&params).map(|hits| (hits, None)),
            false => vectors.search_explained(&params).map(|(hits, explain)| (hits, Some(explain))),
        };
        // What was passed over because nobody waits is missing from the answer.
        if is_stopped() { Err(IndexError::Stopped) } else { found.map_err(refuse) }
    }

    fn enqueue(&self, change: Change, after: u64, work: &mut Work) {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let (collection, frame, stored) = match change {
            Change::Purged { collection } => {
                self.indexes.write().retain(|space, _| space.collection != collection);
                self.delete_images(collection);
                return;
            }
            Change::Removed { collection, frame } => (collection, frame, None),
            Change::Stored { collection, frame, version, created_ms, expires_ms, spaces, vectors } => {
                let times = Times { created_ms, expires_ms };
                let (opened, attributes) = Default::default();
                (
                    collection,
                    frame,
                    Some((spaces, Arc::new(Stored { version, times, sealed: vectors, opened, attributes }))),
                )
            }
        };
        for (space, index) in self.followed_by(collection, stored.as_ref().map(|(spaces, _)| *spaces)) {
            let stored =
                stored.as_ref().filter(|(spaces, _)| spaces.has(space.number)).map(|(_, stored)| stored.clone());
            if stored.as_ref().is_some_and(|stored| stored.times.expires_ms != 0) {
                index.expiring.store(true, Ordering::Relaxed);
            }
            index.tail.lock().insert_mut(frame, Pending { sequence, stored, rows: Arc::default() });
            work.changes.push_back(Queued { space, frame, sequence, after });
        }
    }

    /// The indexes that must follow a change of a frame: those that may hold it, and those of the spaces it has vectors in.
    fn followed_by(&self, collection: CollectionId, spaces: Option<SpaceSet>) -> Vec<(SpaceId, Arc<SpaceIndex>)> {
        let mut indexes = self.indexes.write();
        for number in spaces.iter().flat_map(|spaces| spaces.iter()) {
            indexes.entry(SpaceId { collection, number }).or_default();
        }
        indexes.range(SpaceId::range_of(collection)).map(|(space, index)| (*space, index.clone())).collect()
    }

    fn schedule(self: &Arc<Self>, work: &mut Work) {
        if !work.scheduled && (work.rebuild.is_some() || !work.changes.is_empty()) {
            work.scheduled = true;
            self.parts.workers.schedule(self.clone());
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
        let mut work = self.work.lock();
        work.scheduled = false;
        self.schedule(&mut work);
        self.taken.notify_waiters();
    }

    fn take_turn(&self) {
        let _turn = self.turn.lock();
        for _ in 0..TURN {
            let Some(queued) = self.work.lock().changes.pop_front() else { return };
            let Queued { space, frame, sequence, .. } = queued;
            let Some(index) = self.index_of(space) else { continue };
            let pending = index.tail.lock().get(&frame).cloned();
            // A newer change of the same frame is further back in the queue.
            let Some(pending) = pending.filter(|pending| pending.sequence == sequence) else { continue };
            let record = self.settings(space.collection);
            let Some(of) = record.as_ref().and_then(|record| record.space(space.number)) else {
                // The meta group has not told this node yet (or the collection is dropped and its purge will follow).
                self.work.lock().changes.push_back(queued);
                std::thread::sleep(UNKNOWN_PAUSE);
                return;
            };
            self.index_one(&index, &of, frame, &pending);
            let mut tail = index.tail.lock();
            if tail.get(&frame).is_some_and(|now| now.sequence == sequence) {
                tail.remove_mut(&frame);
            }
        }
    }

    fn settings(&self, collection: CollectionId) -> Option<CollectionRecord> {
        self.parts.cluster.borrow().collections.get(&collection).cloned()
    }

    fn index_one(&self, index: &SpaceIndex, space: &Space<'_>, frame: FrameId, pending: &Pending) {
        let stored = pending.stored.as_deref();
        let opened = stored.and_then(|stored| Some((stored, self.open(space.collection, frame, stored)?)));
        match opened {
            Some((stored, vectors)) => {
                let attributes = self.attributes_of(space.collection, frame, stored);
                self.insert(index, space, (frame, stored.times), (attributes, vectors.in_space(space.number)));
            }
            None => {
                if index.vectors.get().is_some_and(|vectors| vectors.remove(frame)) {
                    index.unsaved.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Puts a frame into the index; false (counted, logged) if that cannot be.
    fn insert(
        &self,
        index: &SpaceIndex,
        space: &Space<'_>,
        (frame, times): (FrameId, Times),
        (attributes, vectors): (&Attributes, &[f32]),
    ) -> bool {
        if times.expires_ms != 0 {
            index.expiring.store(true, Ordering::Relaxed);
        }
        let document = Document { id: frame, times };
        let inserted = match index.vectors.get() {
            Some(into) => into.upsert_with(document, attributes, vectors),
            None => VectorIndex::with_storage(config(space), &self.storage(space))
                .and_then(|made| index.vectors.get_or_init(|| made).upsert_with(document, attributes, vectors)),
        };
        index.unsaved.fetch_add(1, Ordering::Relaxed);
        inserted.map_err(|error| self.opener.report(frame, &error.to_string())).is_ok()
    }

    /// Where the rows of a space are: in the state.
    fn storage(&self, space: &Space<'_>) -> RowStorage {
        let state = self.state.lock().clone().expect("an index is made from a state");
        let (cluster, opener) = (self.parts.cluster.clone(), self.opener.clone());
        let rows = StateRows { state, cluster, space: space.into(), dim: space.dim, opener };
        RowStorage::Source(Arc::new(rows), self.parts.cache.clone())
    }

    /// What opens sealed parts of this shard's frames.
    pub(super) fn opener(&self) -> &Opener {
        &self.opener
    }

    /// Sizes and state.
    pub fn stats(&self) -> IndexStats {
        let mut stats = IndexStats {
            ready: self.ready.load(Ordering::Acquire),
            damaged: self.opener.damaged.load(Ordering::Relaxed),
            from_images: self.from_images.load(Ordering::Relaxed),
            given_up: self.given_up.load(Ordering::Relaxed),
            ..IndexStats::default()
        };
        for index in self.indexes.read().values() {
            stats.lag += index.tail.lock().size() as u64;
            let Some(vectors) = index.vectors.get() else { continue };
            let sizes = vectors.stats();
            stats.vectors += sizes.live_vectors as u64;
            stats.bytes +=
                (sizes.code_bytes + sizes.graph_bytes + sizes.row_bytes + sizes.id_bytes + sizes.attribute_bytes)
                    as u64;
        }
        stats
    }
}

fn config(space: &Space<'_>) -> Config {
    Config { quantization: space.quantization, ..Config::new(space.dim, space.metric) }
}

pub(super) fn refuse(error: mira_index::IndexError) -> IndexError {
    if let mira_index::IndexError::Aborted = error {
        return IndexError::Stopped;
    }
    Problem::new(Code::InvalidArgument, error.to_string()).into()
}
