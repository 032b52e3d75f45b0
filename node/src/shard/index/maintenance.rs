//! What keeps indexes in shape beside searches and writes: compaction, and images for the next start.
//!
//! One thread of the lowest priority per node looks after all its shards, so that neither delays the workers that bring
//! changes into the indexes; those in turn let searches go first. An image is taken at one moment between two changes (which
//! costs nothing) and written from there.

use std::{
    sync::{
        Arc, Weak,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant},
};

use mira_index::VectorIndex;
use mira_proto::{CollectionId, limits};
use parking_lot::Mutex;

use super::{
    ShardIndex, Workers,
    image::{ImageContent, Span},
    space::{SpaceId, SpaceIndex},
};

/// Between two rounds.
const ROUND: Duration = Duration::from_secs(1);
/// For waiting changes when the node stops.
const LAST_TURNS: Duration = Duration::from_secs(3);
/// What a thread adds to its niceness that runs after all others: all there is. It then has a sixtieth of the share of one
/// that does not, when both want a processor.
const LAST: i32 = 19;
/// And one that brings changes into indexes: a third of the share. Writes wait for it, searches do not.
const AFTER_SEARCHES: i32 = 5;

/// Whether a collection's image is worth writing: fewer changes are replayed sooner than an image is written.
///
/// `since` is the time since the last image, or since there is the index; `None` if the node is stopping and there is no
/// later.
fn is_due(vectors: usize, unsaved: u64, since: Option<Duration>) -> bool {
    let few = unsaved < (vectors as u64 / 100).max(limits::MIN_IMAGE_CHANGES);
    let many = unsaved >= (vectors as u64 / 10).max(limits::MIN_IMAGE_CHANGES);
    match since {
        _ if few || vectors < limits::MIN_IMAGE_VECTORS => false,
        None => true,
        Some(since) => since >= limits::IMAGE_PAUSE && (many || since >= 10 * limits::IMAGE_PAUSE),
    }
}

impl ShardIndex {
    /// One round: compacts what needs it and writes the images that are due. Blocks for as long as that takes.
    pub fn upkeep(&self) {
        if !self.ready.load(Ordering::Acquire) {
            return;
        }
        let _alone = self.upkeep.lock();
        for (space, index) in self.with_vectors() {
            if self.stopping.load(Ordering::Relaxed) {
                return;
            }
            self.compact(&index);
            let since = index.saved_at.lock().elapsed();
            self.save_if_due(space, &index, Some(since));
        }
    }

    /// Writes images for the next start. The node is stopping: nothing is compacted any more.
    pub fn save_images(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        if !self.ready.load(Ordering::Acquire) {
            return;
        }
        self.catch_up();
        let _alone = self.upkeep.lock();
        for (space, index) in self.with_vectors() {
            self.save_if_due(space, &index, None);
        }
    }

    /// Brings waiting changes into the indexes, so that an image holds all there is; whatever is left after
    /// [`LAST_TURNS`] is found from the state at the next start.
    fn catch_up(&self) {
        let until = Instant::now() + LAST_TURNS;
        while Instant::now() < until && !self.work.lock().changes.is_empty() {
            self.take_turn();
        }
    }

    /// The shard is not here any more: ends upkeep, and with it what might write an image now.
    pub fn discard(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.ready.store(false, Ordering::Release);
        self.taken.notify_waiters();
        self.indexes.write().clear();
        // Whoever was about to put an image into its place has done so, or sees that it is not wanted.
        drop(self.placing.lock());
    }

    fn with_vectors(&self) -> Vec<(SpaceId, Arc<SpaceIndex>)> {
        let indexes = self.indexes.read();
        let made = indexes.iter().filter(|(_, index)| index.vectors.get().is_some());
        made.map(|(space, index)| (*space, index.clone())).collect()
    }

    fn compact(&self, index: &SpaceIndex) {
        let Some(vectors) = index.vectors.get().filter(|vectors| vectors.needs_compaction()) else { return };
        let is_stopping = || self.stopping.load(Ordering::Relaxed);
        match vectors.compact(1, &is_stopping) {
            Err(error) if !is_stopping() => {
                tracing::warn!(shard = self.shard, %error, "vector index cannot be compacted");
            }
            _ => {}
        }
    }

    fn save_if_due(&self, space: SpaceId, index: &Arc<SpaceIndex>, since: Option<Duration>) {
        let vectors = index.vectors.get().map_or(0, VectorIndex::len);
        let unsaved = index.unsaved.load(Ordering::Relaxed);
        if !is_due(vectors, unsaved, since) {
            return;
        }
        let started = Instant::now();
        let SpaceId { collection, number } = space;
        let saved = self.save(space, index);
        // Tried or done: not again at once.
        *index.saved_at.lock() = Instant::now();
        let millis = started.elapsed().as_millis() as u64;
        match saved {
            Ok(Some(bytes)) => {
                tracing::info!(shard = self.shard, collection, number, vectors, bytes, millis, "index image written");
            }
            Ok(None) => {}
            Err(error) => {
                index.unsaved.fetch_add(unsaved, Ordering::Relaxed);
                tracing::warn!(shard = self.shard, collection, number, error, "index image not written");
            }
        }
    }

