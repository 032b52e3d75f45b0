//! Many seeds, on all cores.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::plan::Bug;
use super::report::{Outcome, Report};

/// What to run.
#[derive(Debug, Clone)]
pub struct Seeds {
    /// Which.
    pub seeds: Range<u64>,
    /// The mistake put in, if any.
    pub bug: Option<Bug>,
    /// Go on after a violation.
    pub keep_going: bool,
}

/// Runs seeds until one violates something or all are done; the figures, and the outcome of the lowest seed that did.
pub fn run_many(what: Seeds, progress: impl Fn(&Report) + Sync) -> (Report, Option<Outcome>) {
    let Seeds { seeds, bug, keep_going } = what;
    let started = Instant::now();
    let report = Mutex::new(Report::from(seeds.start));
    let failed: Mutex<Option<Outcome>> = Mutex::new(None);
    let (next, stop) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let outcome = super::run(seed, bug, false);
            let mut report = report.lock();
            report.add(&outcome);
            report.took = started.elapsed();
            progress(&report);
            if outcome.violation.is_some() {
                stop.store(!keep_going, Ordering::Relaxed);
                let mut failed = failed.lock();
                if failed.as_ref().is_none_or(|other| other.seed > seed) {
                    *failed = Some(outcome);
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    (report.into_inner(), failed.into_inner())
}
