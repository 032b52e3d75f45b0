//! Faults that a cluster of real processes must survive, each with a test.

use std::collections::BTreeSet;

use mira_chaos_tests::{
    client::Client,
    cluster::{Cluster, Shape},
};
use serde_json::{Value, json};

const DIM: usize = 8;

/// Eight components, different for each number.
fn vector(number: usize) -> Vec<f32> {
    (0..DIM).map(|axis| ((number * 31 + axis * 17) as f32 * 0.37).sin()).collect()
}

fn frame(number: usize) -> Value {
    json!({ "content": format!("frame number {number}"), "session": "import", "vector": vector(number) })
}

async fn vectors_collection(client: &Client, partitions: u32) {
    client.put_collection("default", &json!({ "dim": DIM, "partitions": partitions })).await.expect("a collection");
}

/// Stores frames `numbers` with 8 writers and returns their ids; fails on the first error that retries do not repair.
async fn import(client: &Client, numbers: std::ops::Range<usize>) -> Vec<String> {
    let writers = (0..8).map(|writer| {
        let client = client.clone();
        let mine: Vec<usize> = numbers.clone().filter(|number| number % 8 == writer).collect();
        tokio::spawn(async move {
            let mut ids = Vec::new();
            for number in mine {
                let id = client.store(&frame(number)).await;
                ids.push(id.unwrap_or_else(|failure| panic!("frame {number} was not stored: {failure:?}")));
            }
            ids
        })
    });
    let done = futures::future::join_all(writers).await;
    done.into_iter().flat_map(|ids| ids.expect("a writer ends")).collect()
}

