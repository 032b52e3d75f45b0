//! Frames with an end: hidden when it has come, gone from disk and index soon after, and their ids free.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mira_node::shard::{machine::decode_count, record};
use mira_node::{Formation, NodeConfig, RunningNode};
use mira_proto::{Code, node_v1};
use mira_testing::eventually;

use crate::common::{ALONE, DAY_MS, DIM, EAST, NOON_MS, NodeClients, SetClock, Shard, config, connect, frame, start};

const LIFETIME: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(30);

async fn short_lived(client: NodeClients) -> Shard {
    let request = node_v1::CreateCollectionRequest {
        name: "short".into(),
        dim: DIM,
        metric: node_v1::Metric::Cosine.into(),
        quantization: node_v1::Quantization::Int8.into(),
        partitions: 1,
        ttl_seconds: LIFETIME.as_secs(),
        ..Default::default()
    };
    Shard::created(client, request).await
}

fn now_ms() -> u64 {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    time.expect("after 1970").as_millis() as u64
}

/// Whether nothing of a frame is in the state any more, and how many frames there are.
fn held(node: &RunningNode, shard: &Shard, id: u128, expires_ms: u64) -> (bool, u64) {
    let open = node.node().shard(shard.shard).expect("open");
    let reader = open.group().reader();
    let keys: [Vec<u8>; 4] = [
        record::frame_key(shard.collection, id).to_vec(),
        record::head_key(shard.collection, id).to_vec(),
        record::vectors_key(shard.collection, id).to_vec(),
        record::expiry_key(shard.collection, expires_ms, id).to_vec(),
    ];
    let none = reader.multi_get(&keys).expect("readable").iter().all(Option::is_none);
    let count = reader.get(&record::count_key(shard.collection)).expect("readable");
    (none, decode_count(count.as_deref()).expect("a count"))
}

