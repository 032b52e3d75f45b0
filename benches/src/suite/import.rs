//! Importing: batches of 100, some under way at a time, as `mira import` sends them.

use std::time::{Duration, Instant};

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

/// An import.
#[derive(Debug, Clone, Copy)]
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
    let (vectors, texts, collection) = (bench.vectors.clone(), bench.texts.clone(), collection.to_owned());
    let document = move |row: usize| StoreRequest {
        id: document_id(row).to_string(),
        content: Some(cut(texts.text(row), DOCUMENT_BYTES).to_owned()),
        vector: vectors.row(row).to_vec(),
        collection: collection.clone(),
        ..Default::default()
    };
    import(bench, count, BATCH, document).await
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
    let imported = import(bench, count, TEXT_BATCH, document).await?;
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
    count: usize,
    batch: usize,
    document: impl Fn(usize) -> StoreRequest + Clone + Send + 'static,
) -> Result<Imported, BenchError> {
    let callers = bench.callers(UNDER_WAY).await?;
    let before = wait_until_indexed(&callers[0]).await?;
    let batches = count.div_ceil(batch) as u64;
    let store = move |caller: Caller, number: u64| {
        let first = number as usize * batch;
        let items: Vec<_> = (first..count.min(first + batch)).map(&document).collect();
        async move { caller.store_batch(items).await }
    };
    let outcome = closed_loop(&callers, Limit::Operations(batches), store).await;
    outcome.summary("importing")?;
    let acknowledged = Instant::now();
    let after = wait_until_indexed(&callers[0]).await?;
    let indexed_after = acknowledged.elapsed();
    let disk =
        |status: &mira_proto::model::StatusReply| status.nodes.iter().map(|node| node.disk_used_bytes).sum::<u64>();
    Ok(Imported {
        per_second: count as f64 / outcome.elapsed.as_secs_f64(),
        indexed_after,
        disk_bytes: disk(&after).saturating_sub(disk(&before)),
    })
}

/// The first bytes of a text, in whole characters.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}
