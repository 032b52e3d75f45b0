//! Whom a token speaks for: private memories and idempotency keys belong to a principal, whichever of its tokens is sent.

use axum::http::{Method, StatusCode};
use mira_crypto::PassphraseCost;
use mira_router::AccessToken;
use serde_json::{Value, json};

use crate::client::{Answer, World, config};

const CHEAP: PassphraseCost = PassphraseCost { memory_kib: 64, passes: 1, lanes: 1 };
const OLD: (&str, &str) = ("ada", "ada-token-of-last-year");
const NEW: (&str, &str) = ("ada", "ada-token-of-this-year");
const BOB: (&str, &str) = ("bob", "bob-token-of-this-year");
const PASSPHRASE: (&str, &str) = ("x-mira-owner-passphrase", "open sesame");

fn tokens(of: &[(&str, &str)]) -> Vec<AccessToken> {
    of.iter().map(|(principal, token)| AccessToken::new(principal, token)).collect()
}

async fn world(of: &[(&str, &str)], any_owner: bool) -> World {
    let fake = mira_testing::FakeCluster::start(3, 4).await;
    World::over(fake, |config| {
        (config.tokens, config.any_owner, config.passphrase_cost) = (tokens(of), any_owner, CHEAP);
    })
    .await
}

/// A request of the holder of a token.
async fn ask(
    world: &World,
    (_, token): (&str, &str),
    (method, path, body): (Method, &str, Value),
    headers: &[(&str, &str)],
) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers: Vec<(&str, &str)> = [("authorization", &*bearer)].into_iter().chain(headers.iter().copied()).collect();
    world.request(method, path, body.to_string(), &headers).await
}

fn store(content: &str, private: bool) -> (Method, &'static str, Value) {
    (Method::POST, "/mcp/store", json!({ "content": content, "private": private }))
}

fn recall(id: &Value) -> (Method, &'static str, Value) {
    (Method::POST, "/mcp/recall", json!({ "id": id }))
}

fn create() -> (Method, &'static str, Value) {
    (Method::PUT, "/owner/passphrase", Value::Null)
}

#[tokio::test]
async fn private_memories_behind_a_passphrase_outlive_the_token_they_were_stored_with() {
    let first = world(&[OLD], false).await;
    assert_eq!(ask(&first, OLD, create(), &[PASSPHRASE]).await.status, StatusCode::NO_CONTENT);
    let id = ask(&first, OLD, store("a treasure", true), &[PASSPHRASE]).await.ok()["id"].clone();
    let keyed = [("idempotency-key", "k")];
    let plain = ask(&first, OLD, store("plain", false), &keyed).await.ok()["id"].clone();

    let mut both = config(&first.fake);
    (both.tokens, both.passphrase_cost) = (tokens(&[OLD, NEW]), CHEAP);
    let both = first.with_router(both).await;
    for token in [OLD, NEW] {
        let found = ask(&both, token, recall(&id), &[PASSPHRASE]).await.ok();
        assert_eq!(found["frames"][0]["content"], "a treasure", "{token:?}");
    }
    let mut after = config(&both.fake);
    (after.tokens, after.passphrase_cost) = (tokens(&[NEW]), CHEAP);
    let after = both.with_router(after).await;
    assert_eq!(ask(&after, NEW, recall(&id), &[PASSPHRASE]).await.ok()["frames"][0]["content"], "a treasure");
    assert_eq!(ask(&after, NEW, store("plain", false), &keyed).await.ok()["id"], plain, "the same caller asks again");
    assert_eq!(ask(&after, OLD, recall(&id), &[PASSPHRASE]).await.code(), "unauthenticated");
}

#[tokio::test]
async fn two_principals_share_neither_an_owner_nor_an_idempotency_key() {
    let world = world(&[OLD, BOB], false).await;
    assert_eq!(ask(&world, OLD, create(), &[PASSPHRASE]).await.status, StatusCode::NO_CONTENT);
    let id = ask(&world, OLD, store("a treasure", true), &[PASSPHRASE]).await.ok()["id"].clone();
    let search = (Method::POST, "/mcp/search", json!({ "query": "a treasure", "include_private": true }));
    assert_eq!(ask(&world, BOB, search.clone(), &[PASSPHRASE]).await.code(), "wrong_owner_key", "he has no passphrase");
    assert_eq!(ask(&world, BOB, create(), &[PASSPHRASE]).await.status, StatusCode::NO_CONTENT);
    assert_eq!(ask(&world, BOB, search.clone(), &[PASSPHRASE]).await.ok()["hits"], json!([]));
    assert_eq!(ask(&world, BOB, recall(&id), &[PASSPHRASE]).await.code(), "wrong_owner_key");
    assert_eq!(ask(&world, OLD, search, &[PASSPHRASE]).await.ok()["hits"].as_array().unwrap().len(), 1);

    let keyed = [("idempotency-key", "k")];
    let hers = ask(&world, OLD, store("hers", false), &keyed).await.ok();
    let his = ask(&world, BOB, store("his", false), &keyed).await.ok();
    assert_ne!(hers["id"], his["id"]);
    world_with_notes(&world, OLD).await;
    let remove = (Method::DELETE, "/collections/notes", Value::Null);
    assert_eq!(ask(&world, OLD, remove.clone(), &keyed).await.status, StatusCode::NO_CONTENT);
    assert_eq!(ask(&world, BOB, remove.clone(), &keyed).await.code(), "not_found", "he removed nothing");
    assert_eq!(ask(&world, OLD, remove, &keyed).await.status, StatusCode::NO_CONTENT);
}

