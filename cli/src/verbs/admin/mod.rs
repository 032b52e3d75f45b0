//! `mira admin`: nodes, shards, collections, keys and backups, a file for each.

mod backup;
mod collections;
mod keys;
mod nodes;
mod restore;
mod shards;
mod shred_status;
mod tune;

use clap::{Args, Subcommand};

use crate::error::CliError;

/// Look after nodes, shards, collections, keys and backups
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
    /// List, show, make, grow, tune and remove collections
    Collections(collections::Collections),
    /// List the keys by name; put others in their place
    Keys(keys::Keys),
    /// Show how far the end of keys is, with the cluster's receipts
    ShredStatus(shred_status::ShredStatus),
    /// Make, list and check backups
    Backup(backup::Backup),
    /// Bring a backup back into an empty cluster
    Restore(restore::Restore),
}

impl Admin {
    /// Asks or changes, and prints.
    pub async fn run(self) -> Result<(), CliError> {
        match self.subject {
            Subject::Nodes(nodes) => nodes.run().await,
            Subject::Shards(shards) => shards.run().await,
            Subject::Collections(collections) => collections.run().await,
            Subject::Keys(keys) => keys.run().await,
            Subject::ShredStatus(status) => status.run().await,
            Subject::Backup(backup) => backup.run().await,
            Subject::Restore(restore) => restore.run().await,
        }
    }
}
