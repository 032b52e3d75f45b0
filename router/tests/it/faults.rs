//! What each operation does when nodes fail, move, or forget who leads.

use std::time::{Duration, Instant};

use axum::http::{Method, StatusCode};
use mira_proto::node_v1::read_level::Kind;
use mira_proto::v1::memory_client::MemoryClient;
use mira_proto::{Code, Problem, limits, v1};
use mira_router::{Router, StartError};
use serde_json::{Value, json};

use crate::client::{World, config};
use crate::errors::authorized;
use mira_testing::FakeCluster;

/// How long a slow node takes.
const SLOW: Duration = Duration::from_millis(50);

/// A world with a collection over all four shards and twelve frames in it, some in every shard: their ids, which
/// decide where they lie, are always the same.
async fn wide() -> World {
    let world = World::new().await;
    world.collection("wide", 4).await;
    let frame = |n| json!({ "content": format!("frame number {n}"), "id": wide_id(n), "collection": "wide" });
    let items: Vec<Value> = (0..12).map(frame).collect();
    world.post("/mcp/store", json!({ "items": items })).await.ok();
    assert!(world.fake.shards_of("wide").iter().all(|&shard| world.fake.frames_in(shard) > 0));
    world.fake.clear_seen();
    world
}

/// The id of a frame of [`wide`]: fixed, so that every shard has one.
fn wide_id(n: u32) -> String {
    format!("01999999-0000-7000-8000-{n:012}")
}

/// The shard and leader of the default collection, after a first frame.
async fn one_shard(world: &World) -> (u32, u64) {
    world.store_all("default", &["first"]).await;
    world.fake.clear_seen();
    let shard = world.fake.shards_of("default")[0];
    (shard, world.fake.leader(shard))
}

fn search_wide() -> Value {
    json!({ "query": "frame number 3", "k": 50, "collection": "wide" })
}

#[tokio::test]
async fn a_write_follows_the_leader_with_the_same_request_id() {
    let world = World::new().await;
    let (shard, leader) = one_shard(&world).await;
    let next = leader % 3 + 1;
    world.fake.set_leader(shard, Some(next));
    world.post("/mcp/store", json!({ "content": "second" })).await.ok();
    let seen = world.fake.seen("write");
    assert_eq!(seen.iter().map(|seen| seen.node).collect::<Vec<_>>(), [leader, next]);
    assert_eq!(seen[0].request_id, seen[1].request_id);
    assert_eq!(seen[0].request_id.len(), 16);
    world.fake.clear_seen();
    world.post("/mcp/store", json!({ "content": "third" })).await.ok();
    assert_eq!(world.fake.seen("write").len(), 1, "the new leader is remembered");
}

#[tokio::test]
async fn stores_that_meet_go_together_and_are_answered_one_by_one() {
    let world = World::new().await;
    let (shard, leader) = one_shard(&world).await;
    // Slow enough that those that come after the first find it under way, also where the leader is asked anew.
    let next = leader % 3 + 1;
    [leader, next].iter().for_each(|&node| world.fake.fault(node, |faults| faults.slow = Some(SLOW)));
    world.fake.set_leader(shard, Some(next));
    let id = "01999999-0000-7000-8000-000000000001";
    let item = |number: usize| match number {
        // Two different contents under one id: whichever comes second is refused, and nobody else.
        0 | 1 => json!({ "content": format!("of {number}"), "id": id }),
        _ => json!({ "content": format!("of {number}") }),
    };
    const STORES: usize = 40;
    let answers = futures::future::join_all((0..STORES).map(|number| world.post("/mcp/store", item(number)))).await;
    let refused = answers.iter().filter(|answer| answer.status == StatusCode::CONFLICT).count();
    let stored = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    assert_eq!((refused, stored), (1, STORES - 1));
    assert_eq!(world.fake.frame_count(), STORES, "with the first");
    let seen = world.fake.seen("write");
    let ids: std::collections::BTreeSet<_> = seen.iter().map(|seen| seen.request_id.clone()).collect();
    assert_eq!(ids.len(), STORES, "each keeps its own request id, however often it was sent");
    let messages = world.fake.seen("write_many").len();
    assert!(messages > 0 && messages < STORES, "{messages} messages for {} writes", seen.len());
}

