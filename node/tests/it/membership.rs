//! Nodes that come and go, over gRPC and real disks, within one process.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Bound, ControlFlow},
    path::Path,
    time::Duration,
};

use mira_node::meta::{MetaAnswer, MetaCommand, NodeRecord};
use mira_node::shard::history::{self, History};
use mira_node::{Formation, RunningNode, Shape, StartError, VerificationSettings};
use mira_proto::{
    Code, PROTOCOL_VERSION, Problem, Refusal,
    node_v1::{self, change_node_request::Action},
};
use mira_testing::{eventually, eventually_blocking};

use crate::common::cluster::{Addresses, Cluster, PATIENCE, SHARDS, request, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_format_level_is_switched_on_when_every_node_knows_it_and_keeps_older_ones_out() {
    let mut cluster = Cluster::of(3).await;
    let records: Vec<NodeRecord> = cluster.nodes[&0].node().cluster().nodes.values().cloned().collect();
    let level = |cluster: &Cluster| cluster.nodes[&0].node().cluster().header.format;
    let next = level(&cluster) + 1;
    // As three nodes of the release to come would say, one after the other.
    for (at, record) in records.iter().enumerate() {
        let answer = cluster.nodes[&0].node().propose_meta(&MetaCommand::RaiseFormat(next)).await;
        assert_eq!(answer.expect("answered"), MetaAnswer::Refused, "{at} of 3 nodes know it");
        let newer = MetaCommand::PutNode(NodeRecord { format: next, ..record.clone() });
        assert_eq!(cluster.nodes[&0].node().propose_meta(&newer).await.expect("answered"), MetaAnswer::Done);
    }
    eventually("the level is switched on", PATIENCE, async || level(&cluster) == next).await;

    // A node of this release is not let in any more, neither anew nor as what it was.
    let older = MetaCommand::PutNode(records[1].clone());
    let answer = cluster.nodes[&0].node().propose_meta(&older).await.expect("answered");
    assert_eq!(answer, MetaAnswer::Refused);
    let me = NodeRecord { id: 77, ..records[1].clone() };
    let request = node_v1::JoinRequest {
        node: Some(me.to_wire()),
        protocol_version: PROTOCOL_VERSION,
        proof: cluster.nodes[&0].node().join_proof(&me, b"").into(),
        ..Default::default()
    };
    let client = cluster.clients().await.remove(0);
    let refused = Problem::from(client.cluster().join(request).await.expect_err("it knows too little"));
    assert_eq!(refused.code, Code::UnsupportedVersion, "{refused:?}");
    cluster.nodes.remove(&2).expect("it runs").shutdown().await;
    let folder = cluster.folders[2].path();
    let again = start(folder, Formation::Join(Vec::new())).await.map(drop);
    let is_refused =
        matches!(again, Err(StartError::Format { written, known }) if written == next && known == next - 1);
    assert!(is_refused, "{again:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_added_another_drained_and_removed_and_nothing_is_lost() {
    let mut cluster = Cluster::of(3).await;
    cluster.store_some().await;
    let fourth = cluster.grow().await;
    let id = cluster.id(fourth);
    let map = cluster.map().await;
    assert_eq!(map.nodes.iter().find(|node| node.id == id).expect("known").phase(), node_v1::NodePhase::Standby);

    let add = request(Action::Add, id);
    let planned = cluster.change(node_v1::ChangeNodeRequest { dry_run: true, ..add.clone() }).await.expect("a plan");
    assert!(!planned.is_empty() && planned.iter().all(|found| found.to == id), "{planned:?}");
    assert_eq!(
        cluster.map().await.nodes.iter().find(|node| node.id == id).expect("known").phase(),
        node_v1::NodePhase::Standby
    );
    cluster.change(add).await.expect("added");
    let map = cluster.settled_on(&[0, 1, 2, fourth]).await;
    let held = map.shards.iter().filter(|shard| shard.replicas.contains(&id)).count();
    assert_eq!(held, planned.len(), "what was planned is what moved");
    cluster.store_some().await;
    cluster.assert_all_there().await;

    // The first node made the cluster and most likely leads the meta group: it can go as well as any other.
    let first = cluster.id(0);
    assert_eq!(
        cluster.change(request(Action::Remove, first)).await.expect_err("it holds replicas").code,
        Code::Conflict
    );
    cluster.change(request(Action::Drain, first)).await.expect("drained");
    cluster.settled_on(&[1, 2, fourth]).await;
    cluster.store_some().await;
    cluster.assert_all_there().await;
    let map =
        cluster.wait("drained", |map| map.nodes.iter().any(|node| node.phase() == node_v1::NodePhase::Drained)).await;
    assert_eq!(
        map.nodes.iter().find(|node| node.phase() == node_v1::NodePhase::Drained).map(|node| node.id),
        Some(first)
    );
    let refused = cluster.change(request(Action::Drain, id)).await.expect_err("three replicas need three nodes");
    assert_eq!(refused.code, Code::Conflict);

    let remove = node_v1::ChangeNodeRequest { request_id: vec![7; 16].into(), ..request(Action::Remove, first) };
    let removed = cluster.change(remove.clone()).await.expect("removed");
    cluster.wait("forgotten", |map| map.nodes.iter().all(|node| node.id != first)).await;
    assert_eq!(cluster.change(remove.clone()).await.expect("its answer was lost"), removed);
    let without = node_v1::ChangeNodeRequest { request_id: Vec::new().into(), ..remove };
    assert_eq!(cluster.change(without).await.expect_err("there is none").code, Code::NotFound);
    let gone = cluster.nodes.remove(&0).expect("the first node");
    assert!(gone.node().shards().is_empty(), "its replicas were removed from its disk");
    gone.shutdown().await;
    cluster.store_some().await;
    cluster.assert_all_there().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_replaced_by_one_that_has_just_joined() {
    let mut cluster = Cluster::of(3).await;
    cluster.store_some().await;
    let (dead, alive) = (cluster.id(2), cluster.id(1));
    let target = cluster.grow().await;
    let by = cluster.id(target);
    let replace = node_v1::ChangeNodeRequest { by, ..request(Action::Replace, dead) };
    let refused = cluster.change(replace.clone()).await.expect_err("it is alive");
    assert_eq!(refused.code, Code::Conflict);
    assert!(refused.detail.contains("drain"), "{}", refused.detail);
    let taken = node_v1::ChangeNodeRequest { by: alive, ..replace.clone() };
    assert_eq!(cluster.change(taken).await.expect_err("it has its own replicas").code, Code::Conflict);

    cluster.nodes.remove(&2).expect("a node").shutdown().await;
    cluster.store_some().await;
    let planned =
        cluster.change(node_v1::ChangeNodeRequest { dry_run: true, ..replace.clone() }).await.expect("a plan");
    assert_eq!(planned.len(), SHARDS as usize);
    cluster.change(replace).await.expect("replaced");
    cluster.settled_on(&[0, 1, target]).await;
    cluster.assert_all_there().await;
    cluster.change(request(Action::Remove, dead)).await.expect("forgotten");
    cluster.store_some().await;
    cluster.assert_all_there().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_goes_on_after_everything_was_restarted() {
    let mut cluster = Cluster::of(3).await;
    cluster.store_some().await;
    let fourth = cluster.grow().await;
    cluster.change(request(Action::Add, cluster.id(fourth))).await.expect("added");
    cluster.wait("a move has begun", |map| !map.moves.is_empty()).await;
    let addresses: BTreeMap<usize, Addresses> =
        cluster.nodes.iter().map(|(&at, node)| (at, Addresses::of(node))).collect();
    let nodes = std::mem::take(&mut cluster.nodes);
    futures::future::join_all(nodes.into_values().map(RunningNode::shutdown)).await;
    for (at, addresses) in addresses {
        cluster.restart(at, addresses).await;
    }
    cluster.settled_on(&[0, 1, 2, fourth]).await;
    cluster.store_some().await;
    cluster.assert_all_there().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_log_never_votes_again_under_its_id() {
    let mut cluster = Cluster::of(3).await;
    cluster.store_some().await;
    let lost = cluster.id(1);
    cluster.nodes.remove(&1).expect("a node").shutdown().await;
    std::fs::remove_dir_all(cluster.folders[1].path().join("log")).expect("the log is gone");
    let refused = start(cluster.folders[1].path(), Formation::Bootstrap(Shape::default())).await;
    assert!(matches!(refused, Err(StartError::LostLog(id)) if id == lost), "it must not found a second cluster");
    let node = start(cluster.folders[1].path(), cluster.join()).await.expect("it starts as another");
    let new = node.node().id();
    assert_ne!(new, lost);
    cluster.nodes.insert(1, node);
    let map = cluster.wait("it joins anew", |map| map.nodes.iter().any(|node| node.id == new)).await;
    assert_eq!(map.nodes.iter().find(|node| node.id == new).expect("known").phase(), node_v1::NodePhase::Standby);
    let replace = node_v1::ChangeNodeRequest { by: new, ..request(Action::Replace, lost) };
    cluster.change(replace).await.expect("it takes its old place");
    cluster.settled_on(&[0, 1, 2]).await;
    cluster.assert_all_there().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_compared_and_one_that_is_rebuilt_holds_the_same_again() {
    let mut cluster = Cluster::of(3).await;
    cluster.store_some().await;
    let (sick, shard, frame) = (cluster.id(1), 2, 3);
    cluster.replace_and_forget(shard, frame).await;
    let before = cluster.digests(shard).await;
    assert_eq!(before.len(), 3);
    assert!(before.values().all(|reply| reply.digest == before[&sick].digest && reply.index == before[&sick].index));
    let repair = node_v1::RepairReplicaRequest { shard, node: sick };
    let epoch = cluster
        .ask("a repair", |client| async move {
            client.cluster().repair_replica(repair).await.map(tonic::Response::into_inner)
        })
        .await
        .epoch;
    let map = cluster.wait("it was rebuilt", |map| map.epoch > epoch && map.moves.is_empty()).await;
    assert!(map.shards[shard as usize].replicas.contains(&sick));
    cluster.settled_on(&[0, 1, 2]).await;
    cluster.store_some().await;
    let after = cluster.digests(shard).await;
    assert!(after.values().all(|reply| reply.digest == after[&sick].digest && reply.pairs > before[&sick].pairs));
    // The past came along in the snapshot, and what rests in the bin.
    let rebuilt = cluster.nodes[&1].node().shard(shard).expect("a replica");
    let stored = rebuilt.group().reader().get(&history::history_key(cluster.collection, frame)).expect("readable");
    let past = History::decode(&stored.expect("it has a past")).expect("a history");
    assert_eq!((past.is_binned(), past.versions.len()), (true, 2));
    assert_eq!(cluster.undelete(shard, frame).await, 3);
    cluster.assert_all_there().await;
    cluster.stop().await;
}

/// One read at level `any` of shard 0, from the last node that is left.
async fn read_any(cluster: &Cluster, last_resort: bool) -> Result<node_v1::FetchReply, Refusal> {
    let node = cluster.nodes.values().next().expect("a node");
    let request = node_v1::FetchRequest {
        header: Some(node_v1::ReadHeader {
            epoch: u64::MAX,
            shard: 0,
            collection: cluster.collection,
            level: Some(node_v1::ReadLevel { kind: node_v1::read_level::Kind::Any as i32, at_least: 0, last_resort }),
            ..Default::default()
        }),
        ids: vec![1u128.to_be_bytes().to_vec().into()],
        ..Default::default()
    };
    node.node().shard(0)?.fetch(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_hears_no_leader_is_read_only_as_the_last_resort() {
    let mut cluster = Cluster::of(3).await;
    cluster.store_some().await;
    let fresh = cluster.clients().await;
    assert_eq!(fresh.len(), 3);
    let reply = eventually("a fresh answer", PATIENCE, async || {
        read_any(&cluster, false).await.ok().filter(|reply| reply.frames.len() == 1)
    })
    .await;
    let freshness = reply.state.as_ref().expect("a state").freshness.expect("an answer of any replica has an age");
    assert!(!freshness.lagging && freshness.staleness_ms <= 3_000, "{freshness:?}");
    for at in [1, 2] {
        cluster.nodes.remove(&at).expect("a node").shutdown().await;
    }
    let staleness_ms = eventually("the replica lags", PATIENCE, async || match read_any(&cluster, false).await {
        Err(Refusal::Lagging { staleness_ms }) => Some(staleness_ms),
        _ => None,
    })
    .await;
    // More than three seconds, told in whole milliseconds.
    assert!(staleness_ms >= 3_000, "{staleness_ms}");
    let reply = read_any(&cluster, true).await.expect("better an old answer than none");
    let freshness = reply.state.as_ref().expect("a state").freshness.expect("it has an age");
    assert!(freshness.lagging && freshness.staleness_ms >= staleness_ms && reply.frames.len() == 1, "{freshness:?}");
    cluster.stop().await;
}

/// Puts a record into the state of a stopped node that no other replica has: every checksum fits, and it is wrong.
fn tamper(folder: &Path, group: u32) {
    use mira_raft::engine::{Batch, Durability, Engine, EngineOptions, EngineRole, RocksEngine};
    let engine = eventually_blocking("the folder is free", PATIENCE, || {
        RocksEngine::open(&folder.join("state"), EngineOptions::new(EngineRole::State)).ok()
    });
    // Group, generation 1, the application's table: `raft/src/state.rs`.
    let mut key = group.to_be_bytes().to_vec();
    key.extend(1u32.to_be_bytes());
    key.extend([1, b'z']);
    let mut batch = Batch::default();
    batch.put(key, b"nobody wrote this".to_vec());
    engine.write(&batch, Durability::Synced).expect("written");
}

/// Damages a block of a group's state in a stopped node, so that compaction, which the next start begins with, meets it.
fn damage(folder: &Path, group: u32) {
    use mira_raft::engine::{Batch, Durability, Engine, EngineOptions, EngineRole, Read, RocksEngine};
    let folder = folder.join("state");
    let open = || RocksEngine::open(&folder, EngineOptions::new(EngineRole::State));
    let engine = eventually_blocking("the folder is free", PATIENCE, || open().ok());
    engine.compact(&[], &[]).expect("compacted");
    let (from, to) = (group.to_be_bytes(), (group + 1).to_be_bytes());
    let mut values = Vec::new();
    let part = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
    engine
        .scan(part.0, part.1, false, &mut |key, value| {
            values.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .expect("readable");
    drop(engine);
    // Sealed, so that no other place reads the same.
    let (key, value) = values.iter().filter(|(_, value)| value.len() > 80).nth(20).expect("frames");
    let sealed = &value[value.len() - 16..];
    let mut hits = 0;
    for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
        let mut bytes = std::fs::read(entry.path()).unwrap_or_default();
        let is_table = entry.path().extension().is_some_and(|extension| extension == "sst");
        if let Some(at) = bytes.windows(16).position(|window| window == sealed).filter(|_| is_table) {
            bytes[at] ^= 1;
            std::fs::write(entry.path(), bytes).expect("written");
            hits += 1;
        }
    }
    assert_eq!(hits, 1, "a block of the table is damaged");
    // Files that overlap with it, as many as make a compaction.
    for _ in 0..6 {
        let Ok(engine) = open() else { continue };
        let mut batch = Batch::default();
        batch.put(key.clone(), value.clone());
        batch.put(values[0].0.clone(), values[0].1.clone());
        // It may have met the damage already.
        let _ = engine.write(&batch, Durability::Synced);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_state_takes_no_writes_any_more_saves_what_is_readable() {
    let mut cluster = Cluster::of(3).await;
    for _ in 0..40 {
        cluster.store_some().await;
    }
    let (sick, shard) = (1, 1);
    let addresses = Addresses::of(&cluster.nodes[&sick]);
    cluster.nodes.remove(&sick).expect("a node").shutdown().await;
    damage(cluster.folders[sick].path(), shard + 1);
    cluster.store_some().await;
    cluster.restart(sick, addresses).await;
    let saved = cluster.folders[sick].path().join("state/rebuilt-1/WHOLE");
    eventually("something is saved", PATIENCE, async || {
        cluster.store_some().await;
        saved.exists()
    })
    .await;
    cluster.settled_on(&[0, 1, 2]).await;
    cluster.store_some().await;
    for shard in 0..SHARDS {
        let digests: BTreeSet<Vec<u8>> =
            cluster.digests(shard).await.values().map(|reply| reply.digest.to_vec()).collect();
        assert_eq!(digests.len(), 1, "shard {shard}");
    }
    cluster.assert_all_there().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_differs_is_found_and_rebuilt_in_the_background() {
    let mut cluster =
        Cluster::verifying(3, VerificationSettings { every: Some(Duration::from_secs(2)), repairs: true }).await;
    cluster.store_some().await;
    let (sick, shard) = (2, 1);
    let addresses = Addresses::of(&cluster.nodes[&sick]);
    let verified = |cluster: &Cluster, verdict: &str| {
        let line = format!("mira_node_verifications_total{{verdict=\"{verdict}\"}}");
        cluster.nodes.values().any(|node| node.node().metrics.scrape(&node.node().figures()).contains(&line))
    };
    eventually("somebody verifies", PATIENCE, async || verified(&cluster, "sound")).await;
    assert!(!verified(&cluster, "differs"));
    cluster.nodes.remove(&sick).expect("a node").shutdown().await;
    tamper(cluster.folders[sick].path(), shard + 1);
    cluster.restart(sick, addresses).await;
    let repaired = |cluster: &Cluster| {
        let line = "mira_node_replicas_repaired_total 1";
        cluster.nodes.values().any(|node| node.node().metrics.scrape(&node.node().figures()).contains(line))
    };
    eventually("the difference is found", PATIENCE, async || verified(&cluster, "differs") && repaired(&cluster)).await;
    cluster.settled_on(&[0, 1, 2]).await;
    let after = cluster.digests(shard).await;
    let digests: BTreeSet<Vec<u8>> = after.values().map(|reply| reply.digest.to_vec()).collect();
    assert_eq!(digests.len(), 1, "{after:?}");
    cluster.store_some().await;
    cluster.assert_all_there().await;
    cluster.stop().await;
}
