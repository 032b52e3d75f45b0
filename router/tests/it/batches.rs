//! Each entry of a batch by itself, and what a request that fails or comes again leaves behind.

use axum::http::{Method, StatusCode};
use mira_proto::v1::memory_client::MemoryClient;
use mira_proto::{model, v1};
use serde_json::{Value, json};

use crate::client::World;
use crate::errors::authorized;
use crate::mcp;

/// Items of which the second to the last but one are wrong, each in its own way.
fn mixed_items() -> Value {
    json!([
        { "content": "first" },
        { "content": 7 },
        { "contents": "a" },
        { "content": "a", "metadata": [1] },
        { "content": "a", "id": "7" },
        { "content": "a", "expected_version": -1 },
        "a",
        null,
        { "content": "last" },
    ])
}

/// Which entries of an answer were refused, with what code.
fn codes(answers: &Value) -> Vec<&str> {
    let answers = answers.as_array().unwrap().iter();
    answers.map(|answer| answer["error"]["code"].as_str().unwrap_or_default()).collect()
}

#[tokio::test]
async fn an_item_that_cannot_be_read_refuses_itself_alone() {
    let world = World::new().await;
    let wrong = vec!["invalid_argument"; 7];
    let expected: Vec<&str> = [""].into_iter().chain(wrong).chain([""]).collect();
    let rest = world.post("/mcp/store", json!({ "items": mixed_items() })).await.ok();
    assert_eq!(codes(&rest["items"]), expected, "{rest}");
    assert!(rest["items"][2]["error"]["detail"].as_str().unwrap().contains("unknown field `contents`"), "{rest}");
    let mcp = mcp::call(&world, "store", json!({ "items": mixed_items() })).await;
    assert_eq!(codes(&mcp["structuredContent"]["items"]), expected, "{mcp}");
    assert!(mcp["content"][0]["text"].as_str().unwrap().starts_with("Stored 2 of 9 items."), "{mcp}");
    assert_eq!(world.fake.frame_count(), 4);

    let many = json!({ "items": vec![json!({ "content": 7 }); 1_001] });
    assert_eq!(world.post("/mcp/store", many).await.code(), "too_large");
    for whole in [json!({ "items": [] }), json!({ "items": [{ "content": "a" }], "role": "user" })] {
        assert_eq!(world.post("/mcp/store", whole).await.code(), "invalid_argument");
    }
}

#[tokio::test]
async fn a_wrong_item_moves_no_other_items_id() {
    let world = World::new().await;
    let key = [("idempotency-key", "k")];
    let items = |second: Value| json!({ "items": [{ "content": "a" }, second, { "content": "c" }] });
    let first = world.post_with("/mcp/store", items(json!({ "content": 7 })), &key).await.ok();
    let again = world.post_with("/mcp/store", items(json!({ "content": "b" })), &key).await.ok();
    for at in [0, 2] {
        assert_eq!(first["items"][at]["id"], again["items"][at]["id"], "{again}");
    }
    assert_eq!(world.fake.frame_count(), 3);
}

