//! All nodes stopped in order and started at once, while the router stays.

use std::time::{Duration, Instant};

use mira_benches::BenchError;
use mira_benches::suite::{Bench, Documents, search};
use mira_chaos_tests::cluster::Cluster;

use super::wait_until;

/// Longest wait for a whole answer.
const READY_WITHIN: Duration = Duration::from_secs(600);

/// How long the steps of a restart took.
pub struct Restarted {
    /// From the first node that was asked to stop to the end of the last.
    pub stopping: Duration,
    /// Why a node did not stop in order; it was killed then.
    pub killed: Option<String>,
    /// When the nodes were started.
    pub started: Instant,
    /// From then to the first search that every shard answered.
    pub answering: Duration,
}

/// Restarts these nodes.
pub async fn restart(
    bench: &Bench,
    cluster: &mut Cluster,
    nodes: &[u8],
    documents: &Documents,
) -> Result<Restarted, BenchError> {
    let (asked, mut killed) = (Instant::now(), None);
    for &at in nodes {
        if let Err(why) = cluster.try_stop_node(at).await {
            killed.get_or_insert(why);
        }
    }
    let stopping = asked.elapsed();
    let started = Instant::now();
    nodes.iter().for_each(|&at| cluster.restart_node(at));
    let caller = &bench.callers(1).await?[0];
    wait_until("a cluster that was started answers", READY_WITHIN, || async {
        let request = search::vector_request(&documents.collection, bench.vectors.query(0));
        caller.search(request).await.is_ok_and(|reply| !reply.degraded)
    })
    .await?;
    Ok(Restarted { stopping, killed, started, answering: started.elapsed() })
}
