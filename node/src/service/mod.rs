//! The node's gRPC: a thin shell over [`Node`] and its shards.

pub mod http;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use mira_crypto::{KeyId, PassphraseCost};
use mira_proto::{
    Code, CollectionId, PROTOCOL_VERSION, Problem, Refusal, limits,
    node_v1::{self, node_server},
};
use mira_raft::{Role, transport::grpc::RaftService};
use tokio::{net::TcpListener, sync::watch};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use crate::{
    meta::{
        ClusterState, CollectionRecord, Erasure, Growth, GrowthStep, META_GROUP, MetaAnswer, MetaCommand, NamedSpace,
        NodeRecord, OwnerName, Repository, state::cluster_id_text,
    },
    node::Node,
    placement::rebalance::{self, NodeChange, Planned},
    shard::{index::recall, machine, record, refuse_read},
    system,
};

/// For requests under way when the node stops.
const DRAIN: Duration = Duration::from_secs(2);

/// Serves until told to stop, and then until the requests under way are answered.
pub async fn serve(node: Arc<Node>, listener: TcpListener, mut stopped: watch::Receiver<bool>) {
    let raft = RaftService::new(node.id(), node.host().clone());
    let service = node_server::NodeServer::new(NodeService(node))
        .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(limits::MAX_MESSAGE_BYTES);
    let mut draining = stopped.clone();
    let stop = async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    // Set here: the builder's own setting does not reach connections that it did not accept, and without it an answer
    // waits 40 ms for the acknowledgement that the peer delays.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = tonic::transport::Server::builder()
        .add_service(raft)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, stop);
    tokio::select! {
        ended = served => if let Err(error) = ended {
            tracing::error!(%error, "gRPC server ended");
        },
        // Replication streams of peers never end by themselves: answers under way get this long.
        () = async {
            let _ = draining.wait_for(|stopped| *stopped).await;
            tokio::time::sleep(DRAIN).await;
        } => {}
    }
}

struct NodeService(Arc<Node>);

type Answer<T> = Result<Response<T>, Status>;

impl NodeService {
    fn meta_leader(&self) -> Result<(), Refusal> {
        let status = self.0.meta().status();
        if status.is_leader() { Ok(()) } else { Err(Refusal::NotLeader { leader: status.leader }) }
    }

    /// Times an operation of a shard and turns its refusal into a status.
    async fn timed<T>(&self, operation: &str, work: impl Future<Output = Result<T, Refusal>>) -> Answer<T> {
        Ok(Response::new(self.observed(operation, work).await?))
    }

    async fn observed<T>(&self, operation: &str, work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        let started = Instant::now();
        let result = work.await;
        self.0.metrics.operation("shard", operation, started.elapsed());
        result
    }

    /// One write of several; what becomes of it is its own.
    async fn write_one(&self, write: node_v1::WriteRequest) -> node_v1::WriteResult {
        let written = async {
            let shard = self.0.shard(write.shard)?;
            self.observed("write", shard.write(write)).await
        };
        match written.await {
            Ok(reply) => node_v1::WriteResult { reply: Some(reply), problem: None },
            Err(refusal) => node_v1::WriteResult { reply: None, problem: Some(refusal.into()) },
        }
    }

    async fn accept(&self, request: node_v1::JoinRequest) -> Result<node_v1::JoinReply, Refusal> {
        let cluster = self.0.cluster();
        let own = cluster_id_text(cluster.header.cluster_id);
        if own.is_empty() {
            return Err(Refusal::NotReady("this node belongs to no cluster yet".into()));
        }
        if request.protocol_version != PROTOCOL_VERSION {
            let found = request.protocol_version;
            let detail = format!("the joiner speaks protocol {found}, this cluster {PROTOCOL_VERSION}");
            return Err(Problem::new(Code::UnsupportedVersion, detail).into());
        }
        if !request.cluster_id.is_empty() && request.cluster_id != own {
            let detail = format!(
                "the joiner belongs to cluster {}, this is {own}; empty its data folder first",
                request.cluster_id
            );
            return Err(Problem::invalid(detail).into());
        }
        let joiner: NodeRecord = request.node.clone().ok_or_else(|| Problem::invalid("no node given"))?.into();
        self.0
            .check_join_proof(&joiner, &request.proof)
            .map_err(|_| Problem::new(Code::PermissionDenied, "the joiner does not hold this cluster's key"))?;
        if let Some(leader) = self.0.meta().status().leader.filter(|&leader| leader != self.0.id()) {
            let mut client = self.0.peers().client_of(leader)?;
            return Ok(client.join(request).await?.into_inner());
        }
        if cluster.nodes.len() >= limits::MAX_NODES && !cluster.nodes.contains_key(&joiner.id) {
            return Err(
                Problem::new(Code::TooLarge, format!("a cluster has at most {} nodes", limits::MAX_NODES)).into()
            );
        }
        match self.0.propose_meta(&MetaCommand::PutNode(joiner.clone())).await? {
            MetaAnswer::Refused => {
                let detail = format!(
                    "node {:016x} was removed from this cluster: empty its data folder, and it joins as a new one",
                    joiner.id
                );
                Err(Problem::new(Code::PermissionDenied, detail).into())
            }
            _ => Ok(node_v1::JoinReply { cluster_id: own, map: Some(self.0.map()) }),
        }
    }

