//! Private frames through the router: sealed before a node sees them, found by their owner only, on all protocols.

use axum::http::StatusCode;
use bytes::Bytes;
use mira_crypto::PassphraseCost;
use mira_proto::v1;
use mira_proto::v1::memory_client::MemoryClient;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::client::{Answer, World};
use crate::errors::authorized;

mod search;
mod words;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";
const ADA: (&str, &str) = ("x-mira-owner-key", KEY);
const EVE: (&str, &str) = ("x-mira-owner-key", OTHER);

async fn as_owner(world: &World, path: &str, body: Value, owner: (&str, &str)) -> Answer {
    world.post_with(path, body, &[owner]).await
}

async fn store(world: &World, content: &str, more: Value) -> String {
    let mut item = json!({ "content": content, "private": true });
    item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    as_owner(world, "/mcp/store", item, ADA).await.ok()["id"].as_str().unwrap().to_owned()
}

fn found(answer: &Value) -> Vec<(String, bool)> {
    let hits = answer["hits"].as_array().unwrap().iter();
    hits.map(|hit| (hit["content"].as_str().unwrap().to_owned(), hit["private"] == true)).collect()
}

#[tokio::test]
async fn an_owner_finds_its_own_beside_the_plain() {
    let world = World::new().await;
    world.collection("wide", 4).await;
    let wide = json!({ "collection": "wide" });
    world.store_all("wide", &["green tea comes from Japan", "black bread"]).await;
    store(&world, "the tea ceremony frightens me", wide.clone()).await;
    store(&world, "I never liked trains", wide).await;
    let ask = json!({ "query": "tea from Japan", "k": 4, "collection": "wide", "include_private": true });
    let all = found(&as_owner(&world, "/mcp/search", ask.clone(), ADA).await.ok());
    assert_eq!(all.len(), 4);
    assert_eq!(all[0], ("green tea comes from Japan".into(), false));
    assert!(all.contains(&("the tea ceremony frightens me".into(), true)), "{all:?}");
    assert_eq!(
        found(&as_owner(&world, "/mcp/search", ask, EVE).await.ok()).len(),
        2,
        "a stranger finds the plain ones"
    );
    let plain = json!({ "query": "tea from Japan", "k": 4, "collection": "wide" });
    assert_eq!(
        found(&as_owner(&world, "/mcp/search", plain, ADA).await.ok()).len(),
        2,
        "nobody asked for private ones"
    );
}

#[tokio::test]
async fn nodes_are_told_nothing_that_can_be_read() {
    let world = World::new().await;
    let said = json!({ "session": "diary-session", "role": "confessor", "type": "secret-kind", "metadata": { "mood": "gloomy" },
        "vector": vec![0.125f32; 32] });
    let id = store(&world, "the words of a private thought", said).await;
    let stored = world.fake.everything();
    let vector: Vec<u8> = [0.125f32; 4].iter().flat_map(|component| component.to_le_bytes()).collect();
    let key = [0u8, 1, 2, 3, 4, 5, 6, 7];
    let needles: [&[u8]; 8] =
        [b"private thought", b"diary-session", b"confessor", b"secret-kind", b"mood", b"gloomy", &vector, &key];
    for needle in needles {
        assert!(!stored.windows(needle.len()).any(|part| part == needle), "{:?}", needle.escape_ascii().to_string());
    }
    let frame = &as_owner(&world, "/mcp/recall", json!({ "id": id }), ADA).await.ok()["frames"][0];
    assert_eq!(frame["content"], "the words of a private thought");
    assert_eq!((&frame["session"], &frame["role"]), (&json!("diary-session"), &json!("confessor")));
    assert_eq!((&frame["type"], &frame["metadata"]["mood"]), (&json!("secret-kind"), &json!("gloomy")));
}

