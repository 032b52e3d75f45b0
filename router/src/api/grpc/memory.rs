//! The service `mira.v1.Memory`.

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use mira_proto::v1::memory_server::Memory as MemoryService;
use mira_proto::{Code, Problem, limits, model, v1};
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::convert::{
    by_name, collection_of, filter_of, frame_to, item_of, json_of, one_or_many, present, recall_of, search_of,
    search_to, upload_of, upload_to, uuid, word,
};
use super::server::Grpc;
use crate::api::content::{Reading, Receiving};
use crate::api::new_passphrase;
use crate::operations::content::FrameRef;
use crate::operations::uploads::UploadRef;

#[async_trait]
impl MemoryService for Grpc {
    async fn store(&self, request: Request<v1::StoreRequest>) -> Result<Response<v1::StoreReply>, Status> {
        let (context, item) = self.enter(request)?;
        let request = model::StoreRequest { item: item_of(item)?, items: None };
        let reply = self.api.memory.store(&context, request).await?;
        Ok(Response::new(v1::StoreReply {
            id: reply.id.map(|id| id.to_string()).unwrap_or_default(),
            version: reply.version.unwrap_or_default(),
            consistency_token: reply.consistency_token,
            unchanged: reply.unchanged,
        }))
    }

    async fn store_batch(
        &self,
        request: Request<v1::StoreBatchRequest>,
    ) -> Result<Response<v1::StoreBatchReply>, Status> {
        let (context, batch) = self.enter(request)?;
        let (items, consistency_token) = self.store_all(&context, batch.items).await?;
        Ok(Response::new(v1::StoreBatchReply { items, consistency_token }))
    }

    type IngestStream = BoxStream<'static, Result<v1::ItemReply, Status>>;

    /// Takes what has arrived, stores it as one batch, answers, and takes what has arrived meanwhile: batches grow
    /// with the load, at most [`limits::MAX_INGEST_IN_FLIGHT`] items are at work, and items with the same id take
    /// effect in their order.
    async fn ingest(
        &self,
        request: Request<Streaming<v1::StoreRequest>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        let (context, items) = self.enter(request)?;
        let place = self.api.stream()?;
        Ok(Response::new(self.clone().ingest_all(context, items, place).boxed()))
    }

    async fn search(&self, request: Request<v1::SearchRequest>) -> Result<Response<v1::SearchReply>, Status> {
        let (context, request) = self.enter(request)?;
        let reply = self.api.memory.search(&context, search_of(request)?).await?;
        Ok(Response::new(search_to(reply)?))
    }

    async fn search_batch(
        &self,
        request: Request<v1::SearchBatchRequest>,
    ) -> Result<Response<v1::SearchBatchReply>, Status> {
        let (context, request) = self.enter(request)?;
        let searches = request.searches.into_iter().map(search_of).collect();
        let reply = self.api.memory.search_batch(&context, searches).await?;
        let answer = |result| match result {
            model::SearchResult::Answered(reply) => {
                Ok(v1::SearchResult { reply: Some(search_to(*reply)?), problem: None })
            }
            model::SearchResult::Refused { error } => Ok(v1::SearchResult { reply: None, problem: Some(error.into()) }),
        };
        let answers = reply.answers.into_iter().flatten().map(answer).collect::<Result<_, Problem>>()?;
        Ok(Response::new(v1::SearchBatchReply { answers, consistency_token: reply.consistency_token }))
    }

    async fn recall(&self, request: Request<v1::RecallRequest>) -> Result<Response<v1::RecallReply>, Status> {
        let (context, request) = self.enter(request)?;
        let reply = self.api.memory.recall(&context, recall_of(request)?).await?;
        Ok(Response::new(v1::RecallReply {
            frames: reply.frames.into_iter().map(frame_to).collect::<Result<_, _>>()?,
            missing: reply.missing.iter().map(Uuid::to_string).collect(),
            more: reply.more,
            next_cursor: reply.next_cursor.unwrap_or_default(),
            staleness_ms: reply.staleness_ms,
            lagging: reply.lagging,
        }))
    }

