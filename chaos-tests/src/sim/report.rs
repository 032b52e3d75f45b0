//! What was counted: of one run, and of many.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use mira_node::placement::reconcile::Action;
use serde_json::json;

use super::invariants::Violation;
use super::plan::{Bug, Fault};
use super::runtime;

/// Counts of a run.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Faults by kind.
    pub faults: BTreeMap<Fault, u64>,
    /// Operations of clients by outcome.
    pub operations: BTreeMap<&'static str, u64>,
    /// Actions of plans by kind, and whether they were done or are tried again.
    pub actions: BTreeMap<String, Executed>,
    /// Tries that were refused, by reason.
    pub retries: BTreeMap<&'static str, u64>,
    /// The longest time without an answer to any client.
    pub longest_silence: Duration,
    /// From healing everything to the first acknowledged write of each shard, at worst.
    pub longest_recovery: Duration,
    /// From the crash of a leader whose group rested to the next leader, at worst.
    pub longest_failover: Duration,
    /// Commands that a replica applied behind another one of the same log entry.
    pub shared_entries: u64,
    /// Looks, while faults went on, that found a leader whose group rested.
    pub seen_at_rest: u64,
    /// Virtual time in all.
    pub virtual_time: Duration,
    last_answer: Option<Duration>,
}

/// How often an action was executed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Executed {
    /// With success.
    pub done: u64,
    /// In vain.
    pub failed: u64,
}

impl Figures {
    /// A fault happened.
    pub fn fault(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    /// An operation ended.
    pub fn operation(&mut self, outcome: &'static str, answered: bool) {
        *self.operations.entry(outcome).or_default() += 1;
        if answered {
            let now = runtime::now();
            let silence = self.last_answer.map_or(Duration::ZERO, |last| now - last);
            self.longest_silence = self.longest_silence.max(silence);
            self.last_answer = Some(now);
        }
    }

    /// A node executed an action of its plan.
    pub fn action(&mut self, action: &Action, done: bool) {
        let text = format!("{action:?}");
        let kind = text.split('(').next().unwrap_or_default().to_owned();
        let executed = self.actions.entry(kind).or_default();
        if done {
            executed.done += 1;
        } else {
            executed.failed += 1;
        }
    }

    /// A try was refused.
    pub fn retried(&mut self, reason: &'static str) {
        *self.retries.entry(reason).or_default() += 1;
    }
}

/// What became of a seed.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The mistake put in, if any.
    pub bug: Option<Bug>,
    /// The first violation, if there was one.
    pub violation: Option<Violation>,
    /// What was counted.
    pub figures: Figures,
    /// The end of the trace.
    pub trace: Vec<String>,
    /// Lines of the whole trace.
    pub trace_lines: u64,
    /// Digest of the whole trace.
    pub trace_digest: blake3::Hash,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = &self.trace_digest.to_hex()[..16];
        let Some(violation) = &self.violation else {
            return write!(f, "seed {}: nothing wrong; {} trace lines, digest {digest}", self.seed, self.trace_lines);
        };
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        let (at, seed) = (violation.at.as_secs_f64(), self.seed);
        writeln!(f, "seed {seed} violates \"{}\" at {at:.6} s: {}", violation.invariant, violation.what)?;
        write!(f, "replay it with: make sim SEED={seed}")
    }
}

/// The figures of many seeds.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// First and last seed asked for.
    pub first_seed: u64,
    /// Seeds that ran to their end.
    pub seeds: u64,
    /// Real time.
    pub took: Duration,
    total: Figures,
    worst_silence: (Duration, u64),
    worst_recovery: (Duration, u64),
    worst_failover: (Duration, u64),
    violations: Vec<(u64, Violation)>,
}

impl Report {
    /// An empty one.
    pub fn from(first_seed: u64) -> Self {
        Report { first_seed, ..Report::default() }
    }

