//! Groups that nobody calls: they fall silent, they wake by what needs them, and nothing that was promised is lost by it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mira_raft::{Limits, NodeId, Timing, TransportError};
use parking_lot::Mutex;

use crate::support::{Cluster, SECONDS, eventually, set};

/// Kinds of messages, the second byte of each.
const APPEND: u8 = 1;
const PRE_VOTE: u8 = 3;
const NODE_HEARTBEAT: u8 = 8;

/// Groups rest soon.
fn restful() -> Timing {
    Timing { propose: Duration::from_secs(3), quiet: Duration::from_millis(200), ..Timing::default() }
}

async fn all_rest(cluster: &Cluster) {
    let rests = async || cluster.nodes().all(|node| cluster.group(node).is_at_rest()).then_some(());
    eventually("every replica rests", SECONDS, rests).await;
}

/// Whether a message is lost: sender, receiver, kind.
type Loses = dyn Fn(NodeId, NodeId, u8) -> bool + Send + Sync;

/// Counts messages by kind, and loses some.
struct Wire {
    sent: Mutex<BTreeMap<u8, u64>>,
    loses: Box<Loses>,
}

impl Wire {
    fn watch(cluster: &Cluster, loses: impl Fn(NodeId, NodeId, u8) -> bool + Send + Sync + 'static) -> Arc<Self> {
        let wire = Arc::new(Self { sent: Mutex::default(), loses: Box::new(loses) });
        let watching = wire.clone();
        cluster.network.set_gate(Some(Arc::new(move |from, to, request: &Bytes| {
            *watching.sent.lock().entry(request[1]).or_default() += 1;
            match (watching.loses)(from, to, request[1]) {
                true => Err(TransportError::Lost("cut".into())),
                false => Ok(()),
            }
        })));
        wire
    }

