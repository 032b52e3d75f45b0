//! Importing: batches of 100, some under way at a time, as `mira import` sends them.

use std::ops::Range;
use std::time::{Duration, Instant};

use mira_proto::model::StatusReply;
use mira_proto::v1::StoreRequest;

use super::{Bench, document_id, wait_until_indexed};
use crate::BenchError;
use crate::caller::Caller;
use crate::load::{Limit, closed_loop};
use crate::report::Figure;

/// Frames of a batch.
const BATCH: usize = 100;
/// Batches under way.
const UNDER_WAY: usize = 4;
/// Bytes of an imported document's text, where its vector is given.
const DOCUMENT_BYTES: usize = 400;
/// The longest a batch of real texts may be: it should take seconds, not a minute.
const TEXT_BATCH: usize = 25;

/// An import; all zero where it was not timed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Imported {
    /// Documents per second until the last was acknowledged.
    pub per_second: f64,
    /// From then until every replica's index held them.
    pub indexed_after: Duration,
    /// Growth of all data folders together, bytes.
    pub disk_bytes: u64,
}

/// Stores the first `count` vectors with a text each.
pub async fn vectors(bench: &Bench, collection: &str, count: usize) -> Result<Imported, BenchError> {
    import(bench, 0..count, BATCH, document(bench, collection, DOCUMENT_BYTES)).await
}

/// What makes the document of a row: the vector, and up to so many bytes of text.
pub fn document(
    bench: &Bench,
    collection: &str,
    bytes: usize,
) -> impl Fn(usize) -> StoreRequest + Clone + Send + 'static {
    let (vectors, texts, collection) = (bench.vectors.clone(), bench.texts.clone(), collection.to_owned());
    move |row: usize| StoreRequest {
        id: document_id(row).to_string(),
        content: Some(cut(texts.text(row), bytes).to_owned()),
        vector: vectors.row(row).to_vec(),
        collection: collection.clone(),
        ..Default::default()
    }
}

/// Stores the documents of some rows as an import does, until the last is acknowledged.
pub async fn store(
    bench: &Bench,
    rows: Range<usize>,
    document: impl Fn(usize) -> StoreRequest + Clone + Send + 'static,
) -> Result<Duration, BenchError> {
    store_in_batches(&bench.callers(UNDER_WAY).await?, rows, BATCH, document).await
}

/// Figures of both kinds of import.
pub async fn measure(bench: &mut Bench) -> Result<Vec<Figure>, BenchError> {
    let mut figures = Vec::new();
    let count = bench.scale.texts;
    let collection = bench.collection("texts", 1).await?;
    let texts = bench.texts.clone();
    let characters: usize = (0..count).map(|number| texts.text(number).len()).sum::<usize>() / count.max(1);
    let document = move |number: usize| StoreRequest {
        id: document_id(number).to_string(),
        content: Some(texts.text(number).to_owned()),
        collection: collection.clone(),
        ..Default::default()
    };
    let imported = import(bench, 0..count, TEXT_BATCH, document).await?;
    let what = format!("import {count} texts of {characters} bytes, embedded");
    figures.push(Figure::amount(what, imported.per_second, "documents/s"));

    let documents = bench.documents(bench.scale.most_documents()).await?;
    let what = format!("import {} documents, vectors given", documents.count);
    figures.push(Figure::amount(what, documents.stored.per_second, "documents/s"));
    let seconds = documents.stored.indexed_after.as_secs_f64();
    figures.push(Figure::amount("until all of them are in every replica's index", seconds, "s"));
    Ok(figures)
}

async fn import(
    bench: &Bench,
    rows: Range<usize>,
    batch: usize,
    document: impl Fn(usize) -> StoreRequest + Clone + Send + 'static,
) -> Result<Imported, BenchError> {
    let callers = bench.callers(UNDER_WAY).await?;
    let before = wait_until_indexed(&callers[0]).await?;
    let count = rows.len();
    let took = store_in_batches(&callers, rows, batch, document).await?;
    let acknowledged = Instant::now();
    let after = wait_until_indexed(&callers[0]).await?;
    Ok(Imported {
        per_second: count as f64 / took.as_secs_f64(),
        indexed_after: acknowledged.elapsed(),
        disk_bytes: disk_bytes(&after).saturating_sub(disk_bytes(&before)),
    })
}

async fn store_in_batches(
    callers: &[Caller],
    rows: Range<usize>,
    batch: usize,
    document: impl Fn(usize) -> StoreRequest + Clone + Send + 'static,
) -> Result<Duration, BenchError> {
    let batches = rows.len().div_ceil(batch) as u64;
    let store = move |caller: Caller, number: u64| {
        let first = rows.start + number as usize * batch;
        let items: Vec<_> = (first..rows.end.min(first + batch)).map(&document).collect();
        async move { caller.store_batch(items).await }
    };
    let outcome = closed_loop(callers, Limit::Operations(batches), store).await;
    outcome.summary("importing")?;
    Ok(outcome.elapsed)
}

/// Bytes of all data folders together.
pub fn disk_bytes(status: &StatusReply) -> u64 {
    status.nodes.iter().map(|node| node.disk_used_bytes).sum()
}

/// The first bytes of a text, in whole characters.
pub fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}
