//! Searches under load: work that nobody waits for ends, and how right the answers are is known.

use std::time::Duration;

use mira_node::{Formation, NodeConfig, RunningNode};
use mira_proto::{limits, node_v1};
use mira_testing::eventually;
use serde_json::json;

use crate::common::{ALONE, EAST, Shard, config, connect, frame, start};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_nobody_waits_for_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    // Texts too long to be indexed: a filter on them has to open every frame.
    for chunk in (1..=3_000u128).collect::<Vec<_>>().chunks(100) {
        let frames = chunk.iter().map(|id| node_v1::FrameWrite {
            metadata_json: json!({ "long": format!("{id}{}", "x".repeat(400)) }).to_string(),
            ..frame(*id, &format!("frame {id}"), EAST)
        });
        shard.write(frames.collect()).await.unwrap();
    }
    let request = node_v1::SearchRequest {
        header: Some(node_v1::ReadHeader {
            epoch: shard.epoch,
            shard: shard.shard,
            collection: shard.collection,
            ..Default::default()
        }),
        vector: EAST.to_vec(),
        k: 10,
        filter_json: json!({ "field": "metadata.long", "prefix": "nothing begins so" }).to_string(),
        ..Default::default()
    };
    let given_up = || node.node().shards().iter().map(|(_, open)| open.index().stats().given_up).sum::<u64>();
    for _ in 0..200 {
        let client = shard.client.clone();
        // The caller leaves while frames are being opened.
        let left = tokio::time::timeout(Duration::from_millis(3), client.shards().search(request.clone())).await;
        if left.is_err() && given_up() > 0 {
            break;
        }
    }
    eventually("a search is given up", PATIENCE, async || given_up() > 0).await;
    // With patience it is answered.
    let reply = shard.client.clone().shards().search(request).await.unwrap().into_inner();
    assert_eq!(reply.hits, []);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recall_is_measured_beside_the_answers() {
    let folder = tempfile::tempdir().unwrap();
    let config = NodeConfig { recall_sample_every: 1, ..config(folder.path(), Formation::Bootstrap(ALONE)) };
    let node = RunningNode::start(config).await.unwrap();
    assert!(node.wait_ready(Duration::from_secs(30)).await);
    let client = connect(node.grpc_address()).await.unwrap();
    let shard = Shard::new(client, "c").await;
    let vector = |id: u128| [(id as f32 * 0.01).cos(), (id as f32 * 0.01).sin(), 0.1, 0.0];
    for chunk in (1..=300u128).collect::<Vec<_>>().chunks(100) {
        shard.write(chunk.iter().map(|id| frame(*id, "text", vector(*id))).collect()).await.unwrap();
    }
    let mut searched = 0u128;
    let found = eventually("searches are repeated", PATIENCE, async || {
        searched += 1;
        shard.search(vector(searched % 300), 10).await.unwrap();
        node.node().recall_sampler().found().get("c").filter(|found| found.samples >= 3).copied()
    })
    .await;
    assert!((found.recall / found.samples as f64 - 1.0).abs() < 1e-9, "a scan misses nothing: {found:?}");
    let metrics = node.node().metrics.scrape(&node.node().figures());
    assert!(metrics.contains("mira_search_recall{collection=\"c\"} 1\n"), "{metrics}");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_wait_for_an_index_that_is_behind() {
    const WRITERS: u128 = 8;
    const BATCHES: u128 = 3;
    const BATCH: u128 = 200;
    /// Vectors of a frame: many, so that indexing it takes longer than storing it.
    const PASSAGES: usize = 32;
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    let stats = || node.node().shards().iter().map(|(_, open)| open.index().stats()).collect::<Vec<_>>();
    let lag = || stats().iter().map(|stats| stats.lag).sum::<u64>();
    let long = |id: u128| {
        let mut long = frame(id, "text", EAST);
        let passage = long.passages[0].clone();
        let turned = |at: usize| node_v1::Passage {
            vector: [(id as f32 * 0.37).cos(), (id as f32 * 0.37).sin(), at as f32, 1.0].to_vec(),
            ..passage.clone()
        };
        long.passages = (0..PASSAGES).map(turned).collect();
        long
    };
    let writer = async |writer: u128| {
        for batch in 0..BATCHES {
            let first = 1 + (writer * BATCHES + batch) * BATCH;
            shard.write((first..first + BATCH).map(long).collect()).await.unwrap();
        }
    };
    let mut longest = 0;
    let writing = futures::future::join_all((0..WRITERS).map(writer));
    tokio::pin!(writing);
    while tokio::time::timeout(Duration::from_millis(1), &mut writing).await.is_err() {
        longest = longest.max(lag());
    }
    // Those that were let in together are behind by as much as each of them brings.
    let bound = limits::INDEX_TAIL as u64 + (WRITERS * BATCH) as u64;
    assert!(longest <= bound, "the index was {longest} changes behind");
    assert!(longest > limits::INDEX_TAIL as u64, "it was never behind by more than {longest}: nothing was tried");
    eventually("the index catches up", PATIENCE, async || lag() == 0).await;
    let vectors: u64 = stats().iter().map(|stats| stats.vectors).sum();
    assert_eq!(vectors, (WRITERS * BATCHES * BATCH) as u64 * PASSAGES as u64);
    node.shutdown().await;
}
