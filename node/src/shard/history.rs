//! Past versions of frames in a shard's state, and frames that rest in the bin.
//!
//! | key (big-endian numbers) | value |
//! |---|---|
//! | `p` collection 8, frame 16, version 8 | a past version: sealed vectors and [`FrameRecord`], as they were |
//! | `l` collection 8, frame 16 | [`History`]: what is to be known of all past versions of a frame |
//! | `d` collection 8, time 8, frame 16 | empty: when the past version ended that has ended longest ago |
//! | `b` collection 8, time 8, frame 16 | empty: when what rests longest was forgotten |
//! | `m` collection 8 | [`VersionBound`]: how many past versions a frame has at most |
//!
//! A frame in the bin has a head, of class [`super::record::Class::Binned`], and its newest version is the last one of its
//! history: walks over heads find it, whatever shows frames does not, because it has no record. A past version stays sealed
//! as it was, bound to its fields and its number.
//!
//! How long is the collection's to say ([`Retention`]), and may change: so the tables say when something ended, never
//! until when it is kept. A past version goes with the oldest first when there are more than `last`, or more bytes than
//! [`limits::MAX_FRAME_BYTES`]; when it ended longer ago than `days`; and with its own time of expiry. A frame in the bin
//! goes, with all its versions, when it was forgotten longer ago than `bin_days`. One that is stored again meanwhile leaves
//! the bin; what was forgotten of it is among its past versions, and goes no later than it would have gone in the bin. Why
//! so: ADR 22.

use bytes::Bytes;
use mira_proto::{CollectionId, Extensions, FrameId, limits, node_v1};
use mira_raft::{EngineError, StateReader};
use serde::{Deserialize, Serialize};

use crate::shard::{
    command::MigratedFrame,
    record::{self, FrameRecord, Table},
};

const HISTORY_VERSION: u8 = 1;
const PAST_VERSION: u8 = 1;
const BOUND_VERSION: u8 = 1;
const DAY_MS: u64 = 24 * 3_600 * 1_000;
/// What a past version takes beside its sealed parts, about.
const HEAD_BYTES: usize = 256;

/// How much of the past of its frames a collection keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Past versions of a frame; 0 = none.
    pub last: u32,
    /// Days for which a past version is kept; 0 = none is kept.
    pub days: u32,
    /// Days for which forgotten frames rest; 0 = there is no bin.
    pub bin_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Retention {
            last: limits::DEFAULT_VERSIONS,
            days: limits::DEFAULT_VERSION_DAYS,
            bin_days: limits::DEFAULT_BIN_DAYS,
        }
    }
}

impl Retention {
    /// Past versions of a frame at most.
    pub fn versions(&self) -> u32 {
        if self.days == 0 { 0 } else { self.last }
    }

    /// How long forgotten frames rest, milliseconds; none if they do not.
    pub fn bin_ms(&self) -> Option<u64> {
        (self.bin_days > 0).then(|| u64::from(self.bin_days) * DAY_MS)
    }

    /// What is over at a time.
    pub fn bounds(&self, now_ms: u64) -> HistoryBounds {
        let before = |days: u32| if days == 0 { u64::MAX } else { now_ms.saturating_sub(u64::from(days) * DAY_MS) };
        HistoryBounds {
            last: self.versions(),
            ended_ms: before(if self.last == 0 { 0 } else { self.days }),
            forgotten_ms: before(self.bin_days),
        }
    }

    /// As routers see it.
    pub fn to_wire(&self) -> node_v1::Retention {
        node_v1::Retention { last: Some(self.last), days: Some(self.days), bin_days: Some(self.bin_days) }
    }
}

/// What of the past is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryBounds {
    /// Past versions of a frame that stay.
    pub last: u32,
    /// What ended then or before is over.
    pub ended_ms: u64,
    /// What was forgotten then or before is over.
    pub forgotten_ms: u64,
}

