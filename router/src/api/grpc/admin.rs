//! The service `mira.v1.Admin`.

use async_trait::async_trait;
use mira_proto::v1::admin_server::Admin;
use mira_proto::{Problem, model, v1};
use tonic::{Request, Response, Status};

use super::convert::{collection_to, erasure_to, keys_to, named_vectors_of, present, word};
use super::server::Grpc;
use crate::operations::validate::collection_name;

#[async_trait]
impl Admin for Grpc {
    async fn list_collections(
        &self,
        request: Request<v1::ListCollectionsRequest>,
    ) -> Result<Response<v1::ListCollectionsReply>, Status> {
        let (context, _) = self.enter(request)?;
        let collections = self.api.memory.list_collections(&context).await?;
        let collections = collections.into_iter().map(collection_to).collect();
        Ok(Response::new(v1::ListCollectionsReply { collections }))
    }

    async fn get_collection(
        &self,
        request: Request<v1::GetCollectionRequest>,
    ) -> Result<Response<v1::Collection>, Status> {
        let (context, request) = self.enter(request)?;
        Ok(Response::new(collection_to(
            self.api.memory.get_collection(&context, &collection_name(&request.name)?).await?,
        )))
    }

    async fn put_collection(
        &self,
        request: Request<v1::PutCollectionRequest>,
    ) -> Result<Response<v1::Collection>, Status> {
        let (context, request) = self.enter(request)?;
        let settings = model::CollectionSettings {
            dim: (request.dim != 0).then_some(request.dim),
            metric: word("metric", &request.metric)?.unwrap_or_default(),
            quantization: word("quantization", &request.quantization)?.unwrap_or_default(),
            partitions: (request.partitions != 0).then_some(request.partitions),
            ttl_seconds: request.ttl_seconds,
            versions: request.versions.map(|kept| model::VersionsKept { last: kept.last, days: kept.days }),
            bin_days: request.bin_days,
            vectors: request
                .vectors
                .into_iter()
                .map(|(name, vectors)| Ok((name, named_vectors_of(vectors)?)))
                .collect::<Result<_, Problem>>()?,
        };
        let collection = self.api.memory.put_collection(&context, &request.name, settings).await?;
        Ok(Response::new(collection_to(collection)))
    }

    async fn delete_collection(
        &self,
        request: Request<v1::DeleteCollectionRequest>,
    ) -> Result<Response<v1::DeleteCollectionReply>, Status> {
        let (context, request) = self.enter(request)?;
        self.api.memory.delete_collection(&context, &collection_name(&request.name)?).await?;
        Ok(Response::new(v1::DeleteCollectionReply {}))
    }

    async fn grow_collection(
        &self,
        request: Request<v1::GrowCollectionRequest>,
    ) -> Result<Response<v1::GrowCollectionReply>, Status> {
        let (context, request) = self.enter(request)?;
        let grow = model::GrowRequest { partitions: request.partitions, dry_run: request.dry_run };
        let reply = self.api.memory.grow_collection(&context, &collection_name(&request.name)?, grow).await?;
        Ok(Response::new(v1::GrowCollectionReply {
            from: reply.from,
            to: reply.to,
            shards: reply.shards,
            added_shards: reply.added_shards,
        }))
    }

    async fn tune_collection(
        &self,
        request: Request<v1::TuneCollectionRequest>,
    ) -> Result<Response<v1::TuneCollectionReply>, Status> {
        let (context, request) = self.enter(request)?;
        let tune = model::TuneRequest {
            recall: request.recall,
            k: (request.k != 0).then_some(request.k),
            using: present(request.using),
            dry_run: request.dry_run,
            reset: request.reset,
        };
        let reply = self.api.memory.tune_collection(&context, &collection_name(&request.name)?, tune).await?;
        let beam =
            |beam: model::BeamRecall| v1::BeamRecall { ef: beam.ef, recall: beam.recall, median_us: beam.median_us };
        Ok(Response::new(v1::TuneCollectionReply {
            before: reply.before,
            ef: reply.ef,
            scanned: reply.scanned,
            vectors: reply.vectors,
            samples: reply.samples,
            beams: reply.beams.into_iter().map(beam).collect(),
        }))
    }

