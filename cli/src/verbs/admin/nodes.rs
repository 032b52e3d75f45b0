//! `mira admin nodes`: the storage nodes, and what moves when one comes or goes.
//!
//! A change is made by the cluster, not by this command: it says what it wants once and then watches. Stopped half-way,
//! it can be given again; the moves go on meanwhile.

use std::time::Duration;

use clap::{Args, Subcommand};
use mira_proto::model::{MovesSetting, NodeAction, NodeChange, NodeChangeReply, StatusRequest};

use crate::args::Remote;
use crate::client::Client;
use crate::error::CliError;
use crate::output;

/// Between two looks at what still moves.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// List the storage nodes; add, drain, replace and remove them
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  mira admin nodes
  mira admin nodes add 10.0.0.4:7892 --dry-run
  mira admin nodes add 10.0.0.4:7892
  mira admin nodes drain 10.0.0.2:7892
  mira admin nodes replace 3f2a9c0d11e4b872 --by 10.0.0.5:7892
  mira admin nodes remove 10.0.0.2:7892")]
pub struct Nodes {
    #[command(subcommand)]
    action: Option<NodesAction>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Subcommand)]
enum NodesAction {
    /// List the storage nodes
    List(#[command(flatten)] Remote),
    /// Give a node that has joined its share of the replicas
    Add(Change),
    /// Move every replica away from a node, so that it can be removed
    Drain(Change),
    /// Rebuild what a dead node held on another that has joined and holds nothing
    Replace {
        #[command(flatten)]
        change: Change,
        /// Who takes its place: id or address
        #[arg(long, value_name = "NODE")]
        by: String,
    },
    /// Forget a node that holds nothing; its id is never let in again
    Remove(Change),
    /// Let no replica move until `resume`, except to repair damage
    Pause(#[command(flatten)] Remote),
    /// Let replicas move again
    Resume(#[command(flatten)] Remote),
}

#[derive(Debug, Args)]
struct Change {
    /// The node's id or address
    node: String,
    /// Only show what would move
    #[arg(long)]
    dry_run: bool,
    /// Do not wait until everything has moved
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    remote: Remote,
}

impl Nodes {
    /// Asks or changes, and prints.
    pub async fn run(self) -> Result<(), CliError> {
        match self.action {
            None => list(&self.remote).await,
            Some(NodesAction::List(remote)) => list(&remote).await,
            Some(NodesAction::Add(change)) => change.make(NodeAction::Add, None).await,
            Some(NodesAction::Drain(change)) => change.make(NodeAction::Drain, None).await,
            Some(NodesAction::Replace { change, by }) => change.make(NodeAction::Replace, Some(by)).await,
            Some(NodesAction::Remove(change)) => change.make(NodeAction::Remove, None).await,
            Some(NodesAction::Pause(remote)) => set_moves(&remote, true).await,
            Some(NodesAction::Resume(remote)) => set_moves(&remote, false).await,
        }
    }
}

async fn list(remote: &Remote) -> Result<(), CliError> {
    let reply = Client::new(remote)?.status(&StatusRequest { detailed: false }).await?;
    output::print_answer(&reply.nodes, remote.json, |nodes| output::nodes(nodes))
}

async fn set_moves(remote: &Remote, paused: bool) -> Result<(), CliError> {
    let setting = Client::new(remote)?.set_moves(&MovesSetting { paused }).await?;
    output::print_answer(&setting, remote.json, |setting| {
        let word = if setting.paused { "wait until `mira admin nodes resume`" } else { "go on" };
        format!("moves of replicas {word}\n")
    })
}

impl Change {
    async fn make(self, action: NodeAction, by: Option<String>) -> Result<(), CliError> {
        let client = Client::new(&self.remote)?;
        let change = NodeChange { action, node: self.node.clone(), by, dry_run: self.dry_run };
        let reply = client.change_node(&change).await?;
        if !self.dry_run && !self.no_wait && action != NodeAction::Remove {
            watch(&client, &change, reply.moves.len() as u64).await?;
        }
        output::print_answer(&reply, self.remote.json, |reply| self.summary(action, reply))
    }

    fn summary(&self, action: NodeAction, reply: &NodeChangeReply) -> String {
        let count = reply.moves.len();
        let replicas = if count == 1 { "1 replica".to_owned() } else { format!("{count} replicas") };
        match (action, self.dry_run, self.no_wait) {
            (_, true, _) => format!("{}{replicas} would move\n", output::moves(&reply.moves)),
            (NodeAction::Remove, ..) => format!("removed {}\n", self.node),
            (_, _, true) => format!("{}{replicas} will move\n", output::moves(&reply.moves)),
            (_, _, false) => format!("{replicas} moved\n"),
        }
    }
}

/// Shows what still moves until nothing does.
async fn watch(client: &Client, change: &NodeChange, total: u64) -> Result<(), CliError> {
    let plain = !console::user_attended_stderr();
    let bar = output::bar(Some(total), "[{bar:30}] {pos} of {len} replicas moved, {elapsed}  {msg}");
    let ask = NodeChange { dry_run: true, ..change.clone() };
    let mut told = 0;
    loop {
        let status = client.status(&StatusRequest { detailed: false }).await?;
        let left = client.change_node(&ask).await?.moves.len() as u64 + status.moves.len() as u64;
        let done = total.saturating_sub(left);
        bar.set_position(done);
        bar.set_message(if status.moves_paused { "paused: mira admin nodes resume" } else { "" });
        if plain && done > told {
            told = done;
            output::say(&format!("{done} of {total} replicas moved"));
        }
        if left == 0 {
            bar.finish_and_clear();
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
