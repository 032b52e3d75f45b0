//! Request ids remembered in the replicated state, so that a retried write is applied once.
//!
//! The memory is part of the state: committed in the same batch as the write it guards, carried by snapshots, and
//! bounded by count and by log-carried time. What is forgotten, and when, depends only on the log, so every replica
//! gives the same answer to the same retry.
//!
//! Table 0 holds, for each remembered request,
//! - `r · id (16, big-endian)`: where it was applied, when, its digest, its answer;
//! - `q · index (8, big-endian) · ordinal (4, big-endian)`: its id and time, the queue in which it will be forgotten. The
//!   ordinal is its place among the requests of its log entry.

use std::collections::VecDeque;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::{decode_record, encode_record};
use crate::engine::{Batch, EngineError, KeyBounds, Read};
use crate::state::{OWN_TABLE, Overlay, damaged_unless, scan_table, table_prefix};
use crate::types::{Answer, Fingerprint, GroupId, RequestId};

/// Bounds of what a group remembers. The same on every replica: they decide what the replicated state holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestWindow {
    /// How many requests at most; 40 bytes of memory each.
    pub count: usize,
    /// For how long, in log-carried milliseconds.
    pub millis: u64,
    /// How many of the newest are remembered whatever the time: when a leader's clock jumps ahead, everything is old at
    /// once, and a request that is being retried would be applied a second time.
    pub kept: usize,
    /// Longest answer kept for replay; a longer one is answered with the position only.
    pub response_bytes: usize,
}

impl Default for RequestWindow {
    fn default() -> Self {
        // Ten minutes outlast any sane retry; the count bounds what a busy group's state carries to a few megabytes.
        Self { count: 32_768, millis: 10 * 60 * 1000, kept: 4_096, response_bytes: 16 << 10 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    index: u64,
    time_ms: u64,
    digest: [u8; 16],
    response: Option<Bytes>,
}

/// Where in the log, and in log-carried time, a request was applied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AppliedAt {
    pub index: u64,
    pub ordinal: u32,
    pub time_ms: u64,
}

/// A remembered request without its answer: what tells a repeated proposal from a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    id: RequestId,
    index: u64,
    time_ms: u64,
    digest: [u8; 16],
}

/// What a generation remembers, in the order of being forgotten.
pub(crate) fn known(engine: &dyn Read, group: GroupId, generation: u32) -> Result<Vec<Known>, EngineError> {
    let memory = RequestMemory::load(engine, group, generation, RequestWindow::default())?;
    let lost = |index| EngineError::Damaged(format!("request {index} is queued, but not remembered"));
    let of = |&(Place { index, .. }, Queued { id, time_ms }): &(Place, Queued)| {
        let stored = engine.get(&memory.record_key(id))?.ok_or_else(|| lost(index))?;
        let record: Remembered = damaged_unless(decode_record(&stored), "remembered request")?;
        Ok(Known { id, index, time_ms, digest: record.digest })
    };
    memory.queue.iter().map(of).collect()
}

/// Puts what was [`known`] into an empty generation.
pub(crate) fn put_known(batch: &mut Batch, group: GroupId, generation: u32, known: &[Known]) {
    let memory = RequestMemory {
        prefix: table_prefix(group, generation, OWN_TABLE),
        window: RequestWindow::default(),
        queue: VecDeque::new(),
    };
    let mut before = Place::default();
    for &Known { id, index, time_ms, digest } in known {
        let record = Remembered { index, time_ms, digest, response: None };
        batch.put(memory.record_key(id), encode_record(&record));
        // In the order of their entry; those of them that were forgotten leave no gap.
        let ordinal = if before.index == index { before.ordinal + 1 } else { 0 };
        before = Place { index, ordinal };
        batch.put(memory.queue_key(before), encode_record(&Queued { id, time_ms }));
    }
}

/// Where a request stands in the log.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    index: u64,
    /// Among the requests of its entry.
    ordinal: u32,
}

