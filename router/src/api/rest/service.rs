//! What a router says of itself over HTTP.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use mira_proto::Problem;

use crate::api::Api;
use crate::api::failure::Failure;
use crate::metrics;

pub(in crate::api) async fn readiness(State(api): State<Arc<Api>>) -> Response {
    let (is_ready, body) = api.readiness();
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

pub(in crate::api) async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, Failure> {
    let text = api.metrics.render().map_err(|error| Problem::internal(format!("metrics: {error}")))?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
