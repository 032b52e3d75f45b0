//! A log has a bound in bytes, whatever the size of its entries, and is given back when nothing is written any more.

use std::ops::{Bound, ControlFlow};
use std::time::Duration;

use mira_raft::engine::Read;
use mira_raft::{Limits, NodeId, Timing};

use crate::support::{Cluster, SECONDS, eventually, set};

const ENTRY: usize = 20 << 10;
const LOG_BYTES: u64 = 200 << 10;

fn limits() -> Limits {
    Limits { log_bytes: LOG_BYTES, log_bytes_at_rest: 50 << 10, ..Limits::default() }
}

/// Looks at logs often.
fn timing() -> Timing {
    Timing {
        propose: Duration::from_secs(3),
        quiet: Duration::from_millis(200),
        node_heartbeat: Duration::from_millis(20),
        log_rest: Duration::from_millis(300),
        ..Timing::default()
    }
}

async fn write(cluster: &Cluster, count: usize) {
    let value = "x".repeat(ENTRY);
    for n in 0..count {
        let done = async || {
            let leader = cluster.leader().await;
            cluster.group(leader).propose(None, set(&format!("k{n}"), &value)).await.ok()
        };
        eventually("a large write is acknowledged", SECONDS, done).await;
    }
}

/// What lies on the disk of a node's log, all of it.
fn stored(cluster: &Cluster, node: NodeId) -> u64 {
    let mut bytes = 0;
    cluster.engines(node)[0]
        .scan(Bound::Unbounded, Bound::Unbounded, false, &mut |key, value| {
            bytes += (key.len() + value.len()) as u64;
            ControlFlow::Continue(())
        })
        .unwrap();
    bytes
}

async fn until_stored(cluster: &Cluster, node: NodeId, most: u64) {
    let small = async || (stored(cluster, node) <= most).then_some(());
    eventually(&format!("node {node} stores at most {most} bytes"), SECONDS, small).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_large_entries_is_trimmed_and_given_back_at_rest() {
    let mut cluster = Cluster::start_with(3, limits(), timing()).await;
    // Far fewer entries than make a snapshot by their number.
    write(&cluster, 60).await;
    for node in cluster.nodes() {
        until_stored(&cluster, node, LOG_BYTES + 1_000).await;
        assert!(cluster.group(node).log_bytes() <= LOG_BYTES + 1_000);
    }
    for node in cluster.nodes() {
        until_stored(&cluster, node, 51 << 10).await;
    }
    cluster.agree().await;
    // What is left is counted when a node starts, and still bounded.
    let node = cluster.another(cluster.leader().await);
    cluster.crash(node).await;
    cluster.restart(node).await;
    write(&cluster, 30).await;
    for node in cluster.nodes() {
        until_stored(&cluster, node, LOG_BYTES + 1_000).await;
    }
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_away_does_not_fill_the_disks_of_the_others() {
    let cluster = Cluster::start_with(3, limits(), timing()).await;
    write(&cluster, 1).await;
    let leader = cluster.leader().await;
    let away = cluster.another(leader);
    cluster.network.disconnect(away);
    // A little behind it is spared a snapshot: the leader keeps what it lacks.
    write(&cluster, 20).await;
    let kept = cluster.group(leader).log_bytes();
    assert!(kept > 20 * ENTRY as u64, "{kept}");
    let restored = cluster.restored(away);
    write(&cluster, 60).await;
    until_stored(&cluster, leader, 4 * LOG_BYTES + 1_000).await;
    cluster.network.connect(away, cluster.host(away));
    cluster.agree().await;
    assert!(cluster.restored(away) > restored, "it got a snapshot");
}
