//! Filters in a shard: the same frames as a model finds, through stores, replacements, removals and restarts.

use std::collections::BTreeMap;

use mira_proto::{Code, Refusal, node_v1};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::common::{EAST, Shard, frame, number, start};

/// What the model knows of a frame.
#[derive(Clone)]
struct Kept {
    vector: [f32; 4],
    kind: &'static str,
    session: String,
    metadata: Value,
}

const KINDS: [&str; 3] = ["note", "insight", "code"];

impl Kept {
    fn random(random: &mut StdRng) -> Kept {
        let n = random.random_range(0..20);
        let tags: Vec<&str> = ["red", "green", "blue"].into_iter().filter(|_| random.random_bool(0.4)).collect();
        let mut metadata = json!({ "n": n, "tags": tags, "deep": { "half": f64::from(n) / 2.0 } });
        if random.random_bool(0.3) {
            metadata["done"] = random.random_bool(0.5).into();
        }
        if random.random_bool(0.05) {
            // Too long to be indexed: the shard opens such a frame to know.
            metadata["long"] = format!("{n}{}", "x".repeat(400)).into();
        }
        Kept {
            vector: std::array::from_fn(|_| random.random_range(-1.0..1.0)),
            kind: KINDS[random.random_range(0..3)],
            session: if random.random_bool(0.5) { format!("s{}", random.random_range(0..4)) } else { String::new() },
            metadata,
        }
    }

    fn write(&self, id: u128) -> node_v1::FrameWrite {
        node_v1::FrameWrite {
            replace: true,
            r#type: self.kind.into(),
            session: self.session.clone(),
            metadata_json: self.metadata.to_string(),
            ..frame(id, &format!("frame {id} {}", self.metadata), self.vector)
        }
    }

    fn n(&self) -> i64 {
        self.metadata["n"].as_i64().unwrap()
    }

    fn has(&self, tag: &str) -> bool {
        self.metadata["tags"].as_array().unwrap().iter().any(|have| have == tag)
    }
}

type Matches = fn(&Kept) -> bool;

/// Filters and what they mean.
fn filters() -> Vec<(Value, Matches)> {
    vec![
        (json!({ "field": "type", "eq": "note" }), |kept| kept.kind == "note"),
        (json!({ "field": "session", "prefix": "s" }), |kept| !kept.session.is_empty()),
        (json!({ "field": "session", "exists": false }), |kept| kept.session.is_empty()),
        (json!({ "field": "metadata.n", "gte": 5, "lt": 12.5 }), |kept| (5..=12).contains(&kept.n())),
        (json!({ "field": "metadata.n", "eq": "5" }), |_| false),
        (json!({ "field": "metadata.deep.half", "in": [0.5, 1, 9] }), |kept| [1, 2, 18].contains(&kept.n())),
        (json!({ "field": "metadata.tags", "eq": "red" }), |kept| kept.has("red")),
        (json!({ "field": "metadata.absent", "exists": true }), |_| false),
        (json!({ "not": { "field": "metadata.absent", "exists": true } }), |_| true),
        (json!({ "field": "metadata.long", "exists": true }), |kept| kept.metadata.get("long").is_some()),
        (json!({ "field": "metadata.long", "prefix": "1" }), |kept| {
            kept.metadata.get("long").is_some_and(|long| long.as_str().unwrap().starts_with('1'))
        }),
        (
            json!({ "and": [
                { "field": "type", "in": ["insight", "code"] },
                { "or": [{ "field": "metadata.tags", "eq": "blue" }, { "field": "metadata.done", "eq": true }] },
                { "not": { "field": "metadata.n", "lt": 3 } },
                { "field": "created_at", "gte": "2020-01-01T00:00:00Z" },
            ] }),
            |kept| kept.kind != "note" && (kept.has("blue") || kept.metadata["done"] == true) && kept.n() >= 3,
        ),
        (
            json!({ "or": [
                { "field": "created_at", "lt": "2020-01-01T00:00:00Z" },
                { "field": "metadata.done", "exists": true },
            ] }),
            |kept| kept.metadata.get("done").is_some(),
        ),
        (json!({ "field": "created_at", "lt": "2020-01-01T00:00:00Z" }), |_| false),
    ]
}