#[tokio::test]
async fn grpc_reads_each_item_and_each_search_by_itself() {
    let world = World::new().await;
    let mut client = MemoryClient::connect(format!("http://{}", world.router.grpc_addr)).await.unwrap();
    let item = |content: &str| v1::StoreRequest { content: Some(content.into()), ..Default::default() };
    let items = vec![
        item("a"),
        v1::StoreRequest { metadata_json: "[1]".into(), ..item("b") },
        v1::StoreRequest { metadata_json: r#"{"n": 18446744073709551616}"#.into(), ..item("c") },
        v1::StoreRequest { id: "7".into(), ..item("d") },
        item("e"),
    ];
    let batch = v1::StoreBatchRequest { items: items.clone() };
    let answers = client.store_batch(authorized(batch)).await.unwrap().into_inner().items;
    let refused = |answers: &[v1::ItemReply]| answers.iter().map(|answer| answer.problem.is_some()).collect::<Vec<_>>();
    assert_eq!(refused(&answers), [false, true, true, true, false]);
    let answers = client.ingest(authorized(tokio_stream::iter(items))).await.unwrap().into_inner();
    let answers: Vec<v1::ItemReply> = tokio_stream::StreamExt::collect::<Result<_, _>>(answers).await.unwrap();
    assert_eq!(refused(&answers), [false, true, true, true, false]);

    let search = |mode: &str| v1::SearchRequest { query: "a".into(), mode: mode.into(), ..Default::default() };
    let searches = vec![search(""), search("guess"), search("vector")];
    let answers = client.search_batch(authorized(v1::SearchBatchRequest { searches })).await.unwrap().into_inner();
    let refused: Vec<bool> = answers.answers.iter().map(|answer| answer.problem.is_some()).collect();
    assert_eq!(refused, [false, true, false]);
}

#[tokio::test]
async fn a_search_that_cannot_be_read_refuses_itself_alone() {
    let world = World::new().await;
    world.store_all("default", &["green tea"]).await;
    let searches = json!([{ "query": "tea" }, { "query": 7 }, { "quer": "tea" }, { "query": "tea", "k": -1 }, 7,
        { "query": "tea", "filter": { "field": "type", "equals": "x" } }, { "searches": [{ "query": "tea" }] },
        { "query": "tea" }]);
    let mcp = mcp::call(&world, "search", json!({ "searches": searches })).await;
    for reply in
        [world.post("/mcp/search", json!({ "searches": searches })).await.ok(), mcp["structuredContent"].clone()]
    {
        let bad = "invalid_argument";
        assert_eq!(codes(&reply["answers"]), ["", bad, bad, bad, bad, bad, bad, ""], "{reply}");
        assert_eq!(reply["answers"][7]["hits"][0]["content"], "green tea");
    }
}

#[tokio::test]
async fn a_store_that_is_refused_leaves_no_collection_behind() {
    let world = World::new().await;
    let id = "01999999-0000-7000-8000-000000000001";
    let refused = [
        (json!({ "content": "a", "vector": [1.0, 2.0] }), "dimension_mismatch"),
        (json!({ "content": "a", "vector": vec![0.0; 32] }), "invalid_argument"),
        (json!({ "content": "a", "vectors": { "title": [1.0] } }), "invalid_argument"),
        (json!({ "content": "a", "id": id, "expected_version": 3 }), "conflict"),
        (json!({ "content": " " }), "invalid_argument"),
        (json!({ "content": "a", "private": true }), "invalid_argument"),
    ];
    for (mut item, code) in refused {
        item["collection"] = "fresh".into();
        assert_eq!(world.post("/mcp/store", item.clone()).await.code(), code, "{item}");
        let batch = world.post("/mcp/store", json!({ "items": [item] })).await.ok();
        assert_eq!(codes(&batch["items"]), [code]);
        let upload = json!({ "frame": item, "content_type": "text/plain" });
        if code == "dimension_mismatch" {
            assert_eq!(world.post("/collections/fresh/uploads", upload).await.code(), code);
        }
        assert_eq!(world.get("/collections/fresh").await.status, StatusCode::NOT_FOUND, "{code}");
    }
    // Nothing stands in the way of the settings that are meant.
    let settings = json!({ "dim": 2 }).to_string();
    let made = world.request(Method::PUT, "/collections/fresh", settings, &[]).await.ok();
    assert_eq!(made["dim"], 2);
    // One good item among bad ones makes it.
    let items = json!({ "items": [{ "content": "a", "vector": [1.0], "collection": "new" },
        { "content": "b", "collection": "new" }] });
    let reply = world.post("/mcp/store", items).await.ok();
    assert_eq!(codes(&reply["items"]), ["dimension_mismatch", ""]);
    assert_eq!(world.get("/collections/new").await.ok()["dim"], 32);
}

#[tokio::test]
async fn a_removal_that_was_cut_off_goes_on_under_its_key_and_tells_of_all_that_went() {
    let world = World::new().await;
    for selector in
        [json!({ "session": "talk" }), json!({ "all": true }), json!({ "filter": { "field": "role", "eq": "user" } })]
    {
        let items: Vec<Value> =
            (0..7).map(|n| json!({ "content": format!("turn {n}"), "session": "talk", "role": "user" })).collect();
        world.post("/mcp/store", json!({ "items": items })).await.ok();
        let key = format!("key of {selector}");
        let (key, soon) = (("idempotency-key", key.as_str()), ("x-mira-timeout-ms", "400"));
        // The cluster removes two in a step, and takes two steps.
        world.fake.forget_no_more_than(Some(2));
        let cut = world.post_with("/mcp/forget", selector.clone(), &[key, soon]).await;
        assert!(["unavailable", "deadline_exceeded"].contains(&cut.code().as_str()), "{}", cut.text);
        assert_eq!(world.fake.frame_count(), 3);
        world.fake.forget_no_more_than(None);
        let again = world.post_with("/mcp/forget", selector.clone(), &[key]).await.ok();
        assert_eq!((&again["removed"], again["ids"].as_array().unwrap().len()), (&json!(7), 7), "{again}");
        assert_eq!(world.fake.frame_count(), 0);
        // What was stored since is not what was to go.
        world.post("/mcp/store", json!({ "content": "later", "session": "talk", "role": "user" })).await.ok();
        let late = world.post_with("/mcp/forget", selector.clone(), &[key]).await.ok();
        assert_eq!(late["removed"], 7);
        assert_eq!(world.fake.frame_count(), 1);
        world.post("/mcp/forget", json!({ "all": true })).await.ok();
    }
}

#[test]
fn a_batch_that_is_given_is_the_batch_that_is_sent() {
    let item = model::StoreItem { content: Some("a".into()), ..Default::default() };
    let request = model::StoreRequest { items: Some(vec![item.clone()].into()), ..Default::default() };
    let back: model::StoreRequest = serde_json::from_str(&serde_json::to_string(&request).unwrap()).unwrap();
    assert_eq!(back.items.unwrap().read().unwrap(), [Ok(item)]);
}