#[tokio::test]
async fn who_has_another_key_or_none_is_told_so_on_every_protocol() {
    let world = World::new().await;
    let id = store(&world, "mine", json!({})).await;
    let recall = json!({ "id": id });
    for owner in [EVE, ("x-nothing", "x")] {
        let answer = as_owner(&world, "/mcp/recall", recall.clone(), owner).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::FORBIDDEN, "wrong_owner_key"));
    }
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": { "name": "recall", "arguments": recall } });
    let mcp = [("accept", "application/json, text/event-stream"), ("mcp-protocol-version", "2025-11-25")];
    let wrong = world.post_with("/mcp", call.clone(), &[mcp[0], mcp[1], EVE]).await.ok()["result"].clone();
    assert_eq!(wrong["isError"], true);
    assert!(wrong["content"][0]["text"].as_str().unwrap().starts_with("wrong_owner_key: "), "{wrong}");
    let right = world.post_with("/mcp", call, &[mcp[0], mcp[1], ADA]).await.ok()["result"].clone();
    assert_eq!(right["structuredContent"]["frames"][0]["content"], "mine");

    let mut client = MemoryClient::connect(format!("http://{}", world.router.grpc_addr)).await.unwrap();
    let with_key = |key: &str| {
        let mut request = authorized(v1::RecallRequest { ids: vec![id.clone()], ..Default::default() });
        request.metadata_mut().insert("x-mira-owner-key", key.parse().unwrap());
        request
    };
    let refused = mira_proto::Problem::from(client.recall(with_key(OTHER)).await.unwrap_err());
    assert_eq!(refused.code, mira_proto::Code::WrongOwnerKey);
    let frames = client.recall(with_key(KEY)).await.unwrap().into_inner().frames;
    assert_eq!((frames[0].content.as_deref(), frames[0].private), (Some("mine"), true));
}

#[tokio::test]
async fn grpc_stores_and_searches_private_frames_too() {
    let world = World::new().await;
    let mut client = MemoryClient::connect(format!("http://{}", world.router.grpc_addr)).await.unwrap();
    fn mine<T>(message: T) -> tonic::Request<T> {
        let mut request = authorized(message);
        request.metadata_mut().insert("x-mira-owner-key", KEY.parse().unwrap());
        request
    }
    let item = v1::StoreRequest { content: Some("a thought".into()), private: true, ..Default::default() };
    client.store_batch(mine(v1::StoreBatchRequest { items: vec![item] })).await.unwrap();
    let search = v1::SearchRequest { query: "a thought".into(), include_private: true, ..Default::default() };
    let hits = client.search(mine(search)).await.unwrap().into_inner().hits;
    assert!(hits[0].frame.as_ref().unwrap().private);
    assert_eq!(hits.len(), 1);
}

#[tokio::test]
async fn a_key_that_is_missing_or_malformed_is_a_wrong_request() {
    let world = World::new().await;
    let item = json!({ "content": "x", "private": true });
    let search = json!({ "query": "x", "include_private": true });
    for (path, body) in [("/mcp/store", &item), ("/mcp/search", &search)] {
        let answer = world.post(path, body.clone()).await;
        assert_eq!(answer.code(), "invalid_argument");
        assert!(answer.detail().contains("X-Mira-Owner-Key"), "{}", answer.detail());
        for (bad, says) in [("AAEC", "3 bytes"), ("not base64!", "base64")] {
            let answer = as_owner(&world, path, body.clone(), ("x-mira-owner-key", bad)).await;
            assert_eq!(answer.code(), "invalid_argument");
            assert!(answer.detail().contains(says), "{}", answer.detail());
        }
    }
    // A batch goes on without it.
    let items = json!({ "items": [{ "content": "plain" }, { "content": "x", "private": true }] });
    let reply = world.post("/mcp/store", items).await.ok();
    assert_eq!(reply["items"][0]["version"], 1);
    assert_eq!(reply["items"][1]["error"]["code"], "invalid_argument");
}

