//! Past versions and the bin, through every door: REST, MCP and gRPC.

use axum::http::Method;
use mira_proto::v1;
use serde_json::{Value, json};

use crate::client::World;
use crate::errors::authorized;
use crate::grpc::client;
use crate::mcp;

/// A memory of three versions in a collection over four shards; its id.
async fn three_versions(world: &World) -> Value {
    world.collection("wide", 4).await;
    let first = world.post("/mcp/store", json!({ "content": "tea", "collection": "wide" })).await.ok();
    for content in ["coffee", "water"] {
        let next = json!({ "id": first["id"], "content": content, "replace": true, "collection": "wide" });
        world.post("/mcp/store", next).await.ok();
    }
    first["id"].clone()
}

#[tokio::test]
async fn an_earlier_version_is_recalled_by_number_and_by_time() {
    let world = World::new().await;
    let id = three_versions(&world).await;
    let recall = async |more: Value| {
        let mut request = json!({ "id": id, "collection": "wide" });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        world.post("/mcp/recall", request).await
    };
    for (version, content) in [(1, "tea"), (2, "coffee"), (3, "water")] {
        let frame = recall(json!({ "version": version })).await.ok()["frames"][0].clone();
        assert_eq!((&frame["version"], &frame["content"]), (&json!(version), &json!(content)));
        let since = frame["updated_at"].clone();
        let known = recall(json!({ "known_at": since })).await.ok()["frames"][0].clone();
        assert_eq!(known, frame, "from {since} on");
    }
    let never = recall(json!({ "version": 4 })).await;
    assert_eq!(never.code(), "not_found");
    assert!(never.detail().contains("there is no version 4 of frame"), "{}", never.detail());
    let before = recall(json!({ "known_at": "2001-01-01T00:00:00Z" })).await;
    assert_eq!(before.code(), "not_found");
    assert!(before.detail().contains("was known at that time"), "{}", before.detail());
    let missing = json!({ "ids": [id, "01999999-0000-7000-8000-00000000dead"], "collection": "wide" });
    let mut many = missing.clone();
    many["known_at"] = json!("2001-01-01T00:00:00Z");
    assert_eq!(world.post("/mcp/recall", many).await.ok()["missing"], missing["ids"]);
    for wrong in [
        json!({ "version": 1, "known_at": "2027-01-01T00:00:00Z" }),
        json!({ "version": 0 }),
        json!({ "known_at": "then" }),
    ] {
        assert_eq!(recall(wrong).await.code(), "invalid_argument");
    }
}

#[tokio::test]
async fn what_is_forgotten_comes_back_and_what_is_forgotten_now_does_not() {
    let world = World::new().await;
    let id = three_versions(&world).await;
    let forget = json!({ "id": id, "collection": "wide" });
    let restore = json!({ "action": "restore", "id": id, "collection": "wide" });
    let there = world.post("/mcp/change", restore.clone()).await.ok();
    assert_eq!((&there["version"], &there["unchanged"]), (&json!(3), &json!(true)), "it was not forgotten");

    let gone = world.post("/mcp/forget", forget.clone()).await.ok();
    assert_eq!((&gone["removed"], &gone["restorable_until"]), (&json!(1), &json!("2027-01-22T08:00:00.000Z")));
    assert_eq!(world.post("/mcp/recall", forget.clone()).await.code(), "not_found");
    let back = world.post("/mcp/change", restore.clone()).await.ok();
    assert_eq!((&back["id"], &back["version"], back.get("unchanged")), (&id, &json!(4), None));
    assert!(back["consistency_token"].as_str().is_some_and(|token| !token.is_empty()));
    let frame = world.post("/mcp/recall", forget.clone()).await.ok()["frames"][0].clone();
    assert_eq!((&frame["content"], &frame["version"]), (&json!("water"), &json!(4)));

    let now = json!({ "id": id, "collection": "wide", "now": true });
    let gone = world.post("/mcp/forget", now).await.ok();
    assert_eq!((&gone["removed"], gone.get("restorable_until")), (&json!(1), None));
    assert_eq!(world.post("/mcp/change", restore).await.code(), "not_found");
    let nowhere = json!({ "action": "restore", "id": id, "collection": "nowhere" });
    assert_eq!(world.post("/mcp/change", nowhere).await.code(), "not_found");
    let wrong = world.post("/mcp/change", json!({ "action": "undo", "id": id })).await;
    assert_eq!(wrong.code(), "invalid_argument");
}