    /// Writes one image; `None` if the index was replaced meanwhile.
    fn save(&self, space: SpaceId, index: &Arc<SpaceIndex>) -> Result<Option<u64>, String> {
        let Some(record) = self.settings(space.collection) else { return Ok(None) };
        let key = self.parts.keyring.current(&record).map_err(|error| error.to_string())?;
        let Some(content) = self.moment(space, index) else { return Ok(None) };
        let is_replaced = || !self.is_current(space, index);
        let new = match self.images.write(&key, &content, &is_replaced) {
            Err(_) if is_replaced() => return Ok(None),
            written => written.map_err(|error| error.to_string())?,
        };
        // Between the question and the answer nobody deletes: what is put into its place belongs there.
        let _placing = self.placing.lock();
        if is_replaced() {
            return Ok(None);
        }
        new.keep().map_err(|error| error.to_string())?;
        let written = std::fs::metadata(self.images.path(space)).map_or(0, |file| file.len());
        Ok(Some(written))
    }

    /// The index between two changes, and the log positions it stands for there.
    fn moment(&self, space: SpaceId, index: &Arc<SpaceIndex>) -> Option<ImageContent> {
        // With the turn nobody is in the midst of a change: it is in the index or in the queue.
        let _turn = self.turn.lock();
        let work = self.work.lock();
        if work.rebuild.is_some() || !self.ready.load(Ordering::Acquire) || !self.is_current(space, index) {
            return None;
        }
        let from = work.changes.iter().map(|queued| queued.after).min().unwrap_or(work.handed);
        let snapshot = index.vectors.get()?.snapshot();
        index.unsaved.store(0, Ordering::Relaxed);
        Some(ImageContent { number: space.number, span: Span { from, upto: work.handed }, snapshot })
    }

    fn is_current(&self, space: SpaceId, index: &Arc<SpaceIndex>) -> bool {
        self.indexes.read().get(&space).is_some_and(|current| Arc::ptr_eq(current, index))
    }

    /// Deletes the images of a collection that is gone.
    pub(super) fn delete_images(&self, collection: CollectionId) {
        SpaceId::each_of(collection).for_each(|space| self.delete_image(space));
    }

    /// Deletes an image that is of no use, if there is one.
    pub(super) fn delete_image(&self, space: SpaceId) {
        let _placing = self.placing.lock();
        if let Err(error) = self.images.delete(space) {
            let SpaceId { collection, number } = space;
            tracing::error!(shard = self.shard, collection, number, %error, "index image cannot be deleted");
        }
    }
}

/// Lets the calling thread, for good, run after all others.
pub(super) fn run_last() {
    be_nicer(LAST);
}

fn be_nicer(by: i32) {
    // Not allowed, it runs like the others.
    let _ = rustix::process::nice(by);
}

/// Background threads of a node, shared by its shards.
pub struct IndexThreads {
    changes: Sender<Arc<ShardIndex>>,
    looked_after: Sender<Weak<ShardIndex>>,
}

impl IndexThreads {
    /// Starts `count` threads for changes and one for upkeep; they end when this and every index that uses it are gone.
    pub fn start(count: usize) -> std::io::Result<Arc<Self>> {
        let (changes, receiver) = channel::<Arc<ShardIndex>>();
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..count {
            let receiver = receiver.clone();
            std::thread::Builder::new().name(format!("indexer-{number}")).spawn(move || {
                be_nicer(AFTER_SEARCHES);
                loop {
                    let next = receiver.lock().recv();
                    let Ok(index) = next else { return };
                    index.work();
                }
            })?;
        }
        let (looked_after, newcomers) = channel();
        std::thread::Builder::new().name("upkeep".into()).spawn(move || {
            run_last();
            look_after(&newcomers);
        })?;
        Ok(Arc::new(IndexThreads { changes, looked_after }))
    }
}

impl Workers for IndexThreads {
    fn register(&self, index: &Arc<ShardIndex>) {
        // The receiver lives as long as this sender does.
        let _ = self.looked_after.send(Arc::downgrade(index));
    }

    fn schedule(&self, index: Arc<ShardIndex>) {
        // The receivers live as long as this sender does.
        let _ = self.changes.send(index);
    }
}

/// Rounds over all indexes until nobody can hand over another.
fn look_after(newcomers: &Receiver<Weak<ShardIndex>>) {
    let mut indexes: Vec<Weak<ShardIndex>> = Vec::new();
    loop {
        match newcomers.recv_timeout(ROUND) {
            Ok(index) => {
                indexes.push(index);
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        indexes.retain(|index| index.strong_count() > 0);
        indexes.iter().filter_map(Weak::upgrade).for_each(|index| index.upkeep());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_written_when_they_save_more_than_they_cost() {
        let minutes = |minutes: u64| Some(Duration::from_secs(60 * minutes));
        // vectors, changes since, time since, due?
        let table = [
            (100, 100, None, false),
            (10_000, 10_000, None, true),
            (10_000, 10, None, false),
            (1_000_000, 1_000, None, false),
            (1_000_000, 20_000, None, true),
            (1_000_000, 200_000, minutes(0), false),
            (1_000_000, 200_000, minutes(2), true),
            (1_000_000, 20_000, minutes(2), false),
            (1_000_000, 20_000, minutes(11), true),
            (1_000_000, 1_000, minutes(600), false),
        ];
        for (vectors, unsaved, since, due) in table {
            assert_eq!(is_due(vectors, unsaved, since), due, "{vectors} {unsaved} {since:?}");
        }
    }
}
