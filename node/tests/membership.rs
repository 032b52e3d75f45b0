//! Nodes that come and go, over gRPC and real disks, within one process.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::{Bound, ControlFlow},
    path::Path,
    time::{Duration, Instant},
};

use mira_crypto::ClusterKey;
use mira_node::{FixedKeys, Formation, NodeConfig, RunningNode, Shape, StartError, VerificationSettings};
use mira_proto::{
    Code, NodeId, Problem, Refusal,
    node_v1::{self, change_node_request::Action, node_client::NodeClient},
};
use tempfile::TempDir;
use tonic::transport::Channel;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const SHARDS: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(60);

/// Nodes by the order of their start, each with its folder.
struct Cluster {
    nodes: BTreeMap<usize, RunningNode>,
    folders: Vec<TempDir>,
    collection: u64,
    stored: u128,
}

async fn start(folder: &Path, formation: Formation) -> Result<RunningNode, StartError> {
    let any = "127.0.0.1:0".parse().expect("an address");
    start_at(folder, formation, (any, any)).await
}

async fn start_at(
    folder: &Path,
    formation: Formation,
    addresses: (SocketAddr, SocketAddr),
) -> Result<RunningNode, StartError> {
    start_with(folder, formation, addresses, VerificationSettings { every: None, repairs: false }).await
}

