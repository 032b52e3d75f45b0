//! What everything in a run shares: randomness, the trace, the invariants, the figures.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use mira_proto::NodeId;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::invariants::{Invariants, Violation};
use super::plan::{Bug, Plan};
use super::report::Figures;
use super::{panics, runtime};

/// Lines of the trace that are kept for a report; all of them enter its digest.
const TRACE_KEPT: usize = 400;

/// The shared parts of a run.
pub struct World {
    /// What the seed decided.
    pub plan: Plan,
    /// What must hold.
    pub invariants: Mutex<Invariants>,
    /// What is counted.
    pub figures: Mutex<Figures>,
    rng: Mutex<StdRng>,
    trace: Mutex<Trace>,
    clock_offsets_ms: Mutex<BTreeMap<NodeId, i64>>,
    violation: Mutex<Option<Violation>>,
}

struct Trace {
    echo: bool,
    kept: VecDeque<String>,
    digest: blake3::Hasher,
    lines: u64,
}

impl World {
    /// A world of this plan; with `echo` the trace goes to the standard output as well.
    pub fn new(plan: Plan, echo: bool) -> Arc<Self> {
        let rng = Mutex::new(StdRng::seed_from_u64(plan.seed ^ 0x6D69_7261));
        let trace = Trace { echo, kept: VecDeque::new(), digest: blake3::Hasher::new(), lines: 0 };
        Arc::new(World {
            plan,
            invariants: Mutex::default(),
            figures: Mutex::default(),
            rng,
            trace: Mutex::new(trace),
            clock_offsets_ms: Mutex::default(),
            violation: Mutex::default(),
        })
    }

    /// Draws from the run's own generator.
    pub fn draw<T>(&self, from: impl FnOnce(&mut StdRng) -> T) -> T {
        from(&mut self.rng.lock())
    }

    /// Whether something of this probability happens now.
    pub fn chance(&self, probability: f64) -> bool {
        self.draw(|rng| rng.random_bool(probability))
    }

    /// Whether this mistake was put in.
    pub fn has(&self, bug: Bug) -> bool {
        self.plan.bug == Some(bug)
    }

    /// Adds a line to the trace.
    pub fn note(&self, line: std::fmt::Arguments<'_>) {
        let line = format!("{:>12.6} {line}", runtime::now().as_secs_f64());
        let mut trace = self.trace.lock();
        if trace.echo {
            println!("{line}");
        }
        trace.digest.update(line.as_bytes());
        trace.digest.update(b"\n");
        trace.lines += 1;
        if trace.kept.len() == TRACE_KEPT {
            trace.kept.pop_front();
        }
        trace.kept.push_back(line);
    }

    /// The last lines of the trace, its length, and a digest of all of it.
    pub fn trace(&self) -> (Vec<String>, u64, blake3::Hash) {
        let trace = self.trace.lock();
        (trace.kept.iter().cloned().collect(), trace.lines, trace.digest.finalize())
    }

    /// Holds a finding against an invariant; the first violation of a run is the one that counts.
    pub fn check(&self, invariant: &'static str, finding: Result<(), String>) {
        let Err(what) = finding else { return };
        let mut violation = self.violation.lock();
        if violation.is_none() {
            self.note(format_args!("VIOLATION {invariant}: {what}"));
            *violation = Some(Violation { invariant, what, at: runtime::now() });
        }
    }

    /// The first violation, if there was one.
    pub fn violation(&self) -> Option<Violation> {
        if let Some(message) = panics::first() {
            self.check("no panic", Err(message));
        }
        self.violation.lock().clone()
    }

    /// A node's wall clock: the virtual time, and what jumps added to it.
    pub fn wall_clock_ms(&self, node: NodeId) -> u64 {
        const EPOCH_MS: i64 = 1_790_000_000_000;
        let offset = self.clock_offsets_ms.lock().get(&node).copied().unwrap_or(0);
        (EPOCH_MS + offset + runtime::now().as_millis() as i64) as u64
    }

    /// Makes a node's wall clock jump.
    pub fn jump_clock(&self, node: NodeId, by_ms: i64) {
        *self.clock_offsets_ms.lock().entry(node).or_default() += by_ms;
    }

    /// Sets all wall clocks right.
    pub fn set_clocks_right(&self) {
        self.clock_offsets_ms.lock().clear();
    }

    /// Runs `work` beside everything else; a panic in it is a violation.
    pub fn spawn(self: &Arc<Self>, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let world = self.clone();
        runtime::spawn(async move {
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                world.check("no panic", Err(format!("{name} panicked")));
            }
        });
    }
}
