//! Keeps past versions of frames and the bin in step with the frames.

use bytes::Bytes;
use mira_proto::{CollectionId, FrameId};
use mira_raft::EngineError;

use super::{Transition, forget};
use crate::shard::{
    command::ShardAnswer,
    history::{self, Ending, History, HistoryBounds, PastHead, PastVersion, VersionBound},
    record::{self, Class, FrameHead, FrameRecord, Table},
};

/// A frame's place in a shard.
pub(super) type Place = (CollectionId, FrameId);

impl Transition<'_, '_> {
    /// A frame's history.
    pub(super) fn history(&self, (collection, frame): Place) -> Result<History, EngineError> {
        let stored = self.txn.get(&history::history_key(collection, frame))?;
        Ok(stored.map(|stored| History::decode(&stored)).transpose()?.unwrap_or_default())
    }

    /// The sealed vectors of a frame that has a record; empty when there are none.
    pub(super) fn vectors(&self, (collection, frame): Place) -> Result<Bytes, EngineError> {
        match self.txn.get(&record::vectors_key(collection, frame))? {
            Some(stored) => Ok(Bytes::copy_from_slice(record::decode_vectors(&stored)?.1)),
            None => Ok(Bytes::new()),
        }
    }

    /// Writes a version among the past ones; the history that names it is the caller's to put.
    pub(super) fn put_past(&mut self, (collection, frame): Place, record: &FrameRecord, vectors: &[u8]) {
        let version = record.fields.version;
        self.txn.put(&history::past_key(collection, frame, version), PastVersion::encode(record, vectors));
        self.put_references((collection, frame), record);
    }

    /// Writes a frame's history in the place of what it was, after the frame itself; `expires_ms` is that of its record.
    /// Versions that are not in it any more go.
    pub(super) fn put_history(&mut self, place: Place, before: &History, after: &History, expires_ms: u64) {
        let (collection, frame) = place;
        for gone in before.versions.iter().filter(|past| after.of_version(past.version).is_none()) {
            self.txn.delete(&history::past_key(collection, frame, gone.version));
            self.txn.delete(&record::references_key(collection, frame, gone.version));
            if gone.expires_ms != 0 && gone.expires_ms != expires_ms {
                self.txn.delete(&record::expiry_key(collection, gone.expires_ms, frame));
            }
        }
        for past in after.versions.iter().filter(|past| past.expires_ms != 0) {
            self.txn.put(&record::expiry_key(collection, past.expires_ms, frame), Bytes::new());
        }
        self.note_time(Table::Ended, place, (before.oldest_ended(), after.oldest_ended()));
        self.note_time(Table::Forgotten, place, (before.oldest_forgotten(), after.oldest_forgotten()));
        let key = history::history_key(collection, frame);
        if !after.versions.is_empty() {
            self.txn.put(&key, after.encode());
        } else if !before.versions.is_empty() {
            self.txn.delete(&key);
        }
    }

    fn note_time(
        &mut self,
        table: Table,
        (collection, frame): Place,
        (before_ms, after_ms): (Option<u64>, Option<u64>),
    ) {
        if before_ms == after_ms {
            return;
        }
        if let Some(before_ms) = before_ms {
            self.txn.delete(&record::time_key(table, collection, before_ms, frame));
        }
        if let Some(after_ms) = after_ms {
            self.txn.put(&record::time_key(table, collection, after_ms, frame), Bytes::new());
        }
    }

    /// Puts a frame with a record into the bin. The number of frames is the caller's to change.
    pub(super) fn bin_frame(&mut self, place: Place, record: &FrameRecord) -> Result<(), EngineError> {
        let (collection, frame) = place;
        let (vectors, before) = (self.vectors(place)?, self.history(place)?);
        self.remove_frame(collection, frame, record);
        self.put_past(place, record, &vectors);
        let ended_ms = self.at.time_ms.max(record.fields.updated_ms);
        let mut after = History { owner: record.fields.owner, ..before.clone() };
        after.push(PastHead::new(record, &vectors, Ending { ended_ms, forgotten_ms: 0 }));
        after.bin(self.at.time_ms);
        self.put_history(place, &before, &after, 0);
        self.put_binned_head(place, record);
        Ok(())
    }

