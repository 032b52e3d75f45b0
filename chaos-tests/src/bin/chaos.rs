//! `make chaos`: rounds of faults on clusters of real processes until the time is up, and a report.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use mira_chaos_tests::{nemesis::Kind, report::Report, round};

/// Break a cluster of real processes in every way, and judge what its callers saw
#[derive(Debug, Parser)]
struct Arguments {
    /// Minutes to run; the round under way then is finished
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Seed of the first round; each later round has the next number [default: of the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds of faults in one round
    #[arg(long, default_value_t = 90)]
    round_seconds: u64,
    /// Kinds of faults [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    faults: Vec<Kind>,
    /// Where the report goes
    #[arg(long, default_value = "target/chaos")]
    out: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        clock.map_or(0, |time| time.as_secs())
    });
    let kinds = if arguments.faults.is_empty() { Kind::value_variants().to_vec() } else { arguments.faults };
    let time = Duration::from_secs_f64(arguments.minutes * 60.0);
    let started = Instant::now();
    let mut rounds = Vec::new();
    while rounds.is_empty() || started.elapsed() < time {
        let seed = seed + rounds.len() as u64;
        println!(
            "round {} (seed {seed}), {:.1} of {} minutes",
            rounds.len() + 1,
            started.elapsed().as_secs_f64() / 60.0,
            arguments.minutes
        );
        let settings = round::Settings {
            seed,
            kinds: kinds.clone(),
            time: Duration::from_secs(arguments.round_seconds),
            folder: arguments.out.join(format!("seed-{seed}")),
        };
        let report = round::run(&settings).await;
        for violation in &report.violations {
            println!("  VIOLATION: {violation}");
        }
        rounds.push(report);
        // Written after every round, so that an interrupted run has a report too.
        let report = Report::of(rounds[0].seed, started.elapsed(), rounds.clone());
        if let Err(error) = report.write(&arguments.out) {
            println!("no report in {}: {error}", arguments.out.display());
        }
    }
    let report = Report::of(seed, started.elapsed(), rounds);
    println!("{}report: {}", report.summary(), arguments.out.join("report.html").display());
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