impl Place {
    /// Of a key of the queue, behind the prefix of its table.
    fn read(key: &[u8]) -> Option<Self> {
        let (index, ordinal) = key.get(1..)?.split_first_chunk()?;
        let ordinal = ordinal.try_into().ok()?;
        Some(Place { index: u64::from_be_bytes(*index), ordinal: u32::from_be_bytes(ordinal) })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Queued {
    id: RequestId,
    time_ms: u64,
}

/// The memory of one generation of one group.
pub(crate) struct RequestMemory {
    prefix: Vec<u8>,
    window: RequestWindow,
    /// In the order of being forgotten, which is the order of the log.
    queue: VecDeque<(Place, Queued)>,
}

impl RequestMemory {
    pub(crate) fn load(
        engine: &dyn Read,
        group: GroupId,
        generation: u32,
        window: RequestWindow,
    ) -> Result<Self, EngineError> {
        let prefix = table_prefix(group, generation, OWN_TABLE);
        let mut queue = VecDeque::new();
        let mut failed = None;
        let queue_keys = KeyBounds { from: Bound::Included(b"q"), to: Bound::Excluded(b"r") };
        scan_table(engine, &prefix, queue_keys, false, &mut |key, value| match (
            Place::read(key),
            damaged_unless(decode_record(value), "queued request"),
        ) {
            (Some(place), Ok(queued)) => {
                queue.push_back((place, queued));
                ControlFlow::Continue(())
            }
            (_, queued) => {
                let short = || EngineError::Damaged(format!("queued request has key {key:?}"));
                failed = Some(queued.err().unwrap_or_else(short));
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(Self { prefix, window, queue }), Err)
    }

    /// What to answer if the request was applied before; `None` if it is new.
    pub(crate) fn recall(
        &self,
        engine: &dyn Read,
        overlay: &Overlay,
        request: &Fingerprint,
    ) -> Result<Option<Answer>, EngineError> {
        let Some(bytes) = overlay.get(engine, &self.record_key(request.id))? else { return Ok(None) };
        let known: Remembered = damaged_unless(decode_record(&bytes), "remembered request")?;
        Ok(Some(if known.digest == request.digest {
            Answer::Replayed { index: known.index, response: known.response }
        } else {
            Answer::Reused
        }))
    }

    /// Remembers a request that was just applied.
    pub(crate) fn remember(&mut self, overlay: &mut Overlay, request: &Fingerprint, at: AppliedAt, response: &Bytes) {
        let response = (response.len() <= self.window.response_bytes).then(|| response.clone());
        let record = Remembered { index: at.index, time_ms: at.time_ms, digest: request.digest, response };
        let queued = Queued { id: request.id, time_ms: at.time_ms };
        overlay.put(self.record_key(request.id), encode_record(&record));
        let place = Place { index: at.index, ordinal: at.ordinal };
        overlay.put(self.queue_key(place), encode_record(&queued));
        self.queue.push_back((place, queued));
    }

    /// Forgets what is beyond the bounds at log-carried time `now_ms`. Called for every request, so that it falls on the
    /// same one on every replica, however entries are batched.
    pub(crate) fn forget(&mut self, overlay: &mut Overlay, now_ms: u64) {
        while let Some(&(place, queued)) = self.queue.front()
            && (self.queue.len() > self.window.count
                || self.queue.len() > self.window.kept && queued.time_ms.saturating_add(self.window.millis) < now_ms)
        {
            overlay.delete(self.record_key(queued.id));
            overlay.delete(self.queue_key(place));
            self.queue.pop_front();
        }
    }

    fn record_key(&self, id: RequestId) -> Vec<u8> {
        [&self.prefix[..], b"r", &id.0.to_be_bytes()].concat()
    }

    fn queue_key(&self, Place { index, ordinal }: Place) -> Vec<u8> {
        [&self.prefix[..], b"q", &index.to_be_bytes(), &ordinal.to_be_bytes()].concat()
    }
}

/// Reads any bytes as records of this memory.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = decode_record::<Remembered>(bytes);
    let _ = decode_record::<Queued>(bytes);
}

/// A remembered request as a replay gets it.
#[cfg(test)]
pub(crate) fn sample_known() -> Vec<Known> {
    vec![Known { id: RequestId(0x0102_0304), index: 7, time_ms: 1_800_000_000_123, digest: [9; 16] }]
}

/// One of each record of this memory: its name, its stored form, and whether that is read as it was meant.
#[cfg(test)]
pub(crate) fn samples() -> Vec<(&'static str, Bytes, Box<dyn Fn(&[u8]) -> bool>)> {
    let response = Some(Bytes::from_static(b"answer"));
    let remembered = Remembered { index: 7, time_ms: 1_800_000_000_123, digest: [9; 16], response };
    let queued = Queued { id: RequestId(0x0102_0304), time_ms: 1_800_000_000_123 };
    let (written, also) = (encode_record(&remembered), encode_record(&queued));
    vec![
        ("request_remembered", written, Box::new(move |bytes| decode_record(bytes) == Ok(remembered.clone()))),
        ("request_queued", also, Box::new(move |bytes| decode_record(bytes) == Ok(queued))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Durability, Engine, MemEngine};

    #[test]
    fn what_a_replay_begins_with_is_remembered_in_the_order_of_the_log() {
        let (from, to) = (MemEngine::new(), MemEngine::new());
        let mut memory = RequestMemory::load(&from, 1, 0, RequestWindow::default()).expect("empty");
        let mut overlay = Overlay::default();
        // Ids against the order, and the first of an entry gone.
        for (id, index, ordinal) in [(9, 5, 1), (8, 5, 2), (7, 6, 0), (6, 7, 0), (5, 7, 1)] {
            let at = AppliedAt { index, ordinal, time_ms: 40 };
            memory.remember(&mut overlay, &Fingerprint::of(RequestId(id), b"payload"), at, &Bytes::new());
        }
        from.write(&overlay.batch, Durability::Synced).expect("written");
        let was = known(&from, 1, 0).expect("readable");
        assert_eq!(was.iter().map(|known| known.id.0).collect::<Vec<_>>(), [9, 8, 7, 6, 5]);

        let mut batch = Batch::default();
        put_known(&mut batch, 3, 2, &was);
        to.write(&batch, Durability::Synced).expect("written");
        assert_eq!(known(&to, 3, 2).expect("readable"), was);
    }
}
