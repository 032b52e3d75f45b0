//! One durable log for all the groups of a node.
//!
//! Every group's appends, votes, truncations and purges go through one bounded queue to one writer, which drains it into
//! one batch and one sync and then calls every waiter back. So the cost of making a write durable is shared by all that
//! wait for it, in whatever group.
//!
//! Keys are `kind (1) · group (4, big-endian) · index (8, big-endian)`; see [`KeyKind`].
//!
//! Invariants:
//! - an entry can be read as soon as `append` returns: it stays in its group's tail in memory until it is on disk;
//! - the queue keeps order, so what is on disk is always a state the group was in; a crash loses only operations whose
//!   waiters were not called back;
//! - indexes between `purged` and `last` have no holes.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, ControlFlow, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::Stream;
use openraft::async_runtime::{Mpsc, MpscSender};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::{LogState, RaftLogReader};
use parking_lot::Mutex;

use crate::codec::{decode_entry, decode_record, encode_entry, encode_record, payload_len};
use crate::engine::{Engine, EngineError, Op};
use crate::failures::Failures;
use crate::threads::Threads;
use crate::types::{Entry, GroupId, LogId, Runtime, Types, Vote, index_of};

mod limits;
mod promised;
mod tail;
mod weight;
mod writer;

pub(crate) use limits::LogLimits;
use promised::Promised;
use tail::Tail;
use writer::{Done, Request, Writer};
pub use writer::{LogObserver, NoObserver};

/// What a key of the log is, its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum KeyKind {
    /// The group exists on this node.
    Exists = 1,
    /// Its latest vote.
    Vote = 2,
    /// The position it knows to be committed; a hint, never synced for its own sake.
    Committed = 3,
    /// The last entry removed from the front.
    Purged = 4,
    /// The group is being removed from this node: its state first, then its log.
    Removing = 5,
    /// A replica of the group was removed from this node: what it had ([`Promised`]).
    Promised = 6,
    /// An entry, at its index.
    Entry = 16,
}

fn key(kind: KeyKind, group: GroupId, index: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(13);
    key.push(kind as u8);
    key.extend(group.to_be_bytes());
    key.extend(index.to_be_bytes());
    key
}

/// The key of a group's entry.
pub(crate) fn entry_key(group: GroupId, index: u64) -> Vec<u8> {
    key(KeyKind::Entry, group, index)
}

/// The group whose entry lies at `key`, if one does.
pub(crate) fn entry_of(key: &[u8]) -> Option<GroupId> {
    group_of(KeyKind::Entry, key)
}

/// The group whose vote lies at `key`, if one does.
pub(crate) fn vote_of(key: &[u8]) -> Option<GroupId> {
    group_of(KeyKind::Vote, key)
}

/// The group that `key` notes to be removed, if it does.
pub(crate) fn removal_of(key: &[u8]) -> Option<GroupId> {
    group_of(KeyKind::Removing, key)
}

fn group_of(kind: KeyKind, key: &[u8]) -> Option<GroupId> {
    let group = key.strip_prefix(&[kind as u8])?.get(..4)?;
    Some(GroupId::from_be_bytes(group.try_into().ok()?))
}

/// The log store of a node.
pub(crate) struct LogStore<R: Runtime> {
    engine: Arc<dyn Engine>,
    queue: <R::Mpsc as Mpsc>::Sender<Request<R>>,
    limits: LogLimits,
    committed: Arc<Mutex<BTreeMap<GroupId, LogId>>>,
    disk_full: Arc<AtomicBool>,
    closing: Arc<AtomicBool>,
    failures: Arc<Failures>,
}

impl<R: Runtime> LogStore<R> {
    /// Opens the log kept in `engine` and starts its writer.
    pub(crate) fn open(
        engine: Arc<dyn Engine>,
        threads: &dyn Threads,
        observer: Arc<dyn LogObserver>,
        limits: LogLimits,
    ) -> Arc<Self> {
        let (queue, requests) = <R::Mpsc as Mpsc>::channel(limits.queue);
        let committed = Arc::new(Mutex::new(BTreeMap::new()));
        let (disk_full, closing, failures): (Arc<AtomicBool>, Arc<AtomicBool>, Arc<Failures>) = Default::default();
        let writer = Writer::<R> {
            engine: engine.clone(),
            requests,
            committed: committed.clone(),
            disk_full: disk_full.clone(),
            closing: closing.clone(),
            failures: failures.clone(),
            observer,
            batch_bytes: limits.batch_bytes,
        };
        threads.dedicated("log-writer".into(), Box::pin(writer.run()));
        Arc::new(Self { engine, queue, limits, committed, disk_full, closing, failures })
    }

    /// Whether the last write found no room on the disk.
    pub(crate) fn disk_full(&self) -> bool {
        self.disk_full.load(Ordering::Relaxed)
    }

