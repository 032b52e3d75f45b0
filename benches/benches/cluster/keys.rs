//! Keys that change and end, and backups: how long they take, and what searches feel of it.
//!
//! The program itself is timed, as an operator gives its commands. One caller searches while the key of a collection is
//! rotated; its p99 is judged against that of the idle cluster.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use mira_benches::BenchError;
use mira_benches::load::{Limit, Outcome};
use mira_benches::report::Figure;
use mira_benches::suite::{Bench, Documents, import, search, wait_until_indexed};
use mira_chaos_tests::cluster::{Cluster, Shape};
use mira_chaos_tests::process::Program;
use mira_crypto::ClusterKey;
use serde_json::Value;

use super::MIB;

/// Partitions of the collection, if there are as many shards.
const PARTITIONS: u32 = 16;

/// Rotates, backs up, restores, shreds.
pub async fn measure(bench: &mut Bench, cluster: &Cluster) -> Result<Vec<Figure>, BenchError> {
    let count = bench.scale.moved;
    let status = bench.callers(1).await?[0].status().await.map_err(BenchError::refused("status"))?;
    let partitions = PARTITIONS.min(status.shards);
    let collection = bench.collection("keys", partitions).await?;
    let stored = import::vectors(bench, &collection, count).await?;
    wait_until_indexed(&bench.callers(1).await?[0]).await?;
    let documents = Documents { collection, count, stored };
    let mut figures = rotated(bench, cluster, &documents).await?;
    figures.extend(backed_up(cluster, &documents).await?);
    let started = Instant::now();
    let shred = mira(cluster, &["forget", "--all", "--shred", "--yes", "--collection", &documents.collection]).await?;
    figures.push(Figure::amount(format!("shred {count} frames: nothing opens them"), seconds(started), "s"));
    let number = shred["shred"].to_string();
    let places = mira(cluster, &["admin", "backup", "places"]).await?;
    for place in places["repositories"].as_array().into_iter().flatten() {
        mira(cluster, &["admin", "backup", "forget", place["id"].as_str().unwrap_or_default()]).await?;
    }
    mira(cluster, &["admin", "shred-status", &number, "--wait"]).await?;
    figures.push(Figure::amount("until no file holds the keys, and the receipt", seconds(started), "s"));
    Ok(figures)
}

async fn rotated(bench: &Bench, cluster: &Cluster, documents: &Documents) -> Result<Vec<Figure>, BenchError> {
    let Documents { collection, count, .. } = documents;
    let idle = search::by_vector(bench, documents, 1, bench.scale.run.clone()).await?.summary("searching")?;
    let stopped = Arc::new(AtomicBool::new(false));
    let rotating = async {
        let started = Instant::now();
        let rotation = mira(cluster, &["admin", "keys", "rotate", "--collection", collection]).await;
        let took = seconds(started);
        stopped.store(true, Ordering::Relaxed);
        rotation.map(|rotation| (rotation["id"].to_string(), took, started))
    };
    let searching = search::by_vector(bench, documents, 1, Limit::Stopped(stopped.clone()));
    let (rotated, searched) = tokio::join!(rotating, searching);
    let ((number, took, started), searched): (_, Outcome) = (rotated?, searched?);
    mira(cluster, &["admin", "shred-status", &number, "--wait"]).await?;
    let erased = seconds(started);
    let what = format!("rotate the key of {count} frames");
    let searched = searched.summary(&what)?;
    let ratio = searched.p99_ms / idle.p99_ms;
    Ok(vec![
        Figure::latency(format!("search {count} documents, idle"), idle),
        Figure::amount(format!("{what}: all sealed anew, the old key destroyed"), took, "s"),
        Figure::amount(format!("{what}: until no file holds the old key, and the receipt"), erased, "s"),
        Figure::latency(format!("{what}: searches meanwhile, 1 caller"), searched),
        Figure::amount(format!("{what}: their p99 over that of the idle cluster"), ratio, "×"),
    ])
}

async fn backed_up(cluster: &Cluster, documents: &Documents) -> Result<Vec<Figure>, BenchError> {
    let folder = tempfile::tempdir_in(cluster.folder()).map_err(|error| BenchError::Wrong(error.to_string()))?;
    let place = folder.path().to_str().ok_or_else(|| BenchError::Wrong("a folder without a name".into()))?;
    let rate =
        |answer: &Value| answer["bytes"].as_f64().unwrap_or_default() / MIB / answer["seconds"].as_f64().unwrap_or(1.0);
    let count = documents.count;
    let full = mira(cluster, &["admin", "backup", "create", place]).await?;
    let size = full["bytes"].as_f64().unwrap_or_default() / MIB;
    let again = mira(cluster, &["admin", "backup", "create", place]).await?;
    let verified = mira(cluster, &["admin", "backup", "verify", place]).await?;
    let key = std::fs::read_to_string(cluster.folder().join("cluster-key"));
    let key = key.map_err(|error| BenchError::Wrong(error.to_string()))?;
    let key = ClusterKey::from_text(&key).map_err(|error| BenchError::Wrong(error.to_string()))?;
    let other = tempfile::tempdir_in(cluster.folder()).map_err(|error| BenchError::Wrong(error.to_string()))?;
    let shape = Shape { shards: cluster.shape().shards * 2, ..Shape::default() };
    let other = Cluster::start_with(shape, other, &key).await;
    let restored = mira(&other, &["admin", "restore", place]).await?;
    if restored["frames"] != full["frames"] {
        return Err(BenchError::Wrong(format!("{} frames came back of {}", restored["frames"], full["frames"])));
    }
    Ok(vec![
        Figure::amount(format!("backup of {count} frames, whole"), size, "MiB"),
        Figure::amount("backup, whole", rate(&full), "MiB/s"),
        Figure::amount("backup when nothing has changed", again["seconds"].as_f64().unwrap_or_default(), "s"),
        Figure::amount("verification: every frame opened, none stored", rate(&verified), "MiB/s"),
        Figure::amount("restore into a cluster of twice the shards, replication 3", rate(&restored), "MiB/s"),
    ])
}

/// Gives a command and reads its JSON.
async fn mira(cluster: &Cluster, arguments: &[&str]) -> Result<Value, BenchError> {
    let folder: &Path = cluster.folder();
    let (mut command, _) = Program::under_test().command("keys", folder);
    command.args(arguments).args(["--json", "--timeout", "600s"]);
    command.env("MIRA_URL", cluster.router_url(0)).env("MIRA_TOKEN", cluster.token());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it ends");
    let output = output.map_err(|error| BenchError::Wrong(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() {
        serde_json::from_slice(&output.stdout).map_err(|error| BenchError::Wrong(error.to_string()))
    } else {
        Err(BenchError::Wrong(format!("mira {}: {said}", arguments.join(" "))))
    }
}

fn seconds(started: Instant) -> f64 {
    started.elapsed().as_secs_f64()
}
