//! What a node measures, in Prometheus form.
//!
//! Histograms are fed as things happen; gauges of groups and indexes are read when someone scrapes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mira_proto::ShardId;
use mira_raft::{GroupStatus, LogObserver, Role};
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::shard::index::{IndexStats, recall_sampler::SampledRecall};

/// 10 µs to 10 s, three steps a decade.
const BUCKETS: [f64; 19] = [
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5, 5.0, 10.0,
];

/// What is read when someone scrapes.
pub struct NodeFigures {
    /// Where each Raft group of the node stands.
    pub groups: Vec<GroupStatus>,
    /// The index of each open shard.
    pub shards: Vec<(ShardId, IndexStats)>,
    /// Sampled recall by collection.
    pub recall: BTreeMap<String, SampledRecall>,
    /// Searches that wait for their turn.
    pub searches_waiting: usize,
    /// Memory of the process.
    pub resident_bytes: u64,
    /// Room on the disk of the data folder.
    pub disk_free_bytes: u64,
    /// Memory of the cache of vectors.
    pub row_cache_bytes: usize,
    /// Time since the start.
    pub uptime: Duration,
    /// Whether the node answers everything that it is to answer.
    pub ready: bool,
}

/// The instruments of one node.
pub struct NodeMetrics {
    registry: Registry,
    operations: HistogramVec,
    log_sync: Histogram,
    log_entries: IntCounter,
    log_bytes: IntCounter,
    verifications: IntCounterVec,
    repaired: IntCounter,
    expired: IntCounter,
    job_runs: IntCounterVec,
    job_failures: IntCounterVec,
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
        let counters =
            |name, help, label: &str| IntCounterVec::new(Opts::new(name, help), &[label]).expect("valid names");
        let metrics = NodeMetrics {
            operations: operations.expect("valid names"),
            log_sync: log_sync.expect("valid names"),
            log_entries: counter("mira_raft_log_entries_total", "Log entries written"),
            log_bytes: counter("mira_raft_log_bytes_total", "Bytes of log entries written"),
            verifications: counters(
                "mira_node_verifications_total",
                "Shards verified in the background, by what was found",
                "verdict",
            ),
            repaired: counter("mira_node_replicas_repaired_total", "Replicas rebuilt because they differed"),
            expired: counter("mira_node_frames_expired_total", "Frames removed because their time was over"),
            job_runs: counters("mira_node_job_runs_total", "Runs of each job in the background", "job"),
            job_failures: counters(
                "mira_node_job_failures_total",
                "Work of each job that failed and is tried again",
                "job",
            ),
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
        let collectors: [Box<dyn prometheus::core::Collector>; 14] = [
            Box::new(self.operations.clone()),
            Box::new(self.log_sync.clone()),
            Box::new(self.log_entries.clone()),
            Box::new(self.log_bytes.clone()),
            Box::new(self.verifications.clone()),
            Box::new(self.repaired.clone()),
            Box::new(self.expired.clone()),
            Box::new(self.job_runs.clone()),
            Box::new(self.job_failures.clone()),
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

    /// A replica that was wrong is rebuilt.
    pub fn repaired(&self) {
        self.repaired.inc();
    }

    /// So many frames were removed because their time was over.
    pub fn expired(&self, frames: u64) {
        self.expired.inc_by(frames);
    }

    /// A job in the background ran, and so much of its work failed.
    pub fn job_ran(&self, job: &str, failures: u64) {
        self.job_runs.with_label_values(&[job]).inc();
        self.job_failures.with_label_values(&[job]).inc_by(failures);
    }

    /// How often a job ran, and how much of its work failed.
    #[cfg(test)]
    pub fn job_counts(&self, job: &str) -> (u64, u64) {
        let count = |counters: &IntCounterVec| counters.with_label_values(&[job]).get();
        (count(&self.job_runs), count(&self.job_failures))
    }

    /// The text that a scrape gets.
    pub fn scrape(&self, figures: &NodeFigures) -> String {
        for status in &figures.groups {
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
        for (shard, stats) in &figures.shards {
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
        for (collection, found) in &figures.recall {
            let mean = found.recall / found.samples as f64;
            self.recall.with_label_values(&[collection]).set(mean);
            self.recall_samples.with_label_values(&[collection]).set(found.samples as i64);
        }
        let set = |what: &str, value: u64| self.process.with_label_values(&[what]).set(value as i64);
        set("searches_waiting", figures.searches_waiting as u64);
        set("resident_bytes", figures.resident_bytes);
        set("disk_free_bytes", figures.disk_free_bytes);
        set("row_cache_bytes", figures.row_cache_bytes as u64);
        set("uptime_seconds", figures.uptime.as_secs());
        set("ready", u64::from(figures.ready));
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