    /// What says that the host is closing; from then on nothing waits for room.
    pub(crate) fn closing(&self) -> &Arc<AtomicBool> {
        &self.closing
    }

    /// What became of the groups of this node.
    pub(crate) fn failures(&self) -> &Failures {
        &self.failures
    }

    /// Returns when nothing waits for the writer any more.
    pub(crate) async fn settle(&self) {
        // It may answer that the log has ended, which is as good.
        let _ = self.enqueue_and_wait(Vec::new()).await;
    }

    /// The groups this node has a log of, in order.
    pub(crate) fn groups(&self) -> Result<Vec<GroupId>, EngineError> {
        groups_of(self.engine.as_ref())
    }

    /// Opens one group's log, making it if it is new.
    pub(crate) async fn group(self: &Arc<Self>, group: GroupId) -> Result<GroupLog<R>, EngineError> {
        // What the group's last life here appended may still be on its way to the disk.
        self.enqueue_and_wait(Vec::new()).await?;
        let tail = Tail::load(self.engine.as_ref(), group, self.limits.piece_bytes)?;
        let promised = Promised::load(self.engine.as_ref(), group)?;
        let log = GroupLog { store: self.clone(), group, tail: Arc::new(Mutex::new(tail)), promised };
        let exists = key(KeyKind::Exists, group, 0);
        if self.engine.get(&exists)?.is_none() {
            let ops = vec![Op::Put { key: exists, value: encode_record(&()) }];
            log.submit_and_wait(ops).await?;
        }
        Ok(log)
    }

    /// Notes, durably, that a group is being removed. Whoever finds the note removes the rest: what is left of a group that
    /// was removed in part is neither new nor whole.
    pub(crate) async fn begin_removal(&self, group: GroupId) -> Result<(), EngineError> {
        self.enqueue_and_wait(vec![Op::Put { key: key(KeyKind::Removing, group, 0), value: encode_record(&()) }]).await
    }

    /// Whether a group was being removed when this node stopped.
    pub(crate) fn is_being_removed(&self, group: GroupId) -> Result<bool, EngineError> {
        Ok(self.engine.get(&key(KeyKind::Removing, group, 0))?.is_some())
    }

    /// Removes everything of a group, durably, but for what the replica had promised: see [`Promised`].
    pub(crate) async fn destroy(&self, group: GroupId) -> Result<(), EngineError> {
        self.committed.lock().remove(&group);
        let kinds = [KeyKind::Entry, KeyKind::Purged, KeyKind::Committed, KeyKind::Removing, KeyKind::Exists];
        let mut ops: Vec<Op> = kinds
            .map(|kind| {
                let mut to = key(kind, group, u64::MAX);
                to.push(0);
                Op::DeleteRange { from: key(kind, group, 0), to }
            })
            .into();
        ops.extend(Promised::kept(self.engine.as_ref(), group)?);
        self.enqueue_and_wait(ops).await
    }

    /// Writes what is queued and ends the writer.
    pub(crate) async fn shutdown(&self) {
        let (done, ended) = Types::<R>::oneshot();
        let request = Request { done: Done::Stop(done), ..Request::empty() };
        if self.queue.send(request).await.is_ok() {
            let _ = ended.await;
        }
    }

    async fn enqueue(&self, request: Request<R>) -> Result<(), EngineError> {
        self.queue.send(request).await.map_err(|_| stopped())
    }

    async fn enqueue_and_wait(&self, ops: Vec<Op>) -> Result<(), EngineError> {
        let (done, result) = Types::<R>::oneshot();
        self.enqueue(Request { ops, synced: true, done: Done::Reply(done), ..Request::empty() }).await?;
        result.await.map_err(|_| stopped())?
    }
}

/// The groups that have a log in an engine, in order.
pub(crate) fn groups_of(engine: &dyn Engine) -> Result<Vec<GroupId>, EngineError> {
    let mut groups = Vec::new();
    let (from, to) = ([KeyKind::Exists as u8], [KeyKind::Exists as u8 + 1]);
    engine.scan(Bound::Included(&from), Bound::Excluded(&to), false, &mut |key, _| {
        if let Some(group) = key.get(1..5) {
            groups.push(GroupId::from_be_bytes(group.try_into().expect("four bytes")));
        }
        ControlFlow::Continue(())
    })?;
    Ok(groups)
}

fn stopped() -> EngineError {
    EngineError::Io("the log writer has stopped".into())
}

/// One group's log: the library's log storage, and its readers (clones share everything).
pub(crate) struct GroupLog<R: Runtime> {
    store: Arc<LogStore<R>>,
    group: GroupId,
    tail: Arc<Mutex<Tail>>,
    /// What another replica on this node had, before it left the group.
    promised: Option<Promised>,
}

