//! What documents cost: memory of each process, bytes on disk.

use mira_proto::{Code, Problem};

use super::Bench;
use crate::BenchError;
use crate::report::Figure;
use crate::rest;

const MIB: f64 = (1 << 20) as f64;
/// A router's resident memory (SPEC section 2), MiB.
const ROUTER_MIB: f64 = 500.0;

/// Memory and disk with all documents loaded.
pub async fn measure(bench: &mut Bench) -> Result<Vec<Figure>, BenchError> {
    let count = bench.scale.most_documents();
    let documents = bench.documents(count).await?;
    let caller = &bench.callers(1).await?[0];
    let status = caller.status().await.map_err(BenchError::refused("status"))?;
    let frames = status.frames;
    let mut figures: Vec<Figure> = (1..)
        .zip(&status.nodes)
        .map(|(number, node)| {
            let what = format!("resident memory of node {number}, {frames} frames in the cluster");
            Figure::amount(what, node.resident_bytes as f64 / MIB, "MiB")
        })
        .collect();
    let router = router_bytes(bench).await.map_err(BenchError::refused("metrics"))? / MIB;
    let met = router < ROUTER_MIB;
    figures.push(
        Figure::amount("resident memory of the router, with its embedding model", router, "MiB").goal("< 500 MiB", met),
    );
    let replicas = status.nodes.len().clamp(1, 3) as f64;
    let per_frame = documents.stored.disk_bytes as f64 / replicas / count as f64;
    let raw = 4 * bench.vectors.dim() + 400;
    let what = format!("disk per frame and replica, log included ({raw} bytes of vector and text)");
    figures.push(Figure::amount(what, per_frame, "bytes"));
    Ok(figures)
}

async fn router_bytes(bench: &Bench) -> Result<f64, Problem> {
    let url = format!("{}/metrics", bench.target.url);
    let lost = |error: reqwest::Error| Problem::new(Code::Unavailable, error.to_string());
    let http = rest::http_client(&url)?;
    let text =
        http.get(&url).bearer_auth(&bench.target.token).send().await.map_err(lost)?.text().await.map_err(lost)?;
    let line = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    line.and_then(|value| value.trim().parse().ok()).ok_or_else(|| Problem::internal("no memory among the metrics"))
}
