//! One group's end of the log, in memory.

use std::collections::VecDeque;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use super::weight::Weight;
use super::{KeyKind, checked_entry, decode, key};
use crate::codec::payload_len;
use crate::engine::{Engine, EngineError};
use crate::types::{Entry, GroupId, LogId, Vote};

/// What is known of a group's log without the disk.
pub(super) struct Tail {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
    /// Index of the first entry there is, if any. Not always the one after `purged`: a log may begin anywhere.
    pub first: Option<u64>,
    /// The newest entries, without holes up to `last`.
    pub recent: VecDeque<Entry>,
    pub recent_bytes: usize,
    /// First index of each append that is not yet on disk, oldest first.
    pub pending: VecDeque<u64>,
    /// Bytes of all entries.
    pub weight: Weight,
    /// Counts truncations, so that a read from disk that raced with one is seen and repeated.
    pub truncations: u64,
}

impl Tail {
    pub fn load(engine: &dyn Engine, group: GroupId, piece_bytes: u64) -> Result<Self, EngineError> {
        let record = |kind| engine.get(&key(kind, group, 0));
        let vote = record(KeyKind::Vote)?.map(|bytes| decode(&bytes, "vote")).transpose()?;
        let committed = record(KeyKind::Committed)?.map(|bytes| decode(&bytes, "committed position")).transpose()?;
        let purged: Option<LogId> =
            record(KeyKind::Purged)?.map(|bytes| decode(&bytes, "purged position")).transpose()?;
        let oldest = Self::end(engine, group, false)?;
        let last = Self::last(engine, group)?;
        Ok(Self {
            vote,
            committed,
            first: oldest.map(|id| id.index),
            last,
            purged,
            recent: VecDeque::new(),
            recent_bytes: 0,
            pending: VecDeque::new(),
            weight: Self::weigh(engine, group, piece_bytes)?,
            truncations: 0,
        })
    }

    /// The last entry that there is, or was.
    pub fn last(engine: &dyn Engine, group: GroupId) -> Result<Option<LogId>, EngineError> {
        let purged = engine.get(&key(KeyKind::Purged, group, 0))?;
        let purged: Option<LogId> = purged.map(|bytes| decode(&bytes, "purged position")).transpose()?;
        Ok(Self::end(engine, group, true)?.max(purged))
    }

    /// The index of the last entry on disk, whether it can be read or not.
    pub fn last_index(engine: &dyn Engine, group: GroupId) -> Result<Option<u64>, EngineError> {
        let (from, to) = (key(KeyKind::Entry, group, 0), key(KeyKind::Entry, group, u64::MAX));
        let mut found = None;
        engine.scan(Bound::Included(&from), Bound::Included(&to), true, &mut |key, _| {
            found = key.get(5..13).map(|index| u64::from_be_bytes(index.try_into().expect("eight bytes")));
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// The first or the last entry on disk.
    fn end(engine: &dyn Engine, group: GroupId, last: bool) -> Result<Option<LogId>, EngineError> {
        let (from, to) = (key(KeyKind::Entry, group, 0), key(KeyKind::Entry, group, u64::MAX));
        let mut found = None;
        engine.scan(Bound::Included(&from), Bound::Included(&to), last, &mut |_, value| {
            found = Some(Bytes::copy_from_slice(value));
            ControlFlow::Break(())
        })?;
        found.map(|bytes| Ok(checked_entry(bytes, group)?.log_id)).transpose()
    }

    /// The bytes of what is on disk.
    fn weigh(engine: &dyn Engine, group: GroupId, piece_bytes: u64) -> Result<Weight, EngineError> {
        let (from, to) = (key(KeyKind::Entry, group, 0), key(KeyKind::Entry, group, u64::MAX));
        let mut weight = Weight::new(piece_bytes);
        engine.scan(Bound::Included(&from), Bound::Included(&to), false, &mut |key, value| {
            if let Some(index) = key.get(5..13) {
                weight
                    .push(u64::from_be_bytes(index.try_into().expect("eight bytes")), (key.len() + value.len()) as u64);
            }
            ControlFlow::Continue(())
        })?;
        Ok(weight)
    }

    pub fn first_index(&self) -> u64 {
        self.first.unwrap_or(self.next_index())
    }

    pub fn next_index(&self) -> u64 {
        self.last.as_ref().map_or(0, |id| id.index + 1)
    }

    pub fn first_recent(&self) -> u64 {
        self.recent.front().map_or(self.next_index(), |entry| entry.log_id.index)
    }

    pub fn append(&mut self, entry: Entry, stored_bytes: u64) {
        debug_assert!(
            self.last.is_none() || entry.log_id.index == self.next_index(),
            "no holes: {} after {:?}",
            entry.log_id,
            self.last
        );
        self.first.get_or_insert(entry.log_id.index);
        self.last = Some(entry.log_id.clone());
        self.recent_bytes += payload_len(&entry);
        self.weight.push(entry.log_id.index, stored_bytes);
        self.recent.push_back(entry);
    }

    /// Drops old entries beyond the budget; those not yet on disk stay.
    pub fn trim(&mut self, budget: usize) {
        let unflushed = self.pending.iter().min().copied().unwrap_or(u64::MAX);
        while self.recent_bytes > budget
            && let Some(entry) = self.recent.front()
            && entry.log_id.index < unflushed
        {
            self.recent_bytes -= payload_len(entry);
            self.recent.pop_front();
        }
    }

    pub fn truncate_after(&mut self, keep: Option<LogId>) {
        let keep_index = keep.as_ref().map(|id| id.index);
        while let Some(entry) = self.recent.back()
            && Some(entry.log_id.index) > keep_index
        {
            self.recent_bytes -= payload_len(entry);
            self.recent.pop_back();
        }
        self.first = self.first.filter(|first| Some(*first) <= keep_index);
        self.weight.truncate_after(keep_index);
        self.last = keep.min(self.last.take()).max(self.purged.clone());
        self.truncations += 1;
    }

    pub fn purge(&mut self, upto: LogId) {
        while let Some(entry) = self.recent.front()
            && entry.log_id.index <= upto.index
        {
            self.recent_bytes -= payload_len(entry);
            self.recent.pop_front();
        }
        self.weight.purge(upto.index);
        self.last = self.last.take().max(Some(upto.clone()));
        let last = self.last.as_ref().map(|id| id.index);
        self.first = self.first.map(|first| first.max(upto.index + 1)).filter(|first| Some(*first) <= last);
        self.purged = Some(upto);
    }
}
