//! A client of a router over gRPC.
//!
//! It retries as the shell does: a request that found no router or a busy one is sent again, under the same idempotency
//! key, until the deadline. What it still returns as a problem is what an application would see.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mira_proto::model::StatusReply;
use mira_proto::v1::admin_client::AdminClient;
use mira_proto::v1::memory_client::MemoryClient;
use mira_proto::v1::{
    DeleteCollectionRequest, ItemReply, PutCollectionRequest, RecallReply, RecallRequest, SearchReply, SearchRequest,
    StatusRequest, StoreBatchRequest, StoreReply, StoreRequest, TuneCollectionReply, TuneCollectionRequest,
};
use mira_proto::{Code, Problem, limits};
use tokio::time::{Instant, sleep};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use uuid::Uuid;

/// How long a request is tried.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a collection may take to be tuned: the longest deadline that a router accepts.
const TUNED_WITHIN: Duration = limits::MAX_DEADLINE;
/// Wait before the first retry; it doubles, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A router.
#[derive(Debug, Clone)]
pub struct Target {
    /// `http://host:port` of its HTTP.
    pub url: String,
    /// `http://host:port` of its gRPC.
    pub grpc: String,
    /// A token that it takes.
    pub token: String,
}

/// One connection to a router. A clone shares it.
#[derive(Clone)]
pub struct Caller {
    channel: Channel,
    bearer: MetadataValue<tonic::metadata::Ascii>,
    owner_key: Option<MetadataValue<tonic::metadata::Ascii>>,
    patience: Duration,
    retries: Arc<AtomicU64>,
}

impl Caller {
    /// Connects.
    pub async fn connect(target: &Target) -> Result<Caller, Problem> {
        let endpoint = Endpoint::from_shared(target.grpc.clone())
            .map_err(|error| Problem::invalid(format!("{} is no address: {error}", target.grpc)))?;
        let channel = endpoint.tcp_nodelay(true).connect().await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            Problem::new(Code::Unavailable, format!("no gRPC at {}: {error} {cause}", target.grpc))
        })?;
        let bearer =
            format!("Bearer {}", target.token).parse().map_err(|_| Problem::invalid("the token is not plain text"))?;
        Ok(Caller { channel, bearer, owner_key: None, patience: PATIENCE, retries: Arc::default() })
    }

    /// The same connection with an owner's key (base64 of 32 bytes) in each request.
    pub fn as_owner(&self, key: &str) -> Result<Caller, Problem> {
        let key = key.parse().map_err(|_| Problem::invalid("the owner's key is not plain text"))?;
        Ok(Caller { owner_key: Some(key), ..self.clone() })
    }

    /// The same connection for requests that may take this long.
    #[must_use]
    pub fn with_patience(&self, patience: Duration) -> Caller {
        Caller { patience, ..self.clone() }
    }

    /// Connects so many times.
    pub async fn connect_all(target: &Target, count: usize) -> Result<Vec<Caller>, Problem> {
        let mut callers = Vec::with_capacity(count);
        for _ in 0..count {
            callers.push(Caller::connect(target).await?);
        }
        Ok(callers)
    }

    /// How often this connection sent a request again.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Stores one frame.
    pub async fn store(&self, request: StoreRequest) -> Result<StoreReply, Problem> {
        self.send(request, |mut client, request| async move { client.memory.store(request).await }).await
    }

    /// Stores many; one that is refused is a problem of the whole.
    pub async fn store_batch(&self, items: Vec<StoreRequest>) -> Result<(), Problem> {
        let request = StoreBatchRequest { items };
        let reply =
            self.send(request, |mut client, request| async move { client.memory.store_batch(request).await }).await?;
        let refused = reply.items.into_iter().find_map(|ItemReply { problem, .. }| problem);
        match refused {
            Some(problem) => Err(Problem::new(Code::parse(&problem.code), problem.detail)),
            None => Ok(()),
        }
    }

    /// Searches; an answer that misses a shard is a problem.
    pub async fn search(&self, request: SearchRequest) -> Result<SearchReply, Problem> {
        let reply =
            self.send(request, |mut client, request| async move { client.memory.search(request).await }).await?;
        if reply.degraded {
            Err(Problem::new(Code::Unavailable, format!("shards {:?} did not answer", reply.missing_shards)))
        } else {
            Ok(reply)
        }
    }

    /// Recalls.
    pub async fn recall(&self, request: RecallRequest) -> Result<RecallReply, Problem> {
        self.send(request, |mut client, request| async move { client.memory.recall(request).await }).await
    }

    /// The detailed status.
    pub async fn status(&self) -> Result<StatusReply, Problem> {
        let request = StatusRequest { detailed: true };
        let reply =
            self.send(request, |mut client, request| async move { client.memory.status(request).await }).await?;
        serde_json::from_str(&reply.status_json).map_err(|error| Problem::internal(format!("no status: {error}")))
    }

    /// Makes a collection for vectors of this many components.
    pub async fn make_collection(&self, name: &str, dim: u32, partitions: u32) -> Result<(), Problem> {
        let request = PutCollectionRequest { name: name.to_owned(), dim, partitions, ..Default::default() };
        self.send(request, |mut client, request| async move { client.admin.put_collection(request).await })
            .await
            .map(drop)
    }

    /// Finds and sets the beam with which searches of a collection reach a recall; it takes up to a minute for a million
    /// vectors. Without a recall the index's own beam is used again.
    pub async fn tune(&self, name: &str, recall: Option<f64>) -> Result<TuneCollectionReply, Problem> {
        let reset = recall.is_none();
        let request = TuneCollectionRequest { name: name.to_owned(), recall, reset, ..Default::default() };
        self.with_patience(TUNED_WITHIN)
            .send(request, |mut client, request| async move { client.admin.tune_collection(request).await })
            .await
    }

    /// Removes a collection.
    pub async fn delete_collection(&self, name: &str) -> Result<(), Problem> {
        let request = DeleteCollectionRequest { name: name.to_owned() };
        self.send(request, |mut client, request| async move { client.admin.delete_collection(request).await })
            .await
            .map(drop)
    }

    /// Sends until an answer comes that another try would not change, or patience ends.
    async fn send<Q: Clone, A, F: Future<Output = Result<Response<A>, Status>>>(
        &self,
        message: Q,
        call: impl Fn(Clients, Request<Q>) -> F,
    ) -> Result<A, Problem> {
        let deadline = Instant::now() + self.patience;
        let key = Uuid::now_v7().to_string();
        let mut pause = FIRST_PAUSE;
        loop {
            let mut request = Request::new(message.clone());
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
            request.metadata_mut().insert("authorization", self.bearer.clone());
            if let Some(key) = &self.owner_key {
                request.metadata_mut().insert("x-mira-owner-key", key.clone());
            }
            if let Ok(key) = key.parse() {
                request.metadata_mut().insert("idempotency-key", key);
            }
            let problem = match call(self.clients(), request).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => Problem::from(status),
            };
            let again = matches!(problem.code, Code::Unavailable | Code::Overloaded | Code::RateLimited);
            if !again || Instant::now() + pause >= deadline {
                return Err(problem);
            }
            self.retries.fetch_add(1, Ordering::Relaxed);
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn clients(&self) -> Clients {
        let memory = MemoryClient::new(self.channel.clone())
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_MESSAGE_BYTES);
        Clients { memory, admin: AdminClient::new(self.channel.clone()) }
    }
}

/// The stubs of one request.
struct Clients {
    memory: MemoryClient<Channel>,
    admin: AdminClient<Channel>,
}
