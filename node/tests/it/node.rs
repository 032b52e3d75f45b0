//! A node as routers see it: over gRPC, on a real disk, alone.

use std::ops::{Bound, ControlFlow};
use std::time::Duration;

use mira_node::meta::{MetaCommand, NodeRecord};
use mira_proto::node_v1::ProposeMetaRequest;
use mira_proto::{Code, Refusal, node_v1};
use mira_raft::engine::{Batch, Durability, Engine, EngineOptions, EngineRole, Read, RocksEngine};
use mira_testing::eventually;

use crate::common::{DIM, EAST, NORTH, Shard, frame, number, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_is_found_and_read_as_soon_as_its_store_returns() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    for id in 1..=50u128 {
        let angle = id as f32 * 0.03;
        assert_eq!(shard.one(frame(id, &format!("frame {id}"), [angle.cos(), angle.sin(), 0.0, 0.0])).await, Ok(1));
        let hits = shard.search([angle.cos(), angle.sin(), 0.0, 0.0], 1).await.unwrap();
        assert_eq!(hits[0].0, id, "{hits:?}");
    }
    let frames = shard.fetch(&[7, 999, 3]).await;
    assert_eq!(frames.iter().map(|frame| number(&frame.id)).collect::<Vec<_>>(), [7, 3]);
    assert_eq!(frames[0].content, "frame 7".as_bytes());
    assert_eq!(frames[0].metadata_json, r#"{"n":1}"#);
    assert!(frames[0].created_ms > 1_700_000_000_000);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_conflict_and_repeat_as_promised() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    let code = |result: Result<u64, mira_proto::Problem>| result.map_err(|problem| problem.code);
    assert_eq!(code(shard.one(frame(1, "a", EAST)).await), Ok(1));
    assert_eq!(code(shard.one(frame(1, "a", EAST)).await), Ok(1), "the same content again");
    assert_eq!(code(shard.one(frame(1, "b", EAST)).await), Err(Code::Conflict));
    let replace = node_v1::FrameWrite { replace: true, ..frame(1, "b", NORTH) };
    assert_eq!(code(shard.one(replace.clone()).await), Ok(2));
    assert_eq!(code(shard.one(replace).await), Ok(2), "replacing by the same content");
    let expect = |version, content| node_v1::FrameWrite { expected_version: Some(version), ..frame(1, content, EAST) };
    assert_eq!(code(shard.one(expect(1, "c")).await), Err(Code::Conflict));
    assert_eq!(code(shard.one(expect(2, "c")).await), Ok(3));
    assert_eq!(code(shard.one(expect(2, "c")).await), Ok(3), "a retry of what took effect");
    assert_eq!(code(shard.one(expect(0, "d")).await), Err(Code::Conflict));
    let hits = shard.search(EAST, 5).await.unwrap();
    assert_eq!(hits.len(), 1, "old versions are not found: {hits:?}");
    assert!(hits[0].1 > 0.99);
    assert_eq!(shard.fetch(&[1]).await[0].version, 3);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_applied_once_and_its_id_means_one_thing() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    let frames = vec![frame(1, "a", EAST), frame(2, "b", NORTH)];
    let first = shard.write_as(77, frames.clone()).await.unwrap();
    shard.forget(node_v1::ForgetRequest { ids: vec![1u128.to_be_bytes().to_vec().into()], ..Default::default() }).await;
    let again = shard.write_as(77, frames).await.unwrap();
    assert_eq!(first.outcomes, again.outcomes, "answered as the first time");
    assert_eq!(shard.fetch(&[1, 2]).await.len(), 1, "not applied again");
    let other = shard.write_as(77, vec![frame(3, "c", EAST)]).await;
    assert!(matches!(other, Err(Refusal::Problem(problem)) if problem.code == Code::Conflict));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_stores_the_good_and_names_the_bad() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    let mut short = frame(2, "x", EAST);
    short.passages[0].vector.pop();
    let mut nan = frame(3, "x", EAST);
    nan.passages[0].vector[1] = f32::NAN;
    let mut broken = frame(4, "x", EAST);
    broken.content = vec![0xff, 0xfe].into();
    let zero = frame(5, "x", [0.0; 4]);
    let reply = shard.write(vec![frame(1, "good", EAST), short, nan, broken, zero]).await.unwrap();
    let codes: Vec<String> = reply
        .outcomes
        .iter()
        .map(|outcome| outcome.problem.as_ref().map_or(String::new(), |p| p.code.clone()))
        .collect();
    assert_eq!(codes, ["", "dimension_mismatch", "invalid_argument", "invalid_argument", "invalid_argument"]);
    assert_eq!(shard.fetch(&[1, 2, 3, 4, 5]).await.len(), 1);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_read_in_order_and_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    // Ids run against time, so that order by id would show.
    for id in (1..=9u128).rev() {
        let said = node_v1::FrameWrite { session: "talk".into(), ..frame(id, &format!("turn {id}"), EAST) };
        shard.one(said).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    shard.one(frame(100, "elsewhere", NORTH)).await.unwrap();
    assert_eq!(shard.session(100, false).await, [9, 8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(shard.session(3, false).await, [9, 8, 7]);
    assert_eq!(shard.session(3, true).await, [3, 2, 1]);
    let gone = shard.forget(node_v1::ForgetRequest { session: "talk".into(), ..Default::default() }).await;
    assert_eq!(gone.len(), 9);
    assert_eq!(shard.session(100, false).await, []);
    assert_eq!(shard.search(EAST, 10).await.unwrap().iter().map(|hit| hit.0).collect::<Vec<_>>(), [100]);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_frames_and_builds_the_index_again() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let id = node.node().id();
    let shard = Shard::new(client, "c").await;
    let frames: Vec<_> = (1..=200u128).map(|id| frame(id, "text", [id as f32, 200.0 - id as f32, 1.0, 0.0])).collect();
    for chunk in frames.chunks(100) {
        shard.write(chunk.to_vec()).await.unwrap();
    }
    shard.forget(node_v1::ForgetRequest { ids: vec![5u128.to_be_bytes().to_vec().into()], ..Default::default() }).await;
    let before = shard.search([3.0, 100.0, 1.0, 0.0], 20).await.unwrap();
    node.shutdown().await;

    let (node, client) = start(folder.path()).await;
    assert_eq!(node.node().id(), id, "the id is kept");
    let shard = Shard::new(client, "c").await;
    let after = shard.search([3.0, 100.0, 1.0, 0.0], 20).await.unwrap();
    assert_eq!(before, after);
    assert_eq!(shard.fetch(&[5, 6]).await.len(), 1);
    node.shutdown().await;
}

/// The meta group is group 0, and its state begins with that number.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_map_is_rebuilt_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "kept").await;
    assert_eq!(shard.one(frame(1, "kept", EAST)).await, Ok(1));
    node.shutdown().await;

    let state = RocksEngine::open(&folder.path().join("state"), EngineOptions::new(EngineRole::State)).unwrap();
    let (mut batch, mut damaged) = (Batch::default(), 0);
    let end = 1u32.to_be_bytes();
    state
        .scan(Bound::Unbounded, Bound::Excluded(&end), false, &mut |key, _| {
            batch.put(key, vec![0xee; 40]);
            damaged += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(damaged > 3, "{damaged} records of the map");
    state.write(&batch, Durability::Synced).unwrap();
    drop(state);

    let (node, client) = start(folder.path()).await;
    let found = Shard { client, ..shard }.fetch(&[1]).await;
    assert_eq!(found[0].content, "kept".as_bytes());
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_collection_leaves_nothing_and_its_name_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    shard.write((1..=100u128).map(|id| frame(id, "text", EAST)).collect()).await.unwrap();
    shard
        .client
        .cluster()
        .drop_collection(node_v1::DropCollectionRequest { name: "c".into(), ..Default::default() })
        .await
        .unwrap();
    let refusal = shard.write(vec![frame(1, "late", EAST)]).await.unwrap_err();
    assert!(matches!(refusal, Refusal::StaleMap { .. }), "{refusal:?}");
    let again = Shard::new(shard.client.clone(), "c").await;
    assert_ne!(again.collection, shard.collection);
    assert_eq!(again.search(EAST, 5).await.unwrap(), []);
    let status = || async {
        shard
            .client
            .clone()
            .cluster()
            .status(node_v1::StatusRequest { detailed: true, ..Default::default() })
            .await
            .unwrap()
            .into_inner()
    };
    eventually("the frames are purged", Duration::from_secs(10), async || {
        node.node().shards().iter().all(|(_, open)| open.index().stats().vectors == 0)
    })
    .await;
    assert_eq!(status().await.groups.iter().map(|group| group.frames).sum::<u64>(), 0);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_have_typed_refusals() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    Shard::new(client.clone(), "c").await;
    let good = node_v1::CreateCollectionRequest {
        name: "c".into(),
        dim: DIM,
        metric: node_v1::Metric::Cosine.into(),
        quantization: node_v1::Quantization::Int8.into(),
        partitions: 1,
        ..Default::default()
    };
    client.cluster().create_collection(good.clone()).await.expect("the same settings again");
    let bad = [
        (node_v1::CreateCollectionRequest { dim: 5, ..good.clone() }, Code::AlreadyExists),
        (node_v1::CreateCollectionRequest { name: String::new(), ..good.clone() }, Code::InvalidArgument),
        (node_v1::CreateCollectionRequest { name: "a/../b".into(), ..good.clone() }, Code::InvalidArgument),
        (node_v1::CreateCollectionRequest { name: "d".into(), dim: 0, ..good.clone() }, Code::InvalidArgument),
        (node_v1::CreateCollectionRequest { name: "d".into(), dim: 4_097, ..good.clone() }, Code::InvalidArgument),
        (node_v1::CreateCollectionRequest { name: "d".into(), metric: 9, ..good.clone() }, Code::InvalidArgument),
        (node_v1::CreateCollectionRequest { name: "d".into(), partitions: 99, ..good }, Code::InvalidArgument),
    ];
    for (request, code) in bad {
        let status = client.cluster().create_collection(request.clone()).await.unwrap_err();
        assert!(matches!(Refusal::from(status), Refusal::Problem(problem) if problem.code == code), "{request:?}");
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_with_another_key_or_protocol_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let info = node_v1::NodeInfo {
        id: 9,
        address: "127.0.0.1:1".into(),
        format: mira_proto::FORMAT_LEVEL,
        ..Default::default()
    };
    let request = |protocol_version, cluster_id: &str| node_v1::JoinRequest {
        node: Some(info.clone()),
        cluster_id: cluster_id.into(),
        protocol_version,
        proof: vec![1, 2, 3].into(),
        ..Default::default()
    };
    let other = "00000000-0000-0000-0000-000000000001";
    for (request, code) in [
        (request(1, ""), Code::PermissionDenied),
        (request(2, ""), Code::UnsupportedVersion),
        (request(1, other), Code::InvalidArgument),
    ] {
        let refusal = Refusal::from(client.cluster().join(request).await.unwrap_err());
        assert!(matches!(&refusal, Refusal::Problem(problem) if problem.code == code), "{refusal:?}");
    }
    assert_eq!(node.node().cluster().nodes.len(), 1, "nothing changed");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_and_a_sealed_command_that_somebody_kept_are_good_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let there = node.node().cluster().nodes.values().next().unwrap().clone();
    let me = NodeRecord { id: 9, address: "127.0.0.1:1".into(), ..there };
    let challenge = client.cluster().identify(node_v1::IdentifyRequest {}).await.unwrap().into_inner().challenge;
    let proof = node.node().join_proof(&me, &challenge).into();
    let protocol_version = mira_proto::PROTOCOL_VERSION;
    let request =
        node_v1::JoinRequest { node: Some(me.to_wire()), protocol_version, proof, challenge, ..Default::default() };
    client.cluster().join(request.clone()).await.unwrap();
    let refused = |status: tonic::Status| match Refusal::from(status) {
        Refusal::Problem(problem) => problem.code,
        other => panic!("{other}"),
    };
    assert_eq!(refused(client.cluster().join(request).await.unwrap_err()), Code::PermissionDenied);

    let sealed = |position| {
        let sealer = node.node().keyring().meta_sealer();
        MetaCommand::PauseMoves(true).seal(position, &sealer, &mut mira_crypto::os_rng())
    };
    let propose =
        async |sealed: Vec<u8>| client.cluster().propose_meta(ProposeMetaRequest { sealed: sealed.into() }).await;
    let pause = sealed(node.node().meta().reader().applied_index());
    propose(pause.clone()).await.unwrap();
    node.node().propose_meta(&MetaCommand::PauseMoves(false)).await.unwrap();
    assert_eq!(refused(propose(pause).await.unwrap_err()), Code::PermissionDenied, "again");
    assert!(!node.node().cluster().moves_paused);
    node.shutdown().await;
}
