//! Nodes come and go: how long it takes, what it copies, and what searches feel of it. And how soon a cluster is ready.
//!
//! One caller searches all the time; its p99 while replicas move is judged against that of the idle cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mira_benches::BenchError;
use mira_benches::load::{Limit, Outcome};
use mira_benches::report::Figure;
use mira_benches::suite::{Bench, Documents, import, search};
use mira_chaos_tests::cluster::Cluster;
use mira_proto::model::{NodeAction, NodeChange, NodeStatus, StatusReply};
use mira_proto::{Code, Problem};
use tokio::time::sleep;

use super::restart::restart;
use super::{MIB, wait_until};

/// Partitions of the collection, if there are as many shards: every replica that moves has something to copy.
const PARTITIONS: u32 = 16;
/// Longest wait for the replicas of one change.
const MOVED_WITHIN: Duration = Duration::from_secs(300);
/// From the start of all nodes to the first answer (SPEC section 5).
const READY: Duration = Duration::from_secs(10);

/// Adds a node, drains one, replaces one that is dead, and starts the whole cluster again.
pub async fn measure(bench: &mut Bench, cluster: &mut Cluster) -> Result<Vec<Figure>, BenchError> {
    let count = bench.scale.moved;
    let status = bench.callers(1).await?[0].status().await.map_err(BenchError::refused("status"))?;
    let partitions = PARTITIONS.min(status.shards);
    let collection = bench.collection("membership", partitions).await?;
    let stored = import::vectors(bench, &collection, count).await?;
    let documents = Documents { collection, count, stored };
    let idle = search::by_vector(bench, &documents, 1, bench.scale.run.clone()).await?.summary("searching")?;
    let mut figures =
        vec![Figure::latency(format!("search {count} documents in {partitions} partitions, idle"), idle.clone())];

    let fourth = joined(bench, cluster).await?;
    let add = Change { action: NodeAction::Add, node: cluster.advertised(fourth), by: None };
    figures.extend(add.measure(bench, cluster, &documents, idle.p99_ms).await?);

    let drain = Change { action: NodeAction::Drain, node: cluster.advertised(1), by: None };
    figures.extend(drain.measure(bench, cluster, &documents, idle.p99_ms).await?);

    let fifth = joined(bench, cluster).await?;
    cluster.kill_node(2).await;
    let (node, by) = (cluster.advertised(2), Some(cluster.advertised(fifth)));
    let replace = Change { action: NodeAction::Replace, node, by };
    figures.extend(replace.measure(bench, cluster, &documents, idle.p99_ms).await?);

    figures.push(restarted(bench, cluster, &[0, fourth, fifth], &documents).await?);
    Ok(figures)
}

/// A new node that holds nothing yet.
async fn joined(bench: &Bench, cluster: &mut Cluster) -> Result<u8, BenchError> {
    let at = cluster.add_node();
    let (caller, address) = (&bench.callers(1).await?[0], cluster.advertised(at));
    let known = |node: &NodeStatus| node.address == address && node.reachable;
    wait_until("a new node joins", MOVED_WITHIN, || async {
        caller.status().await.is_ok_and(|status| status.nodes.iter().any(known))
    })
    .await?;
    Ok(at)
}

/// A change of the nodes.
struct Change {
    action: NodeAction,
    node: String,
    by: Option<String>,
}

impl Change {
    /// Makes it while a caller searches.
    async fn measure(
        self,
        bench: &Bench,
        cluster: &Cluster,
        documents: &Documents,
        idle_p99_ms: f64,
    ) -> Result<Vec<Figure>, BenchError> {
        let word = format!("{:?} of a node, {} frames", self.action, documents.count).to_lowercase();
        let caller = &bench.callers(1).await?[0];
        let before = caller.status().await.map_err(BenchError::refused("status"))?;
        let (client, stopped) = (cluster.client(0), Arc::new(AtomicBool::new(false)));
        let change = NodeChange { action: self.action, node: self.node, by: self.by, dry_run: false };
        let again = NodeChange { dry_run: true, ..change.clone() };
        let refused = |failure: mira_chaos_tests::client::Failure| {
            BenchError::refused("changing the nodes")(Problem::new(Code::Unavailable, format!("{failure:?}")))
        };

        let moving = async {
            let started = Instant::now();
            // A node that was just killed is still in touch for some moments: until then it is refused.
            let mut reply = client.change_node(&change).await;
            while reply.is_err() && started.elapsed() < MOVED_WITHIN {
                sleep(Duration::from_millis(100)).await;
                reply = client.change_node(&change).await;
            }
            let moves = reply.map_err(refused)?.moves.len();
            wait_until("replicas move", MOVED_WITHIN, || async {
                let idle = caller.status().await.is_ok_and(|status| status.moves.is_empty());
                idle && client.change_node(&again).await.is_ok_and(|reply| reply.moves.is_empty())
            })
            .await?;
            Ok::<_, BenchError>((moves, started.elapsed()))
        };
        let moving = async {
            let moved = moving.await;
            stopped.store(true, Ordering::Relaxed);
            moved
        };
        let searching = search::by_vector(bench, documents, 1, Limit::Stopped(stopped.clone()));
        let (moved, searched) = tokio::join!(moving, searching);
        let ((moves, took), searched): (_, Outcome) = (moved?, searched?);
        let after = wait_until_indexed(caller).await?;
        let searched = searched.summary(&word)?;
        let ratio = searched.p99_ms / idle_p99_ms;
        Ok(vec![
            Figure::amount(format!("{word}: {moves} replicas moved in"), took.as_secs_f64(), "s"),
            Figure::amount(
                format!("{word}: growth of the nodes that took them"),
                taken_in(&before, &after) / MIB,
                "MiB",
            ),
            Figure::latency(format!("{word}: searches meanwhile, 1 caller"), searched),
            Figure::amount(format!("{word}: their p99 over that of the idle cluster"), ratio, "×")
                .goal("≤ 2 ×", ratio <= 2.0),
        ])
    }
}

/// Bytes by which data folders grew, of the nodes whose grew.
fn taken_in(before: &StatusReply, after: &StatusReply) -> f64 {
    let held = |id: &str| before.nodes.iter().find(|node| node.id == id).map_or(0, |node| node.disk_used_bytes);
    after.nodes.iter().map(|node| node.disk_used_bytes.saturating_sub(held(&node.id)) as f64).sum()
}

/// Waits until the replicas that answer have applied and indexed everything.
async fn wait_until_indexed(caller: &mira_benches::caller::Caller) -> Result<StatusReply, BenchError> {
    let behind = |status: &StatusReply| -> u64 {
        status
            .groups
            .iter()
            .flat_map(|group| &group.replicas)
            .map(|replica| replica.apply_lag + replica.index_lag)
            .sum()
    };
    wait_until("replicas are indexed", MOVED_WITHIN, || async {
        caller.status().await.is_ok_and(|status| behind(&status) == 0)
    })
    .await?;
    caller.status().await.map_err(BenchError::refused("status"))
}

/// Stops the nodes in order, starts all of them at once, and waits for the first whole answer.
async fn restarted(
    bench: &Bench,
    cluster: &mut Cluster,
    nodes: &[u8],
    documents: &Documents,
) -> Result<Figure, BenchError> {
    let restarted = restart(bench, cluster, nodes, documents).await?;
    if let Some(why) = restarted.killed {
        return Err(BenchError::Wrong(why));
    }
    let what = format!("start of {} nodes with {} frames: until a search is whole", nodes.len(), documents.count);
    Ok(Figure::amount(what, restarted.answering.as_secs_f64(), "s").goal("< 10 s", restarted.answering < READY))
}
