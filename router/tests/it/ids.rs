//! Ids that a router makes: where they place a session's frames, what gives the same again, and what they hide.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::http::Method;
use mira_proto::placement::Partitioning;
use mira_proto::v1;
use mira_proto::v1::memory_client::MemoryClient;
use mira_router::AccessToken;
use mira_testing::eventually;
use serde_json::{Value, json};
use tonic::metadata::MetadataMap;

use crate::client::{World, config};
use crate::errors::authorized;
use crate::mcp;

const OWNER: (&str, &str) = ("x-mira-owner-key", mira_testing::keys::KEY);
const OTHER_OWNER: (&str, &str) = ("x-mira-owner-key", "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=");
/// Partitions of the collection before and after it has grown.
const FROM: u32 = 2;
const TO: u32 = 4;

/// A frame of the session `s`.
fn item(content: &str, private: bool) -> Value {
    json!({ "content": content, "session": "s", "collection": "wide", "private": private })
}

fn grpc_item(content: &str, private: bool) -> v1::StoreRequest {
    v1::StoreRequest {
        content: Some(content.into()),
        session: "s".into(),
        collection: "wide".into(),
        private,
        ..Default::default()
    }
}

fn with(mut item: Value, more: Value) -> Value {
    item.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    item
}

fn ids_of(reply: &Value) -> Vec<String> {
    let items = reply["items"].as_array().unwrap();
    items.iter().map(|item| item["id"].as_str().unwrap_or_else(|| panic!("{item}")).to_owned()).collect()
}

fn shard_of(places: &Partitioning, id: &str) -> u32 {
    places.shard_of(id.parse::<uuid::Uuid>().unwrap().as_u128())
}

impl World {
    /// Stores one item over REST; its id.
    async fn store_one(&self, item: Value, headers: &[(&str, &str)]) -> String {
        self.post_with("/mcp/store", item, headers).await.ok()["id"].as_str().unwrap().to_owned()
    }

    /// Stores a frame of the session in every way that there is, three of each.
    async fn store_in_every_way(&self, turn: &str, private: bool) -> Vec<String> {
        let key = format!("{turn} {private}");
        let item = |content: &str| item(&format!("{turn}: {content}"), private);
        let mut ids = Vec::new();
        for n in 0..3 {
            ids.push(self.store_one(item(&format!("one {n}")), &[OWNER]).await);
            let keyed = format!("{key} {n}");
            ids.push(self.store_one(item(&format!("keyed {n}")), &[OWNER, ("idempotency-key", &keyed)]).await);
            let named = with(item(&format!("named {n}")), json!({ "source_key": format!("{turn} {n}") }));
            ids.push(self.store_one(named, &[OWNER]).await);
            ids.push(self.upload(&item(&format!("upload {n}"))).await);
        }
        let batch = |way: &str| json!({ "items": (0..3).map(|n| item(&format!("{way} {n}"))).collect::<Vec<_>>() });
        ids.extend(ids_of(&self.post_with("/mcp/store", batch("batch"), &[OWNER]).await.ok()));
        let keyed = [OWNER, ("idempotency-key", &*key)];
        ids.extend(ids_of(&self.post_with("/mcp/store", batch("keyed batch"), &keyed).await.ok()));
        if !private {
            ids.extend(ids_of(&mcp::call(self, "store", batch("mcp")).await["structuredContent"]));
        }
        ids.extend(self.store_over_grpc(turn, private).await);
        ids
    }

    async fn upload(&self, frame: &Value) -> String {
        let begun = self.post_with("/collections/wide/uploads", json!({ "frame": frame }), &[OWNER]).await.json();
        let upload = format!("/collections/wide/uploads/{}", begun["upload"].as_str().unwrap());
        self.request(Method::PATCH, &upload, "bytes", &[OWNER, ("upload-offset", "0")]).await.ok();
        let done = self.post_with(&format!("{upload}/finish"), json!({}), &[OWNER]).await.ok();
        done["stored"]["id"].as_str().unwrap().to_owned()
    }

