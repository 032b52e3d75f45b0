//! Making a shard's index when its state was replaced: from the last image and the frames that changed since.
//!
//! Every frame has a head in the state, a few bytes with the log position of its last change. Heads come in order of
//! frame ids, so one pass over them beside the sorted ids of an image says which frames are new, changed or gone; only
//! those are opened and linked, by several threads of low priority. Without an image that is all of them.

use std::{
    iter::Peekable,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Instant,
};

use mira_index::{Document, Times};
use mira_proto::{CollectionId, FrameId, vectors::SpaceNumber};
use mira_raft::{EngineError, StateReader};
use parking_lot::Mutex;

use super::{
    ShardIndex,
    maintenance::run_last,
    queue::UNKNOWN_PAUSE,
    space::{IndexEntry, SpaceId, SpaceIndex, config},
};
use crate::{
    meta::Space,
    shard::{
        index::image::{SealedImageError, Span},
        machine::decode_count,
        record::{self, Class, FrameHead},
    },
};

/// Frames that a thread takes at once.
const BATCH: usize = 128;

/// Why an index was not built.
#[derive(Debug, thiserror::Error)]
enum BuildError {
    #[error("the state was replaced, or the shard closes")]
    Replaced,
    #[error("collection {0} is not known here yet")]
    UnknownCollection(CollectionId),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Where the frames of an index came from.
#[derive(Debug, Default, Clone, Copy)]
struct Built {
    from_images: u64,
    from_frames: u64,
    removed: u64,
}

impl ShardIndex {
    /// Builds every collection's index, unless the state is replaced once more meanwhile.
    pub(super) fn rebuild(&self, state: &StateReader) {
        let _turn = self.turn.lock();
        let started = Instant::now();
        match self.build_from(state) {
            Ok(Built { from_images, from_frames, removed }) => {
                let work = self.work.lock();
                if work.rebuild.is_none() {
                    self.from_images.store(from_images, Ordering::Relaxed);
                    self.ready.store(true, Ordering::Release);
                }
                let millis = started.elapsed().as_millis() as u64;
                tracing::info!(shard = self.shard, from_images, from_frames, removed, millis, "vector index built");
            }
            Err(BuildError::Replaced) => {}
            Err(BuildError::UnknownCollection(collection)) => {
                tracing::debug!(shard = self.shard, collection, "collection not known here yet, building later");
                std::thread::sleep(UNKNOWN_PAUSE);
                self.work.lock().rebuild.get_or_insert_with(|| state.clone());
            }
            Err(BuildError::Engine(error)) => {
                // Damage has the replica rebuilt from the others.
                self.opener.verifier.met(&error);
                tracing::error!(shard = self.shard, %error, "vector index cannot be built");
            }
        }
    }

    fn build_from(&self, state: &StateReader) -> Result<Built, BuildError> {
        let view = state.view()?;
        {
            // The view may be ahead of what was handed over, and what the index holds must not be.
            let mut work = self.work.lock();
            work.handed = work.handed.max(view.applied_index());
        }
        let cluster = self.parts.cluster.borrow().clone();
        let mut ids = collections_of(&view)?;
        ids.retain(|id| !cluster.dropped.contains(id));
        // Before anything is built: to build twice would be to insert everything twice.
        if let Some(unknown) = ids.iter().find(|id| !cluster.collections.contains_key(id)) {
            return Err(BuildError::UnknownCollection(*unknown));
        }
        let collections = ids.iter().filter_map(|id| cluster.collections.get(id));
        let spaces: Vec<Space<'_>> = collections.flat_map(|record| record.all_spaces()).collect();
        if let Err(error) = self.images.retain(&spaces.iter().map(SpaceId::from).collect::<Vec<_>>()) {
            tracing::warn!(shard = self.shard, %error, "old index images cannot be deleted");
        }
        let mut built = Built::default();
        for space in &spaces {
            let one = self.build_space(&view, space)?;
            built.from_images += one.from_images;
            built.from_frames += one.from_frames;
            built.removed += one.removed;
        }
        Ok(built)
    }

