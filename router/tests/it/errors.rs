//! Each bad input has its own typed error, the same code on REST, gRPC and MCP.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use mira_proto::v1::memory_client::MemoryClient;
use mira_proto::{Problem, v1};
use serde_json::{Value, json};

use crate::client::{TOKEN, World};
use crate::mcp;

/// What is wrong, the tool, its input, the code, and a word of the message.
fn bad_inputs() -> Vec<(&'static str, &'static str, Value, &'static str, &'static str)> {
    let mut deep = json!(1);
    (0..40).for_each(|_| deep = json!([deep]));
    let id = "01999999-0000-7000-8000-00000000beef";
    let other = "invalid_argument";
    vec![
        ("empty content", "store", json!({ "content": "" }), other, "content is empty"),
        ("blank content", "store", json!({ "content": " \n" }), other, "content is empty"),
        ("no content", "store", json!({}), other, "content is missing"),
        ("both contents", "store", json!({ "content": "a", "bytes": "YQ==" }), other, "both given"),
        ("long content", "store", json!({ "content": "x".repeat((1 << 20) + 1) }), "too_large", "1048576"),
        (
            "long metadata",
            "store",
            json!({ "content": "a", "metadata": { "k": "x".repeat(70_000) } }),
            "too_large",
            "65536",
        ),
        ("deep metadata", "store", json!({ "content": "a", "metadata": { "k": deep } }), "too_large", "32"),
        ("long session", "store", json!({ "content": "a", "session": "s".repeat(257) }), "too_large", "256"),
        ("unseen character", "store", json!({ "content": "a", "type": "a\u{7}b" }), other, "U+0007"),
        ("direction mark", "store", json!({ "content": "a", "session": "a\u{202e}b" }), other, "U+202E"),
        ("name of a place", "store", json!({ "content": "a", "collection": ".." }), other, "part \"..\""),
        ("name with a space", "search", json!({ "query": "a", "collection": "my notes" }), other, "letters, digits"),
        ("cursor of nothing", "recall", json!({ "session": "s", "cursor": "x" }), other, "cursor"),
        ("wrong dimension", "store", json!({ "content": "a", "vector": [1.0, 2.0] }), "dimension_mismatch", "32"),
        ("zeros", "store", json!({ "content": "a", "vector": vec![0.0; 32] }), other, "zeros"),
        ("huge component", "store", json!({ "content": "a", "vector": vec![1e39; 32] }), other, "out of range"),
        ("replace without id", "store", json!({ "content": "a", "replace": true }), other, "replace"),
        ("version without id", "store", json!({ "content": "a", "expected_version": 1 }), other, "expected_version"),
        (
            "stale version",
            "store",
            json!({ "content": "a", "id": id, "expected_version": 4 }),
            "conflict",
            "there is no memory of this id",
        ),
        ("past expiry", "store", json!({ "content": "a", "expires_at": "2001-01-01T00:00:00Z" }), other, "past"),
        ("bad expiry", "store", json!({ "content": "a", "expires_at": "tomorrow" }), other, "RFC 3339"),
        ("nothing to find", "search", json!({}), other, "query"),
        ("blank query", "search", json!({ "query": " " }), other, "empty"),
        ("two probes", "search", json!({ "query": "a", "vector": [1.0] }), other, "both given"),
        ("long query", "search", json!({ "query": "x".repeat(9_000) }), "too_large", "8192"),
        ("large k", "search", json!({ "query": "a", "k": 1_001 }), other, "k is 1001"),
        ("unknown collection", "search", json!({ "query": "a", "collection": "nowhere" }), "not_found", "nowhere"),
        ("search dimension", "search", json!({ "vector": [1.0] }), "dimension_mismatch", "32"),
        (
            "empty range",
            "search",
            json!({ "query": "a", "created_from": "2026-01-02T00:00:00Z",
            "created_to": "2026-01-01T00:00:00Z" }),
            other,
            "created_to",
        ),
        ("unknown filter field", "search", filtered(json!({ "field": "color", "eq": "red" })), other, "\"color\""),
        ("filter of another kind", "search", filtered(json!({ "field": "type", "gt": 5 })), other, "a number"),
        ("mixed range", "search", filtered(json!({ "field": "metadata.n", "gt": 5, "lt": "9" })), other, "a text"),
        ("filter without a test", "search", filtered(json!({ "field": "role" })), other, "exactly one test"),
        ("deep filter", "search", filtered(deep_filter()), "too_large", "8 levels"),
        (
            "long filter",
            "search",
            filtered(json!({ "field": "metadata.n", "in": vec![1; 1_001] })),
            "too_large",
            "1000",
        ),
        ("filter by everything", "forget", json!({ "filter": { "and": [] } }), other, "all: true"),
        ("bad filter", "forget", json!({ "filter": { "field": "created_at", "eq": "noon" } }), other, "RFC 3339"),
        ("nothing to recall", "recall", json!({}), other, "nothing to recall"),
        ("unknown id", "recall", json!({ "id": id }), "not_found", id),
        ("limit without session", "recall", json!({ "id": id, "limit": 3 }), other, "session only"),
        ("two selectors", "recall", json!({ "id": id, "session": "s" }), other, "exclude"),
        ("large limit", "recall", json!({ "session": "s", "limit": 1_001 }), other, "limit is 1001"),
        ("nothing to forget", "forget", json!({}), other, "nothing to forget"),
        ("all and id", "forget", json!({ "id": id, "all": true }), other, "exclude"),
    ]
}