    /// Writes the head of a frame that rests in the bin.
    pub(super) fn put_binned_head(&mut self, (collection, frame): Place, record: &FrameRecord) {
        let head = FrameHead {
            changed: self.at.index,
            created_ms: record.fields.created_ms,
            expires_ms: record.fields.expires_ms,
            spaces: Default::default(),
            class: Class::Binned,
        };
        self.txn.put(&record::head_key(collection, frame), head.encode());
    }

    /// Removes all past versions of a frame, and one that rests in the bin.
    pub(super) fn remove_history(&mut self, place: Place, before: &History, expires_ms: u64) {
        self.put_history(place, before, &History::default(), expires_ms);
        if before.is_binned() {
            self.txn.delete(&record::head_key(place.0, place.1));
        }
    }

    /// How many past versions a frame may have now, where whoever stores says `said`.
    pub(super) fn versions_kept(&mut self, collection: CollectionId, said: u32) -> Result<u32, EngineError> {
        match self.version_bound(collection)? {
            Some(bound) => Ok(bound.last.min(said)),
            None => {
                self.put_version_bound(collection, VersionBound { last: said, is_kept: true });
                Ok(said)
            }
        }
    }

    /// The bound on past versions that all frames of a collection are held to.
    pub(super) fn version_bound(&self, collection: CollectionId) -> Result<Option<VersionBound>, EngineError> {
        let stored = self.txn.get(&history::bound_key(collection))?;
        stored.map(|stored| VersionBound::decode(&stored)).transpose()
    }

    /// Sets that bound.
    pub(super) fn put_version_bound(&mut self, collection: CollectionId, bound: VersionBound) {
        self.txn.put(&history::bound_key(collection), bound.encode());
    }

    /// Notes that something of a frame has changed, for whoever copies what has changed.
    fn note_changed(&mut self, (collection, frame): Place) -> Result<(), EngineError> {
        if let Some(head) = self.head(collection, frame)? {
            let head = FrameHead { changed: self.at.index, ..head };
            self.txn.put(&record::head_key(collection, frame), head.encode());
        }
        Ok(())
    }

    /// Puts a shorter history in the place of a longer one; how many versions went.
    pub(super) fn shorten(&mut self, place: Place, before: &History, after: &History) -> Result<u32, EngineError> {
        let gone = before.versions.len() - after.versions.len();
        if gone > 0 {
            let expires_ms = self.record(place.0, place.1)?.map_or(0, |record| record.fields.expires_ms);
            self.put_history(place, before, after, expires_ms);
            self.note_changed(place)?;
        }
        Ok(gone as u32)
    }
}

/// Removes what is over of the past of some frames.
pub(super) fn cut(
    collection: CollectionId,
    frames: Vec<FrameId>,
    (bounds, complete): (HistoryBounds, bool),
    state: &mut Transition<'_, '_>,
) -> Result<ShardAnswer, EngineError> {
    let bound = state.version_bound(collection)?;
    let was_kept = bound.is_some_and(|bound| bound.is_kept && bound.last <= bounds.last);
    let next = VersionBound { last: bounds.last, is_kept: complete || was_kept };
    if bound.is_some_and(|bound| bound != next) {
        state.put_version_bound(collection, next);
    }
    let mut gone = 0u32;
    for frame in frames {
        if !state.owns(collection, frame)? {
            continue;
        }
        gone = gone.saturating_add(cut_frame((collection, frame), &bounds, state)?);
    }
    Ok(ShardAnswer::CutHistory(gone))
}

fn cut_frame(place: Place, bounds: &HistoryBounds, state: &mut Transition<'_, '_>) -> Result<u32, EngineError> {
    let before = state.history(place)?;
    if before.is_binned() && before.binned_ms <= bounds.forgotten_ms {
        forget::end(place.0, vec![place.1], state)?;
        return Ok(before.versions.len() as u32);
    }
    let mut after = before.clone();
    // By bytes it was cut when its current version was stored.
    after.cut(bounds, 0);
    state.shorten(place, &before, &after)
}
