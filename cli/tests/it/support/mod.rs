//! A router stand-in: the REST API over a map in memory, with faults on demand, and a way to run the program against it.
//!
//! It keeps the promises of the contract that the client relies on (ids are idempotent, items are answered one by one,
//! an idempotency key is applied once) and writes down what it was asked.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::ops::Bound;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path as UrlPath, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use mira_proto::filter::Scalar;
use mira_proto::model::{
    AttachmentInfo, BeamRecall, Collection, CollectionSettings, Consistency, ForgetReply, ForgetRequest, Frame,
    GrowReply, GrowRequest, GrowthStatus, Hit, ItemResult, Metric, NodeStatus, Quantization, RecallReply,
    RecallRequest, ReplicaStatus, ScanReply, ScannedFrame, SearchExplain, SearchReply, SearchRequest, SearchResult,
    ShardExplain, ShardStatus, StatusReply, StoreItem, StoreReply, StoreRequest, Stored, TuneReply, TuneRequest,
    UploadReply, UploadRequest, VectorReason, Why,
};
use mira_proto::{Code, Problem};
use serde_json::json;
use uuid::Uuid;

/// What the stand-in knows and what it was told to do wrong.
#[derive(Default)]
pub struct Shared {
    pub frames: BTreeMap<Uuid, (String, Frame)>,
    pub order: Vec<Uuid>,
    pub collections: BTreeMap<String, Collection>,
    /// Method, path and idempotency key of every request.
    pub requests: Vec<(String, String, Option<String>)>,
    /// Every search, also those of batches.
    pub searches: Vec<SearchRequest>,
    /// Searches of every batch.
    pub batch_sizes: Vec<usize>,
    /// Items of every `store` that was answered.
    pub store_sizes: Vec<usize>,
    pub recalled_ids: usize,
    /// The next so many requests are answered with this problem.
    pub failing: Option<(u32, Code)>,
    /// After so many more stores every request is refused with `internal`.
    pub breaks_after_stores: Option<u32>,
    /// Every n-th request is `unavailable`.
    pub every_nth_unavailable: Option<usize>,
    /// More items than this take too long.
    pub most_items_in_time: Option<usize>,
    /// Every n-th item is `unavailable` the first time it comes.
    pub every_nth_item_unavailable: Option<usize>,
    /// Large contents of frames.
    pub contents: HashMap<Uuid, Vec<u8>>,
    pub uploads: BTreeMap<Uuid, UploadUnderWay>,
    /// Bytes that came in uploads.
    pub uploaded_bytes: u64,
    /// Contents that were read.
    pub contents_read: usize,
    /// After so many more steps of uploads every request is refused with `internal`.
    pub breaks_after_steps: Option<u32>,
    /// The next content that is read is of a frame that is replaced before it can be looked at again.
    pub replaces_while_read: Option<Vec<u8>>,
    pub items_seen: HashMap<Uuid, u32>,
    pub applied: HashMap<String, StoreReply>,
}

/// An upload that was begun.
pub struct UploadUnderWay {
    collection: String,
    request: UploadRequest,
    bytes: Vec<u8>,
    stored: Option<Stored>,
}

impl UploadUnderWay {
    fn reply(&self, upload: Uuid) -> UploadReply {
        let (size, stored) = (self.request.size, self.stored.clone());
        UploadReply { upload, offset: self.bytes.len() as u64, size, stored }
    }
}

type Fake = Arc<Mutex<Shared>>;
type Answer<T> = Result<Json<T>, Refusal>;

/// A stand-in that serves.
pub struct Server {
    pub address: SocketAddr,
    shared: Fake,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    pub fn start() -> Server {
        Server::start_at((std::net::Ipv4Addr::LOCALHOST, 0).into())
    }

