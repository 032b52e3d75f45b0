//! What callers did and what they were told: the evidence that the checkers judge.
//!
//! An operation has the time it was called, the time its answer came, and one of three outcomes. `Refused` means that
//! it certainly did nothing (the answer says so, or there was no connection); `Unknown` means that it may have taken
//! effect, may yet, or never will: a timeout, a lost connection, an internal error.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::Serialize;

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome<A> {
    /// It was done, with this answer.
    Ok(A),
    /// It certainly did nothing.
    Refused(String),
    /// Nobody knows.
    Unknown(String),
}

/// One operation of one process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Operation<C, A> {
    /// Who did it; a process does one thing at a time.
    pub process: u32,
    /// When it was called, since the round began.
    pub called: Duration,
    /// When the caller heard of its end.
    pub returned: Duration,
    /// What was asked.
    pub call: C,
    /// What came of it.
    pub outcome: Outcome<A>,
    /// The shard that did it, where the answer says so.
    pub shard: Option<u32>,
}

impl<C, A> Operation<C, A> {
    /// From when on its effect is certain to be there; `None` if that is never certain.
    pub fn certain_from(&self) -> Option<Duration> {
        matches!(self.outcome, Outcome::Ok(_)).then_some(self.returned)
    }
}

/// The operations of one workload, as they end.
pub struct History<C, A> {
    began: Instant,
    operations: Arc<Mutex<Vec<Operation<C, A>>>>,
}

impl<C, A> Clone for History<C, A> {
    fn clone(&self) -> Self {
        History { began: self.began, operations: self.operations.clone() }
    }
}

impl<C, A> History<C, A> {
    /// An empty one; times count from `began`.
    pub fn new(began: Instant) -> Self {
        History { began, operations: Arc::default() }
    }

    /// The time now.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Does `work` as `process` and notes it.
    pub async fn record(
        &self,
        process: u32,
        call: C,
        work: impl Future<Output = (Outcome<A>, Option<u32>)>,
    ) -> Outcome<A>
    where
        A: Clone,
    {
        let called = self.now();
        let (outcome, shard) = work.await;
        let operation = Operation { process, called, returned: self.now(), call, outcome: outcome.clone(), shard };
        self.operations.lock().push(operation);
        outcome
    }

    /// All operations by the time they were called.
    pub fn take(&self) -> Vec<Operation<C, A>> {
        let mut operations = std::mem::take(&mut *self.operations.lock());
        operations.sort_by_key(|operation| operation.called);
        operations
    }
}
