//! gRPC: the public `mira.v1` services, and streaming ingest.
//!
//! Fields that are empty in protobuf are absent in the model. Metadata means what the HTTP headers of the same names
//! mean, so both are read by the same code.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::stream::{BoxStream, Stream, StreamExt};
use mira_proto::v1::admin_server::{Admin, AdminServer};
use mira_proto::v1::memory_server::{Memory as MemoryService, MemoryServer};
use mira_proto::{Code, Problem, limits, model, v1};
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;
use uuid::Uuid;

use super::Api;
use super::content::{Reading, Receiving};
use crate::operations::content::FrameRef;
use crate::operations::convert;
use crate::operations::uploads::UploadRef;
use crate::{RequestContext, ids};

/// The HTTP/2 window of a connection: an ingest stream should not wait for permission between its batches.
const WINDOW_BYTES: u32 = 4 << 20;

/// Serves until told to stop, then until the calls at work have ended.
pub async fn serve(listener: TcpListener, api: Arc<Api>, stop: CancellationToken) {
    let service = Grpc { api };
    let memory = MemoryServer::new(service.clone())
        .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(2 * limits::MAX_MESSAGE_BYTES);
    let served = Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .add_service(memory)
        .add_service(AdminServer::new(service))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        warn!(%error, "grpc server ended");
    }
}

#[derive(Clone)]
struct Grpc {
    api: Arc<Api>,
}

impl Grpc {
    /// Lets the caller in and reads its metadata.
    fn enter<T>(&self, request: Request<T>) -> Result<(RequestContext, T), Problem> {
        let (metadata, _, message) = request.into_parts();
        let headers = metadata.into_headers();
        let principal = self.api.gate.admit(&headers)?;
        Ok((self.api.context(principal, &headers)?, message))
    }
}

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
        Ok(Response::new(self.clone().ingest_all(context, items).boxed()))
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
        let searches = request.searches.into_iter().map(search_of).collect::<Result<_, _>>()?;
        let batch = model::SearchRequest { searches: Some(searches), ..Default::default() };
        let reply = self.api.memory.search(&context, batch).await?;
        let answer = |result| match result {
            model::SearchResult::Answered(reply) => {
                Ok(v1::SearchResult { reply: Some(search_to(*reply)?), problem: None })
            }
            model::SearchResult::Refused { error } => {
                let problem = v1::Problem { code: error.code.to_string(), detail: error.detail };
                Ok(v1::SearchResult { reply: None, problem: Some(problem) })
            }
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
            staleness_ms: reply.staleness_ms,
            lagging: reply.lagging,
        }))
    }

    async fn sessions(&self, request: Request<v1::SessionsRequest>) -> Result<Response<v1::SessionsReply>, Status> {
        let (context, request) = self.enter(request)?;
        let collection = collection_of(request.collection);
        let page = model::SessionsRequest {
            agent: present(request.agent),
            active_since: present(request.active_since),
            after: present(request.after),
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
        Ok(Response::new(v1::SessionsReply { sessions, next: reply.next.unwrap_or_default() }))
    }

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<v1::ScanReply>, Status> {
        let (context, request) = self.enter(request)?;
        let collection = collection_of(request.collection);
        let page = model::ScanRequest {
            after: present(request.after).map(|id| uuid(&id)).transpose()?,
            limit: (request.limit != 0).then_some(request.limit),
        };
        let reply = self.api.memory.scan(&context, &collection, page).await?;
        let frame = |scanned: model::ScannedFrame| {
            Ok::<_, Problem>(v1::ScannedFrame {
                frame: Some(frame_to(scanned.frame)?),
                vector: scanned.vector.unwrap_or_default(),
                named_vectors: by_name(scanned.vectors, |components| v1::Vector { components }),
            })
        };
        Ok(Response::new(v1::ScanReply {
            frames: reply.frames.into_iter().map(frame).collect::<Result<_, _>>()?,
            next: reply.next.map(|id| id.to_string()).unwrap_or_default(),
            private_left_out: reply.private_left_out,
        }))
    }

    async fn forget(&self, request: Request<v1::ForgetRequest>) -> Result<Response<v1::ForgetReply>, Status> {
        let (context, request) = self.enter(request)?;
        let (id, ids) = one_or_many(request.ids)?;
        let (session, collection) = (present(request.session), present(request.collection));
        let filter = filter_of(&request.filter_json)?;
        let request =
            model::ForgetRequest { id, ids, session, collection, all: request.all, filter, shred: request.shred };
        let reply = self.api.memory.forget(&context, request).await?;
        Ok(Response::new(v1::ForgetReply {
            removed: reply.removed,
            ids: reply.ids.iter().map(Uuid::to_string).collect(),
            consistency_token: reply.consistency_token,
            shred: reply.shred,
        }))
    }

    async fn begin_upload(
        &self,
        request: Request<v1::BeginUploadRequest>,
    ) -> Result<Response<v1::UploadState>, Status> {
        let (context, request) = self.enter(request)?;
        let frame = request.frame.unwrap_or_default();
        let (collection, frame) = (collection_of(frame.collection.clone()), item_of(frame)?);
        let request = model::UploadRequest { frame, content_type: present(request.content_type), size: request.size };
        Ok(Response::new(upload_to(self.api.memory.begin_upload(&context, &collection, request).await?)))
    }

    async fn upload(&self, request: Request<Streaming<v1::UploadPiece>>) -> Result<Response<v1::UploadState>, Status> {
        let (context, mut pieces) = self.enter(request)?;
        let first = pieces.message().await?.unwrap_or_default();
        let (collection, id) = upload_of(first.name.unwrap_or_default())?;
        let _permit = self.api.stream()?;
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
        let collection = collection_of(request.collection);
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

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let (context, request) = self.enter(request)?;
        let reply = self.api.memory.status(&context, model::StatusRequest { detailed: request.detailed }).await?;
        Ok(Response::new(v1::StatusReply { status_json: json_of(&reply)? }))
    }
}

