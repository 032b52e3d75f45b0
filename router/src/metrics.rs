//! What the router measures, under the names of SPEC section 4.
//!
//! Each router has a registry of its own, because several run in one process in tests and in `mira dev`. Durations of
//! operations are observed in one place, where a front end enters [`Memory`](crate::Memory), so that MCP, REST and gRPC
//! count alike.

use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

/// Buckets from 10 µs, where a routing decision lies, to the default deadline.
const BUCKETS: [f64; 20] = [
    1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];

/// The router's metrics.
pub struct Metrics {
    registry: Registry,
    function_duration: HistogramVec,
    function_calls: IntCounterVec,
    storage_duration: HistogramVec,
    retries: IntCounterVec,
    hedges: IntCounterVec,
    degraded: IntCounter,
    query_cache: IntCounterVec,
    routes: IntCounterVec,
    decisions: Histogram,
    embed_duration: Histogram,
    embedded_texts: IntCounter,
    in_flight: IntGauge,
}

/// 1 µs to 1 ms.
const DECISION_BUCKETS: [f64; 8] = [0.000001, 0.000005, 0.00001, 0.000025, 0.00005, 0.0001, 0.0005, 0.001];

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

impl Metrics {
    /// A fresh registry.
    pub fn new() -> Self {
        let registry = Registry::new();
        let times = |name, help, labels: &[&str]| histograms(&registry, name, help, labels);
        let counts = |name, help, labels: &[&str]| counters(&registry, name, help, labels);
        let count = |name: &str, help: &str| register(&registry, IntCounter::new(name, help));
        let time = |name: &str, help: &str, buckets: &[f64]| {
            register(&registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
        };
        let metrics = Metrics {
            function_duration: times(
                "mira_mcp_function_duration_seconds",
                "Time of an operation, on any protocol",
                &["function_name", "success"],
            ),
            function_calls: counts(
                "mira_mcp_function_calls_total",
                "Operations begun, on any protocol",
                &["function_name"],
            ),
            storage_duration: times(
                "mira_storage_operation_duration_seconds",
                "Time of one request to a storage node, and of merging their answers",
                &["storage_type", "operation"],
            ),
            retries: counts(
                "mira_router_retries_total",
                "Requests to storage nodes tried again, by reason",
                &["reason"],
            ),
            hedges: counts(
                "mira_router_hedges_total",
                "Second replicas asked because the first was slow, by whose answer came first",
                &["first"],
            ),
            degraded: count("mira_router_degraded_answers_total", "Answers that missed a shard"),
            query_cache: counts(
                "mira_router_query_cache_total",
                "Queries whose embedding was (hit) or was not (miss) remembered",
                &["result"],
            ),
            routes: counts(
                "mira_router_search_routes_total",
                "Searches of a shard by how they are answered: plain, filtered or ranked",
                &["route"],
            ),
            decisions: time(
                "mira_router_route_decision_seconds",
                "Time to decide how a search is answered",
                &DECISION_BUCKETS,
            ),
            embed_duration: time(
                "mira_router_embed_duration_seconds",
                "Time to embed the texts of a request",
                &BUCKETS,
            ),
            embedded_texts: count("mira_router_embedded_texts_total", "Texts embedded"),
            in_flight: register(&registry, IntGauge::new("mira_router_requests_in_flight", "Operations at work")),
            registry: registry.clone(),
        };
        #[cfg(target_os = "linux")]
        metrics
            .registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("the process is registered once");
        metrics
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// Counts an operation that begins.
    pub(crate) fn begun(&self, function: &str) {
        self.function_calls.with_label_values(&[function]).inc();
        self.in_flight.inc();
    }

    /// Observes an operation that ended.
    pub(crate) fn ended(&self, function: &str, success: bool, duration: Duration) {
        let success = if success { "true" } else { "false" };
        self.function_duration.with_label_values(&[function, success]).observe(duration.as_secs_f64());
        self.in_flight.dec();
    }

    /// Observes one request to a node.
    pub(crate) fn storage(&self, operation: &str, duration: Duration) {
        self.storage_duration.with_label_values(&["shard", operation]).observe(duration.as_secs_f64());
    }

    /// Observes work on the answers of nodes.
    pub(crate) fn merged(&self, duration: Duration) {
        self.storage_duration.with_label_values(&["router", "merge"]).observe(duration.as_secs_f64());
    }

    /// Counts a request that is tried again.
    pub(crate) fn retried(&self, reason: &str) {
        self.retries.with_label_values(&[reason]).inc();
    }

    /// Counts a second replica that was asked; `won` if its answer was the one that counted.
    pub(crate) fn hedged(&self, won: bool) {
        self.hedges.with_label_values(&[if won { "second" } else { "first" }]).inc();
    }

    /// Counts an answer that missed a shard.
    pub(crate) fn degraded(&self) {
        self.degraded.inc();
    }

    /// Counts a look into the query cache.
    pub(crate) fn query_cache(&self, hit: bool) {
        self.query_cache.with_label_values(&[if hit { "hit" } else { "miss" }]).inc();
    }

    /// Observes a decision how a search of a shard is answered.
    pub(crate) fn decided(&self, route: &str, duration: Duration) {
        self.routes.with_label_values(&[route]).inc();
        self.decisions.observe(duration.as_secs_f64());
    }

    /// Observes an embedding call.
    pub(crate) fn embedded(&self, texts: usize, duration: Duration) {
        self.embedded_texts.inc_by(texts as u64);
        self.embed_duration.observe(duration.as_secs_f64());
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

fn register<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    collector: Result<C, prometheus::Error>,
) -> C {
    let collector = collector.expect("the metric's description is valid");
    registry.register(Box::new(collector.clone())).expect("the metric's name is used once");
    collector
}

fn histograms(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    register(registry, HistogramVec::new(HistogramOpts::new(name, help).buckets(BUCKETS.to_vec()), labels))
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels))
}
