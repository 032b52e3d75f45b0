//! `store`: frames of 1 KiB, one a request, with their vectors, so that no model is measured.

use std::sync::Arc;

use mira_proto::v1::StoreRequest;

use super::{Bench, FRAME_BYTES};
use crate::BenchError;
use crate::load::{Limit, Outcome, closed_loop};
use crate::report::Figure;
use crate::texts::opaque_text;
use crate::vectors::Vectors;

/// Frame texts that are made in advance; making one costs more than sending it.
const CONTENTS: u64 = 512;
/// Partitions, if there are as many shards, of the collection that many writers share in one of the runs.
const SPREAD: u32 = 16;

/// Writers of one collection.
pub struct Load {
    collection: String,
    contents: Arc<Vec<String>>,
    vectors: Arc<Vectors>,
}

impl Load {
    /// Prepares frames for a collection.
    pub fn new(collection: String, vectors: Arc<Vectors>) -> Load {
        Load::of(collection, vectors, FRAME_BYTES)
    }

    /// The same with contents of so many bytes.
    pub fn of(collection: String, vectors: Arc<Vectors>, bytes: usize) -> Load {
        let contents = (0..CONTENTS).map(|number| opaque_text(number, bytes)).collect();
        Load { collection, contents: Arc::new(contents), vectors }
    }

    /// The frame that operation `number` stores.
    pub fn frame(&self, number: u64) -> StoreRequest {
        StoreRequest {
            content: Some(self.contents[(number % CONTENTS) as usize].clone()),
            vector: self.vectors.row(number as usize).to_vec(),
            collection: self.collection.clone(),
            ..Default::default()
        }
    }

    /// Stores with so many writers.
    pub async fn run(self: &Arc<Self>, bench: &Bench, writers: usize, limit: Limit) -> Result<Outcome, BenchError> {
        let callers = bench.callers(writers).await?;
        let load = self.clone();
        let store = move |caller: crate::caller::Caller, number| {
            let frame = load.frame(number);
            async move { caller.store(frame).await.map(drop) }
        };
        Ok(bench.servers.during(closed_loop(&callers, limit, store)).await)
    }
}

/// Latency and throughput by number of writers, and beside them the disk's own.
pub async fn measure(bench: &mut Bench) -> Result<Vec<Figure>, BenchError> {
    let fdatasync = bench.fdatasync.clone();
    let mut figures = vec![Figure::latency("this disk: fdatasync of 1 KiB, alone", fdatasync.clone())];
    let collection = bench.collection("store", 1).await?;
    let load = Arc::new(Load::new(collection, bench.vectors.clone()));
    load.run(bench, 8, bench.scale.run.times(0.25)).await?.summary("warming up")?;
    for writers in bench.scale.writers.clone() {
        let what = format!("store a 1 KiB frame, {}", plural(writers, "writer"));
        let summary = load.run(bench, writers, bench.scale.run.clone()).await?.summary(&what)?;
        let limit = 2.0 * fdatasync.p50_ms;
        let met = summary.p50_ms < limit;
        let figure = Figure::latency(what, summary);
        figures.push(match writers {
            1 => figure.goal(format!("p50 < 2 × fdatasync p50 ({limit:.2} ms)"), met),
            _ => figure,
        });
    }
    let most = bench.scale.writers.iter().copied().max().unwrap_or(1);
    let status = bench.callers(1).await?[0].status().await.map_err(BenchError::refused("status"))?;
    let partitions = SPREAD.min(status.shards);
    let collection = bench.collection("store-spread", partitions).await?;
    let load = Arc::new(Load::new(collection, bench.vectors.clone()));
    let what = format!("store a 1 KiB frame, {}, {partitions} partitions", plural(most, "writer"));
    let summary = load.run(bench, most, bench.scale.run.clone()).await?.summary(&what)?;
    figures.push(Figure::latency(what, summary));
    Ok(figures)
}

/// `1 writer`, `2 writers`.
pub fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