/// Every id is there once, and nothing else.
async fn assert_all_there(client: &Client, ids: &[String]) {
    let wanted: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    assert_eq!(wanted.len(), ids.len(), "an id was given twice");
    for chunk in ids.chunks(500) {
        let reply = client.call("recall", &json!({ "ids": chunk })).await.expect("a recall");
        assert_eq!(reply["frames"].as_array().unwrap().len(), chunk.len(), "missing: {}", reply["missing"]);
    }
    let status = client.call("status", &json!({})).await.expect("a status");
    assert_eq!(status["frames"], ids.len(), "frames in the cluster");
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_any_node_during_an_import_loses_and_doubles_nothing() {
    let mut cluster = Cluster::start(Shape::default()).await;
    let client = cluster.client(0);
    vectors_collection(&client, 4).await;
    let mut ids = Vec::new();
    for victim in 0..3u8 {
        let start = ids.len();
        let importing = tokio::spawn({
            let client = client.clone();
            async move { import(&client, start..start + 300).await }
        });
        // In the middle: some frames are stored, many are not.
        cluster.wait_status("an import under way", |status| status["frames"].as_u64() > Some(start as u64 + 50)).await;
        cluster.kill_node(victim).await;
        ids.extend(importing.await.expect("the import ends without an error"));
        cluster.restart_node(victim);
        cluster.wait_status("all nodes back", |status| status["state"] == "ok").await;
    }
    assert_all_there(&client, &ids).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_all_nodes_at_once_keeps_every_acknowledged_frame() {
    let mut cluster = Cluster::start(Shape::default()).await;
    let client = cluster.client(0);
    vectors_collection(&client, 2).await;
    let ids = import(&client, 0..300).await;
    let question = json!({ "vector": vector(42), "k": 5 });
    let before = client.call("search", &question).await.expect("a search");
    for node in 0..3 {
        cluster.kill_node(node).await;
    }
    for node in 0..3 {
        cluster.restart_node(node);
    }
    cluster.wait_ready(0).await;
    assert_all_there(&client, &ids).await;
    let after = client.call("search", &question).await.expect("a search");
    assert_eq!(before["hits"], after["hits"], "the same question has the same answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_router_answers_the_same() {
    let mut cluster = Cluster::start(Shape { routers: 2, ..Shape::default() }).await;
    let first = cluster.client(0);
    vectors_collection(&first, 2).await;
    import(&first, 0..40).await;
    let question = json!({ "vector": vector(7), "k": 3 });
    let before = first.call("search", &question).await.expect("a search");
    cluster.kill_router(0);
    let after = cluster.client(1).call("search", &question).await.expect("a search");
    assert_eq!(before["hits"], after["hits"]);
    let any = cluster.client_of_all().call("search", &question).await.expect("a client that knows both goes on");
    assert_eq!(before["hits"], any["hits"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_away_for_ten_thousand_writes_catches_up_by_snapshot() {
    let mut cluster = Cluster::start(Shape { shards: 1, ..Shape::default() }).await;
    let client = cluster.client(0);
    vectors_collection(&client, 1).await;
    import(&client, 0..10).await;
    cluster.kill_node(2).await;
    // One after the other, because writes at the same time share entries: the log grows by more of them than it keeps.
    let stored = 10 + 10_000;
    for number in 1_000..11_000 {
        client.store(&frame(number)).await.expect("two of three nodes take writes");
    }
    cluster.restart_node(2);
    let status = cluster
        .wait_status("the node that was away has everything", |status| {
            let replicas = status["groups"].as_array().into_iter().flatten().find(|group| group["shard"] == 0);
            let replicas = replicas.and_then(|group| group["replicas"].as_array());
            replicas.is_some_and(|replicas| {
                replicas.len() == 3
                    && replicas.iter().all(|replica| replica["frames"] == stored && replica["index_lag"] == 0)
            })
        })
        .await;
    assert_eq!(status["state"], "ok");
    // What the log still holds is far less than what the node missed: it came by snapshot.
    let metrics = cluster.node_metrics(2).await;
    let purged =
        metrics.lines().find_map(|line| line.strip_prefix("mira_raft_group{group=\"1\",what=\"snapshot_index\"} "));
    assert!(purged.is_some_and(|index| index.parse::<u64>().unwrap() > 5_000), "no snapshot: {purged:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_refuses_writes_and_linearizable_reads() {
    let mut cluster = Cluster::start(Shape::default()).await;
    let mut client = cluster.client(0);
    vectors_collection(&client, 4).await;
    let ids = import(&client, 0..40).await;
    cluster.kill_node(1).await;
    cluster.kill_node(2).await;
    client.patience = std::time::Duration::ZERO;
    let impatient = |body: Value| {
        let client = client.clone();
        async move { client.once_within("store", &body, 3_000).await }
    };
    for number in 100..104 {
        let failure = impatient(frame(number)).await.expect_err("a minority must not acknowledge");
        assert!(["unavailable", "deadline_exceeded"].contains(&failure.code()), "{failure:?}");
    }
    let read = client.once_within("recall", &json!({ "ids": &ids[..5] }), 3_000).await;
    let failure = read.expect_err("a minority must not answer a linearizable read");
    assert!(["unavailable", "deadline_exceeded"].contains(&failure.code()), "{failure:?}");
    // A reader that asks for less gets it from the replica that is left.
    let any = client.once_within("recall", &json!({ "ids": &ids[..5], "consistency": "any" }), 5_000).await;
    assert_eq!(any.expect("any replica answers")["frames"].as_array().unwrap().len(), 5);
    cluster.restart_node(1);
    cluster.wait_status("a majority again", |status| status["leaderless_shards"] == json!([])).await;
    client.patience = std::time::Duration::from_secs(30);
    let stored = client.store(&frame(200)).await;
    stored.expect("a majority takes writes");
    let reply = client.call("recall", &json!({ "ids": ids })).await.expect("a recall");
    assert_eq!(reply["frames"].as_array().unwrap().len(), ids.len(), "nothing acknowledged is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_asked_to_stop_hands_over_and_comes_back() {
    let mut cluster = Cluster::start(Shape::default()).await;
    let client = cluster.client(0);
    vectors_collection(&client, 4).await;
    let importing = tokio::spawn({
        let client = client.clone();
        async move { import(&client, 0..400).await }
    });
    for node in 0..3 {
        cluster.stop_node(node).await;
        cluster.restart_node(node);
        cluster.wait_status("the node is back", |status| status["state"] == "ok").await;
    }
    let ids = importing.await.expect("a recovering restart fails no request");
    assert_all_there(&client, &ids).await;
}
