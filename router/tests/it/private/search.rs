//! Searches over plain and private memories together, against a model that looks at everything.
//!
//! Vectors have few, round components and are compared by their dot product, so that a score is exact whoever computes it
//! and in what order. Creation lies at three ages for which no bonus of age comes near a step of similarity: what ranks
//! before what does not hang on the clock of the test.

use std::collections::{BTreeSet, HashMap};

use axum::http::Method;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

use super::{ADA, EVE, KEY, OTHER, as_owner};
use crate::client::World;

const AGES_DAYS: [u64; 3] = [25, 50, 100];
const DAY_MS: u64 = 86_400_000;
const HALF_LIFE_DAYS: u64 = 100;
const KINDS: [&str; 2] = ["general", "insight"];
const SESSIONS: [&str; 3] = ["", "s1", "s2"];
const ROLES: [&str; 3] = ["", "user", "assistant"];

type Vector = [i8; 3];

/// A memory as the model knows it.
#[derive(Debug, Clone)]
struct Doc {
    /// Whose it is; plain if nobody's.
    owner: Option<usize>,
    vector: Vector,
    kind: usize,
    session: usize,
    role: usize,
    number: Option<i64>,
    age: usize,
    is_expired: bool,
}

/// A question with its options.
#[derive(Debug, Clone)]
struct Ask {
    who: usize,
    vectors: Vec<Vector>,
    is_mean: bool,
    k: usize,
    filter: usize,
    /// Younger than, older than, in days.
    ages: (u64, u64),
    min_score: Option<i8>,
    recency: Option<f32>,
    group: Option<(&'static str, usize)>,
    diversity: Option<f32>,
}

fn components(vector: &Vector) -> Vec<f32> {
    vector.iter().map(|&component| f32::from(component) / 4.0).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn time(now_ms: u64, age_days: u64) -> String {
    jiff::Timestamp::from_millisecond((now_ms - age_days * DAY_MS) as i64).unwrap().to_string()
}

fn now_ms() -> u64 {
    jiff::Timestamp::now().as_millisecond() as u64
}

impl Doc {
    fn item(&self, collection: &str, now_ms: u64) -> Value {
        let mut item = json!({
            "content": format!("{self:?}"),
            "vector": components(&self.vector),
            "type": KINDS[self.kind],
            "private": self.owner.is_some(),
            "created_at": time(now_ms, AGES_DAYS[self.age]),
            "collection": collection,
        });
        let fields = item.as_object_mut().unwrap();
        for (name, value) in [("session", SESSIONS[self.session]), ("role", ROLES[self.role])] {
            if !value.is_empty() {
                fields.insert(name.into(), value.into());
            }
        }
        if let Some(number) = self.number {
            fields.insert("metadata".into(), json!({ "n": number, "all": [number, number + 1] }));
        }
        item
    }

    /// As JSON, which is what makes two groups one.
    fn group(&self, field: &str) -> Option<String> {
        let text = |text: &str| (!text.is_empty()).then(|| json!(text).to_string());
        match field {
            "session" => text(SESSIONS[self.session]),
            "type" => text(KINDS[self.kind]),
            _ => self.number.map(|number| number.to_string()),
        }
    }
}

/// A filter as a caller writes it, and what it means.
fn filter(number: usize, now_ms: u64) -> (Option<Value>, fn(&Doc) -> bool) {
    match number {
        0 => (None, |_| true),
        1 => (Some(json!({ "field": "type", "eq": "insight" })), |doc| doc.kind == 1),
        2 => (Some(json!({ "field": "metadata.n", "gte": 3 })), |doc| doc.number.is_some_and(|number| number >= 3)),
        3 => {
            let session = json!({ "field": "session", "in": ["s1", "s9"] });
            let not_user = json!({ "not": { "field": "role", "eq": "user" } });
            (Some(json!({ "and": [session, not_user] })), |doc| doc.session == 1 && doc.role != 1)
        }
        4 => {
            let all = json!({ "field": "metadata.all", "eq": 2 });
            let young = json!({ "field": "created_at", "gte": time(now_ms, 30) });
            let means = |doc: &Doc| doc.age == 0 || doc.number.is_some_and(|number| number == 1 || number == 2);
            (Some(json!({ "or": [all, young] })), means)
        }
        5 => (Some(json!({ "field": "created_at", "lt": time(now_ms, 40) })), |doc| doc.age > 0),
        6 => (Some(json!({ "field": "role", "exists": false })), |doc| doc.role == 0),
        _ => (Some(json!({ "field": "metadata.n", "eq": 99 })), |_| false),
    }
}

impl Ask {
    fn request(&self, collection: &str, now_ms: u64) -> Value {
        let mut request = json!({ "collection": collection, "k": self.k, "include_private": true });
        let fields = request.as_object_mut().unwrap();
        let mut set = |name: &str, value: Value| fields.insert(name.into(), value);
        match &self.vectors[..] {
            [one] => set("vector", json!(components(one))),
            several => {
                set("combine", json!(if self.is_mean { "mean" } else { "max" }));
                set("vectors", json!(several.iter().map(components).collect::<Vec<_>>()))
            }
        };
        if let (Some(filter), _) = filter(self.filter, now_ms) {
            set("filter", filter);
        }
        set("created_from", json!(time(now_ms, self.ages.1)));
        set("created_to", json!(time(now_ms, self.ages.0)));
        if let Some(score) = self.min_score {
            set("min_score", json!(f32::from(score) / 4.0));
        }
        if let Some(weight) = self.recency {
            set("recency", json!({ "half_life_seconds": HALF_LIFE_DAYS * 86_400, "weight": weight }));
        }
        if let Some((field, size)) = self.group {
            set("group_by", json!(field));
            set("group_size", json!(size));
        }
        if let Some(diversity) = self.diversity {
            set("diversity", json!(diversity));
        }
        request
    }

    fn score(&self, doc: &Doc) -> f32 {
        let vector = components(&doc.vector);
        let similarities = self.vectors.iter().map(|query| dot(&components(query), &vector));
        let similarity = if self.is_mean && self.vectors.len() > 1 {
            similarities.sum::<f32>() / self.vectors.len() as f32
        } else {
            similarities.fold(f32::NEG_INFINITY, f32::max)
        };
        let bonus = (-(AGES_DAYS[doc.age] as f64) / HALF_LIFE_DAYS as f64).exp2() as f32;
        self.recency.map_or(similarity, |weight| (1.0 - weight) * similarity + weight * bonus)
    }

    /// Every memory that may be a hit, best first.
    fn ranked<'a>(&self, docs: &'a [(String, Doc)]) -> Vec<(&'a str, f32, &'a Doc)> {
        let (_, means) = filter(self.filter, now_ms());
        let is_hit = |doc: &Doc| {
            let age = AGES_DAYS[doc.age];
            !doc.is_expired
                && doc.owner.is_none_or(|owner| owner == self.who)
                && (self.ages.0 < age && age < self.ages.1)
                && means(doc)
                && self.min_score.is_none_or(|least| self.score(doc) >= f32::from(least) / 4.0)
        };
        let mut ranked: Vec<_> =
            docs.iter().filter(|(_, doc)| is_hit(doc)).map(|(id, doc)| (id.as_str(), self.score(doc), doc)).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
        ranked
    }

    /// The hits of the first page.
    fn hits<'a>(&self, docs: &'a [(String, Doc)]) -> Vec<(&'a str, f32, &'a Doc)> {
        let mut ranked = self.ranked(docs);
        if let Some((field, size)) = self.group {
            return grouped(ranked, self.k, (field, size));
        }
        match self.diversity {
            Some(diversity) => {
                ranked.truncate(4 * self.k);
                diverse(ranked, self.k, diversity)
            }
            None => {
                ranked.truncate(self.k);
                ranked
            }
        }
    }
}

