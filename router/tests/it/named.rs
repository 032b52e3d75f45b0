//! Named vectors: stored beside a frame's own, found by `using`, private ones by their owner only.

use axum::http::Method;
use serde_json::{Value, json};

use crate::client::{Answer, DIM, World};

const ADA: (&str, &str) = ("x-mira-owner-key", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");

/// A collection on four shards whose frames may have a vector named `state`.
async fn world() -> World {
    let world = World::new().await;
    let settings =
        json!({ "partitions": 4, "vectors": { "state": { "dim": 3, "metric": "dot" }, "place": { "dim": 2 } } });
    let made = world.request(Method::PUT, "/collections/agents", settings.to_string(), &[]).await.ok();
    let expected = json!({ "state": { "dim": 3, "metric": "dot", "quantization": "int8" },
        "place": { "dim": 2, "metric": "cosine", "quantization": "int8" } });
    assert_eq!(made["vectors"], expected);
    world
}

async fn store(world: &World, content: &str, more: Value) -> Answer {
    let mut item = json!({ "content": content, "collection": "agents" });
    item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.post_with("/mcp/store", item, &[ADA]).await
}

async fn search(world: &World, request: Value) -> Answer {
    let mut ask = json!({ "collection": "agents", "include_private": true });
    ask.as_object_mut().unwrap().extend(request.as_object().unwrap().clone());
    world.post_with("/mcp/search", ask, &[ADA]).await
}

fn contents(reply: &Value) -> Vec<&str> {
    reply["hits"].as_array().unwrap().iter().map(|hit| hit["content"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_frame_is_found_by_each_of_its_vectors() {
    let world = world().await;
    for (content, state, private) in [
        ("calm", [1.0, 0.0, 0.0], false),
        ("curious", [0.0, 3.0, 0.0], false),
        ("afraid", [0.0, 1.0, 1.0], true),
        ("proud", [0.0, 0.0, 2.0], true),
    ] {
        store(&world, content, json!({ "vectors": { "state": state }, "private": private })).await.ok();
    }
    store(&world, "no state at all", json!({})).await.ok();
    store(&world, "secret, without one", json!({ "private": true })).await.ok();

    let found = search(&world, json!({ "using": "state", "vector": [0.0, 1.0, 0.5] })).await.ok();
    assert_eq!(contents(&found), ["curious", "afraid", "proud", "calm"]);
    assert_eq!(found["hits"][0]["score"], 3.0);
    let both = json!({ "using": "state", "vectors": [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], "combine": "mean", "k": 1 });
    assert_eq!(contents(&search(&world, both).await.ok()), ["proud"]);
    let diverse = json!({ "using": "state", "vector": [0.0, 1.0, 0.5], "k": 3, "diversity": 0.5 });
    assert_eq!(search(&world, diverse).await.ok()["hits"].as_array().unwrap().len(), 3);
    let by_words = search(&world, json!({ "query": "no state at all", "k": 6 })).await.ok();
    assert_eq!((contents(&by_words)[0], contents(&by_words).len()), ("no state at all", 6));
    // Asked again, the answer comes from what is kept: not from that of the other space.
    for _ in 0..2 {
        let vector: Vec<f32> = (0..DIM).map(|at| if at == 0 { 1.0 } else { 0.0 }).collect();
        assert_eq!(contents(&search(&world, json!({ "vector": vector, "k": 10 })).await.ok()).len(), 6);
        assert_eq!(contents(&search(&world, json!({ "using": "state", "vector": [1, 0, 0] })).await.ok())[0], "calm");
        assert!(contents(&search(&world, json!({ "using": "place", "vector": [1, 0] })).await.ok()).is_empty());
    }

    let scanned = world.request(Method::GET, "/collections/agents/frames", "", &[ADA]).await.ok();
    let vectors: Vec<(&str, &Value)> = scanned["frames"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|frame| frame.get("vectors").is_some())
        .map(|frame| (frame["content"].as_str().unwrap(), &frame["vectors"]["state"]))
        .collect();
    assert_eq!(vectors.len(), 4);
    assert!(vectors.contains(&("afraid", &json!([0.0, 1.0, 1.0]))), "{vectors:?}");
    assert!(
        scanned["frames"].as_array().unwrap().iter().all(|frame| frame.get("vector").is_none()),
        "all were embedded"
    );
}

#[tokio::test]
async fn names_and_components_are_checked() {
    let world = world().await;
    let refused = async |answer: Answer, code: &str, says: &str| {
        assert_eq!(answer.code(), code, "{answer:?}");
        assert!(answer.detail().contains(says), "{answer:?}");
    };
    for private in [false, true] {
        let with = async |vectors: Value| store(&world, "x", json!({ "vectors": vectors, "private": private })).await;
        refused(with(json!({ "mood": [1.0] })).await, "invalid_argument", "place, state").await;
        refused(with(json!({ "state": [1.0] })).await, "dimension_mismatch", "named \"state\" have 3").await;
        refused(with(json!({ "place": [0.0, 0.0] })).await, "invalid_argument", "all zeros").await;
        refused(with(json!({ "state": [] })).await, "invalid_argument", "state: vector is empty").await;
        // What could not be compared by dot is not acknowledged; a direction may be as long as it likes.
        let long = json!({ "state": [2e15, 1.0, 1.0] });
        refused(with(long).await, "invalid_argument", "named \"state\": component 0 is beyond ±1e15").await;
    }
    assert_eq!(world.fake.frame_count(), 0, "nothing of them was stored");
    refused(search(&world, json!({ "using": "mood", "vector": [1.0] })).await, "invalid_argument", "mood").await;
    refused(search(&world, json!({ "using": "state", "vector": [1.0] })).await, "dimension_mismatch", "state").await;
    let long = search(&world, json!({ "using": "state", "vector": [1.0, -2e15, 1.0] })).await;
    refused(long, "invalid_argument", "component 1 is beyond").await;
    refused(search(&world, json!({ "using": "state", "query": "calm" })).await, "invalid_argument", "words").await;
    refused(search(&world, json!({ "using": "", "vector": [1.0] })).await, "invalid_argument", "using is empty").await;
    let page = search(&world, json!({ "using": "state", "vector": [1, 0, 0], "k": 1 })).await.ok();
    assert!(page.get("next_cursor").is_none());
    let put = async |vectors: Value| {
        let settings = json!({ "vectors": vectors }).to_string();
        world.request(Method::PUT, "/collections/other", settings, &[]).await
    };
    refused(put(json!({ "state": { "dim": 0 } })).await, "invalid_argument", "dim").await;
    refused(put(json!({ " ": { "dim": 3 } })).await, "invalid_argument", "empty").await;
    refused(put(json!({ "state": { "dim": 3, "ef": 9 } })).await, "invalid_argument", "tune").await;
    refused(put(json!({ "state": { "dim": 3, "lens": 9 } })).await, "invalid_argument", "lens").await;
    let many: serde_json::Map<String, Value> = (0..9).map(|n| (format!("v{n}"), json!({ "dim": 3 }))).collect();
    refused(put(many.into()).await, "too_large", "more than 8").await;
    let there = world.request(Method::PUT, "/collections/agents", json!({ "partitions": 4 }).to_string(), &[]).await;
    assert_eq!(there.code(), "already_exists", "it has named vectors");
}

#[tokio::test]
async fn a_beam_is_found_for_the_vectors_of_a_name() {
    let world = world().await;
    store(&world, "calm", json!({ "vectors": { "state": [1, 0, 0] } })).await.ok();
    let tune =
        async |using: &str| world.post("/collections/agents/tune", json!({ "using": using, "recall": 0.95 })).await;
    let reply = tune("state").await.ok();
    let ef = reply["ef"].as_u64().unwrap();
    assert_eq!(tune("mood").await.code(), "invalid_argument");
    let collection = world.get("/collections/agents").await.ok();
    assert_eq!((&collection["vectors"]["state"]["ef"], collection.get("ef")), (&json!(ef), None));
    assert_eq!(tune("state").await.ok()["before"], json!(ef));
}