fn filtered(filter: Value) -> Value {
    json!({ "query": "a", "filter": filter })
}

fn deep_filter() -> Value {
    (0..9).fold(json!({ "field": "type", "eq": "x" }), |inner, _| json!({ "not": inner }))
}

/// What only JSON can get wrong.
fn bad_json() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    vec![
        ("unknown field", "store", json!({ "contents": "a" }), "unknown field `contents`"),
        ("metadata no object", "store", json!({ "content": "a", "metadata": [1] }), "must be an object"),
        ("bytes no base64", "store", json!({ "bytes": "%%%" }), "base64"),
        ("id no UUID", "store", json!({ "content": "a", "id": "7" }), "UUID"),
        ("no items", "store", json!({ "items": [] }), "items is empty"),
        ("items and content", "store", json!({ "content": "a", "items": [{ "content": "b" }] }), "items stands alone"),
        ("k of 0", "search", json!({ "query": "a", "k": 0 }), "k is 0"),
        ("k negative", "search", json!({ "query": "a", "k": -1 }), "-1"),
        (
            "unknown filter word",
            "search",
            filtered(json!({ "field": "role", "equals": "user" })),
            "unknown field `equals`",
        ),
        ("filter by a list", "search", filtered(json!({ "field": "metadata.n", "eq": [1] })), "a text, a number"),
        ("unknown mode", "search", json!({ "query": "a", "mode": "guess" }), "guess"),
        ("unknown consistency", "recall", json!({ "session": "s", "consistency": "maybe" }), "maybe"),
        ("empty ids", "recall", json!({ "ids": [] }), "ids is empty"),
    ]
}

/// A world whose default collection exists.
async fn world() -> World {
    let world = World::new().await;
    world.store_all("default", &["something"]).await;
    world
}

#[tokio::test]
async fn rest_names_every_bad_input() {
    let world = world().await;
    for (what, tool, input, code, word) in bad_inputs() {
        let answer = world.post(&format!("/mcp/{tool}"), input).await;
        assert_eq!(answer.code(), code, "{what}: {}", answer.text);
        assert!(answer.detail().contains(word), "{what}: {}", answer.detail());
    }
    for (what, tool, input, word) in bad_json() {
        let answer = world.post(&format!("/mcp/{tool}"), input).await;
        assert_eq!(answer.code(), "invalid_argument", "{what}: {}", answer.text);
        assert!(answer.detail().contains(word), "{what}: {}", answer.detail());
    }
    assert_eq!(world.fake.frame_count(), 1, "nothing was stored by half");
}

#[tokio::test]
async fn mcp_names_every_bad_input() {
    let world = world().await;
    let json = bad_json().into_iter().map(|(what, tool, input, word)| (what, tool, input, "invalid_argument", word));
    for (what, tool, input, code, word) in bad_inputs().into_iter().chain(json) {
        let result = mcp::call(&world, tool, input).await;
        assert_eq!(result["isError"], true, "{what}: {result}");
        let text = result["content"][0]["text"].as_str().unwrap();
        assert!(text.starts_with(&format!("{code}: ")) && text.contains(word), "{what}: {text}");
    }
}

#[tokio::test]
async fn grpc_names_every_bad_input() {
    let world = world().await;
    let mut client = MemoryClient::connect(format!("http://{}", world.router.grpc_addr)).await.unwrap();
    for (what, tool, input, code, _) in bad_inputs() {
        let status = match tool {
            "store" => client.store(authorized(store_of(&input))).await.map(drop),
            "search" => client.search(authorized(search_of(&input))).await.map(drop),
            "recall" => client.recall(authorized(recall_of(&input))).await.map(drop),
            _ => client.forget(authorized(forget_of(&input))).await.map(drop),
        };
        let status = status.expect_err(what);
        let grpc_code = status.code();
        let problem = Problem::from(status);
        assert_eq!(problem.code.as_str(), code, "{what}: {problem}");
        assert_eq!(grpc_code, problem.code.grpc());
    }
    assert_eq!(world.fake.frame_count(), 1);
}