impl Grpc {
    /// Stores wire items as one batch; those that cannot be read are answered like those that cannot be stored.
    async fn store_all(
        &self,
        context: &RequestContext,
        items: Vec<v1::StoreRequest>,
    ) -> Result<(Vec<v1::ItemReply>, String), Problem> {
        let read: Vec<Result<model::StoreItem, Problem>> = items.into_iter().map(item_of).collect();
        if let Some(Err(problem)) = read.iter().find(|_| read.iter().all(Result::is_err)) {
            let refused = |item: &Result<_, Problem>| refused(item.as_ref().err().unwrap_or(problem).clone());
            return Ok((read.iter().map(refused).collect(), context.token.to_string()));
        }
        let items = read.iter().filter_map(|item| item.as_ref().ok().cloned()).collect();
        let request = model::StoreRequest { items: Some(items), ..Default::default() };
        let reply = self.api.memory.store(context, request).await?;
        let mut stored = reply.items.unwrap_or_default().into_iter();
        let answers = read.into_iter().map(|item| match item {
            Err(problem) => refused(problem),
            Ok(_) => match stored.next() {
                Some(model::ItemResult::Stored(stored)) => {
                    v1::ItemReply { id: stored.id.to_string(), version: stored.version, problem: None }
                }
                Some(model::ItemResult::Refused { error }) => refused(error),
                None => refused(Problem::internal("an item has no answer")),
            },
        });
        Ok((answers.collect(), reply.consistency_token))
    }

    fn ingest_all(
        self,
        context: RequestContext,
        items: Streaming<v1::StoreRequest>,
    ) -> impl Stream<Item = Result<v1::ItemReply, Status>> + Send {
        let patience = context.remaining();
        items
            .ready_chunks(limits::MAX_INGEST_IN_FLIGHT)
            .scan(0u64, |position, chunk| {
                let first = *position;
                *position += chunk.len() as u64;
                futures::future::ready(Some((first, chunk)))
            })
            .then(move |(first, chunk)| {
                let (service, mut context) = (self.clone(), context.clone());
                async move {
                    // The deadline is one batch's, not the stream's: an import may last for hours.
                    context.deadline = tokio::time::Instant::now() + patience;
                    service.ingest_chunk(&context, first, chunk).await
                }
            })
            .flat_map(futures::stream::iter)
    }