    async fn change(&self, request: node_v1::ChangeNodeRequest) -> Result<node_v1::ChangeNodeReply, Refusal> {
        self.meta_leader()?;
        self.0.meta().read_index().await.map_err(refuse_read)?;
        let change = node_change(&request)?;
        let cluster = self.0.cluster();
        let command = rebalance::decide(&cluster, change)?;
        if let NodeChange::Replace { dead, .. } = change
            && self.0.answers(dead).await
        {
            let detail = format!("node {dead:016x} answers: drain it instead of replacing it");
            return Err(Problem::new(Code::Conflict, detail).into());
        }
        let planned = rebalance::pending(&rebalance::after(&cluster, &command));
        if !request.dry_run && self.0.propose_meta(&command).await? == MetaAnswer::Refused {
            return Err(Problem::new(Code::Conflict, "the cluster changed meanwhile: ask again").into());
        }
        Ok(node_v1::ChangeNodeReply {
            moves: planned
                .into_iter()
                .map(|Planned { shard, from, to }| node_v1::Move {
                    shard,
                    from: from.unwrap_or_default(),
                    to,
                    step: "planned".into(),
                })
                .collect(),
            epoch: self.0.cluster().header.epoch,
        })
    }

    async fn create(&self, request: node_v1::CreateCollectionRequest) -> Result<node_v1::Collection, Refusal> {
        self.meta_leader()?;
        let wanted = self.checked(request)?;
        if let Some(existing) = self.0.cluster().collection_named(&wanted.name) {
            return existing_collection(existing, &wanted);
        }
        let answer = self.0.propose_meta(&MetaCommand::CreateCollection(wanted.clone())).await?;
        let cluster = self.0.cluster();
        let made = cluster.collection_named(&wanted.name);
        match (answer, made) {
            (MetaAnswer::Done, Some(made)) => Ok(made.to_wire()),
            (MetaAnswer::Exists, Some(existing)) => existing_collection(existing, &wanted),
            (MetaAnswer::Full, _) => Err(Problem::new(
                Code::TooLarge,
                format!("a cluster has at most {} collections", limits::MAX_COLLECTIONS),
            )
            .into()),
            // Dropped by someone else in the same moment.
            _ => Err(Refusal::NotReady("the collection vanished while it was made".into())),
        }
    }

    fn checked(&self, request: node_v1::CreateCollectionRequest) -> Result<CollectionRecord, Problem> {
        let shards = self.0.cluster().header.shards;
        let name = request.name;
        if name.is_empty() || name.len() > limits::MAX_NAME_BYTES || name.chars().any(|c| c.is_control() || c == '/') {
            return Err(Problem::invalid(format!(
                "a collection's name has 1 to {} bytes, no slash and no control character",
                limits::MAX_NAME_BYTES
            )));
        }
        check_space(request.dim, &request.metric, &request.quantization)?;
        let spaces: Vec<NamedSpace> = request.spaces.into_iter().map(NamedSpace::from).collect();
        if spaces.len() > limits::MAX_NAMED_VECTORS {
            let detail = format!("{} named vectors, allowed are {}", spaces.len(), limits::MAX_NAMED_VECTORS);
            return Err(Problem::new(Code::TooLarge, detail));
        }
        for (at, space) in spaces.iter().enumerate() {
            if space.name.is_empty() {
                return Err(Problem::invalid("named vectors without a name"));
            }
            if spaces[..at].iter().any(|before| before.name == space.name) {
                return Err(Problem::invalid(format!("two of the named vectors are called {:?}", space.name)));
            }
            check_space(space.dim, &space.metric, &space.quantization)?;
        }
        if request.partitions == 0 || request.partitions > shards {
            return Err(Problem::invalid(format!("partitions is {}, allowed are 1 to {shards}", request.partitions)));
        }
        let id = rand::random_range(1..u64::MAX);
        Ok(CollectionRecord {
            id,
            name,
            dim: request.dim,
            metric: request.metric,
            quantization: request.quantization,
            partitions: request.partitions,
            first_partitions: request.partitions,
            ttl_seconds: request.ttl_seconds,
            created_ms: 0,
            model: request.model,
            ef: 0,
            spaces,
            key_version: crate::keys::keyring::FIRST_KEY,
            wrapped_keys: self.0.keyring().new_collection_keys(id),
        })
    }

