//! The service of one node of the fake cluster: its faults come first, then the answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use mira_proto::node_v1::backup_service_server::BackupService;
use mira_proto::node_v1::cluster_service_server::ClusterService;
use mira_proto::node_v1::key_service_server::KeyService;
use mira_proto::node_v1::migration_service_server::MigrationService;
use mira_proto::node_v1::read_level::Kind;
use mira_proto::node_v1::shard_service_server::ShardService;
use mira_proto::node_v1::{self as wire, ReplicaRole};
use mira_proto::{HEADER_VERSION, NodeId, Refusal, ShardId, limits};
use parking_lot::Mutex;
use tonic::{Request, Response, Status};

use super::Seen;
use super::state::State;

/// One node; all share the state.
pub(super) struct FakeNode {
    pub(super) id: NodeId,
    pub(super) state: Arc<Mutex<State>>,
    pub(super) nodes: Vec<(NodeId, SocketAddr)>,
    pub(super) shards: u32,
}

impl FakeNode {
    /// The faults that come before anything else.
    pub(super) async fn enter(&self) -> Result<(), Status> {
        let faults = self.state.lock().faults.get(&self.id).cloned().unwrap_or_default();
        if let Some(slow) = faults.slow {
            tokio::time::sleep(slow).await;
        }
        if faults.down {
            return Err(Status::unavailable("connection reset"));
        }
        if faults.not_ready {
            return Err(Refusal::NotReady("opening".into()).into());
        }
        Ok(())
    }

    /// Notes a read; says what state it is answered from, if this node may answer it.
    pub(super) fn begin_read(
        &self,
        state: &mut State,
        operation: &'static str,
        header: &wire::ReadHeader,
    ) -> Result<Option<wire::ReadState>, Status> {
        let wire::ReadLevel { at_least, kind, last_resort } = header.level.unwrap_or_default();
        state.seen.push(Seen { at_least, kind, last_resort, ..self.seen(operation, header.shard) });
        self.check_map(state, header.version, header.epoch)?;
        let faults = state.faults.get(&self.id).cloned().unwrap_or_default();
        let (applied, time_ms) = (state.index(header.shard), now_ms());
        if kind != Kind::Any as i32 {
            self.check_leader(state, header.shard)?;
            state.before_source(header.collection, header.shard);
            let taken_over = state.moving.get(&header.collection).map(|moving| moving.taken_over(header.shard));
            let taken_over = taken_over.unwrap_or_default();
            return Ok(Some(wire::ReadState { applied, taken_over, freshness: None, time_ms }));
        }
        if faults.lags && at_least > 0 {
            return Err(Refusal::NotReady("behind".into()).into());
        }
        let staleness_ms = faults.stale_ms;
        let lagging = u128::from(staleness_ms) > limits::MAX_STALENESS.as_millis();
        if lagging && !last_resort {
            return Err(Refusal::Lagging { staleness_ms }.into());
        }
        let freshness = Some(wire::Freshness { staleness_ms, lagging });
        Ok(Some(wire::ReadState { applied, freshness, time_ms, ..Default::default() }))
    }

    /// Notes a write; what it says, if this node may do it.
    pub(super) fn begin_write(
        &self,
        state: &mut State,
        operation: &'static str,
        header: Option<wire::WriteHeader>,
    ) -> Result<wire::WriteHeader, Status> {
        let header = header.unwrap_or_default();
        state.seen.push(Seen { request_id: header.request_id.clone(), ..self.seen(operation, header.shard) });
        self.check_map(state, header.version, header.epoch)?;
        self.check_leader(state, header.shard)?;
        Ok(header)
    }

    fn check_map(&self, state: &State, version: u32, epoch: u64) -> Result<(), Status> {
        if version != HEADER_VERSION {
            return Err(Status::unimplemented("a header of another version"));
        }
        if epoch < state.epoch {
            return Err(Refusal::StaleMap { epoch: state.epoch }.into());
        }
        Ok(())
    }

    fn check_leader(&self, state: &State, shard: ShardId) -> Result<(), Status> {
        let leader = state.leaders.get(&shard).copied();
        if leader == Some(self.id) { Ok(()) } else { Err(Refusal::NotLeader { leader }.into()) }
    }

    /// A request that this node has seen, without what only some kinds of requests say.
    pub(super) fn seen(&self, operation: &'static str, shard: ShardId) -> Seen {
        Seen { operation, node: self.id, shard, request_id: Bytes::new(), at_least: 0, kind: 0, last_resort: false }
    }

