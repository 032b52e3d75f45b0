//! The same code on a deterministic runtime: one seed, one trace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::support::{GROUP, Register, set};
use bytes::Bytes;
use mira_raft::engine::MemEngine;
use mira_raft::transport::local::LocalNetwork;
use mira_raft::{
    Clock, Group, HostConfig, Limits, NoObserver, NodeId, RaftHost, RequestId, RuntimeTasks, Timing, TransportError,
};
use openraft::AsyncRuntime;
use openraft_rt_sim::{SimInstant, SimRuntime};

struct VirtualClock;

impl Clock for VirtualClock {
    fn now_ms(&self) -> u64 {
        SimInstant::try_now().map_or(0, |now| now.elapsed_since_start().as_millis() as u64)
    }
}

fn config(id: NodeId, seed: u64, network: &LocalNetwork<SimRuntime>) -> HostConfig {
    let drawn = AtomicU64::new(seed ^ (id << 32));
    HostConfig {
        node_id: id,
        log: Arc::new(MemEngine::new()),
        state: Arc::new(MemEngine::new()),
        transport: network.transport(id),
        threads: Arc::new(RuntimeTasks::<SimRuntime>::default()),
        clock: Arc::new(VirtualClock),
        randomness: Arc::new(move || drawn.fetch_add(1, Ordering::Relaxed)),
        members: Arc::new(|_, _| true),
        observer: Arc::new(NoObserver),
        timing: Timing::default(),
        limits: Limits { snapshot_every: 20, log_kept: 5, ..Limits::default() },
    }
}

/// Loses every `one_in`-th message.
fn lossy(one_in: u64) -> impl Fn(NodeId, NodeId, &Bytes) -> Result<(), TransportError> + Send + Sync {
    let sent = AtomicU64::new(0);
    move |_, _, _| match sent.fetch_add(1, Ordering::Relaxed) % one_in {
        0 => Err(TransportError::Lost("dropped".into())),
        _ => Ok(()),
    }
}

async fn scenario(seed: u64) -> BTreeMap<NodeId, u64> {
    let network = LocalNetwork::<SimRuntime>::new();
    let mut nodes: BTreeMap<NodeId, (Arc<RaftHost<SimRuntime>>, Group<SimRuntime>)> = BTreeMap::new();
    for id in 1..=3 {
        let host = RaftHost::<SimRuntime>::open(config(id, seed, &network)).await.unwrap();
        let group = host.open_group(GROUP, Arc::new(Register::default())).await.unwrap();
        network.connect(id, &host);
        nodes.insert(id, (host, group));
    }
    nodes[&1].1.initialize(BTreeSet::from([1, 2, 3])).await.unwrap();
    network.set_gate(Some(Arc::new(lossy(9))));
    for n in 0..60u64 {
        // One node is away for a while, long enough to need a snapshot.
        if n == 10 {
            network.disconnect(3);
        }
        if n == 50 {
            network.connect(3, &nodes[&3].0);
        }
        write(&nodes, n).await;
    }
    let newest = nodes.values().map(|(_, group)| group.status().last_log_index).max().unwrap();
    for (_, group) in nodes.values() {
        group.wait_applied(newest, Duration::from_secs(60)).await.unwrap();
    }
    let applied = nodes.iter().map(|(id, (_, group))| (*id, group.status().applied)).collect();
    for (host, _) in nodes.values() {
        host.shutdown().await;
    }
    applied
}

async fn write(nodes: &BTreeMap<NodeId, (Arc<RaftHost<SimRuntime>>, Group<SimRuntime>)>, n: u64) {
    for _ in 0..1000 {
        for (_, group) in nodes.values() {
            if group.propose(Some(RequestId(n.into())), set(&format!("k{n}"), "v")).await.is_ok() {
                return;
            }
        }
        SimRuntime::sleep(Duration::from_millis(20)).await;
    }
    panic!("write {n} was never acknowledged");
}

fn run(seed: u64) -> (BTreeMap<NodeId, u64>, Vec<String>) {
    let mut runtime = SimRuntime::with_seed(seed);
    runtime.record_trace(true);
    let applied = runtime.block_on(scenario(seed));
    (applied, runtime.take_trace())
}

#[test]
fn one_seed_gives_one_trace() {
    let (first, second) = (run(7), run(7));
    assert_eq!(first.0, second.0);
    if let Some(at) = first.1.iter().zip(&second.1).position(|(a, b)| a != b) {
        panic!("the runs part at event {at}: {} or {}", first.1[at], second.1[at]);
    }
    assert_eq!(first.1.len(), second.1.len());
    assert!(first.1.len() > 3_000, "a run of {} events proves little", first.1.len());
    assert_ne!(first.1, run(8).1, "another seed goes another way");
}