    async fn drop_named(
        &self,
        request: node_v1::DropCollectionRequest,
    ) -> Result<node_v1::DropCollectionReply, Refusal> {
        self.meta_leader()?;
        let node_v1::DropCollectionRequest { name, shred } = request;
        let cluster = self.0.cluster();
        let missing = || Problem::new(Code::NotFound, format!("no collection is named {name:?}"));
        let record = cluster.collection_named(&name).ok_or_else(missing)?;
        let id = record.id;
        let command = match shred {
            true => MetaCommand::Shred { names: self.0.key_names(record)?, name: name.clone(), id },
            false => MetaCommand::DropCollection { name: name.clone(), id },
        };
        if self.0.propose_meta(&command).await? == MetaAnswer::Missing {
            return Err(missing().into());
        }
        let cluster = self.0.cluster();
        let erasure = cluster.erasures.iter().find(|(_, erasure)| erasure.whole && erasure.collection == id);
        let erasure = erasure.map(|(&erasure, _)| erasure).unwrap_or_default();
        Ok(node_v1::DropCollectionReply { epoch: cluster.header.epoch, erasure })
    }

    async fn keys(&self, request: node_v1::GetKeysRequest) -> Result<node_v1::KeysReply, Refusal> {
        self.meta_leader()?;
        self.0.meta().read_index().await.map_err(refuse_read)?;
        let cluster = self.0.cluster();
        let name =
            |(&version, id): (&u32, &[u8; 8])| node_v1::KeyInfo { version, id: KeyId::from_bytes(*id).to_string() };
        let of_collection = |record: &CollectionRecord| {
            Ok(node_v1::CollectionKeys {
                name: record.name.clone(),
                keys: self.0.key_names(record)?.iter().map(name).collect(),
                rotation: cluster.collection_to_wire(record).rotation,
            })
        };
        let of_erasure = |(&id, erasure): (&u64, &Erasure)| {
            let receipt = erasure.receipt.as_ref();
            let older = erasure.waits_for_repositories(&cluster).filter(|_| receipt.is_none());
            node_v1::Erasure {
                id,
                name: erasure.name.clone(),
                whole: erasure.whole,
                keys: erasure.keys.iter().map(name).collect(),
                index: erasure.index,
                since_ms: erasure.since_ms,
                waits_for_nodes: erasure.waits_for_nodes(&cluster).collect(),
                waits_for_repositories: older.map(str::to_owned).collect(),
                receipt: receipt.map(|receipt| receipt.text.clone()).unwrap_or_default(),
                signature: receipt.map(|receipt| receipt.signature.clone()).unwrap_or_default().into(),
            }
        };
        let of_repository = |(id, repository): (&u128, &Repository)| node_v1::RepositoryInfo {
            id: id.to_be_bytes().to_vec().into(),
            place: repository.place.clone(),
            keys_epoch: repository.keys_epoch,
            finished_ms: repository.finished_ms,
        };
        let public = match cluster.receipt_key.is_empty() {
            true => Vec::new(),
            false => self.0.keyring().receipts(&cluster.receipt_key)?.public_key(),
        };
        Ok(node_v1::KeysReply {
            active: self.0.keyring().active().to_string(),
            nodes: if request.ask_nodes { self.0.ask_for_keys().await } else { Vec::new() },
            collections: cluster.collections.values().map(of_collection).collect::<Result<_, Refusal>>()?,
            erasures: cluster.erasures.iter().map(of_erasure).collect(),
            repositories: cluster.repositories.iter().map(of_repository).collect(),
            receipt_public_key: public.into(),
            layer_versions: cluster.header.layer_keys.keys().copied().collect(),
        })
    }

    /// On the leader of the meta group, with everything that was ever acknowledged.
    async fn newest_meta(&self) -> Result<(), Refusal> {
        self.meta_leader()?;
        self.0.meta().read_index().await.map_err(refuse_read).map(drop)
    }

