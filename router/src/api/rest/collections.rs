//! Collections over REST.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use mira_proto::model::{Collection, CollectionSettings, GrowReply, GrowRequest, TuneReply, TuneRequest};
use schemars::JsonSchema;
use serde::Serialize;

use crate::api::Api;
use crate::api::extract::{Caller, Document, Name};
use crate::api::failure::Failure;

/// All collections.
#[derive(Serialize, JsonSchema)]
pub(in crate::api) struct CollectionList {
    /// By name.
    collections: Vec<Collection>,
}

pub(in crate::api) async fn list_collections(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
) -> Result<Json<CollectionList>, Failure> {
    Ok(Json(CollectionList { collections: api.memory.list_collections(&context).await? }))
}

pub(in crate::api) async fn get_collection(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Name(name): Name,
) -> Result<Json<Collection>, Failure> {
    Ok(Json(api.memory.get_collection(&context, &name).await?))
}

pub(in crate::api) async fn put_collection(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Name(name): Name,
    Document(settings): Document<CollectionSettings>,
) -> Result<Json<Collection>, Failure> {
    Ok(Json(api.memory.put_collection(&context, &name, settings).await?))
}

pub(in crate::api) async fn delete_collection(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Name(name): Name,
) -> Result<StatusCode, Failure> {
    api.memory.delete_collection(&context, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(in crate::api) async fn grow_collection(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Name(name): Name,
    Document(request): Document<GrowRequest>,
) -> Result<Json<GrowReply>, Failure> {
    Ok(Json(api.memory.grow_collection(&context, &name, request).await?))
}

pub(in crate::api) async fn tune_collection(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Name(name): Name,
    Document(request): Document<TuneRequest>,
) -> Result<Json<TuneReply>, Failure> {
    Ok(Json(api.memory.tune_collection(&context, &name, request).await?))
}
