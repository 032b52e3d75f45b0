//! Named vectors: a collection has an index for each of its spaces, and a frame is found in those in which it has vectors.

use std::{collections::BTreeMap, time::Duration};

use mira_index::{Metric, exact_top_k};
use mira_proto::{Code, Problem, Refusal, node_v1, placement::shards_of_collection};
use mira_testing::eventually;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::common::{EAST, NodeClients, Shard, frame, number, start};

/// The spaces of the collection: name, components, metric. The first is its own.
const SPACES: [(&str, usize, Metric); 3] =
    [("", 4, Metric::Cosine), ("state", 12, Metric::Dot), ("place", 2, Metric::L2)];

/// What is in each space.
type Model = BTreeMap<&'static str, BTreeMap<u128, Vec<f32>>>;

async fn create(
    client: &NodeClients,
    change: impl FnOnce(&mut node_v1::CreateCollectionRequest),
) -> Result<node_v1::Collection, Problem> {
    let space = |(name, dim, metric): (&str, usize, Metric)| node_v1::VectorSpace {
        name: name.into(),
        dim: dim as u32,
        metric: match metric {
            Metric::Cosine => node_v1::Metric::Cosine,
            Metric::Dot => node_v1::Metric::Dot,
            Metric::L2 => node_v1::Metric::L2,
        }
        .into(),
        quantization: node_v1::Quantization::Int8.into(),
        ef: 0,
    };
    let mut request = node_v1::CreateCollectionRequest {
        name: "c".into(),
        dim: SPACES[0].1 as u32,
        metric: node_v1::Metric::Cosine.into(),
        quantization: node_v1::Quantization::Int8.into(),
        partitions: 1,
        spaces: SPACES[1..].iter().copied().map(space).collect(),
        ..Default::default()
    };
    change(&mut request);
    match client.clone().cluster().create_collection(request).await {
        Ok(collection) => Ok(collection.into_inner()),
        Err(status) => Err(problem(Refusal::from(status))),
    }
}

fn problem(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Problem(problem) => problem,
        other => panic!("{other:?}"),
    }
}

async fn shard_of(client: NodeClients) -> Shard {
    let collection = create(&client, |_| ()).await.expect("a collection").id;
    let map = client.clone().cluster().get_map(node_v1::GetMapRequest::default()).await.expect("a map").into_inner();
    let shard = shards_of_collection(collection, 1, map.shards.len() as u32)[0];
    Shard { client, collection, shard, epoch: map.epoch }
}

fn random_vector(random: &mut StdRng, dim: usize) -> Vec<f32> {
    (0..dim).map(|_| random.random_range(-1.0..1.0)).collect()
}