    async fn grow(&self, request: node_v1::GrowCollectionRequest) -> Result<node_v1::GrowCollectionReply, Refusal> {
        self.meta_leader()?;
        self.0.meta().read_index().await.map_err(refuse_read)?;
        let cluster = self.0.cluster();
        let node_v1::GrowCollectionRequest { name, partitions: to, dry_run } = request;
        let missing = || Problem::new(Code::NotFound, format!("no collection is named {name:?}"));
        let collection = cluster.collection_named(&name).ok_or_else(missing)?;
        let shards = cluster.header.shards;
        let conflict = |detail: String| Err(Problem::new(Code::Conflict, detail).into());
        if let Some(growth) = cluster.growths.get(&collection.id) {
            if growth.to == to {
                return Ok(growth_reply(collection.id, growth, &cluster));
            }
            return conflict(match growth.step {
                GrowthStep::Copying | GrowthStep::Clearing => {
                    format!("it is growing to {} partitions: wait until it has", growth.to)
                }
                GrowthStep::Remembering => format!(
                    "it has grown a moment ago, and retries of earlier writes must still find their way: try again {} \
                     minutes after that",
                    limits::GROWTH_MEMORY.as_secs() / 60
                ),
            });
        }
        if cluster.rotations.contains_key(&collection.id) {
            return conflict("its key is being rotated: wait until that is over".into());
        }
        if to <= collection.partitions || to > shards {
            let have = collection.partitions;
            let detail =
                format!("partitions is {to}, allowed are {} to {shards}: it has {have}, and never shrinks", have + 1);
            return Err(Problem::invalid(detail).into());
        }
        let planned = Growth {
            from: collection.partitions,
            to,
            step: GrowthStep::Copying,
            epoch: cluster.header.epoch,
            since_ms: 0,
            done: BTreeSet::new(),
        };
        let reply = growth_reply(collection.id, &planned, &cluster);
        if dry_run {
            return Ok(reply);
        }
        match self.0.propose_meta(&MetaCommand::StartGrowth { collection: collection.id, to }).await? {
            MetaAnswer::Done => Ok(node_v1::GrowCollectionReply { epoch: self.0.cluster().header.epoch, ..reply }),
            MetaAnswer::Full => conflict(format!("{} collections grow already: wait for one", limits::MAX_GROWTHS)),
            _ => conflict("the collection changed meanwhile: ask again".into()),
        }
    }

    async fn tune(&self, request: node_v1::TuneCollectionRequest) -> Result<node_v1::TuneCollectionReply, Refusal> {
        self.meta_leader()?;
        let node_v1::TuneCollectionRequest { collection, ef, space } = request;
        if ef != 0 {
            recall::check_ef(ef)?;
        }
        let missing = || Problem::new(Code::NotFound, "the collection is gone");
        let cluster = self.0.cluster();
        let space = cluster.collections.get(&collection).ok_or_else(missing)?.space_named(&space)?.number;
        match self.0.propose_meta(&MetaCommand::TuneCollection { collection, space, ef }).await? {
            MetaAnswer::Missing => Err(Problem::new(Code::NotFound, "the collection is gone").into()),
            _ => Ok(node_v1::TuneCollectionReply { epoch: self.0.cluster().header.epoch }),
        }
    }

    async fn keep_owner(&self, request: node_v1::PutOwnerRequest) -> Result<node_v1::OwnerReply, Refusal> {
        self.meta_leader()?;
        let owner = owner_name(&request.owner)?;
        // Whoever opens it is made to spend what it says: nothing else may be kept.
        PassphraseCost::of_record(&request.record).map_err(|error| Problem::invalid(error.to_string()))?;
        let node_v1::PutOwnerRequest { record, replaces, .. } = request;
        match self.0.propose_meta(&MetaCommand::PutOwner { owner, record, replaces }).await? {
            MetaAnswer::Full => {
                let detail = format!("a cluster has at most {} owners with a passphrase", limits::MAX_OWNERS);
                Err(Problem::new(Code::TooLarge, detail).into())
            }
            // Done, there already, or another was quicker: the caller gets what is there now.
            _ => {
                let record = self.0.cluster().owners.get(&owner).cloned().unwrap_or_default();
                Ok(node_v1::OwnerReply { record })
            }
        }
    }

