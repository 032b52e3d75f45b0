//! The applied state of a group: where it lies in the engine, and how it is read and changed.
//!
//! All groups of a node share one engine. A key is
//!
//! | bytes | what |
//! |---|---|
//! | 4 | group, big-endian |
//! | 4 | generation, big-endian; 0 holds the group's control records |
//! | 1 | table: 0 replication's own records, 1 the application's keys |
//! | rest | key |
//!
//! A generation is one whole copy of the state. A snapshot is received into a fresh generation and becomes the live one
//! in the batch that names it so; until then nobody reads it, afterwards nobody reads the old one. So a half-received
//! snapshot is never seen, and an interrupted one can go on where it stopped.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::codec::{decode_record, encode_record};
use crate::engine::{Batch, Durability, Engine, EngineError, KeyBounds, KeyRange, Read, Visitor};
use crate::types::{GroupId, LogId, Membership, index_of};

mod txn;

pub(crate) use txn::Overlay;
pub use txn::Txn;

pub(crate) const OWN_TABLE: u8 = 0;
pub(crate) const APP_TABLE: u8 = 1;

/// Control record: the number of the live generation.
const LIVE: &[u8] = b"live";
/// Control record: progress of a snapshot on its way in.
const INCOMING: &[u8] = b"incoming";
/// In table 0 of each generation: the position applied, and what goes with it.
const APPLIED: &[u8] = b"applied";

/// The prefix of one table of one generation.
pub(crate) fn table_prefix(group: GroupId, generation: u32, table: u8) -> Vec<u8> {
    let mut prefix = generation_prefix(group, generation);
    prefix.push(table);
    prefix
}

pub(crate) fn generation_prefix(group: GroupId, generation: u32) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(48);
    prefix.extend(group.to_be_bytes());
    prefix.extend(generation.to_be_bytes());
    prefix
}

pub(crate) fn control_key(group: GroupId, name: &[u8]) -> Vec<u8> {
    let mut key = table_prefix(group, 0, OWN_TABLE);
    key.extend(name);
    key
}

/// The smallest key greater than every key that starts with `prefix`; empty if there is none.
pub(crate) fn successor(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            return prefix;
        }
        prefix.pop();
    }
    prefix
}

/// Replication's own record of a generation, committed in the same batch as what it speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Applied {
    pub last: Option<LogId>,
    pub membership: Membership,
    /// The log-carried clock.
    pub clock_ms: u64,
}

impl Applied {
    pub(crate) fn load(engine: &dyn Read, group: GroupId, generation: u32) -> Result<Self, EngineError> {
        let bytes = engine.get(&Self::key(group, generation))?;
        bytes.map_or_else(|| Ok(Self::default()), |bytes| damaged_unless(decode_record(&bytes), "applied position"))
    }

    pub(crate) fn save(&self, batch: &mut Batch, group: GroupId, generation: u32) {
        batch.put(Self::key(group, generation), encode_record(self));
    }

    fn key(group: GroupId, generation: u32) -> Vec<u8> {
        let mut key = table_prefix(group, generation, OWN_TABLE);
        key.extend(APPLIED);
        key
    }
}

pub(crate) fn damaged_unless<T>(result: Result<T, crate::codec::CodecError>, what: &str) -> Result<T, EngineError> {
    result.map_err(|error| EngineError::Damaged(format!("{what}: {error}")))
}

/// The number of the live generation, if the group exists.
pub(crate) fn live_generation(engine: &dyn Read, group: GroupId) -> Result<Option<u32>, EngineError> {
    let bytes = engine.get(&control_key(group, LIVE))?;
    bytes.map(|bytes| damaged_unless(decode_record(&bytes), "live generation")).transpose()
}

/// One group's state in the engine, shared by the applier and all readers.
pub(crate) struct GroupState {
    pub engine: Arc<dyn Engine>,
    pub group: GroupId,
    /// The live generation. Readers hold it while they read, an installation while it switches.
    live: RwLock<u32>,
    /// Apart from the lock: applying must not wait for a long scan.
    applied_index: AtomicU64,
    /// The log-carried clock as of that entry.
    clock_ms: AtomicU64,
    /// Whether the group was closed. Held shared by every write, so that none ends after [`Self::close`] returned.
    closed: RwLock<bool>,
}