    async fn sessions(&self, request: Request<v1::SessionsRequest>) -> Result<Response<v1::SessionsReply>, Status> {
        let (context, request) = self.enter(request)?;
        let collection = collection_of(request.collection)?;
        let page = model::SessionsRequest {
            agent: present(request.agent),
            active_since: present(request.active_since),
            cursor: present(request.cursor),
            limit: (request.limit != 0).then_some(request.limit),
        };
        let reply = self.api.memory.sessions(&context, &collection, page).await?;
        let session = |session: model::Session| v1::Session {
            session: session.session,
            frames: session.frames,
            first_at: session.first_at,
            last_at: session.last_at,
            agent: session.agent.unwrap_or_default(),
            last_id: session.last_id.to_string(),
            private: session.private,
        };
        let sessions = reply.sessions.into_iter().map(session).collect();
        let next_cursor = reply.next_cursor.unwrap_or_default();
        Ok(Response::new(v1::SessionsReply { sessions, more: reply.more, next_cursor }))
    }

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<v1::ScanReply>, Status> {
        let (context, request) = self.enter(request)?;
        let collection = collection_of(request.collection)?;
        let page = model::ScanRequest {
            cursor: present(request.cursor).map(|id| uuid(&id)).transpose()?,
            limit: (request.limit != 0).then_some(request.limit),
        };
        let reply = self.api.memory.scan(&context, &collection, page).await?;
        let frame = |scanned: model::ScannedFrame| {
            Ok::<_, Problem>(v1::ScannedFrame {
                frame: Some(frame_to(scanned.frame)?),
                position: scanned.position,
                vector: scanned.vector.unwrap_or_default(),
                named_vectors: by_name(scanned.vectors, |components| v1::Vector { components }),
            })
        };
        Ok(Response::new(v1::ScanReply {
            frames: reply.frames.into_iter().map(frame).collect::<Result<_, _>>()?,
            more: reply.more,
            next_cursor: reply.next_cursor.map(|id| id.to_string()).unwrap_or_default(),
            private_left_out: reply.private_left_out,
        }))
    }

    async fn forget(&self, request: Request<v1::ForgetRequest>) -> Result<Response<v1::ForgetReply>, Status> {
        let (context, request) = self.enter(request)?;
        let (id, ids) = one_or_many(request.ids)?;
        let (session, collection) = (present(request.session), present(request.collection));
        let filter = filter_of(&request.filter_json)?;
        let v1::ForgetRequest { all, now, shred, .. } = request;
        let request = model::ForgetRequest { id, ids, session, collection, all, filter, now, shred };
        let reply = self.api.memory.forget(&context, request).await?;
        Ok(Response::new(v1::ForgetReply {
            removed: reply.removed,
            ids: reply.ids.iter().map(Uuid::to_string).collect(),
            consistency_token: reply.consistency_token,
            shred: reply.shred,
            restorable_until: reply.restorable_until.unwrap_or_default(),
            private_left: reply.private_left.unwrap_or_default(),
        }))
    }

    async fn change(&self, request: Request<v1::ChangeRequest>) -> Result<Response<v1::ChangeReply>, Status> {
        let (context, request) = self.enter(request)?;
        let action = word("action", &request.action)?.ok_or_else(|| Problem::invalid("action is missing"))?;
        let id = present(request.id).map(|id| uuid(&id)).transpose()?;
        let (session, collection) = (present(request.session), present(request.collection));
        let (filter, all) = (filter_of(&request.filter_json)?, request.all);
        let request = model::ChangeRequest { action, id, session, filter, all, collection };
        let reply = self.api.memory.change(&context, request).await?;
        Ok(Response::new(v1::ChangeReply {
            id: reply.id.map(|id| id.to_string()).unwrap_or_default(),
            version: reply.version.unwrap_or_default(),
            unchanged: reply.unchanged,
            consistency_token: reply.consistency_token,
            forgotten_versions: reply.forgotten_versions,
            restored: reply.restored,
            ids: reply.ids.unwrap_or_default().iter().map(Uuid::to_string).collect(),
        }))
    }

    async fn begin_upload(
        &self,
        request: Request<v1::BeginUploadRequest>,
    ) -> Result<Response<v1::UploadState>, Status> {
        let (context, request) = self.enter(request)?;
        let frame = request.frame.unwrap_or_default();
        let (collection, frame) = (collection_of(frame.collection.clone())?, item_of(frame)?);
        let request = model::UploadRequest { frame, content_type: present(request.content_type), size: request.size };
        Ok(Response::new(upload_to(self.api.memory.begin_upload(&context, &collection, request).await?)))
    }