type Ranked<'a> = Vec<(&'a str, f32, &'a Doc)>;

fn grouped<'a>(ranked: Ranked<'a>, k: usize, (field, size): (&str, usize)) -> Ranked<'a> {
    let name = |(id, _, doc): &(&str, f32, &Doc)| doc.group(field).unwrap_or_else(|| format!("alone: {id}"));
    let mut names: Vec<String> = Vec::new();
    for hit in &ranked {
        if !names.contains(&name(hit)) {
            names.push(name(hit));
        }
    }
    names.truncate(k);
    let mut left: HashMap<String, usize> = names.into_iter().map(|name| (name, size)).collect();
    let mut has_room = |hit: &(&str, f32, &Doc)| match left.get_mut(&name(hit)) {
        Some(0) | None => false,
        Some(left) => {
            *left -= 1;
            true
        }
    };
    ranked.into_iter().filter(|hit| has_room(hit)).collect()
}

fn diverse<'a>(mut left: Ranked<'a>, k: usize, diversity: f32) -> Ranked<'a> {
    let (best, worst) = match &left[..] {
        [] => return left,
        all => (all[0].1, all[all.len() - 1].1),
    };
    let spread = (best - worst).max(f32::MIN_POSITIVE);
    let cosine = |a: &Doc, b: &Doc| {
        let (a, b) = (components(&a.vector), components(&b.vector));
        dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()
    };
    let mut taken: Ranked<'a> = Vec::new();
    while taken.len() < k && !left.is_empty() {
        let value = |(_, score, doc): &(&str, f32, &Doc)| {
            let nearest = taken.iter().map(|(_, _, other)| cosine(other, doc)).fold(0.0, f32::max);
            (1.0 - diversity) * (score - (best - spread)) / spread - diversity * nearest
        };
        let values: Vec<f32> = left.iter().map(value).collect();
        let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let at = values.iter().position(|&value| value == most).unwrap();
        taken.push(left.remove(at));
    }
    taken
}