/// Starts a node; waits until an earlier one in this process has let its folder go.
async fn start_with(
    folder: &Path,
    formation: Formation,
    (listen, http_listen): (SocketAddr, SocketAddr),
    verification: VerificationSettings,
) -> Result<RunningNode, StartError> {
    let started = Instant::now();
    loop {
        let key = FixedKeys::new([&ClusterKey::from_text(KEY).expect("a key")]);
        let config = NodeConfig {
            listen,
            http_listen,
            verification,
            ..NodeConfig::new(folder.to_owned(), key, formation.clone())
        };
        match RunningNode::start(config).await {
            Err(StartError::Engine(error))
                if error.to_string().contains("lock hold") && started.elapsed() < PATIENCE =>
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}

impl Cluster {
    async fn of(count: usize) -> Cluster {
        Cluster::verifying(count, VerificationSettings { every: None, repairs: false }).await
    }

    async fn verifying(count: usize, verification: VerificationSettings) -> Cluster {
        let mut cluster = Cluster { nodes: BTreeMap::new(), folders: Vec::new(), collection: 0, stored: 0 };
        let shape = Shape { shards: SHARDS, replication: 3, expect: count as u32 };
        for at in 0..count {
            cluster.folders.push(tempfile::tempdir().expect("a folder"));
            let formation = if at == 0 { Formation::Bootstrap(shape) } else { cluster.join() };
            let any = "127.0.0.1:0".parse().expect("an address");
            let node = start_with(cluster.folders[at].path(), formation, (any, any), verification).await;
            cluster.nodes.insert(at, node.expect("the node starts"));
        }
        for node in cluster.nodes.values() {
            assert!(node.wait_ready(PATIENCE).await, "not ready");
        }
        let request = node_v1::CreateCollectionRequest {
            name: "c".into(),
            dim: 2,
            metric: "cosine".into(),
            quantization: "int8".into(),
            partitions: SHARDS,
            ..Default::default()
        };
        cluster.collection = cluster
            .ask("a collection", |mut client| {
                let request = request.clone();
                async move { client.create_collection(request).await.map(tonic::Response::into_inner) }
            })
            .await
            .id;
        cluster
    }

    fn join(&self) -> Formation {
        Formation::Join(self.nodes.values().map(|node| node.grpc_address().to_string()).collect())
    }

    /// Starts one more node, which joins and holds nothing.
    async fn grow(&mut self) -> usize {
        self.folders.push(tempfile::tempdir().expect("a folder"));
        let at = self.folders.len() - 1;
        let node = start(self.folders[at].path(), self.join()).await.expect("the node starts");
        self.nodes.insert(at, node);
        let id = self.id(at);
        self.wait("the node is known", |map| map.nodes.iter().any(|node| node.id == id)).await;
        at
    }

    fn id(&self, at: usize) -> NodeId {
        self.nodes[&at].node().id()
    }

    async fn clients(&self) -> Vec<NodeClient<Channel>> {
        let mut clients = Vec::new();
        for node in self.nodes.values() {
            clients.extend(NodeClient::connect(format!("http://{}", node.grpc_address())).await);
        }
        clients
    }

    /// Asks every node in turn until one answers.
    async fn ask<T, F: Future<Output = Result<T, tonic::Status>>>(
        &self,
        what: &str,
        ask: impl Fn(NodeClient<Channel>) -> F,
    ) -> T {
        let started = Instant::now();
        loop {
            let mut last = None;
            for client in self.clients().await {
                match ask(client).await {
                    Ok(answer) => return answer,
                    Err(status) => last = Some(status),
                }
            }
            assert!(started.elapsed() < PATIENCE, "{what}: {last:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn map(&self) -> node_v1::ClusterMap {
        let request = node_v1::GetMapRequest { linearizable: true, ..Default::default() };
        self.ask("a map", |mut client| async move { client.get_map(request).await.map(tonic::Response::into_inner) })
            .await
    }

    async fn wait(&self, what: &str, condition: impl Fn(&node_v1::ClusterMap) -> bool) -> node_v1::ClusterMap {
        let started = Instant::now();
        loop {
            let map = self.map().await;
            if condition(&map) {
                return map;
            }
            assert!(started.elapsed() < PATIENCE, "not in time: {what}; {map:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks the meta leader for a change, and gives its answer or its problem.
    async fn change(&self, request: node_v1::ChangeNodeRequest) -> Result<Vec<node_v1::Move>, Problem> {
        let started = Instant::now();
        loop {
            for mut client in self.clients().await {
                match client.change_node(request).await.map_err(Refusal::from) {
                    Ok(reply) => return Ok(reply.into_inner().moves),
                    Err(Refusal::Problem(problem)) => return Err(problem),
                    Err(_) => {}
                }
            }
            assert!(started.elapsed() < PATIENCE, "no answer to {request:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stores one frame in every shard.
    async fn store_some(&mut self) {
        for shard in 0..SHARDS {
            self.stored += 1;
            let frame = node_v1::FrameWrite {
                id: self.stored.to_be_bytes().to_vec().into(),
                content: format!("frame {}", self.stored).into_bytes().into(),
                text: true,
                passages: vec![node_v1::Passage { vector: vec![1.0, self.stored as f32], ..Default::default() }],
                vector_given: true,
                ..Default::default()
            };
            let request_id = rand::random::<u128>().to_be_bytes().to_vec();
            let request = |epoch| node_v1::WriteRequest {
                epoch,
                shard,
                collection: self.collection,
                request_id: request_id.clone().into(),
                frames: vec![frame.clone()],
            };
            let reply = self
                .ask("a write", |mut client| {
                    let request = request(u64::MAX);
                    async move { client.write(request).await.map(tonic::Response::into_inner) }
                })
                .await;
            assert_eq!(reply.outcomes[0].problem, None);
        }
    }

    /// Every frame that was ever stored is in its shard, as a linearizable read sees it.
    async fn assert_all_there(&self) {
        for shard in 0..SHARDS {
            let ids: Vec<u128> =
                (1..=self.stored).filter(|id| (id - 1) % u128::from(SHARDS) == u128::from(shard)).collect();
            let request = node_v1::FetchRequest {
                epoch: u64::MAX,
                shard,
                collection: self.collection,
                ids: ids.iter().map(|id| id.to_be_bytes().to_vec().into()).collect(),
                level: Some(node_v1::ReadLevel {
                    kind: node_v1::read_level::Kind::Linearizable as i32,
                    at_least: 0,
                    last_resort: false,
                }),
                ..Default::default()
            };
            let reply = self
                .ask("a fetch", |mut client| {
                    let request = request.clone();
                    async move { client.fetch(request).await.map(tonic::Response::into_inner) }
                })
                .await;
            assert_eq!(reply.frames.len(), ids.len(), "shard {shard}");
        }
    }

    /// What each replica of a shard holds as of one command.
    async fn digests(&self, shard: u32) -> BTreeMap<NodeId, node_v1::VerifyShardReply> {
        let nonce = rand::random();
        let begin = node_v1::VerifyShardRequest { shard, nonce, begin: true };
        self.ask("a verification", |mut client| async move { client.verify_shard(begin).await }).await;
        let started = Instant::now();
        loop {
            let mut found = BTreeMap::new();
            for (&at, node) in &self.nodes {
                let open = node.node().shard(shard).expect("a replica");
                found.insert(self.id(at), open.verifier().report(nonce));
            }
            if found.values().all(|reply| reply.state == "done") {
                return found;
            }
            assert!(started.elapsed() < PATIENCE, "not verified: {found:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops every node.
    async fn stop(mut self) {
        let nodes = std::mem::take(&mut self.nodes);
        futures::future::join_all(nodes.into_values().map(RunningNode::shutdown)).await;
    }

    /// Waits until nothing moves or is to move, every shard has three replicas, all of them among `nodes`, and each group
    /// has exactly the members that the map says.
    async fn settled_on(&self, nodes: &[usize]) -> node_v1::ClusterMap {
        let allowed: BTreeSet<NodeId> = nodes.iter().map(|&at| self.id(at)).collect();
        // Adding a node that is active changes nothing: its dry run says what is still to move.
        let ask = node_v1::ChangeNodeRequest { dry_run: true, ..request(Action::Add, self.id(nodes[1])) };
        let started = Instant::now();
        loop {
            let planned = self.change(ask).await.expect("a plan");
            let map = self.map().await;
            let placed = map.shards.iter().all(|shard| {
                let replicas: BTreeSet<NodeId> = shard.replicas.iter().copied().collect();
                replicas.len() == 3 && replicas.is_subset(&allowed)
            });
            let strayed = self.strayed(&map);
            if planned.is_empty() && map.moves.is_empty() && placed && strayed.is_empty() {
                return map;
            }
            assert!(started.elapsed() < PATIENCE, "not settled: {planned:?}; {map:?}; {strayed:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Replicas whose members are not what the map says.
    fn strayed(&self, map: &node_v1::ClusterMap) -> Vec<mira_raft::GroupStatus> {
        let shards = self.nodes.values().flat_map(|node| node.node().shards());
        let strayed = shards.filter_map(|(shard, open)| {
            let status = open.group().status();
            let planned: BTreeSet<NodeId> = map.shards[shard as usize].replicas.iter().copied().collect();
            let right = status.voters == planned && status.learners.is_empty() && !status.joint;
            (!right).then_some(status)
        });
        strayed.collect()
    }
}

fn request(action: Action, node: NodeId) -> node_v1::ChangeNodeRequest {
    node_v1::ChangeNodeRequest { action: action.into(), node, by: 0, dry_run: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_added_another_drained_and_removed_and_nothing_is_lost() {
    let mut cluster = Cluster::of(3).await;
    cluster.store_some().await;
    let fourth = cluster.grow().await;
    let id = cluster.id(fourth);
    let map = cluster.map().await;
    assert_eq!(map.nodes.iter().find(|node| node.id == id).expect("known").phase, "standby");

    let add = request(Action::Add, id);
    let planned = cluster.change(node_v1::ChangeNodeRequest { dry_run: true, ..add }).await.expect("a plan");
    assert!(!planned.is_empty() && planned.iter().all(|found| found.to == id), "{planned:?}");
    assert_eq!(cluster.map().await.nodes.iter().find(|node| node.id == id).expect("known").phase, "standby");
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
    let map = cluster.wait("drained", |map| map.nodes.iter().any(|node| node.phase == "drained")).await;
    assert_eq!(map.nodes.iter().find(|node| node.phase == "drained").map(|node| node.id), Some(first));
    let refused = cluster.change(request(Action::Drain, id)).await.expect_err("three replicas need three nodes");
    assert_eq!(refused.code, Code::Conflict);

    cluster.change(request(Action::Remove, first)).await.expect("removed");
    cluster.wait("forgotten", |map| map.nodes.iter().all(|node| node.id != first)).await;
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
    let heir = cluster.grow().await;
    let by = cluster.id(heir);
    let replace = node_v1::ChangeNodeRequest { by, ..request(Action::Replace, dead) };
    let refused = cluster.change(replace).await.expect_err("it is alive");
    assert_eq!(refused.code, Code::Conflict);
    assert!(refused.detail.contains("drain"), "{}", refused.detail);
    let taken = node_v1::ChangeNodeRequest { by: alive, ..replace };
    assert_eq!(cluster.change(taken).await.expect_err("it has its own replicas").code, Code::Conflict);

    cluster.nodes.remove(&2).expect("a node").shutdown().await;
    cluster.store_some().await;
    let planned = cluster.change(node_v1::ChangeNodeRequest { dry_run: true, ..replace }).await.expect("a plan");
    assert_eq!(planned.len(), SHARDS as usize);
    cluster.change(replace).await.expect("replaced");
    cluster.settled_on(&[0, 1, heir]).await;
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
    let addresses: BTreeMap<usize, _> =
        cluster.nodes.iter().map(|(&at, node)| (at, (node.grpc_address(), node.http_address()))).collect();
    let nodes = std::mem::take(&mut cluster.nodes);
    futures::future::join_all(nodes.into_values().map(RunningNode::shutdown)).await;
    for (at, (grpc, http)) in addresses {
        let node = start_at(cluster.folders[at].path(), Formation::Join(Vec::new()), (grpc, http)).await;
        cluster.nodes.insert(at, node.expect("the node starts again"));
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
    assert_eq!(map.nodes.iter().find(|node| node.id == new).expect("known").phase, "standby");
    let replace = node_v1::ChangeNodeRequest { by: new, ..request(Action::Replace, lost) };
    cluster.change(replace).await.expect("it takes its old place");
    cluster.settled_on(&[0, 1, 2]).await;
    cluster.assert_all_there().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_compared_and_one_that_is_made_anew_holds_the_same_again() {
    let mut cluster = Cluster::of(3).await;
    cluster.store_some().await;
    let (sick, shard) = (cluster.id(1), 2);
    let before = cluster.digests(shard).await;
    assert_eq!(before.len(), 3);
    assert!(before.values().all(|reply| reply.digest == before[&sick].digest && reply.index == before[&sick].index));
    let mend = node_v1::MendReplicaRequest { shard, node: sick };
    let epoch = cluster
        .ask("a repair", |mut client| async move { client.mend_replica(mend).await.map(tonic::Response::into_inner) })
        .await
        .epoch;
    let map = cluster.wait("it was made anew", |map| map.epoch > epoch && map.moves.is_empty()).await;
    assert!(map.shards[shard as usize].replicas.contains(&sick));
    cluster.settled_on(&[0, 1, 2]).await;
    cluster.store_some().await;
    let after = cluster.digests(shard).await;
    assert!(after.values().all(|reply| reply.digest == after[&sick].digest && reply.pairs > before[&sick].pairs));
    cluster.assert_all_there().await;
    cluster.stop().await;
}

/// One read at level `any` of shard 0, from the last node that is left.
async fn read_any(cluster: &Cluster, last_resort: bool) -> Result<node_v1::FetchReply, Refusal> {
    let node = cluster.nodes.values().next().expect("a node");
    let request = node_v1::FetchRequest {
        epoch: u64::MAX,
        shard: 0,
        collection: cluster.collection,
        ids: vec![1u128.to_be_bytes().to_vec().into()],
        level: Some(node_v1::ReadLevel { kind: node_v1::read_level::Kind::Any as i32, at_least: 0, last_resort }),
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
    let started = Instant::now();
    loop {
        match read_any(&cluster, false).await {
            Ok(reply) if reply.frames.len() == 1 => {
                let freshness = reply.freshness.expect("an answer of any replica has an age");
                assert!(!freshness.lagging && freshness.staleness_ms <= 3_000, "{freshness:?}");
                break;
            }
            other => assert!(started.elapsed() < PATIENCE, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for at in [1, 2] {
        cluster.nodes.remove(&at).expect("a node").shutdown().await;
    }
    let staleness_ms = loop {
        match read_any(&cluster, false).await {
            Err(Refusal::Lagging { staleness_ms }) => break staleness_ms,
            other => assert!(started.elapsed() < PATIENCE, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // More than three seconds, told in whole milliseconds.
    assert!(staleness_ms >= 3_000, "{staleness_ms}");
    let reply = read_any(&cluster, true).await.expect("better an old answer than none");
    let freshness = reply.freshness.expect("it has an age");
    assert!(freshness.lagging && freshness.staleness_ms >= staleness_ms && reply.frames.len() == 1, "{freshness:?}");
    cluster.stop().await;
}

/// Puts a record into the state of a stopped node that no other replica has: every checksum fits, and it is wrong.
fn tamper(folder: &Path, group: u32) {
    use mira_raft::engine::{Batch, Durability, Engine, EngineOptions, RocksEngine, Role};
    let started = Instant::now();
    let engine = loop {
        match RocksEngine::open(&folder.join("state"), EngineOptions::new(Role::State)) {
            Ok(engine) => break engine,
            Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
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
    use mira_raft::engine::{Batch, Durability, Engine, EngineOptions, Read, RocksEngine, Role};
    let folder = folder.join("state");
    let open = || RocksEngine::open(&folder, EngineOptions::new(Role::State));
    let started = Instant::now();
    let engine = loop {
        match open() {
            Ok(engine) => break engine,
            Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
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
    let addresses = (cluster.nodes[&sick].grpc_address(), cluster.nodes[&sick].http_address());
    cluster.nodes.remove(&sick).expect("a node").shutdown().await;
    damage(cluster.folders[sick].path(), shard + 1);
    cluster.store_some().await;
    let node = start_at(cluster.folders[sick].path(), Formation::Join(Vec::new()), addresses).await;
    cluster.nodes.insert(sick, node.expect("it starts again"));
    let saved = cluster.folders[sick].path().join("state/salvaged-1/WHOLE");
    let started = Instant::now();
    while !saved.exists() {
        assert!(started.elapsed() < PATIENCE, "nothing was saved");
        cluster.store_some().await;
    }
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
async fn a_replica_that_differs_is_found_and_made_anew_in_the_background() {
    let mut cluster =
        Cluster::verifying(3, VerificationSettings { every: Some(Duration::from_secs(2)), repairs: true }).await;
    cluster.store_some().await;
    let (sick, shard) = (2, 1);
    let addresses = (cluster.nodes[&sick].grpc_address(), cluster.nodes[&sick].http_address());
    let verified = |cluster: &Cluster, verdict: &str| {
        let line = format!("mira_node_verifications_total{{verdict=\"{verdict}\"}}");
        cluster.nodes.values().any(|node| node.node().metrics.scrape(&node.node().figures()).contains(&line))
    };
    let started = Instant::now();
    while !verified(&cluster, "sound") {
        assert!(started.elapsed() < PATIENCE, "nobody verifies");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!verified(&cluster, "differs"));
    cluster.nodes.remove(&sick).expect("a node").shutdown().await;
    tamper(cluster.folders[sick].path(), shard + 1);
    let formation = Formation::Join(Vec::new());
    let node = start_at(cluster.folders[sick].path(), formation, addresses).await.expect("it starts again");
    cluster.nodes.insert(sick, node);
    let mended = |cluster: &Cluster| {
        let line = "mira_node_replicas_repaired_total 1";
        cluster.nodes.values().any(|node| node.node().metrics.scrape(&node.node().figures()).contains(line))
    };
    while !(verified(&cluster, "differs") && mended(&cluster)) {
        assert!(started.elapsed() < PATIENCE, "the difference is not found");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.settled_on(&[0, 1, 2]).await;
    let after = cluster.digests(shard).await;
    let digests: BTreeSet<Vec<u8>> = after.values().map(|reply| reply.digest.to_vec()).collect();
    assert_eq!(digests.len(), 1, "{after:?}");
    cluster.store_some().await;
    cluster.assert_all_there().await;
    cluster.stop().await;
}
