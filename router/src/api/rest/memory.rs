//! Memories over REST.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use mira_proto::model::{
    ForgetReply, ForgetRequest, RecallReply, RecallRequest, ScanReply, ScanRequest, SearchReply, SearchRequest,
    SessionsReply, SessionsRequest, StatusReply, StatusRequest, StoreReply, StoreRequest,
};

use super::answer::Tokened;
use crate::api::extract::{Caller, Document, Name, Parameters};
use crate::api::failure::Failure;
use crate::api::{Api, new_passphrase};

pub(in crate::api) async fn store(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Document(request): Document<StoreRequest>,
) -> Result<Tokened<StoreReply>, Failure> {
    Ok(Tokened(api.memory.store(&context, request).await?))
}

pub(in crate::api) async fn search(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Document(request): Document<SearchRequest>,
) -> Result<Tokened<SearchReply>, Failure> {
    Ok(Tokened(api.memory.search(&context, request).await?))
}

pub(in crate::api) async fn recall(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Document(request): Document<RecallRequest>,
) -> Result<Json<RecallReply>, Failure> {
    Ok(Json(api.memory.recall(&context, request).await?))
}

pub(in crate::api) async fn forget(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Document(request): Document<ForgetRequest>,
) -> Result<Tokened<ForgetReply>, Failure> {
    Ok(Tokened(api.memory.forget(&context, request).await?))
}

pub(in crate::api) async fn get_status(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Parameters(request): Parameters<StatusRequest>,
) -> Result<Json<StatusReply>, Failure> {
    Ok(Json(api.memory.status(&context, request).await?))
}

pub(in crate::api) async fn post_status(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Document(request): Document<StatusRequest>,
) -> Result<Json<StatusReply>, Failure> {
    Ok(Json(api.memory.status(&context, request).await?))
}

pub(in crate::api) async fn scan(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Name(name): Name,
    Parameters(request): Parameters<ScanRequest>,
) -> Result<Json<ScanReply>, Failure> {
    Ok(Json(api.memory.scan(&context, &name, request).await?))
}

pub(in crate::api) async fn sessions(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Name(name): Name,
    Parameters(request): Parameters<SessionsRequest>,
) -> Result<Json<SessionsReply>, Failure> {
    Ok(Json(api.memory.sessions(&context, &name, request).await?))
}

pub(in crate::api) async fn set_passphrase(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    api.memory.set_passphrase(&context, new_passphrase(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