    fn map(&self, state: &State) -> wire::ClusterMap {
        let replicas: Vec<NodeId> = self.nodes.iter().map(|(node, _)| *node).collect();
        wire::ClusterMap {
            cluster_id: "fake".into(),
            epoch: state.epoch,
            nodes: self
                .nodes
                .iter()
                .map(|(id, address)| wire::NodeInfo { id: *id, address: address.to_string(), ..Default::default() })
                .collect(),
            shards: (0..self.shards)
                .map(|shard| wire::ShardInfo {
                    shard,
                    replicas: replicas.clone(),
                    leader: state.leaders.get(&shard).copied().unwrap_or_default(),
                })
                .collect(),
            // It remembers nothing of what was.
            all_changed: true,
            replication: 3,
            ..Default::default()
        }
    }
}

/// This machine's clock, milliseconds since 1970.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

#[tonic::async_trait]
impl ShardService for FakeNode {
    async fn write(&self, request: Request<wire::WriteRequest>) -> Result<Response<wire::WriteReply>, Status> {
        self.enter().await?;
        self.answer_write(request.into_inner()).map(Response::new)
    }

    async fn write_many(
        &self,
        request: Request<wire::WriteManyRequest>,
    ) -> Result<Response<wire::WriteManyReply>, Status> {
        self.enter().await?;
        self.answer_write_many(request.into_inner()).map(Response::new)
    }

    async fn forget(&self, request: Request<wire::ForgetRequest>) -> Result<Response<wire::ForgetReply>, Status> {
        self.enter().await?;
        self.answer_forget(request.into_inner()).map(Response::new)
    }

    async fn undelete(&self, request: Request<wire::UndeleteRequest>) -> Result<Response<wire::UndeleteReply>, Status> {
        self.enter().await?;
        self.answer_undelete(request.into_inner()).map(Response::new)
    }

    async fn search(&self, request: Request<wire::SearchRequest>) -> Result<Response<wire::SearchReply>, Status> {
        self.enter().await?;
        self.answer_search(request.into_inner()).map(Response::new)
    }

    async fn fetch(&self, request: Request<wire::FetchRequest>) -> Result<Response<wire::FetchReply>, Status> {
        self.enter().await?;
        self.answer_fetch(request.into_inner()).map(Response::new)
    }

    async fn scan(&self, request: Request<wire::ScanRequest>) -> Result<Response<wire::ScanReply>, Status> {
        self.enter().await?;
        self.answer_scan(request.into_inner()).map(Response::new)
    }

    async fn sessions(&self, _: Request<wire::SessionsRequest>) -> Result<Response<wire::SessionsReply>, Status> {
        Err(Status::unimplemented("a fake has no tags of sessions"))
    }

    async fn session(&self, request: Request<wire::SessionRequest>) -> Result<Response<wire::SessionReply>, Status> {
        self.enter().await?;
        self.answer_session(request.into_inner()).map(Response::new)
    }

    async fn list_private_vectors(
        &self,
        request: Request<wire::ListPrivateVectorsRequest>,
    ) -> Result<Response<wire::ListPrivateVectorsReply>, Status> {
        self.enter().await?;
        self.answer_list_private_vectors(request.into_inner()).map(Response::new)
    }

    async fn list_bin(&self, request: Request<wire::ListBinRequest>) -> Result<Response<wire::ListBinReply>, Status> {
        self.enter().await?;
        self.answer_list_bin(request.into_inner()).map(Response::new)
    }

    async fn field_types(
        &self,
        request: Request<wire::FieldTypesRequest>,
    ) -> Result<Response<wire::FieldTypesReply>, Status> {
        self.enter().await?;
        self.answer_field_types(request.into_inner()).map(Response::new)
    }

    async fn name_chunks(
        &self,
        request: Request<wire::NameChunksRequest>,
    ) -> Result<Response<wire::NameChunksReply>, Status> {
        self.enter().await?;
        let ids = request.into_inner().digests.iter().map(|digest| digest.slice(..16)).collect();
        Ok(Response::new(wire::NameChunksReply { ids }))
    }

    async fn list_references(
        &self,
        _: Request<wire::ListReferencesRequest>,
    ) -> Result<Response<wire::ListReferencesReply>, Status> {
        Err(Status::unimplemented("no router asks for this"))
    }

