//! The verbs, one file each: its arguments with their help, and what it does.

mod admin;
#[cfg(feature = "server")]
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
#[cfg(feature = "server")]
mod router;
mod search;
mod sessions;
mod status;
mod store;
#[cfg(feature = "server")]
mod test;

use std::future::Future;

use clap::Subcommand;

use crate::args::Cli;
use crate::error::CliError;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    Store(store::Store),
    Search(Box<search::Search>),
    Recall(recall::Recall),
    Sessions(sessions::Sessions),
    Forget(forget::Forget),
    Import(import::Import),
    Export(export::Export),
    Status(status::Status),
    Owner(owner::Owner),
    Admin(admin::Admin),
    #[cfg(feature = "server")]
    Dev(dev::Dev),
    #[cfg(feature = "server")]
    Node(node::Node),
    #[cfg(feature = "server")]
    Router(router::Router),
    #[cfg(feature = "server")]
    Benchmark(benchmark::Benchmark),
    #[cfg(feature = "server")]
    Test(test::Test),
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
        Verb::Import(verb) => block_on(verb.run()),
        Verb::Export(verb) => block_on(verb.run()),
        Verb::Status(verb) => block_on(verb.run()),
        Verb::Owner(verb) => block_on(verb.run()),
        Verb::Admin(verb) => block_on(verb.run()),
        #[cfg(feature = "server")]
        Verb::Dev(verb) => crate::server::serve(verb.run()),
        #[cfg(feature = "server")]
        Verb::Node(verb) => crate::server::serve(verb.run()),
        #[cfg(feature = "server")]
        Verb::Router(verb) => crate::server::serve(verb.run()),
        #[cfg(feature = "server")]
        Verb::Benchmark(verb) => crate::server::serve(verb.run()),
        #[cfg(feature = "server")]
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