    async fn store_over_grpc(&self, turn: &str, private: bool) -> Vec<String> {
        let mut client = MemoryClient::connect(format!("http://{}", self.router.grpc_addr)).await.unwrap();
        let item = |content: &str| grpc_item(&format!("{turn}: grpc {content}"), private);
        let owned = |metadata: &mut MetadataMap| metadata.insert(OWNER.0, OWNER.1.parse().unwrap());
        let mut one = authorized(item("one"));
        owned(one.metadata_mut());
        let mut ids = vec![client.store(one).await.unwrap().into_inner().id];
        let mut batch = authorized(v1::StoreBatchRequest { items: vec![item("a"), item("b")] });
        owned(batch.metadata_mut());
        let replies = client.store_batch(batch).await.unwrap().into_inner().items;
        for key in [None, Some(format!("{turn} {private} stream"))] {
            let items: Vec<_> = (0..5).map(|n| item(&format!("stream {n} {}", key.is_some()))).collect();
            let mut stream = authorized(tokio_stream::iter(items));
            owned(stream.metadata_mut());
            if let Some(key) = key {
                stream.metadata_mut().insert("idempotency-key", key.parse().unwrap());
            }
            let answers = client.ingest(stream).await.unwrap().into_inner();
            let answers: Vec<v1::ItemReply> = tokio_stream::StreamExt::collect::<Result<_, _>>(answers).await.unwrap();
            ids.extend(answers.into_iter().map(|reply| reply.id));
        }
        ids.extend(replies.into_iter().map(|reply| reply.id));
        ids
    }

    fn places(&self) -> Partitioning {
        Partitioning::new(self.fake.shards_of("wide"))
    }

    async fn embedded_texts(&self) -> u64 {
        let metrics = self.get("/metrics").await.text;
        let line =
            metrics.lines().find(|line| line.starts_with("mira_router_embedded_texts_total ")).expect("a metric");
        line.split_whitespace().last().unwrap().parse().unwrap()
    }
}

/// The one shard of all these frames.
#[track_caller]
fn one_shard(places: &Partitioning, ids: &[String]) -> u32 {
    let shards: BTreeSet<u32> = ids.iter().map(|id| shard_of(places, id)).collect();
    assert_eq!(shards.len(), 1, "{ids:?}");
    *shards.first().unwrap()
}

#[tokio::test]
async fn a_session_lies_in_one_partition_however_its_frames_are_stored_and_while_the_collection_grows() {
    let world = World::new().await;
    world.collection("wide", FROM).await;
    let mut plain = world.store_in_every_way("before", false).await;
    let mut private = world.store_in_every_way("before", true).await;
    let before = world.places();
    let homes = [one_shard(&before, &plain), one_shard(&before, &private)];
    world.fake.begin_migration("wide", TO);
    for source in before.shards().to_vec() {
        for target in world.fake.sources_and_targets("wide").1 {
            world.fake.hand_over("wide", source, target);
        }
    }
    plain.extend(world.store_in_every_way("while it moves", false).await);
    private.extend(world.store_in_every_way("while it moves", true).await);
    assert_eq!([one_shard(&before, &plain), one_shard(&before, &private)], homes);
    let (sources, targets) = world.fake.sources_and_targets("wide");
    let after = Partitioning::new(sources.into_iter().chain(targets).collect());
    assert_eq!(after.shards().len(), TO as usize);
    for (ids, owner) in [(plain, &[][..]), (private, &[OWNER][..])] {
        let shard = one_shard(&after, &ids);
        assert_eq!(BTreeSet::from_iter(&ids).len(), ids.len(), "each frame has an id of its own");
        let ask = json!({ "ids": ids, "collection": "wide" });
        let recalled = world.post_with("/mcp/recall", ask, owner).await.ok();
        assert_eq!(recalled["frames"].as_array().unwrap().len(), ids.len(), "all are there, in shard {shard}");
    }
}

#[tokio::test]
async fn sessions_spread_over_all_partitions() {
    let world = World::new().await;
    world.collection("wide", TO).await;
    let item = |n: u32| json!({ "content": "x", "session": format!("session {n}"), "collection": "wide" });
    let stored = world.post("/mcp/store", json!({ "items": (0..200).map(item).collect::<Vec<_>>() })).await.ok();
    let places = world.places();
    let mut counts = [0; TO as usize];
    for id in ids_of(&stored) {
        let shard = shard_of(&places, &id);
        counts[places.shards().iter().position(|found| *found == shard).unwrap()] += 1;
    }
    assert!(counts.iter().all(|count| (20..=100).contains(count)), "{counts:?}");
}

#[tokio::test]
async fn any_router_makes_the_same_ids_of_what_is_sent_again() {
    let world = World::new().await;
    world.collection("wide", TO).await;
    let key = [OWNER, ("idempotency-key", "k")];
    let mut made: Vec<Vec<String>> = Vec::new();
    let again = config(&world.fake);
    let mut world = Some(world);
    for again in [None, Some(again)] {
        let at = match (world.take().unwrap(), again) {
            (world, None) => world,
            (world, Some(config)) => world.with_router(config).await,
        };
        let mut ids = Vec::new();
        for private in [false, true] {
            let item = |content: &str| item(content, private);
            ids.push(at.store_one(item("keyed"), &key).await);
            ids.push(at.store_one(with(item("named"), json!({ "source_key": "notes/1.md" })), &[OWNER]).await);
            let batch = json!({ "items": [item("a"), item("b")] });
            ids.extend(ids_of(&at.post_with("/mcp/store", batch, &[OWNER, ("idempotency-key", "batch")]).await.ok()));
            let begin = json!({ "frame": item("upload") });
            let begun = at.post_with("/collections/wide/uploads", begin, &key).await.json();
            ids.push(begun["upload"].as_str().unwrap().to_owned());
        }
        made.push(ids);
        world = Some(at);
    }
    assert_eq!(made[0], made[1]);
    assert_eq!(BTreeSet::from_iter(&made[0]).len(), made[0].len());
}

