//! A change that comes again under its `Idempotency-Key`, because its answer was lost, is answered as it was the first time,
//! whatever happened since.

use axum::http::{Method, StatusCode};
use mira_crypto::PassphraseCost;
use serde_json::{Value, json};

use crate::client::World;

const KEY: (&str, &str) = ("idempotency-key", "k");

/// Sends a change under its key and again; what it was answered both times.
async fn twice(world: &World, method: Method, path: &str, body: Value) -> String {
    let send = async || world.request(method.clone(), path, body.to_string(), &[KEY]).await;
    let first = send().await;
    assert!(first.status.is_success(), "{method} {path}: {}", first.text);
    let again = send().await;
    assert_eq!((again.status, &again.text), (first.status, &first.text), "{method} {path}");
    first.text
}

#[tokio::test]
async fn a_removed_collection_is_removed_for_who_asks_again_and_a_successor_stays() {
    let world = World::new().await;
    world.collection("notes", 2).await;
    twice(&world, Method::DELETE, "/collections/notes", Value::Null).await;
    let without = world.request(Method::DELETE, "/collections/notes", "", &[]).await;
    assert_eq!(without.code(), "not_found", "nobody said that it is the same request");
    let other = world.request(Method::DELETE, "/collections/notes", "", &[("idempotency-key", "l")]).await;
    assert_eq!(other.code(), "not_found");

    world.collection("notes", 2).await;
    let late = world.request(Method::DELETE, "/collections/notes", "", &[KEY]).await;
    assert_eq!(late.status, StatusCode::NO_CONTENT);
    world.get("/collections/notes").await.ok();
}

#[tokio::test]
async fn a_shredded_collection_is_named_by_the_same_end_again() {
    let world = World::new().await;
    world.collection("notes", 2).await;
    let all = json!({ "all": true, "collection": "notes", "shred": true });
    let first: Value = serde_json::from_str(&twice(&world, Method::POST, "/mcp/forget", all.clone()).await).unwrap();
    assert!(first["shred"].is_u64(), "{first}");
    assert_eq!(world.post("/mcp/forget", all).await.code(), "not_found");

    // Single frames: their key ends once, by one rotation.
    world.collection("wide", 4).await;
    let ids = world.store_all("wide", &["a", "b"]).await;
    let one = json!({ "id": ids[0], "collection": "wide", "shred": true });
    let first: Value = serde_json::from_str(&twice(&world, Method::POST, "/mcp/forget", one).await).unwrap();
    assert_eq!((&first["removed"], first["shred"].is_u64()), (&json!(1), true));
}

#[tokio::test]
async fn a_rotation_and_a_growth_begin_once() {
    let world = World::new().await;
    world.collection("notes", 1).await;
    let rotate = json!({ "collection": "notes" });
    let first = twice(&world, Method::POST, "/admin/keys/rotate", rotate.clone()).await;
    let another = world.post("/admin/keys/rotate", rotate).await;
    assert_ne!(another.text, first);

    let grow = json!({ "partitions": 2 });
    let first = twice(&world, Method::POST, "/collections/notes/grow", grow.clone()).await;
    let first: Value = serde_json::from_str(&first).unwrap();
    assert_eq!((&first["from"], &first["to"]), (&json!(1), &json!(2)));
    let dry =
        world.post_with("/collections/notes/grow", json!({ "partitions": 4, "dry_run": true }), &[KEY]).await.ok();
    assert_eq!(dry["to"], 4, "a dry run is another request, and is not remembered");
}

#[tokio::test]
async fn a_collection_that_was_removed_meanwhile_is_not_made_again() {
    let world = World::new().await;
    let settings = json!({ "partitions": 2, "dim": 8 });
    let first = twice(&world, Method::PUT, "/collections/notes", settings.clone()).await;
    world.request(Method::DELETE, "/collections/notes", "", &[]).await;
    let late = world.request(Method::PUT, "/collections/notes", settings.to_string(), &[KEY]).await;
    assert_eq!((late.status, &late.text), (StatusCode::OK, &first));
    assert_eq!(world.get("/collections/notes").await.code(), "not_found");
    // Other settings are another request.
    let other = json!({ "partitions": 1, "dim": 8 }).to_string();
    let reused = world.request(Method::PUT, "/collections/notes", other.clone(), &[KEY]).await;
    assert_eq!(reused.code(), "conflict");
    assert!(reused.detail().contains("Idempotency-Key"), "{}", reused.detail());
    assert_eq!(world.get("/collections/notes").await.code(), "not_found");
    world.request(Method::PUT, "/collections/notes", other, &[("idempotency-key", "l")]).await.ok();
    assert_eq!(world.get("/collections/notes").await.ok()["partitions"], 1);
}

