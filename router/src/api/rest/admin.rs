//! Nodes, keys and backups over REST.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use mira_proto::model::{
    ErasuresReply, KeysReply, MovesSetting, NodeChange, NodeChangeReply, RepositoriesReply, RotateReply, RotateRequest,
    VerifyReply, VerifyRequest,
};

use crate::api::Api;
use crate::api::extract::{Caller, Document, Name};
use crate::api::failure::Failure;

pub(in crate::api) async fn change_node(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Document(change): Document<NodeChange>,
) -> Result<Json<NodeChangeReply>, Failure> {
    Ok(Json(api.memory.change_node(&context, change).await?))
}

pub(in crate::api) async fn set_moves(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Document(setting): Document<MovesSetting>,
) -> Result<Json<MovesSetting>, Failure> {
    api.memory.set_moves(&context, setting.paused).await?;
    Ok(Json(setting))
}

pub(in crate::api) async fn verify_shards(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Document(request): Document<VerifyRequest>,
) -> Result<Json<VerifyReply>, Failure> {
    Ok(Json(api.memory.verify_shards(&context, request).await?))
}

pub(in crate::api) async fn list_keys(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
) -> Result<Json<KeysReply>, Failure> {
    Ok(Json(api.memory.list_keys(&context).await?))
}

pub(in crate::api) async fn rotate_key(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Document(request): Document<RotateRequest>,
) -> Result<Json<RotateReply>, Failure> {
    Ok(Json(api.memory.rotate_key(&context, request).await?))
}

pub(in crate::api) async fn list_erasures(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
) -> Result<Json<ErasuresReply>, Failure> {
    Ok(Json(api.memory.list_erasures(&context).await?))
}

pub(in crate::api) async fn list_repositories(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
) -> Result<Json<RepositoriesReply>, Failure> {
    Ok(Json(api.memory.list_repositories(&context).await?))
}

/// Backup and restore: protobuf in and out, see [`crate::operations::admin::backup`].
pub(in crate::api) async fn backup_step(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Name(step): Name,
    body: Bytes,
) -> Result<Response, Failure> {
    let answer = api.memory.backup_step(&context, &step, body).await?;
    Ok(([(CONTENT_TYPE, "application/x-protobuf")], answer).into_response())
}