#[tokio::test]
async fn another_collection_session_or_owner_gives_another_id() {
    let world = World::with(|config| config.tokens.push(AccessToken::new("bob", "another token"))).await;
    world.collection("wide", 1).await;
    world.collection("other", 1).await;
    let bob = ("authorization", "Bearer another token");
    for (name, by_key) in [("idempotency-key", true), ("source_key", false)] {
        let store = async |more: Value, headers: &[(&str, &str)]| {
            let item = with(with(item("x", false), json!({ "metadata": { "by": name } })), more);
            if by_key {
                let headers: Vec<_> = headers.iter().copied().chain([(name, "k")]).collect();
                return world.store_one(item, &headers).await;
            }
            world.store_one(with(item, json!({ "source_key": "k" })), headers).await
        };
        let first = store(json!({}), &[]).await;
        assert_eq!(store(json!({}), &[]).await, first);
        // A key of a request is its principal's; what a record is called in its source is nobody's.
        assert_eq!(store(json!({}), &[bob]).await == first, !by_key, "{name}");
        let private = json!({ "private": true });
        let mut all = vec![
            first,
            store(json!({ "collection": "other" }), &[]).await,
            store(json!({ "session": "t" }), &[]).await,
            store(json!({ "session": null }), &[]).await,
            store(private.clone(), &[OWNER]).await,
            store(private, &[OTHER_OWNER]).await,
        ];
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 6, "{name}: {all:?}");
        // No part of an id that could be compared with a guess stays the same without the key.
        for bits in [0..64, 64..96, 96..128] {
            let parts: BTreeSet<u128> = all.iter().map(|id| part(id, bits.clone())).collect();
            // The same key in another session differs in the bits of the session alone.
            assert!(parts.len() >= 4, "{name} {bits:?}: {all:?}");
        }
    }
}

/// Bits of an id from the front, but for version and variant.
fn part(id: &str, bits: std::ops::Range<u32>) -> u128 {
    let id = id.parse::<uuid::Uuid>().unwrap().as_u128() & !(0xf << 76) & !(0b11 << 62);
    id << bits.start >> (128 - bits.end + bits.start)
}

#[tokio::test]
async fn what_is_there_is_told_from_its_source_key_and_not_embedded_again() {
    let world = World::new().await;
    world.collection("wide", TO).await;
    for (private, session) in [(false, "s"), (true, "s"), (false, "t")] {
        let record = |n: u32, more: Value| {
            let content = format!("text {n} {session} {private}");
            with(with(item(&content, private), json!({ "source_key": n.to_string(), "session": session })), more)
        };
        let batch = |more: &Value| json!({ "items": (0..50).map(|n| record(n, more.clone())).collect::<Vec<_>>() });
        let store = async |more: Value| world.post_with("/mcp/store", batch(&more), &[OWNER]).await.ok();
        let before = world.embedded_texts().await;
        let first = store(json!({})).await;
        assert_eq!(world.embedded_texts().await - before, 50);
        let frames = world.fake.frame_count();
        let again = store(json!({})).await;
        let items = again["items"].as_array().unwrap();
        assert!(items.iter().all(|item| item["unchanged"] == true && item["version"] == 1), "{again}");
        assert_eq!(ids_of(&again), ids_of(&first));
        let other = store(json!({ "role": "user" })).await;
        let codes = other["items"].as_array().unwrap().iter().map(|item| item["error"]["code"].to_string());
        assert_eq!(codes.collect::<BTreeSet<_>>(), ["\"conflict\"".to_owned()].into());
        assert_eq!(world.embedded_texts().await - before, 50, "nothing was embedded again");
        assert_eq!(world.fake.frame_count(), frames);

        let replaced = store(json!({ "role": "user", "replace": true })).await;
        assert!(replaced["items"].as_array().unwrap().iter().all(|item| item["version"] == 2), "{replaced}");
        assert_eq!((ids_of(&replaced), world.fake.frame_count()), (ids_of(&first), frames));
    }
}

