//! What a search asks beyond the nearest, against a model; and answers that are not given again when they should not be.

use std::collections::BTreeMap;

use mira_proto::node_v1::{self, SearchRequest};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::common::{EAST, NORTH, Shard, frame, number, start};

type Model = BTreeMap<u128, ([f32; 4], String)>;

fn cosine(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let dot = |a: &[f32; 4], b: &[f32; 4]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn random_vector(random: &mut StdRng) -> [f32; 4] {
    std::array::from_fn(|_| random.random_range(-1.0..1.0))
}

async fn store(shard: &Shard, model: &mut Model, random: &mut StdRng, ids: std::ops::Range<u128>) {
    for chunk in ids.collect::<Vec<_>>().chunks(50) {
        let frames = chunk.iter().map(|id| {
            let (vector, session) = (random_vector(random), format!("s{}", random.random_range(0..12)));
            let session = if random.random_bool(0.1) { String::new() } else { session };
            model.insert(*id, (vector, session.clone()));
            node_v1::FrameWrite { session, replace: true, ..frame(*id, &format!("frame {id}"), vector) }
        });
        shard.write(frames.collect()).await.unwrap();
    }
}

async fn search(shard: &Shard, request: SearchRequest) -> node_v1::SearchReply {
    let header = node_v1::ReadHeader {
        epoch: shard.epoch,
        shard: shard.shard,
        collection: shard.collection,
        ..Default::default()
    };
    let request = SearchRequest { header: Some(header), ..request };
    shard.client.clone().shards().search(request).await.unwrap().into_inner()
}

fn found(reply: &node_v1::SearchReply) -> Vec<(u128, f32)> {
    reply.hits.iter().map(|hit| (number(&hit.id), hit.score)).collect()
}

/// The model's frames by a score, best first.
fn ranked(model: &Model, score: impl Fn(&[f32; 4]) -> f32) -> Vec<(u128, f32)> {
    let mut all: Vec<_> = model.iter().map(|(id, (vector, _))| (*id, score(vector))).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all
}

fn close(found: &[(u128, f32)], expected: &[(u128, f32)]) {
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().zip(expected).all(|(a, b)| (a.1 - b.1).abs() < 2e-3), "{found:?}\n{expected:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn modes_answer_like_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    let (mut random, mut model) = (StdRng::seed_from_u64(9), Model::new());
    store(&shard, &mut model, &mut random, 1..700).await;
    for _ in 0..20 {
        let queries: Vec<[f32; 4]> = (0..3).map(|_| random_vector(&mut random)).collect();
        let base = SearchRequest { vector: queries[0].to_vec(), k: 20, ..Default::default() };
        // All above a score.
        let above = SearchRequest { k: 1_000, min_score: Some(0.7), ..base.clone() };
        let expected: Vec<_> = ranked(&model, |vector| cosine(&queries[0], vector))
            .into_iter()
            .filter(|(_, score)| *score >= 0.7)
            .collect();
        let have = found(&search(&shard, above).await);
        assert!(have.len().abs_diff(expected.len()) <= 1, "a score at the edge may round to either side");
        assert!(have.iter().all(|(_, score)| *score >= 0.7));
        // Several vectors, by the best and by the mean.
        let more_vectors: Vec<f32> = queries[1..].concat();
        let several = SearchRequest { more_vectors, ..base.clone() };
        let best = |vector: &[f32; 4]| queries.iter().map(|query| cosine(query, vector)).fold(f32::MIN, f32::max);
        close(&found(&search(&shard, several.clone()).await), &ranked(&model, best)[..20]);
        // The mean's candidates are those near to one of them.
        let mean = |vector: &[f32; 4]| queries.iter().map(|query| cosine(query, vector)).sum::<f32>() / 3.0;
        let have = found(&search(&shard, SearchRequest { mean: true, k: 700, ..several }).await);
        close(&have[..20], &ranked(&model, mean)[..20]);
        // Groups.
        let grouped = SearchRequest { k: 5, group_field: "session".into(), group_size: 2, ..base.clone() };
        let reply = search(&shard, grouped).await;
        let (mut taken, mut groups, mut expected) = (BTreeMap::new(), 0, Vec::new());
        for (id, score) in ranked(&model, |vector| cosine(&queries[0], vector)) {
            let session = &model[&id].1;
            let have: &mut usize =
                taken.entry(if session.is_empty() { id.to_string() } else { session.clone() }).or_default();
            if *have == 0 && groups == 5 || *have >= 2 && !session.is_empty() {
                continue;
            }
            groups += usize::from(*have == 0);
            *have += 1;
            expected.push((id, score));
        }
        close(&found(&reply), &expected);
        for hit in &reply.hits {
            let session = &model[&number(&hit.id)].1;
            assert_eq!(hit.group_json, if session.is_empty() { String::new() } else { format!("{session:?}") });
        }
        // Vectors come along.
        let with_vectors = search(&shard, SearchRequest { with_vectors: true, ..base }).await;
        assert!(with_vectors.hits.iter().all(|hit| hit.vector == model[&number(&hit.id)].0));
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_stable_under_writes() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    let (mut random, mut model) = (StdRng::seed_from_u64(4), Model::new());
    store(&shard, &mut model, &mut random, 1..400).await;
    let query = random_vector(&mut random);
    let before = ranked(&model, |vector| cosine(&query, vector));
    let (mut seen, mut after, mut next_id) = (Vec::<(u128, f32)>::new(), None, 1_000);
    let mut gone = Vec::new();
    loop {
        let request = SearchRequest { vector: query.to_vec(), k: 30, after: after.take(), ..Default::default() };
        let page = found(&search(&shard, request).await);
        seen.extend(&page);
        let Some(last) = page.last().filter(|_| page.len() == 30) else { break };
        after = Some(node_v1::After {
            score: last.1,
            id: last.0.to_be_bytes().to_vec().into(),
            seen: seen.len() as u32,
            shown: Vec::new(),
        });
        // Between the pages, frames come (anywhere in the ranking, also far ahead) and go.
        let mut fresh = Model::new();
        store(&shard, &mut fresh, &mut random, next_id..next_id + 40).await;
        let near: Vec<_> = (next_id + 40..next_id + 80).map(|id| frame(id, "near", query)).collect();
        shard.write(near).await.unwrap();
        next_id += 80;
        let removed = before[random.random_range(seen.len().min(398)..399)].0;
        gone.push(removed);
        let ids = vec![removed.to_be_bytes().to_vec().into()];
        shard.forget(node_v1::ForgetRequest { ids, ..Default::default() }).await;
    }
    let mut ids: Vec<u128> = seen.iter().map(|hit| hit.0).collect();
    assert!(seen.windows(2).all(|pair| pair[0].1 >= pair[1].1), "in order over all pages");
    ids.sort_unstable();
    let all = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), all, "nothing twice");
    for (id, _) in before.iter().filter(|(id, _)| !gone.contains(id)) {
        assert!(ids.binary_search(id).is_ok(), "{id} was there all the time and is missing");
    }
    node.shutdown().await;
}

