//! The writer of the log: one batch and one sync for whatever waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::Instant;
use openraft::async_runtime::{Mpsc, MpscReceiver, Oneshot, OneshotSender};
use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use tracing::{error, info, warn};

use super::{KeyKind, key};
use crate::codec::encode_record;
use crate::engine::{Batch, Durability, Engine, EngineError, Op};
use crate::failures::{Failures, io_error};
use crate::room;
use crate::types::{GroupId, LogId, Runtime, Types};

type Reply<R, T> = <<R as openraft::AsyncRuntime>::Oneshot as Oneshot>::Sender<T>;

/// Told of every batch the log writer makes durable.
pub trait LogObserver: Send + Sync + 'static {
    /// A batch of `entries` entries in `bytes` bytes was written; `took` is the time of write and sync together,
    /// `synced` whether there was a sync.
    fn wrote(&self, entries: usize, bytes: usize, took: Duration, synced: bool);
}

/// Observes nothing.
pub struct NoObserver;

impl LogObserver for NoObserver {
    fn wrote(&self, _: usize, _: usize, _: Duration, _: bool) {}
}

/// One operation on the log.
pub(super) struct Request<R: Runtime> {
    pub ops: Vec<Op>,
    /// How many of `ops` are entries.
    pub entries: usize,
    /// Whether the waiter needs it on disk.
    pub synced: bool,
    pub done: Done<R>,
}

impl<R: Runtime> Request<R> {
    pub fn empty() -> Self {
        Self { ops: Vec::new(), entries: 0, synced: false, done: Done::Nobody }
    }
}

/// Who waits for a request.
pub(super) enum Done<R: Runtime> {
    Nobody,
    Reply(Reply<R, Result<(), EngineError>>),
    Append {
        /// Lets go of what memory held until the entries were on disk.
        flushed: Box<dyn FnOnce() + Send>,
        callback: IOFlushed<Types<R>>,
    },
    /// Ends the writer.
    Stop(Reply<R, ()>),
}

impl<R: Runtime> Done<R> {
    fn call(self, result: &Result<(), EngineError>) {
        match self {
            Done::Nobody => {}
            // A waiter that went away lost interest, not the write.
            Done::Reply(reply) => drop(reply.send(result.clone())),
            Done::Append { flushed, callback } => {
                if result.is_ok() {
                    flushed();
                }
                callback.io_completed(result.clone().map_err(io_error));
            }
            Done::Stop(reply) => drop(reply.send(())),
        }
    }
}

pub(super) struct Writer<R: Runtime> {
    pub engine: Arc<dyn Engine>,
    pub requests: <R::Mpsc as Mpsc>::Receiver<Request<R>>,
    pub committed: Arc<Mutex<BTreeMap<GroupId, LogId>>>,
    pub disk_full: Arc<AtomicBool>,
    /// The host is closing: nobody waits for room any more.
    pub closing: Arc<AtomicBool>,
    pub failures: Arc<Failures>,
    pub observer: Arc<dyn LogObserver>,
    pub batch_bytes: usize,
}

impl<R: Runtime> Writer<R> {
    /// Serves requests until told to stop, or until nobody can make any.
    ///
    /// A failure other than a full disk ends the log: what the device holds is unknown then, so every later request
    /// fails as well, and its group stops. Where the failure passes, the log is back once all groups have stopped and its
    /// engine has been opened again.
    pub async fn run(mut self) {
        while let Some(first) = self.requests.recv().await {
            let (batch, waiting, summary) = self.drain(first);
            let stop = waiting.iter().any(|done| matches!(done, Done::Stop(_)));
            let result = match self.failures.log() {
                Some(error) => Err(error),
                None => self.write(&batch, &summary).await.inspect_err(|cause| {
                    error!(error = %cause, "log device failed");
                    self.failures.of_log(cause.clone());
                }),
            };
            waiting.into_iter().for_each(|done| done.call(&result));
            if stop {
                return;
            }
        }
    }

    /// Takes everything that waits, up to the batch bound.
    fn drain(&mut self, first: Request<R>) -> (Batch, Vec<Done<R>>, Summary) {
        let mut batch = Batch::default();
        let mut waiting = Vec::new();
        let mut summary = Summary::default();
        let mut next = Some(first);
        while let Some(request) = next {
            summary.entries += request.entries;
            summary.synced |= request.synced;
            let stop = matches!(request.done, Done::Stop(_));
            summary.bytes += bytes_of(&request.ops);
            batch.ops.extend(request.ops);
            waiting.push(request.done);
            let room = !stop && summary.bytes < self.batch_bytes;
            next = if room { self.requests.try_recv().ok() } else { None };
        }
        for (group, committed) in std::mem::take(&mut *self.committed.lock()) {
            batch.put(key(KeyKind::Committed, group, 0), encode_record(&committed));
        }
        (batch, waiting, summary)
    }

    /// Writes the batch, waiting for room as long as the disk is full and the host is not closing: its waiters then simply
    /// wait, and go on by themselves.
    async fn write(&mut self, batch: &Batch, summary: &Summary) -> Result<(), EngineError> {
        if batch.is_empty() {
            return Ok(());
        }
        let durability = if summary.synced { Durability::Synced } else { Durability::Buffered };
        loop {
            let started = R::Instant::now();
            match self.engine.write(batch, durability) {
                Ok(()) => {
                    self.observer.wrote(summary.entries, summary.bytes, started.elapsed(), summary.synced);
                    if self.disk_full.swap(false, Ordering::Relaxed) {
                        info!("log device has room again");
                    }
                    return Ok(());
                }
                Err(EngineError::DiskFull(cause)) if !self.closing.load(Ordering::Relaxed) => {
                    if !self.disk_full.swap(true, Ordering::Relaxed) {
                        warn!(cause, "log device is full, waiting for room");
                    }
                    R::sleep(room::RETRY).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[derive(Default)]
struct Summary {
    entries: usize,
    bytes: usize,
    synced: bool,
}

fn bytes_of(ops: &[Op]) -> usize {
    ops.iter().map(Op::bytes).sum()
}