pub fn authorized<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    request
}

fn text(input: &Value, field: &str) -> String {
    input[field].as_str().unwrap_or_default().to_owned()
}

fn vector(input: &Value) -> Vec<f32> {
    let components = input["vector"].as_array();
    components.map(|list| list.iter().map(|x| x.as_f64().unwrap() as f32).collect()).unwrap_or_default()
}

fn store_of(input: &Value) -> v1::StoreRequest {
    v1::StoreRequest {
        content: input["content"].as_str().map(Into::into),
        bytes: input["bytes"].as_str().map(|_| b"a".to_vec().into()),
        r#type: text(input, "type"),
        session: text(input, "session"),
        metadata_json: input.get("metadata").map(Value::to_string).unwrap_or_default(),
        vector: vector(input),
        id: text(input, "id"),
        replace: input["replace"] == true,
        expected_version: input["expected_version"].as_u64(),
        expires_at: text(input, "expires_at"),
        collection: text(input, "collection"),
        ..Default::default()
    }
}

fn search_of(input: &Value) -> v1::SearchRequest {
    v1::SearchRequest {
        query: text(input, "query"),
        vector: vector(input),
        k: input["k"].as_u64().unwrap_or_default() as u32,
        collection: text(input, "collection"),
        created_from: text(input, "created_from"),
        created_to: text(input, "created_to"),
        filter_json: input.get("filter").map(Value::to_string).unwrap_or_default(),
        ..Default::default()
    }
}

fn recall_of(input: &Value) -> v1::RecallRequest {
    v1::RecallRequest {
        ids: input["id"].as_str().map(Into::into).into_iter().collect(),
        session: text(input, "session"),
        limit: input["limit"].as_u64().unwrap_or_default() as u32,
        cursor: text(input, "cursor"),
        ..Default::default()
    }
}

fn forget_of(input: &Value) -> v1::ForgetRequest {
    let ids = input["id"].as_str().map(Into::into).into_iter().collect();
    let filter_json = input.get("filter").map(Value::to_string).unwrap_or_default();
    v1::ForgetRequest { ids, all: input["all"] == true, filter_json, ..Default::default() }
}

#[tokio::test]
async fn http_itself_has_problem_documents_too() {
    let world = World::new().await;
    let raw = async |method: Method, path: &str, media_type: &str, body: Vec<u8>| {
        let request = Request::builder().method(method).uri(world.url(path)).header("content-type", media_type);
        world.send(request.body(Body::from(body)).unwrap()).await
    };
    let json = "application/json";
    let table = [
        (raw(Method::POST, "/mcp/store", json, b"{\"content\": ".to_vec()).await, 400, "invalid_argument", "JSON"),
        (raw(Method::POST, "/mcp/store", json, b"{\"content\": NaN}".to_vec()).await, 400, "invalid_argument", "JSON"),
        (
            raw(Method::POST, "/mcp/store", json, b"{\"content\": \"\xff\"}".to_vec()).await,
            400,
            "invalid_argument",
            "UTF-8",
        ),
        (raw(Method::POST, "/mcp/store", json, b"[]".to_vec()).await, 400, "invalid_argument", "object"),
        (raw(Method::POST, "/mcp/store", "text/plain", b"{}".to_vec()).await, 415, "invalid_argument", "Content-Type"),
        (raw(Method::POST, "/mcp/store", json, vec![b' '; (32 << 20) + 1]).await, 413, "too_large", "33554432"),
        (raw(Method::GET, "/mcp/store", json, vec![]).await, 405, "invalid_argument", "GET"),
        (raw(Method::POST, "/collections", json, vec![]).await, 405, "invalid_argument", "POST"),
        (raw(Method::GET, "/nowhere", json, vec![]).await, 404, "not_found", "/nowhere"),
        (raw(Method::GET, "/mcp/status?detailled=true", json, vec![]).await, 400, "invalid_argument", "detailled"),
        (raw(Method::PUT, "/collections/c", json, b"{\"dim\": 0}".to_vec()).await, 400, "invalid_argument", "dim is 0"),
        (raw(Method::PUT, "/collections/c", json, b"{\"dim\": 4097}".to_vec()).await, 400, "invalid_argument", "4096"),
        (raw(Method::PUT, "/collections/c", json, b"{\"partitions\": 5}".to_vec()).await, 400, "invalid_argument", "4"),
        (raw(Method::PUT, "/collections/c", json, b"{\"metric\": \"x\"}".to_vec()).await, 400, "invalid_argument", "x"),
    ];
    for (answer, status, code, word) in table {
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{answer:?}");
        assert!(answer.detail().contains(word), "{word}: {answer:?}");
    }
}

