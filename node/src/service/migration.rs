//! Collections that move to more shards, as operators and other nodes ask for them.

use mira_proto::node_v1;
use tonic::{Request, Response};

use super::{Answer, NodeService};
use crate::meta::admin::collections;

#[tonic::async_trait]
impl node_v1::migration_service_server::MigrationService for NodeService {
    async fn grow_collection(
        &self,
        request: Request<node_v1::GrowCollectionRequest>,
    ) -> Answer<node_v1::GrowCollectionReply> {
        Ok(Response::new(collections::grow(self.0.member(), request.into_inner()).await?))
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
}
