//! The verbs, one file each: its arguments with their help, and what it does.

#[cfg(not(all(feature = "server", feature = "bench", feature = "backup")))]
mod absent;
mod admin;
#[cfg(feature = "bench")]
mod benchmark;
mod completions;
#[cfg(feature = "server")]
mod dev;
mod export;
mod forget;
mod import;
#[cfg(feature = "server")]
mod node;
mod owner;
mod recall;
mod restore_memory;
#[cfg(feature = "server")]
mod router;
mod search;
mod sessions;
mod status;
mod store;
#[cfg(feature = "bench")]
mod test;

use std::future::Future;

use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::{Parser, Subcommand};

use crate::error::CliError;

/// Encrypted, replicated memory for AI agents.
#[derive(Debug, Parser)]
#[command(name = "mira", version, styles = styles(), propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Start a cluster on this machine with `mira dev`, then try:
  mira store \"The deploy key lives in the vault under ci/deploy\"
  mira search \"where is the deploy key?\"")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

fn styles() -> Styles {
    Styles::styled()
        .header(AnsiColor::Yellow.on_default().bold())
        .usage(AnsiColor::Yellow.on_default().bold())
        .literal(AnsiColor::Green.on_default())
        .placeholder(AnsiColor::Cyan.on_default())
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    Store(store::Store),
    Search(Box<search::Search>),
    Recall(recall::Recall),
    Sessions(sessions::Sessions),
    Forget(forget::Forget),
    RestoreMemory(restore_memory::RestoreMemory),
    Import(import::Import),
    Export(export::Export),
    Status(status::Status),
    Owner(owner::Owner),
    Admin(admin::Admin),
    #[cfg(feature = "server")]
    Dev(dev::Dev),
    #[cfg(not(feature = "server"))]
    #[command(hide = true)]
    Dev(absent::Absent),
    #[cfg(feature = "server")]
    Node(node::Node),
    #[cfg(not(feature = "server"))]
    #[command(hide = true)]
    Node(absent::Absent),
    #[cfg(feature = "server")]
    Router(router::Router),
    #[cfg(not(feature = "server"))]
    #[command(hide = true)]
    Router(absent::Absent),
    #[cfg(feature = "bench")]
    Benchmark(benchmark::Benchmark),
    #[cfg(not(feature = "bench"))]
    #[command(hide = true)]
    Benchmark(absent::Absent),
    #[cfg(feature = "bench")]
    Test(test::Test),
    #[cfg(not(feature = "bench"))]
    #[command(hide = true)]
    Test(absent::Absent),
    Completions(completions::Completions),
}

/// Does what the command line says.
pub fn run(cli: Cli) -> Result<(), CliError> {
    match cli.verb {
        Verb::Store(verb) => block_on(verb.run()),
        Verb::Search(verb) => block_on(verb.run()),
        Verb::Recall(verb) => block_on(verb.run()),
        Verb::Sessions(verb) => block_on(verb.run()),
        Verb::Forget(verb) => block_on(verb.run()),
        Verb::RestoreMemory(verb) => block_on(verb.run()),
        Verb::Import(verb) => block_on(verb.run()),
        Verb::Export(verb) => block_on(verb.run()),
        Verb::Status(verb) => block_on(verb.run()),
        Verb::Owner(verb) => block_on(verb.run()),
        Verb::Admin(verb) => block_on(verb.run()),
        #[cfg(not(feature = "server"))]
        Verb::Dev(verb) => verb.refuse("dev", "server"),
        #[cfg(feature = "server")]
        Verb::Dev(verb) => crate::server::serve(verb.run()),
        #[cfg(not(feature = "server"))]
        Verb::Node(verb) => verb.refuse("node", "server"),
        #[cfg(feature = "server")]
        Verb::Node(verb) => crate::server::serve(verb.run()),
        #[cfg(not(feature = "server"))]
        Verb::Router(verb) => verb.refuse("router", "server"),
        #[cfg(feature = "server")]
        Verb::Router(verb) => crate::server::serve(verb.run()),
        #[cfg(not(feature = "bench"))]
        Verb::Benchmark(verb) => verb.refuse("benchmark", "bench"),
        #[cfg(feature = "bench")]
        Verb::Benchmark(verb) => crate::server::serve(verb.run()),
        #[cfg(not(feature = "bench"))]
        Verb::Test(verb) => verb.refuse("test", "bench"),
        #[cfg(feature = "bench")]
        Verb::Test(verb) => crate::server::serve(verb.run()),
        Verb::Completions(verb) => verb.run(),
    }
}

/// Clients need one thread; what computes beside them (reading an import) has its own.
fn block_on(work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::io("the async runtime"))?;
    runtime.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