    pub fn start_at(address: SocketAddr) -> Server {
        let shared = Fake::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new()
            .route("/mcp/store", post(store))
            .route("/mcp/search", post(search))
            .route("/mcp/recall", post(recall))
            .route("/mcp/forget", post(forget))
            .route("/mcp/status", get(status))
            .route("/collections", get(list_collections))
            .route("/collections/{name}", get(get_collection).put(put_collection).delete(delete_collection))
            .route("/collections/{name}/frames", get(scan))
            .route("/collections/{name}/frames/{id}/content", get(content))
            .route("/collections/{name}/uploads", post(begin_upload))
            .route("/collections/{name}/uploads/{upload}", get(upload_state).patch(append))
            .route("/collections/{name}/uploads/{upload}/finish", post(finish_upload))
            .route("/collections/{name}/grow", post(grow_collection))
            .route("/collections/{name}/tune", post(tune_collection))
            .layer(axum::extract::DefaultBodyLimit::max(32 << 20))
            .layer(middleware::from_fn_with_state(shared.clone(), watch))
            .with_state(shared.clone());
        runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Server { address, shared, _runtime: runtime }
    }

    pub fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    /// Runs the program against this server, in `folder`, with nothing of the caller's environment but the path.
    pub fn mira(&self, folder: &Path, args: &[&str]) -> Output {
        mira(self.address, folder, args)
    }
}

pub fn mira(address: SocketAddr, folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mira"))
        .args(args)
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .env("MIRA_URL", format!("http://{address}"))
        .env("MIRA_TOKEN", "secret")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

struct Refusal(Problem);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Refusal(problem)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status()).unwrap();
        (status, [("content-type", "application/problem+json")], self.0.to_json().to_string()).into_response()
    }
}

/// Writes requests down and refuses those that were to be refused.
async fn watch(State(fake): State<Fake>, request: Request, next: Next) -> Response {
    let refused = {
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        let mut shared = fake.lock().unwrap();
        shared.requests.push((request.method().to_string(), path, header("idempotency-key")));
        shared.refusal(header("authorization").as_deref())
    };
    match refused {
        Some(problem) => Refusal(problem).into_response(),
        None => next.run(request).await,
    }
}

impl Shared {
    fn refusal(&mut self, authorization: Option<&str>) -> Option<Problem> {
        if authorization != Some("Bearer secret") {
            return Some(Problem::new(Code::Unauthenticated, "the token is not one of this router's"));
        }
        if let Some((left, code)) = &mut self.failing
            && *left > 0
        {
            *left -= 1;
            return Some(Problem::new(*code, "told to fail"));
        }
        if self.breaks_after_stores == Some(0) || self.breaks_after_steps == Some(0) {
            return Some(Problem::internal("told to break"));
        }
        let number = self.requests.len();
        self.every_nth_unavailable.filter(|nth| number.is_multiple_of(*nth))?;
        Some(Problem::new(Code::Unavailable, "told to be away now and then"))
    }

    fn store_one(&mut self, item: StoreItem) -> Result<Stored, Problem> {
        if item.content.as_ref().is_none_or(|content| content.trim().is_empty()) {
            return Err(Problem::invalid("content is empty"));
        }
        self.keep(item, None)
    }

    fn keep(&mut self, item: StoreItem, attachment: Option<AttachmentInfo>) -> Result<Stored, Problem> {
        let content = item.content;
        let id = item.id.unwrap_or_else(|| Uuid::from_u128(0x7000_8000_0000_0000_0000 + self.frames.len() as u128 + 1));
        let seen = self.items_seen.entry(id).or_default();
        *seen += 1;
        if *seen == 1 && self.every_nth_item_unavailable.is_some_and(|nth| id.as_u128().is_multiple_of(nth as u128)) {
            return Err(Problem::new(Code::Unavailable, "told to refuse this item once"));
        }
        let metadata = item.metadata.unwrap_or_default();
        if let Some((_, known)) = self.frames.get_mut(&id) {
            if known.content == content && known.metadata == metadata && known.attachment == attachment {
                return Ok(Stored { id, version: known.version });
            }
            if !item.replace {
                return Err(Problem::new(Code::Conflict, "this id has other content"));
            }
            known.content = content;
            known.version += 1;
            return Ok(Stored { id, version: known.version });
        }
        let frame = Frame {
            id,
            content,
            bytes: None,
            metadata,
            kind: item.kind.unwrap_or_else(|| "general".into()),
            session: item.session,
            role: item.role,
            created_at: item.created_at.unwrap_or_else(|| "2026-01-02T03:04:05Z".into()),
            updated_at: "2026-01-02T03:04:05Z".into(),
            expires_at: item.expires_at,
            version: 1,
            private: item.private,
            attachment,
        };
        self.order.push(id);
        self.frames.insert(id, (item.collection.unwrap_or_else(|| "default".into()), frame));
        Ok(Stored { id, version: 1 })
    }

