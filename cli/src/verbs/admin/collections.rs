//! `mira admin collections`: list, show, make, grow, tune and remove them.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use mira_proto::model::{
    Collection, CollectionSettings, GrowReply, GrowRequest, GrowthStatus, Metric, NamedVectors, Quantization,
    StatusRequest, VersionsKept,
};

use crate::args::{Remote, collection_name, duration};
use crate::client::Client;
use crate::error::CliError;
use crate::output;

use super::tune::Tune;

/// Between two looks at how far a growth is.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// List, show, make, grow, tune and remove collections
#[derive(Debug, Args)]
pub struct Collections {
    #[command(subcommand)]
    action: CollectionsAction,
}

#[derive(Debug, Subcommand)]
enum CollectionsAction {
    /// List every collection
    #[command(after_help = "Examples:\n  mira admin collections list")]
    List(#[command(flatten)] Remote),
    /// Show one collection
    #[command(after_help = "Examples:\n  mira admin collections show manuals --json")]
    Show {
        /// Its name
        #[arg(value_parser = collection_name)]
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Make a collection
    #[command(after_help = "\
Examples:
  mira admin collections create manuals
  mira admin collections create images --dim 512 --metric dot --lifetime 720h
  mira admin collections create decisions --versions last=50,days=365 --bin-days 30")]
    Create(Create),
    /// Spread a collection over more shards while it is in use
    #[command(after_help = "\
Examples:
  mira admin collections grow manuals --partitions 4 --dry-run
  mira admin collections grow manuals --partitions 4

Reads and writes go on meanwhile. Interrupted, the command can be given again; the growth itself goes on without it.
`mira admin nodes pause` stops it for now, `resume` lets it go on.")]
    Grow(Grow),
    /// Find the beam with which searches reach a recall, and have it used
    #[command(after_help = "\
Examples:
  mira admin collections tune manuals --recall 0.95 --dry-run
  mira admin collections tune manuals --recall 0.99 -k 20 --timeout 10m
  mira admin collections tune manuals --reset

Every shard asks with vectors of its own at growing beams (ef) and compares with the exact answers. The narrowest beam that
reaches the recall becomes that of all searches of the collection. Every vector is read once, by one thread of a node that
rests half of the time, so large collections need a long --timeout.")]
    Tune(Tune),
    /// Remove a collection with everything in it
    #[command(after_help = "Examples:\n  mira admin collections delete drafts --yes")]
    Delete {
        /// Its name
        #[arg(value_parser = collection_name)]
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
    #[arg(value_parser = collection_name)]
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
    /// Further vectors that its memories may have, such as state=1536 (cosine, int8) or state=1536:dot:binary; may be repeated
    #[arg(long = "vectors", value_name = "NAME=DIM[:METRIC[:QUANTIZATION]]", value_parser = named_vectors)]
    vectors: Vec<(String, NamedVectors)>,
    /// Shards it is spread over
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    /// Forget what is stored in it after this long (such as 12h, 30d)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    lifetime: Option<Duration>,
    /// Past versions of a memory that are kept, such as last=10,days=90; 0 of either keeps none. Of a collection that is there,
    /// this is changed
    #[arg(long, value_name = "last=N,days=N", value_parser = versions_kept)]
    versions: Option<VersionsKept>,
    /// Days for which forgotten memories rest in the bin; 0: there is none. Of a collection that is there, this is changed
    #[arg(long, value_name = "DAYS")]
    bin_days: Option<u32>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Args)]
struct Grow {
    /// Its name
    #[arg(value_parser = collection_name)]
    name: String,
    /// Shards it is to be spread over: more than now
    #[arg(long, value_name = "N")]
    partitions: u32,
    /// Only show what would move
    #[arg(long)]
    dry_run: bool,
    /// Do not wait until everything has moved
    #[arg(long)]
    no_wait: bool,
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

impl CollectionsAction {
    async fn run(self) -> Result<(), CliError> {
        match self {
            CollectionsAction::List(remote) => {
                let list = Client::new(&remote)?.collections().await?;
                output::print_answer(&list, remote.json, |list| output::collections(list))
            }
            CollectionsAction::Show { name, remote } => {
                let collection = Client::new(&remote)?.collection(&name).await?;
                output::print_answer(&collection, remote.json, one)
            }
            CollectionsAction::Create(create) => {
                let settings = create.settings()?;
                let collection = Client::new(&create.remote)?.put_collection(&create.name, &settings).await?;
                output::print_answer(&collection, create.remote.json, one)
            }
            CollectionsAction::Grow(grow) => grow.run().await,
            CollectionsAction::Tune(tune) => tune.run().await,
            CollectionsAction::Delete { name, remote, .. } => {
                Client::new(&remote)?.delete_collection(&name).await?;
                output::print_answer(&serde_json::json!({"deleted": name}), remote.json, |_| {
                    format!("deleted {name}\n")
                })
            }
        }
    }
}

impl Create {
    fn settings(&self) -> Result<CollectionSettings, CliError> {
        let mut vectors = BTreeMap::new();
        for (name, settings) in &self.vectors {
            if vectors.insert(name.clone(), *settings).is_some() {
                return Err(CliError::Usage(format!("--vectors names {name} twice")));
            }
        }
        Ok(CollectionSettings {
            dim: self.dim,
            metric: self.metric.into(),
            quantization: self.quantization.into(),
            partitions: self.partitions,
            ttl_seconds: self.lifetime.map(|lifetime| lifetime.as_secs().max(1)),
            versions: self.versions,
            bin_days: self.bin_days,
            vectors,
        })
    }
}

impl From<MetricName> for Metric {
    fn from(name: MetricName) -> Self {
        match name {
            MetricName::Cosine => Metric::Cosine,
            MetricName::Dot => Metric::Dot,
            MetricName::L2 => Metric::L2,
        }
    }
}

impl From<QuantizationName> for Quantization {
    fn from(name: QuantizationName) -> Self {
        match name {
            QuantizationName::None => Quantization::None,
            QuantizationName::Int8 => Quantization::Int8,
            QuantizationName::Binary => Quantization::Binary,
        }
    }
}

/// `last=N,days=N`, or one of them.
fn versions_kept(text: &str) -> Result<VersionsKept, String> {
    let mut kept = VersionsKept::default();
    for part in text.split(',') {
        let (name, number) = part.split_once('=').ok_or("not of the form last=N,days=N")?;
        let number = number.parse().map_err(|_| format!("{number:?} is no number"))?;
        let field = match name {
            "last" => &mut kept.last,
            "days" => &mut kept.days,
            _ => return Err(format!("nothing is known of {name:?}")),
        };
        if field.replace(number).is_some() {
            return Err(format!("{name} is said twice"));
        }
    }
    Ok(kept)
}

/// `NAME=DIM[:METRIC[:QUANTIZATION]]`.
fn named_vectors(text: &str) -> Result<(String, NamedVectors), String> {
    let (name, settings) = text.split_once('=').ok_or("not of the form NAME=DIM[:METRIC[:QUANTIZATION]]")?;
    let mut parts = settings.split(':');
    let dim = parts.next().unwrap_or_default();
    let dim = dim.parse().map_err(|_| format!("{dim:?} is no number of components"))?;
    let metric = parts.next().map(|name| MetricName::from_str(name, false)).transpose()?.unwrap_or_default();
    let quantization = parts.next().map(|name| QuantizationName::from_str(name, false)).transpose()?;
    match parts.next() {
        Some(more) => Err(format!("nothing is known of {more:?}")),
        None => {
            let (metric, quantization) = (metric.into(), quantization.unwrap_or_default().into());
            Ok((name.to_owned(), NamedVectors { dim, metric, quantization, ef: None }))
        }
    }
}

impl Grow {
    async fn run(self) -> Result<(), CliError> {
        let client = Client::new(&self.remote)?;
        let request = GrowRequest { partitions: self.partitions, dry_run: self.dry_run };
        let reply = client.grow_collection(&self.name, &request).await?;
        if !self.dry_run && !self.no_wait {
            watch(&client, &self.name).await?;
        }
        output::print_answer(&reply, self.remote.json, |reply| self.summary(reply))
    }

    fn summary(&self, reply: &GrowReply) -> String {
        let list = |shards: &[u32]| shards.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let share = 100 * (reply.to - reply.from) / reply.to.max(1);
        let (held, added) = (list(&reply.shards), list(&reply.added_shards));
        let what = format!("from {} to {} partitions", reply.from, reply.to);
        match (self.dry_run, self.no_wait) {
            (true, _) => format!(
                "{} would grow {what}: about {share}% of its frames would move from shards {held} to {added}\n",
                self.name
            ),
            (false, true) => format!("{} grows {what}: shards {added} are added to {held}\n", self.name),
            (false, false) => format!("{} has grown {what}\n", self.name),
        }
    }
}

/// Shows how far a growth is until everything has moved.
async fn watch(client: &Client, name: &str) -> Result<(), CliError> {
    let plain = !console::user_attended_stderr();
    let bar = output::bar(None, "[{bar:30}] {pos} of {len} shards, {elapsed}  {msg}");
    let mut told = String::new();
    while let Some(growth) = client.collection(name).await?.growth.filter(|growth| growth.step != "remembering") {
        let paused = client.status(&StatusRequest { detailed: false }).await?.moves_paused;
        bar.set_length(growth.of.into());
        bar.set_position(growth.done.into());
        bar.set_message(if paused { "paused: mira admin nodes resume".to_owned() } else { growth.step.clone() });
        let line = progress(&growth);
        if plain && line != told {
            output::say(&line);
            told = line;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bar.finish_and_clear();
    Ok(())
}

fn progress(growth: &GrowthStatus) -> String {
    format!("{}: {} of {} shards done", growth.step, growth.done, growth.of)
}

fn one(collection: &Collection) -> String {
    output::collections(std::slice::from_ref(collection))
}