#[tokio::test]
async fn headers_are_checked() {
    let world = World::new().await;
    let long = "k".repeat(300);
    let table = [
        ("x-mira-timeout-ms", "soon", "invalid_argument"),
        ("x-mira-timeout-ms", "0", "invalid_argument"),
        ("x-mira-consistency-token", "what?", "invalid_argument"),
        ("x-mira-consistency-token", "Aw", "unsupported_version"),
        ("idempotency-key", "", "invalid_argument"),
        ("idempotency-key", &long, "invalid_argument"),
    ];
    for (name, value, code) in table {
        let answer = world.post_with("/mcp/search", json!({ "query": "a" }), &[(name, value)]).await;
        assert_eq!(answer.code(), code, "{name}: {value}");
    }
}

#[tokio::test]
async fn only_holders_of_a_token_get_in() {
    let world = World::with(|config| config.open_metrics = false).await;
    for authorization in ["Bearer wrong", "Basic test-token", ""] {
        for path in ["/mcp", "/mcp/store", "/mcp/status", "/collections", "/openapi.json", "/metrics"] {
            let method = if path == "/mcp" || path == "/mcp/store" { Method::POST } else { Method::GET };
            let answer = world.request(method, path, "{}", &[("authorization", authorization)]).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (StatusCode::UNAUTHORIZED, "unauthenticated"),
                "{path}"
            );
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
    }
    for path in ["/healthz", "/readyz", "/"] {
        let answer = world.request(Method::GET, path, "", &[("authorization", "")]).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
    }
    assert_eq!(world.get("/metrics").await.status, StatusCode::OK);
    let mut client = MemoryClient::connect(format!("http://{}", world.router.grpc_addr)).await.unwrap();
    let status = client.status(v1::StatusRequest::default()).await.unwrap_err();
    assert_eq!(Problem::from(status).code.as_str(), "unauthenticated");
}

#[tokio::test]
async fn every_protocol_is_measured_by_the_same_names() {
    let world = world().await;
    world.post("/mcp/search", json!({ "query": "a" })).await.ok();
    mcp::call(&world, "search", json!({ "query": "a" })).await;
    let mut client = MemoryClient::connect(format!("http://{}", world.router.grpc_addr)).await.unwrap();
    client.search(authorized(v1::SearchRequest { query: "a".into(), ..Default::default() })).await.unwrap();
    world.post("/mcp/search", json!({ "query": "" })).await;
    let metrics = world.get("/metrics").await.text;
    for line in [
        "mira_mcp_function_calls_total{function_name=\"search\"} 4",
        "mira_mcp_function_duration_seconds_count{function_name=\"search\",success=\"true\"} 3",
        "mira_mcp_function_duration_seconds_count{function_name=\"search\",success=\"false\"} 1",
        "mira_mcp_function_duration_seconds_bucket{function_name=\"search\",success=\"true\",le=\"0.00001\"}",
        "mira_storage_operation_duration_seconds_count{operation=\"search\",storage_type=\"shard\"} 3",
        "mira_router_query_cache_total{result=\"hit\"} 2",
        "mira_router_query_cache_total{result=\"miss\"} 1",
        "mira_router_requests_in_flight 0",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_said_in_our_words_and_names_the_field_on_every_protocol() {
    let world = World::new().await;
    let rest = async |path: &str, body: &str| world.request(Method::POST, path, body.to_owned(), &[]).await;
    for (path, body, words) in [
        ("/mcp/store", "[]", "it must be an object, not a list"),
        ("/mcp/forget", "[]", "it must be an object, not a list"),
        ("/mcp/store", "7", "it must be an object, not the number 7"),
        ("/mcp/store", r#"{"content": "\ud800"}"#, "an escape in a text stands for no character"),
        ("/mcp/recall", r#"{"id": "7"}"#, "id is not a UUID"),
        ("/mcp/search", r#"{"query": "a", "k": 1.5}"#, "k must be"),
        ("/mcp/store", r#"{"content": "#, "the JSON ends early"),
    ] {
        let refused = rest(path, body).await;
        assert_eq!(refused.code(), "invalid_argument", "{body}: {}", refused.text);
        assert!(refused.detail().contains(words), "{body}: {}", refused.detail());
        for library in ["invalid type", "expected struct", "surrogate", "EOF", "UUID parsing"] {
            assert!(!refused.detail().contains(library), "{body}: {}", refused.detail());
        }
    }
    let called = crate::mcp::call(&world, "recall", json!({ "ids": ["7"] })).await;
    assert!(called["content"][0]["text"].as_str().unwrap().contains("ids[0] is not a UUID"), "{called}");
}