    fn group_statuses(&self) -> Vec<node_v1::GroupStatus> {
        let cluster = self.0.cluster();
        self.0
            .host()
            .groups()
            .into_iter()
            .map(|group| {
                let status = group.status();
                let shard = group.id().checked_sub(META_GROUP + 1).and_then(|id| self.0.shard(id).ok());
                let index = shard.map(|shard| shard.index().stats()).unwrap_or_default();
                let reader = group.reader();
                let count = |collection| {
                    let stored = reader.get(&record::count_key(collection)).ok().flatten();
                    machine::decode_count(stored.as_deref()).unwrap_or_default()
                };
                let frames = match group.id() {
                    META_GROUP => 0,
                    _ => cluster.collections.keys().map(|&collection| count(collection)).sum(),
                };
                node_v1::GroupStatus {
                    group: group.id(),
                    role: role_name(&status.role).into(),
                    term: status.term,
                    leader: status.leader.unwrap_or_default(),
                    last_log: status.last_log_index,
                    committed: status.committed,
                    applied: status.applied,
                    snapshot: status.snapshot_index,
                    voters: status.voters.into_iter().collect(),
                    learners: status.learners.into_iter().collect(),
                    frames,
                    vectors: index.vectors,
                    index_bytes: index.bytes,
                    index_lag: index.lag,
                    index_ready: index.ready || group.id() == META_GROUP,
                }
            })
            .collect()
    }
}

fn growth_reply(collection: CollectionId, growth: &Growth, cluster: &ClusterState) -> node_v1::GrowCollectionReply {
    let (sources, heirs) = growth.shards(collection, cluster.header.shards);
    node_v1::GrowCollectionReply { from: growth.from, to: growth.to, sources, heirs, epoch: cluster.header.epoch }
}

fn owner_name(bytes: &[u8]) -> Result<OwnerName, Refusal> {
    bytes.try_into().map_err(|_| Problem::invalid("an owner's name has 16 bytes").into())
}

/// The word for a role on the wire and in metrics.
pub fn role_name(role: &Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Stopped(_) => "stopped",
    }
}

fn node_change(request: &node_v1::ChangeNodeRequest) -> Result<NodeChange, Problem> {
    use node_v1::change_node_request::Action;
    match request.action() {
        Action::Add => Ok(NodeChange::Add(request.node)),
        Action::Drain => Ok(NodeChange::Drain(request.node)),
        Action::Replace => Ok(NodeChange::Replace { dead: request.node, by: request.by }),
        Action::Remove => Ok(NodeChange::Remove(request.node)),
        Action::Unspecified => Err(Problem::invalid("say whether to add, drain, replace or remove the node")),
    }
}

fn existing_collection(existing: &CollectionRecord, wanted: &CollectionRecord) -> Result<node_v1::Collection, Refusal> {
    if existing.same_settings(wanted) {
        return Ok(existing.to_wire());
    }
    let detail =
        format!("collection {:?} exists with other settings; delete it first or use another name", wanted.name);
    Err(Problem::new(Code::AlreadyExists, detail).into())
}

#[tonic::async_trait]
impl node_server::Node for NodeService {
    async fn get_map(&self, request: Request<node_v1::GetMapRequest>) -> Answer<node_v1::ClusterMap> {
        let request = request.into_inner();
        if request.linearizable {
            self.meta_leader()?;
            self.0.meta().read_index().await.map_err(refuse_read)?;
        }
        if request.wait {
            let mut cluster = self.0.watch_cluster();
            let newer = cluster.wait_for(|cluster| cluster.header.epoch > request.newer_than);
            // The same map after the wait is an answer too.
            let _ = tokio::time::timeout(limits::MAP_WAIT, newer).await;
        }
        Ok(Response::new(self.0.map()))
    }

    async fn join(&self, request: Request<node_v1::JoinRequest>) -> Answer<node_v1::JoinReply> {
        Ok(Response::new(self.accept(request.into_inner()).await?))
    }

    async fn identify(&self, _: Request<node_v1::IdentifyRequest>) -> Answer<node_v1::Identity> {
        Ok(Response::new(node_v1::Identity {
            node_id: self.0.id(),
            cluster_id: cluster_id_text(self.0.cluster_id()),
            protocol_version: PROTOCOL_VERSION,
            cluster_key_id: self.0.keyring().active().to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
        }))
    }

    async fn create_collection(
        &self,
        request: Request<node_v1::CreateCollectionRequest>,
    ) -> Answer<node_v1::Collection> {
        Ok(Response::new(self.create(request.into_inner()).await?))
    }

    async fn drop_collection(
        &self,
        request: Request<node_v1::DropCollectionRequest>,
    ) -> Answer<node_v1::DropCollectionReply> {
        Ok(Response::new(self.drop_named(request.into_inner()).await?))
    }

    async fn write(&self, request: Request<node_v1::WriteRequest>) -> Answer<node_v1::WriteReply> {
        let request = request.into_inner();
        let shard = self.0.shard(request.shard)?;
        self.timed("write", shard.write(request)).await
    }