/// A frame with vectors in some spaces, and what the model becomes by it.
fn write(id: u128, random: &mut StdRng, model: &mut Model) -> node_v1::FrameWrite {
    let mut write =
        node_v1::FrameWrite { replace: true, ..frame(id, &format!("{}", random.random::<u64>()), [0.0; 4]) };
    write.passages.clear();
    write.metadata_json = format!(r#"{{"parity":{}}}"#, id % 2);
    for (name, dim, _) in SPACES {
        let space = model.entry(name).or_default();
        if random.random_bool(0.3) {
            space.remove(&id);
            continue;
        }
        let vector = random_vector(random, dim);
        space.insert(id, vector.clone());
        match name {
            "" => write.passages.push(node_v1::Passage { start: 0, end: 0, vector }),
            name => write.named.push(node_v1::NamedVector { space: name.into(), vector }),
        }
    }
    write
}

async fn change(shard: &Shard, frames: std::ops::Range<u128>, random: &mut StdRng, model: &mut Model) {
    let ids: Vec<u128> = frames.collect();
    for ids in ids.chunks(100) {
        let reply = shard.write(ids.iter().map(|&id| write(id, random, model)).collect()).await.expect("an answer");
        assert!(reply.outcomes.iter().all(|outcome| outcome.problem.is_none()), "{reply:?}");
    }
    let removed: Vec<u128> = ids.choose_multiple(random, ids.len() / 10).copied().collect();
    let ids = removed.iter().map(|id| id.to_be_bytes().to_vec().into()).collect();
    assert_eq!(shard.forget(node_v1::ForgetRequest { ids, ..Default::default() }).await.len(), removed.len());
    model.values_mut().for_each(|space| space.retain(|id, _| !removed.contains(id)));
}

async fn search(
    shard: &Shard,
    space: &str,
    vector: Vec<f32>,
    change: impl FnOnce(&mut node_v1::SearchRequest),
) -> Result<node_v1::SearchReply, Refusal> {
    let mut request = node_v1::SearchRequest {
        header: Some(node_v1::ReadHeader {
            epoch: shard.epoch,
            shard: shard.shard,
            collection: shard.collection,
            ..Default::default()
        }),
        space: space.into(),
        vector,
        k: 20,
        ..Default::default()
    };
    change(&mut request);
    Ok(shard.client.clone().shards().search(request).await?.into_inner())
}

/// Every space answers as an exact scan of what is in it does: all frames, and those that a filter means.
async fn check(shard: &Shard, model: &Model, random: &mut StdRng) {
    for (name, dim, metric) in SPACES {
        let (mut found, mut wanted) = (0, 0);
        for parity in [None, Some(0), Some(1)].into_iter().cycle().take(30) {
            let query = random_vector(random, dim);
            let meant = |id: u128| parity.is_none_or(|parity| id % 2 == parity);
            let documents = model[name].iter().filter(|(id, _)| meant(**id)).map(|(id, vector)| (*id, &vector[..]));
            let expected = exact_top_k(metric, dim, &query, documents, 20).unwrap();
            let filter = parity.map(|parity| format!(r#"{{"field":"metadata.parity","eq":{parity}}}"#));
            let ask = async |exact| {
                let change = |request: &mut node_v1::SearchRequest| {
                    request.exact = exact;
                    request.filter_json = filter.clone().unwrap_or_default();
                };
                search(shard, name, query.clone(), change).await.unwrap().hits
            };
            let exact = ask(true).await;
            assert_eq!(exact.len(), expected.len(), "{name:?}");
            for (hit, expected) in exact.iter().zip(&expected) {
                assert!((hit.score - expected.score).abs() < 4e-3, "{name:?}: {hit:?} {expected:?}");
                assert!(model[name].contains_key(&number(&hit.id)) && meant(number(&hit.id)));
            }
            let worst = expected.last().map_or(0.0, |hit| hit.score) - 4e-3;
            found += ask(false).await.iter().filter(|hit| hit.score >= worst).count();
            wanted += expected.len();
        }
        assert!(found * 100 >= wanted * 95, "{name:?}: {found} of {wanted}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_space_answers_for_itself_over_changes_and_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(11);
    let mut model = Model::new();
    for round in 0..3 {
        let (node, client) = start(folder.path()).await;
        let shard = shard_of(client).await;
        let from_images: u64 = node.node().shards().iter().map(|(_, shard)| shard.index().stats().from_images).sum();
        let there: usize = model.values().map(BTreeMap::len).sum();
        assert_eq!(from_images, there as u64, "round {round}: each space has an image of its own");
        if round > 0 {
            check(&shard, &model, &mut random).await;
        }
        // More than an image is written for, and half of what was there before.
        change(&shard, round * 2_000..round * 2_000 + 4_000, &mut random, &mut model).await;
        check(&shard, &model, &mut random).await;
        node.shutdown().await;
    }
    // Without images the spaces are built from the frames.
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    let (node, client) = start(folder.path()).await;
    check(&shard_of(client).await, &model, &mut random).await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_a_space_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = shard_of(client.clone()).await;
    let with = |named: Vec<(&str, Vec<f32>)>| {
        let named = named.into_iter().map(|(space, vector)| node_v1::NamedVector { space: space.into(), vector });
        node_v1::FrameWrite { named: named.collect(), ..frame(1, "one", EAST) }
    };
    let refused = [
        (with(vec![("mood", vec![1.0; 12])]), Code::InvalidArgument),
        (with(vec![("state", vec![1.0; 11])]), Code::DimensionMismatch),
        (with(vec![("state", vec![f32::NAN; 12])]), Code::InvalidArgument),
        (with(vec![("state", vec![1.0; 12]), ("state", vec![1.0; 12])]), Code::InvalidArgument),
    ];
    for (write, code) in refused {
        assert_eq!(shard.one(write).await.unwrap_err().code, code);
    }
    shard.one(with(vec![("state", vec![1.0; 12])])).await.unwrap();
    // The same content with another vector is other content.
    let other = shard.one(with(vec![("state", vec![0.5; 12])])).await;
    assert_eq!(other.unwrap_err().code, Code::Conflict);
    assert_eq!(shard.one(with(vec![("state", vec![1.0; 12])])).await, Ok(1));

    let code = async |space: &str, dim| {
        problem(search(&shard, space, vec![1.0; dim], |_| ()).await.expect_err("refused")).code
    };
    assert_eq!(code("mood", 4).await, Code::InvalidArgument);
    assert_eq!(code("state", 4).await, Code::DimensionMismatch);
    assert_eq!(code("", 12).await, Code::DimensionMismatch);
    assert_eq!(search(&shard, "place", vec![1.0; 2], |_| ()).await.unwrap().hits.len(), 0, "it has none there");

    type Change = fn(&mut node_v1::CreateCollectionRequest);
    let settings: [(Change, Code); 5] = [
        (|request| request.spaces[0].dim = 0, Code::InvalidArgument),
        (|request| request.spaces[0].name.clear(), Code::InvalidArgument),
        (|request| request.spaces[1].name = "state".into(), Code::InvalidArgument),
        (|request| request.spaces = vec![request.spaces[0].clone(); 9], Code::TooLarge),
        (|request| drop(request.spaces.pop()), Code::AlreadyExists),
    ];
    for (change, code) in settings {
        assert_eq!(create(&client, change).await.unwrap_err().code, code);
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_space_has_a_beam_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = shard_of(client.clone()).await;
    let tune = async |space: &str, ef| {
        let request = node_v1::TuneCollectionRequest { collection: shard.collection, space: space.into(), ef };
        client.clone().cluster().tune_collection(request).await.map(|reply| reply.into_inner())
    };
    tune("state", 300).await.unwrap();
    assert!(tune("mood", 300).await.is_err());
    let collection = create(&client, |_| ()).await.expect("its settings are still the same");
    let beams = |collection: &node_v1::Collection| {
        let named = collection.spaces.iter().map(|space| (space.name.clone(), space.ef));
        (collection.ef, named.collect::<Vec<_>>())
    };
    assert_eq!(beams(&collection), (0, vec![("state".into(), 300), ("place".into(), 0)]));
    let mut random = StdRng::seed_from_u64(5);
    let mut model = Model::new();
    change(&shard, 0..4_000, &mut random, &mut model).await;
    let explained = async |space: &str, dim| {
        let reply = search(&shard, space, vec![0.5; dim], |request| request.explain = true).await.unwrap();
        reply.explain.expect("it was asked for")
    };
    // The beam shows once there is a graph.
    eventually("there is a graph", Duration::from_secs(60), async || {
        explained("state", 12).await.plan() == node_v1::SearchPlan::Graph
    })
    .await;
    assert_eq!((explained("state", 12).await.ef, explained("place", 2).await.ef), (300, 48));
    node.shutdown().await;
}
