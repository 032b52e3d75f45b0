//! Simulated disks.
//!
//! The data lies in the engine in memory that forgets what was not synced; around it are faults, and the eyes of the
//! invariants on everything that is written to the log. A disk also takes time: see [`SlowThreads`].

use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use mira_proto::NodeId;
use mira_raft::engine::{Batch, Durability, Engine, MemEngine, Read, Visitor};
use mira_raft::{EngineError, Threads, inspect};
use parking_lot::Mutex;
use rand::Rng;

use super::plan::Bug;
use super::runtime;
use super::world::World;

/// What a disk does to writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFaults {
    /// They succeed.
    Healthy,
    /// They are refused for want of room.
    Full,
    /// So many succeed, then there is no room.
    Filling(u32),
    /// The next one fails.
    Failing,
    /// The next one fails, but may have been written.
    Tearing,
}

/// One disk of a node. Clones share it.
#[derive(Clone)]
pub struct Disk {
    world: Arc<World>,
    node: NodeId,
    name: &'static str,
    data: MemEngine,
    state: Arc<Mutex<State>>,
}

struct State {
    faults: DiskFaults,
    /// A write failed for good: the node cannot go on, and is not expected to.
    failed: bool,
}

impl Disk {
    /// An empty disk.
    pub fn new(world: Arc<World>, node: NodeId, name: &'static str) -> Self {
        let state = Arc::new(Mutex::new(State { faults: DiskFaults::Healthy, failed: false }));
        Disk { world, node, name, data: MemEngine::new(), state }
    }

    /// Changes what happens to writes from now on.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.state.lock().faults = faults;
    }

    /// Whether a write failed for good.
    pub fn failed(&self) -> bool {
        self.state.lock().failed
    }

    /// Cuts the power: this handle and its clones fail from now on; the returned one holds what survived. With `luck`
    /// some of what was not synced did.
    pub fn crash(&self, luck: bool) -> Self {
        let unsynced = self.data.unsynced_batches();
        let kept = if luck { self.world.draw(|rng| rng.random_range(0..=unsynced)) } else { 0 };
        let data = self.data.crash_keeping(kept);
        self.world.note(format_args!("n{} {} crashes, {kept} of {unsynced} unsynced kept", self.node, self.name));
        // A crash makes no room.
        let faults = match self.state.lock().faults {
            DiskFaults::Full | DiskFaults::Filling(_) => DiskFaults::Full,
            _ => DiskFaults::Healthy,
        };
        Disk { data, state: Arc::new(Mutex::new(State { faults, failed: false })), ..self.clone() }
    }

    /// How a write goes.
    fn fate(&self) -> DiskFaults {
        let mut state = self.state.lock();
        match state.faults {
            DiskFaults::Filling(0) => state.faults = DiskFaults::Full,
            DiskFaults::Filling(room) => {
                state.faults = DiskFaults::Filling(room - 1);
                return DiskFaults::Healthy;
            }
            _ => {}
        }
        let fate = state.faults;
        if matches!(fate, DiskFaults::Failing | DiskFaults::Tearing) {
            *state = State { faults: DiskFaults::Healthy, failed: true };
        }
        fate
    }

    fn durability(&self, batch: &Batch, asked: Durability) -> Durability {
        let appends = || batch.ops.iter().any(|op| inspect::logged(op).is_some());
        match self.world.has(Bug::AppendsNotSynced) && appends() {
            true => Durability::Buffered,
            false => asked,
        }
    }

    /// Shows the invariants what was written.
    fn observe(&self, batch: &Batch) {
        let mut invariants = self.world.invariants.lock();
        for op in &batch.ops {
            if let Some((group, term)) = inspect::voted(op) {
                invariants.leader_completeness.voted(group, term);
            }
            if let Some(group) = inspect::removed(op) {
                let kept = invariants.votes_kept.removed(self.node, group);
                self.world.check("votes kept", kept);
            }
            let Some(entry) = inspect::logged(op) else { continue };
            let before = entry.index.checked_sub(1);
            let before = before.and_then(|index| inspect::entry(&self.data, entry.group, index).ok().flatten());
            let finding = invariants.log_matching.logged(self.node, entry, before);
            self.world.check("log matching", finding);
        }
    }

    fn io(&self, what: &str) -> EngineError {
        EngineError::Io(format!("{} of node {}: {what}", self.name, self.node))
    }
}

impl Engine for Disk {
    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), EngineError> {
        let fate = self.fate();
        self.world.note(format_args!(
            "n{} {} {durability:?} {} ops {} bytes {fate:?}",
            self.node,
            self.name,
            batch.ops.len(),
            batch.bytes()
        ));
        match fate {
            DiskFaults::Full | DiskFaults::Filling(_) => {
                Err(EngineError::DiskFull(format!("{} of node {}", self.name, self.node)))
            }
            DiskFaults::Failing => Err(self.io("the write failed")),
            DiskFaults::Tearing => {
                self.data.write(batch, Durability::Buffered)?;
                self.observe(batch);
                Err(self.io("the write was torn"))
            }
            DiskFaults::Healthy => {
                self.data.write(batch, self.durability(batch, durability))?;
                self.observe(batch);
                Ok(())
            }
        }
    }

    fn sync(&self) -> Result<(), EngineError> {
        match self.fate() {
            DiskFaults::Failing | DiskFaults::Tearing => Err(self.io("the sync failed")),
            DiskFaults::Healthy | DiskFaults::Full | DiskFaults::Filling(_) => self.data.sync(),
        }
    }

    fn view(&self) -> Arc<dyn Read> {
        self.data.view()
    }
}

impl Read for Disk {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.data.get(key)
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError> {
        self.data.scan(from, to, reverse, visit)
    }
}

/// Where a simulated node's blocking work runs: as tasks of the one thread, after the time a disk would take.
///
/// The log's writer is polled only after such a pause. What is appended meanwhile waits in memory, as behind a real
/// sync, and goes in one batch; a crash in the pause loses it.
pub struct SlowThreads {
    /// The run.
    pub world: Arc<World>,
    /// Mean time of a sync; faults change it.
    pub latency: Arc<Mutex<Duration>>,
}

impl SlowThreads {
    fn pause(world: &World, latency: &Mutex<Duration>) -> Duration {
        let mean = *latency.lock();
        world.draw(|rng| mean.mul_f64(rng.random_range(0.2..2.0)))
    }
}

impl Threads for SlowThreads {
    fn dedicated(&self, _name: String, work: BoxFuture<'static, ()>) {
        let (world, latency) = (self.world.clone(), self.latency.clone());
        let pause = move || Box::pin(runtime::sleep(Self::pause(&world, &latency))) as BoxFuture<'static, ()>;
        runtime::spawn(Slowed { work, pause: Some(pause()), make_pause: Box::new(pause) });
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let pause = Self::pause(&self.world, &self.latency);
        Box::pin(async move {
            runtime::sleep(pause).await;
            work();
        })
    }
}

/// Work that is polled a while after it was woken.
struct Slowed {
    work: BoxFuture<'static, ()>,
    pause: Option<BoxFuture<'static, ()>>,
    make_pause: Box<dyn Fn() -> BoxFuture<'static, ()> + Send>,
}

impl Future for Slowed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let pause = this.pause.get_or_insert_with(|| (this.make_pause)());
        if pause.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        this.pause = None;
        this.work.as_mut().poll(context)
    }
}
