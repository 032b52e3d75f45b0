//! The seam under every front end: what MIRA does, whoever asks and however.
//!
//! [`Memory`] is what MCP, REST and gRPC call. [`ClusterMemory`] is its production implementation over a cluster; each
//! operation is a file of this crate (`store.rs`, `search.rs`, …) that reads from top to bottom. This file adds what
//! all of them share, in one place: a bound on requests at work, the deadline, and the metrics of SPEC section 4.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mira_proto::model::{
    Collection, CollectionSettings, ErasuresReply, ForgetReply, ForgetRequest, GrowReply, GrowRequest, KeysReply,
    NodeChange, NodeChangeReply, RecallReply, RecallRequest, RepositoriesReply, RotateReply, RotateRequest, ScanReply,
    ScanRequest, SearchReply, SearchRequest, SessionsReply, SessionsRequest, StatusReply, StatusRequest, StoreReply,
    StoreRequest, TuneReply, TuneRequest, UploadReply, UploadRequest, VerifyReply, VerifyRequest,
};
use mira_proto::{Code, Problem, limits};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::RequestContext;
use crate::cluster::{Cluster, CollectionRoute};
use crate::embedding::Embedding;
use crate::metrics::Metrics;
use crate::operations::search::answer_cache::Answers;
use crate::operations::uploads::{ContentPart, FrameContent};
use crate::private::credential::{NewPassphrase, Owners};
use crate::private::search::OwnedCache;

/// An operation that ends by its own account at the deadline says more about why than one that is cut off. It gets
/// this long to do so.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How often an operation starts over because its collection moved under it.
pub(crate) const MAX_REROUTES: usize = 4;

