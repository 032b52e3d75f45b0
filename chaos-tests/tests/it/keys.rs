//! Keys change and end while what they seal is written, read and searched, and while nodes go and come back.

use std::collections::BTreeSet;

use mira_crypto::ReceiptKey;
use mira_node::meta::RotationStep;
use mira_node::shard::{Shard, history, record};
use mira_node::{FixedKeys, Formation, NodeConfig, RunningNode, StartError};
use mira_proto::Code;
use mira_proto::model::{
    CollectionSettings, Erasure, ForgetRequest, KeysReply, RecallRequest, RotateRequest, SearchRequest, StoreItem,
    StoreRequest,
};
use mira_testing::eventually;
use uuid::Uuid;

use crate::support::{Cluster, DIM, KEY, NAME, PATIENCE, SHARDS, Work, context, holds};

const NEW_KEY: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";

impl Cluster {
    async fn rotate(&self, collection: Option<&str>) -> Result<u64, mira_proto::Problem> {
        let request = RotateRequest { collection: collection.map(str::to_owned) };
        Ok(self.memory.rotate_key(&context(), request).await?.id)
    }

    async fn keys(&self) -> KeysReply {
        self.memory.list_keys(&context()).await.expect("keys")
    }

    async fn erasure(&self, id: u64) -> Option<Erasure> {
        let reply = self.memory.list_erasures(&context()).await.expect("erasures");
        reply.erasures.into_iter().find(|erasure| erasure.id == id)
    }

    /// Waits for the end of keys, which must be signed by the cluster.
    async fn until_gone(&self, id: u64) -> Erasure {
        let erasure = eventually("the keys are gone", PATIENCE, async || {
            self.erasure(id).await.filter(|erasure| erasure.receipt.is_some())
        });
        let erasure = erasure.await;
        let receipt = erasure.receipt.as_ref().expect("it is signed");
        let bytes = |hex: &str| -> Vec<u8> {
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
        };
        let (key, signature) = (bytes(&receipt.public_key), bytes(&receipt.signature));
        assert!(ReceiptKey::verifies(&key, receipt.statement.as_bytes(), &signature), "{receipt:?}");
        assert!(
            !ReceiptKey::verifies(&key, receipt.statement.replace("done", "").as_bytes(), &signature)
                || !receipt.statement.contains("done")
        );
        assert_eq!(erasure.state, "done");
        erasure
    }

    fn step(&self) -> Option<RotationStep> {
        let newest = self.nodes.values().map(|node| node.node().cluster()).max_by_key(|found| found.header.epoch)?;
        newest.rotations.values().next().map(|rotation| rotation.step)
    }

    /// The versions of the keys that plain frames of a collection are sealed with, on every node.
    fn sealed_with(&self, collection: u64) -> BTreeSet<u32> {
        let mut versions = BTreeSet::new();
        for node in self.nodes.values() {
            for shard in (0..SHARDS).filter_map(|shard| node.node().shard(shard).ok()) {
                versions.extend(past_sealed_with(&shard, collection));
                let prefix = record::collection_prefix(record::Table::Records, collection);
                let end = record::frame_key(collection, u128::MAX);
                let view = shard.group().reader().view().expect("a view");
                let mut look = |_: &[u8], stored: &[u8]| {
                    let found = record::FrameRecord::decode(stored).expect("readable");
                    if found.fields.owner.is_none() {
                        versions.insert(mira_crypto::frame::key_version(&found.body).expect("sealed"));
                    }
                    std::ops::ControlFlow::Continue(())
                };
                let (from, to) = (std::ops::Bound::Included(&prefix[..]), std::ops::Bound::Included(&end[..]));
                view.scan(from, to, false, &mut look).expect("readable");
            }
        }
        versions
    }

    fn collection_id(&self, name: &str) -> u64 {
        self.nodes[&0].node().cluster().collection_named(name).expect("it is there").id
    }
}

