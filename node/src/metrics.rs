//! What a node measures, in Prometheus form.
//!
//! Histograms are fed as things happen; gauges of groups and indexes are read when someone scrapes.

use std::{sync::Arc, time::Duration};

use mira_raft::LogObserver;
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use mira_raft::Role;

use crate::{node::Node, system};

/// 10 µs to 10 s, three steps a decade.
const BUCKETS: [f64; 19] = [
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5, 5.0, 10.0,
];

/// The instruments of one node.
pub struct NodeMetrics {
    registry: Registry,
    operations: HistogramVec,
    log_sync: Histogram,
    log_entries: IntCounter,
    log_bytes: IntCounter,
    verifications: IntCounterVec,
    mended: IntCounter,
    expired: IntCounter,
    groups: IntGaugeVec,
    shards: IntGaugeVec,
    recall: GaugeVec,
    recall_samples: IntGaugeVec,
    process: IntGaugeVec,
}

impl NodeMetrics {
    /// Fresh instruments in a registry of their own: several nodes may run in one process.
    pub fn new() -> Arc<Self> {
        let registry = Registry::new();
        let operations = HistogramVec::new(
            HistogramOpts::new("mira_storage_operation_duration_seconds", "Time of storage operations")
                .buckets(BUCKETS.to_vec()),
            &["storage_type", "operation"],
        );
        let log_sync = Histogram::with_opts(
            HistogramOpts::new("mira_raft_log_sync_seconds", "Write and sync of one batch of log entries")
                .buckets(BUCKETS.to_vec()),
        );
        let gauges =
            |name, help, labels: &[&str]| IntGaugeVec::new(Opts::new(name, help), labels).expect("valid names");
        let counter = |name, help| IntCounter::new(name, help).expect("valid names");
        let metrics = NodeMetrics {
            operations: operations.expect("valid names"),
            log_sync: log_sync.expect("valid names"),
            log_entries: counter("mira_raft_log_entries_total", "Log entries written"),
            log_bytes: counter("mira_raft_log_bytes_total", "Bytes of log entries written"),
            verifications: IntCounterVec::new(
                Opts::new("mira_node_verifications_total", "Shards verified in the background, by what was found"),
                &["verdict"],
            )
            .expect("valid names"),
            mended: counter("mira_node_replicas_mended_total", "Replicas made anew because they differed"),
            expired: counter("mira_node_frames_expired_total", "Frames removed because their time was over"),
            groups: gauges("mira_raft_group", "State of each Raft group on this node", &["group", "what"]),
            shards: gauges("mira_shard_index", "Index of each shard on this node", &["shard", "what"]),
            recall: GaugeVec::new(
                Opts::new("mira_search_recall", "Mean recall of sampled searches against the exact answer"),
                &["collection"],
            )
            .expect("valid names"),
            recall_samples: gauges(
                "mira_search_recall_samples",
                "Searches repeated exactly since the node started",
                &["collection"],
            ),
            process: gauges("mira_node", "Figures of this node", &["what"]),
            registry,
        };
        metrics.register();
        Arc::new(metrics)
    }

    fn register(&self) {
        let collectors: [Box<dyn prometheus::core::Collector>; 12] = [
            Box::new(self.operations.clone()),
            Box::new(self.log_sync.clone()),
            Box::new(self.log_entries.clone()),
            Box::new(self.log_bytes.clone()),
            Box::new(self.verifications.clone()),
            Box::new(self.mended.clone()),
            Box::new(self.expired.clone()),
            Box::new(self.groups.clone()),
            Box::new(self.shards.clone()),
            Box::new(self.recall.clone()),
            Box::new(self.recall_samples.clone()),
            Box::new(self.process.clone()),
        ];
        for collector in collectors {
            self.registry.register(collector).expect("each name once");
        }
    }

    /// An operation took this long.
    pub fn operation(&self, storage_type: &str, operation: &str, took: Duration) {
        self.operations.with_label_values(&[storage_type, operation]).observe(took.as_secs_f64());
    }

    /// The replicas of a shard were compared.
    pub fn verified(&self, verdict: &str) {
        self.verifications.with_label_values(&[verdict]).inc();
    }

    /// A replica that was wrong is made anew.
    pub fn mended(&self) {
        self.mended.inc();
    }

    /// So many frames were removed because their time was over.
    pub fn expired(&self, frames: u64) {
        self.expired.inc_by(frames);
    }

    /// The text that a scrape gets.
    pub fn scrape(&self, node: &Node) -> String {
        for group in node.host().groups() {
            let status = group.status();
            let id = status.group.to_string();
            let set = |what: &str, value: u64| self.groups.with_label_values(&[&id, what]).set(value as i64);
            set("term", status.term);
            set("is_leader", u64::from(status.is_leader()));
            set("has_leader", u64::from(status.leader.is_some()));
            set("stopped", u64::from(matches!(status.role, Role::Stopped(_))));
            set("last_log_index", status.last_log_index);
            set("committed_index", status.committed);
            set("applied_index", status.applied);
            set("apply_lag", status.committed.saturating_sub(status.applied));
            set("snapshot_index", status.snapshot_index);
        }
        for (shard, open) in node.shards() {
            let stats = open.index().stats();
            let id = shard.to_string();
            let set = |what: &str, value: u64| self.shards.with_label_values(&[&id, what]).set(value as i64);
            set("vectors", stats.vectors);
            set("bytes", stats.bytes);
            set("lag", stats.lag);
            set("ready", u64::from(stats.ready));
            set("damaged", stats.damaged);
            set("from_images", stats.from_images);
            set("given_up", stats.given_up);
        }
        for (collection, found) in node.quality().found() {
            let mean = found.recall / found.samples as f64;
            self.recall.with_label_values(&[&collection]).set(mean);
            self.recall_samples.with_label_values(&[&collection]).set(found.samples as i64);
        }
        let set = |what: &str, value: u64| self.process.with_label_values(&[what]).set(value as i64);
        set("searches_waiting", node.searches_waiting() as u64);
        set("resident_bytes", system::resident_bytes());
        set("disk_free_bytes", system::disk_space(node.data()));
        set("row_cache_bytes", node.row_cache().bytes() as u64);
        set("uptime_seconds", node.uptime().as_secs());
        set("ready", u64::from(node.ready()));
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("metrics encode");
        String::from_utf8(text).expect("metrics are text")
    }
}

impl LogObserver for NodeMetrics {
    fn wrote(&self, entries: usize, bytes: usize, took: Duration, synced: bool) {
        if synced {
            self.log_sync.observe(took.as_secs_f64());
        }
        self.log_entries.inc_by(entries as u64);
        self.log_bytes.inc_by(bytes as u64);
    }
}
