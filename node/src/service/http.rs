//! The node's HTTP: health, readiness, metrics.

use std::sync::Arc;

use axum::{Router, extract::State, http::StatusCode, routing::get};
use mira_net::ServerSettings;
use tokio::{net::TcpListener, sync::watch};

use super::DRAIN;
use crate::node::Node;

/// Serves until told to stop.
pub async fn serve(node: Arc<Node>, listener: TcpListener, mut stopped: watch::Receiver<bool>) {
    let app = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(node);
    let stop = async {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    mira_net::serve(listener, app, ServerSettings { drain: DRAIN, ..ServerSettings::default() }, stop).await;
}

async fn ready(State(node): State<Arc<Node>>) -> (StatusCode, &'static str) {
    if node.ready() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
}

async fn metrics(State(node): State<Arc<Node>>) -> String {
    node.metrics.scrape(&node.figures())
}