    /// Adds a run.
    pub fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        let figures = &outcome.figures;
        for (fault, count) in &figures.faults {
            *self.total.faults.entry(*fault).or_default() += count;
        }
        for (name, count) in &figures.operations {
            *self.total.operations.entry(name).or_default() += count;
        }
        for (kind, executed) in &figures.actions {
            let total = self.total.actions.entry(kind.clone()).or_default();
            total.done += executed.done;
            total.failed += executed.failed;
        }
        for (name, count) in &figures.retries {
            *self.total.retries.entry(name).or_default() += count;
        }
        self.total.virtual_time += figures.virtual_time;
        self.total.seen_at_rest += figures.seen_at_rest;
        self.total.shared_entries += figures.shared_entries;
        self.worst_failover = self.worst_failover.max((figures.longest_failover, outcome.seed));
        self.worst_silence = self.worst_silence.max((figures.longest_silence, outcome.seed));
        self.worst_recovery = self.worst_recovery.max((figures.longest_recovery, outcome.seed));
        self.violations.extend(outcome.violation.clone().map(|violation| (outcome.seed, violation)));
    }

    /// How often a group was seen at rest while faults went on.
    pub fn seen_at_rest(&self) -> u64 {
        self.total.seen_at_rest
    }

    /// How many commands shared a log entry with one before them, counted on each replica.
    pub fn shared_entries(&self) -> u64 {
        self.total.shared_entries
    }

    /// Whether nothing was violated.
    pub fn clean(&self) -> bool {
        self.violations.is_empty()
    }

    /// For programs.
    pub fn to_json(&self) -> serde_json::Value {
        let faults: BTreeMap<String, u64> =
            self.total.faults.iter().map(|(fault, count)| (format!("{fault:?}"), *count)).collect();
        let worst = |(duration, seed): (Duration, u64)| json!({ "seconds": duration.as_secs_f64(), "seed": seed });
        json!({
            "first_seed": self.first_seed,
            "seeds": self.seeds,
            "took_seconds": self.took.as_secs_f64(),
            "virtual_seconds": self.total.virtual_time.as_secs_f64(),
            "faults": faults,
            "operations": self.total.operations,
            "actions": self.total.actions.iter().map(|(kind, executed)| {
                (kind.clone(), json!({ "done": executed.done, "failed": executed.failed }))
            }).collect::<BTreeMap<_, _>>(),
            "retries": self.total.retries,
            "longest_silence": worst(self.worst_silence),
            "longest_recovery": worst(self.worst_recovery),
            "longest_failover_of_a_group_at_rest": worst(self.worst_failover),
            "seen_at_rest": self.total.seen_at_rest,
            "shared_entries": self.total.shared_entries,
            "violations": self.violations.iter().map(|(seed, violation)| json!({
                "seed": seed,
                "invariant": violation.invariant,
                "what": violation.what,
                "virtual_seconds": violation.at.as_secs_f64(),
            })).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.seeds as f64 / self.took.as_secs_f64().max(0.001);
        writeln!(
            f,
            "{} seeds from {} in {:.1} s ({rate:.1} a second), {:.0} s of virtual time",
            self.seeds,
            self.first_seed,
            self.took.as_secs_f64(),
            self.total.virtual_time.as_secs_f64()
        )?;
        writeln!(f, "faults")?;
        for (fault, count) in &self.total.faults {
            writeln!(f, "  {:<18} {count:>10}", format!("{fault:?}"))?;
        }
        writeln!(f, "operations")?;
        for (outcome, count) in &self.total.operations {
            writeln!(f, "  {outcome:<18} {count:>10}")?;
        }
        writeln!(f, "actions of plans           done     failed")?;
        for (kind, Executed { done, failed }) in &self.total.actions {
            writeln!(f, "  {kind:<18} {done:>10} {failed:>10}")?;
        }
        writeln!(f, "tries refused")?;
        for (reason, count) in &self.total.retries {
            writeln!(f, "  {reason:<18} {count:>10}")?;
        }
        let worst = |(duration, seed): (Duration, u64)| format!("{:.2} s (seed {seed})", duration.as_secs_f64());
        writeln!(f, "longest time without any answer, under faults: {}", worst(self.worst_silence))?;
        writeln!(f, "longest way back to writes, after healing:     {}", worst(self.worst_recovery))?;
        writeln!(f, "longest way from a leader at rest to the next: {}", worst(self.worst_failover))?;
        writeln!(f, "groups seen at rest under faults: {}", self.total.seen_at_rest)?;
        writeln!(f, "commands applied behind another of their entry: {}", self.total.shared_entries)?;
        for (seed, violation) in &self.violations {
            let what: String = violation.what.chars().take(200).collect();
            writeln!(f, "VIOLATION seed {seed}: {}: {}", violation.invariant, what.replace('\n', " "))?;
        }
        write!(f, "violations: {}", self.violations.len())
    }
}