#[tokio::test]
async fn a_record_that_brings_its_vector_is_told_from_its_source_key_by_its_shard() {
    let world = World::new().await;
    let vector: Vec<f32> = (0..crate::client::DIM).map(|n| n as f32 + 1.0).collect();
    let record = json!({ "content": "x", "source_key": "a", "vector": vector });
    let first = world.post("/mcp/store", record.clone()).await.ok();
    let again = world.post("/mcp/store", record).await.ok();
    assert_eq!((&again["id"], &again["unchanged"], first.get("unchanged")), (&first["id"], &json!(true), None));
    assert_eq!((world.fake.frame_count(), world.embedded_texts().await), (1, 0));
}

#[tokio::test]
async fn a_frame_has_one_name() {
    let world = World::new().await;
    let id = "01999999-0000-7000-8000-000000000001";
    for (more, words) in [
        (json!({ "id": id, "source_key": "a" }), "id and source_key are both given"),
        (json!({ "source_key": "" }), "source_key is empty"),
        (json!({ "replace": true }), "replace needs the id or source_key"),
        (json!({ "expected_version": 1 }), "expected_version needs the id or source_key"),
    ] {
        let answer = world.post("/mcp/store", with(json!({ "content": "x" }), more)).await;
        assert_eq!(answer.code(), "invalid_argument");
        assert!(answer.detail().contains(words), "{}", answer.detail());
    }
    let long = json!({ "content": "x", "source_key": "k".repeat(mira_proto::limits::MAX_SOURCE_KEY_BYTES + 1) });
    assert_eq!(world.post("/mcp/store", long).await.code(), "too_large");
    let (mut client, both) = (
        MemoryClient::connect(format!("http://{}", world.router.grpc_addr)).await.unwrap(),
        v1::StoreRequest { id: id.into(), source_key: "a".into(), ..grpc_item("x", false) },
    );
    assert_eq!(client.store(authorized(both)).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    let named = v1::StoreRequest { source_key: "a".into(), ..grpc_item("x", false) };
    let first = client.store(authorized(named.clone())).await.unwrap().into_inner();
    let again = client.store(authorized(named)).await.unwrap().into_inner();
    assert_eq!((&again.id, again.unchanged, first.unchanged), (&first.id, true, false));
}

#[tokio::test]
async fn an_upload_may_be_named_by_its_source_too() {
    let world = World::new().await;
    world.collection("wide", TO).await;
    let frame = |content: &str| with(item(content, false), json!({ "source_key": "files/1" }));
    let first = world.upload(&frame("the minutes")).await;
    assert_eq!(world.upload(&frame("the minutes")).await, first);
    assert_eq!(world.store_one(with(frame("new"), json!({ "replace": true })), &[]).await, first);
}

#[tokio::test]
async fn a_stream_that_is_cut_elsewhere_makes_the_same_ids_though_items_cannot_be_read() {
    let world = World::new().await;
    let mut client = MemoryClient::connect(format!("http://{}", world.router.grpc_addr)).await.unwrap();
    let mut made = Vec::new();
    for pause in [None, Some(Duration::from_millis(20))] {
        let items = (0..9).map(|n| v1::StoreRequest {
            metadata_json: if n == 3 { "{" } else { "" }.into(),
            ..grpc_item(&format!("item {n}"), false)
        });
        let items: Vec<_> = items.collect();
        let stream = futures::stream::unfold(items.into_iter(), move |mut items| async move {
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            items.next().map(|item| (item, items))
        });
        let mut request = authorized(stream);
        request.metadata_mut().insert("idempotency-key", "stream".parse().unwrap());
        let answers = client.ingest(request).await.unwrap().into_inner();
        let answers: Vec<v1::ItemReply> = tokio_stream::StreamExt::collect::<Result<_, _>>(answers).await.unwrap();
        assert!(answers[3].problem.is_some() && answers.iter().filter(|answer| answer.problem.is_some()).count() == 1);
        made.push(answers.into_iter().map(|answer| answer.id).collect::<Vec<_>>());
    }
    assert_eq!(made[0], made[1]);
    assert_eq!(world.fake.frame_count(), 8);
}

#[tokio::test]
async fn without_a_placement_key_a_router_makes_no_ids() {
    let world = World::new().await;
    world.collection("wide", TO).await;
    world.fake.withhold_placement_keys();
    eventually("the router has the map without keys", Duration::from_secs(10), async || {
        world.post("/mcp/store", item("x", false)).await.status.is_server_error()
    })
    .await;
    let answer = world.post("/mcp/store", item("x", false)).await;
    assert_eq!(answer.code(), "unavailable");
    assert!(answer.detail().contains("no placement key of collection \"wide\""), "{}", answer.detail());
}
