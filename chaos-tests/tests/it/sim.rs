//! The deterministic simulation: a slice of its seeds, its determinism, and whether it finds what it is for.
//!
//! `make sim SEEDS=10000` runs many more.

use mira_chaos_tests::sim::{
    self,
    many::{Seeds, run_many},
    plan::Bug,
};

#[test]
fn two_hundred_seeds_violate_nothing() {
    let (report, failed) = run_many(Seeds { seeds: 0..200, bug: None, keep_going: false }, |_| {});
    println!("{report}");
    if let Some(outcome) = failed {
        panic!("{outcome}");
    }
    assert_eq!(report.seeds, 200);
    assert!(report.seen_at_rest() > 1_000, "groups rest under faults too: {}", report.seen_at_rest());
    assert!(report.shared_entries() > 300, "writes share entries of the log: {}", report.shared_entries());
}

#[test]
fn one_seed_gives_one_trace() {
    for seed in [2, 7, 1_001] {
        let (first, second) = (sim::run(seed, None, false), sim::run(seed, None, false));
        for (a, b) in first.trace.iter().zip(&second.trace) {
            assert_eq!(a, b, "seed {seed}");
        }
        assert_eq!((first.trace_lines, first.trace_digest), (second.trace_lines, second.trace_digest), "seed {seed}");
        assert!(first.trace_lines > 500, "a run of {} lines proves little", first.trace_lines);
    }
    assert_ne!(sim::run(2, None, false).trace_digest, sim::run(3, None, false).trace_digest, "seeds differ");
}

/// Within so many seeds a mistake must be noticed, and by one of these invariants.
fn found(bug: Bug, within: u64, by: &[&str]) {
    let (report, failed) = run_many(Seeds { seeds: 0..within, bug: Some(bug), keep_going: false }, |_| {});
    let outcome = failed.unwrap_or_else(|| panic!("{bug:?} is not noticed:\n{report}"));
    let violation = outcome.violation.expect("a failed run has a violation");
    println!("{bug:?}: seed {}: {}: {}", outcome.seed, violation.invariant, violation.what);
    assert!(by.contains(&violation.invariant), "{bug:?} shows as {violation:?}");
}

#[test]
fn appends_that_are_not_on_disk_are_noticed() {
    let by = [
        "log matching",
        "state machine safety",
        "leader completeness",
        "acknowledged",
        "linearizable",
        "replicas live",
        "no panic",
    ];
    found(Bug::AppendsNotSynced, 200, &by);
}

#[test]
fn reads_that_no_quorum_confirmed_are_noticed() {
    found(Bug::UnconfirmedReads, 200, &["linearizable"]);
}

#[test]
fn retries_that_are_not_recognised_are_noticed() {
    found(Bug::RetriesNotRecognised, 200, &["applied once"]);
}

#[test]
fn requests_forgotten_by_a_jump_of_the_clock_are_noticed() {
    found(Bug::ClockForgetsRequests, 600, &["applied once"]);
}

#[test]
fn frames_taken_over_before_they_were_frozen_are_noticed() {
    found(Bug::OpensUnfrozen, 100, &["one owner"]);
}

#[test]
fn writes_called_undone_because_a_replica_stopped_are_noticed() {
    found(Bug::StoppedMeansUndone, 600, &["acknowledged"]);
}
