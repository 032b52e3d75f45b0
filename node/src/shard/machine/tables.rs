//! Keeps the tables of a shard in step: whatever is derived from a frame's record follows it.

use bytes::Bytes;
use mira_proto::{CollectionId, FrameId, Position};
use mira_raft::EngineError;

use super::{Change, Transition, history::Place};
use crate::shard::record::{self, Class, FrameFields, FrameHead, FrameRecord, OwnedFrame};

/// A version that becomes current.
pub(super) struct NewVersion {
    pub(super) frame: FrameId,
    pub(super) record: FrameRecord,
    /// Sealed vectors; empty when there are none.
    pub(super) vectors: Bytes,
}

impl Transition<'_, '_> {
    /// Writes a frame into every table of what is current, in the place of what was there of it.
    pub(super) fn put_frame(
        &mut self,
        collection: CollectionId,
        old: Option<&FrameRecord>,
        new: NewVersion,
    ) -> Result<(), EngineError> {
        let NewVersion { frame, record, vectors } = new;
        self.note_position(Position::of_packed(record.fields.position))?;
        self.note_session(collection, frame, old, Some(&record));
        self.note_expiry(collection, frame, old.map_or(0, |old| old.fields.expires_ms), record.fields.expires_ms);
        self.note_chunk(collection, frame, old, Some(&record));
        self.drop_references((collection, frame), old);
        self.put_references((collection, frame), &record);
        // One that is over may have been of another class.
        self.add_to_count(collection, counted(Some(record.fields.class)) - counted(old.map(|old| old.fields.class)))?;
        let vectors_key = record::vectors_key(collection, frame);
        if !vectors.is_empty() {
            self.txn.put(&vectors_key, record::encode_vectors(record.fields.version, &vectors));
        } else if old.is_some() {
            self.txn.delete(&vectors_key);
        }
        let fields = &record.fields;
        if let Some(owner) = fields.owner.as_ref().filter(|_| fields.class == Class::Memory) {
            let owned = OwnedFrame {
                changed: self.at.index,
                created_ms: fields.created_ms,
                expires_ms: fields.expires_ms,
                vector_bytes: vectors.len() as u32,
            };
            self.note_owned(collection, owner, frame, Some(owned));
        }
        self.put_record(collection, frame, record, vectors);
        Ok(())
    }

    /// Writes a frame's record with its head, and tells who follows.
    fn put_record(&mut self, collection: CollectionId, frame: FrameId, record: FrameRecord, vectors: Bytes) {
        let FrameFields { version, created_ms, expires_ms, spaces, class, owner, .. } = record.fields;
        self.txn.put(&record::frame_key(collection, frame), record.encode());
        let head = FrameHead { changed: self.at.index, created_ms, expires_ms, spaces, class };
        self.txn.put(&record::head_key(collection, frame), head.encode());
        // The index never sees those of a private frame.
        let vectors = if owner.is_some() { Bytes::new() } else { vectors };
        self.changes.push(Change::Stored { collection, frame, version, created_ms, expires_ms, spaces, vectors });
    }

    /// Removes a frame from every table of what is current. The number of frames is the caller's to change: it removes many at
    /// once.
    pub(super) fn remove_frame(&mut self, collection: CollectionId, frame: FrameId, old: &FrameRecord) {
        if let Some(owner) = old.fields.owner.as_ref().filter(|_| old.fields.class == Class::Memory) {
            self.note_owned(collection, owner, frame, None);
        }
        self.txn.delete(&record::frame_key(collection, frame));
        self.txn.delete(&record::head_key(collection, frame));
        self.txn.delete(&record::vectors_key(collection, frame));
        self.note_chunk(collection, frame, Some(old), None);
        self.drop_references((collection, frame), Some(old));
        self.note_expiry(collection, frame, old.fields.expires_ms, 0);
        self.note_session(collection, frame, Some(old), None);
        self.changes.push(Change::Removed { collection, frame });
    }

    /// Notes the greatest position of a call: the shard gives greater ones from then on.
    fn note_position(&mut self, position: Option<Position>) -> Result<(), EngineError> {
        let micros = position.map_or(0, Position::micros);
        let last = match self.last_position {
            Some(last) => last,
            None => last_position(self.txn.get(record::LAST_POSITION_KEY)?)?,
        };
        self.last_position = Some(last.max(micros));
        if micros > last {
            self.txn.put(record::LAST_POSITION_KEY, micros.to_be_bytes().to_vec());
        }
        Ok(())
    }

