//! Numbers, times and names: what comes back is what was given, or it is refused.

use axum::http::{Method, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mira_proto::v1;
use mira_proto::v1::memory_client::MemoryClient;
use serde_json::{Value, json};

use crate::client::World;
use crate::errors::authorized;

/// Texts of numbers that are their own shortest form.
const NUMBERS: [&str; 9] = [
    "9007199254740991.0",
    "0.1",
    "-1.7976931348623157e308",
    "5e-324",
    "2.2250738585072014e-308",
    "1e23",
    "18446744073709551615",
    "-9223372036854775808",
    "9007199254740993",
];

#[tokio::test]
async fn numbers_of_metadata_come_back_as_they_were_given() {
    let world = World::new().await;
    let numbers = NUMBERS.join(",");
    let body = format!(r#"{{"content": "a", "metadata": {{"n": [{numbers}]}}}}"#);
    let call = format!(
        r#"{{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {{"name": "store", "arguments": {body}}}}}"#
    );
    let rest = world.request(Method::POST, "/mcp/store", body.clone(), &[]).await.ok()["id"].clone();
    let headers = [("accept", "application/json, text/event-stream"), ("mcp-protocol-version", "2025-11-25")];
    let mcp = world.request(Method::POST, "/mcp", call, &headers).await.ok();
    let mcp = mcp["result"]["structuredContent"]["id"].clone();
    let mut client = MemoryClient::connect(format!("http://{}", world.router.grpc_addr)).await.unwrap();
    let metadata_json = format!(r#"{{"n": [{numbers}]}}"#);
    let item = v1::StoreRequest { content: Some("a".into()), metadata_json, ..Default::default() };
    let grpc = json!(client.store(authorized(item)).await.unwrap().into_inner().id);
    for id in [rest, mcp, grpc] {
        let answer = world.post("/mcp/recall", json!({ "id": id })).await;
        for number in NUMBERS {
            let exact = number.replace("e308", "e+308").replace("1e23", "1e+23");
            let is_there = answer.text.contains(number) || answer.text.contains(&exact);
            assert!(is_there, "{number}: {}", answer.text);
        }
        let recall = v1::RecallRequest { ids: vec![id.as_str().unwrap().to_owned()], ..Default::default() };
        let frame = client.recall(authorized(recall)).await.unwrap().into_inner().frames.remove(0);
        let back: Value = serde_json::from_str(&frame.metadata_json).unwrap();
        let given: Value = serde_json::from_str(&format!("[{numbers}]")).unwrap();
        assert_eq!(back["n"], given);
    }
}

#[tokio::test]
async fn a_number_that_would_change_is_refused() {
    let world = World::new().await;
    for number in ["18446744073709551616", "-9223372036854775809", "1e-400", "1e400"] {
        let body = format!(r#"{{"content": "a", "metadata": {{"n": {{"deep": [{number}]}}}}}}"#);
        let answer = world.request(Method::POST, "/mcp/store", body.clone(), &[]).await;
        assert_eq!(answer.code(), "invalid_argument", "{number}: {}", answer.text);
        let item = format!(r#"{{"items": [{body}, {{"content": "b"}}]}}"#);
        if number != "1e400" {
            let items = world.request(Method::POST, "/mcp/store", item, &[]).await.ok()["items"].clone();
            assert_eq!((&items[0]["error"]["code"], &items[1]["version"]), (&json!("invalid_argument"), &json!(1)));
        }
        let metadata_json = format!(r#"{{"n": {number}}}"#);
        let mut client = MemoryClient::connect(format!("http://{}", world.router.grpc_addr)).await.unwrap();
        let item = v1::StoreRequest { content: Some("a".into()), metadata_json, ..Default::default() };
        assert_eq!(client.store(authorized(item)).await.unwrap_err().code(), tonic::Code::InvalidArgument);
        if number != "1e400" {
            let call = format!(
                r#"{{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {{"name": "store", "arguments": {body}}}}}"#
            );
            let headers = [("accept", "application/json, text/event-stream"), ("mcp-protocol-version", "2025-11-25")];
            let answer = world.request(Method::POST, "/mcp", call, &headers).await.ok();
            assert_eq!(answer["result"]["isError"], true, "{answer}");
        }
    }
}

#[tokio::test]
async fn a_vector_in_base64_is_the_vector_that_its_list_is() {
    const DIM: u16 = 32;
    let encoded = |vector: &[f32]| -> String {
        STANDARD.encode(vector.iter().flat_map(|component| component.to_le_bytes()).collect::<Vec<u8>>())
    };
    let world = World::new().await;
    let list: Vec<f32> = (0..DIM).map(|n| f32::from(n) - 7.3).collect();
    let other: Vec<f32> = list.iter().rev().copied().collect();
    let items = json!({ "items": [
        { "content": "green tea", "vector": encoded(&list) },
        { "content": "black tea", "vector": other },
        { "content": "too short", "vector": "AAAAPw==" },
        { "content": "no floats", "vector": "AAAA" },
        { "content": "not a number", "vector": encoded(&vec![f32::NAN; usize::from(DIM)]) },
    ]});
    let stored = world.post("/mcp/store", items).await.ok()["items"].clone();
    let refused: Vec<&str> = (2..5).map(|at| stored[at]["error"]["code"].as_str().unwrap_or("stored")).collect();
    assert_eq!(refused, ["dimension_mismatch", "invalid_argument", "invalid_argument"], "{stored}");
    for (vector, content) in [(&list, "green tea"), (&other, "black tea")] {
        let by = |vector: Value| world.post("/mcp/search", json!({ "vector": vector, "k": 1, "exact": true }));
        let hit = by(json!(vector)).await.ok()["hits"][0].clone();
        assert_eq!(hit["content"], content);
        let same = by(json!(encoded(vector))).await.ok()["hits"][0].clone();
        assert_eq!((&same["id"], &same["score"]), (&hit["id"], &hit["score"]), "to the last bit");
    }
    let answer = world.post("/mcp/search", json!({ "vector": "tea" })).await;
    assert_eq!(answer.code(), "invalid_argument");
    assert!(answer.text.contains("base64"), "{}", answer.text);
}

#[tokio::test]
async fn bounds_may_be_any_time_and_a_clock_may_be_a_little_ahead() {
    let world = World::new().await;
    let end = "9999-12-31T23:59:59Z";
    let stored =
        world.post("/mcp/store", json!({ "content": "green tea", "session": "s", "expires_at": end })).await.ok();
    let frame = world.post("/mcp/recall", json!({ "id": stored["id"] })).await.ok()["frames"][0].clone();
    assert_eq!(frame["expires_at"], "9999-12-31T23:59:59.000Z");
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(5);
    world.post("/mcp/store", json!({ "content": "b", "created_at": soon.to_string() })).await.ok();

    let moon = "1969-07-20T20:17:40Z";
    let count = async |bounds: Value| {
        let mut found = Vec::new();
        for mut request in [json!({ "query": "tea" }), json!({ "session": "s" })] {
            let path = if request.get("query").is_some() { "/mcp/search" } else { "/mcp/recall" };
            request.as_object_mut().unwrap().extend(bounds.as_object().unwrap().clone());
            let reply = world.post(path, request).await.ok();
            let list = reply.get("hits").or(reply.get("frames")).unwrap().as_array().unwrap();
            found.push(list.iter().filter(|frame| frame["content"] == "green tea").count());
        }
        found
    };
    assert_eq!(count(json!({ "created_from": moon, "created_to": end })).await, [1, 1]);
    assert_eq!(count(json!({ "created_to": end })).await, [1, 1]);
    assert_eq!(count(json!({ "created_from": moon })).await, [1, 1]);
    let hits = world.post("/mcp/search", json!({ "query": "tea", "created_to": moon })).await.ok()["hits"].clone();
    assert_eq!(hits, json!([]), "nothing was made before 1970");
    for (test, found) in [("gte", 1), ("lt", 0)] {
        let filter = json!({ "field": "created_at", test: moon });
        let and = json!({ "and": [filter, { "field": "session", "eq": "s" }] });
        let hits = world.post("/mcp/search", json!({ "query": "tea", "filter": and })).await.ok()["hits"].clone();
        assert_eq!(hits.as_array().unwrap().len(), found, "{test}");
    }
}

#[tokio::test]
async fn a_name_is_one_whichever_way_it_is_written_and_leads_nowhere_else() {
    let world = World::new().await;
    let (composed, decomposed) = ("team/caf\u{e9}", "team/cafe\u{301}");
    let item =
        json!({ "content": "tea", "collection": decomposed, "session": "caf\u{e9}", "type": "re\u{301}sume\u{301}" });
    world.post("/mcp/store", item).await.ok();
    for path in ["/collections/team%2Fcaf%C3%A9", "/collections/team%2Fcafe%CC%81"] {
        assert_eq!(world.get(path).await.ok()["name"], composed);
        assert_eq!(world.get(&format!("{path}/frames")).await.ok()["frames"].as_array().unwrap().len(), 1);
    }
    for session in ["caf\u{e9}", "cafe\u{301}"] {
        let recall = json!({ "session": session, "collection": composed });
        assert_eq!(world.post("/mcp/recall", recall).await.ok()["frames"].as_array().unwrap().len(), 1);
        let filter =
            json!({ "and": [{ "field": "session", "eq": session }, { "field": "type", "prefix": "re\u{301}" }] });
        let search = json!({ "query": "tea", "collection": composed, "filter": filter });
        assert_eq!(world.post("/mcp/search", search).await.ok()["hits"].as_array().unwrap().len(), 1);
    }
    for bad in ["..", ".", "a//b", "a b", "a\u{202e}b", "a\u{200b}b", "a\\b"] {
        let item = json!({ "content": "tea", "collection": bad });
        assert_eq!(world.post("/mcp/store", item).await.code(), "invalid_argument", "{bad:?}");
    }
    for path in ["/collections/a%20b", "/collections/a%2F%2E%2E", "/collections/a%E2%80%AEb"] {
        let made = world.request(Method::PUT, path, "{}", &[]).await;
        assert_eq!((made.status, made.code().as_str()), (StatusCode::BAD_REQUEST, "invalid_argument"), "{path}");
    }
    world.request(Method::DELETE, "/collections/team%2Fcaf%C3%A9", "", &[]).await;
    assert_eq!(world.get("/collections").await.ok()["collections"], json!([]));
}
