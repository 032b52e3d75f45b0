//! `mira admin`: nodes, shards and collections, a file for each.

mod collections;
mod nodes;
mod shards;

use clap::{Args, Subcommand};

use crate::error::CliError;

/// Look after nodes, shards and collections
#[derive(Debug, Args)]
pub struct Admin {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, Subcommand)]
enum Subject {
    /// List the storage nodes; add, drain, replace and remove them
    Nodes(nodes::Nodes),
    /// List the shards with their replicas
    Shards(shards::Shards),
    /// List, show, make and remove collections
    Collections(collections::Collections),
}

impl Admin {
    /// Asks or changes, and prints.
    pub async fn run(self) -> Result<(), CliError> {
        match self.subject {
            Subject::Nodes(nodes) => nodes.run().await,
            Subject::Shards(shards) => shards.run().await,
            Subject::Collections(collections) => collections.run().await,
        }
    }
}
