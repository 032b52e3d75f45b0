//! How changes reach a shard's indexes: the apply loop puts them into the tails and this queue, a worker takes them from
//! there in the order of the log.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use mira_index::{Document, Times};
use mira_proto::{CollectionId, FrameId, limits, vectors::SpaceSet};
use mira_raft::StateReader;

use super::{
    Changed, ShardIndex,
    space::{IndexEntry, SpaceId, SpaceIndex},
    tail::{TailEntry, TailFrame},
};
use crate::{
    meta::{CollectionRecord, Space},
    shard::machine::{Change, Follower},
};

/// Changes a worker takes before it lets another shard have its turn.
const TURN: usize = 64;
/// Wait for the meta group to tell this node of a collection.
pub(super) const UNKNOWN_PAUSE: Duration = Duration::from_millis(10);

/// A change that the worker has not taken yet.
pub(super) struct Queued {
    space: SpaceId,
    frame: FrameId,
    sequence: u64,
    /// A log position before it, and at or after every change handed over before its batch.
    pub(super) after: u64,
}

/// What waits for the worker.
#[derive(Default)]
pub(super) struct Work {
    pub(super) changes: VecDeque<Queued>,
    /// The last log position whose changes were handed over.
    pub(super) handed: u64,
    /// Build everything from this state first.
    pub(super) rebuild: Option<StateReader>,
    /// A worker has the shard or is about to.
    scheduled: bool,
}

/// Runs [`ShardIndex::work`] somewhere else: [`IndexThreads`](super::IndexThreads) on threads; a simulated node not at
/// all.
pub trait Workers: Send + Sync + 'static {
    /// Compacts the index and writes its images, from time to time, as long as it lives.
    fn register(&self, index: &Arc<ShardIndex>);

    /// Sees to it that `index.work()` is called soon, once for each call of this.
    fn schedule(&self, index: Arc<ShardIndex>);
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
                (collection, frame, Some((spaces, Arc::new(TailFrame::new(version, times, vectors)))))
            }
        };
        for (space, index) in self.followed_by(collection, stored.as_ref().map(|(spaces, _)| *spaces)) {
            let stored =
                stored.as_ref().filter(|(spaces, _)| spaces.has(space.number)).map(|(_, stored)| stored.clone());
            if stored.as_ref().is_some_and(|stored| stored.times.expires_ms != 0) {
                index.expiring.store(true, Ordering::Relaxed);
            }
            index.tail.lock().insert_mut(frame, TailEntry { sequence, stored, rows: Arc::default() });
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

    /// Takes the next [`TURN`] changes into the indexes.
    pub(super) fn take_turn(&self) {
        let _turn = self.turn.lock();
        for _ in 0..TURN {
            let Some(queued) = self.work.lock().changes.pop_front() else { return };
            let Queued { space, frame, sequence, .. } = queued;
            let Some(index) = self.index_of(space) else { continue };
            let entry = index.tail.lock().get(&frame).cloned();
            // A newer change of the same frame is further back in the queue.
            let Some(entry) = entry.filter(|entry| entry.sequence == sequence) else { continue };
            let record = self.settings(space.collection);
            let Some(of) = record.as_ref().and_then(|record| record.space(space.number)) else {
                // The meta group has not told this node yet (or the collection is dropped and its purge will follow).
                self.work.lock().changes.push_back(queued);
                std::thread::sleep(UNKNOWN_PAUSE);
                return;
            };
            self.index_one(&index, &of, frame, &entry);
            let mut tail = index.tail.lock();
            if tail.get(&frame).is_some_and(|now| now.sequence == sequence) {
                tail.remove_mut(&frame);
            }
        }
    }

    pub(super) fn settings(&self, collection: CollectionId) -> Option<CollectionRecord> {
        self.parts.cluster.borrow().collections.get(&collection).cloned()
    }

    fn index_one(&self, index: &SpaceIndex, space: &Space<'_>, frame: FrameId, entry: &TailEntry) {
        let stored = entry.stored.as_deref();
        let opened = stored.and_then(|stored| Some((stored, self.open(space.collection, frame, stored)?)));
        match opened {
            Some((stored, vectors)) => {
                let attributes = self.attributes_of(space.collection, frame, stored);
                let document = Document { id: frame, times: stored.times };
                let vectors = vectors.in_space(space.number);
                self.insert(index, space, &IndexEntry { document, attributes, vectors });
            }
            None => {
                if index.vectors.get().is_some_and(|vectors| vectors.remove(frame)) {
                    index.unsaved.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}