impl<R: Runtime> Clone for GroupLog<R> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), group: self.group, tail: self.tail.clone(), promised: self.promised.clone() }
    }
}

impl<R: Runtime> GroupLog<R> {
    /// What became of all groups of this node.
    pub(crate) fn failures(&self) -> &Arc<Failures> {
        &self.store.failures
    }

    fn failed(&self, error: EngineError) -> io::Error {
        self.failures().of_group(self.group, error)
    }

    /// Whether it has all that a replica which left the group had said to have.
    pub(crate) fn keeps_promises(&self) -> bool {
        self.promised.as_ref().is_none_or(|promised| promised.is_kept_by(self.tail.lock().last.as_ref()))
    }

    /// The index of the last entry removed from the front.
    pub(crate) fn purged_index(&self) -> u64 {
        index_of(self.tail.lock().purged.as_ref())
    }

    /// The index of the last entry.
    pub(crate) fn last_index(&self) -> u64 {
        index_of(self.tail.lock().last.as_ref())
    }

    /// Bytes of all entries.
    pub(crate) fn bytes(&self) -> u64 {
        self.tail.lock().weight.total()
    }

    /// The last entry that must go for at most so many bytes to be left; `None` if nothing must.
    pub(crate) fn cut(&self, keep_bytes: u64) -> Option<u64> {
        self.tail.lock().weight.cut(keep_bytes)
    }

    /// Whether the log has every entry since the group began, and each can be read.
    pub(crate) fn is_whole(&self) -> Result<bool, EngineError> {
        let (first, end) = {
            let tail = self.tail.lock();
            (tail.first_index(), tail.next_index())
        };
        let mut next = 0;
        while first == 0 && next < end {
            match self.read(next, end, 1 << 20)?.last() {
                Some(last) => next = last.log_id.index + 1,
                None => return Ok(false),
            }
        }
        Ok(next > 0)
    }

    async fn submit(&self, ops: Vec<Op>) -> Result<(), EngineError> {
        self.store.enqueue(Request { ops, ..Request::empty() }).await
    }

    async fn submit_and_wait(&self, ops: Vec<Op>) -> Result<(), EngineError> {
        self.store.enqueue_and_wait(ops).await
    }

    /// Entries of `from..to` that the log has, in order; at least one if it has any, then as many as fit `max_bytes`.
    pub(crate) fn read(&self, from: u64, to: u64, max_bytes: usize) -> Result<Vec<Entry>, EngineError> {
        loop {
            let (from, boundary, truncations, recent) = {
                let tail = self.tail.lock();
                let (from, to) = (from.max(tail.first_index()), to.min(tail.next_index()));
                if from >= to {
                    return Ok(Vec::new());
                }
                let boundary = tail.first_recent().clamp(from, to);
                let skip = (boundary - tail.first_recent().min(boundary)) as usize;
                let recent = tail.recent.iter().skip(skip).take((to - boundary) as usize);
                (from, boundary, tail.truncations, take_bytes(recent, max_bytes))
            };
            if boundary == from {
                return Ok(recent);
            }
            match self.read_engine(from, boundary, max_bytes) {
                Ok((mut entries, true)) => {
                    entries.extend(recent);
                    return Ok(entries);
                }
                Ok((entries, false)) => return Ok(entries),
                // A truncation or a purge between the two looks leaves a hole that was not there.
                Err(_) if self.moved_since(from, truncations) => continue,
                Err(error) => return Err(error),
            }
        }
    }

    fn moved_since(&self, from: u64, truncations: u64) -> bool {
        let tail = self.tail.lock();
        tail.truncations != truncations || tail.first_index() > from
    }

    /// Entries from disk, and whether all of the range was read (false: the byte bound ended it).
    fn read_engine(&self, from: u64, to: u64, max_bytes: usize) -> Result<(Vec<Entry>, bool), EngineError> {
        let (low, high) = (key(KeyKind::Entry, self.group, from), key(KeyKind::Entry, self.group, to));
        let mut found: Vec<Bytes> = Vec::new();
        let (mut bytes, mut cut) = (0, false);
        self.store.engine.scan(Bound::Included(&low), Bound::Excluded(&high), false, &mut |_, value| {
            cut = bytes + value.len() > max_bytes && !found.is_empty();
            if cut {
                return ControlFlow::Break(());
            }
            bytes += value.len();
            found.push(Bytes::copy_from_slice(value));
            ControlFlow::Continue(())
        })?;
        let mut entries = Vec::with_capacity(found.len());
        for (value, expected) in found.into_iter().zip(from..) {
            let entry = checked_entry(value, self.group)?;
            if entry.log_id.index != expected {
                return Err(self.hole(expected));
            }
            entries.push(entry);
        }
        let complete = entries.len() as u64 == to - from;
        if !complete && !cut {
            return Err(self.hole(from + entries.len() as u64));
        }
        Ok((entries, complete))
    }