async fn search(shard: &Shard, vector: [f32; 4], k: u32, filter: &Value) -> Result<node_v1::SearchReply, Refusal> {
    let request = node_v1::SearchRequest {
        header: Some(node_v1::ReadHeader {
            epoch: shard.epoch,
            shard: shard.shard,
            collection: shard.collection,
            ..Default::default()
        }),
        vector: vector.to_vec(),
        k,
        filter_json: filter.to_string(),
        explain: true,
        ..Default::default()
    };
    Ok(shard.client.clone().shards().search(request).await?.into_inner())
}

/// Cosine of two vectors.
fn cosine(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let dot = |a: &[f32; 4], b: &[f32; 4]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

async fn check(shard: &Shard, model: &BTreeMap<u128, Kept>, random: &mut StdRng) {
    for (filter, matches) in filters() {
        let query: [f32; 4] = std::array::from_fn(|_| random.random_range(-1.0..1.0));
        let mut expected: Vec<(u128, f32)> = model
            .iter()
            .filter(|(_, kept)| matches(kept))
            .map(|(id, kept)| (*id, cosine(&query, &kept.vector)))
            .collect();
        expected.sort_by(|a, b| b.1.total_cmp(&a.1));
        // All that match: how many documents there are says whether one is missed or one too many is found.
        let reply = search(shard, query, 1_000, &filter).await.unwrap();
        let mut found: Vec<u128> = reply.hits.iter().map(|hit| number(&hit.id)).collect();
        let scores = reply.hits.iter().zip(&expected);
        assert!(scores.clone().all(|(hit, (_, score))| (hit.score - score).abs() < 2e-3), "{filter}");
        found.sort_unstable();
        let mut ids: Vec<u128> = expected.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        assert_eq!(found, ids, "{filter}");
        // And the first of them are the best.
        let best = search(shard, query, 5, &filter).await.unwrap();
        assert_eq!(best.hits.len(), expected.len().min(5), "{filter}");
        assert!(best.hits.iter().zip(&expected).all(|(hit, (_, score))| (hit.score - score).abs() < 2e-3));
        let explain = best.explain.unwrap();
        assert!(explain.plan() != node_v1::SearchPlan::Unspecified || best.searched == best.tail, "{explain:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_find_what_the_model_finds_whatever_happened() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(5);
    let mut model: BTreeMap<u128, Kept> = BTreeMap::new();
    for round in 0..3 {
        let (node, client) = start(folder.path()).await;
        let shard = Shard::new(client, "c").await;
        check(&shard, &model, &mut random).await;
        for _ in 0..6 {
            let writes: BTreeMap<u128, Kept> =
                (0..60).map(|_| (random.random_range(1..300), Kept::random(&mut random))).collect();
            shard.write(writes.iter().map(|(id, kept)| kept.write(*id)).collect()).await.unwrap();
            model.extend(writes);
            let gone: Vec<u128> = (0..15).map(|_| random.random_range(1..300)).collect();
            let ids = gone.iter().map(|id| id.to_be_bytes().to_vec().into()).collect();
            shard.forget(node_v1::ForgetRequest { ids, ..Default::default() }).await;
            model.retain(|id, _| !gone.contains(id));
            check(&shard, &model, &mut random).await;
        }
        // By filter: exactly those.
        let filter = json!({ "and": [{ "field": "metadata.n", "eq": round }, { "field": "type", "eq": "code" }] });
        let removed = forget(&shard, &filter).await;
        let is_meant = |kept: &Kept| kept.n() == round && kept.kind == "code";
        let expected: Vec<u128> = model.iter().filter(|(_, kept)| is_meant(kept)).map(|(id, _)| *id).collect();
        assert_eq!(removed, expected);
        model.retain(|_, kept| !is_meant(kept));
        check(&shard, &model, &mut random).await;
        node.shutdown().await;
    }
}

/// Removes by filter, step by step.
async fn forget(shard: &Shard, filter: &Value) -> Vec<u128> {
    let (mut after, mut removed) = (bytes::Bytes::new(), Vec::new());
    loop {
        let request = node_v1::ForgetRequest {
            header: Some(node_v1::WriteHeader {
                epoch: shard.epoch,
                shard: shard.shard,
                collection: shard.collection,
                request_id: rand::random::<u128>().to_be_bytes().to_vec().into(),
                ..Default::default()
            }),
            filter_json: filter.to_string(),
            after,
            ..Default::default()
        };
        let reply = shard.client.clone().shards().forget(request).await.unwrap().into_inner();
        removed.extend(reply.removed.iter().map(|id| number(id)));
        if !reply.more {
            return removed;
        }
        after = reply.next;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_sets_are_forgotten_in_steps() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    for chunk in (1..=2_500u128).collect::<Vec<_>>().chunks(100) {
        let frames = chunk.iter().map(|id| node_v1::FrameWrite {
            metadata_json: json!({ "even": id.is_multiple_of(2) }).to_string(),
            ..frame(*id, &format!("frame {id}"), EAST)
        });
        shard.write(frames.collect()).await.unwrap();
    }
    let removed = forget(&shard, &json!({ "field": "metadata.even", "eq": true })).await;
    assert_eq!(removed.len(), 1_250, "more than one step takes");
    let left = search(&shard, EAST, 1_000, &json!({ "field": "metadata.even", "eq": true })).await.unwrap();
    assert_eq!(left.hits.len(), 0);
    assert_eq!(forget(&shard, &json!({ "field": "metadata.even", "exists": true })).await.len(), 1_250);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_checks_filters_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    shard.one(frame(1, "a", EAST)).await.unwrap();
    let deep = (0..20).fold(json!({ "field": "type", "eq": "x" }), |inner, _| json!({ "not": inner }));
    for (filter, code) in [
        (json!({ "field": "color", "eq": 1 }), Code::InvalidArgument),
        (json!({ "field": "type", "eq": 1 }), Code::InvalidArgument),
        (json!([1]), Code::InvalidArgument),
        (deep, Code::TooLarge),
    ] {
        let refused = search(&shard, EAST, 1, &filter).await.unwrap_err();
        assert!(matches!(&refused, Refusal::Problem(problem) if problem.code == code), "{filter}: {refused:?}");
    }
    let unknown = search(&shard, EAST, 1, &json!({ "field": "metadata.colour", "eq": 1 })).await.unwrap();
    assert_eq!(unknown.hits, []);
    node.shutdown().await;
}

/// Attributes come back with the image of an index, and those of frames that changed since from the frames.
#[tokio::test(flavor = "multi_thread")]
async fn filters_survive_a_restart_from_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    let write = |id: u128, third: u128| node_v1::FrameWrite {
        replace: true,
        metadata_json: json!({ "third": third as u64, "name": format!("frame {id}") }).to_string(),
        ..frame(id, &format!("frame {id}, {third}"), [(id as f32 * 0.01).cos(), (id as f32 * 0.01).sin(), 0.1, 0.0])
    };
    for chunk in (1..=3_000u128).collect::<Vec<_>>().chunks(100) {
        shard.write(chunk.iter().map(|id| write(*id, id % 3)).collect()).await.unwrap();
    }
    node.shutdown().await;

    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    let from_images: u64 = node.node().shards().iter().map(|(_, open)| open.index().stats().from_images).sum();
    assert_eq!(from_images, 3_000, "nothing was built from frames");
    let of = async |third: u64| {
        let reply = search(&shard, EAST, 1_000, &json!({ "field": "metadata.third", "eq": third })).await.unwrap();
        (reply.hits.iter().map(|hit| number(&hit.id)).collect::<Vec<_>>(), reply.explain.unwrap())
    };
    let (found, explain) = of(1).await;
    assert_eq!(found.len(), 1_000);
    assert!(found.iter().all(|id| id % 3 == 1));
    assert_eq!(explain.matching, 1_000);
    shard.write((1..=90u128).map(|id| write(id, (id + 1) % 3)).collect()).await.unwrap();
    let (found, _) = of(1).await;
    assert!(found.iter().all(|id| if *id <= 90 { id % 3 == 0 } else { id % 3 == 1 }), "{found:?}");
    let named = json!({ "field": "metadata.name", "in": ["frame 7", "frame 2999", "frame 3001"] });
    let mut found: Vec<u128> =
        search(&shard, EAST, 10, &named).await.unwrap().hits.iter().map(|hit| number(&hit.id)).collect();
    found.sort_unstable();
    assert_eq!(found, [7, 2_999]);
    node.shutdown().await;
}

/// What a search says of the types of the values that its filter's fields hold.
async fn types_found(shard: &Shard, filter: &Value) -> BTreeMap<String, u32> {
    let reply = search(shard, EAST, 1, filter).await.unwrap();
    let known = reply.field_types.expect("it says what it knows").fields.into_iter();
    known.map(|node_v1::FieldTypes { field, types }| (field, types)).collect()
}

/// The same from the question that `forget` asks.
async fn types_asked(shard: &Shard, filter: &Value, walk: bool) -> BTreeMap<String, u32> {
    let (mut after, mut all) = (bytes::Bytes::new(), BTreeMap::new());
    loop {
        let request = node_v1::FieldTypesRequest {
            header: Some(node_v1::ReadHeader {
                epoch: shard.epoch,
                shard: shard.shard,
                collection: shard.collection,
                ..Default::default()
            }),
            filter_json: filter.to_string(),
            walk,
            after,
        };
        let reply = shard.client.clone().shards().field_types(request).await.unwrap().into_inner();
        for node_v1::FieldTypes { field, types } in reply.field_types.expect("the index is there").fields {
            *all.entry(field).or_default() |= types;
        }
        if !reply.more {
            return all;
        }
        after = reply.next;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_says_what_types_its_fields_hold() {
    const NUMBER: u32 = 2;
    const TEXT: u32 = 4;
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    let write = |id: u128, metadata: Value| node_v1::FrameWrite {
        replace: true,
        metadata_json: metadata.to_string(),
        ..frame(id, &format!("frame {id} {metadata}"), EAST)
    };
    let is_x = json!({ "field": "metadata.n", "eq": "x" });
    let both =
        json!({ "and": [is_x, { "field": "metadata.long", "eq": 5 }, { "field": "metadata.no", "exists": true }] });
    assert_eq!(types_found(&shard, &both).await, BTreeMap::new(), "nothing is known of nothing");
    let long = "x".repeat(500);
    let frames = (1..=600u128).map(|id| write(id, json!({ "n": id as u64, "long": long }))).collect::<Vec<_>>();
    for frames in frames.chunks(100) {
        shard.write(frames.to_vec()).await.unwrap();
        // In the tail, in the index, or some here and some there.
        let known = [("metadata.long".to_owned(), TEXT), ("metadata.n".to_owned(), NUMBER)].into();
        assert_eq!(types_found(&shard, &both).await, known);
    }
    // One frame with another type, found as soon as it is stored, though it lies beyond the time that is asked for.
    shard.one(write(601, json!({ "n": "x" }))).await.unwrap();
    let old = json!({ "and": [is_x, { "field": "created_at", "lt": "2001-01-01T00:00:00Z" }] });
    assert!(types_found(&shard, &old).await["metadata.n"] & TEXT == TEXT);
    // One without a vector is in no index, but a walk finds it; a private one says nothing to a node.
    let bare = node_v1::FrameWrite { passages: Vec::new(), vector_given: false, ..write(602, json!({ "m": true })) };
    shard.one(bare).await.unwrap();
    let m = json!({ "field": "metadata.m", "eq": 1 });
    assert_eq!(types_asked(&shard, &m, false).await, BTreeMap::new());
    assert_eq!(types_asked(&shard, &m, true).await, [("metadata.m".to_owned(), 1)].into());
    assert_eq!(types_asked(&shard, &is_x, true).await, [("metadata.n".to_owned(), NUMBER | TEXT)].into());
    assert_eq!(types_found(&shard, &m).await, BTreeMap::new());
    node.shutdown().await;

    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    let known = types_found(&shard, &both).await;
    assert_eq!(known["metadata.long"], TEXT, "also from an image");
    assert!(known["metadata.n"] & TEXT == TEXT);
    let reply = search(&shard, EAST, 1, &json!({ "field": "type", "exists": true })).await.unwrap();
    assert_eq!(reply.field_types, Some(node_v1::KnownFieldTypes::default()), "nothing is compared");
    node.shutdown().await;
}