#[tokio::test]
async fn forgetting_for_good_reaches_the_bin_whatever_it_names() {
    let world = World::new().await;
    world.collection("wide", 4).await;
    let selectors = [
        json!({ "session": "talk" }),
        json!({ "filter": { "field": "type", "eq": "draft" } }),
        json!({ "all": true }),
        json!({ "session": "talk", "shred": true }),
    ];
    for selector in selectors {
        let mut ids = Vec::new();
        for n in 0..8 {
            let item =
                json!({ "content": format!("turn {n}"), "type": "draft", "session": "talk", "collection": "wide" });
            ids.push(world.post("/mcp/store", item).await.ok()["id"].clone());
        }
        let half = json!({ "ids": ids[..4], "collection": "wide" });
        assert_eq!(world.post("/mcp/forget", half).await.ok()["removed"], 4);
        let mut all = selector.clone();
        all["collection"] = json!("wide");
        if selector.get("shred").is_none() {
            all["now"] = json!(true);
        }
        let gone = world.post("/mcp/forget", all).await.ok();
        assert_eq!((&gone["removed"], gone.get("restorable_until")), (&json!(8), None), "{selector}");
        for id in ids {
            let restore = json!({ "action": "restore", "id": id, "collection": "wide" });
            assert_eq!(world.post("/mcp/change", restore).await.code(), "not_found", "{selector}");
        }
    }
}

#[tokio::test]
async fn a_change_that_is_sent_again_is_answered_as_the_first_time() {
    let world = World::new().await;
    let id = three_versions(&world).await;
    let forget = json!({ "id": id, "collection": "wide" });
    let restore = json!({ "action": "restore", "id": id, "collection": "wide" });
    let change = async |key: &str| world.post_with("/mcp/change", restore.clone(), &[("idempotency-key", key)]).await;
    world.post("/mcp/forget", forget.clone()).await.ok();
    (1..=3).for_each(|node| world.fake.fault(node, |faults| faults.lost_answers = 1));
    let first = change("again").await.ok();
    assert_eq!(first["version"], 4, "its answer was lost on the way, and it was sent once more");
    world.post("/mcp/forget", forget.clone()).await.ok();
    let again = change("again").await.ok();
    assert_eq!(again["version"], first["version"]);
    assert_eq!(world.post("/mcp/recall", forget).await.code(), "not_found", "it was forgotten since");
    assert_eq!(change("another").await.ok()["version"], 5);
}

#[tokio::test]
async fn what_a_collection_keeps_is_set_with_it_and_changed_later() {
    let world = World::new().await;
    let put = async |settings: Value| world.request(Method::PUT, "/collections/notes", settings.to_string(), &[]).await;
    let made = put(json!({ "dim": 8 })).await.ok();
    assert_eq!((&made["versions"], &made["bin_days"]), (&json!({ "last": 10, "days": 90 }), &json!(7)));
    let changed = put(json!({ "dim": 8, "versions": { "last": 3 }, "bin_days": 0 })).await.ok();
    assert_eq!((&changed["versions"], &changed["bin_days"]), (&json!({ "last": 3, "days": 90 }), &json!(0)));
    let same = put(json!({ "dim": 8 })).await.ok();
    assert_eq!(
        (&same["versions"], &same["bin_days"]),
        (&json!({ "last": 3, "days": 90 }), &json!(0)),
        "nothing was said"
    );
    assert_eq!(world.get("/collections/notes").await.ok()["versions"]["last"], 3);
    for (wrong, field) in [
        (json!({ "versions": { "last": 101 } }), "versions.last is 101"),
        (json!({ "versions": { "days": 3_651 } }), "versions.days is 3651"),
        (json!({ "bin_days": 3_651 }), "bin_days is 3651"),
        (json!({ "versions": { "first": 1 } }), "first"),
    ] {
        let refused = put(wrong).await;
        assert_eq!(refused.code(), "invalid_argument");
        assert!(refused.detail().contains(field), "{}", refused.detail());
    }
}