fn vector() -> impl Strategy<Value = Vector> {
    // Never without a direction.
    (prop_oneof![-4i8..0, 1i8..=4], -4i8..=4, -4i8..=4).prop_map(|(x, y, z)| [x, y, z])
}

fn doc() -> impl Strategy<Value = Doc> {
    let owner = prop_oneof![3 => Just(None), 4 => Just(Some(0)), 1 => Just(Some(1))];
    let said = (0usize..2, 0usize..3, 0usize..3, prop::option::weighted(0.8, 0i64..5));
    (owner, vector(), said, 0usize..3, prop::bool::weighted(0.1)).prop_map(
        |(owner, vector, (kind, session, role, number), age, is_expired)| Doc {
            owner,
            vector,
            kind,
            session,
            role,
            number,
            age,
            is_expired,
        },
    )
}

fn ask() -> impl Strategy<Value = Ask> {
    let vectors = prop::collection::vec(vector(), 1..=2);
    let ages = prop_oneof![4 => Just((0, 300)), 1 => Just((40, 300)), 1 => Just((0, 70)), 1 => Just((40, 70))];
    let min_score = prop::option::weighted(0.3, -4i8..8);
    let recency = prop::option::weighted(0.4, prop_oneof![Just(0.5f32), Just(0.2)]);
    let group = (prop_oneof![Just("session"), Just("type"), Just("metadata.n")], 1usize..4);
    let shape = prop_oneof![
        3 => Just((None, None)),
        2 => group.prop_map(|group| (Some(group), None)),
        // Which of two equals comes first would hang on the clock, had they a bonus of age.
        2 => prop_oneof![Just(0.0f32), Just(0.3), Just(0.7)].prop_map(|diversity| (None, Some(diversity))),
    ];
    (0usize..2, (vectors, any::<bool>()), 1usize..12, 0usize..8, (ages, min_score), (recency, shape)).prop_map(
        |(who, (vectors, is_mean), k, filter, (ages, min_score), (recency, (group, diversity)))| Ask {
            who: usize::from(who == 1 && k % 3 == 0),
            vectors,
            is_mean,
            k,
            filter,
            ages,
            min_score,
            recency: recency.filter(|_| diversity.is_none()),
            group,
            diversity,
        },
    )
}

