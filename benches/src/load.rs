//! A closed loop of callers: each sends its next request when the last is answered.
//!
//! Latencies of a closed loop understate what a caller with a schedule of its own would see while the system stalls; for
//! stalls there is [`Latencies::max`], and the fail-over measurement looks at each.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mira_proto::Problem;
use serde::{Deserialize, Serialize};

use crate::BenchError;
use crate::numbers::digits;
use crate::servers::ProcessorTime;

/// Longest latency that is told apart: longer ones count as this.
const LONGEST: Duration = Duration::from_secs(600);

/// How long a load lasts.
#[derive(Debug, Clone)]
pub enum Limit {
    /// Until someone says so.
    Stopped(Arc<AtomicBool>),
    /// Until so much time has passed; operations under way are finished.
    Time(Duration),
    /// So many operations by all callers together.
    Operations(u64),
}

impl Limit {
    /// A load of so many times the length.
    #[must_use]
    pub fn times(&self, factor: f64) -> Limit {
        match self {
            Limit::Stopped(stopped) => Limit::Stopped(stopped.clone()),
            Limit::Time(time) => Limit::Time(time.mul_f64(factor)),
            Limit::Operations(count) => Limit::Operations(((*count as f64 * factor) as u64).max(1)),
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Limit::Stopped(_) => f.write_str("until stopped"),
            Limit::Time(time) => write!(f, "{} s each", time.as_secs_f64()),
            Limit::Operations(count) => write!(f, "{count} operations each"),
        }
    }
}

/// Latencies, to three digits.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        let longest = LONGEST.as_micros() as u64;
        Latencies(Histogram::new_with_bounds(1, longest, 3).expect("these bounds are valid"))
    }
}

impl Latencies {
    /// Adds one.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record((latency.as_micros() as u64).max(1));
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that a share of `percent` does not exceed.
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_micros(self.0.value_at_percentile(percent))
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }
}

/// The latencies of a load as they are reported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Operations.
    pub count: u64,
    /// Half were answered within this, milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 were answered within this, milliseconds.
    pub p99_ms: f64,
    /// The slowest, milliseconds.
    pub max_ms: f64,
    /// Operations per second by all callers together.
    pub per_second: f64,
    /// Time on a processor that the servers spent for each, microseconds, where they run on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servers_us: Option<f64>,
    /// Of that, the part of threads that index vectors; the rest stands between an operation and its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indexing_us: Option<f64>,
}

impl Summary {
    /// The servers' time on a processor for an operation, in microseconds, as tables have it.
    pub fn servers_time(&self) -> Option<String> {
        let all = digits(self.servers_us?);
        Some(match self.indexing_us {
            Some(indexing) if indexing >= 0.5 => format!("{all} ({} of it to index)", digits(indexing)),
            _ => all,
        })
    }
}

/// What a load did.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Of the operations that succeeded.
    pub latencies: Latencies,
    /// How many did not.
    pub failures: u64,
    /// One of the reasons.
    pub failure: Option<Problem>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// What the servers spent on it, where that is known.
    pub servers: Option<ProcessorTime>,
}

impl Outcome {
    /// The figures, if nothing failed.
    pub fn summary(&self, what: &str) -> Result<Summary, BenchError> {
        if let Some(problem) = &self.failure {
            let (failed, all) = (self.failures, self.failures + self.latencies.count());
            return Err(BenchError::Wrong(format!("{what}: {failed} of {all} operations failed, such as: {problem}")));
        }
        if self.latencies.count() == 0 {
            return Err(BenchError::Late(format!("{what}: not one operation was done")));
        }
        let each = |time: Duration| time.as_secs_f64() * 1e6 / self.latencies.count() as f64;
        Ok(Summary {
            count: self.latencies.count(),
            p50_ms: milliseconds(self.latencies.percentile(50.0)),
            p99_ms: milliseconds(self.latencies.percentile(99.0)),
            max_ms: milliseconds(self.latencies.max()),
            per_second: self.latencies.count() as f64 / self.elapsed.as_secs_f64(),
            servers_us: self.servers.map(|spent| each(spent.all)),
            indexing_us: self.servers.map(|spent| each(spent.indexing)),
        })
    }

    /// Adds what another load did after this one. What the servers spent is known of both, or of neither.
    pub fn then(&mut self, other: Outcome) {
        self.servers = match (self.servers, other.servers) {
            (Some(own), Some(others)) => Some(own.plus(others)),
            (None, others) if self.latencies.count() == 0 => others,
            _ => None,
        };
        self.latencies.merge(&other.latencies);
        self.failures += other.failures;
        self.failure = self.failure.take().or(other.failure);
        self.elapsed += other.elapsed;
    }
}

/// A duration as reports have it.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// Runs `operation(caller, number)` on as many tasks as there are callers. Numbers count the operations of all callers,
/// from 0, each once.
pub async fn closed_loop<C, F>(
    callers: &[C],
    limit: Limit,
    operation: impl Fn(C, u64) -> F + Clone + Send + 'static,
) -> Outcome
where
    C: Clone + Send + 'static,
    F: Future<Output = Result<(), Problem>> + Send + 'static,
{
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let tasks: Vec<_> = callers
        .iter()
        .map(|caller| {
            let (caller, next, operation, limit) = (caller.clone(), next.clone(), operation.clone(), limit.clone());
            tokio::spawn(async move {
                let mut done = Outcome::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let over = match &limit {
                        Limit::Stopped(stopped) => stopped.load(Ordering::Relaxed),
                        Limit::Time(time) => started.elapsed() >= *time,
                        Limit::Operations(count) => number >= *count,
                    };
                    if over {
                        return done;
                    }
                    let asked = Instant::now();
                    match operation(caller.clone(), number).await {
                        Ok(()) => done.latencies.record(asked.elapsed()),
                        Err(problem) => {
                            done.failures += 1;
                            done.failure.get_or_insert(problem);
                        }
                    }
                }
            })
        })
        .collect();
    let mut all = Outcome::default();
    for task in tasks {
        match task.await {
            Ok(done) => all.then(done),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
    all.elapsed = started.elapsed();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_list() {
        let mut latencies = Latencies::default();
        (1..=1000).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        for (percent, ms) in [(50.0, 500.0), (99.0, 990.0), (100.0, 1000.0)] {
            let found = milliseconds(latencies.percentile(percent));
            assert!((found / ms - 1.0).abs() < 0.001, "{percent}: {found}");
        }
        assert_eq!(latencies.count(), 1000);
    }

    #[test]
    fn a_run_with_failures_gives_no_figure() {
        let mut outcome = Outcome { elapsed: Duration::from_secs(2), ..Outcome::default() };
        assert!(outcome.summary("none").is_err());
        outcome.latencies.record(Duration::from_millis(4));
        let summary = outcome.summary("one").unwrap();
        assert_eq!((summary.count, summary.per_second), (1, 0.5));
        outcome.failures = 1;
        outcome.failure = Some(Problem::internal("broken"));
        assert!(outcome.summary("one").unwrap_err().to_string().contains("1 of 2 operations failed"));
    }

    #[tokio::test]
    async fn every_operation_has_a_number_of_its_own() {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = seen.clone();
        let outcome = closed_loop(&[0; 7], Limit::Operations(100), move |_, number| {
            sink.lock().unwrap().push(number);
            async {
                tokio::task::yield_now().await;
                Ok(())
            }
        })
        .await;
        assert_eq!(outcome.latencies.count(), 100);
        let mut numbers = seen.lock().unwrap().clone();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    }
}
