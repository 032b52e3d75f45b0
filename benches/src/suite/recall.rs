//! `recall` by id, linearizable: the leader confirms its quorum for each.

use mira_proto::Problem;
use mira_proto::v1::RecallRequest;

use super::store::plural;
use super::{Bench, document_id};
use crate::BenchError;
use crate::caller::Caller;
use crate::load::closed_loop;
use crate::report::Figure;

/// Latencies by number of callers.
pub async fn measure(bench: &mut Bench) -> Result<Vec<Figure>, BenchError> {
    let count = bench.scale.documents.first().copied().unwrap_or(1);
    let documents = bench.documents(count).await?;
    let mut figures = Vec::new();
    for callers in bench.scale.callers.clone() {
        let collection = documents.collection.clone();
        let recall = move |caller: Caller, number: u64| {
            // A step that is prime to the count visits every document.
            let id = document_id((number as usize).wrapping_mul(7_919) % count).to_string();
            let request = RecallRequest {
                ids: vec![id],
                collection: collection.clone(),
                consistency: "linearizable".to_owned(),
                ..Default::default()
            };
            async move {
                match caller.recall(request).await?.frames.len() {
                    1 => Ok(()),
                    found => Err(Problem::internal(format!("{found} frames of one id"))),
                }
            }
        };
        let connections = bench.callers(callers).await?;
        let what = format!("recall by id, linearizable, {}", plural(callers, "caller"));
        let load = closed_loop(&connections, bench.scale.run.clone(), recall);
        let summary = bench.servers.during(load).await.summary(&what)?;
        let met = summary.p99_ms < 5.0;
        let figure = Figure::latency(what, summary);
        figures.push(if callers == 1 { figure.goal("p99 < 5 ms", met) } else { figure });
    }
    Ok(figures)
}
