//! Several nodes in one process, over gRPC and real disks, that come and go.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use mira_node::{Formation, NodeConfig, RunningNode, Shape, StartError, VerificationSettings};
use mira_proto::{
    NodeId, Problem, Refusal,
    node_v1::{self, change_node_request::Action},
};
use mira_testing::eventually;
use tempfile::TempDir;

use super::{NodeClients, config, connect, start_with};

pub const SHARDS: u32 = 4;
pub const PATIENCE: Duration = Duration::from_secs(60);
/// A cluster whose replicas are not verified in the background.
pub const UNVERIFIED: VerificationSettings = VerificationSettings { every: None, repairs: false };

/// Where a node listens.
#[derive(Clone, Copy)]
pub struct Addresses {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
}

impl Addresses {
    /// Those of a node.
    pub fn of(node: &RunningNode) -> Addresses {
        Addresses { grpc: node.grpc_address(), http: node.http_address() }
    }
}

/// Nodes by the order of their start, each with its folder.
pub struct Cluster {
    pub nodes: BTreeMap<usize, RunningNode>,
    pub folders: Vec<TempDir>,
    pub collection: u64,
    stored: u128,
    verification: VerificationSettings,
}

/// Starts a node at free addresses.
pub async fn start(folder: &Path, formation: Formation) -> Result<RunningNode, StartError> {
    start_with(|| NodeConfig { verification: UNVERIFIED, ..config(folder, formation.clone()) }).await
}

impl Cluster {
    /// So many nodes, which are ready.
    pub async fn of(count: usize) -> Cluster {
        Cluster::verifying(count, UNVERIFIED).await
    }

    pub async fn verifying(count: usize, verification: VerificationSettings) -> Cluster {
        let mut cluster =
            Cluster { nodes: BTreeMap::new(), folders: Vec::new(), collection: 0, stored: 0, verification };
        let shape = Shape { shards: SHARDS, replication: 3, expect: count as u32 };
        for at in 0..count {
            cluster.folders.push(tempfile::tempdir().expect("a folder"));
            let formation = if at == 0 { Formation::Bootstrap(shape) } else { cluster.join() };
            let folder = cluster.folders[at].path();
            let node = start_with(|| NodeConfig { verification, ..config(folder, formation.clone()) }).await;
            cluster.nodes.insert(at, node.expect("the node starts"));
        }
        for node in cluster.nodes.values() {
            assert!(node.wait_ready(PATIENCE).await, "not ready");
        }
        let request = node_v1::CreateCollectionRequest {
            name: "c".into(),
            dim: 2,
            metric: node_v1::Metric::Cosine.into(),
            quantization: node_v1::Quantization::Int8.into(),
            partitions: SHARDS,
            ..Default::default()
        };
        cluster.collection = cluster
            .ask("a collection", |client| {
                let request = request.clone();
                async move { client.cluster().create_collection(request).await.map(tonic::Response::into_inner) }
            })
            .await
            .id;
        cluster
    }

    pub fn join(&self) -> Formation {
        Formation::Join(self.nodes.values().map(|node| node.grpc_address().to_string()).collect())
    }

    /// Starts a node again that was stopped, where it was.
    pub async fn restart(&mut self, at: usize, addresses: Addresses) {
        let (folder, verification) = (self.folders[at].path(), self.verification);
        let again = start_with(|| NodeConfig {
            listen: addresses.grpc,
            http_listen: addresses.http,
            verification,
            ..config(folder, Formation::Join(Vec::new()))
        });
        let node = again.await.expect("the node starts again");
        self.nodes.insert(at, node);
    }

    /// Starts one more node, which joins and holds nothing.
    pub async fn grow(&mut self) -> usize {
        self.folders.push(tempfile::tempdir().expect("a folder"));
        let at = self.folders.len() - 1;
        let node = start(self.folders[at].path(), self.join()).await.expect("the node starts");
        self.nodes.insert(at, node);
        let id = self.id(at);
        self.wait("the node is known", |map| map.nodes.iter().any(|node| node.id == id)).await;
        at
    }

    pub fn id(&self, at: usize) -> NodeId {
        self.nodes[&at].node().id()
    }