#[tokio::test]
async fn a_large_store_goes_alone() {
    let world = World::new().await;
    let (_, leader) = one_shard(&world).await;
    world.fake.fault(leader, |faults| faults.slow = Some(SLOW));
    let large = json!({ "content": "x".repeat(limits::BUNDLE_WRITE_BYTES + 1), "vector": vec![0.5; 32] });
    let answers = futures::future::join_all((0..4).map(|_| world.post("/mcp/store", large.clone()))).await;
    answers.into_iter().for_each(|answer| drop(answer.ok()));
    assert_eq!((world.fake.seen("write").len(), world.fake.seen("write_many").len()), (4, 0));
}

/// A search that any replica may answer, and how long it took.
async fn search_any(world: &World) -> Duration {
    let started = Instant::now();
    world.post("/mcp/search", json!({ "query": "first", "consistency": "any" })).await.ok();
    started.elapsed()
}

#[tokio::test]
async fn a_replica_that_is_slower_than_usual_is_not_waited_for() {
    let world = World::new().await;
    let (_, leader) = one_shard(&world).await;
    for _ in 0..120 {
        search_any(&world).await;
    }
    let slow = Duration::from_millis(400);
    world.fake.fault(leader, |faults| faults.slow = Some(slow));
    let mut quick = 0;
    for _ in 0..15 {
        quick += u32::from(search_any(&world).await < slow / 2);
    }
    assert!(quick >= 13, "only {quick} of 15 did not wait for the slow one");
    assert!(world.get("/metrics").await.text.contains(r#"mira_router_hedges_total{first="second"}"#));
}

#[tokio::test]
async fn when_all_replicas_are_slow_few_are_asked_twice() {
    let world = World::new().await;
    one_shard(&world).await;
    for _ in 0..40 {
        search_any(&world).await;
    }
    (1..=3).for_each(|node| world.fake.fault(node, |faults| faults.slow = Some(Duration::from_millis(30))));
    world.fake.clear_seen();
    const SEARCHES: usize = 100;
    for _ in 0..SEARCHES {
        search_any(&world).await;
    }
    let asked = world.fake.seen("search").len();
    assert!(asked <= SEARCHES + SEARCHES / 10 + 11, "{asked} questions for {SEARCHES} searches");
}

#[tokio::test]
async fn a_write_waits_for_an_election() {
    let world = World::new().await;
    let (shard, leader) = one_shard(&world).await;
    world.fake.set_leader(shard, None);
    let write = world.post("/mcp/store", json!({ "content": "second" }));
    let elect = async {
        while world.fake.seen("write").len() < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world.fake.set_leader(shard, Some(leader % 3 + 1));
    };
    let (answer, ()) = tokio::join!(write, elect);
    answer.ok();
    let seen = world.fake.seen("write");
    assert!(seen.iter().all(|try_| try_.request_id == seen[0].request_id));
    let nodes: std::collections::BTreeSet<u64> = seen.iter().map(|seen| seen.node).collect();
    assert_eq!(nodes.len(), 3, "every replica was asked");
}

#[tokio::test]
async fn a_write_with_an_old_map_fetches_the_new_one_and_is_sent_again() {
    let world = World::new().await;
    one_shard(&world).await;
    world.fake.bump_epoch();
    world.post("/mcp/store", json!({ "content": "second" })).await.ok();
    let seen = world.fake.seen("write");
    assert!(seen.iter().all(|try_| try_.request_id == seen[0].request_id));
    assert_eq!(world.fake.frame_count(), 2);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_applied_once() {
    let world = World::new().await;
    let (_, leader) = one_shard(&world).await;
    world.fake.fault(leader, |faults| faults.lost_answers = 2);
    let id = "01999999-0000-7000-8000-000000000001";
    let item = json!({ "content": "second", "id": id, "expected_version": 0 });
    let reply = world.post("/mcp/store", item).await.ok();
    assert_eq!(reply["version"], 1, "the first try is remembered, or this would be a conflict");
    assert!(world.fake.seen("write").len() >= 3);
    assert_eq!(world.fake.frame_count(), 2);
}

#[tokio::test]
async fn when_nobody_leads_a_write_says_so_at_its_deadline() {
    let world = World::new().await;
    let (shard, _) = one_shard(&world).await;
    world.fake.set_leader(shard, None);
    let started = Instant::now();
    let answer = world.post_with("/mcp/store", json!({ "content": "second" }), &[("x-mira-timeout-ms", "400")]).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "unavailable"));
    assert!(answer.detail().contains("no replica leads"), "{}", answer.detail());
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(world.fake.frame_count(), 1);
}

#[tokio::test]
async fn when_outcomes_stay_unknown_a_write_says_that_it_may_have_happened() {
    let world = World::new().await;
    one_shard(&world).await;
    (1..=3).for_each(|node| world.fake.fault(node, |faults| faults.down = true));
    let answer = world.post_with("/mcp/store", json!({ "content": "second" }), &[("x-mira-timeout-ms", "300")]).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded"));
    assert!(answer.detail().contains("may still take effect"), "{}", answer.detail());
}

#[tokio::test]
async fn an_idempotency_key_makes_a_repeated_request_the_same_request() {
    let world = World::new().await;
    one_shard(&world).await;
    let key = [("idempotency-key", "import-7")];
    let store = async |content: &str| world.post_with("/mcp/store", json!({ "content": content }), &key).await;
    let (first, second) = (store("twice").await.ok(), store("twice").await.ok());
    assert_eq!(first, second);
    assert_eq!(world.fake.frame_count(), 2);
    let seen = world.fake.seen("write");
    assert_eq!(seen[0].request_id, seen[1].request_id);
    assert_eq!(store("something else").await.code(), "conflict", "a used key does not hide other content");
    let other = world.post_with("/mcp/store", json!({ "content": "twice" }), &[("idempotency-key", "8")]).await.ok();
    assert_ne!(other["id"], first["id"]);
}

#[tokio::test]
async fn a_read_goes_on_to_the_next_replica() {
    let world = wide().await;
    for fault in ["down", "not_ready"] {
        world.fake.fault(2, |faults| (faults.down, faults.not_ready) = (fault == "down", fault == "not_ready"));
        let mut any = search_wide();
        any["consistency"] = "any".into();
        for _ in 0..5 {
            let found = world.post("/mcp/search", any.clone()).await.ok();
            assert_eq!(found["hits"].as_array().unwrap().len(), 12, "{fault}");
            assert!(found.get("degraded").is_none());
        }
    }
    assert!(world.fake.seen("search").iter().all(|seen| seen.node != 2));
}

#[tokio::test]
async fn a_slow_replica_is_left_for_another() {
    let world = wide().await;
    world.fake.fault(2, |faults| faults.slow = Some(Duration::from_secs(60)));
    let mut any = search_wide();
    any["consistency"] = "any".into();
    let started = Instant::now();
    for _ in 0..3 {
        let found = world.post("/mcp/search", any.clone()).await.ok();
        assert_eq!(found["hits"].as_array().unwrap().len(), 12);
    }
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_shard_without_a_leader_makes_a_search_degraded_or_strict_refuse() {
    let world = wide().await;
    let lost = world.fake.shards_of("wide")[1];
    world.fake.set_leader(lost, None);
    let timeout = [("x-mira-timeout-ms", "2000")];
    let found = world.post_with("/mcp/search", search_wide(), &timeout).await.ok();
    assert_eq!((&found["degraded"], &found["missing_shards"]), (&json!(true), &json!([lost])));
    let hits = found["hits"].as_array().unwrap().len();
    assert!(hits > 0 && hits < 12, "{hits}");
    let mut strict = search_wide();
    strict["strict"] = true.into();
    let refused = world.post_with("/mcp/search", strict, &timeout).await;
    assert_eq!(refused.code(), "unavailable");
    assert!(refused.detail().contains(&format!("shard {lost}")), "{}", refused.detail());
    let metrics = world.get("/metrics").await.text;
    assert!(metrics.contains("mira_router_degraded_answers_total 1"), "{metrics}");
}

#[tokio::test]
async fn a_search_that_no_shard_answers_is_unavailable() {
    let world = wide().await;
    (0..4).for_each(|shard| world.fake.set_leader(shard, None));
    let answer = world.post_with("/mcp/search", search_wide(), &[("x-mira-timeout-ms", "400")]).await;
    assert_eq!(answer.code(), "unavailable");
    let mut any = search_wide();
    any["consistency"] = "any".into();
    assert_eq!(world.post("/mcp/search", any).await.ok()["hits"].as_array().unwrap().len(), 12, "any replica answers");
}

#[tokio::test]
async fn a_recall_answers_whole_or_not_at_all() {
    let world = wide().await;
    world.fake.set_leader(world.fake.shards_of("wide")[1], None);
    let request = json!({ "ids": (0..12).map(wide_id).collect::<Vec<_>>(), "collection": "wide" });
    let answer = world.post_with("/mcp/recall", request, &[("x-mira-timeout-ms", "400")]).await;
    assert_eq!(answer.code(), "unavailable");
}

#[tokio::test]
async fn reads_ask_for_what_they_promise() {
    let world = wide().await;
    let stored = world.post("/mcp/store", json!({ "content": "x", "collection": "wide" })).await.ok();
    let id = stored["id"].clone();
    let recall = async |consistency: Option<&str>| {
        world.fake.clear_seen();
        let mut request = json!({ "id": id, "collection": "wide" });
        if let Some(consistency) = consistency {
            request["consistency"] = consistency.into();
        }
        world.post("/mcp/recall", request).await.ok();
        world.fake.seen("fetch").last().unwrap().kind
    };
    assert_eq!(recall(None).await, Kind::Linearizable as i32);
    assert_eq!(recall(Some("leader")).await, Kind::Leader as i32);
    assert_eq!(recall(Some("any")).await, Kind::Any as i32);
    world.post("/mcp/search", search_wide()).await.ok();
    assert_eq!(world.fake.seen("search").last().unwrap().kind, Kind::Leader as i32);
}

#[tokio::test]
async fn a_consistency_token_keeps_reads_from_lagging_replicas() {
    let world = World::new().await;
    one_shard(&world).await;
    let stored = world.post("/mcp/store", json!({ "content": "second" })).await;
    let token = stored.headers["x-mira-consistency-token"].to_str().unwrap().to_owned();
    (1..=2).for_each(|node| world.fake.fault(node, |faults| faults.lags = true));
    let request = json!({ "id": stored.ok()["id"], "consistency": "any" });
    world.post_with("/mcp/recall", request, &[("x-mira-consistency-token", &token)]).await.ok();
    let last = world.fake.seen("fetch").last().unwrap().clone();
    assert_eq!((last.node, last.at_least), (3, 2));
}

#[tokio::test]
async fn an_answer_of_any_replica_says_how_old_it_is() {
    let world = wide().await;
    (1..=3).for_each(|node| world.fake.fault(node, |faults| faults.stale_ms = 100 * node));
    let mut any = search_wide();
    any["consistency"] = "any".into();
    for _ in 0..5 {
        let found = world.post("/mcp/search", any.clone()).await.ok();
        let age = found["staleness_ms"].as_u64().expect("it has an age");
        assert!((100..=300).contains(&age) && found.get("lagging").is_none(), "{found}");
    }
    for consistency in ["leader", "linearizable"] {
        let mut request = search_wide();
        request["consistency"] = consistency.into();
        assert!(world.post("/mcp/search", request).await.ok().get("staleness_ms").is_none(), "{consistency}");
    }
    let ids = world.store_all("wide", &["the last one"]).await;
    let recalled = world.post("/mcp/recall", json!({ "id": ids[0], "collection": "wide", "consistency": "any" }));
    assert!(recalled.await.ok()["staleness_ms"].as_u64().is_some_and(|age| age >= 100));
    let mut client = MemoryClient::connect(format!("http://{}", world.router.grpc_addr)).await.unwrap();
    let request = v1::SearchRequest { query: "a".into(), consistency: "any".into(), ..Default::default() };
    let request = v1::SearchRequest { collection: "wide".into(), ..request };
    let found = client.search(authorized(request)).await.unwrap().into_inner();
    assert!(found.staleness_ms.is_some_and(|age| age >= 100) && !found.lagging, "{found:?}");
}

#[tokio::test]
async fn a_replica_that_lags_is_passed_over_while_another_answers() {
    let world = wide().await;
    let bound = limits::MAX_STALENESS.as_millis() as u64;
    world.fake.fault(1, |faults| faults.stale_ms = bound + 1);
    world.fake.fault(2, |faults| faults.stale_ms = u64::MAX);
    let mut any = search_wide();
    any["consistency"] = "any".into();
    for _ in 0..5 {
        let found = world.post("/mcp/search", any.clone()).await.ok();
        assert_eq!((found["hits"].as_array().unwrap().len(), &found["staleness_ms"]), (12, &json!(0)));
        assert!(found.get("lagging").is_none(), "{found}");
    }
    assert!(world.fake.seen("search").iter().all(|seen| !seen.last_resort));
    assert!(world.get("/metrics").await.text.contains(r#"mira_router_retries_total{reason="lagging"}"#));
}

#[tokio::test]
async fn when_every_replica_lags_the_least_old_answers_and_says_so() {
    let world = wide().await;
    for (node, stale_ms) in [(1, 9_000), (2, 4_000), (3, u64::MAX)] {
        world.fake.fault(node, |faults| faults.stale_ms = stale_ms);
    }
    let mut any = search_wide();
    any["consistency"] = "any".into();
    let found = world.post("/mcp/search", any.clone()).await.ok();
    assert_eq!(found["hits"].as_array().unwrap().len(), 12);
    assert_eq!((&found["lagging"], &found["staleness_ms"]), (&json!(true), &json!(4_000)));
    assert!(world.fake.seen("search").iter().filter(|seen| seen.last_resort).all(|seen| seen.node == 2));
    // It is gone too: what is left answers, though it does not know its age.
    world.fake.fault(2, |faults| faults.down = true);
    world.fake.fault(1, |faults| faults.down = true);
    let found = world.post("/mcp/search", any).await.ok();
    assert_eq!((&found["lagging"], found.get("staleness_ms")), (&json!(true), None));
}

#[tokio::test]
async fn a_collection_that_was_made_again_is_not_read_as_the_old_one() {
    let world = wide().await;
    let other = Router::start(config(&world.fake)).await.unwrap();
    // Another router does both; ours learns of it from a refusal.
    let url = |path: &str| format!("http://{}{path}", other.http_addr);
    for (method, status) in [(Method::DELETE, StatusCode::NO_CONTENT), (Method::PUT, StatusCode::OK)] {
        let request = axum::http::Request::builder().method(method).uri(url("/collections/wide"));
        let request = request.header("content-type", "application/json").body(r#"{"partitions": 2}"#.into()).unwrap();
        assert_eq!(world.send(request).await.status, status);
    }
    assert_eq!(world.post("/mcp/search", search_wide()).await.ok()["hits"], json!([]));
    world.store_all("wide", &["anew"]).await;
    assert_eq!(world.post("/mcp/search", search_wide()).await.ok()["hits"].as_array().unwrap().len(), 1);
    other.shutdown().await;
}

#[tokio::test]
async fn a_collection_whose_removal_was_not_confirmed_is_removed() {
    let world = wide().await;
    (1..=3).for_each(|node| world.fake.fault(node, |faults| faults.lost_answers = 1));
    let answer = world.request(Method::DELETE, "/collections/wide", "", &[]).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{answer:?}");
}

#[tokio::test]
async fn status_names_what_it_could_not_reach() {
    let world = wide().await;
    world.fake.fault(2, |faults| faults.down = true);
    let unled: Vec<u32> = (0..4).filter(|&shard| world.fake.leader(shard) == 2).collect();
    unled.iter().for_each(|&shard| world.fake.set_leader(shard, None));
    let status = world.get("/mcp/status?detailed=true").await.ok();
    assert_eq!((&status["state"], &status["leaderless_shards"]), (&json!("unavailable"), &json!(unled)));
    assert_eq!(status["nodes"][1]["reachable"], false);
    assert!(status["missing"][0].as_str().unwrap().contains("0000000000000002"), "{status}");
    unled.iter().for_each(|&shard| world.fake.set_leader(shard, Some(3)));
    let status = world.get("/mcp/status").await.ok();
    assert_eq!((&status["state"], &status["frames"]), (&json!("degraded"), &json!(12)));
    world.fake.fault(3, |faults| faults.slow = Some(Duration::from_secs(30)));
    let started = Instant::now();
    world.get("/mcp/status").await.ok();
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test]
async fn without_any_node_requests_are_refused_and_the_router_is_not_ready() {
    let fake = FakeCluster::start(1, 1).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let world = World::new().await;
    let lonely = {
        let mut config = config(&fake);
        config.nodes = vec![nobody.to_string()];
        Router::start(config).await.unwrap()
    };
    let get = |path: &str| axum::http::Request::get(format!("http://{}{path}", lonely.http_addr));
    let ready = world.send(get("/readyz").body("".into()).unwrap()).await;
    assert_eq!((ready.status, &ready.json()["ready"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(false)));
    assert_eq!(world.send(get("/healthz").body("".into()).unwrap()).await.status, StatusCode::OK);
    let list = get("/collections").header("x-mira-timeout-ms", "200").body("".into()).unwrap();
    let answer = world.send(list).await;
    assert_eq!(answer.code(), "unavailable");
    assert!(!answer.detail().contains(&nobody.to_string()), "no address is a caller's: {}", answer.detail());
    let status = world.send(get("/mcp/status").body("".into()).unwrap()).await.ok();
    assert_eq!(status["state"], "unavailable");
}

#[tokio::test]
async fn a_router_starts_only_with_what_it_needs() {
    let fake = FakeCluster::start(1, 1).await;
    let mut no_token = config(&fake);
    no_token.tokens.clear();
    assert!(matches!(Router::start(no_token).await, Err(StartError::NoToken)));
    let mut no_node = config(&fake);
    no_node.nodes.clear();
    assert!(matches!(Router::start(no_node).await, Err(StartError::NoNode)));
    let running = Router::start(config(&fake)).await.unwrap();
    let mut taken = config(&fake);
    taken.http = running.http_addr;
    assert!(matches!(Router::start(taken).await, Err(StartError::Listen { .. })));
}

#[tokio::test]
async fn a_stopping_router_finishes_what_it_began() {
    let World { fake, router, .. } = World::new().await;
    let url = format!("http://{}/mcp/store", router.http_addr);
    let helper = World::new().await;
    (1..=3).for_each(|node| fake.fault(node, |faults| faults.slow = Some(Duration::from_millis(150))));
    let request = axum::http::Request::post(url).header("content-type", "application/json");
    let write = helper.send(request.body(r#"{"content": "last words"}"#.into()).unwrap());
    let stop = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        router.shutdown().await;
    };
    let (answer, ()) = tokio::join!(write, stop);
    answer.ok();
    assert_eq!(fake.frame_count(), 1);
}

#[tokio::test]
async fn more_requests_than_the_limit_are_told_so_at_once() {
    let world = World::new().await;
    one_shard(&world).await;
    (1..=3).for_each(|node| world.fake.fault(node, |faults| faults.slow = Some(Duration::from_secs(1))));
    let mut clients = Vec::new();
    // One connection carries 256 requests at a time.
    for _ in 0..limits::MAX_REQUESTS_IN_FLIGHT / 128 {
        clients.push(MemoryClient::connect(format!("http://{}", world.router.grpc_addr)).await.unwrap());
    }
    let search = || v1::SearchRequest { query: "a".into(), ..Default::default() };
    let calls = (0..limits::MAX_REQUESTS_IN_FLIGHT + 20).map(|at| {
        let mut client = clients[at % clients.len()].clone();
        async move { client.search(authorized(search())).await }
    });
    let answers = futures::future::join_all(calls).await;
    let refused: Vec<Problem> = answers.into_iter().filter_map(|answer| answer.err().map(Problem::from)).collect();
    assert_eq!(refused.len(), 20, "{refused:?}");
    assert!(refused.iter().all(|problem| problem.code == Code::Overloaded), "{refused:?}");
}

#[tokio::test]
async fn a_winner_that_vanishes_before_it_is_fetched_makes_room_for_the_next() {
    let world = wide().await;
    let ask = json!({ "query": "frame number 3", "k": 3, "collection": "wide" });
    let before = world.post("/mcp/search", ask.clone()).await.ok();
    let ids = |reply: &Value| -> Vec<String> {
        reply["hits"].as_array().unwrap().iter().map(|hit| hit["id"].as_str().unwrap().to_owned()).collect()
    };
    let best = ids(&before)[0].clone();
    world.fake.vanish_at_fetch(&best);
    let after = world.post("/mcp/search", ask).await.ok();
    assert_eq!(after["hits"].as_array().unwrap().len(), 3);
    assert_eq!(ids(&after)[..2], ids(&before)[1..]);
    let ranks: Vec<u64> =
        after["hits"].as_array().unwrap().iter().map(|hit| hit["why"]["vector"]["rank"].as_u64().unwrap()).collect();
    assert_eq!(ranks, [1, 2, 3]);
}

#[tokio::test]
async fn the_token_of_a_search_covers_the_state_that_its_frames_were_fetched_from() {
    let world = wide().await;
    let ask = json!({ "query": "frame number 3", "k": 3, "collection": "wide" });
    let before = world.post("/mcp/search", ask.clone()).await.ok();
    let again = world.post("/mcp/search", ask.clone()).await.ok();
    assert_eq!(again["consistency_token"], before["consistency_token"], "nothing has changed");
    world.fake.vanish_at_fetch(before["hits"][0]["id"].as_str().expect("a hit"));
    let after = world.post("/mcp/search", ask).await.ok();
    assert_ne!(after["consistency_token"], before["consistency_token"], "a frame went after the shards were searched");
}