/// All pages of a question, by ids, as a router asks for them.
async fn pages(shard: &Shard, request: SearchRequest) -> Vec<u128> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let reply = search(shard, SearchRequest { after: after.take(), ..request.clone() }).await;
        let page = found(&reply);
        all.extend(page.iter().map(|(id, _)| *id));
        assert_eq!(reply.looked_through, 0);
        let Some(last) = page.last().filter(|_| reply.more) else { return all };
        let id = last.0.to_be_bytes().to_vec().into();
        after = Some(node_v1::After { score: last.1, id, seen: all.len() as u32, shown: Vec::new() });
    }
}

/// Every frame once, and those of the same score by their ids, however many score the same.
#[tokio::test(flavor = "multi_thread")]
async fn pages_of_equal_scores_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    let (mut random, mut model) = (StdRng::seed_from_u64(6), Model::new());
    store(&shard, &mut model, &mut random, 1..1_600).await;
    // Eight hundred equal ones, the later the lower their id.
    for ids in (10_000..10_800u128).rev().collect::<Vec<_>>().chunks(100) {
        shard.write(ids.iter().map(|id| frame(*id, "equal", EAST)).collect()).await.unwrap();
    }
    let equal: Vec<u128> = (10_000..10_800).collect();
    let base = SearchRequest { vector: EAST.to_vec(), k: 20, ..Default::default() };
    let others = model.iter().filter(|(_, (vector, _))| cosine(&EAST, vector) >= 0.99).count();
    let above = pages(&shard, SearchRequest { min_score: Some(0.99), ..base.clone() }).await;
    assert_eq!(above[..800], equal);
    assert_eq!(above.len(), 800 + others);
    for (what, request) in [
        ("one vector", SearchRequest { k: 300, ..base.clone() }),
        ("two vectors", SearchRequest { k: 300, more_vectors: NORTH.to_vec(), ..base.clone() }),
        ("their mean", SearchRequest { k: 300, more_vectors: NORTH.to_vec(), mean: true, ..base.clone() }),
        ("exactly", SearchRequest { k: 300, exact: true, ..base.clone() }),
    ] {
        let all = pages(&shard, request).await;
        let distinct: std::collections::BTreeSet<&u128> = all.iter().collect();
        assert_eq!((all.len(), distinct.len()), (2_399, 2_399), "{what}");
        let of_equal: Vec<u128> = all.iter().copied().filter(|id| *id >= 10_000).collect();
        assert_eq!(of_equal, equal, "{what}");
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_frames_rank_higher_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    shard.write((1..=300u128).map(|id| frame(id, "old", EAST)).collect()).await.unwrap();
    let old = shard.fetch(&[1]).await[0].created_ms;
    let at_least = |now: u64| now > old;
    let mut newest = old;
    while !at_least(newest) {
        // The log's clock moves with the wall's, by milliseconds.
        shard
            .one(node_v1::FrameWrite {
                replace: false,
                ..frame(1_000 + rand::random::<u64>() as u128, "new", [0.9, 0.1, 0.0, 0.0])
            })
            .await
            .unwrap();
        newest =
            search(&shard, SearchRequest { vector: NORTH.to_vec(), k: 1, with_frames: true, ..Default::default() })
                .await
                .hits[0]
                .frame
                .as_ref()
                .unwrap()
                .created_ms;
    }
    let recency = |weight, half_life_ms| Some(node_v1::Recency { half_life_ms, weight, now_ms: newest });
    let ask = async |recency| {
        let request = SearchRequest { vector: EAST.to_vec(), k: 1, with_frames: true, recency, ..Default::default() };
        search(&shard, request).await.hits.remove(0)
    };
    assert_eq!(ask(None).await.frame.unwrap().content, "old");
    assert_eq!(ask(recency(0.01, 1_000_000_000)).await.frame.unwrap().content, "old", "age hardly counts");
    let hit = ask(recency(0.9, 1)).await;
    assert_eq!(hit.frame.unwrap().content, "new", "though 300 are nearer");
    assert!(hit.similarity < 1.0 && hit.score > 0.9, "{} {}", hit.similarity, hit.score);
    node.shutdown().await;
}