impl HistoryBounds {
    /// Only by number, and by bytes.
    pub fn of_number(last: u32) -> Self {
        HistoryBounds { last, ended_ms: 0, forgotten_ms: 0 }
    }
}

/// When a version ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// When the next one took its place, or it was forgotten, milliseconds.
    pub ended_ms: u64,
    /// When it was forgotten; 0 = it was not, or was brought back.
    pub forgotten_ms: u64,
}

/// What is to be known of a past version without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastHead {
    /// Its number.
    pub version: u64,
    /// When it became current.
    pub since_ms: u64,
    /// When it ended.
    pub ending: Ending,
    /// As in [`record::FrameFields`].
    pub expires_ms: u64,
    /// What it takes.
    pub bytes: u32,
}

impl PastHead {
    /// Of a version that ends.
    pub fn new(record: &FrameRecord, vectors: &[u8], ending: Ending) -> Self {
        let fields = &record.fields;
        PastHead {
            version: fields.version,
            since_ms: fields.updated_ms,
            ending,
            expires_ms: fields.expires_ms,
            bytes: u32::try_from(bytes_of(record, vectors)).unwrap_or(u32::MAX),
        }
    }

    /// Whether it is over its own time.
    pub fn expired(&self, now_ms: u64) -> bool {
        self.expires_ms != 0 && self.expires_ms <= now_ms
    }
}

/// What a version of a frame takes.
pub fn bytes_of(record: &FrameRecord, vectors: &[u8]) -> usize {
    record.body.len() + vectors.len() + size_of::<FrameId>() * record.fields.chunks.len() + HEAD_BYTES
}

/// The past versions of a frame.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When the frame was put into the bin; 0 = it does not rest there. The last version is the one that was current.
    pub binned_ms: u64,
    /// Keyed tag of the frame's owner; all versions have the same.
    pub owner: Option<[u8; 16]>,
    /// The oldest first.
    pub versions: Vec<PastHead>,
    /// What later releases note.
    pub extensions: Extensions,
}