const OWNERS: [(&str, &str); 2] = [ADA, EVE];

async fn collection(world: &World, name: &str, partitions: u32) {
    let settings = json!({ "dim": 3, "metric": "dot", "partitions": partitions });
    world.request(Method::PUT, &format!("/collections/{name}"), settings.to_string(), &[]).await.ok();
}

/// Stores memories and returns them with their ids.
async fn store_docs(world: &World, name: &str, docs: &[Doc], now_ms: u64) -> Vec<(String, Doc)> {
    let mut stored = Vec::new();
    for (who, owner) in OWNERS.into_iter().enumerate() {
        let docs: Vec<&Doc> = docs.iter().filter(|doc| doc.owner.unwrap_or(0) == who).collect();
        if docs.is_empty() {
            continue;
        }
        let items: Vec<Value> = docs.iter().map(|doc| doc.item(name, now_ms)).collect();
        let reply = as_owner(world, "/mcp/store", json!({ "items": items }), owner).await.ok();
        for (doc, item) in docs.into_iter().zip(reply["items"].as_array().unwrap()) {
            let id = item["id"].as_str().unwrap_or_else(|| panic!("{item}")).to_owned();
            if doc.is_expired {
                world.fake.expire(&id);
            }
            stored.push((id, doc.clone()));
        }
    }
    stored
}

fn hits(reply: &Value) -> Vec<(String, f32, bool)> {
    let hit = |hit: &Value| {
        (hit["id"].as_str().unwrap().to_owned(), hit["score"].as_f64().unwrap() as f32, hit["private"] == true)
    };
    reply["hits"].as_array().unwrap().iter().map(hit).collect()
}

fn assert_same(found: &[(String, f32, bool)], expected: &Ranked<'_>, ask: &Ask) {
    assert_eq!(found.len(), expected.len(), "{ask:?}");
    let distinct: BTreeSet<&String> = found.iter().map(|(id, ..)| id).collect();
    assert_eq!(distinct.len(), found.len(), "{ask:?}");
    for ((id, score, is_private), (expected_id, expected, doc)) in found.iter().zip(expected) {
        // Means of several similarities that are equal on paper differ in the last bit by the order of the sum.
        let is_tie = ask.is_mean && ask.vectors.len() > 1 && (score - expected).abs() < 1e-6;
        if is_tie && id != expected_id {
            continue;
        }
        assert_eq!(id, expected_id, "{score} {expected} {ask:?}");
        assert!((score - expected).abs() < 1e-4, "{score} {expected} {ask:?}");
        assert_eq!(*is_private, doc.owner.is_some());
    }
}

/// All pages of a search, one after the other.
async fn all_pages(world: &World, mut request: Value, owner: (&str, &str)) -> Vec<(String, f32, bool)> {
    let mut found = Vec::new();
    loop {
        let reply = as_owner(world, "/mcp/search", request.clone(), owner).await.ok();
        found.extend(hits(&reply));
        let Some(cursor) = reply["next_cursor"].as_str() else { return found };
        request["cursor"] = json!(cursor);
    }
}

#[test]
fn a_search_of_plain_and_private_memories_is_one_search() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let world = runtime.block_on(World::new());
    let number = std::cell::Cell::new(0);
    let config = ProptestConfig { cases: 8, rng_seed: RngSeed::Fixed(20_261_125), ..ProptestConfig::default() };
    proptest!(config, |(docs in prop::collection::vec(doc(), 0..120), asks in prop::collection::vec(ask(), 8), partitions in 1u32..=4)| {
        number.set(number.get() + 1);
        let name = format!("mixed-{}", number.get());
        runtime.block_on(async {
            let now_ms = now_ms();
            collection(&world, &name, partitions).await;
            let docs = store_docs(&world, &name, &docs, now_ms).await;
            for ask in &asks {
                let request = ask.request(&name, now_ms);
                let reply = as_owner(&world, "/mcp/search", request.clone(), OWNERS[ask.who]).await.ok();
                // Of a group, a shard names only the frames of its own best groups: over several shards its last ones may be
                // missing, private or not.
                if ask.group.is_none() || partitions == 1 {
                    assert_same(&hits(&reply), &ask.hits(&docs), ask);
                }
                let may_page = ask.group.is_none() && ask.diversity.is_none();
                assert!(may_page || reply.get("next_cursor").is_none_or(Value::is_null));
                if may_page && ask.k >= 8 {
                    assert_same(&all_pages(&world, request, OWNERS[ask.who]).await, &ask.ranked(&docs), ask);
                }
            }
        });
    });
}

