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
//!
//! Changes come in by `queue`, wait in the `tail`, are found by `search`, and end up in the `space` they belong to.

mod build;
mod effort;
mod field_types;
pub mod image;
mod maintenance;
mod queue;
pub mod recall;
pub mod recall_sampler;
pub mod rows;
mod search;
mod space;
mod tail;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use mira_index::{RowCache, VectorIndex};
use mira_proto::{CollectionId, ShardId};
use mira_raft::StateReader;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use self::{image::ImageFolder, queue::Work, rows::Opener, space::SpaceIndex};
use crate::{keys::keyring::Keyring, meta::ClusterState, shard::verify::Verifier};

pub use field_types::FieldTypes;
pub(super) use field_types::add_types;
pub use maintenance::IndexThreads;
pub use queue::Workers;
pub(super) use search::refuse;
pub use search::{Found, IndexError, Query};
pub use space::SpaceId;

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
///
/// Whoever holds a lock takes only those that stand after it here:
///
/// 1. `upkeep`: one at a time compacts or writes images;
/// 2. `turn`: one at a time takes changes into the indexes, or builds them;
/// 3. `work`: what waits for the worker; with `turn` nothing is between queue and index;
/// 4. `placing`: an image is put into its place or deleted;
/// 5. `indexes`: which spaces there are; the `Arc` of one is cloned out of it;
/// 6. `tail` of a space.
///
/// `changed`, `state` and `saved_at` of a space are held for one statement or a few, and nothing is taken under them. A
/// search takes no lock for longer than it copies a tail, so it waits for nobody's work.
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

impl ShardIndex {
    /// An index that is not ready until the state machine has reported the state it starts from. Images lie in the
    /// node's data folder; the verifier is told of damage.
    pub fn new(shard: ShardId, parts: IndexParts, data: &Path, verifier: Arc<Verifier>) -> Arc<Self> {
        Arc::new(ShardIndex {
            shard,
            opener: Opener { shard, keyring: parts.keyring.clone(), damaged: Arc::default(), verifier },
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

    /// Changes of a space that its index does not have yet.
    pub(in crate::shard) fn tail_len(&self, space: SpaceId) -> usize {
        self.index_of(space).map_or(0, |index| index.tail.lock().size())
    }

    /// What `look` sees in the index of a space, without the tail; none if nothing of it is indexed.
    pub(super) fn look_into<T>(&self, space: SpaceId, look: impl FnOnce(&VectorIndex) -> T) -> Option<T> {
        self.index_of(space).and_then(|index| index.vectors.get().map(look))
    }

    /// Takes note of how right an answer was that named no beam.
    pub(in crate::shard) fn note_recall(&self, space: SpaceId, recall: f64) {
        self.index_of(space).into_iter().for_each(|index| index.effort.note(recall));
    }

    fn index_of(&self, space: SpaceId) -> Option<Arc<SpaceIndex>> {
        self.indexes.read().get(&space).cloned()
    }

    /// Whether searches are answered: the index is not being built.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Whether frames of the collection may be over their time some day.
    fn is_expiring(&self, collection: CollectionId) -> bool {
        let indexes = self.indexes.read();
        indexes.range(SpaceId::range_of(collection)).any(|(_, index)| index.expiring.load(Ordering::Relaxed))
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
