//! HTTP: `POST /mcp/<tool>` with JSON in and out, collections, health, metrics, and the way to MCP itself.
//!
//! Every error, also of a wrong path, method, media type or body, is an RFC 9457 problem document.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use mira_proto::model::{
    Collection, CollectionSettings, ErasuresReply, ForgetReply, ForgetRequest, GrowReply, GrowRequest, KeysReply,
    MovesSetting, NodeChange, NodeChangeReply, RecallReply, RecallRequest, RepositoriesReply, RotateReply,
    RotateRequest, ScanReply, ScanRequest, SearchReply, SearchRequest, SessionsReply, SessionsRequest, StatusReply,
    StatusRequest, StoreReply, StoreRequest, TuneReply, TuneRequest, VerifyReply, VerifyRequest,
};
use mira_proto::{Code, Problem, limits};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Api, CONSISTENCY_TOKEN, content, mcp, new_passphrase, openapi};
use crate::{RequestContext, metrics};

/// The routes. `bound` is the address they are served at, which MCP's `Host` check then knows as ours.
pub fn app(api: Arc<Api>, bound: SocketAddr) -> Router {
    let guarded = Router::new()
        .route_service("/mcp", mcp::service(api.clone(), bound))
        .route("/mcp/store", post(store))
        .route("/mcp/search", post(search))
        .route("/mcp/recall", post(recall))
        .route("/mcp/forget", post(forget))
        .route("/mcp/status", get(get_status).post(post_status))
        .route("/collections", get(list_collections))
        .route("/collections/{name}", get(get_collection).put(put_collection).delete(delete_collection))
        .route("/collections/{name}/frames", get(scan))
        .route("/collections/{name}/frames/{id}/content", get(content::read))
        .route("/collections/{name}/uploads", post(content::begin))
        .route("/collections/{name}/uploads/{id}", get(content::state).patch(content::append).delete(content::cancel))
        .route("/collections/{name}/uploads/{id}/finish", post(content::finish))
        .route("/collections/{name}/sessions", get(sessions))
        .route("/collections/{name}/grow", post(grow_collection))
        .route("/collections/{name}/tune", post(tune_collection))
        .route("/admin/nodes", post(change_node))
        .route("/admin/moves", post(set_moves))
        .route("/admin/shards/verify", post(verify))
        .route("/owner/passphrase", post(set_passphrase))
        .route("/admin/keys", get(keys))
        .route("/admin/keys/rotate", post(rotate_key))
        .route("/admin/erasures", get(erasures))
        .route("/admin/repositories", get(repositories))
        .route("/admin/backup/{step}", post(backup))
        .route("/openapi.json", get(async || Json(openapi::document())))
        .route_layer(middleware::from_fn_with_state(api.clone(), admit));
    let metrics = Router::new().route("/metrics", get(render_metrics));
    let metrics = match api.open_metrics {
        true => metrics,
        false => metrics.route_layer(middleware::from_fn_with_state(api.clone(), admit)),
    };
    Router::new()
        .merge(guarded)
        .merge(metrics)
        .route("/", get(async || Html(include_str!("../console/index.html"))))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .fallback(async |uri: Uri| {
            Failure::with(StatusCode::NOT_FOUND, Problem::new(Code::NotFound, format!("there is nothing at {uri}")))
        })
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            let problem = Problem::invalid(format!("{} does not take {method}", uri.path()));
            Failure::with(StatusCode::METHOD_NOT_ALLOWED, problem)
        })
        .layer(DefaultBodyLimit::max(limits::MAX_MESSAGE_BYTES))
        .with_state(api)
}

/// Who sent a request, for the handlers behind [`admit`].
#[derive(Clone)]
pub(super) struct Principal(pub(super) Arc<str>);