async fn until_gone(node: &RunningNode, shard: &Shard, id: u128, expires_ms: u64) {
    eventually(&format!("frame {id} is gone"), PATIENCE, async || {
        let is_gone = held(node, shard, id, expires_ms).0;
        if !is_gone {
            let _ = node.node().shard(shard.shard).expect("open").sweep().await;
        }
        is_gone
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_is_hidden_at_its_end_and_removed_soon_after() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = short_lived(client).await;
    let kept_until = now_ms() + 3_600_000;
    shard.one(frame(1, "by the collection's lifetime", EAST)).await.unwrap();
    shard.one(node_v1::FrameWrite { expires_ms: kept_until, ..frame(2, "by its own", EAST) }).await.unwrap();
    let first = shard.fetch(&[1]).await.remove(0);
    assert_eq!(first.expires_ms, first.created_ms + LIFETIME.as_millis() as u64);
    assert_eq!(shard.search(EAST, 10).await.unwrap().len(), 2);
    let open = node.node().shard(shard.shard).unwrap();
    assert_eq!(open.sweep().await.unwrap(), (0, false), "nothing is over");

    tokio::time::sleep(LIFETIME).await;
    assert_eq!(shard.fetch(&[1, 2]).await.len(), 1);
    let found: Vec<u128> = shard.search(EAST, 10).await.unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(found, [2]);
    until_gone(&node, &shard, 1, first.expires_ms).await;
    assert_eq!(held(&node, &shard, 2, kept_until), (false, 1));
    assert_eq!(open.index().stats().vectors, 1);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_a_frame_that_is_over_is_free_and_a_later_end_replaces_an_earlier_one() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    let (soon, later) = (now_ms() + 700, now_ms() + 3_600_000);
    let ending = |id, content, expires_ms| node_v1::FrameWrite { expires_ms, ..frame(id, content, EAST) };
    shard.one(ending(1, "first", soon)).await.unwrap();
    shard.one(ending(2, "first", soon)).await.unwrap();
    let longer = node_v1::FrameWrite { replace: true, ..ending(2, "lives on", later) };
    assert_eq!(shard.one(longer).await, Ok(2));
    let taken = shard.one(frame(1, "second", EAST)).await.unwrap_err();
    assert_eq!(taken.code, Code::Conflict);

    tokio::time::sleep(Duration::from_millis(700)).await;
    // Removed yet or not, for a writer it is gone.
    let fresh = node_v1::FrameWrite { expected_version: Some(0), ..frame(1, "second", EAST) };
    shard.one(fresh).await.expect("the id is free");
    let frames = shard.fetch(&[1, 2]).await;
    assert_eq!((&frames[0].content[..], frames[0].expires_ms), (&b"second"[..], 0));
    assert!(frames[0].created_ms >= soon, "it is another frame");
    assert_eq!((&frames[1].content[..], frames[1].expires_ms), (&b"lives on"[..], later));
    let open = node.node().shard(shard.shard).unwrap();
    // What the second one was before has come to its end too.
    assert!(matches!(open.sweep().await.unwrap(), (0 | 1, false)));
    assert_eq!(open.sweep().await.unwrap(), (0, false), "no end is left behind");
    assert_eq!(shard.fetch(&[1, 2]).await.len(), 2);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_down_when_the_end_came_removes_it_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = short_lived(client).await;
    let ids: Vec<u128> = (1..=1_200).collect();
    for part in ids.chunks(100) {
        shard.write(part.iter().map(|&id| frame(id, "short", EAST)).collect()).await.unwrap();
    }
    let last = shard.fetch(&[1_200]).await.remove(0).expires_ms;
    node.shutdown().await;
    tokio::time::sleep(LIFETIME).await;
    let node = RunningNode::start(config(folder.path(), Formation::Bootstrap(ALONE))).await.unwrap();
    assert!(node.wait_ready(PATIENCE).await);
    until_gone(&node, &shard, 1_200, last).await;
    eventually("all are gone", PATIENCE, async || {
        let left = held(&node, &shard, 1_200, last).1;
        if left > 0 {
            let _ = node.node().shard(shard.shard).unwrap().sweep().await;
        }
        left == 0
    })
    .await;
    node.shutdown().await;
}

/// How far a clock may be ahead after it was set right.
const LEAD_MS: u64 = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_a_day_ahead_leaves_nothing_behind_when_it_is_right_again() {
    let folder = tempfile::tempdir().unwrap();
    let clock = SetClock(Arc::new(AtomicU64::new(NOON_MS + DAY_MS)));
    let own = Arc::new(clock.clone());
    let node = RunningNode::start(NodeConfig { clock: own, ..config(folder.path(), Formation::Bootstrap(ALONE)) });
    let node = node.await.unwrap();
    assert!(node.wait_ready(PATIENCE).await);
    let client = connect(node.grpc_address()).await.unwrap();
    let shard = short_lived(client).await;
    shard.one(frame(1, "made tomorrow", EAST)).await.unwrap();
    assert_eq!(shard.fetch(&[1]).await[0].created_ms, NOON_MS + DAY_MS);

    clock.0.store(NOON_MS, Ordering::Relaxed);
    let ending = |id, content, expires_ms| node_v1::FrameWrite { expires_ms, ..frame(id, content, EAST) };
    shard.one(ending(2, "until two seconds after noon", NOON_MS + 2_000)).await.unwrap();
    shard.one(frame(3, "for a second", EAST)).await.unwrap();
    let made = shard.fetch(&[2, 3]).await;
    let right = NOON_MS..=NOON_MS + LEAD_MS;
    assert!(made.iter().all(|frame| right.contains(&frame.created_ms)), "{made:?}");
    assert!((NOON_MS + 1_000..=NOON_MS + 1_000 + LEAD_MS).contains(&made[1].expires_ms), "{made:?}");
    // It lives, for readers, for searches and for writers alike.
    let found: Vec<u128> = shard.search(EAST, 10).await.unwrap().into_iter().map(|(id, _)| id).collect();
    assert!(found.contains(&2) && found.contains(&3), "{found:?}");
    let taken = shard.one(frame(2, "another", EAST)).await.unwrap_err();
    assert_eq!(taken.code, Code::Conflict);

    // And it ends for all of them at once.
    clock.0.store(NOON_MS + 2_000, Ordering::Relaxed);
    assert!(shard.fetch(&[2, 3]).await.is_empty());
    let found: Vec<u128> = shard.search(EAST, 10).await.unwrap().into_iter().map(|(id, _)| id).collect();
    assert!(!found.contains(&2) && !found.contains(&3), "{found:?}");
    until_gone(&node, &shard, 3, made[1].expires_ms).await;
    shard.one(frame(2, "another", EAST)).await.expect("the id is free");
    node.shutdown().await;
}