#[tokio::test]
async fn a_session_holds_what_its_owner_said_in_it() {
    let world = World::new().await;
    world.post("/mcp/store", json!({ "content": "said aloud", "session": "talk" })).await.ok();
    store(&world, "thought", json!({ "session": "talk" })).await;
    let ask = json!({ "session": "talk" });
    let contents = |answer: Answer| {
        let frames = answer.ok()["frames"].as_array().unwrap().clone();
        frames.iter().map(|frame| frame["content"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(contents(as_owner(&world, "/mcp/recall", ask.clone(), ADA).await), ["said aloud", "thought"]);
    assert_eq!(contents(as_owner(&world, "/mcp/recall", ask.clone(), EVE).await), ["said aloud"]);
    assert_eq!(contents(world.post("/mcp/recall", ask.clone()).await), ["said aloud"]);
    assert_eq!(as_owner(&world, "/mcp/forget", ask.clone(), EVE).await.ok()["removed"], 1);
    assert_eq!(contents(as_owner(&world, "/mcp/recall", ask.clone(), ADA).await), ["thought"]);
    assert_eq!(as_owner(&world, "/mcp/forget", ask, ADA).await.ok()["removed"], 1);
    assert_eq!(world.fake.frame_count(), 0);
}

#[tokio::test]
async fn a_repeated_store_is_one() {
    let world = World::new().await;
    let item = json!({ "content": "once", "private": true });
    let key = [ADA, ("idempotency-key", "k1")];
    let first = world.post_with("/mcp/store", item.clone(), &key).await.ok();
    let again = world.post_with("/mcp/store", item, &key).await.ok();
    assert_eq!(first["id"], again["id"]);
    assert_eq!(world.fake.frame_count(), 1);
    let other = world.post_with("/mcp/store", json!({ "content": "twice", "private": true }), &key).await;
    assert_eq!(other.code(), "conflict");
}

#[tokio::test]
async fn what_has_not_changed_is_not_sent_again() {
    let world = World::new().await;
    for n in 0..8 {
        store(&world, &format!("thought {n}"), json!({})).await;
    }
    let ask = json!({ "query": "thought", "k": 20, "include_private": true });
    let search = async || found(&as_owner(&world, "/mcp/search", ask.clone(), ADA).await.ok()).len();
    assert_eq!(search().await, 8);
    assert_eq!(world.fake.private_vectors(), 8, "in pages");
    assert_eq!(search().await, 8);
    assert_eq!(world.fake.private_vectors(), 8, "from what is kept");
    let id = store(&world, "another", json!({})).await;
    assert_eq!(search().await, 9);
    assert_eq!(world.fake.private_vectors(), 9, "only the new one");
    as_owner(&world, "/mcp/forget", json!({ "id": id }), ADA).await.ok();
    assert_eq!(search().await, 8, "what is gone is not found from what was kept");
    assert_eq!(world.fake.private_vectors(), 9);
}

#[tokio::test]
async fn a_passphrase_stands_for_a_key_and_grows_dearer() {
    let cheap = PassphraseCost { memory_kib: 64, passes: 1, lanes: 1 };
    let world = World::with(|config| config.passphrase_cost = cheap).await;
    let ada = [("x-mira-owner-passphrase", "open sesame")];
    let early = world.post_with("/mcp/search", json!({ "query": "x", "include_private": true }), &ada).await;
    assert_eq!(early.code(), "wrong_owner_key", "there is no record of it");
    world.create_passphrase(&ada).await;
    let item = json!({ "content": "a treasure", "private": true });
    let id = world.post_with("/mcp/store", item, &ada).await.ok()["id"].clone();
    let record = world.fake.owner_records();
    assert!(record[0].starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{record:?}");
    let wrong =
        world.post_with("/mcp/recall", json!({ "id": id }), &[("x-mira-owner-passphrase", "open barley")]).await;
    assert_eq!(wrong.code(), "wrong_owner_key");

    // Another router, with another idea of what is enough, serves the same owner and renews the record.
    let dearer = PassphraseCost { memory_kib: 128, passes: 1, lanes: 1 };
    let mut config = crate::client::config(&world.fake);
    config.passphrase_cost = dearer;
    let world = world.with_router(config).await;
    let frames = world.post_with("/mcp/recall", json!({ "id": id }), &ada).await.ok();
    assert_eq!(frames["frames"][0]["content"], "a treasure");
    assert!(world.fake.owner_records()[0].starts_with("$argon2id$v=19$m=128,t=1,p=1$"));
    let both = [ADA, ("x-mira-owner-passphrase", "x")];
    assert_eq!(world.post_with("/mcp/recall", json!({ "id": id }), &both).await.code(), "invalid_argument");
}

#[tokio::test]
async fn a_passphrase_is_changed_and_the_memories_stay() {
    let cheap = PassphraseCost { memory_kib: 64, passes: 1, lanes: 1 };
    let world = World::with(|config| config.passphrase_cost = cheap).await;
    let old = ("x-mira-owner-passphrase", "open sesame");
    let new = ("x-mira-owner-passphrase", "open barley");
    let change = async |headers: &[(&str, &str)]| world.post_with("/owner/passphrase", json!({}), headers).await;
    let to_new = ("x-mira-new-passphrase", "open barley");
    assert_eq!(change(&[old, to_new]).await.code(), "wrong_owner_key", "there is none yet");
    world.create_passphrase(&[old]).await;
    let item = json!({ "content": "a treasure", "private": true });
    let id = world.post_with("/mcp/store", item, &[old]).await.ok()["id"].clone();
    assert_eq!(change(&[new, to_new]).await.code(), "wrong_owner_key");
    for wrong in [&[to_new][..], &[ADA, to_new], &[old], &[old, ("x-mira-new-passphrase", "")]] {
        assert_eq!(change(wrong).await.code(), "invalid_argument", "{wrong:?}");
    }
    for _ in ["once", "and after its answer was lost"] {
        assert_eq!(change(&[old, to_new]).await.status, StatusCode::NO_CONTENT);
    }
    assert_eq!(change(&[old, ("x-mira-new-passphrase", "open rye")]).await.code(), "wrong_owner_key");
    let recall = async |with| world.post_with("/mcp/recall", json!({ "id": id }), &[with]).await;
    assert_eq!(recall(old).await.code(), "wrong_owner_key", "also where it was opened a moment ago");
    assert_eq!(recall(new).await.ok()["frames"][0]["content"], "a treasure");
    assert_eq!(world.fake.owner_records().len(), 1);
}

#[tokio::test]
async fn pieces_that_were_swapped_or_changed_are_damage() {
    let world = World::new().await;
    let (first, second) = (store(&world, "first", json!({})).await, store(&world, "second", json!({})).await);
    let ask = json!({ "query": "first", "include_private": true });
    world.fake.tamper(std::mem::swap);
    for id in [&first, &second] {
        assert_eq!(as_owner(&world, "/mcp/recall", json!({ "id": id }), ADA).await.code(), "damaged");
    }
    let reply = as_owner(&world, "/mcp/search", ask.clone(), ADA).await.ok();
    assert_eq!((found(&reply).len(), reply["damaged"].as_array().unwrap().len()), (0, 2), "a search says so");
    world.fake.tamper(std::mem::swap);
    let reply = as_owner(&world, "/mcp/search", ask, ADA).await.ok();
    assert_eq!((found(&reply).len(), reply.get("damaged")), (2, None));
}

#[test]
fn a_byte_changed_anywhere_is_a_typed_problem() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (world, id, sealed) = runtime.block_on(async {
        let world = World::new().await;
        let id = store(&world, "something worth keeping to oneself", json!({ "session": "s" })).await;
        let sealed = std::sync::Mutex::new(Bytes::new());
        world.fake.tamper(|body, _| *sealed.lock().unwrap() = body.clone());
        (world, id, sealed.into_inner().unwrap())
    });
    let codes = ["damaged", "wrong_owner_key", "unsupported_version"];
    proptest!(|(at in any::<prop::sample::Index>(), change in 1u8..)| {
        let mut altered = sealed.to_vec();
        let at = at.index(altered.len());
        altered[at] ^= change;
        world.fake.tamper(|body, _| *body = altered.clone().into());
        let answer = runtime.block_on(as_owner(&world, "/mcp/recall", json!({ "id": id }), ADA));
        prop_assert!(codes.contains(&answer.code().as_str()), "{answer:?}");
    });
}

#[tokio::test]
async fn whoever_forgets_everything_without_an_owners_key_leaves_its_private_memories() {
    let world = World::new().await;
    world.collection("wide", 4).await;
    world.store_all("wide", &["one", "two", "three", "four", "five"]).await;
    let session = json!({ "collection": "wide", "session": "diary", "type": "draft" });
    let ids = [store(&world, "first", session.clone()).await, store(&world, "second", session).await];
    let forget = async |selector: Value, owner| {
        let mut request = json!({ "collection": "wide" });
        request.as_object_mut().unwrap().extend(selector.as_object().unwrap().clone());
        as_owner(&world, "/mcp/forget", request, owner).await
    };
    let nobody = ("x-nothing", "x");
    for selector in [json!({ "session": "diary" }), json!({ "filter": { "field": "type", "eq": "draft" } })] {
        let gone = forget(selector.clone(), nobody).await.ok();
        assert_eq!((&gone["removed"], gone.get("private_left")), (&json!(0), None), "{selector}");
    }
    assert_eq!(forget(json!({ "id": ids[0] }), nobody).await.code(), "wrong_owner_key");
    let gone = forget(json!({ "all": true }), nobody).await.ok();
    assert_eq!((&gone["removed"], &gone["private_left"]), (&json!(5), &json!(2)));
    let gone = forget(json!({ "all": true, "now": true }), EVE).await.ok();
    assert_eq!((&gone["removed"], &gone["private_left"]), (&json!(5), &json!(2)), "the plain ones rested in the bin");
    let recall = json!({ "ids": ids, "collection": "wide" });
    assert_eq!(as_owner(&world, "/mcp/recall", recall, ADA).await.ok()["frames"].as_array().unwrap().len(), 2);
    let gone = forget(json!({ "all": true }), ADA).await.ok();
    assert_eq!((&gone["removed"], gone.get("private_left")), (&json!(2), None));
}
