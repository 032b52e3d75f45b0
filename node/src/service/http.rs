//! The node's HTTP: health, readiness, metrics.

use std::sync::Arc;

use axum::{Router, extract::State, http::StatusCode, routing::get};
use mira_net::ServerSettings;
use tokio::{net::TcpListener, sync::watch};

use super::DRAIN;
use crate::node::Node;

/// Serves until told to stop.
pub async fn serve(
    node: Arc<Node>,
    listener: TcpListener,
    settings: ServerSettings,
    mut stopped: watch::Receiver<bool>,
) {
    let app = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(node);
    let stop = async {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    mira_net::serve(listener, app, ServerSettings { drain: DRAIN, ..settings }, stop).await;
}

async fn ready(State(node): State<Arc<Node>>) -> (StatusCode, String) {
    let obstacles = node.obstacles();
    if obstacles.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    let lines: String = obstacles.iter().map(|obstacle| format!("{obstacle}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{lines}"))
}

async fn metrics(State(node): State<Arc<Node>>) -> String {
    node.metrics.scrape(&node.figures())
}