    fn in_collection(&self, collection: Option<&String>) -> impl Iterator<Item = &Frame> {
        let wanted = collection.map_or("default", String::as_str).to_owned();
        self.order.iter().filter_map(|id| self.frames.get(id)).filter(move |(name, _)| *name == wanted).map(|(_, f)| f)
    }
}

#[derive(serde::Deserialize)]
struct Page {
    after: Option<Uuid>,
    limit: Option<u32>,
}

async fn scan(State(fake): State<Fake>, UrlPath(name): UrlPath<String>, Query(page): Query<Page>) -> Answer<ScanReply> {
    let shared = fake.lock().unwrap();
    let behind = shared.frames.range((page.after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
    let all = behind.filter(|(_, (collection, _))| *collection == name).map(|(_, (_, frame))| frame.clone());
    let mut frames: Vec<_> = all.map(|frame| ScannedFrame { frame, vector: None, vectors: BTreeMap::new() }).collect();
    let limit = page.limit.unwrap_or(100) as usize;
    let more = frames.len() > limit;
    frames.truncate(limit);
    let next = frames.last().filter(|_| more).map(|last| last.frame.id);
    Ok(Json(ScanReply { frames, next, ..ScanReply::default() }))
}

async fn content(State(fake): State<Fake>, UrlPath((_, id)): UrlPath<(String, Uuid)>) -> Result<Response, Refusal> {
    let mut shared = fake.lock().unwrap();
    shared.contents_read += 1;
    let bytes = shared.contents.get(&id).cloned();
    let bytes = bytes.ok_or_else(|| Problem::new(Code::NotFound, format!("there is no frame {id}")))?;
    let version = shared.frames[&id].1.version;
    if let Some(other) = shared.replaces_while_read.take() {
        let frame = &mut shared.frames.get_mut(&id).unwrap().1;
        frame.version += 1;
        frame.attachment.as_mut().unwrap().size = other.len() as u64;
        shared.contents.insert(id, other);
    }
    Ok(([("etag", format!("\"{id}-{version}\""))], bytes).into_response())
}

async fn begin_upload(
    State(fake): State<Fake>,
    UrlPath(collection): UrlPath<String>,
    headers: HeaderMap,
    Json(request): Json<UploadRequest>,
) -> Answer<UploadReply> {
    let key = headers["idempotency-key"].to_str().unwrap();
    let id = Uuid::new_v8(blake3::hash(key.as_bytes()).as_bytes()[..16].try_into().unwrap());
    let mut shared = fake.lock().unwrap();
    let new = UploadUnderWay { collection, request: request.clone(), bytes: Vec::new(), stored: None };
    let upload = shared.uploads.entry(id).or_insert(new);
    match upload.request == request {
        true => Ok(Json(upload.reply(id))),
        false => Err(Problem::new(Code::Conflict, "the key has begun another upload").into()),
    }
}

async fn upload_state(State(fake): State<Fake>, UrlPath((_, id)): UrlPath<(String, Uuid)>) -> Answer<UploadReply> {
    let shared = fake.lock().unwrap();
    let upload = shared.uploads.get(&id).ok_or_else(|| Problem::new(Code::NotFound, "there is no such upload"))?;
    Ok(Json(upload.reply(id)))
}

async fn append(
    State(fake): State<Fake>,
    UrlPath((_, id)): UrlPath<(String, Uuid)>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer<UploadReply> {
    let mut shared = fake.lock().unwrap();
    let offset: usize = headers["upload-offset"].to_str().unwrap().parse().unwrap();
    shared.uploaded_bytes += body.len() as u64;
    if let Some(left) = &mut shared.breaks_after_steps {
        *left -= 1;
    }
    let upload = shared.uploads.get_mut(&id).unwrap();
    if offset != upload.bytes.len() || upload.stored.is_some() {
        return Err(Problem::new(Code::Conflict, "it goes on elsewhere").into());
    }
    upload.bytes.extend_from_slice(&body);
    Ok(Json(upload.reply(id)))
}

async fn finish_upload(State(fake): State<Fake>, UrlPath((_, id)): UrlPath<(String, Uuid)>) -> Answer<UploadReply> {
    let mut shared = fake.lock().unwrap();
    let mut upload = shared.uploads.remove(&id).unwrap();
    if upload.stored.is_none() {
        let size = upload.bytes.len() as u64;
        assert_eq!(upload.request.size, Some(size), "nothing is missing");
        let content_type = upload.request.content_type.clone().unwrap();
        let item = StoreItem { collection: Some(upload.collection.clone()), ..upload.request.frame.clone() };
        let stored = shared.keep(item, Some(AttachmentInfo { content_type, size }))?;
        shared.contents.insert(stored.id, std::mem::take(&mut upload.bytes));
        upload.stored = Some(stored);
    }
    let reply = upload.reply(id);
    shared.uploads.insert(id, upload);
    Ok(Json(reply))
}

async fn store(State(fake): State<Fake>, headers: HeaderMap, body: Bytes) -> Answer<StoreReply> {
    let request: StoreRequest =
        serde_json::from_slice(&body).map_err(|error| Problem::invalid(format!("the request is wrong: {error}")))?;
    let key = headers["idempotency-key"].to_str().unwrap().to_owned();
    let mut shared = fake.lock().unwrap();
    if let Some(reply) = shared.applied.get(&key) {
        return Ok(Json(reply.clone()));
    }
    if let Some(left) = &mut shared.breaks_after_stores {
        // Others may have come between the question of whether to break and here.
        *left = left.checked_sub(1).ok_or_else(|| Problem::internal("told to break"))?;
    }
    let mut reply = StoreReply { id: None, version: None, items: None, consistency_token: "t".into() };
    match request.items {
        Some(items) => {
            if shared.most_items_in_time.is_some_and(|most| items.len() > most) {
                return Err(Problem::new(Code::DeadlineExceeded, "too many items for the time given").into());
            }
            shared.store_sizes.push(items.len());
            let answers = items.into_iter().map(|item| match shared.store_one(item) {
                Ok(stored) => ItemResult::Stored(stored),
                Err(error) => ItemResult::Refused { error },
            });
            reply.items = Some(answers.collect());
        }
        None => {
            let stored = shared.store_one(request.item)?;
            (reply.id, reply.version) = (Some(stored.id), Some(stored.version));
        }
    }
    shared.applied.insert(key, reply.clone());
    Ok(Json(reply))
}

async fn search(State(fake): State<Fake>, Json(request): Json<SearchRequest>) -> Answer<SearchReply> {
    let mut shared = fake.lock().unwrap();
    let Some(searches) = request.searches else {
        return Ok(Json(shared.search_one(request)?));
    };
    shared.batch_sizes.push(searches.len());
    let answer = |request| match shared.search_one(request) {
        Ok(reply) => SearchResult::Answered(Box::new(reply)),
        Err(error) => SearchResult::Refused { error },
    };
    let answers = Some(searches.into_iter().map(answer).collect());
    Ok(Json(SearchReply { answers, consistency_token: "t".into(), ..SearchReply::default() }))
}

impl Shared {
    fn search_one(&mut self, request: SearchRequest) -> Result<SearchReply, Problem> {
        self.searches.push(request.clone());
        if request.k == Some(0) {
            return Err(Problem::invalid("k is 0, it must be 1 to 1000"));
        }
        Ok(found(self, request))
    }
}

fn found(shared: &Shared, request: SearchRequest) -> SearchReply {
    let query = request.query.into_iter().chain(request.queries.into_iter().flatten()).collect::<Vec<_>>().join(" ");
    let kind = request.filter.and_then(|filter| filter.eq);
    let matching = |frame: &&Frame| {
        kind.as_ref().is_none_or(|kind| *kind == Scalar::Text(frame.kind.clone()))
            && query.split_whitespace().any(|word| frame.content.as_ref().is_some_and(|content| content.contains(word)))
    };
    let hits =
        shared.in_collection(request.collection.as_ref()).filter(matching).take(request.k.unwrap_or(10) as usize);
    let hits = hits.enumerate().map(|(at, frame)| Hit {
        score: 0.9 - at as f32 / 10.0,
        why: Why { vector: Some(VectorReason { rank: at as u32 + 1, score: 0.5, passage: None }), text: None },
        group: None,
        frame: frame.clone(),
    });
    let shard = ShardExplain { shard: 3, plan: "graph".into(), ef: 64, searched: 1_000, ..ShardExplain::default() };
    let shard = ShardExplain { compared: 900, rescored: 20, matching: Some(500), index_us: 120, ..shard };
    let explain =
        request.explain.then(|| SearchExplain { shards_us: 400, shards: vec![shard], ..SearchExplain::default() });
    let any = request.consistency == Some(Consistency::Any);
    SearchReply {
        hits: hits.collect(),
        consistency_token: "t".into(),
        explain,
        staleness_ms: any.then_some(12),
        ..SearchReply::default()
    }
}

async fn recall(State(fake): State<Fake>, Json(request): Json<RecallRequest>) -> Answer<RecallReply> {
    let mut shared = fake.lock().unwrap();
    let any = request.consistency == Some(Consistency::Any);
    let mut reply = RecallReply { staleness_ms: any.then_some(4_000), lagging: any, ..RecallReply::default() };
    if let Some(session) = &request.session {
        let frames = shared.in_collection(request.collection.as_ref());
        reply.frames = frames.filter(|frame| frame.session.as_ref() == Some(session)).cloned().collect();
        let limit = request.limit.unwrap_or(100) as usize;
        let surplus = reply.frames.len().saturating_sub(limit);
        if request.last {
            drop(reply.frames.drain(..surplus))
        } else {
            reply.frames.truncate(limit)
        }
        return Ok(Json(reply));
    }
    let ids: Vec<Uuid> = request.id.into_iter().chain(request.ids.into_iter().flatten()).collect();
    shared.recalled_ids += ids.len();
    for id in ids {
        match shared.frames.get(&id) {
            Some((_, frame)) => reply.frames.push(frame.clone()),
            None if request.id.is_some() => return Err(Problem::new(Code::NotFound, format!("no frame {id}")).into()),
            None => reply.missing.push(id),
        }
    }
    Ok(Json(reply))
}

async fn forget(State(fake): State<Fake>, Json(request): Json<ForgetRequest>) -> Answer<ForgetReply> {
    let mut shared = fake.lock().unwrap();
    let named: Vec<Uuid> = request.id.into_iter().chain(request.ids.into_iter().flatten()).collect();
    let wanted = |frame: &&Frame| {
        let kind = request.filter.as_ref().and_then(|filter| filter.eq.as_ref());
        kind.is_some_and(|kind| *kind == Scalar::Text(frame.kind.clone()))
            || request.all
            || named.contains(&frame.id)
            || (request.session.is_some() && frame.session == request.session)
    };
    let ids: Vec<Uuid> =
        shared.in_collection(request.collection.as_ref()).filter(wanted).map(|frame| frame.id).collect();
    for id in &ids {
        shared.frames.remove(id);
    }
    Ok(Json(ForgetReply { removed: ids.len() as u64, ids, shred: None, consistency_token: "t".into() }))
}

async fn status(State(fake): State<Fake>, request: Request) -> Answer<StatusReply> {
    let shared = fake.lock().unwrap();
    let detailed = request.uri().query() == Some("detailed=true");
    let node = |id: &str, port: u16, reachable| NodeStatus {
        id: id.into(),
        address: format!("127.0.0.1:{port}"),
        reachable,
        phase: "active".into(),
        version: "0.1.0".into(),
        uptime_ms: 3_723_000,
        resident_bytes: 120 << 20,
        disk_used_bytes: 3 << 30,
        disk_free_bytes: 70 << 30,
        leads: 8,
    };
    let replica = |node: &str, role: &str, applied| ReplicaStatus {
        node: node.into(),
        role: role.into(),
        term: 3,
        applied,
        apply_lag: 0,
        frames: 5,
        vectors: 6,
        index_lag: 0,
    };
    let replicas = vec![replica("00000000000000aa", "leader", 42), replica("00000000000000bb", "unreachable", 0)];
    Ok(Json(StatusReply {
        state: "degraded".into(),
        cluster_id: "6d697261".into(),
        version: "0.1.0".into(),
        epoch: 7,
        shards: 16,
        frames: shared.frames.len() as u64,
        model: Some("all-MiniLM-L6-v2".into()),
        nodes: vec![node("00000000000000aa", 7892, true), node("00000000000000bb", 7902, false)],
        groups: if detailed {
            vec![ShardStatus { shard: Some(0), leader: Some("00000000000000aa".into()), replicas }]
        } else {
            Vec::new()
        },
        missing: vec!["node 00000000000000bb".into()],
        ..StatusReply::default()
    }))
}

async fn list_collections(State(fake): State<Fake>) -> Json<serde_json::Value> {
    let shared = fake.lock().unwrap();
    Json(json!({ "collections": shared.collections.values().collect::<Vec<_>>() }))
}

type Name = axum::extract::Path<String>;

async fn get_collection(State(fake): State<Fake>, name: Name) -> Answer<Collection> {
    let found = fake.lock().unwrap().collections.get(&name.0).cloned();
    found.map(Json).ok_or_else(|| Problem::new(Code::NotFound, format!("no collection {}", name.0)).into())
}

async fn put_collection(
    State(fake): State<Fake>,
    name: Name,
    Json(settings): Json<CollectionSettings>,
) -> Answer<Collection> {
    let collection = Collection {
        name: name.0.clone(),
        dim: settings.dim.unwrap_or(384),
        metric: settings.metric,
        quantization: settings.quantization,
        partitions: settings.partitions.unwrap_or(1),
        ttl_seconds: settings.ttl_seconds,
        created_at: "2026-01-02T03:04:05Z".into(),
        ef: None,
        vectors: settings.vectors,
        growth: None,
        rotation: None,
        model: (settings.metric == Metric::Cosine && settings.quantization == Quantization::Int8)
            .then(|| "MiniLM".into()),
    };
    fake.lock().unwrap().collections.insert(name.0, collection.clone());
    Ok(Json(collection))
}

/// Grows at once; a caller that waits sees it clear for one look.
async fn grow_collection(State(fake): State<Fake>, name: Name, Json(request): Json<GrowRequest>) -> Answer<GrowReply> {
    let mut shared = fake.lock().unwrap();
    let collection = shared.collections.get_mut(&name.0);
    let collection = collection.ok_or_else(|| Problem::new(Code::NotFound, format!("no collection {}", name.0)))?;
    let (from, to) = (collection.partitions, request.partitions);
    if !request.dry_run {
        collection.partitions = to;
        let step = "remembering".to_owned();
        collection.growth = Some(GrowthStatus { from, to, step, done: 0, of: 0 });
    }
    Ok(Json(GrowReply { from, to, shards: (0..from).collect(), added_shards: (from..to).collect() }))
}

/// Each beam misses a tenth of what the one before missed; a collection of one partition is small.
async fn tune_collection(State(fake): State<Fake>, name: Name, Json(request): Json<TuneRequest>) -> Answer<TuneReply> {
    let mut shared = fake.lock().unwrap();
    let collection = shared.collections.get_mut(&name.0);
    let collection = collection.ok_or_else(|| Problem::new(Code::NotFound, format!("no collection {}", name.0)))?;
    let before = collection.ef;
    if request.reset {
        collection.ef = None;
        return Ok(Json(TuneReply { before, ..TuneReply::default() }));
    }
    if collection.partitions == 1 {
        return Ok(Json(TuneReply { before, ef: before, scanned: true, vectors: 120, ..TuneReply::default() }));
    }
    let beam = |(ef, recall, median_us)| BeamRecall { ef, recall, median_us };
    let beams: Vec<BeamRecall> = [(16, 0.7, 40), (24, 0.97, 55), (32, 0.997, 71)].into_iter().map(beam).collect();
    let wanted = request.recall.unwrap_or(0.95);
    let ef = beams.iter().find(|beam| beam.recall >= wanted).map(|beam| beam.ef);
    if ef.is_none() && !request.dry_run {
        let detail = "no beam reaches a recall@10 of 1: the best is 0.9970 at ef 32; nothing was changed";
        return Err(Problem::new(Code::Conflict, detail).into());
    }
    if !request.dry_run {
        collection.ef = ef;
    }
    Ok(Json(TuneReply { before, ef, scanned: false, vectors: 51_234, samples: 200, beams }))
}

async fn delete_collection(State(fake): State<Fake>, name: Name) -> Result<StatusCode, Refusal> {
    match fake.lock().unwrap().collections.remove(&name.0) {
        Some(_) => Ok(StatusCode::NO_CONTENT),
        None => Err(Problem::new(Code::NotFound, format!("no collection {}", name.0)).into()),
    }
}