impl History {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![HISTORY_VERSION]).expect("plain data")
    }

    /// Reads the stored form.
    pub fn decode(stored: &[u8]) -> Result<Self, EngineError> {
        match stored.split_first() {
            Some((&HISTORY_VERSION, rest)) => {
                postcard::from_bytes(rest).map_err(|error| EngineError::Damaged(format!("history: {error}")))
            }
            _ => Err(EngineError::Damaged("history of unknown version".into())),
        }
    }

    /// Whether the frame rests in the bin.
    pub fn is_binned(&self) -> bool {
        self.binned_ms != 0
    }

    /// The version that rests in the bin.
    pub fn binned(&self) -> Option<&PastHead> {
        self.versions.last().filter(|_| self.is_binned())
    }

    /// The versions that are past, without the one that rests in the bin.
    pub fn past(&self) -> &[PastHead] {
        &self.versions[..self.versions.len() - usize::from(self.binned().is_some())]
    }

    /// A version of that number.
    pub fn of_version(&self, version: u64) -> Option<&PastHead> {
        self.versions.iter().find(|past| past.version == version)
    }

    /// The version that was current at a time.
    pub fn at(&self, time_ms: u64) -> Option<&PastHead> {
        // The latest of them: two that were stored in one millisecond leave no time to the first.
        let was_current = |past: &&PastHead| past.since_ms <= time_ms && time_ms < past.ending.ended_ms;
        self.versions.iter().rev().find(was_current)
    }

    /// Notes that a version ended.
    pub fn push(&mut self, past: PastHead) {
        self.versions.push(past);
    }

    /// Puts the frame into the bin: all that is there of it was forgotten.
    pub fn bin(&mut self, now_ms: u64) {
        self.binned_ms = now_ms.max(1);
        let forgotten_ms = self.binned_ms;
        let live = self.versions.iter_mut().filter(|past| past.ending.forgotten_ms == 0);
        live.for_each(|past| past.ending.forgotten_ms = forgotten_ms);
    }

    /// Takes the frame out of the bin because it is brought back: what was forgotten with it is not any more.
    pub fn bring_back(&mut self) {
        let binned_ms = std::mem::take(&mut self.binned_ms);
        let with_it = self.versions.iter_mut().filter(|past| past.ending.forgotten_ms == binned_ms);
        with_it.for_each(|past| past.ending.forgotten_ms = 0);
    }

    /// Removes past versions that are over, beside a current one of so many bytes. What rests in the bin is not its to remove.
    pub fn cut(&mut self, bounds: &HistoryBounds, current_bytes: usize) {
        let binned = self.binned().copied();
        let mut past = self.past().to_vec();
        past.retain(|past| {
            let Ending { ended_ms, forgotten_ms } = past.ending;
            ended_ms > bounds.ended_ms && (forgotten_ms == 0 || forgotten_ms > bounds.forgotten_ms)
        });
        let mut bytes = current_bytes + binned.map_or(0, |binned| binned.bytes as usize);
        let fits = |past: &&PastHead| {
            bytes = bytes.saturating_add(past.bytes as usize);
            bytes <= limits::MAX_FRAME_BYTES
        };
        let kept = past.iter().rev().take(bounds.last as usize).take_while(fits).count();
        past.drain(..past.len() - kept);
        past.extend(binned);
        self.versions = past;
    }

    /// Removes versions that are over their own time; what rests in the bin too.
    pub fn expire(&mut self, now_ms: u64) {
        self.versions.retain(|past| !past.expired(now_ms));
    }

    /// When the past version ended that has ended longest ago.
    pub fn oldest_ended(&self) -> Option<u64> {
        self.past().iter().map(|past| past.ending.ended_ms).min()
    }

    /// When what rests longest was forgotten.
    pub fn oldest_forgotten(&self) -> Option<u64> {
        self.versions.iter().map(|past| past.ending.forgotten_ms).filter(|&forgotten_ms| forgotten_ms != 0).min()
    }
}

/// A past version of a frame that moves to another shard, or lies in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastVersion {
    /// When it ended.
    pub ending: Ending,
    /// All that is kept of it.
    pub record: FrameRecord,
    /// Sealed vectors; empty when there are none.
    pub vectors: Bytes,
}

impl PastVersion {
    /// The stored form; [`History`] has its ending.
    pub fn encode(record: &FrameRecord, vectors: &[u8]) -> Vec<u8> {
        let length = (vectors.len() as u32).to_le_bytes();
        [&[PAST_VERSION], &length[..], vectors, &record.encode()].concat()
    }

    /// Reads the stored form: the record and its sealed vectors.
    pub fn decode(stored: &[u8]) -> Result<(FrameRecord, Bytes), EngineError> {
        let damaged = || EngineError::Damaged("past version of unknown version or too short".into());
        let rest = stored.strip_prefix(&[PAST_VERSION]).ok_or_else(damaged)?;
        let (length, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (vectors, record) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(damaged)?;
        Ok((FrameRecord::decode(record)?, Bytes::copy_from_slice(vectors)))
    }
}

/// How many past versions a frame of a collection has in this shard at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionBound {
    /// The number.
    pub last: u32,
    /// Whether all frames are known to keep to it; else those that have more are on their way to be found.
    pub is_kept: bool,
}

impl VersionBound {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![BOUND_VERSION]).expect("plain data")
    }

    /// Reads the stored form.
    pub fn decode(stored: &[u8]) -> Result<Self, EngineError> {
        match stored.split_first() {
            Some((&BOUND_VERSION, rest)) => {
                postcard::from_bytes(rest).map_err(|error| EngineError::Damaged(format!("bound of versions: {error}")))
            }
            _ => Err(EngineError::Damaged("bound of versions of unknown version".into())),
        }
    }
}

