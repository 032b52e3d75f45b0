//! Fail-over: eight writers store while the leader of their shard is killed, again and again.
//!
//! Every write has an id of its own and the default retries of a client. Afterwards each acknowledged id must be there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mira_benches::BenchError;
use mira_benches::caller::Caller;
use mira_benches::load::{Latencies, Limit, Outcome, closed_loop, milliseconds};
use mira_benches::report::Figure;
use mira_benches::suite::store::Load;
use mira_benches::suite::{Bench, document_id};
use mira_chaos_tests::cluster::Cluster;
use mira_proto::model::StatusReply;
use mira_proto::v1::RecallRequest;
use tokio::time::sleep;

const WRITERS: usize = 8;
/// After a kill, this long counts as under its influence; then the node is started again.
const AFTERMATH: Duration = Duration::from_secs(5);
/// The longest stall (SPEC section 5).
const STALL: Duration = Duration::from_millis(1_500);
/// Longest wait for a killed node to have caught up.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// Ids of one recall.
const RECALL: usize = 1_000;

/// An acknowledged write.
#[derive(Clone, Copy)]
struct Write {
    number: u64,
    asked: Instant,
    answered: Instant,
}

/// Kills, and counts what it cost.
pub async fn measure(bench: &mut Bench, cluster: &mut Cluster) -> Result<Vec<Figure>, BenchError> {
    let collection = bench.collection("failover", 1).await?;
    let callers = bench.callers(WRITERS).await?;
    let load = Arc::new(Load::new(collection.clone(), bench.vectors.clone()));
    let (writes, stopped) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let sink = writes.clone();
    let store = move |caller: Caller, number: u64| {
        let (mut frame, sink) = (load.frame(number), sink.clone());
        frame.id = document_id(number as usize).to_string();
        async move {
            let asked = Instant::now();
            caller.store(frame).await?;
            let write = Write { number, asked, answered: Instant::now() };
            sink.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(write);
            Ok(())
        }
    };
    let (connections, limit) = (callers.clone(), Limit::Stopped(stopped.clone()));
    let writers = tokio::spawn(async move { closed_loop(&connections, limit, store).await });

    let killed = kill_leaders(bench, cluster).await;
    stopped.store(true, Ordering::Relaxed);
    let outcome = writers.await.map_err(|error| BenchError::Wrong(error.to_string()))?;
    let kills = killed?;

    let mut writes = std::mem::take(&mut *writes.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    writes.sort_by_key(|write| write.answered);
    let lost = lost(&callers[0], &collection, &writes).await?;
    let retries = callers.iter().map(Caller::retries).sum();
    Ok(figures(&outcome, &writes, &kills, lost, retries))
}

/// Kills as many leaders of the loaded shard as the scale asks for, one after the other has come back.
async fn kill_leaders(bench: &Bench, cluster: &mut Cluster) -> Result<Vec<Instant>, BenchError> {
    let caller = &bench.callers(1).await?[0];
    let aftermath = if bench.scale.kills > 1 { AFTERMATH } else { AFTERMATH / 2 };
    let shard = loaded_shard(caller).await?;
    let mut kills = Vec::new();
    for _ in 0..bench.scale.kills {
        let status = caller.status().await.map_err(BenchError::refused("status"))?;
        let victim = leader_of(&status, shard).and_then(|address| cluster.node_at(&address));
        let victim = victim.ok_or_else(|| BenchError::Wrong(format!("shard {shard} has no leader to kill")))?;
        kills.push(Instant::now());
        cluster.kill_node(victim).await;
        sleep(aftermath).await;
        cluster.restart_node(victim);
        wait_until_whole(caller).await?;
    }
    Ok(kills)
}

/// The shard whose log grows.
async fn loaded_shard(caller: &Caller) -> Result<u32, BenchError> {
    let status = || async { caller.status().await.map_err(BenchError::refused("status")) };
    let applied = |status: &StatusReply| -> Vec<(Option<u32>, u64)> {
        let most = |replicas: &[mira_proto::model::ReplicaStatus]| replicas.iter().map(|replica| replica.applied).max();
        status.groups.iter().map(|group| (group.shard, most(&group.replicas).unwrap_or(0))).collect()
    };
    let before = applied(&status().await?);
    sleep(Duration::from_secs(1)).await;
    let after = applied(&status().await?);
    let growth = before.iter().zip(&after).map(|((shard, before), (_, after))| (after - before.min(after), *shard));
    growth.max().and_then(|(_, shard)| shard).ok_or_else(|| BenchError::Wrong("no shard takes the writes".to_owned()))
}

fn leader_of(status: &StatusReply, shard: u32) -> Option<String> {
    let leader = status.groups.iter().find(|group| group.shard == Some(shard))?.leader.clone()?;
    Some(status.nodes.iter().find(|node| node.id == leader)?.address.clone())
}

async fn wait_until_whole(caller: &Caller) -> Result<(), BenchError> {
    let deadline = Instant::now() + BACK_WITHIN;
    while Instant::now() < deadline {
        // While a node is away the status itself may have to wait for it.
        if caller.status().await.is_ok_and(|status| status.state == "ok") {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
    Err(BenchError::Late("a killed node came back, but the cluster is not whole".to_owned()))
}

/// How many acknowledged writes are not there.
async fn lost(caller: &Caller, collection: &str, writes: &[Write]) -> Result<u64, BenchError> {
    let mut lost = 0;
    for chunk in writes.chunks(RECALL) {
        let ids = chunk.iter().map(|write| document_id(write.number as usize).to_string()).collect();
        let request = RecallRequest { ids, collection: collection.to_owned(), ..Default::default() };
        let reply = caller.recall(request).await.map_err(BenchError::refused("recall"))?;
        lost += (chunk.len() - reply.frames.len()) as u64;
    }
    Ok(lost)
}

fn figures(outcome: &Outcome, writes: &[Write], kills: &[Instant], lost: u64, retries: u64) -> Vec<Figure> {
    let mut shaken = Latencies::default();
    for write in writes {
        if kills.iter().any(|&kill| write.answered >= kill && write.asked <= kill + AFTERMATH) {
            shaken.record(write.answered - write.asked);
        }
    }
    // From one acknowledgement to the next, anyone's.
    let silence = writes.windows(2).map(|pair| pair[1].answered - pair[0].answered).max().unwrap_or_default();
    let (slowest, p99) = (outcome.latencies.max(), shaken.percentile(99.0));
    let of = format!("{WRITERS} writers, {} × kill -9 of their leader", kills.len());
    vec![
        Figure::amount(format!("{of}: slowest write"), milliseconds(slowest), "ms").goal("< 1500 ms", slowest < STALL),
        Figure::amount("p99 of writes within 5 s of a kill", milliseconds(p99), "ms"),
        Figure::amount("longest time without any acknowledgement", milliseconds(silence), "ms"),
        Figure::amount("acknowledged writes", writes.len() as f64, ""),
        Figure::amount("acknowledged writes lost", lost as f64, "").goal("0", lost == 0),
        Figure::amount("errors that a client saw, with default retries", outcome.failures as f64, "")
            .goal("0", outcome.failures == 0),
        Figure::amount("retries of clients", retries as f64, ""),
    ]
}
