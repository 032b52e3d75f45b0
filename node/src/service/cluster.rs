//! What is asked of the cluster as a whole: its map, nodes, collections and status.

use super::*;

impl NodeService {
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
            let client = self.0.peers().client_of(leader)?;
            return Ok(client.cluster().join(request).await?.into_inner());
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
                    step: node_v1::MoveStep::Unspecified.into(),
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
        let (metric, quantization) = (request.metric().try_into()?, request.quantization().try_into()?);
        let name = request.name;
        if name.is_empty() || name.len() > limits::MAX_NAME_BYTES || name.chars().any(|c| c.is_control() || c == '/') {
            return Err(Problem::invalid(format!(
                "a collection's name has 1 to {} bytes, no slash and no control character",
                limits::MAX_NAME_BYTES
            )));
        }
        check_dim(request.dim)?;
        let spaces = request.spaces.into_iter().map(NamedSpace::try_from).collect::<Result<Vec<_>, _>>()?;
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
            check_dim(space.dim)?;
        }
        if request.partitions == 0 || request.partitions > shards {
            return Err(Problem::invalid(format!("partitions is {}, allowed are 1 to {shards}", request.partitions)));
        }
        let id = rand::random_range(1..u64::MAX);
        Ok(CollectionRecord {
            id,
            name,
            dim: request.dim,
            metric,
            quantization,
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
                    role: wire_role(&status.role).into(),
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

/// Refuses vectors of a length that no index could have.
fn check_dim(dim: u32) -> Result<(), Problem> {
    if dim == 0 || dim > limits::MAX_DIM {
        return Err(Problem::invalid(format!("dim is {dim}, allowed are 1 to {}", limits::MAX_DIM)));
    }
    Ok(())
}

#[tonic::async_trait]
impl node_v1::cluster_service_server::ClusterService for NodeService {
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

    async fn hand_over(&self, _: Request<node_v1::HandOverRequest>) -> Answer<node_v1::HandOverReply> {
        Ok(Response::new(node_v1::HandOverReply { moved: self.0.hand_over().await }))
    }

    async fn change_node(&self, request: Request<node_v1::ChangeNodeRequest>) -> Answer<node_v1::ChangeNodeReply> {
        Ok(Response::new(self.change(request.into_inner()).await?))
    }

    async fn pause_moves(&self, request: Request<node_v1::PauseMovesRequest>) -> Answer<node_v1::PauseMovesReply> {
        self.meta_leader()?;
        self.0.propose_meta(&MetaCommand::PauseMoves(request.into_inner().paused)).await?;
        Ok(Response::new(node_v1::PauseMovesReply { epoch: self.0.cluster().header.epoch }))
    }

    async fn repair_replica(
        &self,
        request: Request<node_v1::RepairReplicaRequest>,
    ) -> Answer<node_v1::RepairReplicaReply> {
        self.meta_leader()?;
        let node_v1::RepairReplicaRequest { shard, node } = request.into_inner();
        let command = MetaCommand::StartMove { shard, from: Some(node), to: node };
        let refused = match self.0.propose_meta(&command).await? {
            MetaAnswer::Done => {
                return Ok(Response::new(node_v1::RepairReplicaReply { epoch: self.0.cluster().header.epoch }));
            }
            MetaAnswer::Exists => format!("a replica of shard {shard} is moving already: wait until it is done"),
            _ => format!("node {node:016x} has no replica of shard {shard}"),
        };
        Err(Refusal::from(Problem::new(Code::Conflict, refused)).into())
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

    async fn tune_collection(
        &self,
        request: Request<node_v1::TuneCollectionRequest>,
    ) -> Answer<node_v1::TuneCollectionReply> {
        Ok(Response::new(self.tune(request.into_inner()).await?))
    }

    async fn propose_meta(&self, request: Request<node_v1::ProposeMetaRequest>) -> Answer<node_v1::ProposeMetaReply> {
        self.meta_leader()?;
        let answer = self.0.propose_sealed(request.into_inner().sealed).await?;
        Ok(Response::new(node_v1::ProposeMetaReply { answer }))
    }
}