impl GroupState {
    /// Opens the group's state, making it if it is new, and removes what an interrupted install left behind.
    pub(crate) fn open(engine: Arc<dyn Engine>, group: GroupId) -> Result<Arc<Self>, EngineError> {
        let mut batch = Batch::default();
        let generation = match live_generation(engine.as_ref(), group)? {
            Some(generation) => generation,
            None => {
                batch.put(control_key(group, LIVE), encode_record(&1u32));
                1
            }
        };
        let incoming = Incoming::load(engine.as_ref(), group)?.map(|incoming| incoming.generation);
        for range in leftovers(group, generation, incoming) {
            batch.delete_range(range.from, range.to);
        }
        engine.write(&batch, Durability::Buffered)?;
        let applied = Applied::load(engine.as_ref(), group, generation)?;
        let applied_index = AtomicU64::new(index_of(applied.last.as_ref()));
        let (live, clock_ms) = (RwLock::new(generation), AtomicU64::new(applied.clock_ms));
        Ok(Arc::new(Self { engine, group, live, applied_index, clock_ms, closed: RwLock::new(false) }))
    }

    /// The groups with a state in `engine`, in order.
    pub(crate) fn groups(engine: &dyn Engine) -> Result<Vec<GroupId>, EngineError> {
        let mut groups = Vec::new();
        let mut from = Vec::new();
        loop {
            let mut next = None;
            engine.scan(Bound::Included(&from), Bound::Unbounded, false, &mut |key, _| {
                next = key.get(..4).map(|group| GroupId::from_be_bytes(group.try_into().expect("four bytes")));
                ControlFlow::Break(())
            })?;
            let Some(group) = next else { return Ok(groups) };
            groups.push(group);
            let Some(after) = group.checked_add(1) else { return Ok(groups) };
            from = after.to_be_bytes().to_vec();
        }
    }

    /// Removes the whole state of a group, durably.
    pub(crate) fn destroy(engine: &dyn Engine, group: GroupId) -> Result<(), EngineError> {
        let range = Self::range(group);
        let mut batch = Batch::default();
        batch.delete_range(range.from, range.to);
        engine.write(&batch, Durability::Synced)
    }

    /// The keys of a group.
    pub(crate) fn range(group: GroupId) -> KeyRange {
        let to = group.checked_add(1).map_or_else(|| vec![u8::MAX; 64], |next| next.to_be_bytes().to_vec());
        KeyRange { from: group.to_be_bytes().to_vec(), to }
    }

    pub(crate) fn generation(&self) -> u32 {
        *self.live.read_recursive()
    }

    /// A view of this moment, and the generation that is live in it.
    pub(crate) fn view_live(&self) -> (Arc<dyn Read>, u32) {
        let live = self.live.read_recursive();
        (self.engine.view(), *live)
    }

    pub(crate) fn applied_index(&self) -> u64 {
        self.applied_index.load(Ordering::Acquire)
    }

    /// Writes to the engine, unless the group was closed.
    pub(crate) fn write(&self, batch: &Batch, durability: Durability) -> Result<(), EngineError> {
        let closed = self.closed.read();
        if *closed {
            return Err(EngineError::Io(format!("group {} is closed", self.group)));
        }
        self.engine.write(batch, durability)
    }

    /// Ends all writing. Whoever opens the group again finds a state that only it changes: a replica that was waiting
    /// for room on a full disk would otherwise write an old batch over it.
    pub(crate) fn close(&self) {
        *self.closed.write() = true;
    }

    /// Makes a batch of the live generation visible. It counts as applied with [`advance`](Self::advance).
    pub(crate) fn commit(&self, batch: &Batch) -> Result<(), EngineError> {
        self.write(batch, Durability::Buffered)
    }

    /// Lets readers that wait for what was applied go on. What is derived from the state must know of the change before:
    /// a search that waits for an index expects to find what was stored there.
    pub(crate) fn advance(&self, applied: &Applied) {
        self.clock_ms.store(applied.clock_ms, Ordering::Relaxed);
        self.applied_index.store(index_of(applied.last.as_ref()), Ordering::Release);
    }

    /// The log-carried clock as of what is applied.
    pub(crate) fn clock_ms(&self) -> u64 {
        self.clock_ms.load(Ordering::Relaxed)
    }

