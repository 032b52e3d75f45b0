//! What each operation does when nothing goes wrong.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::client::{DIM, World};

fn contents(reply: &Value, list: &str) -> Vec<String> {
    let entries = reply[list].as_array().unwrap();
    entries.iter().map(|entry| entry["content"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn what_is_stored_is_found_and_recalled() {
    let world = World::new().await;
    let item = json!({ "content": "green tea comes from Japan", "type": "insight", "session": "s1", "role": "user",
        "metadata": { "n": 1, "deep": { "list": [1, 2.5, null] } } });
    let stored = world.post("/mcp/store", item).await;
    let reply = stored.ok();
    assert_eq!(reply["version"], 1);
    assert_eq!(stored.headers["x-mira-consistency-token"], reply["consistency_token"].as_str().unwrap());
    world.store_all("default", &["black bread from Germany", "a song about trains"]).await;

    let found = world.post("/mcp/search", json!({ "query": "tea from Japan", "k": 2 })).await.ok();
    assert_eq!(found["hits"].as_array().unwrap().len(), 2);
    let best = &found["hits"][0];
    assert_eq!(best["content"], "green tea comes from Japan");
    assert_eq!(best["why"]["vector"]["rank"], 1);
    assert_eq!(best["score"], best["why"]["vector"]["score"]);
    assert!(found.get("degraded").is_none());

    let recalled = world.post("/mcp/recall", json!({ "id": reply["id"] })).await.ok();
    let frame = &recalled["frames"][0];
    assert_eq!((&frame["type"], &frame["session"], &frame["role"]), (&json!("insight"), &json!("s1"), &json!("user")));
    assert_eq!(frame["metadata"], json!({ "n": 1, "deep": { "list": [1, 2.5, null] } }));
    assert_eq!(frame["id"], reply["id"]);
}

#[tokio::test]
async fn a_batch_is_answered_item_by_item_in_order() {
    let world = World::new().await;
    world.collection("wide", 4).await;
    let id = "01999999-0000-7000-8000-000000000001";
    let mut items: Vec<Value> =
        (0..250).map(|n| json!({ "content": format!("item {n}"), "collection": "wide" })).collect();
    items[3] = json!({ "content": " ", "collection": "wide" });
    items[7] = json!({ "content": "one", "id": id, "collection": "wide" });
    items[8] = json!({ "content": "two", "id": id, "collection": "wide" });
    items[9] = json!({ "content": "three", "id": id, "replace": true, "collection": "wide" });
    items[11] = json!({ "content": "x", "vector": [1.0], "collection": "wide" });
    let reply = world.post("/mcp/store", json!({ "items": items })).await.ok();
    let answers = reply["items"].as_array().unwrap();
    assert_eq!(answers.len(), 250);
    assert_eq!(answers[3]["error"]["code"], "invalid_argument");
    assert_eq!(answers[7], json!({ "id": id, "version": 1 }));
    assert_eq!(answers[8]["error"]["code"], "conflict");
    assert_eq!(answers[9], json!({ "id": id, "version": 2 }));
    assert_eq!(answers[11]["error"]["code"], "dimension_mismatch");
    assert_eq!(world.fake.frame_count(), 250 - 3 - 1);
    // Each answer stands where its item stood.
    let ids: Vec<&Value> = answers.iter().filter_map(|answer| answer.get("id")).collect();
    let frames = world.post("/mcp/recall", json!({ "ids": ids, "collection": "wide" })).await.ok();
    let expected: Vec<String> = items
        .iter()
        .zip(answers)
        .filter(|(_, answer)| answer.get("id").is_some())
        .map(
            |(item, answer)| {
                if answer["id"] == id { "three".into() } else { item["content"].as_str().unwrap().to_owned() }
            },
        )
        .collect();
    assert_eq!(contents(&frames, "frames"), expected);
}

#[tokio::test]
async fn a_collection_over_many_shards_ranks_as_one() {
    let world = World::new().await;
    let texts: Vec<String> = (0..60).map(|n| format!("note {n} about {}", ["tea", "bread", "trains"][n % 3])).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for (name, partitions) in [("narrow", 1), ("wide", 4)] {
        world.collection(name, partitions).await;
        world.store_all(name, &texts).await;
    }
    let ask = async |name: &str| {
        world.post("/mcp/search", json!({ "query": "a note about tea", "k": 20, "collection": name })).await.ok()
    };
    let (narrow, wide) = (ask("narrow").await, ask("wide").await);
    let scores = |reply: &Value| -> Vec<f64> {
        reply["hits"].as_array().unwrap().iter().map(|hit| hit["score"].as_f64().unwrap()).collect()
    };
    assert_eq!(scores(&narrow), scores(&wide));
    let searched: Vec<u32> = world.fake.seen("search").iter().map(|seen| seen.shard).collect();
    assert_eq!(searched.len(), 5, "one shard, then four: {searched:?}");
    assert!(world.fake.seen("fetch").len() <= 4, "frames of a single shard come along with its hits");
}

#[tokio::test]
async fn a_frame_that_two_shards_hold_counts_once() {
    let world = World::new().await;
    world.collection("wide", 4).await;
    world.store_all("wide", &["one", "two", "three", "four", "five", "six"]).await;
    let shards = world.fake.shards_of("wide");
    world.fake.copy_frames(shards[0], shards[1]);
    world.fake.copy_frames(shards[2], shards[1]);
    let reply = world.post("/mcp/search", json!({ "query": "two", "k": 50, "collection": "wide" })).await.ok();
    let mut found = contents(&reply, "hits");
    found.sort();
    assert_eq!(found, ["five", "four", "one", "six", "three", "two"]);
}

#[tokio::test]
async fn a_session_comes_in_order_from_all_its_shards() {
    let world = World::new().await;
    world.collection("wide", 4).await;
    for n in 0..12 {
        let item = json!({ "content": format!("turn {n}"), "session": "talk", "collection": "wide" });
        world.post("/mcp/store", item).await.ok();
    }
    let turns = |range: std::ops::Range<u32>| range.map(|n| format!("turn {n}")).collect::<Vec<_>>();
    let recall = async |mut body: Value| {
        body["session"] = "talk".into();
        body["collection"] = "wide".into();
        contents(&world.post("/mcp/recall", body).await.ok(), "frames")
    };
    assert_eq!(recall(json!({})).await, turns(0..12));
    assert_eq!(recall(json!({ "limit": 5 })).await, turns(0..5));
    assert_eq!(recall(json!({ "limit": 5, "last": true })).await, turns(7..12));
}

#[tokio::test]
async fn forget_removes_what_it_names_and_nothing_else() {
    let world = World::new().await;
    world.collection("wide", 4).await;
    let ids = world.store_all("wide", &["a", "b", "c"]).await;
    for n in 0..9 {
        let item = json!({ "content": format!("turn {n}"), "session": "talk", "collection": "wide" });
        world.post("/mcp/store", item).await.ok();
    }
    let unknown = "01999999-0000-7000-8000-00000000dead";
    let reply = world.post("/mcp/forget", json!({ "ids": [ids[0], unknown], "collection": "wide" })).await.ok();
    assert_eq!((&reply["removed"], &reply["ids"]), (&json!(1), &json!([ids[0]])));
    let session = world.post("/mcp/forget", json!({ "session": "talk", "collection": "wide" })).await.ok();
    assert_eq!(session["removed"], 9, "in several steps");
    assert_eq!(world.fake.frame_count(), 2);
    let all = world.post("/mcp/forget", json!({ "all": true, "collection": "wide" })).await.ok();
    assert_eq!(all["removed"], 2);
    let again = world.post("/mcp/forget", json!({ "all": true, "collection": "wide" })).await.ok();
    assert_eq!(again["removed"], 0);
}

#[tokio::test]
async fn shredding_removes_and_then_has_the_key_destroyed() {
    let world = World::new().await;
    world.collection("wide", 4).await;
    let ids = world.store_all("wide", &["a", "b", "c"]).await;
    let one = json!({ "id": ids[0], "collection": "wide", "shred": true });
    let reply = world.post("/mcp/forget", one.clone()).await.ok();
    assert_eq!((&reply["removed"], reply["shred"].is_u64()), (&json!(1), true));
    // Whether a rotation that somebody else began covers what was removed just now, nobody knows.
    world.fake.set_rotating(true);
    let conflict = world.post("/mcp/forget", json!({ "id": ids[1], "collection": "wide", "shred": true })).await;
    assert_eq!(conflict.code(), "conflict");
    assert!(conflict.detail().contains("is removed, but its key is not shredded yet"), "{}", conflict.detail());
    let all = json!({ "all": true, "collection": "wide", "shred": true });
    let whole = world.post("/mcp/forget", all.clone()).await.ok();
    assert!(whole["shred"].is_u64());
    assert_eq!(world.fake.frame_count(), 0);
    assert_eq!(world.get("/collections/wide").await.code(), "not_found");
    assert_eq!(world.post("/mcp/forget", all).await.code(), "not_found");
}

#[tokio::test]
async fn opaque_bytes_come_back_as_they_were() {
    let world = World::new().await;
    let stored = world.post("/mcp/store", json!({ "bytes": "AAH/gA==" })).await.ok();
    let recalled = world.post("/mcp/recall", json!({ "id": stored["id"] })).await.ok();
    assert_eq!(recalled["frames"][0]["bytes"], "AAH/gA==");
    assert!(recalled["frames"][0].get("content").is_none());
    let found = world.post("/mcp/search", json!({ "query": "anything" })).await.ok();
    assert_eq!(found["hits"], json!([]), "without a vector it is found by id only");
}

#[tokio::test]
async fn a_hit_in_long_text_says_which_passage_matched() {
    let world = World::new().await;
    let filler = "nothing of interest is said here, over and over. ".repeat(20);
    let text = format!("{filler}The password of the safe is hidden under the piano. {filler}");
    world.post("/mcp/store", json!({ "content": text })).await.ok();
    let query = "The password of the safe is hidden under the piano.";
    let found = world.post("/mcp/search", json!({ "query": query })).await.ok();
    let passage = &found["hits"][0]["why"]["vector"]["passage"];
    let (start, end) = (passage[0].as_u64().unwrap() as usize, passage[1].as_u64().unwrap() as usize);
    assert!(text[start..end].contains("piano"), "{}", &text[start..end]);
}

#[tokio::test]
async fn collections_are_made_read_listed_and_removed() {
    let world = World::new().await;
    let settings = json!({ "dim": 8, "metric": "l2", "quantization": "none", "partitions": 2, "ttl_seconds": 60 });
    let put = async |body: &Value| world.request(Method::PUT, "/collections/states", body.to_string(), &[]).await;
    let made = put(&settings).await.ok();
    assert_eq!((&made["dim"], &made["metric"], &made["partitions"]), (&json!(8), &json!("l2"), &json!(2)));
    assert!(made.get("model").is_none(), "the model has another dimension");
    assert_eq!(put(&settings).await.ok(), made, "the same again changes nothing");
    assert_eq!(put(&json!({ "dim": 9 })).await.code(), "already_exists");
    world.collection("notes", 1).await;
    let list = world.get("/collections").await.ok();
    let names: Vec<&str> =
        list["collections"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["notes", "states"]);
    let notes = world.get("/collections/notes").await.ok();
    assert_eq!((&notes["dim"], &notes["model"]), (&json!(DIM), &json!(format!("hash-{DIM}"))));
    let delete = async || world.request(Method::DELETE, "/collections/notes", "", &[]).await;
    assert_eq!(delete().await.status, StatusCode::NO_CONTENT);
    assert_eq!(world.get("/collections/notes").await.code(), "not_found");
    assert_eq!(delete().await.code(), "not_found");
}

#[tokio::test]
async fn the_default_collection_is_there_before_anything_is_stored() {
    let world = World::new().await;
    assert_eq!(world.post("/mcp/search", json!({ "query": "tea" })).await.ok()["hits"], json!([]));
    assert_eq!(world.post("/mcp/recall", json!({ "session": "s" })).await.ok()["frames"], json!([]));
    assert_eq!(world.post("/mcp/forget", json!({ "session": "s" })).await.ok()["removed"], 0);
    let named = world.post("/mcp/search", json!({ "query": "tea", "collection": "other" })).await;
    assert_eq!(named.code(), "not_found");
}

#[tokio::test]
async fn status_counts_every_frame_once() {
    let world = World::new().await;
    world.collection("wide", 4).await;
    world.store_all("wide", &["a", "b", "c", "d", "e"]).await;
    let status = world.get("/mcp/status?detailed=true").await.ok();
    assert_eq!((&status["state"], &status["frames"], &status["shards"]), (&json!("ok"), &json!(5), &json!(4)));
    let leads: u64 = status["nodes"].as_array().unwrap().iter().map(|node| node["leads"].as_u64().unwrap()).sum();
    assert_eq!(leads, 4);
    assert_eq!(status["groups"].as_array().unwrap().len(), 5, "the meta group and four shards");
    assert_eq!(status["collections"][0]["name"], "wide");
    assert_eq!(status["model"], format!("hash-{DIM}"));
    assert!(world.get("/mcp/status").await.ok().get("groups").is_none());
}

#[tokio::test]
async fn without_a_model_vectors_are_enough() {
    let world = World::with(|config| config.embedder = None).await;
    let text = world.post("/mcp/store", json!({ "content": "tea" })).await;
    assert_eq!(text.code(), "invalid_argument");
    assert!(text.detail().contains("make model"), "{}", text.detail());
    world.post("/mcp/store", json!({ "content": "tea", "vector": [0.0, 1.0, 0.0] })).await.ok();
    let found = world.post("/mcp/search", json!({ "vector": [0.0, 1.0, 0.0] })).await.ok();
    assert_eq!(found["hits"][0]["content"], "tea");
    assert_eq!(world.get("/collections/default").await.ok()["dim"], 3);
}

#[tokio::test]
async fn a_filter_narrows_search_and_forget_on_every_shard() {
    let world = World::new().await;
    world.collection("wide", 4).await;
    for n in 0..12 {
        let kind = if n % 3 == 0 { "insight" } else { "note" };
        let item = json!({ "content": format!("thing {n}"), "type": kind, "collection": "wide" });
        world.post("/mcp/store", item).await.ok();
    }
    let search = async |filter: Value| {
        let body = json!({ "query": "thing", "k": 50, "collection": "wide", "filter": filter, "explain": true });
        world.post("/mcp/search", body).await.ok()
    };
    let insights = json!({ "field": "type", "eq": "insight" });
    let reply = search(insights.clone()).await;
    assert_eq!(reply["hits"].as_array().unwrap().len(), 4);
    let shards = reply["explain"]["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 4);
    assert!(shards.iter().all(|shard| shard["plan"] == "scan"), "{shards:?}");
    let gone = world.post("/mcp/forget", json!({ "filter": insights, "collection": "wide" })).await.ok();
    assert_eq!(gone["removed"], 4);
    assert_eq!(world.fake.frame_count(), 8);
    assert_eq!(
        search(json!({ "field": "type", "in": ["insight", "note"] })).await["hits"].as_array().unwrap().len(),
        8
    );
}

#[tokio::test]
async fn pages_follow_each_other_over_all_shards() {
    let world = World::new().await;
    world.collection("wide", 4).await;
    let texts: Vec<String> = (0..23).map(|n| format!("note {n} about {}", ["tea", "bread", "trains"][n % 3])).collect();
    world.store_all("wide", &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let ask = async |more: Value| {
        let mut body = json!({ "query": "a note about tea", "collection": "wide" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        world.post("/mcp/search", body).await
    };
    let all = contents(&ask(json!({ "k": 50 })).await.ok(), "hits");
    assert_eq!(all.len(), 23);
    let (mut paged, mut cursor) = (Vec::new(), None);
    loop {
        let body = cursor.take().map_or(json!({ "k": 5 }), |cursor: Value| json!({ "k": 5, "cursor": cursor }));
        let page = ask(body).await.ok();
        paged.extend(contents(&page, "hits"));
        match page.get("next_cursor") {
            Some(next) => cursor = Some(next.clone()),
            None => break,
        }
    }
    assert_eq!(paged, all, "the same order in pages of five");
    let first = ask(json!({ "k": 5 })).await.ok()["next_cursor"].clone();
    world.collection("other", 1).await;
    for (what, more, word) in [
        ("another collection", json!({ "cursor": first, "collection": "other" }), "another collection"),
        ("another question", json!({ "cursor": first, "query": "bread" }), "another search"),
        ("no cursor", json!({ "cursor": "abc" }), "search without it"),
        ("a group", json!({ "cursor": first, "group_by": "type" }), "neither group_by"),
    ] {
        let refused = ask(more).await;
        assert_eq!(refused.code(), "invalid_argument", "{what}");
        assert!(refused.detail().contains(word), "{what}: {}", refused.detail());
    }
}

#[tokio::test]
async fn groups_diversity_and_several_queries() {
    let world = World::new().await;
    world.collection("wide", 4).await;
    for n in 0..24 {
        let session = format!("s{}", n % 4);
        let item = json!({ "content": format!("turn {n} on tea"), "session": session, "collection": "wide" });
        world.post("/mcp/store", item).await.ok();
    }
    let ask = async |body: Value| {
        let mut body = body;
        body["collection"] = "wide".into();
        world.post("/mcp/search", body).await.ok()
    };
    let grouped = ask(json!({ "query": "tea", "group_by": "session", "group_size": 2, "k": 3 })).await;
    let groups: Vec<&str> =
        grouped["hits"].as_array().unwrap().iter().map(|hit| hit["group"].as_str().unwrap()).collect();
    assert_eq!(groups.len(), 6);
    let mut distinct = groups.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 3, "{groups:?}");
    let diverse = ask(json!({ "query": "tea", "diversity": 0.7, "k": 6 })).await;
    let plain = ask(json!({ "query": "tea", "k": 6 })).await;
    assert_eq!(diverse["hits"].as_array().unwrap().len(), 6);
    assert_eq!(diverse["hits"][0]["id"], plain["hits"][0]["id"], "the best comes first either way");
    let batch = json!({ "searches": [
        { "query": "tea", "k": 2, "collection": "wide" },
        { "query": "tea", "k": 0, "collection": "wide" },
        { "query": "tea", "collection": "nowhere" },
    ] });
    let reply = world.post("/mcp/search", batch).await.ok();
    let answers = reply["answers"].as_array().unwrap();
    assert_eq!(answers[0]["hits"].as_array().unwrap().len(), 2);
    assert_eq!(answers[1]["error"]["code"], "invalid_argument");
    assert_eq!(answers[2]["error"]["code"], "not_found");
}

#[tokio::test]
async fn a_collection_is_tuned_to_the_narrowest_beam_that_reaches_a_recall() {
    let world = World::new().await;
    world.collection("wide", 4).await;
    let tune = async |request: Value| world.post("/collections/wide/tune", request).await;
    // Nothing is stored: every search looks at all of it.
    let empty = tune(json!({})).await.ok();
    assert_eq!(empty, json!({ "scanned": true, "vectors": 0, "samples": 0, "beams": [] }));
    let texts: Vec<String> = (0..40).map(|n| format!("note {n}")).collect();
    world.store_all("wide", &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    world.fake.clear_seen();

    let dry = tune(json!({ "recall": 0.99, "dry_run": true })).await.ok();
    assert_eq!(
        (&dry["ef"], &dry["vectors"], &dry["samples"], dry.get("before")),
        (&json!(32), &json!(40), &json!(200), None)
    );
    assert_eq!(dry["beams"].as_array().unwrap().len(), 15);
    assert_eq!(dry["beams"][1], json!({ "ef": 24, "recall": 0.97, "median_us": 24 }));
    assert!(world.fake.seen("tune_collection").is_empty());
    assert_eq!(world.fake.seen("measure_recall").len(), 4, "every shard is measured");
    assert!(world.get("/collections/wide").await.ok().get("ef").is_none());

    // 0.95 of ten hits when nothing is said.
    assert_eq!(tune(json!({})).await.ok()["ef"], 24);
    assert_eq!(world.get("/collections/wide").await.ok()["ef"], 24);
    let again = tune(json!({})).await.ok();
    assert_eq!((&again["before"], &again["ef"]), (&json!(24), &json!(24)));
    assert_eq!(world.fake.seen("tune_collection").len(), 1, "what is so already is not set again");
    // Beams hold the hits that are asked for.
    assert_eq!(tune(json!({ "k": 500 })).await.ok()["ef"], 768);

    let unreached = tune(json!({ "recall": 1.0 })).await;
    assert_eq!((unreached.code().as_str(), unreached.status), ("conflict", StatusCode::CONFLICT));
    assert!(unreached.detail().contains("the best is 1.0000 at ef 2048"), "{}", unreached.detail());
    assert_eq!(world.get("/collections/wide").await.ok()["ef"], 768, "nothing was changed");

    let reset = tune(json!({ "reset": true })).await.ok();
    assert_eq!(reset, json!({ "before": 768, "vectors": 0, "samples": 0, "beams": [] }));
    assert!(world.get("/collections/wide").await.ok().get("ef").is_none());
}

#[tokio::test]
async fn tuning_refuses_what_makes_no_sense() {
    let world = World::new().await;
    world.collection("notes", 1).await;
    let table = [
        ("notes", json!({ "recall": 0 }), "invalid_argument"),
        ("notes", json!({ "recall": 1.5 }), "invalid_argument"),
        ("notes", json!({ "recall": -0.1 }), "invalid_argument"),
        ("notes", json!({ "k": 0 }), "invalid_argument"),
        ("notes", json!({ "k": 1_001 }), "invalid_argument"),
        ("notes", json!({ "reset": true, "recall": 0.9 }), "invalid_argument"),
        ("notes", json!({ "ef": 64 }), "invalid_argument"),
        ("nothing", json!({}), "not_found"),
        ("nothing", json!({ "reset": true }), "not_found"),
    ];
    for (name, request, code) in table {
        assert_eq!(world.post(&format!("/collections/{name}/tune"), request.clone()).await.code(), code, "{request}");
    }
    assert!(world.fake.seen("measure_recall").is_empty());
}
