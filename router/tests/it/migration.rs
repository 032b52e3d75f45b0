//! Reads and writes of a collection that moves to more shards, at every point between two questions of a router.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::client::World;
use mira_testing::OLD_COPY;

const FRAMES: u32 = 40;
const SCAN: &str = "/collections/wide/frames?limit=100";
const SHORT: [(&str, &str); 1] = [("x-mira-timeout-ms", "1000")];

fn id(n: u32) -> String {
    format!("01999999-0000-7000-8000-{n:012}")
}

/// A collection of two shards with frames of a session in it, which begins to move to four. Some frames go from the
/// first source to the first target.
async fn moving() -> World {
    let world = World::new().await;
    world.collection("wide", 2).await;
    let frame = |n| json!({ "content": format!("frame {n}"), "id": id(n), "collection": "wide", "session": "s" });
    world.post("/mcp/store", json!({ "items": (0..FRAMES).map(frame).collect::<Vec<_>>() })).await.ok();
    world.fake.begin_migration("wide", 4);
    world
}

/// The first source, and the first target.
fn first_pair(world: &World) -> (u32, u32) {
    let (sources, targets) = world.fake.sources_and_targets("wide");
    (sources[0], targets[0])
}

fn search() -> Value {
    json!({ "query": "frame 3", "k": 100, "collection": "wide" })
}

/// The contents of frames; each must be there once.
fn contents<'a>(frames: impl IntoIterator<Item = &'a Value>) -> BTreeSet<String> {
    let contents: Vec<String> = frames.into_iter().map(|frame| frame["content"].as_str().unwrap().to_owned()).collect();
    let set: BTreeSet<String> = contents.iter().cloned().collect();
    assert_eq!(set.len(), contents.len(), "each once: {contents:?}");
    set
}

/// What a search, a page of everything, a recall by ids and one of the session say there is.
async fn seen_by_all(world: &World) -> [BTreeSet<String>; 4] {
    let found = world.post("/mcp/search", search()).await.ok();
    let scanned = world.get(SCAN).await.ok();
    let ids: Vec<String> = (0..FRAMES).map(id).collect();
    let recalled = world.post("/mcp/recall", json!({ "ids": ids, "collection": "wide" })).await.ok();
    let session = world.post("/mcp/recall", json!({ "session": "s", "limit": 100, "collection": "wide" })).await.ok();
    let frames = |reply: &Value, field: &str| contents(reply[field].as_array().unwrap());
    [frames(&found, "hits"), frames(&scanned, "frames"), frames(&recalled, "frames"), frames(&session, "frames")]
}

#[tokio::test]
async fn every_read_shows_each_frame_once_however_much_has_been_taken_over() {
    let world = moving().await;
    let all: BTreeSet<String> = (0..FRAMES).map(|n| format!("frame {n}")).collect();
    let (sources, targets) = world.fake.sources_and_targets("wide");
    assert_eq!(seen_by_all(&world).await, [(); 4].map(|()| all.clone()), "nothing has been taken over");
    for source in sources {
        for &target in &targets {
            world.fake.hand_over("wide", source, target);
            assert_eq!(seen_by_all(&world).await, [(); 4].map(|()| all.clone()), "{source} to {target}");
        }
    }
    assert!(targets.iter().all(|&target| world.fake.frames_in(target) > 0));
}

#[tokio::test]
async fn what_is_taken_over_while_shards_are_asked_is_not_missed() {
    let (source, target) = first_pair(&moving().await);
    let reads = [
        ("/mcp/search", search(), "hits"),
        (SCAN, Value::Null, "frames"),
        ("/mcp/recall", json!({ "session": "s", "limit": 100, "collection": "wide" }), "frames"),
        ("/mcp/recall", json!({ "ids": (0..FRAMES).map(id).collect::<Vec<_>>(), "collection": "wide" }), "frames"),
    ];
    for (path, request, field) in reads {
        let world = moving().await;
        world.fake.hand_over_before_source("wide", source, target);
        let reply = if request.is_null() { world.get(path).await } else { world.post(path, request).await };
        let reply = reply.ok();
        assert_eq!(reply[field].as_array().unwrap().len(), FRAMES as usize, "{path}");
        assert!(world.fake.frames_in(target) > 0, "it was taken over in between");
    }
}

#[tokio::test]
async fn a_target_that_does_not_answer_is_missing_and_nothing_old_is_shown_for_it() {
    let world = moving().await;
    let (source, target) = first_pair(&world);
    world.fake.hand_over("wide", source, target);
    world.fake.set_leader(target, None);
    let found = world.post_with("/mcp/search", search(), &SHORT).await.ok();
    assert_eq!((&found["degraded"], &found["missing_shards"]), (&json!(true), &json!([target])));
    let shown = contents(found["hits"].as_array().unwrap());
    assert!(!shown.is_empty() && shown.len() < FRAMES as usize && !shown.contains(OLD_COPY), "{shown:?}");
    let session = json!({ "session": "s", "collection": "wide" });
    assert_eq!(world.post_with("/mcp/recall", session, &SHORT).await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn writes_and_removals_follow_frames_that_have_moved() {
    let world = moving().await;
    let (source, target) = first_pair(&world);
    world.fake.hand_over("wide", source, target);
    let replace = |n| json!({ "content": "new", "id": id(n), "collection": "wide", "session": "s", "replace": true });
    let replaced =
        world.post("/mcp/store", json!({ "items": (0..FRAMES).map(replace).collect::<Vec<_>>() })).await.ok();
    assert!(replaced["items"].as_array().unwrap().iter().all(|item| item["version"] == 2), "{replaced}");
    let ids: Vec<String> = (0..FRAMES / 2).map(id).collect();
    let forgotten = world.post("/mcp/forget", json!({ "ids": ids, "collection": "wide" })).await.ok();
    assert_eq!(forgotten["removed"], FRAMES / 2);
    let forgotten = world.post("/mcp/forget", json!({ "session": "s", "collection": "wide" })).await.ok();
    assert_eq!(forgotten["removed"], FRAMES / 2);
    assert_eq!(world.post("/mcp/search", search()).await.ok()["hits"], json!([]));
}
