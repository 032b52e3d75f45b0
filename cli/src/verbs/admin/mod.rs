//! `mira admin`: nodes, shards, collections, keys and backups, a file for each.

#[cfg(feature = "backup")]
mod backup;
mod collections;
#[cfg(feature = "server")]
mod key_files;
mod keys;
mod nodes;
#[cfg(feature = "backup")]
mod restore;
mod shards;
mod shred_status;
mod tune;

use clap::{Args, Subcommand};

use crate::error::CliError;
#[cfg(not(feature = "backup"))]
use crate::verbs::absent::Absent;

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
    #[cfg(feature = "backup")]
    /// Make, list and check backups
    Backup(backup::Backup),
    #[cfg(not(feature = "backup"))]
    #[command(hide = true)]
    Backup(Absent),
    #[cfg(feature = "backup")]
    /// Bring a backup back into an empty cluster
    Restore(restore::Restore),
    #[cfg(not(feature = "backup"))]
    #[command(hide = true)]
    Restore(Absent),
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
            #[cfg(feature = "backup")]
            Subject::Backup(backup) => backup.run().await,
            #[cfg(not(feature = "backup"))]
            Subject::Backup(absent) => absent.refuse("admin backup", "backup"),
            #[cfg(feature = "backup")]
            Subject::Restore(restore) => restore.run().await,
            #[cfg(not(feature = "backup"))]
            Subject::Restore(absent) => absent.refuse("admin restore", "backup"),
        }
    }
}