/// Key of a past version.
pub fn past_key(collection: CollectionId, frame: FrameId, version: u64) -> [u8; 33] {
    record::version_key(Table::Past, collection, frame, version)
}

/// Key of a frame's [`History`].
pub fn history_key(collection: CollectionId, frame: FrameId) -> [u8; 25] {
    record::pair_key(Table::Histories, collection, frame)
}

/// Key of a collection's [`VersionBound`].
pub fn bound_key(collection: CollectionId) -> [u8; 9] {
    record::collection_prefix(Table::VersionBounds, collection)
}

/// A frame's history; one without past versions has an empty one.
pub(crate) fn read(view: &StateReader, collection: CollectionId, frame: FrameId) -> Result<History, EngineError> {
    let stored = view.get(&history_key(collection, frame))?;
    Ok(stored.map(|stored| History::decode(&stored)).transpose()?.unwrap_or_default())
}

/// A past version that a frame's history names.
pub(crate) fn read_version(
    view: &StateReader,
    collection: CollectionId,
    (frame, past): (FrameId, &PastHead),
) -> Result<PastVersion, EngineError> {
    let stored = view.get(&past_key(collection, frame, past.version))?;
    let lost = || EngineError::Damaged(format!("frame {frame:032x} has lost its version {}", past.version));
    let (record, vectors) = PastVersion::decode(&stored.ok_or_else(lost)?)?;
    Ok(PastVersion { ending: past.ending, record, vectors })
}

