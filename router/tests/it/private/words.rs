//! Private memories found by their words, and by words and meaning together.

use super::*;

const TEXTS: [&str; 5] = [
    "Meine Schlüssel liegen unter der Matte",
    "the spare key lies under the mat",
    "a key is a key is a key",
    "the mat in the hall is grey, and so is the day and everything that I see from here",
    "nothing to do with it",
];

/// A collection on four shards with plain and private memories.
async fn world() -> World {
    let world = World::new().await;
    world.collection("wide", 4).await;
    world.store_all("wide", &["a plain key under the mat", "plain bread"]).await;
    for (at, text) in TEXTS.iter().enumerate() {
        let kind = if at % 2 == 0 { "even" } else { "odd" };
        let said = json!({ "collection": "wide", "type": kind, "session": format!("s{at}"), "metadata": { "at": at } });
        store(&world, text, said).await;
    }
    // Opaque bytes have no words.
    let bytes = json!({ "bytes": "a2V5", "collection": "wide", "private": true });
    as_owner(&world, "/mcp/store", bytes, ADA).await.ok();
    world
}

async fn ask(world: &World, request: Value, owner: (&str, &str)) -> Answer {
    let mut ask = json!({ "collection": "wide", "mode": "text", "only_private": true });
    ask.as_object_mut().unwrap().extend(request.as_object().unwrap().clone());
    as_owner(world, "/mcp/search", ask, owner).await
}

async fn texts(world: &World, request: Value) -> Vec<String> {
    found(&ask(world, request, ADA).await.ok()).into_iter().map(|(text, _)| text).collect()
}

#[tokio::test]
async fn words_find_what_their_owner_wrote_and_nothing_else() {
    let world = world().await;
    let reply = ask(&world, json!({ "query": "KEY mat" }), ADA).await.ok();
    let hits = reply["hits"].as_array().unwrap();
    let order: Vec<&str> = hits.iter().map(|hit| hit["content"].as_str().unwrap()).collect();
    assert_eq!(order, [TEXTS[1], TEXTS[2], TEXTS[3]]);
    assert!(hits.iter().all(|hit| hit["private"] == true));
    let why = &hits[0]["why"];
    assert_eq!((why.get("vector"), &why["text"]["rank"]), (None, &json!(1)));
    assert_eq!((&why["text"]["highlights"], &hits[0]["score"]), (&json!([[10, 13], [29, 32]]), &why["text"]["score"]));
    assert_eq!(texts(&world, json!({ "query": "schlüssel" })).await, [TEXTS[0]]);
    assert!(texts(&world, json!({ "query": "bread" })).await.is_empty(), "that is plain");
    let stranger = ask(&world, json!({ "query": "key" }), EVE).await.ok();
    assert!(found(&stranger).is_empty(), "{stranger}");
    // By meaning, too, they can be asked for alone.
    let only = ask(&world, json!({ "query": "key", "mode": "vector", "k": 50 }), ADA).await.ok();
    assert_eq!(found(&only).len(), TEXTS.len());
    assert!(found(&only).iter().all(|(_, private)| *private));
}

