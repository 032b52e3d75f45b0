//! A comparison that no memory can meet is refused, as long as that is certain.

use serde_json::{Value, json};

use crate::client::World;

const KEY: (&str, &str) = ("x-mira-owner-key", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");

fn clashing() -> Value {
    json!({ "field": "metadata.count", "gt": "x" })
}

fn search(filter: &Value) -> Value {
    json!({ "query": "thing", "collection": "wide", "filter": filter })
}

async fn store(world: &World, content: &str, metadata: Value, more: Value) {
    let mut item = json!({ "content": content, "collection": "wide", "metadata": metadata });
    item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.post_with("/mcp/store", item, &[KEY]).await.ok();
}

/// A collection on four shards, whose counts are numbers.
async fn counted() -> World {
    let world = World::new().await;
    world.collection("wide", 4).await;
    for n in 0..12 {
        store(&world, &format!("thing {n}"), json!({ "count": n, "name": format!("n{n}") }), json!({})).await;
    }
    world
}

#[tokio::test]
async fn what_can_meet_nothing_is_refused_and_named() {
    let world = counted().await;
    let number = json!({ "field": "metadata.count", "gte": 0 });
    let unknown = json!({ "field": "metadata.colour", "eq": 5 });
    let absent = json!({ "field": "metadata.count", "exists": false });
    // filter, the field that is refused
    let table = [
        (clashing(), Some("metadata.count")),
        (json!({ "field": "metadata.count", "prefix": "1" }), Some("metadata.count")),
        (json!({ "field": "metadata.count", "in": ["1", true] }), Some("metadata.count")),
        (json!({ "field": "metadata.name", "eq": 1 }), Some("metadata.name")),
        (json!({ "not": clashing() }), Some("metadata.count")),
        (json!({ "and": [number, clashing()] }), Some("metadata.count")),
        (json!({ "or": [clashing(), { "field": "metadata.name", "eq": false }] }), Some("metadata.count")),
        (json!({ "or": [clashing(), number] }), None),
        (json!({ "or": [clashing(), unknown] }), None),
        (json!({ "field": "metadata.count", "in": ["1", 1] }), None),
        (number, None),
        (unknown, None),
        (absent, None),
    ];
    for (filter, refused) in table {
        // A second time from what is kept.
        for _ in 0..2 {
            let answer = world.post("/mcp/search", search(&filter)).await;
            match refused {
                None => drop(answer.ok()),
                Some(field) => {
                    assert_eq!(answer.code(), "invalid_argument", "{filter}");
                    assert!(answer.detail().contains(field), "{}", answer.detail());
                }
            }
        }
    }
    let detail = world.post("/mcp/search", search(&clashing())).await.detail();
    let said = "filter field metadata.count holds numbers in collection \"wide\", and is compared with text";
    assert_eq!(detail, said);
}

#[tokio::test]
async fn one_memory_with_the_kind_on_any_shard_is_enough() {
    let world = counted().await;
    assert_eq!(world.post("/mcp/search", search(&clashing())).await.code(), "invalid_argument");
    store(&world, "thing x", json!({ "count": "y" }), json!({})).await;
    let found = world.post("/mcp/search", search(&clashing())).await.ok();
    assert_eq!(found["hits"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_empty_collection_and_a_silent_shard_refuse_nothing() {
    let world = World::new().await;
    world.collection("wide", 4).await;
    world.post("/mcp/search", search(&clashing())).await.ok();
    let world = counted().await;
    world.fake.set_leader(world.fake.shards_of("wide")[0], None);
    let part = world.post("/mcp/search", search(&clashing())).await.ok();
    assert_eq!(part["degraded"], true);
}

#[tokio::test]
async fn a_node_that_does_not_say_refuses_nothing() {
    let world = counted().await;
    world.fake.fault(2, |faults| faults.says_no_types = true);
    world.post("/mcp/search", search(&clashing())).await.ok();
    let forget = json!({ "collection": "wide", "filter": clashing() });
    assert_eq!(world.post("/mcp/forget", forget).await.ok()["removed"], 0);
}

#[tokio::test]
async fn each_search_of_a_batch_is_judged_by_itself() {
    let world = counted().await;
    let good = json!({ "field": "metadata.count", "lt": 3 });
    let batch = json!({ "searches": [search(&clashing()), search(&good)] });
    let answers = world.post("/mcp/search", batch).await.ok()["answers"].clone();
    assert_eq!(answers[0]["error"]["code"], "invalid_argument", "{answers}");
    assert_eq!(answers[1]["hits"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn private_memories_that_were_opened_have_their_say() {
    let world = counted().await;
    let mut ask = search(&clashing());
    ask["include_private"] = true.into();
    let refused = world.post_with("/mcp/search", ask.clone(), &[KEY]).await;
    assert_eq!(refused.code(), "invalid_argument", "she has none");
    store(&world, "thing of mine", json!({ "count": 7 }), json!({ "private": true })).await;
    let refused = world.post_with("/mcp/search", ask.clone(), &[KEY]).await;
    assert_eq!(refused.code(), "invalid_argument", "hers are numbers too");
    // What a search does not open may hold anything.
    let mut early = ask.clone();
    early["created_to"] = "2001-01-01T00:00:00Z".into();
    world.post_with("/mcp/search", early.clone(), &[KEY]).await.ok();
    store(&world, "another of mine", json!({ "count": "y" }), json!({ "private": true })).await;
    let found = world.post_with("/mcp/search", ask, &[KEY]).await.ok();
    assert_eq!(found["hits"].as_array().unwrap().len(), 1);
    assert_eq!(world.post("/mcp/search", search(&clashing())).await.code(), "invalid_argument", "nobody else's");
}

#[tokio::test]
async fn forget_refuses_before_it_removes() {
    let world = counted().await;
    let forget = async |filter: &Value| {
        world.fake.clear_seen();
        world.post("/mcp/forget", json!({ "collection": "wide", "filter": filter })).await
    };
    for filter in [clashing(), json!({ "not": clashing() })] {
        assert_eq!(forget(&filter).await.code(), "invalid_argument", "{filter}");
        assert_eq!((world.fake.frame_count(), world.fake.seen("forget").len()), (12, 0), "{filter}");
    }
    assert_eq!(forget(&json!({ "field": "metadata.count", "lt": 2 })).await.ok()["removed"], 2);
    assert_eq!(world.fake.seen("field_types").len(), 4, "a filter that makes sense costs a question to each shard");
    // One without a vector is in no index, and no search finds it; but it is there to be forgotten.
    let blob = json!({ "bytes": "AAEC", "collection": "wide", "metadata": { "count": "y" } });
    world.post("/mcp/store", blob).await.ok();
    assert_eq!(world.post("/mcp/search", search(&clashing())).await.code(), "invalid_argument");
    assert_eq!(forget(&clashing()).await.ok()["removed"], 1);
    assert_eq!(forget(&clashing()).await.code(), "invalid_argument", "now nothing holds a text");
    assert_eq!(world.fake.frame_count(), 10);
}