    async fn measure_recall(
        &self,
        request: Request<wire::MeasureRecallRequest>,
    ) -> Result<Response<wire::MeasureRecallReply>, Status> {
        self.enter().await?;
        self.answer_measure_recall(request.into_inner()).map(Response::new)
    }

    async fn verify_shard(
        &self,
        _: Request<wire::VerifyShardRequest>,
    ) -> Result<Response<wire::VerifyShardReply>, Status> {
        Err(Status::unimplemented("a fake has no replicas"))
    }
}

#[tonic::async_trait]
impl ClusterService for FakeNode {
    async fn get_map(&self, request: Request<wire::GetMapRequest>) -> Result<Response<wire::ClusterMap>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        // A long poll, at the pace of a test.
        for _ in 0..200 {
            let map = self.map(&self.state.lock());
            if !request.wait || map.epoch > request.newer_than {
                return Ok(Response::new(map));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Response::new(self.map(&self.state.lock())))
    }

    async fn join(&self, _: Request<wire::JoinRequest>) -> Result<Response<wire::JoinReply>, Status> {
        Err(Status::unimplemented("a router does not join"))
    }

    async fn identify(&self, _: Request<wire::IdentifyRequest>) -> Result<Response<wire::Identity>, Status> {
        Err(Status::unimplemented("a router does not ask"))
    }

    async fn status(&self, request: Request<wire::StatusRequest>) -> Result<Response<wire::NodeStatus>, Status> {
        self.enter().await?;
        let state = self.state.lock();
        let meta_role = if self.id == 1 { ReplicaRole::Leader } else { ReplicaRole::Follower };
        let meta = wire::GroupStatus { role: meta_role.into(), ..Default::default() };
        let meta = request.get_ref().groups_only.then_some(meta);
        let groups = (0..self.shards).map(|shard| wire::GroupStatus {
            group: shard + 1,
            role: if state.leaders.get(&shard) == Some(&self.id) { ReplicaRole::Leader } else { ReplicaRole::Follower }
                .into(),
            term: 1,
            applied: state.index(shard),
            committed: state.index(shard),
            frames: state.frames.iter().filter(|((_, s, _), kept)| *s == shard && kept.is_memory).count() as u64,
            ..Default::default()
        });
        Ok(Response::new(wire::NodeStatus {
            node_id: self.id,
            cluster_id: "fake".into(),
            version: "0.0.0".into(),
            uptime_ms: 3_723_000,
            resident_bytes: 120 << 20,
            disk_used_bytes: 3 << 30,
            disk_free_bytes: 70 << 30,
            groups: meta.into_iter().chain(groups).collect(),
        }))
    }

    async fn hand_over(&self, _: Request<wire::HandOverRequest>) -> Result<Response<wire::HandOverReply>, Status> {
        Err(Status::unimplemented("a router does not ask"))
    }

    async fn change_node(
        &self,
        _: Request<wire::ChangeNodeRequest>,
    ) -> Result<Response<wire::ChangeNodeReply>, Status> {
        Err(Status::unimplemented("a fake has no nodes to move"))
    }

    async fn pause_moves(
        &self,
        _: Request<wire::PauseMovesRequest>,
    ) -> Result<Response<wire::PauseMovesReply>, Status> {
        Err(Status::unimplemented("a fake has no nodes to move"))
    }

    async fn repair_replica(
        &self,
        _: Request<wire::RepairReplicaRequest>,
    ) -> Result<Response<wire::RepairReplicaReply>, Status> {
        Err(Status::unimplemented("a fake has no replicas"))
    }

    async fn create_collection(
        &self,
        request: Request<wire::CreateCollectionRequest>,
    ) -> Result<Response<wire::Collection>, Status> {
        self.enter().await?;
        self.answer_create_collection(request.into_inner()).map(Response::new)
    }

    async fn get_collection(
        &self,
        request: Request<wire::GetCollectionRequest>,
    ) -> Result<Response<wire::GetCollectionReply>, Status> {
        self.enter().await?;
        let state = self.state.lock();
        let collection = state.collections.get(&request.into_inner().name).cloned();
        Ok(Response::new(wire::GetCollectionReply { epoch: state.epoch, collection }))
    }

    async fn list_collections(
        &self,
        _: Request<wire::ListCollectionsRequest>,
    ) -> Result<Response<wire::ListCollectionsReply>, Status> {
        self.enter().await?;
        let collections = self.state.lock().collections.values().cloned().collect();
        Ok(Response::new(wire::ListCollectionsReply { collections, more: false }))
    }

