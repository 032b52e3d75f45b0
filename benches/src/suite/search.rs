//! `search`: by vector and by text, alone and with many callers; and how right the answers are.

use std::num::NonZero;
use std::sync::Arc;

use mira_proto::Problem;
use mira_proto::v1::SearchRequest;

use super::store::plural;
use super::{Bench, Documents, row_of};
use crate::BenchError;
use crate::caller::Caller;
use crate::load::{Limit, Outcome, closed_loop};
use crate::report::Figure;
use crate::vectors::Vectors;

/// Hits of every search.
pub const K: usize = 10;
/// The smallest recall@10 (SPEC section 5).
pub const RECALL: f64 = 0.95;

/// Latencies at every size, and recall@10.
pub async fn measure(bench: &mut Bench) -> Result<Vec<Figure>, BenchError> {
    let mut figures = Vec::new();
    // Questions go on where the last run stopped: none is asked twice.
    let mut asked = 0;
    for count in bench.scale.documents.clone() {
        let documents = bench.documents(count).await?;
        for callers in bench.scale.callers.clone() {
            let what = format!("search {count} documents, vector given, {}", plural(callers, "caller"));
            let summary = by_vector(bench, &documents, callers, bench.scale.run.clone()).await?.summary(&what)?;
            figures.push(match (count, callers) {
                (10_000, 1) => {
                    let met = summary.p99_ms < 5.0;
                    Figure::latency(what, summary).goal("p99 < 5 ms", met)
                }
                _ => Figure::latency(what, summary),
            });
            let what = format!("search {count} documents by text, {}", plural(callers, "caller"));
            let outcome = by_text(bench, &documents, callers, asked).await?;
            asked += outcome.latencies.count() + callers as u64;
            let summary = outcome.summary(&what)?;
            figures.push(match (count, callers) {
                (10_000, 1) => {
                    let met = summary.p99_ms < 25.0;
                    Figure::latency(what, summary).goal("p99 < 25 ms", met)
                }
                _ => Figure::latency(what, summary),
            });
        }
        let recall = recall(bench, &documents).await?;
        let what = format!("recall@10 among {count} documents");
        figures.push(Figure::amount(what, recall, "").goal(format!("≥ {RECALL}"), recall >= RECALL));
    }
    Ok(figures)
}

/// Latencies of searches with a vector given and no filter, by number of callers; and recall@10.
pub async fn measure_with_vectors(bench: &mut Bench) -> Result<Vec<Figure>, BenchError> {
    let mut figures = Vec::new();
    for count in bench.scale.documents.clone() {
        let documents = bench.documents(count).await?;
        for callers in bench.scale.callers.clone() {
            let what = format!("search {count} vectors of {}, {}", bench.vectors.dim(), plural(callers, "caller"));
            let summary = by_vector(bench, &documents, callers, bench.scale.run.clone()).await?.summary(&what)?;
            let met = summary.p99_ms < 10.0;
            let figure = Figure::latency(what, summary);
            figures.push(if callers == 1 { figure.goal("p99 < 10 ms", met) } else { figure });
        }
        let recall = recall(bench, &documents).await?;
        let what = format!("recall@10 among {count} vectors");
        figures.push(Figure::amount(what, recall, "").goal(format!("≥ {RECALL}"), recall >= RECALL));
    }
    Ok(figures)
}

/// So many callers search with vectors until the limit.
pub async fn by_vector(
    bench: &Bench,
    documents: &Documents,
    callers: usize,
    limit: Limit,
) -> Result<Outcome, BenchError> {
    let (vectors, collection) = (bench.vectors.clone(), documents.collection.clone());
    let ask = move |number| vector_request(&collection, vectors.query(number as usize));
    run(bench, documents, callers, limit, ask).await
}

/// Searches with questions in words, from number `first` on.
pub async fn by_text(bench: &Bench, documents: &Documents, callers: usize, first: u64) -> Result<Outcome, BenchError> {
    let (texts, collection) = (bench.texts.clone(), documents.collection.clone());
    let ask = move |number| SearchRequest {
        query: texts.query((first + number) as usize),
        k: K as u32,
        collection: collection.clone(),
        ..Default::default()
    };
    run(bench, documents, callers, bench.scale.run.clone(), ask).await
}

async fn run(
    bench: &Bench,
    documents: &Documents,
    callers: usize,
    limit: Limit,
    ask: impl Fn(u64) -> SearchRequest + Clone + Send + 'static,
) -> Result<Outcome, BenchError> {
    let callers = bench.callers(callers).await?;
    let expected = K.min(documents.count);
    let search = move |caller: Caller, number| {
        let request = ask(number);
        async move {
            let found = caller.search(request).await?.hits.len();
            if found == expected {
                Ok(())
            } else {
                Err(Problem::internal(format!("a search found {found} of {expected}")))
            }
        }
    };
    Ok(bench.servers.during(closed_loop(&callers, limit, search)).await)
}

/// The mean recall@10 of the judged queries, against comparing with every row.
pub async fn recall(bench: &Bench, documents: &Documents) -> Result<f64, BenchError> {
    let caller = &bench.callers(1).await?[0];
    let judged = bench.scale.judged.min(bench.vectors.queries());
    let mut found = Vec::with_capacity(judged);
    for query in 0..judged {
        let request = vector_request(&documents.collection, bench.vectors.query(query));
        let reply = caller.search(request).await.map_err(BenchError::refused("search"))?;
        let ids = reply.hits.iter().filter_map(|hit| hit.frame.as_ref());
        let rows: Result<Vec<usize>, Problem> = ids.map(|frame| row_of(&frame.id)).collect();
        found.push(rows.map_err(BenchError::refused("search"))?);
    }
    let (vectors, count) = (Arc::clone(&bench.vectors), documents.count);
    let judge = move || judged_recall(&vectors, count, &found);
    tokio::task::spawn_blocking(judge).await.map_err(|error| BenchError::Wrong(error.to_string()))
}

/// The mean recall@10 of what was found for the first queries, on all processors: each compares with every row.
fn judged_recall(vectors: &Vectors, count: usize, found: &[Vec<usize>]) -> f64 {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let sum_of = |thread: usize| -> f64 {
        let own = found.iter().enumerate().skip(thread).step_by(threads);
        own.map(|(query, rows)| vectors.recall(query, count, rows, K)).sum()
    };
    let sum: f64 = std::thread::scope(|scope| {
        let judges: Vec<_> = (0..threads).map(|thread| scope.spawn(move || sum_of(thread))).collect();
        judges.into_iter().map(|judge| judge.join().expect("comparing does not panic")).sum()
    });
    sum / found.len() as f64
}

/// The request that searches with one vector.
pub fn vector_request(collection: &str, query: &[f32]) -> SearchRequest {
    SearchRequest { vector: query.to_vec(), k: K as u32, collection: collection.to_owned(), ..Default::default() }
}
