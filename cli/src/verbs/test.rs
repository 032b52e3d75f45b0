//! `mira test`: quick checks of this machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use mira_benches::caller::Target;
use mira_benches::input::Input;
use mira_benches::load::Limit;
use mira_benches::machine::{self, Machine};
use mira_benches::report::Report;
use mira_benches::suite::{Bench, Scale};

use super::benchmark::frames;
use super::dev::LocalCluster;
use crate::error::CliError;
use crate::output;

/// Probes of the disk.
const PROBES: u32 = 200;
const TEXT_DIM: usize = 384;

/// Check this machine
#[derive(Debug, Args)]
pub struct Test {
    #[command(subcommand)]
    what: Check,
}

#[derive(Debug, Subcommand)]
enum Check {
    /// How fast this machine stores: fsync, frames written and read by a cluster of three nodes of its own
    StorageSpeed {
        /// More writers and readers, and longer
        #[arg(long)]
        detailed: bool,
        /// Folder on the disk to test; what is written there is removed [default: the system's temporary folder]
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// Print the figures as JSON
        #[arg(long)]
        json: bool,
    },
}

impl Test {
    /// Measures and prints.
    pub async fn run(self) -> Result<(), CliError> {
        let Check::StorageSpeed { detailed, data, json } = self.what;
        let base = data.unwrap_or_else(std::env::temp_dir);
        let folder = Scratch::new(&base)?;
        let fdatasync = machine::fdatasync(&folder.0, PROBES).map_err(CliError::bench)?;
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let cluster = LocalCluster::start(Some(folder.0.clone()), Some(3), any_port, None).await?;
        let target = Target {
            url: format!("http://{}", cluster.router.http_addr),
            grpc: format!("http://{}", cluster.router.grpc_addr),
            token: cluster.token().to_owned(),
        };
        let scale = if detailed {
            Scale { run: Limit::Time(Duration::from_secs(3)), documents: vec![1_000], ..Scale::full() }
        } else {
            Scale {
                run: Limit::Time(Duration::from_secs(1)),
                documents: vec![200],
                writers: vec![1],
                callers: vec![1],
                ..Scale::full()
            }
        };
        let (texts, vectors) =
            Input::Invented { dim: TEXT_DIM }.load(scale.most_documents()).map_err(CliError::bench)?;
        let mut bench = Bench::new(target, scale, vectors, texts, fdatasync);
        let measured = frames(&mut bench).await;
        cluster.stop().await;
        let machine = Machine::describe(&folder.0);
        let mut report = Report::new(machine, vec![("Cluster".to_owned(), "3 nodes in this process".to_owned())]);
        report.put("storage-speed", measured.map_err(CliError::bench)?);
        output::print_answer(&report, json, |report| format!("{}\n{}\n", report.to_markdown(), report.verdict()))
    }
}

/// A folder that is removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(base: &std::path::Path) -> Result<Scratch, CliError> {
        let folder = base.join(format!("mira-storage-speed-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(&folder).map_err(CliError::io(&folder))?;
        Ok(Scratch(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} was not removed: {error}", self.0.display());
        }
    }
}
