//! A slice of `make chaos` with a fixed seed: every kind of fault but damage once, on real processes under load.
//!
//! Damaged files are left to `make chaos`: what a node says of them depends on which file is hit, and that on timing.

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;
use mira_chaos_tests::{nemesis::Kind, report::Report, round};

/// The seed; any other must do as well.
const SEED: u64 = 2026;

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_every_kind_break_no_promise() {
    let settings = round::Settings {
        seed: SEED,
        kinds: Kind::value_variants().iter().copied().filter(|&kind| kind != Kind::BitFlips).collect(),
        // One deck: the schedule is not cut in its middle.
        time: Duration::from_secs(1),
        folder: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("chaos-slice"),
    };
    let round = round::run(&settings).await;
    let report = Report::of(SEED, Duration::ZERO, vec![round]);
    println!("{}", report.summary());
    assert!(report.violations.is_empty(), "{}; evidence in {}", report.summary(), settings.folder.display());
    let done: u64 = report.operations.values().map(|outcomes| outcomes.ok).sum();
    assert!(done > 500, "only {done} operations were done: this proves little");
}
