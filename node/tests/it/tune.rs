//! Measuring recall in a shard, and the beam that a collection is given: used by every search, kept over restarts.

use std::time::Duration;

use mira_proto::{Code, Problem, Refusal, node_v1, placement::shards_of_collection};
use mira_testing::eventually;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::common::{DIM, EAST, NodeClients, Shard, frame, start};

const FRAMES: u128 = 4_000;
const WANTED: f64 = 0.95;
/// One bit for each of so many components ranks roughly: how much is found is up to the beam.
const WIDE: usize = 64;

fn random_vector(random: &mut StdRng, dim: usize) -> Vec<f32> {
    (0..dim).map(|_| random.random_range(-1.0..1.0)).collect()
}

/// A collection of vectors of [`WIDE`] components, on the node's first shard.
async fn wide(client: NodeClients) -> Shard {
    let request = node_v1::CreateCollectionRequest {
        name: "wide".into(),
        dim: WIDE as u32,
        metric: node_v1::Metric::Cosine.into(),
        quantization: node_v1::Quantization::Binary.into(),
        partitions: 1,
        ..Default::default()
    };
    let collection = client.cluster().create_collection(request).await.expect("a collection").into_inner().id;
    let map = client.cluster().get_map(node_v1::GetMapRequest::default()).await.expect("a map").into_inner();
    let shard = shards_of_collection(collection, 1, map.shards.len() as u32)[0];
    Shard { client, collection, shard, epoch: map.epoch }
}

async fn fill(shard: &Shard, frames: u128, dim: usize) {
    let mut random = StdRng::seed_from_u64(3);
    let ids: Vec<u128> = (1..=frames).collect();
    for chunk in ids.chunks(100) {
        let frames = chunk.iter().map(|id| node_v1::FrameWrite {
            passages: vec![node_v1::Passage { start: 0, end: 0, vector: random_vector(&mut random, dim) }],
            ..frame(*id, &format!("frame {id}"), EAST)
        });
        let reply = shard.write(frames.collect()).await.unwrap();
        assert!(reply.outcomes.iter().all(|outcome| outcome.problem.is_none()), "{reply:?}");
    }
}

async fn measure(
    shard: &Shard,
    change: impl FnOnce(&mut node_v1::MeasureRecallRequest),
) -> Result<node_v1::MeasureRecallReply, Refusal> {
    let mut request = node_v1::MeasureRecallRequest {
        header: Some(node_v1::ReadHeader {
            epoch: shard.epoch,
            shard: shard.shard,
            collection: shard.collection,
            ..Default::default()
        }),
        k: 10,
        beams: vec![16, 64, 128, 256, 512, 1_024, 2_048],
        samples: 200,
        ..Default::default()
    };
    change(&mut request);
    Ok(shard.client.clone().shards().measure_recall(request).await?.into_inner())
}

/// Waits until the index has caught up with what was stored.
async fn indexed(shard: &Shard, vectors: u128) {
    eventually("the index has followed", Duration::from_secs(120), async || {
        measure(shard, |request| request.samples = 1).await.unwrap().vectors == vectors as u64
    })
    .await;
}

async fn tune(shard: &Shard, collection: u64, ef: u32) -> Result<node_v1::TuneCollectionReply, Refusal> {
    let request = node_v1::TuneCollectionRequest { collection, ef, ..Default::default() };
    Ok(shard.client.clone().cluster().tune_collection(request).await?.into_inner())
}

/// The beam that the node tells routers.
async fn mapped(shard: &Shard) -> u32 {
    let list = shard.client.clone().cluster().list_collections(node_v1::ListCollectionsRequest::default()).await;
    let list = list.unwrap().into_inner().collections;
    list.iter().find(|collection| collection.id == shard.collection).unwrap().ef
}

async fn search(shard: &Shard, vector: Vec<f32>, exact: bool, ef: u32) -> node_v1::SearchReply {
    let request = node_v1::SearchRequest {
        header: Some(node_v1::ReadHeader {
            epoch: shard.epoch,
            shard: shard.shard,
            collection: shard.collection,
            ..Default::default()
        }),
        vector,
        k: 10,
        ef,
        exact,
        explain: true,
        ..Default::default()
    };
    shard.client.clone().shards().search(request).await.unwrap().into_inner()
}

/// The beam that a search used, asked for one or for none.
async fn used(shard: &Shard, ef: u32) -> u32 {
    let vector = random_vector(&mut StdRng::seed_from_u64(5), WIDE);
    search(shard, vector, false, ef).await.explain.unwrap().ef
}