    fn sent(&self, kind: u8) -> u64 {
        self.sent.lock().get(&kind).copied().unwrap_or(0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_nobody_calls_says_nothing_and_a_write_wakes_it() {
    let cluster = Cluster::start_with(4, Limits::default(), restful()).await;
    let leader = cluster.leader().await;
    // Members without a vote rest like the others.
    cluster.group(leader).add_learner(4).await.unwrap();
    cluster.write_many("k", 3).await;
    all_rest(&cluster).await;
    let (wire, term) = (Wire::watch(&cluster, |_, _, _| false), cluster.group(leader).status().term);
    let heard = async || (wire.sent(NODE_HEARTBEAT) >= 20).then_some(());
    eventually("nodes hear of each other", SECONDS, heard).await;
    assert_eq!(wire.sent(APPEND), 0, "no heartbeat of the group: {:?}", wire.sent.lock());
    all_rest(&cluster).await;

    // Its age is what the node heartbeats say, on whichever replica.
    for node in cluster.nodes() {
        let fresh = async || cluster.group(node).freshness().age.filter(|age| *age < Duration::from_secs(1));
        eventually("a replica at rest knows itself fresh", SECONDS, fresh).await;
    }
    let status = cluster.group(leader).status();
    assert!(status.quorum_age.is_some_and(|age| age < Duration::from_secs(5)), "{status:?}");

    let written = cluster.group(leader).propose(None, set("after", "rest")).await.unwrap();
    for node in cluster.nodes() {
        cluster.group(node).wait_applied(written.index, SECONDS).await.unwrap();
        assert_eq!(cluster.value(node, "after"), Some("rest".into()));
    }
    all_rest(&cluster).await;
    let index = cluster.group(leader).read_index().await.unwrap();
    assert!(index >= written.index);
    all_rest(&cluster).await;
    assert_eq!((cluster.leader().await, cluster.group(leader).status().term), (leader, term), "nobody campaigned");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_while_its_group_rests_is_replaced() {
    let mut cluster = Cluster::start_with(3, Limits::default(), restful()).await;
    let acknowledged = cluster.write_many("k", 5).await;
    all_rest(&cluster).await;
    let first = cluster.leader().await;
    cluster.crash(first).await;
    let next = eventually("another leader", SECONDS, async || {
        cluster.nodes().find(|node| *node != first && cluster.group(*node).status().is_leader())
    })
    .await;
    let written = cluster.group(next).propose(None, set("after", "death")).await.unwrap();
    // Without one of its members a group does not rest: who comes back must find a leader that speaks.
    assert!(!cluster.group(next).is_at_rest());
    cluster.restart(first).await;
    cluster.group(first).wait_applied(written.index, SECONDS).await.unwrap();
    all_rest(&cluster).await;
    for key in &acknowledged {
        assert_eq!(cluster.value(first, key), Some("v".into()), "{key} was acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_starts_again_wakes_its_group_and_nobody_else_leads() {
    let mut cluster = Cluster::start_with(3, Limits::default(), restful()).await;
    cluster.write_many("k", 5).await;
    all_rest(&cluster).await;
    let (leader, term) = {
        let leader = cluster.leader().await;
        (leader, cluster.group(leader).status().term)
    };
    let follower = cluster.another(leader);
    cluster.crash(follower).await;
    cluster.restart(follower).await;
    all_rest(&cluster).await;
    let status = cluster.group(leader).status();
    assert!(status.is_leader() && status.term == term, "{status:?}");
    assert_eq!(cluster.group(follower).status().leader, Some(leader));
}

/// The network splits one way: a follower hears nothing, and is heard.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_deaf_does_not_depose_a_leader_that_the_others_hear() {
    let cluster = Cluster::start_with(3, Limits::default(), restful()).await;
    cluster.write_many("k", 5).await;
    all_rest(&cluster).await;
    let leader = cluster.leader().await;
    let term = cluster.group(leader).status().term;
    let deaf = cluster.another(leader);
    // What it asks of the others' nodes would be answered.
    let wire = Wire::watch(&cluster, move |from, to, kind| to == deaf || from == deaf && kind == NODE_HEARTBEAT);
    let asks = async || (wire.sent(PRE_VOTE) >= 8).then_some(());
    eventually("it asks for votes again and again", SECONDS, asks).await;
    let speaks = async || (wire.sent(APPEND) >= 10).then_some(());
    eventually("the leader speaks to the member that its node does not answer", SECONDS, speaks).await;
    let status = cluster.group(leader).status();
    assert!(status.is_leader() && status.term == term, "{status:?}");
    cluster.group(leader).propose(None, set("still", "led")).await.unwrap();
    cluster.network.set_gate(None);
    all_rest(&cluster).await;
    assert_eq!(cluster.group(leader).status().term, term);
    assert_eq!(cluster.value(deaf, "still"), Some("led".into()));
}

/// Connections can be made in one direction only: an exchange serves both sides, whoever begins it.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_reach_each_other_in_one_direction_keep_their_groups_at_rest() {
    let cluster = Cluster::start_with(3, Limits::default(), restful()).await;
    cluster.write_many("k", 5).await;
    all_rest(&cluster).await;
    for backwards in [false, true] {
        let wire = Wire::watch(&cluster, move |from, to, kind| kind == NODE_HEARTBEAT && (from > to) == backwards);
        let heard = async || (wire.sent(NODE_HEARTBEAT) >= 30).then_some(());
        eventually("the other side asks", SECONDS, heard).await;
        all_rest(&cluster).await;
    }
}

/// Its node lives and answers, but the group is not open there.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lives_without_the_group_keeps_it_awake() {
    let cluster = Cluster::start_with(3, Limits::default(), restful()).await;
    cluster.write_many("k", 5).await;
    all_rest(&cluster).await;
    let leader = cluster.leader().await;
    let closed = cluster.another(leader);
    cluster.host(closed).close_group(crate::support::GROUP).await;
    let woken = async || (!cluster.group(leader).is_at_rest()).then_some(());
    eventually("the member refuses by name, and the leader wakes", SECONDS, woken).await;
    let wire = Wire::watch(&cluster, |_, _, _| false);
    let heartbeats = async || (wire.sent(APPEND) >= 10).then_some(());
    eventually("it speaks to the member", SECONDS, heartbeats).await;
    assert!(!cluster.group(leader).is_at_rest());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_alone_rests_and_serves() {
    let cluster = Cluster::start_with(1, Limits::default(), restful()).await;
    cluster.write_many("k", 2).await;
    all_rest(&cluster).await;
    assert_eq!(cluster.group(1).freshness().age, Some(Duration::ZERO));
    cluster.group(1).read_index().await.unwrap();
    cluster.write_many("l", 2).await;
    all_rest(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_of_a_group_at_rest_is_handed_over() {
    let cluster = Cluster::start_with(3, Limits::default(), restful()).await;
    all_rest(&cluster).await;
    let leader = cluster.leader().await;
    let target = cluster.another(leader);
    cluster.group(leader).transfer_leader(target).await.unwrap();
    assert_eq!(cluster.leader().await, target);
    all_rest(&cluster).await;
    cluster.write_many("k", 2).await;
    cluster.agree().await;
}