    async fn drop_collection(
        &self,
        request: Request<wire::DropCollectionRequest>,
    ) -> Result<Response<wire::DropCollectionReply>, Status> {
        self.enter().await?;
        self.answer_drop_collection(request.into_inner()).map(Response::new)
    }

    async fn tune_collection(
        &self,
        request: Request<wire::TuneCollectionRequest>,
    ) -> Result<Response<wire::TuneCollectionReply>, Status> {
        self.enter().await?;
        self.answer_tune_collection(request.into_inner()).map(Response::new)
    }

    async fn propose_meta(
        &self,
        _: Request<wire::ProposeMetaRequest>,
    ) -> Result<Response<wire::ProposeMetaReply>, Status> {
        Err(Status::unimplemented("a router does not ask"))
    }
}

#[tonic::async_trait]
impl KeyService for FakeNode {
    async fn get_keys(&self, _: Request<wire::GetKeysRequest>) -> Result<Response<wire::KeysReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn hold_keys(&self, _: Request<wire::HoldKeysRequest>) -> Result<Response<wire::HoldKeysReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn rotate_key(
        &self,
        request: Request<wire::RotateKeyRequest>,
    ) -> Result<Response<wire::RotateKeyReply>, Status> {
        self.enter().await?;
        self.answer_rotate_key(request.into_inner()).map(Response::new)
    }

    async fn get_owner(&self, request: Request<wire::GetOwnerRequest>) -> Result<Response<wire::OwnerReply>, Status> {
        self.enter().await?;
        self.answer_get_owner(request.into_inner()).map(Response::new)
    }

    async fn put_owner(&self, request: Request<wire::PutOwnerRequest>) -> Result<Response<wire::OwnerReply>, Status> {
        self.enter().await?;
        self.answer_put_owner(request.into_inner()).map(Response::new)
    }
}

#[tonic::async_trait]
impl MigrationService for FakeNode {
    async fn grow_collection(
        &self,
        request: Request<wire::GrowCollectionRequest>,
    ) -> Result<Response<wire::GrowCollectionReply>, Status> {
        self.enter().await?;
        self.answer_grow_collection(request.into_inner()).map(Response::new)
    }

    async fn begin_pass(&self, _: Request<wire::BeginPassRequest>) -> Result<Response<wire::BeginPassReply>, Status> {
        Err(Status::unimplemented("a router does not ask"))
    }

    async fn export(&self, _: Request<wire::ExportRequest>) -> Result<Response<wire::ExportReply>, Status> {
        Err(Status::unimplemented("a router does not ask"))
    }
}

#[tonic::async_trait]
impl BackupService for FakeNode {
    async fn begin_backup(
        &self,
        _: Request<wire::BeginBackupRequest>,
    ) -> Result<Response<wire::BeginBackupReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn backup_page(
        &self,
        _: Request<wire::BackupPageRequest>,
    ) -> Result<Response<wire::BackupPageReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn backup_start(
        &self,
        _: Request<wire::BackupStartRequest>,
    ) -> Result<Response<wire::BackupStartReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn backup_log(&self, _: Request<wire::BackupLogRequest>) -> Result<Response<wire::BackupLogReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn sign_backup(
        &self,
        _: Request<wire::SignBackupRequest>,
    ) -> Result<Response<wire::SignBackupReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn finish_backup(
        &self,
        _: Request<wire::FinishBackupRequest>,
    ) -> Result<Response<wire::FinishBackupReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn forget_repository(
        &self,
        _: Request<wire::ForgetRepositoryRequest>,
    ) -> Result<Response<wire::ForgetRepositoryReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn begin_restore(
        &self,
        _: Request<wire::BeginRestoreRequest>,
    ) -> Result<Response<wire::BeginRestoreReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn restore_page(
        &self,
        _: Request<wire::RestorePageRequest>,
    ) -> Result<Response<wire::RestorePageReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn replay_log(&self, _: Request<wire::ReplayRequest>) -> Result<Response<wire::ReplayReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn restore_frames(
        &self,
        _: Request<wire::RestoreFramesRequest>,
    ) -> Result<Response<wire::RestoreFramesReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn end_restore(
        &self,
        _: Request<wire::EndRestoreRequest>,
    ) -> Result<Response<wire::EndRestoreReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }
}