/// Turns away who has no token, before a body is read.
async fn admit(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Result<Response, Failure> {
    let principal = api.gate.admit(request.headers())?;
    request.extensions_mut().insert(Principal(principal));
    Ok(next.run(request).await)
}

async fn store(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Document(request): Document<StoreRequest>,
) -> Result<Answer<StoreReply>, Failure> {
    Ok(Answer(api.memory.store(&context, request).await?))
}

async fn search(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Document(request): Document<SearchRequest>,
) -> Result<Answer<SearchReply>, Failure> {
    Ok(Answer(api.memory.search(&context, request).await?))
}

async fn recall(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Document(request): Document<RecallRequest>,
) -> Result<Json<RecallReply>, Failure> {
    Ok(Json(api.memory.recall(&context, request).await?))
}

async fn forget(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Document(request): Document<ForgetRequest>,
) -> Result<Answer<ForgetReply>, Failure> {
    Ok(Answer(api.memory.forget(&context, request).await?))
}

async fn get_status(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    request: Result<Query<StatusRequest>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<StatusReply>, Failure> {
    let Query(request) = request.map_err(|rejection| Problem::invalid(rejection.body_text()))?;
    Ok(Json(api.memory.status(&context, request).await?))
}

async fn post_status(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Document(request): Document<StatusRequest>,
) -> Result<Json<StatusReply>, Failure> {
    Ok(Json(api.memory.status(&context, request).await?))
}

async fn list_collections(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
) -> Result<Json<serde_json::Value>, Failure> {
    let collections = api.memory.list_collections(&context).await?;
    Ok(Json(serde_json::json!({ "collections": collections })))
}

async fn get_collection(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Name(name): Name,
) -> Result<Json<Collection>, Failure> {
    Ok(Json(api.memory.get_collection(&context, &name).await?))
}

async fn put_collection(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Name(name): Name,
    Document(settings): Document<CollectionSettings>,
) -> Result<Json<Collection>, Failure> {
    Ok(Json(api.memory.put_collection(&context, &name, settings).await?))
}

async fn delete_collection(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Name(name): Name,
) -> Result<StatusCode, Failure> {
    api.memory.delete_collection(&context, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn scan(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Name(name): Name,
    request: Result<Query<ScanRequest>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<ScanReply>, Failure> {
    let Query(request) = request.map_err(|rejection| Problem::invalid(rejection.body_text()))?;
    Ok(Json(api.memory.scan(&context, &name, request).await?))
}

async fn sessions(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Name(name): Name,
    request: Result<Query<SessionsRequest>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<SessionsReply>, Failure> {
    let Query(request) = request.map_err(|rejection| Problem::invalid(rejection.body_text()))?;
    Ok(Json(api.memory.sessions(&context, &name, request).await?))
}

async fn grow_collection(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Name(name): Name,
    Document(request): Document<GrowRequest>,
) -> Result<Json<GrowReply>, Failure> {
    Ok(Json(api.memory.grow_collection(&context, &name, request).await?))
}

async fn tune_collection(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Name(name): Name,
    Document(request): Document<TuneRequest>,
) -> Result<Json<TuneReply>, Failure> {
    Ok(Json(api.memory.tune_collection(&context, &name, request).await?))
}

async fn change_node(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Document(change): Document<NodeChange>,
) -> Result<Json<NodeChangeReply>, Failure> {
    Ok(Json(api.memory.change_node(&context, change).await?))
}

async fn set_moves(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Document(setting): Document<MovesSetting>,
) -> Result<Json<MovesSetting>, Failure> {
    api.memory.set_moves(&context, setting.paused).await?;
    Ok(Json(setting))
}

async fn verify(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Document(request): Document<VerifyRequest>,
) -> Result<Json<VerifyReply>, Failure> {
    Ok(Json(api.memory.verify_shards(&context, request).await?))
}

async fn set_passphrase(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    api.memory.set_passphrase(&context, new_passphrase(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn keys(State(api): State<Arc<Api>>, Caller(context): Caller) -> Result<Json<KeysReply>, Failure> {
    Ok(Json(api.memory.list_keys(&context).await?))
}

async fn rotate_key(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Document(request): Document<RotateRequest>,
) -> Result<Json<RotateReply>, Failure> {
    Ok(Json(api.memory.rotate_key(&context, request).await?))
}

async fn erasures(State(api): State<Arc<Api>>, Caller(context): Caller) -> Result<Json<ErasuresReply>, Failure> {
    Ok(Json(api.memory.list_erasures(&context).await?))
}

async fn repositories(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
) -> Result<Json<RepositoriesReply>, Failure> {
    Ok(Json(api.memory.list_repositories(&context).await?))
}

/// Backup and restore: protobuf in and out, see `backup.rs`.
async fn backup(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Name(step): Name,
    body: Bytes,
) -> Result<Response, Failure> {
    let answer = api.memory.backup_step(&context, &step, body).await?;
    Ok(([(CONTENT_TYPE, "application/x-protobuf")], answer).into_response())
}

async fn readyz(State(api): State<Arc<Api>>) -> Response {
    let (ready, body) = api.readiness();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

async fn render_metrics(State(api): State<Arc<Api>>) -> Result<Response, Failure> {
    let text = api.metrics.render().map_err(|error| Problem::internal(format!("metrics: {error}")))?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// The context of a request that [`admit`] let through.
pub(super) struct Caller(pub(super) RequestContext);

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Failure> {
        let Some(Principal(principal)) = parts.extensions.get().cloned() else {
            return Err(Problem::internal("a request came past the gate").into());
        };
        Ok(Caller(api.context(principal, &parts.headers)?))
    }
}

/// A collection's name in the path.
pub(super) struct Name(pub(super) String);

impl FromRequestParts<Arc<Api>> for Name {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Failure> {
        match Path::<String>::from_request_parts(parts, api).await {
            Ok(Path(name)) => Ok(Name(name)),
            Err(rejection) => Err(Problem::invalid(rejection.body_text()).into()),
        }
    }
}

/// A JSON body.
pub(super) struct Document<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for Document<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Failure> {
        let media_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let problem = Problem::invalid("the body must be JSON: send the header Content-Type: application/json");
            return Err(Failure::with(StatusCode::UNSUPPORTED_MEDIA_TYPE, problem));
        }
        let body = Bytes::from_request(request, api).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                let limit = limits::MAX_MESSAGE_BYTES;
                return Problem::new(
                    Code::TooLarge,
                    format!("the body has more than {limit} bytes: send less at once"),
                );
            }
            Problem::invalid(format!("the body could not be read: {}", rejection.body_text()))
        })?;
        Ok(Document(parse(&body)?))
    }
}

/// Reads a document; the message says where and what is wrong.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let text = std::str::from_utf8(body)
        .map_err(|error| Problem::invalid(format!("the body is not UTF-8 from byte {} on", error.valid_up_to())))?;
    serde_json::from_str(text).map_err(|error| {
        let what = if error.is_data() { "the request is wrong" } else { "the body is not valid JSON" };
        Problem::invalid(format!("{what}: {error}"))
    })
}

/// An answer whose consistency token goes into a header too.
struct Answer<T>(T);

/// Answers that say what was seen.
trait Seen: Serialize {
    fn token(&self) -> &str;
}

impl Seen for StoreReply {
    fn token(&self) -> &str {
        &self.consistency_token
    }
}

impl Seen for SearchReply {
    fn token(&self) -> &str {
        &self.consistency_token
    }
}

impl Seen for ForgetReply {
    fn token(&self) -> &str {
        &self.consistency_token
    }
}

impl<T: Seen> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        let token = HeaderValue::from_str(self.0.token());
        let mut response = Json(self.0).into_response();
        if let Ok(token) = token {
            response.headers_mut().insert(CONSISTENCY_TOKEN, token);
        }
        response
    }
}

/// A problem on its way out, with its HTTP status.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    problem: Problem,
}

impl Failure {
    /// A problem of HTTP itself, whose status is not that of its code.
    pub(super) fn with(status: StatusCode, problem: Problem) -> Self {
        Failure { status, problem }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let status = StatusCode::from_u16(problem.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Failure { status, problem }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut document = self.problem.to_json();
        document["status"] = self.status.as_u16().into();
        let media_type = HeaderValue::from_static("application/problem+json");
        let mut response = (self.status, [(CONTENT_TYPE, media_type)], document.to_string()).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
