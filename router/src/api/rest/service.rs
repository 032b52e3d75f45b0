//! Handlers of operations that are no exchange of documents.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use mira_proto::Problem;

use crate::api::body::WholeBody;
use crate::api::extract::Caller;
use crate::api::failure::Failure;
use crate::api::{Api, new_passphrase};
use crate::metrics;

pub(in crate::api) async fn readiness(State(api): State<Arc<Api>>) -> Response {
    let (is_ready, body) = api.readiness().await;
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

pub(in crate::api) async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, Failure> {
    let text = api.metrics.render().map_err(|error| {
        tracing::error!(%error, "metrics cannot be rendered");
        Problem::internal("the metrics cannot be rendered: the router's log says why")
    })?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

pub(in crate::api) async fn create_passphrase(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
) -> Result<StatusCode, Failure> {
    api.memory.create_passphrase(&context).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(in crate::api) async fn set_passphrase(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    api.memory.set_passphrase(&context, new_passphrase(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(in crate::api) async fn remove_passphrase(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
) -> Result<StatusCode, Failure> {
    api.memory.remove_passphrase(&context).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Backup and restore: protobuf in and out, see [`crate::operations::admin::backup`].
pub(in crate::api) async fn backup_step(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Path(step): Path<String>,
    WholeBody(body): WholeBody,
) -> Result<Response, Failure> {
    let answer = api.memory.backup_step(&context, &step, body).await?;
    Ok(([(CONTENT_TYPE, "application/x-protobuf")], answer).into_response())
}