/// A frame with its past as it lies in a state; it must have a head there.
pub(crate) fn read_frame(
    view: &StateReader,
    collection: CollectionId,
    frame: FrameId,
) -> Result<MigratedFrame, EngineError> {
    let history = read(view, collection, frame)?;
    let mut past = Vec::with_capacity(history.versions.len());
    for head in &history.versions {
        past.push(read_version(view, collection, (frame, head))?);
    }
    let only_a_head = || EngineError::Damaged(format!("frame {frame:032x} has a head only"));
    if history.is_binned() {
        let PastVersion { ending, record, vectors } = past.pop().ok_or_else(only_a_head)?;
        return Ok(MigratedFrame { frame, record, vectors, binned: Some(ending), past });
    }
    let keys = [record::frame_key(collection, frame), record::vectors_key(collection, frame)];
    let stored = view.multi_get(&keys)?;
    let [Some(stored), vectors] = &stored[..] else { return Err(only_a_head()) };
    let record = FrameRecord::decode(stored)?;
    let vectors = match vectors {
        None => Bytes::new(),
        Some(stored) => Bytes::copy_from_slice(record::decode_vectors(stored)?.1),
    };
    Ok(MigratedFrame { frame, record, vectors, binned: None, past })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(version: u64, since_ms: u64, ended_ms: u64) -> PastHead {
        let ending = Ending { ended_ms, forgotten_ms: 0 };
        PastHead { version, since_ms, ending, expires_ms: 0, bytes: 1_000 }
    }

    fn history() -> History {
        let versions = (1..=5).map(|version| past(version, version * 10, version * 10 + 10)).collect();
        History { versions, ..History::default() }
    }

    fn numbers(history: &History) -> Vec<u64> {
        history.versions.iter().map(|past| past.version).collect()
    }

    #[test]
    fn past_versions_go_by_number_by_age_and_by_bytes_and_the_oldest_go_first() {
        let cut = |bounds: HistoryBounds, bytes| {
            let mut cut = history();
            cut.cut(&bounds, bytes);
            numbers(&cut)
        };
        let by_number = HistoryBounds::of_number;
        assert_eq!(cut(by_number(9), 0), [1, 2, 3, 4, 5]);
        assert_eq!(cut(by_number(2), 0), [4, 5]);
        assert_eq!(cut(by_number(0), 0), [] as [u64; 0]);
        assert_eq!(cut(HistoryBounds { ended_ms: 30, ..by_number(9) }, 0), [3, 4, 5], "1 ended at 20, 2 at 30");
        assert_eq!(cut(HistoryBounds { ended_ms: u64::MAX, ..by_number(9) }, 0), [] as [u64; 0]);
        assert_eq!(cut(by_number(9), limits::MAX_FRAME_BYTES - 3_000), [3, 4, 5]);
        assert_eq!(cut(by_number(9), limits::MAX_FRAME_BYTES + 1), [] as [u64; 0], "the current one alone has more");
    }

    #[test]
    fn what_rests_in_the_bin_is_cut_by_no_bound_of_versions() {
        let mut binned = history();
        binned.bin(100);
        binned.cut(&HistoryBounds { ended_ms: u64::MAX, ..HistoryBounds::of_number(0) }, 0);
        assert_eq!(numbers(&binned), [5]);
        assert_eq!((binned.binned().map(|past| past.version), binned.oldest_ended()), (Some(5), None));
        assert_eq!(binned.oldest_forgotten(), Some(100));
    }

    #[test]
    fn what_was_forgotten_goes_no_later_because_it_was_stored_again() {
        let mut again = history();
        again.bin(100);
        // Stored again: out of the bin, and not brought back.
        again.binned_ms = 0;
        again.push(past(6, 200, 300));
        let bounds = HistoryBounds { forgotten_ms: 99, ..HistoryBounds::of_number(9) };
        let mut early = again.clone();
        early.cut(&bounds, 0);
        assert_eq!(numbers(&early), [1, 2, 3, 4, 5, 6]);
        again.cut(&HistoryBounds { forgotten_ms: 100, ..bounds }, 0);
        assert_eq!(numbers(&again), [6]);
    }

    #[test]
    fn what_is_brought_back_was_not_forgotten_but_what_was_before_is() {
        let mut twice = History { versions: vec![past(1, 10, 20)], ..History::default() };
        twice.bin(50);
        twice.binned_ms = 0;
        twice.push(past(2, 60, 70));
        twice.bin(70);
        twice.bring_back();
        let forgotten: Vec<u64> = twice.versions.iter().map(|past| past.ending.forgotten_ms).collect();
        assert_eq!((forgotten, twice.is_binned()), (vec![50, 0], false));
    }

    #[test]
    fn the_version_of_a_time_was_current_then_and_gaps_have_none() {
        let mut gap = history();
        gap.versions.remove(2);
        let at = |time_ms| gap.at(time_ms).map(|past| past.version);
        assert_eq!(
            [9, 10, 19, 20, 29, 30, 39, 40, 59, 60].map(at),
            [None, Some(1), Some(1), Some(2), Some(2), None, None, Some(4), Some(5), None]
        );
        let same = History { versions: vec![past(1, 10, 10), past(2, 10, 20)], ..History::default() };
        assert_eq!(same.at(10).map(|past| past.version), Some(2), "the first had no time");
    }

    #[test]
    fn bounds_follow_the_settings_and_nothing_kept_is_over_at_once() {
        let now_ms = 400 * DAY_MS;
        let bounds = |last, days, bin_days| Retention { last, days, bin_days }.bounds(now_ms);
        let usual = HistoryBounds { last: 10, ended_ms: 310 * DAY_MS, forgotten_ms: 393 * DAY_MS };
        assert_eq!(Retention::default().bounds(now_ms), usual);
        assert_eq!(bounds(10, 0, 7), HistoryBounds { last: 0, ended_ms: u64::MAX, ..usual });
        assert_eq!(bounds(0, 90, 7), HistoryBounds { last: 0, ended_ms: u64::MAX, ..usual });
        assert_eq!(bounds(10, 90, 0), HistoryBounds { forgotten_ms: u64::MAX, ..usual });
        assert_eq!(bounds(10, 90, 3_650).forgotten_ms, 0, "the clock is younger than that");
    }
}
