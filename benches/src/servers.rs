//! What the servers spend on a load: time on a processor, with that of vector indexes told apart.
//!
//! A rate on a machine that clients and servers share says little about another one; the processor time of the servers for
//! one operation carries over. The threads of a node that index have names of their own, so their part can be told from the
//! rest, which is what stands between a write and its acknowledgement (compaction by the storage engine among it).

use std::fs;
use std::time::Duration;

use crate::BenchError;
use crate::load::Outcome;
use crate::machine::Usage;

/// How the names of a node's indexing threads begin (`node/src/shard/index/maintenance.rs`).
const INDEXING: [&str; 2] = ["indexer-", "upkeep"];

/// The processes that serve a load, on this machine; none where they are elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Servers(Vec<u32>);

/// Time on a processor, of all servers together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ProcessorTime {
    /// Of all threads.
    pub all: Duration,
    /// Of those that index vectors.
    pub indexing: Duration,
}

impl ProcessorTime {
    fn since(self, before: ProcessorTime) -> ProcessorTime {
        ProcessorTime {
            all: self.all.saturating_sub(before.all),
            indexing: self.indexing.saturating_sub(before.indexing),
        }
    }

    /// Of this and another load.
    #[must_use]
    pub fn plus(self, other: ProcessorTime) -> ProcessorTime {
        ProcessorTime { all: self.all + other.all, indexing: self.indexing + other.indexing }
    }
}

impl Servers {
    /// These processes.
    pub fn new(processes: impl IntoIterator<Item = u32>) -> Servers {
        Servers(processes.into_iter().collect())
    }

    /// Does a load, and notes what the servers spent on it. Without a note where one of them has ended, or none is known.
    pub async fn during(&self, load: impl Future<Output = Outcome>) -> Outcome {
        let before = self.spent();
        let mut outcome = load.await;
        let (Ok(before), Ok(after)) = (before, self.spent()) else { return outcome };
        outcome.servers = (!self.0.is_empty()).then(|| after.since(before));
        outcome
    }

    fn spent(&self) -> Result<ProcessorTime, BenchError> {
        let mut spent = ProcessorTime::default();
        for &process in &self.0 {
            spent.all += Usage::of(process)?.cpu;
            spent.indexing += indexing(process)?;
        }
        Ok(spent)
    }
}

/// Of the indexing threads of a process.
fn indexing(process: u32) -> Result<Duration, BenchError> {
    let folder = format!("/proc/{process}/task");
    let mut spent = Duration::ZERO;
    for thread in fs::read_dir(&folder).map_err(BenchError::io(&folder))? {
        let thread = thread.map_err(BenchError::io(&folder))?.path();
        // One that has ended since the folder was read was none of those, which run as long as their node.
        let Ok(name) = fs::read_to_string(thread.join("comm")) else { continue };
        if INDEXING.iter().any(|start| name.starts_with(start)) {
            spent += Usage::of_thread(&thread)?.cpu;
        }
    }
    Ok(spent)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;
    use crate::load::{Limit, closed_loop};

    /// Computes until this thread has used so much of a processor, or much more time than that has passed.
    fn compute(time: Duration) {
        let thread = std::path::PathBuf::from("/proc/thread-self");
        let spent = || Usage::of_thread(&thread).expect("this thread").cpu;
        let (before, started) = (spent(), Instant::now());
        while spent() - before < time {
            assert!(started.elapsed() < Duration::from_secs(60), "no processor in a minute");
            std::hint::black_box((0..100_000u64).fold(1, |sum: u64, n| sum.wrapping_mul(31).wrapping_add(n)));
        }
    }

    #[tokio::test]
    async fn time_of_indexing_threads_is_told_apart() {
        let (start, started) = mpsc::channel();
        let (done, is_done) = mpsc::channel();
        // It lives on until its time was read.
        let (end, ends) = mpsc::channel::<()>();
        let indexer = std::thread::Builder::new().name("indexer-0".into()).spawn(move || {
            started.recv().expect("the load begins");
            compute(Duration::from_millis(60));
            done.send(()).expect("the load waits");
            let _ = ends.recv();
        });
        let indexer = indexer.expect("a thread");
        let servers = Servers::new([std::process::id()]);
        let outcome = servers
            .during(async move {
                start.send(()).expect("it waits");
                is_done.recv().expect("it computes");
                compute(Duration::from_millis(40));
                closed_loop(&[()], Limit::Operations(4), |(), _| async { Ok(()) }).await
            })
            .await;
        drop(end);
        indexer.join().expect("no panic");
        let spent = outcome.servers.expect("a running process");
        // The kernel counts in ticks of ten milliseconds; other tests of this process run too, but none of them indexes.
        assert!(spent.indexing >= Duration::from_millis(20), "{spent:?}");
        assert!(spent.all >= spent.indexing + Duration::from_millis(20), "{spent:?}");
        let summary = outcome.summary("four operations").expect("figures");
        let per_operation = summary.servers_us.expect("of the servers");
        assert!((per_operation - spent.all.as_secs_f64() * 1e6 / 4.0).abs() < 1.0, "{summary:?}");
        assert!(summary.indexing_us.expect("of indexes") < per_operation);
    }

    #[tokio::test]
    async fn servers_elsewhere_have_no_time() {
        let load = || closed_loop(&[()], Limit::Operations(1), |(), _| async { Ok(()) });
        assert_eq!(Servers::default().during(load()).await.servers, None);
        assert_eq!(Servers::new([u32::MAX]).during(load()).await.servers, None, "nor one that has ended");
    }
}