    /// One batch of a stream, whose first item is the `first`th of the stream.
    async fn ingest_chunk(
        &self,
        context: &RequestContext,
        first: u64,
        chunk: Vec<Result<v1::StoreRequest, Status>>,
    ) -> Vec<Result<v1::ItemReply, Status>> {
        let mut broken = None;
        let mut items = Vec::with_capacity(chunk.len());
        for (position, item) in (first..).zip(chunk) {
            match item {
                Ok(item) => items.push(named(context, position, item)),
                Err(status) => broken = Some(Err(status)),
            }
        }
        let count = items.len();
        let answers = match items.is_empty() {
            true => Vec::new(),
            false => match self.store_all(context, items).await {
                Ok((answers, _)) => answers,
                Err(problem) => vec![refused(problem); count],
            },
        };
        answers.into_iter().map(Ok).chain(broken).collect()
    }
}

/// With an idempotency key, an item's id follows from its place in the stream, not in a batch that happened to form.
fn named(context: &RequestContext, position: u64, mut item: v1::StoreRequest) -> v1::StoreRequest {
    if context.idempotency_key.is_some() && item.id.is_empty() {
        item.id = ids::frame_id(context, position).to_string();
    }
    item
}

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
        Ok(Response::new(collection_to(self.api.memory.get_collection(&context, &request.name).await?)))
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
        self.api.memory.delete_collection(&context, &request.name).await?;
        Ok(Response::new(v1::DeleteCollectionReply {}))
    }

    async fn grow_collection(
        &self,
        request: Request<v1::GrowCollectionRequest>,
    ) -> Result<Response<v1::GrowCollectionReply>, Status> {
        let (context, request) = self.enter(request)?;
        let grow = model::GrowRequest { partitions: request.partitions, dry_run: request.dry_run };
        let reply = self.api.memory.grow_collection(&context, &request.name, grow).await?;
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
        let reply = self.api.memory.tune_collection(&context, &request.name, tune).await?;
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
            self.api.memory.verify_shards(&context, model::VerifyRequest { shards, repair: request.mend }).await?;
        let replica = |replica: model::ReplicaVerification| v1::ReplicaVerification {
            node: replica.node,
            state: replica.state,
            index: replica.index,
            records: replica.records,
            digest: replica.digest,
            error: replica.error,
            mending: replica.repairing,
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
}

fn refused(problem: Problem) -> v1::ItemReply {
    let problem = v1::Problem { code: problem.code.to_string(), detail: problem.detail };
    v1::ItemReply { problem: Some(problem), ..Default::default() }
}

fn item_of(item: v1::StoreRequest) -> Result<model::StoreItem, Problem> {
    let metadata = match item.metadata_json.as_str() {
        "" => None,
        json if json.len() > limits::MAX_METADATA_BYTES => {
            let (have, limit) = (json.len(), limits::MAX_METADATA_BYTES);
            return Err(Problem::new(Code::TooLarge, format!("metadata has {have} bytes, the limit is {limit}")));
        }
        json => Some(
            serde_json::from_str(json)
                .map_err(|error| Problem::invalid(format!("metadata_json is not a JSON object: {error}")))?,
        ),
    };
    Ok(model::StoreItem {
        content: item.content,
        bytes: item.bytes.map(|bytes| STANDARD.encode(bytes)),
        kind: present(item.r#type),
        session: present(item.session),
        role: present(item.role),
        metadata,
        vector: (!item.vector.is_empty()).then_some(item.vector),
        vectors: item.named_vectors.into_iter().map(|(name, vector)| (name, vector.components)).collect(),
        id: present(item.id).map(|id| uuid(&id)).transpose()?,
        replace: item.replace,
        expected_version: item.expected_version,
        expires_at: present(item.expires_at),
        created_at: present(item.created_at),
        collection: present(item.collection),
        private: item.private,
    })
}

fn search_of(request: v1::SearchRequest) -> Result<model::SearchRequest, Problem> {
    Ok(model::SearchRequest {
        query: present(request.query),
        vector: (!request.vector.is_empty()).then_some(request.vector),
        using: present(request.using),
        k: (request.k != 0).then_some(request.k),
        mode: word("mode", &request.mode)?.unwrap_or_default(),
        collection: present(request.collection),
        consistency: word("consistency", &request.consistency)?,
        created_from: present(request.created_from),
        created_to: present(request.created_to),
        strict: request.strict,
        exact: request.exact,
        filter: filter_of(&request.filter_json)?,
        explain: request.explain,
        queries: (!request.queries.is_empty()).then_some(request.queries),
        vectors: (!request.vectors.is_empty())
            .then(|| request.vectors.into_iter().map(|vector| vector.components).collect()),
        combine: word("combine", &request.combine)?,
        min_score: request.min_score,
        cursor: present(request.cursor),
        recency: request.recency.map(|recency| model::Recency {
            half_life_seconds: recency.half_life_seconds,
            weight: (recency.weight != 0.0).then_some(recency.weight),
        }),
        group_by: present(request.group_by),
        group_size: (request.group_size != 0).then_some(request.group_size),
        diversity: request.diversity,
        searches: None,
        include_private: request.include_private,
        only_private: request.only_private,
    })
}

fn by_name<T, U>(found: BTreeMap<String, T>, to: impl Fn(T) -> U) -> HashMap<String, U> {
    found.into_iter().map(|(name, value)| (name, to(value))).collect()
}

fn named_vectors_of(vectors: v1::NamedVectors) -> Result<model::NamedVectors, Problem> {
    Ok(model::NamedVectors {
        dim: vectors.dim,
        metric: word("metric", &vectors.metric)?.unwrap_or_default(),
        quantization: word("quantization", &vectors.quantization)?.unwrap_or_default(),
        ef: vectors.ef,
    })
}

fn filter_of(json: &str) -> Result<Option<model::Filter>, Problem> {
    let read =
        || serde_json::from_str(json).map_err(|error| Problem::invalid(format!("filter_json is wrong: {error}")));
    if json.is_empty() { Ok(None) } else { read().map(Some) }
}

fn search_to(reply: model::SearchReply) -> Result<v1::SearchReply, Problem> {
    Ok(v1::SearchReply {
        hits: reply.hits.into_iter().map(hit_to).collect::<Result<_, _>>()?,
        degraded: reply.degraded,
        missing_shards: reply.missing_shards,
        consistency_token: reply.consistency_token,
        next_cursor: reply.next_cursor.unwrap_or_default(),
        explain_json: reply.explain.map(|explain| json_of(&explain)).transpose()?.unwrap_or_default(),
        staleness_ms: reply.staleness_ms,
        lagging: reply.lagging,
    })
}

fn recall_of(request: v1::RecallRequest) -> Result<model::RecallRequest, Problem> {
    let (id, ids) = one_or_many(request.ids)?;
    Ok(model::RecallRequest {
        id,
        ids,
        session: present(request.session),
        created_from: present(request.created_from),
        created_to: present(request.created_to),
        limit: (request.limit != 0).then_some(request.limit),
        last: request.last,
        collection: present(request.collection),
        consistency: word("consistency", &request.consistency)?,
    })
}

/// A single id is asked for as one, so that its absence is a problem here as it is elsewhere.
fn one_or_many(ids: Vec<String>) -> Result<(Option<Uuid>, Option<Vec<Uuid>>), Problem> {
    let ids = ids.iter().map(|id| uuid(id)).collect::<Result<Vec<Uuid>, _>>()?;
    Ok(match ids[..] {
        [] => (None, None),
        [id] => (Some(id), None),
        _ => (None, Some(ids)),
    })
}

fn uuid(text: &str) -> Result<Uuid, Problem> {
    text.parse().map_err(|error| Problem::invalid(format!("an id is not a UUID: {error}")))
}

/// A setting by its JSON name; empty means absent.
fn word<T: DeserializeOwned>(field: &str, text: &str) -> Result<Option<T>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    serde_json::from_value(text.into()).map(Some).map_err(|error| Problem::invalid(format!("{field}: {error}")))
}

/// What gRPC carries as the JSON document that REST gives.
fn json_of(document: &impl serde::Serialize) -> Result<String, Problem> {
    serde_json::to_string(document).map_err(|error| Problem::internal(error.to_string()))
}

fn present(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn hit_to(hit: model::Hit) -> Result<v1::Hit, Problem> {
    let vector = hit.why.vector.map(|reason| v1::VectorReason {
        rank: reason.rank,
        score: reason.score,
        passage_start: reason.passage.map(|(start, _)| start),
        passage_end: reason.passage.map(|(_, end)| end),
    });
    let text = hit.why.text.map(|reason| v1::TextReason {
        rank: reason.rank,
        score: reason.score,
        highlights: reason.highlights.into_iter().flat_map(|(start, end)| [start, end]).collect(),
    });
    let group_json = hit.group.map(|group| json_of(&group)).transpose()?.unwrap_or_default();
    Ok(v1::Hit { score: hit.score, frame: Some(frame_to(hit.frame)?), vector, group_json, text })
}

/// The collection that a request names, or the default one.
fn collection_of(name: String) -> String {
    present(name).unwrap_or_else(|| model::DEFAULT_COLLECTION.to_owned())
}

fn upload_of(name: v1::UploadName) -> Result<(String, Uuid), Problem> {
    let collection = collection_of(name.collection);
    Ok((collection, uuid(&name.upload)?))
}

fn upload_to(reply: model::UploadReply) -> v1::UploadState {
    v1::UploadState {
        upload: reply.upload.to_string(),
        offset: reply.offset,
        size: reply.size,
        id: reply.stored.as_ref().map(|stored| stored.id.to_string()).unwrap_or_default(),
        version: reply.stored.map(|stored| stored.version).unwrap_or_default(),
    }
}

fn frame_to(frame: model::Frame) -> Result<v1::Frame, Problem> {
    let bytes = frame.bytes.map(|base64| STANDARD.decode(base64)).transpose();
    let metadata_json = match frame.metadata.is_empty() {
        true => String::new(),
        false => serde_json::Value::Object(frame.metadata).to_string(),
    };
    Ok(v1::Frame {
        id: frame.id.to_string(),
        content: frame.content,
        bytes: bytes.map_err(|error| Problem::internal(error.to_string()))?.map(Into::into),
        r#type: frame.kind,
        session: frame.session.unwrap_or_default(),
        role: frame.role.unwrap_or_default(),
        metadata_json,
        version: frame.version,
        created_at: frame.created_at,
        updated_at: frame.updated_at,
        expires_at: frame.expires_at.unwrap_or_default(),
        private: frame.private,
        attachment: frame
            .attachment
            .map(|found| v1::AttachmentInfo { content_type: found.content_type, size: found.size }),
    })
}

fn collection_to(collection: model::Collection) -> v1::Collection {
    v1::Collection {
        metric: convert::name_of(&collection.metric),
        quantization: convert::name_of(&collection.quantization),
        name: collection.name,
        dim: collection.dim,
        partitions: collection.partitions,
        ttl_seconds: collection.ttl_seconds,
        created_at: collection.created_at,
        model: collection.model.unwrap_or_default(),
        growth: collection.growth.map(|growth| v1::GrowthStatus {
            from: growth.from,
            to: growth.to,
            step: growth.step,
            done: growth.done,
            of: growth.of,
        }),
        ef: collection.ef,
        vectors: by_name(collection.vectors, |vectors| v1::NamedVectors {
            dim: vectors.dim,
            metric: convert::name_of(&vectors.metric),
            quantization: convert::name_of(&vectors.quantization),
            ef: vectors.ef,
        }),
        rotation: collection.rotation.map(|rotation| v1::RotationStatus {
            id: rotation.id,
            to: rotation.to,
            step: rotation.step,
            done: rotation.done,
            of: rotation.of,
        }),
    }
}
