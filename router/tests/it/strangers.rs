//! Callers that go away, guess, flood, or send what no request looks like.

use std::time::Duration;

use axum::http::StatusCode;
use futures::StreamExt;
use mira_crypto::PassphraseCost;
use mira_proto::model::{
    ChangeRequest, CollectionSettings, ForgetRequest, GrowRequest, RecallRequest, SearchRequest, StoreItem,
    TuneRequest, UploadRequest,
};
use mira_proto::v1;
use mira_proto::v1::memory_client::MemoryClient;
use mira_testing::{eventually, extremes};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tonic::Code;

use crate::client::{TOKEN, World};

const MCP: [(&str, &str); 2] =
    [("accept", "application/json, text/event-stream"), ("mcp-protocol-version", "2025-11-25")];
const PATIENCE: Duration = Duration::from_secs(30);

fn search(id: u32) -> Value {
    let params = json!({ "name": "search", "arguments": { "query": "tea" } });
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params })
}

/// A world whose nodes have become slow.
async fn slow_world() -> World {
    let world = World::new().await;
    world.store_all("default", &["green tea"]).await;
    for (node, _) in &world.fake.nodes {
        world.fake.fault(*node, |faults| faults.slow = Some(Duration::from_secs(600)));
    }
    world
}

async fn at_work(world: &World) -> bool {
    world.get("/metrics").await.text.contains("\nmira_router_requests_in_flight 1")
}

#[tokio::test]
async fn a_caller_of_a_tool_that_closes_its_connection_stops_its_work() {
    let world = slow_world().await;
    let mut call = Box::pin(world.post_with("/mcp", search(1), &MCP));
    tokio::select! {
        answer = &mut call => panic!("{answer:?}"),
        () = eventually("the search is at work", PATIENCE, async || at_work(&world).await) => {}
    }
    drop(call);
    eventually("nobody works at it", PATIENCE, async || !at_work(&world).await).await;
}

#[tokio::test]
async fn a_call_is_cancelled_by_its_notification() {
    let world = slow_world().await;
    let cancel = async |id: u32| {
        let notification =
            json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id } });
        assert_eq!(world.post_with("/mcp", notification, &MCP).await.status, StatusCode::ACCEPTED);
    };
    let call = world.post_with("/mcp", search(7), &MCP);
    let cancelling = async {
        eventually("the search is at work", PATIENCE, async || at_work(&world).await).await;
        cancel(8).await;
        assert!(at_work(&world).await, "another request was meant");
        cancel(7).await;
    };
    let (answer, ()) = tokio::join!(call, cancelling);
    let answer = answer.json();
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    assert!(answer["result"]["content"][0]["text"].as_str().unwrap().contains("cancelled"), "{answer}");
    assert!(!at_work(&world).await);
}

async fn client(world: &World) -> MemoryClient<tonic::transport::Channel> {
    MemoryClient::connect(format!("http://{}", world.router.grpc_addr)).await.unwrap()
}