    async fn write_many(&self, request: Request<node_v1::WriteManyRequest>) -> Answer<node_v1::WriteManyReply> {
        let writes = request.into_inner().writes;
        if writes.len() > limits::MAX_PROPOSAL_FRAMES {
            let detail = format!("{} writes in a message, the limit is {}", writes.len(), limits::MAX_PROPOSAL_FRAMES);
            return Err(Refusal::from(Problem::new(Code::TooLarge, detail)).into());
        }
        // At once: what they propose goes into the log together.
        let results = futures::future::join_all(writes.into_iter().map(|write| self.write_one(write))).await;
        Ok(Response::new(node_v1::WriteManyReply { results }))
    }

    async fn forget(&self, request: Request<node_v1::ForgetRequest>) -> Answer<node_v1::ForgetReply> {
        let request = request.into_inner();
        let shard = self.0.shard(request.shard)?;
        self.timed("forget", shard.forget(request)).await
    }

    async fn search(&self, request: Request<node_v1::SearchRequest>) -> Answer<node_v1::SearchReply> {
        let request = request.into_inner();
        let shard = self.0.shard(request.shard)?;
        self.timed("search", shard.search(request)).await
    }

    async fn fetch(&self, request: Request<node_v1::FetchRequest>) -> Answer<node_v1::FetchReply> {
        let request = request.into_inner();
        let shard = self.0.shard(request.shard)?;
        self.timed("fetch", shard.fetch(request)).await
    }

    async fn sessions(&self, request: Request<node_v1::SessionsRequest>) -> Answer<node_v1::SessionsReply> {
        let request = request.into_inner();
        let shard = self.0.shard(request.shard)?;
        self.timed("sessions", shard.sessions(request)).await
    }

    async fn scan(&self, request: Request<node_v1::ScanRequest>) -> Answer<node_v1::ScanReply> {
        let request = request.into_inner();
        let shard = self.0.shard(request.shard)?;
        self.timed("scan", shard.scan(request)).await
    }

    async fn session(&self, request: Request<node_v1::SessionRequest>) -> Answer<node_v1::FetchReply> {
        let request = request.into_inner();
        let shard = self.0.shard(request.shard)?;
        self.timed("session", shard.session(request)).await
    }

    async fn owned(&self, request: Request<node_v1::OwnedRequest>) -> Answer<node_v1::OwnedReply> {
        let request = request.into_inner();
        let shard = self.0.shard(request.shard)?;
        self.timed("owned", shard.owned(request)).await
    }

    async fn field_kinds(&self, request: Request<node_v1::FieldKindsRequest>) -> Answer<node_v1::FieldKindsReply> {
        let request = request.into_inner();
        let shard = self.0.shard(request.shard)?;
        self.timed("field_kinds", shard.field_kinds(request)).await
    }

    async fn name_chunks(&self, request: Request<node_v1::NameChunksRequest>) -> Answer<node_v1::NameChunksReply> {
        let request = request.into_inner();
        let unknown = || Refusal::NotReady("this node has not heard of the collection yet".into());
        let collection = self.0.cluster().collections.get(&request.collection).cloned().ok_or_else(unknown)?;
        let tags = self.0.keyring().tags(&collection).map_err(Refusal::from)?;
        let name = |digest: &bytes::Bytes| tags.tag(record::CHUNK_TAG, digest).to_vec().into();
        Ok(Response::new(node_v1::NameChunksReply { ids: request.digests.iter().map(name).collect() }))
    }

    async fn list_references(
        &self,
        request: Request<node_v1::ListReferencesRequest>,
    ) -> Answer<node_v1::ListReferencesReply> {
        let request = request.into_inner();
        let shard = self.0.shard(request.shard)?;
        self.timed("list_references", shard.list_references(&request)).await
    }

    async fn status(&self, _: Request<node_v1::StatusRequest>) -> Answer<node_v1::NodeStatus> {
        let space = system::disk_space(self.0.data());
        Ok(Response::new(node_v1::NodeStatus {
            node_id: self.0.id(),
            cluster_id: cluster_id_text(self.0.cluster_id()),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_ms: self.0.uptime().as_millis() as u64,
            resident_bytes: system::resident_bytes(),
            disk_used_bytes: system::folder_bytes(self.0.data()),
            disk_free_bytes: space,
            groups: self.group_statuses(),
        }))
    }

    async fn change_node(&self, request: Request<node_v1::ChangeNodeRequest>) -> Answer<node_v1::ChangeNodeReply> {
        Ok(Response::new(self.change(request.into_inner()).await?))
    }