    fn hole(&self, index: u64) -> EngineError {
        EngineError::Damaged(format!("log of group {} has no entry {index}", self.group))
    }
}

fn take_bytes<'a>(entries: impl Iterator<Item = &'a Entry>, max_bytes: usize) -> Vec<Entry> {
    let mut bytes = 0;
    let mut taken = Vec::new();
    for entry in entries {
        bytes += payload_len(entry);
        if bytes > max_bytes && !taken.is_empty() {
            break;
        }
        taken.push(entry.clone());
    }
    taken
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, EngineError> {
    decode_record(bytes).map_err(|error| EngineError::Damaged(format!("{what}: {error}")))
}

fn checked_entry(bytes: Bytes, group: GroupId) -> Result<Entry, EngineError> {
    decode_entry(bytes).map_err(|error| EngineError::Damaged(format!("log entry of group {group}: {error}")))
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl<R: Runtime> RaftLogReader<Types<R>> for GroupLog<R> {
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (from, to) = bounds(&range);
        let state = (self.clone(), from, to, VecDeque::new());
        // Piece by piece: a node that catches up may have a long way between applied and committed.
        Box::pin(futures::stream::unfold(state, |(log, from, to, mut read)| async move {
            if read.is_empty() && from < to {
                match log.read(from, to, log.store.limits.read_bytes) {
                    Ok(entries) => read = entries.into(),
                    Err(error) => return Some((Err(log.failed(error)), (log, to, to, read))),
                }
            }
            let entry: Entry = read.pop_front()?;
            let next = entry.log_id.index + 1;
            Some((Ok(entry), (log, next, to, read)))
        }))
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (from, to) = bounds(&range);
        self.read(from, to, usize::MAX).map_err(|error| self.failed(error))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, self.store.limits.read_bytes).map_err(|error| self.failed(error))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.tail.lock().vote)
    }
}

impl<R: Runtime> RaftLogStorage<Types<R>> for GroupLog<R> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types<R>>, io::Error> {
        let tail = self.tail.lock();
        Ok(LogState { last_purged_log_id: tail.purged.clone(), last_log_id: tail.last.clone() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let ops = vec![Op::Put { key: key(KeyKind::Vote, self.group, 0), value: encode_record(vote) }];
        self.submit_and_wait(ops).await.map_err(|error| self.failed(error))?;
        self.tail.lock().vote = Some(*vote);
        Ok(())
    }

    /// Rides along with the next batch: it is a hint that saves re-electing before re-applying, not a promise.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = &committed {
            self.store.committed.lock().insert(self.group, committed.clone());
        }
        self.tail.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let tail = self.tail.lock();
        // After a crash the hint may point beyond a log that lost its unsynced end.
        Ok(tail.committed.clone().min(tail.last.clone()))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types<R>>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let Some(first) = entries.first().map(|entry| entry.log_id.index) else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        let ops: Vec<Op> = entries
            .iter()
            .map(|entry| Op::Put {
                key: key(KeyKind::Entry, self.group, entry.log_id.index),
                value: encode_entry(entry),
            })
            .collect();
        let count = entries.len();
        {
            let mut tail = self.tail.lock();
            tail.pending.push_back(first);
            entries.into_iter().zip(&ops).for_each(|(entry, op)| tail.append(entry, op.bytes() as u64));
        }
        let (tail, budget) = (self.tail.clone(), self.store.limits.recent_bytes);
        let flushed = Box::new(move || {
            let mut tail = tail.lock();
            tail.pending.pop_front();
            tail.trim(budget);
        });
        let request = Request { ops, entries: count, synced: true, done: Done::Append { flushed, callback } };
        self.store.enqueue(request).await.map_err(|error| self.failed(error))
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.as_ref().map_or(0, |id| id.index + 1);
        let to = {
            let mut tail = self.tail.lock();
            let to = tail.next_index();
            tail.truncate_after(last_log_id);
            to
        };
        if from >= to {
            return Ok(());
        }
        // Not synced for its own sake: the appends that follow are, and until then the dropped entries do no harm.
        let range =
            Op::DeleteRange { from: key(KeyKind::Entry, self.group, from), to: key(KeyKind::Entry, self.group, to) };
        self.submit(vec![range]).await.map_err(|error| self.failed(error))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let from = {
            let mut tail = self.tail.lock();
            let from = tail.first_index();
            tail.purge(log_id.clone());
            from
        };
        let ops = vec![
            Op::Put { key: key(KeyKind::Purged, self.group, 0), value: encode_record(&log_id) },
            Op::DeleteRange {
                from: key(KeyKind::Entry, self.group, from),
                to: key(KeyKind::Entry, self.group, log_id.index + 1),
            },
        ];
        self.submit(ops).await.map_err(|error| self.failed(error))
    }
}