async fn world_with_notes(world: &World, token: (&str, &str)) {
    ask(world, token, (Method::PUT, "/collections/notes", json!({})), &[]).await.ok();
}

#[tokio::test]
async fn only_the_call_that_says_so_makes_a_passphrase_record() {
    let world = world(&[OLD], false).await;
    world_with_notes(&world, OLD).await;
    let item = json!({ "content": "a treasure", "private": true });
    let begin = (Method::POST, "/collections/notes/uploads", json!({ "frame": item }));
    for request in [store("a treasure", true), begin] {
        let refused = ask(&world, OLD, request, &[PASSPHRASE]).await;
        assert_eq!(refused.code(), "wrong_owner_key");
        assert!(refused.detail().contains("PUT /owner/passphrase"), "{}", refused.detail());
    }
    let batch = (Method::POST, "/mcp/store", json!({ "items": [item, { "content": "plain" }] }));
    let reply = ask(&world, OLD, batch, &[PASSPHRASE]).await.ok();
    assert_eq!(
        (&reply["items"][0]["error"]["code"], &reply["items"][1]["version"]),
        (&json!("wrong_owner_key"), &json!(1))
    );
    assert!(world.fake.owner_records().is_empty());

    // With a key there is nothing to make.
    ask(&world, OLD, store("a treasure", true), &[("x-mira-owner-key", mira_testing::keys::KEY)]).await.ok();
    assert!(world.fake.owner_records().is_empty());
    for _ in ["made", "there"] {
        assert_eq!(ask(&world, OLD, create(), &[PASSPHRASE]).await.status, StatusCode::NO_CONTENT);
        assert_eq!(world.fake.owner_records().len(), 1);
    }
    let other = ask(&world, OLD, create(), &[("x-mira-owner-passphrase", "open barley")]).await;
    assert_eq!((other.status, &*other.code()), (StatusCode::CONFLICT, "already_exists"));
    assert_eq!(ask(&world, OLD, create(), &[]).await.code(), "invalid_argument");
    ask(&world, OLD, store("a treasure", true), &[PASSPHRASE]).await.ok();
}

#[tokio::test]
async fn a_caller_names_no_owner_but_itself_unless_the_router_lets_it() {
    let strict = world(&[OLD, BOB], false).await;
    assert_eq!(ask(&strict, OLD, create(), &[PASSPHRASE]).await.status, StatusCode::NO_CONTENT);
    let id = ask(&strict, OLD, store("a treasure", true), &[PASSPHRASE]).await.ok()["id"].clone();
    let of_ada = ("x-mira-owner", "ada");
    ask(&strict, OLD, recall(&id), &[PASSPHRASE, of_ada]).await.ok();
    let key = ("x-mira-owner-key", mira_testing::keys::KEY);
    for headers in [&[PASSPHRASE, of_ada][..], &[key, of_ada], &[of_ada]] {
        let refused = ask(&strict, BOB, recall(&id), headers).await;
        assert_eq!((refused.status, &*refused.code()), (StatusCode::FORBIDDEN, "permission_denied"), "{headers:?}");
    }
    for bad in ["", "a,b", "../ada"] {
        let refused = ask(&strict, OLD, recall(&id), &[PASSPHRASE, ("x-mira-owner", bad)]).await;
        assert_eq!(refused.code(), "invalid_argument", "{bad:?}");
    }
    let mut lenient = config(&strict.fake);
    (lenient.tokens, lenient.passphrase_cost, lenient.any_owner) = (tokens(&[OLD, BOB]), CHEAP, true);
    let lenient = strict.with_router(lenient).await;
    let found = ask(&lenient, BOB, recall(&id), &[PASSPHRASE, of_ada]).await.ok();
    assert_eq!(found["frames"][0]["content"], "a treasure", "whoever has the passphrase is her");
    assert_eq!(ask(&lenient, BOB, recall(&id), &[PASSPHRASE]).await.code(), "wrong_owner_key", "he himself is not");
    let of_cy = [PASSPHRASE, ("x-mira-owner", "cy/the elder")];
    assert_eq!(ask(&lenient, BOB, create(), &of_cy).await.code(), "invalid_argument", "no name has a space");
    let of_cy = [PASSPHRASE, ("x-mira-owner", "cy/elder")];
    assert_eq!(ask(&lenient, BOB, create(), &of_cy).await.status, StatusCode::NO_CONTENT);
    assert_eq!(lenient.fake.owner_records().len(), 2);
}

#[tokio::test]
async fn tokens_are_replaced_while_a_router_serves_and_a_revoked_one_is_refused_at_once() {
    let world = world(&[OLD, BOB], false).await;
    let keyed = [("idempotency-key", "k")];
    let first = ask(&world, OLD, store("plain", false), &keyed).await.ok()["id"].clone();
    world.router.replace_tokens(&tokens(&[NEW])).unwrap();
    for gone in [OLD, BOB] {
        assert_eq!(ask(&world, gone, recall(&first), &[]).await.code(), "unauthenticated", "{gone:?}");
    }
    assert_eq!(ask(&world, NEW, store("plain", false), &keyed).await.ok()["id"], first, "the same principal");
    assert!(world.router.replace_tokens(&[]).is_err(), "the door does not stand open");
    ask(&world, NEW, recall(&first), &[]).await.ok();
}
