//! HTTP: the routes of the table of operations.
//!
//! Beside them stand the way to MCP and a page for people. Every error, also of a wrong path, method, media type or body, is an RFC 9457 problem document.

pub(super) mod contents;
pub(super) mod service;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{Html, Response};
use axum::routing::get;
use mira_proto::{Code, Problem};

use super::body::TakenRoom;
use super::extract::Principal;
use super::failure::Failure;
use super::operation::Access;
use super::{Api, access, mcp, operations};

/// The routes. `bound` is the address they are served at, which MCP's `Host` check then knows as ours.
pub fn app(api: Arc<Api>, bound: SocketAddr) -> Router {
    let mcp = Router::new()
        .route_service("/mcp", mcp::service(api.clone(), bound))
        .route_layer(middleware::from_fn_with_state(api.clone(), mcp::envelope::unpack));
    let mut guarded = Router::new().merge(mcp);
    let mut open = Router::new().route("/", get(async || Html(include_str!("../console/index.html"))));
    for operation in operations::table() {
        let is_open = match operation.access {
            Access::Token => false,
            Access::Open => true,
            Access::Metrics => api.open_metrics,
        };
        let routes = if is_open { &mut open } else { &mut guarded };
        *routes = std::mem::take(routes).route(operation.path, operation.route);
    }
    guarded
        .route_layer(middleware::from_fn_with_state(api.clone(), admit))
        .merge(open)
        .fallback(async |uri: Uri| {
            Failure::with(StatusCode::NOT_FOUND, Problem::new(Code::NotFound, format!("there is nothing at {uri}")))
        })
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            let problem = Problem::invalid(format!("{} does not take {method}", uri.path()));
            Failure::with(StatusCode::METHOD_NOT_ALLOWED, problem)
        })
        .layer(middleware::from_fn(access::logged))
        .with_state(api)
}

/// Turns away who has no token, before a body is read; a body's room is held until there is an answer.
async fn admit(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Result<Response, Failure> {
    let principal = Principal(api.gate.admit(request.headers())?);
    let room = TakenRoom::default();
    request.extensions_mut().insert(principal.clone());
    request.extensions_mut().insert(room.clone());
    let mut response = next.run(request).await;
    response.extensions_mut().insert(principal);
    drop(room);
    Ok(response)
}
