//! A node whose disk has no room: it ends when it is asked to, and says at once what it cannot do.
//!
//! The disk is a small file system in memory; where none can be mounted, these tests say so and end.

use std::time::Duration;

use mira_chaos_tests::{
    client::{Attempt, Client, Failure, Try},
    cluster::{Cluster, Shape},
};
use serde_json::{Value, json};

/// One node that holds everything, with a small disk for that folder of its data.
async fn cluster_with(small_disk: &'static str) -> Option<Cluster> {
    let shape = Shape { nodes: 1, shards: 2, small_disk: Some(small_disk), ..Shape::default() };
    let cluster = Cluster::start(shape).await;
    if let Some(why) = &cluster.no_small_disk {
        println!("not tested: no small disk can be mounted here: {why}");
        return None;
    }
    Some(cluster)
}

fn document(number: usize) -> Value {
    // No two pieces are alike, so that the disk fills.
    let text: String = (0..20_000u64)
        .map(|at| format!("{:x} ", (at + 1).wrapping_mul((number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)))
        .collect();
    json!({ "content": text, "vector": [number as f32 + 1.0, 1.0], "session": "full" })
}

const TRY: Try<'static> = Try { router: 0, timeout: Duration::from_secs(25), token: None };

/// Fills the disk, and stores until the node says that it is full; the ids of what was stored.
async fn fill(cluster: &Cluster, client: &Client) -> Vec<String> {
    client.put_collection("default", &json!({ "dim": 2, "partitions": 1 })).await.expect("a collection");
    cluster.small_disk().expect("mounted").fill();
    let mut stored = Vec::new();
    for number in 0..10_000 {
        match client.attempt("store", &document(number), TRY).await {
            Attempt::Done(reply) => stored.push(reply["id"].as_str().expect("an id").to_owned()),
            Attempt::Refused(failure) => {
                assert_full(&failure);
                return stored;
            }
            // What was under way when the disk filled up.
            Attempt::Unknown(failure) => println!("under way: {failure:?}"),
        }
    }
    panic!("the disk does not fill; {}", cluster.logs());
}

fn assert_full(failure: &Failure) {
    assert_eq!(failure.code(), "overloaded", "{failure:?}");
    let detail = failure.problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("disk") && detail.contains("full"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_on_a_full_disk_ends_when_it_is_asked_to() {
    let Some(mut cluster) = cluster_with("").await else { return };
    let client = cluster.client(0);
    let stored = fill(&cluster, &client).await;
    cluster.stop_node(0).await;
    cluster.small_disk().expect("mounted").relieve();
    cluster.restart_node(0);
    cluster.wait_ready(0).await;
    // As many as fit into one answer.
    for ids in stored.chunks(10) {
        let reply = client.call("recall", &json!({ "ids": ids })).await.expect("a recall");
        assert_eq!(reply["frames"].as_array().unwrap().len(), ids.len(), "acknowledged: {}", reply["missing"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_state_has_no_room_says_so_at_once_and_ends_when_it_is_asked_to() {
    let Some(mut cluster) = cluster_with("state").await else { return };
    let client = cluster.client(0);
    fill(&cluster, &client).await;
    // The log has taken what the state could not: a read that must see it is told why it cannot, long before its time is
    // over, which would be an outcome of another kind.
    match client.attempt("recall", &json!({ "session": "full" }), TRY).await {
        Attempt::Refused(failure) => assert_full(&failure),
        other => panic!("{other:?}; {}", cluster.logs()),
    }
    cluster.stop_node(0).await;
    cluster.small_disk().expect("mounted").relieve();
    cluster.restart_node(0);
    cluster.wait_ready(0).await;
    client.call("recall", &json!({ "session": "full" })).await.expect("it goes on");
}
