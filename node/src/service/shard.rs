//! Reads and writes of a shard, as other programs ask for them.

use mira_proto::{Code, Problem, Refusal, limits, node_v1};
use tonic::{Request, Response};

use super::{Answer, NodeService, header_shard};
use crate::shard::record;

impl NodeService {
    /// One write of several; what becomes of it is its own.
    async fn write_one(&self, write: node_v1::WriteRequest) -> node_v1::WriteResult {
        let written = async {
            let shard = self.0.shard(header_shard(&write.header)?)?;
            self.timed("write", shard.write(write)).await
        };
        match written.await {
            Ok(reply) => node_v1::WriteResult { reply: Some(reply.into_inner()), problem: None },
            Err(status) => node_v1::WriteResult { reply: None, problem: Some(Refusal::from(status).into()) },
        }
    }
}

#[tonic::async_trait]
impl node_v1::shard_service_server::ShardService for NodeService {
    async fn write(&self, request: Request<node_v1::WriteRequest>) -> Answer<node_v1::WriteReply> {
        let request = request.into_inner();
        let shard = self.0.shard(header_shard(&request.header)?)?;
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
        let shard = self.0.shard(header_shard(&request.header)?)?;
        self.timed("forget", shard.forget(request)).await
    }

    async fn undelete(&self, request: Request<node_v1::UndeleteRequest>) -> Answer<node_v1::UndeleteReply> {
        let request = request.into_inner();
        let shard = self.0.shard(header_shard(&request.header)?)?;
        self.timed("undelete", shard.undelete(request)).await
    }

    async fn search(&self, request: Request<node_v1::SearchRequest>) -> Answer<node_v1::SearchReply> {
        let request = request.into_inner();
        let shard = self.0.shard(header_shard(&request.header)?)?;
        self.timed("search", shard.search(request)).await
    }

    async fn fetch(&self, request: Request<node_v1::FetchRequest>) -> Answer<node_v1::FetchReply> {
        let request = request.into_inner();
        let shard = self.0.shard(header_shard(&request.header)?)?;
        self.timed("fetch", shard.fetch(request)).await
    }

    async fn scan(&self, request: Request<node_v1::ScanRequest>) -> Answer<node_v1::ScanReply> {
        let request = request.into_inner();
        let shard = self.0.shard(header_shard(&request.header)?)?;
        self.timed("scan", shard.scan(request)).await
    }

    async fn sessions(&self, request: Request<node_v1::SessionsRequest>) -> Answer<node_v1::SessionsReply> {
        let request = request.into_inner();
        let shard = self.0.shard(header_shard(&request.header)?)?;
        self.timed("sessions", shard.sessions(request)).await
    }

    async fn session(&self, request: Request<node_v1::SessionRequest>) -> Answer<node_v1::SessionReply> {
        let request = request.into_inner();
        let shard = self.0.shard(header_shard(&request.header)?)?;
        self.timed("session", shard.session(request)).await
    }

    async fn list_private_vectors(
        &self,
        request: Request<node_v1::ListPrivateVectorsRequest>,
    ) -> Answer<node_v1::ListPrivateVectorsReply> {
        let request = request.into_inner();
        let shard = self.0.shard(header_shard(&request.header)?)?;
        self.timed("list_private_vectors", shard.list_private_vectors(request)).await
    }

    async fn list_bin(&self, request: Request<node_v1::ListBinRequest>) -> Answer<node_v1::ListBinReply> {
        let request = request.into_inner();
        let shard = self.0.shard(header_shard(&request.header)?)?;
        self.timed("list_bin", shard.list_bin(request)).await
    }

    async fn field_types(&self, request: Request<node_v1::FieldTypesRequest>) -> Answer<node_v1::FieldTypesReply> {
        let request = request.into_inner();
        let shard = self.0.shard(header_shard(&request.header)?)?;
        self.timed("field_types", shard.field_types(request)).await
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

    async fn measure_recall(
        &self,
        request: Request<node_v1::MeasureRecallRequest>,
    ) -> Answer<node_v1::MeasureRecallReply> {
        let request = request.into_inner();
        let shard = self.0.shard(header_shard(&request.header)?)?;
        self.timed("measure_recall", shard.measure_recall(request)).await
    }

    async fn verify_shard(&self, request: Request<node_v1::VerifyShardRequest>) -> Answer<node_v1::VerifyShardReply> {
        let node_v1::VerifyShardRequest { shard, nonce, begin } = request.into_inner();
        let shard = self.0.shard(shard)?;
        if begin {
            shard.verify(nonce).await?;
        }
        Ok(Response::new(shard.verifier().report(nonce)))
    }
}