    async fn upload(&self, request: Request<Streaming<v1::UploadPiece>>) -> Result<Response<v1::UploadState>, Status> {
        let (context, mut pieces) = self.enter(request)?;
        let _permit = self.api.stream()?;
        let late = |_| Problem::new(Code::DeadlineExceeded, "the stream stood still for a minute");
        let first = timeout(limits::STREAM_IDLE, pieces.message()).await.map_err(late)??.unwrap_or_default();
        let (collection, id) = upload_of(first.name.unwrap_or_default())?;
        let upload = Receiving::new(&self.api.memory, context, UploadRef { collection: &collection, upload: id });
        let rest = pieces.map(|piece| piece.map(|piece| piece.bytes));
        let bytes = futures::stream::iter([Ok(first.bytes)]).chain(rest);
        Ok(Response::new(upload_to(upload.receive(first.offset, bytes).await?)))
    }

    async fn get_upload(&self, request: Request<v1::UploadName>) -> Result<Response<v1::UploadState>, Status> {
        let (context, name) = self.enter(request)?;
        let (collection, id) = upload_of(name)?;
        Ok(Response::new(upload_to(
            self.api.memory.get_upload(&context, UploadRef { collection: &collection, upload: id }).await?,
        )))
    }

    async fn finish_upload(&self, request: Request<v1::UploadName>) -> Result<Response<v1::UploadState>, Status> {
        let (context, name) = self.enter(request)?;
        let (collection, id) = upload_of(name)?;
        Ok(Response::new(upload_to(
            self.api.memory.finish_upload(&context, UploadRef { collection: &collection, upload: id }).await?,
        )))
    }

    async fn cancel_upload(&self, request: Request<v1::UploadName>) -> Result<Response<v1::CancelUploadReply>, Status> {
        let (context, name) = self.enter(request)?;
        let (collection, id) = upload_of(name)?;
        self.api.memory.cancel_upload(&context, UploadRef { collection: &collection, upload: id }).await?;
        Ok(Response::new(v1::CancelUploadReply {}))
    }

    type ReadContentStream = BoxStream<'static, Result<v1::ContentPiece, Status>>;

    async fn read_content(
        &self,
        request: Request<v1::ReadContentRequest>,
    ) -> Result<Response<Self::ReadContentStream>, Status> {
        let (context, request) = self.enter(request)?;
        let collection = collection_of(request.collection)?;
        let permit = self.api.stream()?;
        let content = self
            .api
            .memory
            .read_content(&context, FrameRef { collection: &collection, id: uuid(&request.id)? })
            .await?;
        let size = content.size();
        let to = if request.length == 0 { size } else { request.from.saturating_add(request.length) };
        if request.from > size || to > size {
            return Err(
                Problem::invalid(format!("the content has {size} bytes: the range must lie within them")).into()
            );
        }
        let first = v1::ContentPiece {
            bytes: Default::default(),
            content_type: content.content_type.clone(),
            size,
            version: content.version,
        };
        let reading = Reading { memory: self.api.memory.clone(), context, collection, content, _permit: permit };
        let rest = reading
            .pieces(request.from..to)
            .map(|piece| piece.map(|bytes| v1::ContentPiece { bytes, ..Default::default() }).map_err(Status::from));
        Ok(Response::new(futures::stream::iter([Ok(first)]).chain(rest).boxed()))
    }

    async fn create_passphrase(
        &self,
        request: Request<v1::CreatePassphraseRequest>,
    ) -> Result<Response<v1::CreatePassphraseReply>, Status> {
        let (context, _) = self.enter(request)?;
        self.api.memory.create_passphrase(&context).await?;
        Ok(Response::new(v1::CreatePassphraseReply {}))
    }

    async fn set_passphrase(
        &self,
        request: Request<v1::SetPassphraseRequest>,
    ) -> Result<Response<v1::SetPassphraseReply>, Status> {
        let new = new_passphrase(request.metadata().as_ref())?;
        let (context, _) = self.enter(request)?;
        self.api.memory.set_passphrase(&context, new).await?;
        Ok(Response::new(v1::SetPassphraseReply {}))
    }

    async fn remove_passphrase(
        &self,
        request: Request<v1::RemovePassphraseRequest>,
    ) -> Result<Response<v1::RemovePassphraseReply>, Status> {
        let (context, _) = self.enter(request)?;
        self.api.memory.remove_passphrase(&context).await?;
        Ok(Response::new(v1::RemovePassphraseReply {}))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let (context, request) = self.enter(request)?;
        let reply = self.api.memory.status(&context, model::StatusRequest { detailed: request.detailed }).await?;
        Ok(Response::new(v1::StatusReply { status_json: json_of(&reply)? }))
    }
}