    /// Notes a frame among those of its session, in the place of where it was.
    fn note_session(
        &mut self,
        collection: CollectionId,
        frame: FrameId,
        old: Option<&FrameRecord>,
        new: Option<&FrameRecord>,
    ) {
        let key = |of: &FrameRecord| {
            let FrameFields { session, position, .. } = &of.fields;
            session.as_ref().map(|session| record::session_key(collection, session, *position, frame))
        };
        if let Some(key) = old.and_then(key) {
            self.txn.delete(&key);
        }
        if let Some((key, new)) = new.and_then(|new| Some((key(new)?, new))) {
            self.txn.put(&key, new.fields.created_ms.to_be_bytes().to_vec());
        }
    }

    /// Notes when a frame will be over, in the place of when it would have been; 0 = never.
    fn note_expiry(&mut self, collection: CollectionId, frame: FrameId, old_ms: u64, new_ms: u64) {
        if old_ms != 0 && old_ms != new_ms {
            self.txn.delete(&record::expiry_key(collection, old_ms, frame));
        }
        if new_ms != 0 {
            self.txn.put(&record::expiry_key(collection, new_ms, frame), Bytes::new());
        }
    }

    /// Notes whether a frame is a chunk.
    fn note_chunk(
        &mut self,
        collection: CollectionId,
        frame: FrameId,
        old: Option<&FrameRecord>,
        new: Option<&FrameRecord>,
    ) {
        let is_chunk = |record: Option<&FrameRecord>| record.is_some_and(|record| record.fields.class == Class::Chunk);
        if is_chunk(new) {
            self.note_needed(collection, frame);
        } else if is_chunk(old) {
            self.txn.delete(&record::chunk_key(collection, frame));
        }
    }

    /// Notes which chunks a version of a frame refers to: they stay as long as it is there, current or past.
    pub(super) fn put_references(&mut self, (collection, frame): Place, record: &FrameRecord) {
        let fields = &record.fields;
        if !fields.chunks.is_empty() {
            let ids: Vec<u8> = fields.chunks.iter().flat_map(|chunk| chunk.to_be_bytes()).collect();
            self.txn.put(&record::references_key(collection, frame, fields.version), ids);
        }
    }

    /// Notes that a version refers to chunks no more.
    fn drop_references(&mut self, (collection, frame): Place, old: Option<&FrameRecord>) {
        if let Some(old) = old.filter(|old| !old.fields.chunks.is_empty()) {
            self.txn.delete(&record::references_key(collection, frame, old.fields.version));
        }
    }

    /// Notes that a chunk is needed as of now: it was stored, stored again, or brought here.
    pub(super) fn note_needed(&mut self, collection: CollectionId, chunk: FrameId) {
        self.txn.put(&record::chunk_key(collection, chunk), self.at.time_ms.to_be_bytes().to_vec());
    }

    /// Notes what became of a private frame, for its owner's searches.
    pub(super) fn note_owned(
        &mut self,
        collection: CollectionId,
        owner: &[u8; 16],
        frame: FrameId,
        owned: Option<OwnedFrame>,
    ) {
        let key = record::owned_key(collection, owner, frame);
        match owned {
            Some(owned) => self.txn.put(&key, owned.encode()),
            None => self.txn.delete(&key),
        }
        self.txn.put(&record::owner_changed_key(collection, owner), self.at.index.to_be_bytes().to_vec());
    }

    /// Changes the number of a collection's frames.
    pub(super) fn add_to_count(&mut self, collection: CollectionId, change: i64) -> Result<(), EngineError> {
        if change == 0 {
            return Ok(());
        }
        let key = record::count_key(collection);
        let count = decode_count(self.txn.get(&key)?.as_deref())?;
        let count =
            count.checked_add_signed(change).ok_or_else(|| EngineError::Damaged("frame count below zero".into()))?;
        self.txn.put(&key, count.to_be_bytes().to_vec());
        Ok(())
    }
}

/// What a frame of this class adds to the number of frames: those that callers stored count.
pub(super) fn counted(class: Option<Class>) -> i64 {
    i64::from(class == Some(Class::Memory))
}

/// The greatest position of a call as it is stored, microseconds; none is zero.
pub(crate) fn last_position(stored: Option<Bytes>) -> Result<u64, EngineError> {
    stored.map_or(Ok(0), |stored| record::parse_number(&stored))
}

/// Reads a stored count; none is zero.
pub fn decode_count(stored: Option<&[u8]>) -> Result<u64, EngineError> {
    let Some(stored) = stored else { return Ok(0) };
    stored.try_into().map(u64::from_be_bytes).map_err(|_| EngineError::Damaged("frame count of wrong size".into()))
}