#[test]
fn pages_cover_every_hit_once_while_others_write() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let world = runtime.block_on(World::new());
    let number = std::cell::Cell::new(0);
    let config = ProptestConfig { cases: 8, rng_seed: RngSeed::Fixed(20_261_125), ..ProptestConfig::default() };
    proptest!(config, |(docs in prop::collection::vec(doc(), 30..60), more in prop::collection::vec(doc(), 40), ask in ask())| {
        number.set(number.get() + 1);
        let name = format!("paged-{}", number.get());
        let ask = Ask { who: 0, k: 5, group: None, diversity: None, ..ask };
        runtime.block_on(async {
            let now_ms = now_ms();
            collection(&world, &name, 3).await;
            let docs = store_docs(&world, &name, &docs, now_ms).await;
            let (mut found, mut gone) = (Vec::new(), BTreeSet::new());
            let mut request = ask.request(&name, now_ms);
            for more in more.chunks(2) {
                let reply = as_owner(&world, "/mcp/search", request.clone(), ADA).await.ok();
                found.extend(hits(&reply).into_iter().map(|(id, ..)| id));
                let Some(cursor) = reply["next_cursor"].as_str() else { break };
                request["cursor"] = json!(cursor);
                store_docs(&world, &name, more, now_ms).await;
                // One that was seen, and one that is still to come if there is one.
                let later = ask.ranked(&docs).into_iter().map(|(id, ..)| id.to_owned());
                let later = later.into_iter().find(|id| !found.contains(id) && !gone.contains(id));
                for id in later.into_iter().chain(found.last().cloned()) {
                    let forget = json!({ "id": id, "collection": name });
                    as_owner(&world, "/mcp/forget", forget, ADA).await.ok();
                    gone.insert(id);
                }
            }
            let distinct: BTreeSet<&String> = found.iter().collect();
            assert_eq!(distinct.len(), found.len(), "a hit was shown twice");
            for (id, ..) in ask.ranked(&docs).into_iter().filter(|(id, ..)| !gone.contains(*id)) {
                assert!(distinct.contains(&id.to_owned()), "{id} was never shown: {ask:?}");
            }
        });
    });
}

fn thought(number: i64) -> Doc {
    Doc {
        owner: Some(0),
        vector: [1, (number % 5) as i8, 0],
        kind: usize::from(number % 10 == 0),
        session: 0,
        role: 0,
        number: Some(number),
        age: 0,
        is_expired: false,
    }
}

fn about(filter: Value) -> Value {
    json!({ "vector": [1.0, 0.0, 0.0], "k": 4, "collection": "thoughts", "include_private": true, "filter": filter })
}

async fn with_thoughts(partitions: u32, count: i64) -> World {
    let world = World::new().await;
    collection(&world, "thoughts", partitions).await;
    let docs: Vec<Doc> = (0..count).map(thought).collect();
    store_docs(&world, "thoughts", &docs, now_ms()).await;
    world
}

