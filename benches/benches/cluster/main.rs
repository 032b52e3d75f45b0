//! Figures of a real cluster: three nodes and a router as processes, on this machine, with the load beside them.
//!
//! `make bench-cluster` builds what it needs and runs all of it in some ten minutes. `BENCH_ARGS="--only store,search"`
//! runs parts; a report in the output folder that was made on this machine in the same way is continued.
//!
//! MIRA_BIN names the program; MIRA_BENCH_DIR, the folder (and so the disk) for the data; MIRA_BENCH_DATA, a folder of
//! real embeddings (`vectors::Vectors::read` says in what form) instead of ones made from this machine's texts.

mod run;

use std::path::PathBuf;

use clap::Parser;

use mira_benches::input::Input;
use run::{Options, PartName};

/// Measure a three-node cluster on this machine
#[derive(Debug, Parser)]
struct Arguments {
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<PartName>,
    /// Not these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    skip: Vec<PartName>,
    /// Tiny sizes, to see that it works
    #[arg(long)]
    quick: bool,
    /// Where cluster.json and cluster.md go
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/../bench"))]
    out: PathBuf,
    /// Where the data lies while it runs
    #[arg(long, env = "MIRA_BENCH_DIR", default_value = env!("CARGO_TARGET_TMPDIR"))]
    dir: PathBuf,
    /// A folder of real embeddings
    #[arg(long, env = "MIRA_BENCH_DATA")]
    data: Option<PathBuf>,
    /// Cargo says this to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let chosen = |part: &PartName| arguments.only.is_empty() || arguments.only.contains(part);
    let parts = PartName::ALL.into_iter().filter(chosen).filter(|part| !arguments.skip.contains(part)).collect();
    let input = match arguments.quick {
        true => Input::Invented { dim: 384 },
        false => Input::Real { embeddings: arguments.data, model: None },
    };
    let options = Options { parts, quick: arguments.quick, input, out: arguments.out, dir: arguments.dir };
    let report = run::run(options).await?;
    println!("\n{}", report.to_markdown());
    Ok(())
}
