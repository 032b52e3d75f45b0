//! The tail of a space: changes that its index does not have yet, with what a search needs of their frames, opened once.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use mira_index::{Attributes, DocumentRows, Times, Value};
use mira_proto::{
    FrameId,
    vectors::{FrameVectors, SpaceNumber},
};
use rpds::RedBlackTreeMapSync;

use super::{
    ShardIndex,
    space::{SpaceId, config},
};
use crate::{
    meta::{CollectionRecord, Space},
    shard::record,
};

/// Changes not yet in the index. Persistent, so that a search takes a copy of this moment in no time.
pub(super) type Tail = RedBlackTreeMapSync<FrameId, TailEntry>;

/// A change that the index does not have yet.
#[derive(Clone)]
pub(super) struct TailEntry {
    pub(super) sequence: u64,
    /// `None`: the frame is gone, or has no vectors in this space any more.
    pub(super) stored: Option<Arc<TailFrame>>,
    /// What queries are compared with: its vectors in this space. `None` inside: they cannot be opened.
    pub(super) rows: Arc<OnceLock<Option<DocumentRows>>>,
}

/// A frame as its change stored it, shared by the tails of all its spaces.
pub(super) struct TailFrame {
    version: u64,
    pub(super) times: Times,
    /// Its sealed vectors, in this space and others.
    sealed: Bytes,
    opened: OnceLock<Option<FrameVectors>>,
    attributes: OnceLock<Attributes>,
}

impl TailFrame {
    /// Not opened yet.
    pub(super) fn new(version: u64, times: Times, sealed: Bytes) -> Self {
        TailFrame { version, times, sealed, opened: OnceLock::new(), attributes: OnceLock::new() }
    }
}

impl ShardIndex {
    /// The rows of a frame in the tail; `None` (counted, logged) if there can be none.
    pub(super) fn rows_of(&self, space: &Space<'_>, frame: FrameId, stored: &TailFrame) -> Option<DocumentRows> {
        let vectors = self.open(space.collection, frame, stored)?;
        let rows = DocumentRows::new(&config(space), vectors.in_space(space.number));
        rows.map_err(|error| self.opener.report(frame, &error.to_string())).ok()
    }

    /// The vectors of a frame in the tail, opened once; `None` (counted, logged) if they cannot be.
    pub(super) fn open<'a>(
        &self,
        collection: &CollectionRecord,
        frame: FrameId,
        stored: &'a TailFrame,
    ) -> Option<&'a FrameVectors> {
        let opened = stored.opened.get_or_init(|| self.opener.open(collection, frame, stored.version, &stored.sealed));
        opened.as_ref()
    }

    /// The attributes of a frame in the tail, read once.
    pub(super) fn attributes_of<'a>(
        &self,
        collection: &CollectionRecord,
        frame: FrameId,
        stored: &'a TailFrame,
    ) -> &'a Attributes {
        stored.attributes.get_or_init(|| self.read_attributes(collection, frame).unwrap_or_default())
    }

    /// The first value of a field of a frame with vectors in a space: from the index if it knows, else from the frame.
    pub(in crate::shard) fn first_value(
        &self,
        collection: &CollectionRecord,
        number: SpaceNumber,
        frame: FrameId,
        field: &str,
    ) -> Option<Value> {
        let index = self.index_of(SpaceId { collection: collection.id, number })?;
        let entry = index.tail.lock().get(&frame).cloned();
        if let Some(stored) = entry.and_then(|entry| entry.stored) {
            return self.attributes_of(collection, frame, &stored).of(field).next().cloned();
        }
        let known = index.vectors.get().and_then(|vectors| vectors.first_value(frame, field));
        known.unwrap_or_else(|| self.read_attributes(collection, frame)?.of(field).next().cloned())
    }

    /// The attributes of a frame as the state has it now; `None` if it is gone or cannot be opened (counted, logged).
    pub(super) fn read_attributes(&self, collection: &CollectionRecord, frame: FrameId) -> Option<Attributes> {
        let state = self.state.lock().clone()?;
        let stored = match state.get(&record::frame_key(collection.id, frame)) {
            Ok(stored) => stored?,
            Err(error) => {
                self.opener.verifier.met(&error);
                self.opener.report(frame, &error.to_string());
                return None;
            }
        };
        self.opener.open_attributes(collection, frame, &stored)
    }
}