    pub async fn clients(&self) -> Vec<NodeClients> {
        let mut clients = Vec::new();
        for node in self.nodes.values() {
            clients.extend(connect(node.grpc_address()).await);
        }
        clients
    }

    /// Asks every node in turn until one answers.
    pub async fn ask<T, F: Future<Output = Result<T, tonic::Status>>>(
        &self,
        what: &str,
        ask: impl Fn(NodeClients) -> F,
    ) -> T {
        let asked = eventually(what, PATIENCE, async || {
            for client in self.clients().await {
                match ask(client).await {
                    Ok(answer) => return Some(answer),
                    Err(status) => eprintln!("{what}: {status}"),
                }
            }
            None
        });
        asked.await
    }

    pub async fn map(&self) -> node_v1::ClusterMap {
        let request = node_v1::GetMapRequest { linearizable: true, ..Default::default() };
        self.ask(
            "a map",
            |client| async move { client.cluster().get_map(request).await.map(tonic::Response::into_inner) },
        )
        .await
    }

    pub async fn wait(&self, what: &str, condition: impl Fn(&node_v1::ClusterMap) -> bool) -> node_v1::ClusterMap {
        eventually(what, PATIENCE, async || {
            let map = self.map().await;
            condition(&map).then_some(map)
        })
        .await
    }

    /// Asks the meta leader for a change, and gives its answer or its problem.
    pub async fn change(&self, request: node_v1::ChangeNodeRequest) -> Result<Vec<node_v1::Move>, Problem> {
        let what = format!("an answer to {request:?}");
        eventually(&what, PATIENCE, async || {
            for client in self.clients().await {
                match client.cluster().change_node(request.clone()).await.map_err(Refusal::from) {
                    Ok(reply) => return Some(Ok(reply.into_inner().moves)),
                    Err(Refusal::Problem(problem)) => return Some(Err(problem)),
                    Err(_) => {}
                }
            }
            None
        })
        .await
    }