/// The versions of the keys that past versions of plain frames are sealed with.
fn past_sealed_with(shard: &Shard, collection: u64) -> BTreeSet<u32> {
    let (mut versions, view) = (BTreeSet::new(), shard.group().reader().view().expect("a view"));
    let mut look = |_: &[u8], stored: &[u8]| {
        let (found, _) = history::PastVersion::decode(stored).expect("readable");
        if found.fields.owner.is_none() {
            versions.insert(mira_crypto::frame::key_version(&found.body).expect("sealed"));
        }
        std::ops::ControlFlow::Continue(())
    };
    view.scan_prefix(&record::collection_prefix(record::Table::Past, collection), false, &mut look).expect("readable");
    versions
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collections_key_is_rotated_under_load_and_the_old_one_destroyed() {
    let cluster = Cluster::start().await;
    let work = Work::begin(&cluster, 4, 250).await;
    let collection = cluster.collection_id(NAME);
    let (named, _) = cluster.store_named("a").await;
    cluster.make_a_past().await;
    assert_eq!(cluster.sealed_with(collection), [1].into());
    work.some_more().await;
    let id = cluster.rotate(Some(NAME)).await.expect("it begins");
    assert_eq!(cluster.rotate(Some(NAME)).await.expect("asking again does no harm"), id);
    let erasure = cluster.until_gone(id).await;
    work.some_more().await;
    for worker in work.end().await {
        worker.check_all().await;
    }
    assert_eq!(cluster.store_named("a").await, (named, true), "ids are made with a key that stays");
    assert_eq!(cluster.sealed_with(collection), [2].into());
    cluster.has_its_past().await;
    let keys = cluster.keys().await;
    let of_collection = &keys.collections.iter().find(|found| found.name == NAME).expect("it is listed").keys;
    assert_eq!(of_collection.iter().map(|key| key.version).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(erasure.keys.iter().map(|key| key.version).collect::<Vec<_>>(), [1]);
    assert!(!of_collection.iter().any(|key| key.id == erasure.keys[0].id));
    assert_eq!((erasure.collection.as_deref(), erasure.whole), (Some(NAME), false));
    assert_eq!(cluster.rotate(Some("nobody")).await.expect_err("there is none").code, Code::NotFound);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_goes_on_after_every_node_was_restarted_at_each_of_its_steps() {
    let mut cluster = Cluster::start().await;
    let work = Work::begin(&cluster, 2, 250).await;
    cluster.make_a_past().await;
    let collection = cluster.collection_id(NAME);
    let id = cluster.rotate(Some(NAME)).await.expect("it begins");
    for (at, step) in [RotationStep::Preparing, RotationStep::Resealing, RotationStep::Retiring].into_iter().enumerate()
    {
        cluster.until("the next step", |cluster| cluster.step().is_none_or(|now| now >= step)).await;
        cluster.restart(at).await;
    }
    cluster.until_gone(id).await;
    work.some_more().await;
    for worker in work.end().await {
        worker.check_all().await;
    }
    assert_eq!(cluster.sealed_with(collection), [2].into());
    cluster.has_its_past().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_key_is_rotated_under_load_and_the_old_one_is_needed_no_more() {
    let mut cluster = Cluster::start().await;
    let work = Work::begin(&cluster, 2, 100).await;
    let before = cluster.keys().await.active;
    let (named, _) = cluster.store_named("a").await;
    assert_eq!(cluster.rotate(None).await.expect_err("there is no other key").code, Code::Conflict);
    cluster.keys.put_first(NEW_KEY);
    work.some_more().await;
    let id = cluster.rotate(None).await.expect("it is rotated");
    let erasure = cluster.until_gone(id).await;
    assert_eq!(erasure.keys[0].id, before);
    let keys = cluster.keys().await;
    assert_ne!(keys.active, before);
    assert!(keys.nodes.iter().all(|node| node.held == [keys.active.clone(), before.clone()]), "{:?}", keys.nodes);
    work.some_more().await;

    cluster.keys.remove(KEY);
    for at in 0..3 {
        cluster.restart(at).await;
    }
    work.some_more().await;
    for worker in work.end().await {
        worker.check_all().await;
    }
    assert_eq!(cluster.keys().await.nodes[0].held, [keys.active]);
    assert_eq!(cluster.store_named("a").await, (named, true), "ids are made with a key that was only wrapped anew");

    // A node with the old key alone says which one it lacks.
    let node = cluster.nodes.remove(&2).expect("a node");
    let folder = cluster.folders[2].path().to_owned();
    node.shutdown().await;
    let old = FixedKeys::new([&mira_crypto::ClusterKey::from_text(KEY).expect("a key")]);
    let any = "127.0.0.1:0".parse().expect("an address");
    let config = NodeConfig { listen: any, http_listen: any, ..NodeConfig::new(folder, old, Formation::Join(vec![])) };
    match RunningNode::start(config).await {
        Err(StartError::NoClusterKey(_)) => {}
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it started"),
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shredded_is_gone_with_its_key_from_every_node() {
    let mut cluster = Cluster::start().await;
    let work = Work::begin(&cluster, 1, 50).await;
    let settings = CollectionSettings { dim: Some(DIM), partitions: Some(SHARDS), ..Default::default() };
    cluster.memory.put_collection(&context(), "secrets", settings.clone()).await.expect("a collection");
    let item = |n: u32| StoreItem {
        content: Some(format!("secret {n}")),
        vector: Some(vec![1.0; DIM as usize]),
        collection: Some("secrets".into()),
        ..Default::default()
    };
    let request = StoreRequest { items: Some((0..100).map(item).collect()), ..Default::default() };
    cluster.memory.store(&context(), request).await.expect("stored");
    let collection = cluster.collection_id("secrets");
    // As it lies in a file, sealed: the record with the wrapped keys.
    let key = [&b"c"[..], &collection.to_be_bytes()].concat();
    let mut sealed = Vec::new();
    for node in cluster.nodes.values() {
        let record = node.node().meta().reader().get(&key).expect("readable").expect("it is there");
        sealed.push(record[20..60].to_vec());
        node.node().host().compact_state(0, &[]).await.expect("written");
    }
    let found = |cluster: &Cluster| {
        cluster.folders.iter().zip(&sealed).filter(|(folder, sealed)| holds(folder.path(), sealed)).count()
    };
    assert_eq!(found(&cluster), 3, "the test looks for the right bytes");

    let shred = ForgetRequest { all: true, shred: true, collection: Some("secrets".into()), ..Default::default() };
    let id = cluster.memory.forget(&context(), shred).await.expect("shredded").shred.expect("it has begun");
    let gone = cluster.memory.get_collection(&context(), "secrets").await.expect_err("it is gone");
    assert_eq!(gone.code, Code::NotFound);
    cluster.restart(1).await;
    let erasure = cluster.until_gone(id).await;
    assert!(erasure.whole && erasure.keys.len() == 2, "{erasure:?}");
    assert_eq!(found(&cluster), 0, "the wrapped keys are in no file any more");
    for node in cluster.nodes.values() {
        let cluster = node.node().cluster();
        assert!(!cluster.collections.contains_key(&collection));
        assert!(node.node().keyring().version(cluster.collection_named(NAME).expect("there"), 1).is_ok());
    }
    // The name is free, and what comes is not what was.
    cluster.memory.put_collection(&context(), "secrets", settings).await.expect("a collection");
    assert_ne!(cluster.collection_id("secrets"), collection);
    let search = SearchRequest {
        vector: Some(vec![1.0; DIM as usize]),
        collection: Some("secrets".into()),
        ..Default::default()
    };
    assert!(cluster.memory.search(&context(), search).await.expect("searched").hits.is_empty());
    for worker in work.end().await {
        worker.check_all().await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn single_frames_are_shredded_by_a_new_key_for_all_others() {
    let cluster = Cluster::start().await;
    let work = Work::begin(&cluster, 1, 50).await;
    let id = Uuid::from_u128(7);
    let item = StoreItem {
        content: Some("secret".into()),
        vector: Some(vec![1.0; DIM as usize]),
        id: Some(id),
        collection: Some(NAME.into()),
        ..Default::default()
    };
    cluster.memory.store(&context(), StoreRequest { item, items: None }).await.expect("stored");
    let shred = ForgetRequest { id: Some(id), shred: true, collection: Some(NAME.into()), ..Default::default() };
    let reply = cluster.memory.forget(&context(), shred).await.expect("shredded");
    assert_eq!(reply.removed, 1);
    let erasure = cluster.until_gone(reply.shred.expect("it has begun")).await;
    assert!(!erasure.whole);
    let recall = RecallRequest { id: Some(id), collection: Some(NAME.into()), ..Default::default() };
    assert_eq!(cluster.memory.recall(&context(), recall).await.expect_err("gone").code, Code::NotFound);
    for worker in work.end().await {
        worker.check_all().await;
    }
    assert_eq!(cluster.sealed_with(cluster.collection_id(NAME)), [2].into());
    cluster.stop().await;
}
