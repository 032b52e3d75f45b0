//! What the simulator of `chaos-tests` found, each in its smallest form.
//!
//! On the deterministic runtime, which fails a test that spins without letting time pass.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::support::{GROUP, Register, set};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use mira_raft::engine::{Fault, MemEngine};
use mira_raft::transport::local::LocalNetwork;
use mira_raft::{
    EngineError, Group, HostConfig, Limits, NoObserver, NodeId, ProposeError, RaftHost, RequestId, Role, RuntimeTasks,
    SystemClock, Timing, Transport, TransportError, inspect,
};
use openraft::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

type Nodes = BTreeMap<NodeId, (Arc<RaftHost<SimRuntime>>, Group<SimRuntime>)>;

fn config(id: NodeId, state: &MemEngine, transport: Arc<dyn Transport>) -> HostConfig {
    let drawn = AtomicU64::new(id << 32);
    HostConfig {
        node_id: id,
        log: Arc::new(MemEngine::new()),
        state: Arc::new(state.clone()),
        transport,
        threads: Arc::new(RuntimeTasks::<SimRuntime>::default()),
        clock: Arc::new(SystemClock),
        randomness: Arc::new(move || drawn.fetch_add(1, Ordering::Relaxed)),
        members: Arc::new(|_, _| true),
        observer: Arc::new(NoObserver),
        timing: Timing::default(),
        limits: Limits::default(),
    }
}

/// Nodes 1 to `size`, of which the first leads.
async fn start(
    size: u64,
    network: &LocalNetwork<SimRuntime>,
    way: fn(Arc<dyn Transport>) -> Arc<dyn Transport>,
) -> Nodes {
    let mut nodes = Nodes::new();
    for id in 1..=size {
        let config = config(id, &MemEngine::new(), way(network.transport(id)));
        let host = RaftHost::<SimRuntime>::open(config).await.unwrap();
        let group = host.open_group(GROUP, Arc::new(Register::default())).await.unwrap();
        network.connect(id, &host);
        nodes.insert(id, (host, group));
    }
    nodes[&1].1.initialize((1..=size).collect()).await.unwrap();
    lead(&nodes[&1].1).await;
    nodes[&1].1.propose(None, set("first", "1")).await.unwrap();
    nodes
}

async fn lead(group: &Group<SimRuntime>) {
    group.watch().wait_for(Duration::from_secs(5), |status| status.is_leader()).await.expect("it leads");
}

/// Every seventh call is late, so that later ones overtake it.
struct Overtaking(Arc<dyn Transport>, AtomicU64);

impl Transport for Overtaking {
    fn call(
        &self,
        peer: NodeId,
        request: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let late = self.1.fetch_add(1, Ordering::Relaxed).is_multiple_of(7);
        let call = self.0.call(peer, request, timeout);
        Box::pin(async move {
            if late {
                SimRuntime::sleep(Duration::from_millis(3)).await;
            }
            call.await
        })
    }
}

#[test]
fn appends_that_overtake_each_other_cost_time_not_the_leader() {
    SimRuntime::with_seed(1).block_on(async {
        let network = LocalNetwork::new();
        let nodes = start(3, &network, |inner| Arc::new(Overtaking(inner, AtomicU64::new(0)))).await;
        let leader = &nodes[&1].1;
        let writes = (0..300u64).map(|n| async move {
            SimRuntime::sleep(Duration::from_micros(n * 400)).await;
            leader.propose(Some(RequestId(n.into())), set(&format!("k{n}"), "v")).await.unwrap();
        });
        futures::stream::iter(writes).buffer_unordered(64).collect::<Vec<()>>().await;
        assert_eq!(leader.status().role, Role::Leader);
    });
}

#[test]
fn a_proposal_waits_for_a_quorum_without_spinning() {
    SimRuntime::with_seed(2).block_on(async {
        let network = LocalNetwork::new();
        let nodes = start(3, &network, |inner| inner).await;
        network.set_gate(Some(Arc::new(|_, _, _| Err(TransportError::Lost("cut".into())))));
        SimRuntime::sleep(Duration::from_secs(2)).await;
        let refused = nodes[&1].1.propose(None, set("a", "1")).await;
        assert_eq!(refused, Err(ProposeError::NoQuorum));
    });
}

#[test]
fn a_proposal_under_way_when_its_replica_stops_is_not_called_undone() {
    SimRuntime::with_seed(3).block_on(async {
        let network = LocalNetwork::new();
        let nodes = start(3, &network, |inner| inner).await;
        network.set_gate(Some(Arc::new(|_, _, _| Err(TransportError::Lost("cut".into())))));
        let (host, group) = &nodes[&1];
        let stop = async {
            SimRuntime::sleep(Duration::from_millis(50)).await;
            host.shutdown().await;
        };
        let (proposed, ()) = futures::join!(group.propose(None, set("a", "1")), stop);
        assert_eq!(proposed, Err(ProposeError::Unknown { leader: None }), "the entry is in the log");
        let later = group.propose(None, set("b", "1")).await;
        assert!(matches!(later, Err(ProposeError::Stopped(_))), "{later:?}");
    });
}

#[test]
fn a_closed_group_writes_no_more_when_a_full_disk_gets_room() {
    SimRuntime::with_seed(4).block_on(async {
        let network = LocalNetwork::<SimRuntime>::new();
        let state = MemEngine::new();
        let full = Arc::new(AtomicBool::new(false));
        let hook = full.clone();
        state.set_faults(Some(Arc::new(move |_, _| {
            let refused = || Fault::Refused(EngineError::DiskFull("test".into()));
            hook.load(Ordering::Relaxed).then(refused)
        })));
        let host = RaftHost::<SimRuntime>::open(config(1, &state, network.transport(1))).await.unwrap();
        let group = host.open_group(GROUP, Arc::new(Register::default())).await.unwrap();
        group.initialize(BTreeSet::from([1])).await.unwrap();
        lead(&group).await;
        group.propose(None, set("a", "1")).await.unwrap();

        full.store(true, Ordering::Relaxed);
        let close = async {
            SimRuntime::sleep(Duration::from_millis(600)).await;
            host.close_group(GROUP).await;
        };
        let (stuck, ()) = futures::join!(group.propose(None, set("b", "1")), close);
        assert!(stuck.is_err(), "{stuck:?}");
        full.store(false, Ordering::Relaxed);

        let group = host.open_group(GROUP, Arc::new(Register::default())).await.unwrap();
        lead(&group).await;
        let newest = group.propose(None, set("c", "1")).await.unwrap().index;
        // Longer than a replica waits between two looks at a full disk.
        SimRuntime::sleep(Duration::from_secs(2)).await;
        let applied = inspect::applied(&state, GROUP).unwrap().unwrap();
        assert_eq!(applied.index, newest, "nothing older was written over it");
    });
}