    /// Stores one frame in every shard.
    pub async fn store_some(&mut self) {
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
                header: Some(node_v1::WriteHeader {
                    epoch,
                    shard,
                    collection: self.collection,
                    request_id: request_id.clone().into(),
                    ..Default::default()
                }),
                frames: vec![frame.clone()],
                ..Default::default()
            };
            let reply = self
                .ask("a write", |client| {
                    let request = request(u64::MAX);
                    async move { client.shards().write(request).await.map(tonic::Response::into_inner) }
                })
                .await;
            assert_eq!(reply.outcomes[0].problem, None);
        }
    }

    fn write_header(&self, shard: u32) -> Option<node_v1::WriteHeader> {
        let request_id = rand::random::<u128>().to_be_bytes().to_vec().into();
        let collection = self.collection;
        Some(node_v1::WriteHeader { epoch: u64::MAX, shard, collection, request_id, ..Default::default() })
    }

    /// Replaces a frame, and puts it into the bin.
    pub async fn replace_and_forget(&self, shard: u32, frame: u128) {
        let id: bytes::Bytes = frame.to_be_bytes().to_vec().into();
        let replace = node_v1::FrameWrite {
            id: id.clone(),
            content: "in its place".into(),
            text: true,
            replace: true,
            ..Default::default()
        };
        let write =
            node_v1::WriteRequest { header: self.write_header(shard), frames: vec![replace], ..Default::default() };
        let reply = self.ask("a write", |client| {
            let write = write.clone();
            async move { client.shards().write(write).await.map(tonic::Response::into_inner) }
        });
        assert_eq!(reply.await.outcomes[0].version, 2);
        let forget = node_v1::ForgetRequest { header: self.write_header(shard), ids: vec![id], ..Default::default() };
        let reply = self.ask("a removal", |client| {
            let forget = forget.clone();
            async move { client.shards().forget(forget).await.map(tonic::Response::into_inner) }
        });
        assert_eq!(reply.await.removed.len(), 1);
    }

    /// Brings a frame back from the bin; its version.
    pub async fn undelete(&self, shard: u32, frame: u128) -> u64 {
        let ids = vec![frame.to_be_bytes().to_vec().into()];
        let undelete = node_v1::UndeleteRequest { header: self.write_header(shard), ids, ..Default::default() };
        let reply = self.ask("an undelete", |client| {
            let undelete = undelete.clone();
            async move { client.shards().undelete(undelete).await.map(tonic::Response::into_inner) }
        });
        reply.await.outcomes[0].version
    }

    /// Every frame that was ever stored is in its shard, as a linearizable read sees it.
    pub async fn assert_all_there(&self) {
        for shard in 0..SHARDS {
            let ids: Vec<u128> =
                (1..=self.stored).filter(|id| (id - 1) % u128::from(SHARDS) == u128::from(shard)).collect();
            let request = node_v1::FetchRequest {
                header: Some(node_v1::ReadHeader {
                    epoch: u64::MAX,
                    shard,
                    collection: self.collection,
                    level: Some(node_v1::ReadLevel {
                        kind: node_v1::read_level::Kind::Linearizable as i32,
                        at_least: 0,
                        last_resort: false,
                    }),
                    ..Default::default()
                }),
                ids: ids.iter().map(|id| id.to_be_bytes().to_vec().into()).collect(),
                ..Default::default()
            };
            let reply = self
                .ask("a fetch", |client| {
                    let request = request.clone();
                    async move { client.shards().fetch(request).await.map(tonic::Response::into_inner) }
                })
                .await;
            assert_eq!(reply.frames.len(), ids.len(), "shard {shard}");
        }
    }

    /// What each replica of a shard holds as of one command.
    pub async fn digests(&self, shard: u32) -> BTreeMap<NodeId, node_v1::VerifyShardReply> {
        let nonce = rand::random();
        let begin = node_v1::VerifyShardRequest { shard, nonce, begin: true };
        self.ask("a verification", |client| async move { client.shards().verify_shard(begin).await }).await;
        eventually("every replica is verified", PATIENCE, async || {
            let mut found = BTreeMap::new();
            for (&at, node) in &self.nodes {
                let open = node.node().shard(shard).expect("a replica");
                found.insert(self.id(at), open.verifier().report(nonce));
            }
            let is_done = |reply: &node_v1::VerifyShardReply| reply.state() == node_v1::VerificationState::Done;
            found.values().all(is_done).then_some(found)
        })
        .await
    }

    /// Stops every node.
    pub async fn stop(mut self) {
        let nodes = std::mem::take(&mut self.nodes);
        futures::future::join_all(nodes.into_values().map(RunningNode::shutdown)).await;
    }

    /// Waits until nothing moves or is to move, every shard has three replicas, all of them among `nodes`, and each group
    /// has exactly the members that the map says.
    pub async fn settled_on(&self, nodes: &[usize]) -> node_v1::ClusterMap {
        let allowed: BTreeSet<NodeId> = nodes.iter().map(|&at| self.id(at)).collect();
        // Adding a node that is active changes nothing: its dry run says what is still to move.
        let ask = node_v1::ChangeNodeRequest { dry_run: true, ..request(Action::Add, self.id(nodes[1])) };
        eventually(&format!("settled on {nodes:?}"), PATIENCE, async || {
            let planned = self.change(ask.clone()).await.expect("a plan");
            let map = self.map().await;
            let placed = map.shards.iter().all(|shard| {
                let replicas: BTreeSet<NodeId> = shard.replicas.iter().copied().collect();
                replicas.len() == 3 && replicas.is_subset(&allowed)
            });
            let strayed = self.strayed(&map);
            let settled = planned.is_empty() && map.moves.is_empty() && placed && strayed.is_empty();
            settled.then_some(map)
        })
        .await
    }

    /// Replicas whose members are not what the map says.
    fn strayed(&self, map: &node_v1::ClusterMap) -> Vec<mira_raft::GroupStatus> {
        let shards = self.nodes.values().flat_map(|node| node.node().shards());
        let strayed = shards.filter_map(|(shard, open)| {
            let status = open.group().status();
            let planned: BTreeSet<NodeId> = map.shards[shard as usize].replicas.iter().copied().collect();
            let right = status.voters == planned && status.learners.is_empty() && !status.is_changing;
            (!right).then_some(status)
        });
        strayed.collect()
    }
}

/// A request to change a node.
pub fn request(action: Action, node: NodeId) -> node_v1::ChangeNodeRequest {
    node_v1::ChangeNodeRequest { action: action.into(), node, ..Default::default() }
}
