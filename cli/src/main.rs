//! The `mira` program.
//!
//! Each verb is a file under `verbs/`. The verbs that ask a cluster something go through [`client`], which speaks the
//! router's REST API and nothing else, so that what a shell can do any program can do. What they print is made by
//! plain functions from answers to text ([`output`]); with `--json` it is the answer itself.
//!
//! Exit code 0: done. 1: failed, with one line `error[code]: detail` on standard error. 2: wrong usage.

mod args;
mod backoff;
#[cfg(feature = "backup")]
mod backup;
mod client;
mod error;
mod import;
mod output;
#[cfg(feature = "server")]
mod server;
mod terminal;
mod transfer;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

use crate::verbs::Cli;

/// Storing many small frames spends a tenth of its time in the C library's allocator and leaves its heap in pieces.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match verbs::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::say(&error.render());
            error.exit_code()
        }
    }
}