    /// Makes `generation` the live one, durably, and drops every other. Waits for reads under way, so that none of them
    /// sees the old generation while it goes. Its state counts as applied with [`advance`](Self::advance).
    pub(crate) fn install(&self, generation: u32) -> Result<Applied, EngineError> {
        let applied = Applied::load(self.engine.as_ref(), self.group, generation)?;
        let mut live = self.live.write();
        let mut batch = Batch::default();
        batch.put(control_key(self.group, LIVE), encode_record(&generation));
        batch.delete(control_key(self.group, INCOMING));
        for range in leftovers(self.group, generation, None) {
            batch.delete_range(range.from, range.to);
        }
        self.write(&batch, Durability::Synced)?;
        *live = generation;
        Ok(applied)
    }

    /// A generation that nothing uses.
    pub(crate) fn fresh_generation(&self) -> Result<u32, EngineError> {
        let incoming = Incoming::load(self.engine.as_ref(), self.group)?.map_or(0, |incoming| incoming.generation);
        let newest = self.generation().max(incoming);
        newest.checked_add(1).ok_or_else(|| EngineError::Damaged("generations are used up".into()))
    }
}

/// Key ranges of the group's generations other than `live` and `incoming`.
fn leftovers(group: GroupId, live: u32, incoming: Option<u32>) -> Vec<KeyRange> {
    let mut kept: Vec<u32> = [Some(0), Some(live), incoming].into_iter().flatten().collect();
    kept.sort_unstable();
    kept.dedup();
    let mut ranges = Vec::new();
    for (position, &generation) in kept.iter().enumerate() {
        let Some(from) = generation.checked_add(1) else { continue };
        match kept.get(position + 1) {
            Some(&next) if next == from => {}
            Some(&next) => {
                ranges.push(KeyRange { from: generation_prefix(group, from), to: generation_prefix(group, next) });
            }
            None => {
                let to = successor(generation_prefix(group, u32::MAX));
                ranges.push(KeyRange { from: generation_prefix(group, from), to });
            }
        }
    }
    ranges.retain(|range| range.from < range.to);
    ranges
}

/// How far a snapshot on its way in has come; written in the same batch as what it counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Incoming {
    pub snapshot: u128,
    pub generation: u32,
    /// Chunks written.
    pub chunks: u64,
    /// Pairs written.
    pub pairs: u64,
    /// Hash of the chunks so far, each with its predecessors.
    pub chain: [u8; 16],
}

impl Incoming {
    pub(crate) fn load(engine: &dyn Read, group: GroupId) -> Result<Option<Self>, EngineError> {
        let bytes = engine.get(&control_key(group, INCOMING))?;
        bytes.map(|bytes| damaged_unless(decode_record(&bytes), "snapshot progress")).transpose()
    }

    pub(crate) fn save(&self, batch: &mut Batch, group: GroupId) {
        batch.put(control_key(group, INCOMING), encode_record(self));
    }
}

/// Reads one group's application state. Cheap to clone.
///
/// It reads the live generation, whatever was applied last; two reads may see different states. For several reads of
/// one moment take a [`view`](Self::view).
#[derive(Clone)]
pub struct StateReader(Source);

#[derive(Clone)]
enum Source {
    Live(Arc<GroupState>),
    View { read: Arc<dyn Read>, prefix: Arc<[u8]>, applied_index: u64, clock_ms: u64 },
}

impl StateReader {
    pub(crate) fn live(state: Arc<GroupState>) -> Self {
        Self(Source::Live(state))
    }

    /// Index of the last entry in what this reader sees.
    pub fn applied_index(&self) -> u64 {
        match &self.0 {
            Source::Live(state) => state.applied_index(),
            Source::View { applied_index, .. } => *applied_index,
        }
    }

    /// The log-carried time of a view; none of a live reader, whose time goes on.
    pub fn clock_ms(&self) -> Option<u64> {
        match &self.0 {
            Source::Live(_) => None,
            Source::View { clock_ms, .. } => Some(*clock_ms),
        }
    }

    /// A reader of this moment, which later writes do not change. Cheap to take and to keep for minutes. It is for reading
    /// much of the state once: what it scans is kept in no cache.
    ///
    /// # Errors
    /// When the record of the applied position cannot be read.
    pub fn view(&self) -> Result<StateReader, EngineError> {
        self.view_of(|engine| engine.view())
    }

