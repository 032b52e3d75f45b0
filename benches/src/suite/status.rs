//! `status` with every detail.

use super::Bench;
use crate::BenchError;
use crate::caller::Caller;
use crate::load::closed_loop;
use crate::report::Figure;

/// Latency with one caller.
pub async fn measure(bench: &mut Bench) -> Result<Vec<Figure>, BenchError> {
    let connections = bench.callers(1).await?;
    let ask = |caller: Caller, _| async move { caller.status().await.map(drop) };
    let load = closed_loop(&connections, bench.scale.run.times(0.5), ask);
    let summary = bench.servers.during(load).await.summary("status")?;
    let met = summary.p99_ms < 10.0;
    Ok(vec![Figure::latency("status, detailed", summary).goal("p99 < 10 ms", met)])
}