/// Mean recall of searches that name no beam, by vectors that are nobody's.
async fn recall(shard: &Shard) -> f64 {
    let mut random = StdRng::seed_from_u64(77);
    let mut total = 0.0;
    for _ in 0..50 {
        let query = random_vector(&mut random, WIDE);
        let exact = search(shard, query.clone(), true, 0).await.hits;
        let found = search(shard, query, false, 0).await.hits;
        let right = found.iter().filter(|hit| exact.iter().any(|other| other.id == hit.id)).count();
        total += right as f64 / exact.len() as f64;
    }
    total / 50.0
}

fn code<T: std::fmt::Debug>(result: Result<T, Refusal>) -> Code {
    match result {
        Err(Refusal::Problem(Problem { code, .. })) => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_beam_that_was_measured_holds_for_every_search_and_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = wide(client).await;
    fill(&shard, FRAMES, WIDE).await;
    indexed(&shard, FRAMES).await;
    let before = recall(&shard).await;
    let measured = measure(&shard, |_| {}).await.unwrap();
    assert_eq!((measured.vectors, measured.samples, measured.scanned), (FRAMES as u64, 200, false));
    for beam in &measured.beams {
        assert_eq!(beam.micros.len(), 200);
        println!("ef {}: recall {:.3}, {} µs", beam.ef, beam.recall, beam.micros[100]);
    }
    let chosen = measured.beams.iter().find(|beam| beam.recall >= WANTED).expect("a beam that reaches it");
    assert!(before < WANTED && measured.beams[0].recall < WANTED, "{before}: nothing to choose");

    let reply = tune(&shard, shard.collection, chosen.ef).await.unwrap();
    assert_eq!(mapped(&shard).await, chosen.ef);
    assert_eq!(tune(&shard, shard.collection, chosen.ef).await.unwrap(), reply, "the same again changes nothing");
    let after = recall(&shard).await;
    assert!(after >= WANTED - 0.03, "{after} with other queries than were measured");
    // A search may still name its own.
    tune(&shard, shard.collection, 96).await.unwrap();
    assert_eq!((used(&shard, 0).await, used(&shard, 160).await), (96, 160));
    node.shutdown().await;

    let (node, client) = start(folder.path()).await;
    let shard = wide(client).await;
    assert_eq!((mapped(&shard).await, used(&shard, 0).await), (96, 96));
    tune(&shard, shard.collection, 0).await.unwrap();
    assert_eq!(mapped(&shard).await, 0);
    assert!(recall(&shard).await < WANTED, "the index's own again");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_graph_is_not_measured_and_private_frames_never_are() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    let nothing = measure(&shard, |_| {}).await.unwrap();
    assert_eq!((nothing.vectors, nothing.scanned), (0, true), "nothing stored yet");
    let private = node_v1::FrameWrite {
        id: 9_999u128.to_be_bytes().to_vec().into(),
        private: Some(node_v1::PrivateWrite {
            owner: vec![1; 16].into(),
            digest: vec![2; 32].into(),
            body: "sealed body".into(),
            vectors: "sealed vectors".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    shard.one(private).await.unwrap();
    assert_eq!(measure(&shard, |_| {}).await.unwrap().vectors, 0);
    fill(&shard, 300, DIM as usize).await;
    indexed(&shard, 300).await;
    let small = measure(&shard, |_| {}).await.unwrap();
    assert_eq!((small.scanned, small.samples, small.beams.len()), (true, 0, 0));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_questions_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    assert_eq!(code(measure(&shard, |request| request.k = 0).await), Code::InvalidArgument);
    assert_eq!(code(measure(&shard, |request| request.k = 1_001).await), Code::InvalidArgument);
    assert_eq!(code(measure(&shard, |request| request.samples = 201).await), Code::InvalidArgument);
    assert_eq!(code(measure(&shard, |request| request.beams = vec![]).await), Code::InvalidArgument);
    assert_eq!(code(measure(&shard, |request| request.beams = vec![10, 2_049]).await), Code::InvalidArgument);
    let other = measure(&shard, |request| request.header.as_mut().expect("a header").collection = 1).await;
    assert!(matches!(other, Err(Refusal::StaleMap { .. })), "{other:?}");
    assert_eq!(code(tune(&shard, shard.collection, 2_049).await), Code::InvalidArgument);
    assert_eq!(code(tune(&shard, 1, 64).await), Code::NotFound);
    assert_eq!(mapped(&shard).await, 0);
    node.shutdown().await;
}
