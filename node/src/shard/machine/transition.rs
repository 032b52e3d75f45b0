//! The state that one command changes, at the command's place in the log.

use mira_proto::{CollectionId, FrameId};
use mira_raft::{EngineError, Txn};

use super::{
    Change,
    ownership_lookup::{self, OwnershipLookup},
    tables::decode_count,
};
use crate::shard::{
    migration::ownership::{FrameOwnership, Ownership, PlacementCache},
    record::{self, FrameHead, FrameRecord, KeyFloor},
};

/// A place in the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogStamp {
    /// Its position.
    pub(crate) index: u64,
    /// The time that the log carries there, milliseconds.
    pub(crate) time_ms: u64,
}

/// What a command reads and writes.
pub(crate) struct Transition<'a, 't> {
    /// Where the command stands in the log.
    pub(super) at: LogStamp,
    /// The state.
    pub(super) txn: &'a mut Txn<'t>,
    /// What followers are told when the batch is committed.
    pub(super) changes: Vec<Change>,
    /// Where the frames of growing collections are.
    pub(super) placement: &'a PlacementCache,
    /// The greatest position of a call, once it was looked up.
    pub(super) last_position: Option<u64>,
    lookup: OwnershipLookup<'a>,
}

impl<'a, 't> Transition<'a, 't> {
    /// Of the command that stands there in the log.
    pub(crate) fn new(at: LogStamp, placement: &'a PlacementCache, txn: &'a mut Txn<'t>) -> Self {
        Transition {
            at,
            txn,
            changes: Vec::new(),
            placement,
            last_position: None,
            lookup: OwnershipLookup::new(placement),
        }
    }

    /// What the shard is to a frame.
    pub(super) fn frame_ownership(
        &mut self,
        collection: CollectionId,
        frame: FrameId,
    ) -> Result<FrameOwnership, EngineError> {
        self.lookup.of_frame(collection, frame, self.txn)
    }

    /// Whether the shard decides about a frame.
    pub(super) fn owns(&mut self, collection: CollectionId, frame: FrameId) -> Result<bool, EngineError> {
        Ok(self.frame_ownership(collection, frame)? == FrameOwnership::Owned)
    }

    /// The shard's part in the last growth of a collection.
    pub(super) fn ownership(&self, collection: CollectionId) -> Result<Option<Ownership>, EngineError> {
        ownership_lookup::ownership_of(collection, self.txn)
    }

    /// A frame's record.
    pub(super) fn record(&self, collection: CollectionId, frame: FrameId) -> Result<Option<FrameRecord>, EngineError> {
        let stored = self.txn.get(&record::frame_key(collection, frame))?;
        stored.map(|stored| FrameRecord::decode(&stored)).transpose()
    }

    /// A frame's head.
    pub(super) fn head(&self, collection: CollectionId, frame: FrameId) -> Result<Option<FrameHead>, EngineError> {
        let stored = self.txn.get(&record::head_key(collection, frame))?;
        stored.map(|stored| FrameHead::decode(&stored)).transpose()
    }

    /// The greatest version that a removed frame of a collection had.
    pub(super) fn ended_version(&self, collection: CollectionId) -> Result<u64, EngineError> {
        decode_count(self.txn.get(&record::ended_version_key(collection))?.as_deref())
    }

    /// Notes that a frame of this version was removed from a collection.
    pub(super) fn note_ended(&mut self, collection: CollectionId, version: u64) -> Result<(), EngineError> {
        if version > self.ended_version(collection)? {
            self.txn.put(&record::ended_version_key(collection), version.to_be_bytes().to_vec());
        }
        Ok(())
    }

    /// How far a collection's rotation to another key has come.
    pub(super) fn key_floor(&self, collection: CollectionId) -> Result<KeyFloor, EngineError> {
        let stored = self.txn.get(&record::key_floor_key(collection))?;
        Ok(stored.map(|stored| KeyFloor::decode(&stored)).transpose()?.unwrap_or_default())
    }
}