    async fn change_node(
        &self,
        request: Request<v1::ChangeNodeRequest>,
    ) -> Result<Response<v1::ChangeNodeReply>, Status> {
        let (context, request) = self.enter(request)?;
        let action = word("action", &request.action)?.ok_or_else(|| Problem::invalid("action is missing"))?;
        let by = (!request.by.is_empty()).then_some(request.by);
        let change = model::NodeChange { action, node: request.node, by, dry_run: request.dry_run };
        let reply = self.api.memory.change_node(&context, change).await?;
        let moves = reply.moves.into_iter().map(|found| v1::ReplicaMove {
            shard: found.shard,
            from: found.from.unwrap_or_default(),
            to: found.to,
            step: found.step,
        });
        Ok(Response::new(v1::ChangeNodeReply { moves: moves.collect() }))
    }

    async fn verify_shards(
        &self,
        request: Request<v1::VerifyShardsRequest>,
    ) -> Result<Response<v1::VerifyShardsReply>, Status> {
        let (context, request) = self.enter(request)?;
        let shards = (!request.shards.is_empty()).then_some(request.shards);
        let reply =
            self.api.memory.verify_shards(&context, model::VerifyRequest { shards, repair: request.repair }).await?;
        let replica = |replica: model::ReplicaVerification| v1::ReplicaVerification {
            node: replica.node,
            state: replica.state,
            index: replica.index,
            records: replica.records,
            digest: replica.digest,
            error: replica.error,
            repairing: replica.repairing,
        };
        let shards = reply.shards.into_iter().map(|shard| v1::ShardVerification {
            shard: shard.shard,
            state: shard.state,
            replicas: shard.replicas.into_iter().map(replica).collect(),
        });
        Ok(Response::new(v1::VerifyShardsReply { shards: shards.collect() }))
    }

    async fn set_moves(&self, request: Request<v1::SetMovesRequest>) -> Result<Response<v1::SetMovesReply>, Status> {
        let (context, request) = self.enter(request)?;
        self.api.memory.set_moves(&context, request.paused).await?;
        Ok(Response::new(v1::SetMovesReply {}))
    }

    async fn list_keys(&self, request: Request<v1::ListKeysRequest>) -> Result<Response<v1::ListKeysReply>, Status> {
        let (context, _) = self.enter(request)?;
        Ok(Response::new(keys_to(self.api.memory.list_keys(&context).await?)))
    }

    async fn rotate_key(&self, request: Request<v1::RotateKeyRequest>) -> Result<Response<v1::RotateKeyReply>, Status> {
        let (context, request) = self.enter(request)?;
        let rotate = model::RotateRequest { collection: present(request.collection) };
        let reply = self.api.memory.rotate_key(&context, rotate).await?;
        Ok(Response::new(v1::RotateKeyReply { id: reply.id, to: reply.to }))
    }

    async fn list_erasures(
        &self,
        request: Request<v1::ListErasuresRequest>,
    ) -> Result<Response<v1::ListErasuresReply>, Status> {
        let (context, _) = self.enter(request)?;
        let reply = self.api.memory.list_erasures(&context).await?;
        Ok(Response::new(v1::ListErasuresReply {
            erasures: reply.erasures.into_iter().map(erasure_to).collect(),
            public_key: reply.public_key.unwrap_or_default(),
        }))
    }

    async fn list_repositories(
        &self,
        request: Request<v1::ListRepositoriesRequest>,
    ) -> Result<Response<v1::ListRepositoriesReply>, Status> {
        let (context, _) = self.enter(request)?;
        let reply = self.api.memory.list_repositories(&context).await?;
        let repository = |found: model::BackupRepository| v1::BackupRepository {
            id: found.id.to_string(),
            place: found.place,
            finished_at: found.finished_at.unwrap_or_default(),
        };
        let repositories = reply.repositories.into_iter().map(repository).collect();
        Ok(Response::new(v1::ListRepositoriesReply { repositories }))
    }

    async fn backup_step(
        &self,
        request: Request<v1::BackupStepRequest>,
    ) -> Result<Response<v1::BackupStepReply>, Status> {
        let (context, request) = self.enter(request)?;
        let answer = self.api.memory.backup_step(&context, &request.step, request.message).await?;
        Ok(Response::new(v1::BackupStepReply { message: answer.into() }))
    }
}