/// The operations of MIRA.
#[async_trait]
pub trait Memory: Send + Sync {
    /// Remembers one item or many.
    async fn store(&self, context: &RequestContext, request: StoreRequest) -> Result<StoreReply, Problem>;
    /// Finds memories by meaning.
    async fn search(&self, context: &RequestContext, request: SearchRequest) -> Result<SearchReply, Problem>;
    /// Fetches memories by id, or a session in order.
    async fn recall(&self, context: &RequestContext, request: RecallRequest) -> Result<RecallReply, Problem>;
    /// Begins the upload of a large content.
    async fn begin_upload(
        &self,
        context: &RequestContext,
        collection: &str,
        request: UploadRequest,
    ) -> Result<UploadReply, Problem>;
    /// Says how far an upload has come.
    async fn upload(&self, context: &RequestContext, upload: (&str, Uuid)) -> Result<UploadReply, Problem>;
    /// Adds chunks of at most [`limits::MAX_CONTENT_BYTES`] at an offset.
    async fn append(
        &self,
        context: &RequestContext,
        upload: (&str, Uuid),
        offset: u64,
        chunks: Vec<Bytes>,
    ) -> Result<UploadReply, Problem>;
    /// Makes a frame of an upload.
    async fn finish_upload(&self, context: &RequestContext, upload: (&str, Uuid)) -> Result<UploadReply, Problem>;
    /// Gives an upload up.
    async fn cancel_upload(&self, context: &RequestContext, upload: (&str, Uuid)) -> Result<(), Problem>;
    /// A frame's content, to be read in parts.
    async fn content(&self, context: &RequestContext, frame: (&str, Uuid)) -> Result<FrameContent, Problem>;
    /// One part of it.
    async fn content_part(
        &self,
        context: &RequestContext,
        content: (&str, &FrameContent),
        part: &ContentPart,
    ) -> Result<Bytes, Problem>;
    /// Everything in a collection, page by page in order of the ids.
    async fn scan(
        &self,
        context: &RequestContext,
        collection: &str,
        request: ScanRequest,
    ) -> Result<ScanReply, Problem>;
    /// The sessions of a collection, page by page.
    async fn sessions(
        &self,
        context: &RequestContext,
        collection: &str,
        request: SessionsRequest,
    ) -> Result<SessionsReply, Problem>;
    /// Removes memories.
    async fn forget(&self, context: &RequestContext, request: ForgetRequest) -> Result<ForgetReply, Problem>;
    /// Says how the cluster is.
    async fn status(&self, context: &RequestContext, request: StatusRequest) -> Result<StatusReply, Problem>;
    /// All collections by name.
    async fn list_collections(&self, context: &RequestContext) -> Result<Vec<Collection>, Problem>;
    /// One collection.
    async fn get_collection(&self, context: &RequestContext, name: &str) -> Result<Collection, Problem>;
    /// Makes a collection; the same settings again change nothing.
    async fn put_collection(
        &self,
        context: &RequestContext,
        name: &str,
        settings: CollectionSettings,
    ) -> Result<Collection, Problem>;
    /// Removes a collection with all its frames.
    async fn delete_collection(&self, context: &RequestContext, name: &str) -> Result<(), Problem>;
    /// Spreads a collection over more shards, or says what that means.
    async fn grow_collection(
        &self,
        context: &RequestContext,
        name: &str,
        request: GrowRequest,
    ) -> Result<GrowReply, Problem>;
    /// Finds and sets the beam with which searches of a collection reach a recall.
    async fn tune_collection(
        &self,
        context: &RequestContext,
        name: &str,
        request: TuneRequest,
    ) -> Result<TuneReply, Problem>;
    /// Adds, drains, replaces or removes a storage node, or says what that would move.
    async fn change_node(&self, context: &RequestContext, change: NodeChange) -> Result<NodeChangeReply, Problem>;
    /// Stops moves of replicas for now, or lets them go on.
    async fn set_moves(&self, context: &RequestContext, paused: bool) -> Result<(), Problem>;
    /// Protects the caller's owner key by another passphrase.
    async fn set_passphrase(&self, context: &RequestContext, new: NewPassphrase) -> Result<(), Problem>;
    /// The cluster's keys, by name.
    async fn keys(&self, context: &RequestContext) -> Result<KeysReply, Problem>;
    /// Puts another key in the place of the cluster's or of a collection's.
    async fn rotate_key(&self, context: &RequestContext, request: RotateRequest) -> Result<RotateReply, Problem>;
    /// Keys that end, and those that have.
    async fn erasures(&self, context: &RequestContext) -> Result<ErasuresReply, Problem>;
    /// Places that hold backups.
    async fn repositories(&self, context: &RequestContext) -> Result<RepositoriesReply, Problem>;
    /// One step of a backup or a restore, in the nodes' own messages.
    async fn backup(&self, context: &RequestContext, step: &str, body: Bytes) -> Result<Vec<u8>, Problem>;
    /// Compares what the replicas of shards hold.
    async fn verify(&self, context: &RequestContext, request: VerifyRequest) -> Result<VerifyReply, Problem>;
}

/// [`Memory`] over a cluster of storage nodes.
pub struct ClusterMemory {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) embedding: Embedding,
    pub(crate) answers: Answers,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) owners: Owners,
    pub(crate) owned: OwnedCache,
    in_flight: Semaphore,
}

impl ClusterMemory {
    /// Puts the parts together.
    pub fn new(cluster: Arc<Cluster>, embedding: Embedding, metrics: Arc<Metrics>) -> Self {
        let answers = Answers::default();
        ClusterMemory {
            cluster,
            embedding,
            answers,
            metrics,
            owners: Owners::default(),
            owned: OwnedCache::default(),
            in_flight: Semaphore::new(limits::MAX_REQUESTS_IN_FLIGHT),
        }
    }

