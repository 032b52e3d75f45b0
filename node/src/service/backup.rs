//! Steps of backups, restores and point-in-time recovery.

use mira_proto::node_v1;
use tonic::{Request, Response};

use super::{Answer, NodeService};
use crate::meta::admin;

#[tonic::async_trait]
impl node_v1::backup_service_server::BackupService for NodeService {
    async fn begin_backup(&self, request: Request<node_v1::BeginBackupRequest>) -> Answer<node_v1::BeginBackupReply> {
        admin::newest(self.0.member()).await?;
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

    async fn sign_backup(&self, request: Request<node_v1::SignBackupRequest>) -> Answer<node_v1::SignBackupReply> {
        admin::newest(self.0.member()).await?;
        Ok(Response::new(node_v1::SignBackupReply { mac: self.0.sign_backup(request.get_ref())? }))
    }

    async fn finish_backup(
        &self,
        request: Request<node_v1::FinishBackupRequest>,
    ) -> Answer<node_v1::FinishBackupReply> {
        admin::newest(self.0.member()).await?;
        self.0.finish_backup(request.into_inner()).await?;
        Ok(Response::new(node_v1::FinishBackupReply {}))
    }

    async fn forget_repository(
        &self,
        request: Request<node_v1::ForgetRepositoryRequest>,
    ) -> Answer<node_v1::ForgetRepositoryReply> {
        admin::newest(self.0.member()).await?;
        self.0.forget_repository(&request.into_inner().repository).await?;
        Ok(Response::new(node_v1::ForgetRepositoryReply {}))
    }

    async fn begin_restore(
        &self,
        request: Request<node_v1::BeginRestoreRequest>,
    ) -> Answer<node_v1::BeginRestoreReply> {
        admin::newest(self.0.member()).await?;
        Ok(Response::new(self.0.begin_restore(request.into_inner()).await?))
    }

    async fn restore_page(&self, request: Request<node_v1::RestorePageRequest>) -> Answer<node_v1::RestorePageReply> {
        self.timed("restore_page", self.0.restore_page(request.into_inner())).await
    }

    async fn replay_log(&self, request: Request<node_v1::ReplayRequest>) -> Answer<node_v1::ReplayReply> {
        self.timed("replay_log", async { self.0.replay_log(request.get_ref()) }).await
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
        admin::newest(self.0.member()).await?;
        Ok(Response::new(self.0.end_restore(request.get_ref()).await?))
    }
}