#[tokio::test]
async fn a_passphrase_record_and_an_upload_are_given_up_once() {
    let cheap = PassphraseCost { memory_kib: 64, passes: 1, lanes: 1 };
    let world = World::with(|config| config.passphrase_cost = cheap).await;
    let passphrase = ("x-mira-owner-passphrase", "open sesame");
    let remove = async |key: &str| {
        let headers = [passphrase, ("idempotency-key", key)];
        world.request(Method::DELETE, "/owner/passphrase", "", &headers).await
    };
    world.create_passphrase(&[passphrase]).await;
    for _ in ["once", "and after its answer was lost"] {
        assert_eq!(remove("k").await.status, StatusCode::NO_CONTENT);
    }
    assert_eq!(remove("l").await.code(), "wrong_owner_key", "there is none");
    world.create_passphrase(&[passphrase]).await;
    assert_eq!(remove("k").await.status, StatusCode::NO_CONTENT);
    assert_eq!(world.fake.owner_records().len(), 1, "the one that was made since stays");

    world.collection("notes", 1).await;
    let begun = world.post("/collections/notes/uploads", json!({ "frame": { "content": "about it" } })).await.json();
    let upload = format!("/collections/notes/uploads/{}", begun["upload"].as_str().unwrap());
    twice(&world, Method::DELETE, &upload, Value::Null).await;
}

#[tokio::test]
async fn a_key_that_comes_again_with_another_request_is_a_conflict_and_nothing_is_done() {
    let world = World::new().await;
    world.collection("wide", 4).await;
    let ids = world.store_all("wide", &["a", "b", "c"]).await;
    let one = |id: &str| json!({ "id": id, "collection": "wide" });
    let send =
        async |path: &str, body: Value, key: &str| world.post_with(path, body, &[("idempotency-key", key)]).await;
    let reused = |answer: crate::client::Answer| {
        assert_eq!(answer.code(), "conflict", "{}", answer.text);
        assert!(answer.detail().contains("Idempotency-Key"), "{}", answer.detail());
    };
    assert_eq!(send("/mcp/forget", one(&ids[0]), "k").await.ok()["removed"], 1);
    assert_eq!(send("/mcp/forget", one(&ids[0]), "k").await.ok()["removed"], 1, "a retry");
    for other in [
        one(&ids[1]),
        json!({ "all": true, "collection": "wide" }),
        json!({ "id": ids[0], "collection": "wide", "now": true }),
        json!({ "session": "s", "collection": "wide" }),
    ] {
        reused(send("/mcp/forget", other, "k").await);
    }
    let restore = |id: &str| json!({ "action": "restore", "id": id, "collection": "wide" });
    reused(send("/mcp/change", restore(&ids[0]), "k").await);
    send("/mcp/change", restore(&ids[0]), "l").await.ok();
    reused(send("/mcp/change", restore(&ids[1]), "l").await);
    assert_eq!(world.fake.frame_count(), 3, "the others removed nothing");

    let turn = |at: &str| json!({ "content": "said", "created_at": at, "collection": "wide" });
    let first = send("/mcp/store", turn("2026-01-01T00:00:00Z"), "m").await.ok();
    assert_eq!(send("/mcp/store", turn("2026-01-01T00:00:00Z"), "m").await.ok()["id"], first["id"]);
    reused(send("/mcp/store", turn("2026-01-01T00:00:01Z"), "m").await);
    reused(send("/mcp/store", json!({ "content": "other", "collection": "wide" }), "m").await);

    let grow = json!({ "partitions": 5 });
    send("/collections/wide/grow", grow, "n").await.ok();
    reused(send("/collections/wide/grow", json!({ "partitions": 6 }), "n").await);
    world.collection("notes", 1).await;
    world.collection("other", 1).await;
    let delete = async |name: &str| {
        world.request(Method::DELETE, &format!("/collections/{name}"), "", &[("idempotency-key", "o")]).await
    };
    assert_eq!(delete("notes").await.status, StatusCode::NO_CONTENT);
    reused(delete("other").await);
    world.get("/collections/other").await.ok();
    send("/admin/keys/rotate", json!({ "collection": "other" }), "p").await.ok();
    reused(send("/admin/keys/rotate", json!({}), "p").await);
}