    /// Runs an operation within the bounds that hold for all, and measures it.
    async fn bounded<T>(
        &self,
        function: &'static str,
        deadline: Instant,
        operation: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        let mut measured = Measured { metrics: &self.metrics, function, started: Instant::now(), success: false };
        self.metrics.begun(function);
        let Ok(_permit) = self.in_flight.try_acquire() else {
            let limit = limits::MAX_REQUESTS_IN_FLIGHT;
            return Err(Problem::new(Code::Overloaded, format!("{limit} requests are at work here: try again later")));
        };
        let late = || Problem::new(Code::DeadlineExceeded, format!("{function} did not end before the deadline"));
        let result = timeout_at(deadline + LAST_WORDS, operation).await.unwrap_or_else(|_| Err(late()));
        measured.success = result.is_ok();
        result
    }

    /// The collection of that name as the newest map has it; asks for a newer map before saying that there is none,
    /// because another router may have made it just now.
    pub(crate) async fn find_collection(
        &self,
        context: &RequestContext,
        name: &str,
    ) -> Result<Option<Arc<CollectionRoute>>, Problem> {
        if let Some(route) = self.cluster.view_by(context.deadline).await?.collection(name) {
            return Ok(Some(route.clone()));
        }
        self.cluster.refresh(0).await;
        Ok(self.cluster.view_by(context.deadline).await?.collection(name).cloned())
    }
}

/// Observes an operation when it ends, also when its caller goes away and it is dropped.
struct Measured<'a> {
    metrics: &'a Metrics,
    function: &'static str,
    started: Instant,
    success: bool,
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        self.metrics.ended(self.function, self.success, self.started.elapsed());
    }
}

/// The problem of naming a collection that does not exist.
pub(crate) fn no_collection(name: &str) -> Problem {
    Problem::new(Code::NotFound, format!("there is no collection {name:?}"))
}

#[async_trait]
impl Memory for ClusterMemory {
    async fn store(&self, context: &RequestContext, request: StoreRequest) -> Result<StoreReply, Problem> {
        self.bounded("store", context.deadline, self.store_request(context, request)).await
    }

    async fn search(&self, context: &RequestContext, request: SearchRequest) -> Result<SearchReply, Problem> {
        self.bounded("search", context.deadline, self.search_request(context, request)).await
    }

    async fn recall(&self, context: &RequestContext, request: RecallRequest) -> Result<RecallReply, Problem> {
        self.bounded("recall", context.deadline, self.recall_request(context, request)).await
    }

    async fn scan(
        &self,
        context: &RequestContext,
        collection: &str,
        request: ScanRequest,
    ) -> Result<ScanReply, Problem> {
        self.bounded("scan", context.deadline, self.scan_request(context, collection, request)).await
    }

    async fn sessions(
        &self,
        context: &RequestContext,
        collection: &str,
        request: SessionsRequest,
    ) -> Result<SessionsReply, Problem> {
        self.bounded("sessions", context.deadline, self.sessions_request(context, collection, request)).await
    }

    async fn begin_upload(
        &self,
        context: &RequestContext,
        collection: &str,
        request: UploadRequest,
    ) -> Result<UploadReply, Problem> {
        self.bounded("begin_upload", context.deadline, self.new_upload(context, collection, request)).await
    }

    async fn upload(&self, context: &RequestContext, upload: (&str, Uuid)) -> Result<UploadReply, Problem> {
        self.bounded("upload", context.deadline, self.upload_state(context, upload)).await
    }

    async fn append(
        &self,
        context: &RequestContext,
        upload: (&str, Uuid),
        offset: u64,
        chunks: Vec<Bytes>,
    ) -> Result<UploadReply, Problem> {
        self.bounded("append", context.deadline, self.add_to_upload(context, upload, offset, chunks)).await
    }

    async fn finish_upload(&self, context: &RequestContext, upload: (&str, Uuid)) -> Result<UploadReply, Problem> {
        self.bounded("finish_upload", context.deadline, self.end_upload(context, upload)).await
    }

    async fn cancel_upload(&self, context: &RequestContext, upload: (&str, Uuid)) -> Result<(), Problem> {
        self.bounded("cancel_upload", context.deadline, self.drop_upload(context, upload)).await
    }

