//! Runs the deterministic simulation: many seeds, or one of them with its whole trace.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use mira_chaos_tests::sim;
use mira_chaos_tests::sim::plan::Bug;

/// Simulated clusters under faults, one for each seed.
#[derive(Parser)]
struct Arguments {
    /// Replay this seed and print its trace.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Put this mistake in, to see it found.
    #[arg(long)]
    bug: Option<Bug>,
    /// Go on after a violation, to see them all.
    #[arg(long)]
    keep_going: bool,
    /// Write the report there, as JSON.
    #[arg(long)]
    report: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.seed {
        let outcome = sim::run(seed, arguments.bug, true);
        println!("{:#?}", outcome.figures);
        println!("{}", sim::report::Outcome { trace: Vec::new(), ..outcome.clone() });
        return code(outcome.violation.is_none());
    }
    let (from, until) = (arguments.from, arguments.from + arguments.seeds);
    let seeds = sim::many::Seeds { seeds: from..until, bug: arguments.bug, keep_going: arguments.keep_going };
    let shown = AtomicU64::new(0);
    let (report, failed) = sim::many::run_many(seeds, |report| {
        let seconds = report.took.as_secs();
        if seconds >= shown.load(Ordering::Relaxed) + 5 {
            shown.store(seconds, Ordering::Relaxed);
            let rate = report.seeds as f64 / report.took.as_secs_f64();
            eprintln!("{} of {} seeds, {rate:.1} a second", report.seeds, arguments.seeds);
        }
    });
    if let Some(outcome) = &failed {
        println!("{outcome}");
    }
    println!("{report}");
    if let Some(path) = arguments.report {
        let json = serde_json::to_string_pretty(&report.to_json()).expect("plain data");
        if let Err(error) = std::fs::write(&path, json) {
            eprintln!("{}: {error}", path.display());
            return ExitCode::FAILURE;
        }
        println!("report: {}", path.display());
    }
    code(report.clean())
}

fn code(clean: bool) -> ExitCode {
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