#[tokio::test]
async fn words_go_with_filters_times_groups_and_least_scores() {
    let world = world().await;
    let odd = json!({ "field": "type", "eq": "odd" });
    assert_eq!(texts(&world, json!({ "query": "key mat", "filter": odd })).await, [TEXTS[1], TEXTS[3]]);
    assert_eq!(texts(&world, json!({ "query": "key mat", "k": 1 })).await, [TEXTS[1]]);
    assert!(texts(&world, json!({ "query": "key", "created_to": "2000-01-01T00:00:00Z" })).await.is_empty());
    let grouped = ask(&world, json!({ "query": "key mat", "group_by": "type" }), ADA).await.ok();
    let groups: Vec<(&str, &Value)> = grouped["hits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hit| (hit["content"].as_str().unwrap(), &hit["group"]))
        .collect();
    assert_eq!(groups, [(TEXTS[1], &json!("odd")), (TEXTS[2], &json!("even"))]);
    let scored = ask(&world, json!({ "query": "key mat" }), ADA).await.ok();
    let second = scored["hits"][1]["score"].as_f64().unwrap();
    assert_eq!(texts(&world, json!({ "query": "key mat", "min_score": second })).await.len(), 2);
}

#[tokio::test]
async fn both_rankings_are_fused() {
    let world = world().await;
    let by = async |mode: &str| {
        let reply = ask(&world, json!({ "query": "a key is a key", "mode": mode, "k": 10 }), ADA).await.ok();
        reply["hits"].as_array().unwrap().clone()
    };
    let (meaning, words, fused) = (by("vector").await, by("text").await, by("hybrid").await);
    let rank = |list: &[Value], id: &Value| list.iter().position(|hit| hit["id"] == *id).map(|at| at as f64 + 1.0);
    assert_eq!(fused.len(), meaning.len(), "by meaning all are found");
    for hit in &fused {
        let ranks = [rank(&meaning, &hit["id"]), rank(&words, &hit["id"])];
        let expected: f64 = ranks.iter().flatten().map(|rank| 1.0 / (60.0 + rank)).sum();
        assert!((hit["score"].as_f64().unwrap() - expected).abs() < 1e-6, "{hit}");
        let told = ["vector", "text"].map(|way| hit["why"].get(way).map(|why| why["rank"].as_f64().unwrap()));
        assert_eq!(told, ranks, "{hit}");
    }
    assert!(fused.is_sorted_by(|a, b| a["score"].as_f64() >= b["score"].as_f64()));
    let odd = json!({ "query": "key mat", "mode": "hybrid", "filter": { "field": "type", "eq": "odd" } });
    let mut meant = texts(&world, odd).await;
    meant.sort();
    assert_eq!(meant, [TEXTS[3], TEXTS[1]]);
}

#[tokio::test]
async fn what_words_cannot_do_is_said() {
    let world = world().await;
    let refused = async |request: Value, says: &str| {
        let answer = ask(&world, request, ADA).await;
        assert_eq!(answer.code(), "invalid_argument", "{answer:?}");
        assert!(answer.detail().contains(says), "{answer:?}");
    };
    refused(json!({ "query": "key", "only_private": false }), "only_private").await;
    refused(json!({ "query": "key", "only_private": false, "include_private": true }), "only_private").await;
    refused(json!({ "vector": vec![0.5; 32] }), "in words").await;
    refused(json!({ "queries": ["a", "b"] }), "in words").await;
    refused(json!({ "query": "?!" }), "no word").await;
    refused(json!({ "query": "key", "diversity": 0.5 }), "diversity").await;
    refused(json!({ "query": "key", "recency": { "half_life_seconds": 60 } }), "recency").await;
    refused(json!({ "query": "key", "using": "state" }), "using").await;
    refused(json!({ "query": "key", "mode": "words" }), "words").await;
    let keyless = world.post("/mcp/search", json!({ "query": "key", "mode": "text", "only_private": true })).await;
    assert_eq!(keyless.code(), "invalid_argument");
    assert!(keyless.detail().contains("X-Mira-Owner-Key"), "{keyless:?}");
}

#[tokio::test]
async fn a_shard_that_does_not_answer_is_named() {
    let world = world().await;
    let lost = world.fake.shards_of("wide")[0];
    world.fake.set_leader(lost, None);
    let timeout = ("x-mira-timeout-ms", "2000");
    let request = json!({ "query": "key mat", "collection": "wide", "mode": "text", "only_private": true });
    let reply = world.post_with("/mcp/search", request.clone(), &[ADA, timeout]).await.ok();
    assert_eq!((&reply["degraded"], &reply["missing_shards"]), (&json!(true), &json!([lost])));
    let mut strict = request;
    strict["strict"] = json!(true);
    assert_eq!(world.post_with("/mcp/search", strict, &[ADA, timeout]).await.code(), "unavailable");
}