#[tokio::test]
async fn models_and_programs_bring_memories_back_too() {
    let world = World::new().await;
    let id = three_versions(&world).await;
    let forget = json!({ "id": id, "collection": "wide" });
    let restore = json!({ "action": "restore", "id": id, "collection": "wide" });
    let forgotten = mcp::call(&world, "forget", forget).await;
    let text = forgotten["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("Removed 1 memory.") && text.contains("2027-01-22T08:00:00.000Z"), "{text}");
    let back = mcp::call(&world, "change", restore).await;
    assert_eq!(back["structuredContent"]["version"], 4);
    let text = back["content"][0]["text"].as_str().unwrap();
    assert!(text.ends_with("is there again, version 4."), "{text}");

    let mut client = client(&world).await;
    let id = id.as_str().unwrap().to_owned();
    let forget = v1::ForgetRequest { ids: vec![id.clone()], collection: "wide".into(), ..Default::default() };
    let gone = client.forget(authorized(forget.clone())).await.unwrap().into_inner();
    assert_eq!((gone.removed, &*gone.restorable_until), (1, "2027-01-22T08:00:00.000Z"));
    let change = |action: &str| v1::ChangeRequest {
        action: action.into(),
        id: id.clone(),
        collection: "wide".into(),
        ..Default::default()
    };
    let back = client.change(authorized(change("restore"))).await.unwrap().into_inner();
    assert_eq!((back.id, back.version, back.unchanged), (id.clone(), 5, false));
    let wrong = client.change(authorized(change("undo"))).await.expect_err("refused");
    assert_eq!(wrong.code(), tonic::Code::InvalidArgument);
    let wrong = client.change(authorized(change(""))).await.expect_err("refused");
    assert!(wrong.message().contains("action is missing"), "{wrong}");
    let recall = |version| v1::RecallRequest {
        ids: vec![id.clone()],
        version: Some(version),
        collection: "wide".into(),
        ..Default::default()
    };
    let first = client.recall(authorized(recall(1))).await.unwrap().into_inner();
    assert_eq!(first.frames[0].content.as_deref(), Some("tea"));
    let now = v1::ForgetRequest { now: true, ..forget };
    assert_eq!(client.forget(authorized(now)).await.unwrap().into_inner().restorable_until, "");
    assert_eq!(client.change(authorized(change("restore"))).await.expect_err("gone").code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn all_that_one_forget_removed_comes_back_by_one_request() {
    let world = World::new().await;
    world.collection("wide", 4).await;
    let drafts = json!({ "filter": { "field": "type", "eq": "draft" } });
    for selector in [json!({ "session": "talk" }), drafts, json!({ "all": true })] {
        let item = |n: usize| {
            json!({ "content": format!("turn {n} of {selector}"), "type": "draft", "session": "talk",
            "collection": "wide" })
        };
        let items: Vec<Value> = (0..20).map(item).collect();
        world.post("/mcp/store", json!({ "items": items })).await.ok();
        let mut forget = selector.clone();
        forget["collection"] = json!("wide");
        let mut restore = forget.clone();
        restore["action"] = json!("restore");
        let gone = world.post("/mcp/forget", forget.clone()).await.ok();
        let (count, mut ids) = (gone["removed"].clone(), gone["ids"].clone());
        assert_eq!(world.fake.frame_count(), 0);
        let key = format!("key of {selector}");
        let key = [("idempotency-key", key.as_str())];
        let back = world.post_with("/mcp/change", restore.clone(), &key).await.ok();
        ids.as_array_mut().unwrap().sort_by_key(Value::to_string);
        assert_eq!((&back["restored"], &back["ids"], back.get("id")), (&count, &ids, None), "{selector}");
        assert_eq!(world.fake.frame_count(), ids.as_array().unwrap().len());
        assert_eq!(world.post("/mcp/change", restore.clone()).await.ok()["restored"], 0, "nothing rests any more");
        // What was forgotten since stays in the bin when the request comes again.
        world.post("/mcp/forget", forget.clone()).await.ok();
        world.post_with("/mcp/change", restore, &key).await.ok();
        assert_eq!(world.fake.frame_count(), 0);
        forget["now"] = json!(true);
        world.post("/mcp/forget", forget).await.ok();
    }
    for wrong in [json!({ "action": "restore" }), json!({ "action": "restore", "all": true, "session": "s" })] {
        assert_eq!(world.post("/mcp/change", wrong).await.code(), "invalid_argument");
    }
}

#[tokio::test]
async fn an_id_that_was_stored_again_says_what_of_it_was_forgotten() {
    let world = World::new().await;
    let id = three_versions(&world).await;
    let one = json!({ "id": id, "collection": "wide" });
    world.post("/mcp/forget", one.clone()).await.ok();
    let again = json!({ "id": id, "content": "milk", "collection": "wide" });
    assert_eq!(world.post("/mcp/store", again).await.ok()["version"], 4);
    let restore = json!({ "action": "restore", "id": id, "collection": "wide" });
    let said = world.post("/mcp/change", restore.clone()).await.ok();
    assert_eq!((&said["version"], &said["unchanged"]), (&json!(4), &json!(true)));
    assert_eq!(said["forgotten_versions"], json!([3]));
    let text = mcp::call(&world, "change", restore).await["content"][0]["text"].to_string();
    assert!(text.contains("version 3"), "{text}");
    let past = world.post("/mcp/recall", json!({ "id": id, "version": 3, "collection": "wide" })).await.ok();
    assert_eq!(past["frames"][0]["content"], "water");
}
