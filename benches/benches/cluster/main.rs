//! Figures of a real cluster: three nodes and a router as processes, on this machine, with the load beside them.
//!
//! `make bench-cluster` builds what it needs and runs most of it in some fifteen minutes. `BENCH_ARGS="--only store,search"`
//! runs parts; a report in the output folder that was made on this machine in the same way is continued. Two parts run
//! only when they are named: `peers` (`make bench-peers`), which installs a Chroma server to compare with, and `scale`
//! (`make bench-scale`), which goes up to a million documents.
//!
//! MIRA_BIN names the program; MIRA_BENCH_DIR, the folder (and so the disk) for the data; MIRA_BENCH_DATA, a folder of
//! real embeddings (`vectors::Vectors::read` says in what form) instead of ones made from this machine's texts.

mod run;

use std::path::PathBuf;

use clap::Parser;

use mira_benches::input::Input;
use run::{Options, PartName, Points};

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
    /// Documents of the points of `scale`
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [10_000, 100_000, 1_000_000], value_parser = documents)]
    sizes: Vec<usize>,
    /// Replication of the points of `scale`, each with as many nodes
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 3], value_parser = replication)]
    replication: Vec<u8>,
    /// Leave out points of `scale` that its report has already
    #[arg(long)]
    resume: bool,
    /// Documents of `peers`
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = documents)]
    peer_documents: usize,
    /// Where cluster.json, cluster.md, and the scale.* of `scale` go
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

fn documents(text: &str) -> Result<usize, String> {
    match text.replace('_', "").parse() {
        Ok(count) if (100..=10_000_000).contains(&count) => Ok(count),
        _ => Err("a number from 100 to 10000000".to_owned()),
    }
}

fn replication(text: &str) -> Result<u8, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("1 or 3".to_owned()),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = Arguments::parse();
    let chosen =
        |part: &PartName| if arguments.only.is_empty() { !part.is_extra() } else { arguments.only.contains(part) };
    let parts = PartName::ALL.into_iter().filter(chosen).filter(|part| !arguments.skip.contains(part)).collect();
    let input = if arguments.quick {
        Input::Invented { dim: 384 }
    } else {
        Input::Real { embeddings: arguments.data, model: None }
    };
    arguments.sizes.sort_unstable();
    arguments.sizes.dedup();
    let (sizes, replication, resume) = (arguments.sizes, arguments.replication, arguments.resume);
    let options = Options {
        parts,
        quick: arguments.quick,
        input,
        out: arguments.out,
        dir: arguments.dir,
        points: Points { sizes, replication, resume },
        peer_documents: arguments.peer_documents,
    };
    for report in run::run(options).await? {
        println!("\n{}", report.to_markdown());
    }
    Ok(())
}