    async fn content(&self, context: &RequestContext, frame: (&str, Uuid)) -> Result<FrameContent, Problem> {
        self.bounded("content", context.deadline, self.content_of(context, frame)).await
    }

    async fn content_part(
        &self,
        context: &RequestContext,
        content: (&str, &FrameContent),
        part: &ContentPart,
    ) -> Result<Bytes, Problem> {
        self.bounded("content_part", context.deadline, self.part_of(context, content, part)).await
    }

    async fn forget(&self, context: &RequestContext, request: ForgetRequest) -> Result<ForgetReply, Problem> {
        self.bounded("forget", context.deadline, self.forget_request(context, request)).await
    }

    async fn status(&self, context: &RequestContext, request: StatusRequest) -> Result<StatusReply, Problem> {
        self.bounded("status", context.deadline, self.status_request(request)).await
    }

    async fn list_collections(&self, context: &RequestContext) -> Result<Vec<Collection>, Problem> {
        self.bounded("list_collections", context.deadline, self.collections(context)).await
    }

    async fn get_collection(&self, context: &RequestContext, name: &str) -> Result<Collection, Problem> {
        self.bounded("get_collection", context.deadline, self.collection(context, name)).await
    }

    async fn put_collection(
        &self,
        context: &RequestContext,
        name: &str,
        settings: CollectionSettings,
    ) -> Result<Collection, Problem> {
        self.bounded("put_collection", context.deadline, self.make_collection(context, name, settings)).await
    }

    async fn delete_collection(&self, context: &RequestContext, name: &str) -> Result<(), Problem> {
        self.bounded("delete_collection", context.deadline, self.drop_collection(context, name)).await
    }

    async fn grow_collection(
        &self,
        context: &RequestContext,
        name: &str,
        request: GrowRequest,
    ) -> Result<GrowReply, Problem> {
        self.bounded("grow_collection", context.deadline, self.grow(context, name, request)).await
    }

    async fn tune_collection(
        &self,
        context: &RequestContext,
        name: &str,
        request: TuneRequest,
    ) -> Result<TuneReply, Problem> {
        self.bounded("tune_collection", context.deadline, self.tune(context, name, request)).await
    }

    async fn change_node(&self, context: &RequestContext, change: NodeChange) -> Result<NodeChangeReply, Problem> {
        self.bounded("change_node", context.deadline, self.node_change(context, change)).await
    }

    async fn set_moves(&self, context: &RequestContext, paused: bool) -> Result<(), Problem> {
        self.bounded("set_moves", context.deadline, self.pause_moves(context, paused)).await
    }

    async fn set_passphrase(&self, context: &RequestContext, new: NewPassphrase) -> Result<(), Problem> {
        self.bounded("set_passphrase", context.deadline, self.change_passphrase(context, new)).await
    }

    async fn keys(&self, context: &RequestContext) -> Result<KeysReply, Problem> {
        self.bounded("keys", context.deadline, self.key_names(context)).await
    }

    async fn rotate_key(&self, context: &RequestContext, request: RotateRequest) -> Result<RotateReply, Problem> {
        self.bounded("rotate_key", context.deadline, self.rotate(context, request)).await
    }

    async fn erasures(&self, context: &RequestContext) -> Result<ErasuresReply, Problem> {
        self.bounded("erasures", context.deadline, self.ends_of_keys(context)).await
    }

    async fn repositories(&self, context: &RequestContext) -> Result<RepositoriesReply, Problem> {
        self.bounded("repositories", context.deadline, self.backup_places(context)).await
    }

    async fn backup(&self, context: &RequestContext, step: &str, body: Bytes) -> Result<Vec<u8>, Problem> {
        self.bounded("backup", context.deadline, self.backup_step(context, step, body)).await
    }

    async fn verify(&self, context: &RequestContext, request: VerifyRequest) -> Result<VerifyReply, Problem> {
        self.bounded("verify", context.deadline, self.verify_shards(context, request)).await
    }
}