fn with_token<T>(message: T, token: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

#[tokio::test]
async fn grpc_sees_the_token_before_a_message() {
    let world = World::new().await;
    let mut client = client(&world).await;
    // Nothing is ever sent: whoever waited for a message would wait for ever.
    let refused = client.ingest(with_token(futures::stream::pending(), "wrong")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused = client.upload(with_token(futures::stream::pending(), "wrong")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused = client.status(v1::StatusRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(mira_proto::Problem::from(refused).detail.contains("Bearer"));
}

#[tokio::test]
async fn grpc_bounds_lists_before_they_are_made_and_streams_in_number_and_size() {
    let world = World::new().await;
    let mut client = client(&world).await;
    let items = vec![v1::StoreRequest::default(); 70_000];
    let batch = v1::StoreBatchRequest { items };
    let refused = mira_proto::Problem::from(client.store_batch(with_token(batch, TOKEN)).await.unwrap_err());
    assert_eq!(refused.code, mira_proto::Code::TooLarge, "{refused}");
    // What is allowed goes through.
    let item =
        |n: u32| v1::StoreRequest { content: Some(format!("memory {n} {}", "x".repeat(20_000))), ..Default::default() };
    let batch = v1::StoreBatchRequest { items: (0..1_000).map(item).collect() };
    let stored = client.store_batch(with_token(batch, TOKEN)).await.unwrap().into_inner();
    assert_eq!(stored.items.iter().filter(|item| item.problem.is_none()).count(), 1_000);

    let long = v1::StoreRequest { content: Some("x".repeat(5 << 20)), ..Default::default() };
    let mut answers = client.ingest(with_token(futures::stream::iter([long]), TOKEN)).await.unwrap().into_inner();
    let refused = mira_proto::Problem::from(answers.next().await.unwrap().unwrap_err());
    assert_eq!(refused.code, mira_proto::Code::TooLarge, "{refused}");
    drop(answers);

    let mut open = Vec::new();
    for _ in 0..mira_proto::limits::MAX_STREAMS {
        let (sender, items) = futures::channel::mpsc::unbounded::<v1::StoreRequest>();
        open.push((sender, client.ingest(with_token(items, TOKEN)).await.unwrap()));
    }
    let refused = client.ingest(with_token(futures::stream::pending(), TOKEN)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.metadata().get("retry-after").unwrap(), "1");
    drop(open);
    let again = async || client.clone().ingest(with_token(futures::stream::empty(), TOKEN)).await.is_ok();
    eventually("a stream that ended makes room", PATIENCE, again).await;
}

#[tokio::test]
async fn guesses_at_a_passphrase_wait_and_nobody_else_does() {
    let cheap = PassphraseCost { memory_kib: 64, passes: 1, lanes: 1 };
    let world = World::with(|config| (config.passphrase_cost, config.any_owner) = (cheap, true)).await;
    let item = json!({ "content": "a treasure", "private": true });
    let owner = |name, passphrase| [("x-mira-owner", name), ("x-mira-owner-passphrase", passphrase)];
    world.create_passphrase(&owner("ada", "open sesame")).await;
    world.create_passphrase(&owner("bob", "open barley")).await;
    let id = world.post_with("/mcp/store", item.clone(), &owner("ada", "open sesame")).await.ok()["id"].clone();
    let bobs = world.post_with("/mcp/store", item, &owner("bob", "open barley")).await.ok()["id"].clone();
    let guess =
        async |name, passphrase| world.post_with("/mcp/recall", json!({ "id": id }), &owner(name, passphrase)).await;
    let guesses: Vec<String> = (0..7).map(|number| format!("guess {number}")).collect();
    let mut answers = Vec::new();
    for passphrase in &guesses {
        answers.push(guess("ada", passphrase.as_str()).await.code());
    }
    assert_eq!(answers[..6], ["wrong_owner_key"; 6]);
    assert_eq!(answers[6], "rate_limited");
    let refused = guess("ada", "one more").await;
    assert_eq!(
        (refused.status, &refused.headers["retry-after"]),
        (StatusCode::TOO_MANY_REQUESTS, &"1".parse().unwrap())
    );
    let recall = json!({ "id": bobs });
    world.post_with("/mcp/recall", recall, &owner("bob", "open barley")).await.ok();
    assert_eq!(guess("ada", "open sesame").await.status, StatusCode::OK, "who was let in lately is let in");
}

#[tokio::test]
async fn a_passphrase_record_is_removed_by_whoever_has_the_passphrase() {
    let cheap = PassphraseCost { memory_kib: 64, passes: 1, lanes: 1 };
    let world = World::with(|config| config.passphrase_cost = cheap).await;
    let (right, wrong) = (("x-mira-owner-passphrase", "open sesame"), ("x-mira-owner-passphrase", "open barley"));
    let remove = async |headers: &[(&str, &str)]| {
        world.request(axum::http::Method::DELETE, "/owner/passphrase", "", headers).await
    };
    assert_eq!(remove(&[right]).await.code(), "wrong_owner_key", "there is none yet");
    world.create_passphrase(&[right]).await;
    let item = json!({ "content": "a treasure", "private": true });
    world.post_with("/mcp/store", item, &[right]).await.ok();
    assert_eq!(remove(&[wrong]).await.code(), "wrong_owner_key");
    assert_eq!(remove(&[]).await.code(), "invalid_argument");
    assert_eq!(remove(&[right]).await.status, StatusCode::NO_CONTENT);
    assert!(world.fake.owner_records().is_empty());
    let search = json!({ "query": "treasure", "include_private": true });
    assert_eq!(world.post_with("/mcp/search", search, &[right]).await.code(), "wrong_owner_key");
}

#[tokio::test]
async fn an_owner_that_makes_many_owners_is_slowed_down() {
    let cheap = PassphraseCost { memory_kib: 64, passes: 1, lanes: 1 };
    let world = World::with(|config| (config.passphrase_cost, config.any_owner) = (cheap, true)).await;
    let make = async |number: u32| {
        let name = format!("owner-{number}");
        let headers = [("x-mira-owner", &*name), ("x-mira-owner-passphrase", "open")];
        world.request(axum::http::Method::PUT, "/owner/passphrase", "", &headers).await
    };
    for number in 0..mira_proto::limits::OWNERS_AT_ONCE {
        assert_eq!(make(number).await.status, StatusCode::NO_CONTENT, "{number}");
    }
    let refused = make(1_000).await;
    assert_eq!(refused.code(), "rate_limited");
    assert!(refused.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() > 100, "{refused:?}");
    assert_eq!(make(3).await.status, StatusCode::NO_CONTENT, "what is there is not made");
}

/// Sends requests of a type with every field at its extremes.
async fn at_extremes<T: Serialize + DeserializeOwned>(world: &World, path: &str) {
    let mut sent = 0;
    for seed in 0..1_000 {
        if seed >= 150 && sent > 20 {
            break;
        }
        let Some(request) = extremes::draw::<T>(seed) else { continue };
        let document = serde_json::to_value(&request).unwrap();
        let method = if path == "/collections/extreme" { axum::http::Method::PUT } else { axum::http::Method::POST };
        let answer = world.request(method, path, document.to_string(), &[("x-mira-timeout-ms", "3000")]).await;
        let fine = answer.status != StatusCode::INTERNAL_SERVER_ERROR;
        assert!(fine, "{path}, seed {seed}: {document}: {}", answer.text);
        sent += 1;
    }
    assert!(sent > 20, "{path}: {sent} were drawn");
}

#[tokio::test]
async fn no_request_at_any_extreme_of_its_fields_is_an_error_of_the_router() {
    let world = World::new().await;
    world.store_all("default", &["green tea"]).await;
    at_extremes::<StoreItem>(&world, "/mcp/store").await;
    at_extremes::<SearchRequest>(&world, "/mcp/search").await;
    at_extremes::<RecallRequest>(&world, "/mcp/recall").await;
    at_extremes::<ForgetRequest>(&world, "/mcp/forget").await;
    at_extremes::<ChangeRequest>(&world, "/mcp/change").await;
    at_extremes::<CollectionSettings>(&world, "/collections/extreme").await;
    at_extremes::<GrowRequest>(&world, "/collections/default/grow").await;
    at_extremes::<TuneRequest>(&world, "/collections/default/tune").await;
    at_extremes::<UploadRequest>(&world, "/collections/default/uploads").await;
}
