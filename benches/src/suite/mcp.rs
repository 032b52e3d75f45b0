//! Agents over MCP: of ten calls, seven search by text, two store, one asks for the status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::json;

use super::Bench;
use super::store::plural;
use crate::BenchError;
use crate::load::{Latencies, Limit, Outcome, closed_loop};
use crate::mcp::McpCaller;
use crate::report::Figure;

/// What one of ten calls does.
const TOOLS: [&str; 10] =
    ["search", "search", "store", "search", "search", "search", "store", "search", "status", "search"];

/// Latencies of each tool, all agents at once.
pub async fn measure(bench: &mut Bench) -> Result<Vec<Figure>, BenchError> {
    let (agents, limit) = (bench.scale.agents, bench.scale.run.times(2.0));
    load(bench, agents, limit).await
}

/// As [`measure`], with so many agents, up to a limit.
pub async fn load(bench: &mut Bench, agents: usize, limit: Limit) -> Result<Vec<Figure>, BenchError> {
    let collection = bench.collection("mcp", 1).await?;
    let mut callers = Vec::with_capacity(agents);
    for _ in 0..agents {
        callers.push(McpCaller::connect(&bench.target).await.map_err(BenchError::refused("connecting over MCP"))?);
    }
    let first = json!({ "content": bench.texts.text(0), "collection": collection });
    callers[0].call("store", first).await.map_err(BenchError::refused("store over MCP"))?;
    let by_tool: Arc<Mutex<BTreeMap<&str, Latencies>>> = Arc::default();
    let (sink, texts) = (by_tool.clone(), bench.texts.clone());
    let call = move |caller: McpCaller, number: u64| {
        let tool = TOOLS[(number % 10) as usize];
        let arguments = match tool {
            "search" => json!({ "query": texts.query(number as usize + 500_000), "k": 5, "collection": collection }),
            "store" => json!({ "content": texts.query(number as usize + 500_000), "collection": collection }),
            _ => json!({}),
        };
        let sink = sink.clone();
        async move {
            let asked = Instant::now();
            caller.call(tool, arguments).await?;
            let mut by_tool = sink.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            by_tool.entry(tool).or_default().record(asked.elapsed());
            Ok(())
        }
    };
    let outcome = bench.servers.during(closed_loop(&callers, limit, call)).await;
    let mut figures = vec![Figure::latency(
        format!("MCP, {}, all calls", plural(agents, "agent")),
        outcome.summary("calls over MCP")?,
    )];
    let by_tool = by_tool.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
    for (tool, latencies) in by_tool {
        let outcome = Outcome { latencies, elapsed: outcome.elapsed, ..Outcome::default() };
        figures.push(Figure::latency(format!("MCP, {}, {tool}", plural(agents, "agent")), outcome.summary(tool)?));
    }
    Ok(figures)
}