    /// The same for a request, which reads little, and what others read too.
    ///
    /// # Errors
    /// When the record of the applied position cannot be read.
    pub fn cached_view(&self) -> Result<StateReader, EngineError> {
        self.view_of(|engine| engine.cached_view())
    }

    fn view_of(&self, view: impl FnOnce(&dyn Engine) -> Arc<dyn Read>) -> Result<StateReader, EngineError> {
        let Source::Live(state) = &self.0 else { return Ok(self.clone()) };
        let live = state.live.read_recursive();
        let read = view(state.engine.as_ref());
        // The record, not the number in memory: it is part of what the view holds.
        let applied = Applied::load(read.as_ref(), state.group, *live)?;
        Ok(Self(Source::View {
            read,
            prefix: table_prefix(state.group, *live, APP_TABLE).into(),
            applied_index: index_of(applied.last.as_ref()),
            clock_ms: applied.clock_ms,
        }))
    }

    /// The value at `key`.
    ///
    /// # Errors
    /// When the engine cannot read it.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.with(|read, prefix| read.get(&join(prefix, key)))
    }

    /// The values at `keys`, in their order.
    ///
    /// # Errors
    /// When the engine cannot read one of them.
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Bytes>>, EngineError> {
        self.with(|read, prefix| {
            let keys: Vec<Vec<u8>> = keys.iter().map(|key| join(prefix, key.as_ref())).collect();
            read.multi_get(&keys)
        })
    }

    /// Visits the pairs between the bounds in key order, upwards (or downwards if `reverse`), until the visitor breaks.
    ///
    /// On a live reader an installation of a snapshot waits for the end of the scan: take a view for long ones.
    ///
    /// # Errors
    /// When the engine cannot read on.
    pub fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError> {
        self.with(|read, prefix| scan_table(read, prefix, KeyBounds { from, to }, reverse, visit))
    }

    /// Visits the pairs whose keys start with `start`.
    ///
    /// # Errors
    /// When the engine cannot read on.
    pub fn scan_prefix(&self, start: &[u8], reverse: bool, visit: &mut Visitor<'_>) -> Result<(), EngineError> {
        let end = successor(start.to_vec());
        let to = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(&end[..]) };
        self.scan(Bound::Included(start), to, reverse, visit)
    }

    /// Where the engine has the keys that start with `start`.
    pub(crate) fn range_of(&self, start: &[u8]) -> KeyRange {
        let from = self.with(|_, prefix| join(prefix, start));
        KeyRange { from: from.clone(), to: successor(from) }
    }

    fn with<T>(&self, read: impl FnOnce(&dyn Read, &[u8]) -> T) -> T {
        match &self.0 {
            Source::Live(state) => {
                // Recursive: a visitor may read through the same reader while an installation waits to write.
                let live = state.live.read_recursive();
                read(state.engine.as_ref(), &table_prefix(state.group, *live, APP_TABLE))
            }
            Source::View { read: view, prefix, .. } => read(view.as_ref(), prefix),
        }
    }
}

pub(crate) fn join(prefix: &[u8], key: &[u8]) -> Vec<u8> {
    [prefix, key].concat()
}

/// Scans one table, giving the visitor keys without the prefix.
pub(crate) fn scan_table(
    read: &dyn Read,
    prefix: &[u8],
    keys: KeyBounds<'_>,
    reverse: bool,
    visit: &mut Visitor<'_>,
) -> Result<(), EngineError> {
    let low = match keys.from {
        Bound::Included(key) => Bound::Included(join(prefix, key)),
        Bound::Excluded(key) => Bound::Excluded(join(prefix, key)),
        Bound::Unbounded => Bound::Included(prefix.to_vec()),
    };
    let high = match keys.to {
        Bound::Included(key) => Bound::Included(join(prefix, key)),
        Bound::Excluded(key) => Bound::Excluded(join(prefix, key)),
        Bound::Unbounded => Bound::Excluded(successor(prefix.to_vec())),
    };
    let skip = prefix.len();
    read.scan(as_slice(&low), as_slice(&high), reverse, &mut |key, value| visit(&key[skip..], value))
}

pub(crate) fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}