#[tokio::test]
async fn bodies_are_opened_only_when_they_are_asked_about() {
    let world = with_thoughts(1, 100).await;
    let fetches = async |filter: Value| {
        let mut request = about(filter);
        if request["filter"].is_null() {
            request.as_object_mut().unwrap().remove("filter");
        }
        world.fake.clear_seen();
        let found = hits(&as_owner(&world, "/mcp/search", request, ADA).await.ok()).len();
        (found, world.fake.seen("fetch").len(), world.fake.seen("list_private_vectors").len().min(1))
    };
    assert_eq!(fetches(Value::Null).await, (4, 1, 1), "the winners");
    let since = json!({ "field": "created_at", "gte": time(now_ms(), 60) });
    assert_eq!(fetches(since).await, (4, 1, 1), "times are known without");
    let insights = json!({ "field": "type", "eq": "insight" });
    // 64 bodies in pages of 5 hold four of ten that are meant.
    assert_eq!(fetches(insights).await, (4, 13 + 1, 1));
    let nothing = json!({ "field": "type", "eq": "song" });
    assert_eq!(fetches(nothing).await, (0, 13 + 8, 1), "all are opened, and no winner is fetched");
}

#[tokio::test]
async fn a_memory_on_two_shards_is_one_hit() {
    let world = with_thoughts(4, 40).await;
    let shards = world.fake.shards_of("thoughts");
    world.fake.copy_frames(shards[0], shards[1]);
    let mut request = about(json!({ "field": "metadata.n", "gte": 0 }));
    request["k"] = json!(100);
    let found = hits(&as_owner(&world, "/mcp/search", request, ADA).await.ok());
    let distinct: BTreeSet<&String> = found.iter().map(|(id, ..)| id).collect();
    assert_eq!((found.len(), distinct.len()), (40, 40));
}

#[tokio::test]
async fn a_damaged_body_is_no_frame_that_a_filter_leaves_out() {
    let world = with_thoughts(2, 6).await;
    let none = about(json!({ "field": "type", "eq": "song" }));
    assert!(hits(&as_owner(&world, "/mcp/search", none.clone(), ADA).await.ok()).is_empty());
    world.fake.tamper(std::mem::swap);
    let reply = as_owner(&world, "/mcp/search", none.clone(), ADA).await.ok();
    assert_eq!((hits(&reply).len(), reply["damaged"].as_array().unwrap().len()), (0, 6), "all are named");
    assert!(hits(&as_owner(&world, "/mcp/search", none.clone(), EVE).await.ok()).is_empty(), "what is not hers");
    assert_eq!(world.post("/mcp/search", none).await.code(), "invalid_argument");
    world.fake.tamper(std::mem::swap);
    world.fake.tamper(|body, _| *body = body.slice(..body.len() - 1));
    let all = about(json!({ "field": "metadata.n", "gte": 0 }));
    let reply = as_owner(&world, "/mcp/search", all.clone(), ADA).await.ok();
    assert_eq!((hits(&reply).len(), reply["damaged"].as_array().unwrap().len()), (0, 6));
    // Their vectors still open: without a filter they are found first, and their bodies do not open then.
    let mut bare = all;
    bare.as_object_mut().unwrap().remove("filter");
    let reply = as_owner(&world, "/mcp/search", bare.clone(), ADA).await.ok();
    assert_eq!(hits(&reply).len(), 0);
    assert!(!reply["damaged"].as_array().unwrap().is_empty());
    assert_ne!(KEY, OTHER);
}

#[tokio::test]
async fn a_shard_that_is_silent_when_bodies_are_asked_for_is_named() {
    let world = with_thoughts(2, 40).await;
    let ask = about(json!({ "field": "metadata.n", "gte": 0 }));
    let whole = as_owner(&world, "/mcp/search", ask.clone(), ADA).await.ok();
    assert_eq!((whole["degraded"].as_bool().unwrap_or(false), hits(&whole).len()), (false, 4));
    let silent = world.fake.shards_of("thoughts")[0];
    world.fake.set_leader(silent, None);
    let part = as_owner(&world, "/mcp/search", ask, ADA).await.ok();
    assert_eq!((&part["degraded"], &part["missing_shards"]), (&json!(true), &json!([silent])));
    assert_eq!(hits(&part).len(), 4);
}
