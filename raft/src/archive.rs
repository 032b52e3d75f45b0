//! Entries of a group's log outside of it: how they are taken out, and how a state of an earlier moment is made of them.
//!
//! A state as of one entry, and the entries behind it, give the state as of any of these: a [`Replay`] applies them by the
//! very rules of a replica. What those rules read beside the application's keys is in a [`Start`]: the log-carried clock, and
//! which requests are remembered. Of these the answers are left out, which nobody asks for any more.
//!
//! A replay relies on getting every entry from its start on, once each and in order, and refuses a hole.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::applier::Applier;
use crate::codec::{decode_entry, decode_record, encode_entry, encode_record};
use crate::engine::{Batch, Durability, Engine, EngineError, Read};
use crate::requests::{self, Known, RequestWindow};
use crate::state::{Applied, GroupState, Overlay, StateReader, Txn, damaged_unless};
use crate::state_machine::StateMachine;
use crate::types::{Entry, GroupId, Payload, index_of};

/// Bytes and entries that are committed together.
const BATCH_BYTES: usize = 4 << 20;
const BATCH_ENTRIES: usize = 512;
/// The group that a replayed state has in its engine, which holds no other.
const REPLAYED: GroupId = 1;

/// What a replay must know of the moment that it begins at.
#[derive(Debug, Clone)]
pub struct Start {
    /// The last entry applied.
    pub index: u64,
    /// The log-carried clock.
    pub clock_ms: u64,
    /// All of it, for [`Replay::begin`].
    pub encoded: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) applied: Applied,
    pub(crate) requests: Vec<Known>,
}

impl Start {
    pub(crate) fn read(state: &GroupState) -> Result<Self, EngineError> {
        // One view: the clock and the requests are of one moment.
        let (read, generation) = state.view_live();
        let applied = Applied::load(read.as_ref(), state.group, generation)?;
        let requests = requests::known(read.as_ref(), state.group, generation)?;
        let (index, clock_ms) = (index_of(applied.last.as_ref()), applied.clock_ms);
        Ok(Self { index, clock_ms, encoded: encode_record(&Record { applied, requests }) })
    }
}

/// Entries of a log, in order and without holes.
#[derive(Debug, Clone, Default)]
pub struct Archived {
    /// The entry before the first of them. Later than asked for when the log has no more of what was.
    pub after: u64,
    /// The last of them; `after` when there are none.
    pub upto: u64,
    /// The latest time that one of them carries; 0 when none does.
    pub time_ms: u64,
    /// As they lie in the log.
    pub entries: Vec<Bytes>,
    /// What was proposed with them.
    pub payloads: Vec<Bytes>,
}

impl Archived {
    pub(crate) fn of(after: u64, entries: Vec<Entry>) -> Self {
        let first = entries.first().map_or(after, |entry| entry.log_id.index.saturating_sub(1));
        let mut archived = Archived { after: first.max(after), upto: first.max(after), ..Archived::default() };
        for entry in entries {
            archived.upto = entry.log_id.index;
            archived.entries.push(encode_entry(&entry));
            if let Payload::Normal(proposal) = entry.payload {
                archived.time_ms = archived.time_ms.max(proposal.time_ms);
                archived.payloads.extend(proposal.requests.into_iter().map(|request| request.payload));
            }
        }
        archived
    }
}

/// What became of an entry that was replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replayed {
    /// It was applied.
    Applied,
    /// The state had it.
    Known,
    /// It is later than the moment that is wanted, and so is everything behind it.
    Later,
}

/// How a replay applies entries.
#[derive(Debug, Clone, Copy)]
pub struct ReplayOptions {
    /// What the group remembers of requests.
    pub window: RequestWindow,
    /// Entries whose log-carried time is later are not applied.
    pub until_ms: u64,
}

/// Makes the state of a moment out of an earlier one and archived entries.
pub struct Replay {
    state: Arc<GroupState>,
    applier: Applier,
    app: Arc<dyn StateMachine>,
    overlay: Overlay,
    /// Entries in `overlay`.
    entries: usize,
    until_ms: u64,
}

impl Replay {
    /// Begins over an empty engine, with what [`Start::encoded`] says.
    ///
    /// # Errors
    /// When the engine fails or holds something, or `start` is damaged.
    pub fn begin(
        engine: Arc<dyn Engine>,
        start: &[u8],
        options: ReplayOptions,
        app: Arc<dyn StateMachine>,
    ) -> Result<Self, EngineError> {
        if !GroupState::groups(engine.as_ref())?.is_empty() {
            return Err(EngineError::Io("a replay needs an empty engine".into()));
        }
        let record: Record = damaged_unless(decode_record(start), "start of a replay")?;
        let state = GroupState::open(engine, REPLAYED)?;
        let mut batch = Batch::default();
        record.applied.save(&mut batch, REPLAYED, state.generation());
        requests::put_known(&mut batch, REPLAYED, state.generation(), &record.requests);
        state.commit(&batch)?;
        let applier = Applier::load(&state, options.window)?;
        state.advance(&applier.applied);
        Ok(Self { state, applier, app, overlay: Overlay::default(), entries: 0, until_ms: options.until_ms })
    }

    /// The last entry applied.
    pub fn applied_index(&self) -> u64 {
        index_of(self.applier.applied.last.as_ref())
    }

    /// Changes the application's keys beside the log: puts there what the replay begins with.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn put<T>(&mut self, change: impl FnOnce(&mut Txn<'_>) -> Result<T, EngineError>) -> Result<T, EngineError> {
        let read: &dyn Read = self.state.engine.as_ref();
        let done = change(&mut self.applier.txn(read, &mut self.overlay))?;
        self.commit_full()?;
        Ok(done)
    }

    /// Applies an entry.
    ///
    /// # Errors
    /// When it is damaged or not the next one, or the engine fails.
    pub fn apply(&mut self, entry: &Bytes) -> Result<Replayed, EngineError> {
        let entry = damaged_unless(decode_entry(entry.clone()), "archived entry")?;
        let (index, last) = (entry.log_id.index, self.applied_index());
        if index <= last {
            return Ok(Replayed::Known);
        }
        if index != last + 1 {
            return Err(EngineError::Damaged(format!("entry {} of the archived log is missing", last + 1)));
        }
        if self.applier.time_of(&entry).is_some_and(|time_ms| time_ms > self.until_ms) {
            return Ok(Replayed::Later);
        }
        let read: &dyn Read = self.state.engine.as_ref();
        // The answer was for whoever proposed it.
        let _ = self.applier.apply(&entry, self.app.as_ref(), read, &mut self.overlay)?;
        self.entries += 1;
        self.commit_full()?;
        Ok(Replayed::Applied)
    }

    /// Reads the state, with everything applied so far.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn reader(&mut self) -> Result<StateReader, EngineError> {
        self.commit()?;
        Ok(StateReader::live(self.state.clone()))
    }

    fn commit_full(&mut self) -> Result<(), EngineError> {
        let full = self.overlay.bytes >= BATCH_BYTES || self.entries >= BATCH_ENTRIES;
        if full { self.commit() } else { Ok(()) }
    }

    fn commit(&mut self) -> Result<(), EngineError> {
        let mut batch = std::mem::take(&mut self.overlay).batch;
        self.entries = 0;
        self.applier.applied.save(&mut batch, REPLAYED, self.state.generation());
        self.state.engine.write(&batch, Durability::Buffered)?;
        self.app.committed(self.applied_index());
        self.state.advance(&self.applier.applied);
        Ok(())
    }
}
