//! What searches feel of an import: their p99 while one runs, into another collection and into their own, beside that of
//! the idle cluster in the same run.
//!
//! An import counts as running until every replica has indexed it: building the graph is most of its work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::search::by_vector;
use super::store::plural;
use super::{Bench, Documents, import, wait_until_indexed};
use crate::BenchError;
use crate::load::{Limit, Summary};
use crate::report::Figure;

/// Callers that search meanwhile.
const CALLERS: [usize; 2] = [1, 4];
/// Collections' worth of rows that all imports need: the searched one, and as many more as there are loads, so that none
/// stores again what is there.
pub const IMPORTS: usize = 1 + CALLERS.len();
/// How many times the idle cluster's p99 the p99 beside an import may be (what users are promised).
const MOST: f64 = 2.0;
/// Bytes of an imported text.
const DOCUMENT_BYTES: usize = 400;

/// Latencies of searches, idle and beside imports.
pub async fn measure(bench: &mut Bench) -> Result<Vec<Figure>, BenchError> {
    let count = bench.scale.most_documents();
    let collection = bench.collection("searched", 1).await?;
    let stored = import::vectors(bench, &collection, count).await?;
    let documents = Documents { collection, count, stored };
    by_vector(bench, &documents, 1, bench.scale.run.times(0.25)).await?.summary("warming up")?;
    let (mut figures, mut idle) = (Vec::new(), Vec::new());
    for callers in CALLERS {
        let what = format!("search {count} documents, idle, {}", plural(callers, "caller"));
        let summary = by_vector(bench, &documents, callers, bench.scale.run.clone()).await?.summary(&what)?;
        idle.push(summary.p99_ms);
        figures.push(Figure::latency(what, summary));
    }
    for (callers, idle_p99_ms) in CALLERS.into_iter().zip(&idle) {
        let other = bench.collection(&format!("imported-{callers}"), 1).await?;
        let what = format!("search {count} documents beside an import of {count} into another collection");
        let searched = beside(bench, &documents, callers, &other, 0).await?;
        figures.extend(compared(format!("{what}, {}", plural(callers, "caller")), searched, *idle_p99_ms));
    }
    for (number, (callers, idle_p99_ms)) in CALLERS.into_iter().zip(&idle).enumerate() {
        let what = format!("search {count} documents beside an import of {count} into their own collection");
        let first = (1 + number) * count;
        let searched = beside(bench, &documents, callers, &documents.collection, first).await?;
        figures.extend(compared(format!("{what}, {}", plural(callers, "caller")), searched, *idle_p99_ms));
    }
    Ok(figures)
}

/// Searches while as many documents as are searched are imported, from a row on.
async fn beside(
    bench: &Bench,
    documents: &Documents,
    callers: usize,
    collection: &str,
    first: usize,
) -> Result<Summary, BenchError> {
    let stopped = Arc::new(AtomicBool::new(false));
    let importing = async {
        let document = import::document(bench, collection, DOCUMENT_BYTES);
        import::store(bench, first..first + documents.count, document).await?;
        wait_until_indexed(&bench.callers(1).await?[0]).await
    };
    let importing = async {
        let imported = importing.await;
        // Also after a failure: the searches go on until then.
        stopped.store(true, Ordering::Relaxed);
        imported
    };
    let searching = by_vector(bench, documents, callers, Limit::Stopped(stopped.clone()));
    let (imported, searched) = tokio::join!(importing, searching);
    imported?;
    searched?.summary("searching beside an import")
}

fn compared(what: String, searched: Summary, idle_p99_ms: f64) -> [Figure; 2] {
    let ratio = searched.p99_ms / idle_p99_ms;
    let times = format!("{what}: p99 over that of the idle cluster");
    [Figure::latency(what, searched), Figure::amount(times, ratio, "×").goal(format!("≤ {MOST} ×"), ratio <= MOST)]
}
