//! `mira admin collections`: list, show, make and remove them.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use mira_proto::model::{Collection, CollectionSettings, Metric, Quantization};

use crate::args::{Remote, duration};
use crate::client::Client;
use crate::error::CliError;
use crate::output;

/// List, show, make and remove collections
#[derive(Debug, Args)]
pub struct Collections {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List every collection
    #[command(after_help = "Examples:\n  mira admin collections list")]
    List(#[command(flatten)] Remote),
    /// Show one collection
    #[command(after_help = "Examples:\n  mira admin collections show manuals --json")]
    Show {
        /// Its name
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Make a collection
    #[command(after_help = "\
Examples:
  mira admin collections create manuals
  mira admin collections create images --dim 512 --metric dot --lifetime 720h")]
    Create(Create),
    /// Remove a collection with everything in it
    #[command(after_help = "Examples:\n  mira admin collections delete drafts --yes")]
    Delete {
        /// Its name
        name: String,
        /// Everything in it is lost; say so
        #[arg(short, long, required = true)]
        yes: bool,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Debug, Args)]
struct Create {
    /// Its name
    name: String,
    /// Components of its vectors; those of the router's embedding model when absent
    #[arg(long)]
    dim: Option<u32>,
    /// How vectors are compared
    #[arg(long, value_enum, default_value_t)]
    metric: MetricName,
    /// How an index keeps vectors in memory
    #[arg(long, value_enum, default_value_t)]
    quantization: QuantizationName,
    /// Shards it is spread over
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    /// Forget what is stored in it after this long (such as 12h, 30d)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    lifetime: Option<Duration>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum MetricName {
    #[default]
    Cosine,
    Dot,
    L2,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum QuantizationName {
    None,
    #[default]
    Int8,
    Binary,
}

impl Collections {
    /// Asks or changes, and prints.
    pub async fn run(self) -> Result<(), CliError> {
        self.action.run().await
    }
}

impl Action {
    async fn run(self) -> Result<(), CliError> {
        match self {
            Action::List(remote) => {
                let list = Client::new(&remote)?.collections().await?;
                output::print_answer(&list, remote.json, |list| output::collections(list))
            }
            Action::Show { name, remote } => {
                let collection = Client::new(&remote)?.collection(&name).await?;
                output::print_answer(&collection, remote.json, one)
            }
            Action::Create(create) => {
                let collection = Client::new(&create.remote)?.put_collection(&create.name, &create.settings()).await?;
                output::print_answer(&collection, create.remote.json, one)
            }
            Action::Delete { name, remote, .. } => {
                Client::new(&remote)?.delete_collection(&name).await?;
                output::print_answer(&serde_json::json!({"deleted": name}), remote.json, |_| {
                    format!("deleted {name}\n")
                })
            }
        }
    }
}

impl Create {
    fn settings(&self) -> CollectionSettings {
        CollectionSettings {
            dim: self.dim,
            metric: match self.metric {
                MetricName::Cosine => Metric::Cosine,
                MetricName::Dot => Metric::Dot,
                MetricName::L2 => Metric::L2,
            },
            quantization: match self.quantization {
                QuantizationName::None => Quantization::None,
                QuantizationName::Int8 => Quantization::Int8,
                QuantizationName::Binary => Quantization::Binary,
            },
            partitions: self.partitions,
            ttl_seconds: self.lifetime.map(|lifetime| lifetime.as_secs().max(1)),
        }
    }
}

fn one(collection: &Collection) -> String {
    output::collections(std::slice::from_ref(collection))
}