    fn build_space(&self, view: &StateReader, space: &Space<'_>) -> Result<Built, BuildError> {
        let collection = space.collection.id;
        let index = {
            let work = self.work.lock();
            if work.rebuild.is_some() {
                return Err(BuildError::Replaced);
            }
            self.indexes.write().entry(space.into()).or_default().clone()
        };
        let from = self.load_image(&index, space, view.applied_index()).map_or(0, |span| span.from);
        let mut known: Vec<FrameId> = Vec::new();
        if let Some(vectors) = index.vectors.get() {
            let documents = vectors.documents();
            let expiring = documents.iter().any(|document| document.times.expires_ms != 0);
            index.expiring.fetch_or(expiring, Ordering::Relaxed);
            known.extend(documents.iter().map(|document| document.id));
            known.sort_unstable();
        }
        let known_count = known.len() as u64;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let (sender, receiver) = sync_channel(2 * threads);
        let receiver = Arc::new(Mutex::new(receiver));
        let (scanned, indexed) = std::thread::scope(|scope| {
            let (index, receiver) = (&index, receiver);
            let spawn = |_| {
                let receiver = Arc::clone(&receiver);
                scope.spawn(move || {
                    run_last();
                    self.index_batches(view, index, space, &receiver)
                })
            };
            let workers: Vec<_> = (0..threads).map(spawn).collect();
            // Theirs alone: when every one has failed, sending fails too.
            drop(receiver);
            let known = known.into_iter().peekable();
            let compare = Compare { index, number: space.number, from, known, removed: 0, kept: 0 };
            let scanned = self.scan_heads(view, collection, compare, sender);
            let joined = workers.into_iter().map(|worker| worker.join().expect("indexing does not panic"));
            (scanned, joined.sum::<Result<u64, EngineError>>())
        });
        let (indexed, (kept, removed)) = (indexed?, scanned?);
        if known_count > 0 {
            tracing::info!(collection, number = space.number, kept, indexed, removed, "index image brought up to date");
        }
        Ok(Built { from_images: kept, from_frames: indexed, removed })
    }

