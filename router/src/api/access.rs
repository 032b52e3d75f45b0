//! One line of the log for each request, also of those that were turned away or whose caller left.
//!
//! A line says who asked what from where, and what came of it: names of routes and tools, never what a path, a header or a
//! body holds.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use mira_net::Peer;
use mira_proto::{Code, Problem};
use tokio::time::Instant;
use tracing::info;

use super::extract::Principal;

/// The tool that a request called, for its line.
#[derive(Clone)]
pub(super) struct CalledTool(pub(super) &'static str);

/// What is known of a request; dropped, it becomes a line.
struct Line {
    peer: Option<Peer>,
    method: axum::http::Method,
    route: String,
    started: Instant,
    principal: Option<Arc<str>>,
    tool: Option<&'static str>,
    /// Its status, or that the caller left before there was one.
    outcome: String,
}

impl Drop for Line {
    fn drop(&mut self) {
        let peer = self.peer.as_ref().map_or_else(|| "-".to_owned(), |peer| peer.address.to_string());
        let milliseconds = self.started.elapsed().as_millis() as u64;
        let (principal, tool) = (self.principal.as_deref().unwrap_or("-"), self.tool.unwrap_or("-"));
        let Line { method, route, outcome, .. } = self;
        info!(target: "mira_router::access", %peer, principal, %method, route, tool, outcome, milliseconds, "request");
    }
}

/// Writes the line of a request.
pub(super) async fn logged(request: Request, next: Next) -> Response {
    let mut line = Line {
        peer: request.extensions().get().cloned(),
        method: request.method().clone(),
        route: route_of(&request),
        started: Instant::now(),
        principal: None,
        tool: None,
        outcome: "gone".to_owned(),
    };
    let response = next.run(request).await;
    let extensions = response.extensions();
    line.principal = extensions.get().map(|Principal(principal)| principal.clone());
    line.tool = extensions.get().map(|CalledTool(tool)| *tool);
    line.outcome = outcome_of(&response);
    response
}

/// The route as the table has it; of gRPC the name of the method.
fn route_of(request: &Request) -> String {
    let path = request.uri().path();
    if path.starts_with("/mira.v1.") && path.len() < 64 {
        return path.to_owned();
    }
    request.extensions().get::<MatchedPath>().map_or("-", MatchedPath::as_str).to_owned()
}

fn outcome_of(response: &Response) -> String {
    if let Some(status) =
        tonic::Status::from_header_map(response.headers()).filter(|status| status.code() != tonic::Code::Ok)
    {
        return format!("grpc {:?} {}", status.code(), Problem::from(status.clone()).code);
    }
    match response.extensions().get::<Code>() {
        Some(code) => format!("{} {code}", response.status().as_u16()),
        None => response.status().as_u16().to_string(),
    }
}