    async fn pause_moves(&self, request: Request<node_v1::PauseMovesRequest>) -> Answer<node_v1::PauseMovesReply> {
        self.meta_leader()?;
        self.0.propose_meta(&MetaCommand::PauseMoves(request.into_inner().paused)).await?;
        Ok(Response::new(node_v1::PauseMovesReply { epoch: self.0.cluster().header.epoch }))
    }

    async fn verify_shard(&self, request: Request<node_v1::VerifyShardRequest>) -> Answer<node_v1::VerifyShardReply> {
        let node_v1::VerifyShardRequest { shard, nonce, begin } = request.into_inner();
        let shard = self.0.shard(shard)?;
        if begin {
            shard.verify(nonce).await?;
        }
        Ok(Response::new(shard.verifier().report(nonce)))
    }

    async fn mend_replica(&self, request: Request<node_v1::MendReplicaRequest>) -> Answer<node_v1::MendReplicaReply> {
        self.meta_leader()?;
        let node_v1::MendReplicaRequest { shard, node } = request.into_inner();
        let command = MetaCommand::StartMove { shard, from: Some(node), to: node };
        let refused = match self.0.propose_meta(&command).await? {
            MetaAnswer::Done => {
                return Ok(Response::new(node_v1::MendReplicaReply { epoch: self.0.cluster().header.epoch }));
            }
            MetaAnswer::Exists => format!("a replica of shard {shard} is moving already: wait until it is done"),
            _ => format!("node {node:016x} has no replica of shard {shard}"),
        };
        Err(Refusal::from(Problem::new(Code::Conflict, refused)).into())
    }

    async fn grow_collection(
        &self,
        request: Request<node_v1::GrowCollectionRequest>,
    ) -> Answer<node_v1::GrowCollectionReply> {
        Ok(Response::new(self.grow(request.into_inner()).await?))
    }

    async fn measure_recall(
        &self,
        request: Request<node_v1::MeasureRecallRequest>,
    ) -> Answer<node_v1::MeasureRecallReply> {
        let request = request.into_inner();
        let shard = self.0.shard(request.shard)?;
        self.timed("measure_recall", shard.measure_recall(request)).await
    }

    async fn tune_collection(
        &self,
        request: Request<node_v1::TuneCollectionRequest>,
    ) -> Answer<node_v1::TuneCollectionReply> {
        Ok(Response::new(self.tune(request.into_inner()).await?))
    }

    async fn begin_pass(&self, request: Request<node_v1::BeginPassRequest>) -> Answer<node_v1::BeginPassReply> {
        let request = request.into_inner();
        let start = self.0.shard(request.shard)?.begin_pass(&request).await?;
        Ok(Response::new(node_v1::BeginPassReply { start }))
    }

    async fn export(&self, request: Request<node_v1::ExportRequest>) -> Answer<node_v1::ExportReply> {
        let request = request.into_inner();
        let shard = self.0.shard(request.shard)?;
        self.timed("export", shard.export(&request)).await
    }

    async fn propose_meta(&self, request: Request<node_v1::ProposeMetaRequest>) -> Answer<node_v1::ProposeMetaReply> {
        self.meta_leader()?;
        let answer = self.0.propose_sealed(request.into_inner().sealed).await?;
        Ok(Response::new(node_v1::ProposeMetaReply { answer }))
    }

    async fn get_owner(&self, request: Request<node_v1::GetOwnerRequest>) -> Answer<node_v1::OwnerReply> {
        self.meta_leader()?;
        self.0.meta().read_index().await.map_err(refuse_read)?;
        let owner = owner_name(&request.into_inner().owner)?;
        let record = self.0.cluster().owners.get(&owner).cloned().unwrap_or_default();
        Ok(Response::new(node_v1::OwnerReply { record }))
    }

    async fn put_owner(&self, request: Request<node_v1::PutOwnerRequest>) -> Answer<node_v1::OwnerReply> {
        Ok(Response::new(self.keep_owner(request.into_inner()).await?))
    }

    async fn get_keys(&self, request: Request<node_v1::GetKeysRequest>) -> Answer<node_v1::KeysReply> {
        Ok(Response::new(self.keys(request.into_inner()).await?))
    }

    async fn hold_keys(&self, _: Request<node_v1::HoldKeysRequest>) -> Answer<node_v1::HoldKeysReply> {
        Ok(Response::new(node_v1::HoldKeysReply { held: self.0.hold_keys().await? }))
    }