    /// Compares all heads of a collection with the image and sends those that are to be indexed.
    fn scan_heads(
        &self,
        view: &StateReader,
        collection: CollectionId,
        mut compare: Compare<'_, impl Iterator<Item = FrameId>>,
        sender: SyncSender<Vec<(FrameId, FrameHead)>>,
    ) -> Result<(u64, u64), BuildError> {
        let (mut batch, mut heads, mut failed) = (Vec::with_capacity(BATCH), 0u64, None);
        view.scan_prefix(&record::collection_prefix(record::Table::Heads, collection), false, &mut |key, value| {
            let Some((_, frame)) = record::parse_pair_key(key) else { return ControlFlow::Continue(()) };
            let head = match FrameHead::decode(value) {
                Ok(head) => head,
                Err(error) => {
                    failed = Some(BuildError::Engine(error));
                    return ControlFlow::Break(());
                }
            };
            heads += u64::from(head.class == Class::Memory);
            if compare.must_index(frame, &head) {
                batch.push((frame, head));
            }
            if batch.len() == BATCH {
                // It fails when every worker has failed, and they say why.
                if sender.send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH))).is_err() {
                    return ControlFlow::Break(());
                }
                if self.work.lock().rebuild.is_some() || self.stopping.load(Ordering::Relaxed) {
                    failed = Some(BuildError::Replaced);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        failed.map_or(Ok(()), Err)?;
        let _ = sender.send(batch);
        compare.finish();
        let counted = decode_count(view.get(&record::count_key(collection))?.as_deref())?;
        if heads != counted {
            tracing::error!(shard = self.shard, collection, heads, counted, "frames without a head are not indexed");
        }
        Ok((compare.kept, compare.removed))
    }

    /// Indexes batches until there are no more; returns how many frames.
    fn index_batches(
        &self,
        view: &StateReader,
        index: &SpaceIndex,
        space: &Space<'_>,
        batches: &Mutex<Receiver<Vec<(FrameId, FrameHead)>>>,
    ) -> Result<u64, EngineError> {
        let record = space.collection;
        let mut indexed = 0;
        loop {
            let next = batches.lock().recv();
            let Ok(batch) = next else { return Ok(indexed) };
            let keys: Vec<_> = batch.iter().map(|(frame, _)| record::vectors_key(record.id, *frame)).collect();
            let body_keys: Vec<_> = batch.iter().map(|(frame, _)| record::frame_key(record.id, *frame)).collect();
            let stored = view.multi_get(&keys)?.into_iter().zip(view.multi_get(&body_keys)?);
            for ((frame, head), (stored, body)) in batch.into_iter().zip(stored) {
                let Some(stored) = stored else {
                    return Err(EngineError::Damaged(format!("frame {frame:032x} has lost its vectors")));
                };
                let times = Times { created_ms: head.created_ms, expires_ms: head.expires_ms };
                let opened = self.opener.open_stored(record, frame, &stored);
                let attributes = body.and_then(|body| self.opener.open_attributes(record, frame, &body));
                let attributes = attributes.unwrap_or_default();
                let document = Document { id: frame, times };
                let is_indexed = opened.is_some_and(|vectors| {
                    let vectors = vectors.in_space(space.number);
                    self.insert(index, space, &IndexEntry { document, attributes: &attributes, vectors })
                });
                indexed += u64::from(is_indexed);
            }
        }
    }

    /// Takes the index of a space from its image, if there is one that fits this state, and says what it stands for.
    fn load_image(&self, index: &SpaceIndex, space: &Space<'_>, applied: u64) -> Option<Span> {
        let loaded = match self.images.key_version(space.into()) {
            Ok(None) => return None,
            Ok(Some(version)) => self.read_image(index, space, version, applied),
            Err(error) => Err(error.to_string()),
        };
        match loaded {
            Ok(span) => Some(span),
            Err(error) => {
                tracing::warn!(
                    shard = self.shard,
                    collection = space.collection.id,
                    number = space.number,
                    error,
                    "index image is of no use, building from frames"
                );
                self.delete_image(space.into());
                None
            }
        }
    }

    fn read_image(
        &self,
        index: &SpaceIndex,
        space: &Space<'_>,
        key_version: u32,
        applied: u64,
    ) -> Result<Span, String> {
        if index.vectors.get().is_some() {
            return Err("the index is made already".into());
        }
        let key = self.parts.keyring.version(space.collection, key_version).map_err(|error| error.to_string())?;
        let read = self.images.read(&key, space.number, &self.storage(space));
        let (vectors, span) = read.map_err(|error: SealedImageError| error.to_string())?;
        if vectors.config() != config(space) {
            return Err("the space has other settings".into());
        }
        if span.upto > applied {
            return Err(format!("it goes up to log position {}, the state to {applied}", span.upto));
        }
        index.vectors.set(vectors).map_err(|_| "the index is made already".to_owned())?;
        Ok(span)
    }
}

/// An image beside the heads of its frames, both in order of ids.
struct Compare<'a, I: Iterator<Item = FrameId>> {
    index: &'a SpaceIndex,
    /// The space that it is of.
    number: SpaceNumber,
    /// What the image holds everything up to.
    from: u64,
    /// Frames of the image.
    known: Peekable<I>,
    kept: u64,
    removed: u64,
}

impl<I: Iterator<Item = FrameId>> Compare<'_, I> {
    /// Whether the frame of the next head must be indexed. Frames of the image that are gone, or have no vectors any
    /// more, leave the index.
    fn must_index(&mut self, frame: FrameId, head: &FrameHead) -> bool {
        while let Some(gone) = self.known.next_if(|known| *known < frame) {
            self.remove(gone);
        }
        let is_known = self.known.next_if_eq(&frame).is_some();
        if !head.spaces.has(self.number) {
            if is_known {
                self.remove(frame);
            }
            return false;
        }
        let is_current = is_known && head.changed <= self.from;
        self.kept += u64::from(is_current);
        !is_current
    }

    /// Removes what comes after the last head.
    fn finish(&mut self) {
        while let Some(gone) = self.known.next() {
            self.remove(gone);
        }
    }

    fn remove(&mut self, frame: FrameId) {
        if self.index.vectors.get().is_some_and(|vectors| vectors.remove(frame)) {
            self.index.unsaved.fetch_add(1, Ordering::Relaxed);
            self.removed += 1;
        }
    }
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