    async fn rotate_key(&self, request: Request<node_v1::RotateKeyRequest>) -> Answer<node_v1::RotateKeyReply> {
        self.newest_meta().await?;
        let request = request.into_inner();
        let rotated = match request.collection.is_empty() {
            true => self.0.rotate_cluster().await?,
            false => self.0.rotate_collection(request).await?,
        };
        Ok(Response::new(rotated))
    }

    async fn begin_backup(&self, request: Request<node_v1::BeginBackupRequest>) -> Answer<node_v1::BeginBackupReply> {
        self.newest_meta().await?;
        Ok(Response::new(self.0.begin_backup(request.into_inner()).await?))
    }

    async fn backup_page(&self, request: Request<node_v1::BackupPageRequest>) -> Answer<node_v1::BackupPageReply> {
        self.timed("backup_page", self.0.backup_page(request.into_inner())).await
    }

    async fn backup_start(&self, request: Request<node_v1::BackupStartRequest>) -> Answer<node_v1::BackupStartReply> {
        self.timed("backup_start", self.0.backup_start(request.into_inner())).await
    }

    async fn backup_log(&self, request: Request<node_v1::BackupLogRequest>) -> Answer<node_v1::BackupLogReply> {
        self.timed("backup_log", self.0.backup_log(request.into_inner())).await
    }

    async fn roll_forward(&self, request: Request<node_v1::RollRequest>) -> Answer<node_v1::RollReply> {
        self.timed("roll_forward", async { self.0.roll_forward(request.get_ref()) }).await
    }

    async fn vouch_backup(&self, request: Request<node_v1::VouchBackupRequest>) -> Answer<node_v1::VouchBackupReply> {
        self.newest_meta().await?;
        Ok(Response::new(node_v1::VouchBackupReply { mac: self.0.vouch_backup(request.get_ref())? }))
    }

    async fn finish_backup(
        &self,
        request: Request<node_v1::FinishBackupRequest>,
    ) -> Answer<node_v1::FinishBackupReply> {
        self.newest_meta().await?;
        self.0.finish_backup(request.into_inner()).await?;
        Ok(Response::new(node_v1::FinishBackupReply {}))
    }

    async fn forget_repository(
        &self,
        request: Request<node_v1::ForgetRepositoryRequest>,
    ) -> Answer<node_v1::ForgetRepositoryReply> {
        self.newest_meta().await?;
        self.0.forget_repository(&request.into_inner().repository).await?;
        Ok(Response::new(node_v1::ForgetRepositoryReply {}))
    }

    async fn begin_restore(
        &self,
        request: Request<node_v1::BeginRestoreRequest>,
    ) -> Answer<node_v1::BeginRestoreReply> {
        self.newest_meta().await?;
        Ok(Response::new(self.0.begin_restore(request.into_inner()).await?))
    }

    async fn restore_page(&self, request: Request<node_v1::RestorePageRequest>) -> Answer<node_v1::RestorePageReply> {
        self.timed("restore_page", self.0.restore_page(request.into_inner())).await
    }

    async fn restore_frames(
        &self,
        request: Request<node_v1::RestoreFramesRequest>,
    ) -> Answer<node_v1::RestoreFramesReply> {
        let request = request.into_inner();
        self.0.shard(request.shard)?.restore(request).await?;
        Ok(Response::new(node_v1::RestoreFramesReply {}))
    }

    async fn end_restore(&self, request: Request<node_v1::EndRestoreRequest>) -> Answer<node_v1::EndRestoreReply> {
        self.newest_meta().await?;
        Ok(Response::new(self.0.end_restore(request.get_ref()).await?))
    }

    async fn hand_over(&self, _: Request<node_v1::HandOverRequest>) -> Answer<node_v1::HandOverReply> {
        Ok(Response::new(node_v1::HandOverReply { moved: self.0.hand_over().await }))
    }
}

/// Refuses settings of vectors that no index could have.
fn check_space(dim: u32, metric: &str, quantization: &str) -> Result<(), Problem> {
    if dim == 0 || dim > limits::MAX_DIM {
        return Err(Problem::invalid(format!("dim is {dim}, allowed are 1 to {}", limits::MAX_DIM)));
    }
    if !["cosine", "dot", "l2"].contains(&metric) {
        return Err(Problem::invalid(format!("metric is {metric:?}, allowed are cosine, dot and l2")));
    }
    if !["none", "int8", "binary"].contains(&quantization) {
        return Err(Problem::invalid(format!("quantization is {quantization:?}, allowed are none, int8 and binary")));
    }
    Ok(())
}
