//! What a host is made of, and its bounds.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::engine::Engine;
use crate::log_store::{LogLimits, LogObserver, NoObserver};
use crate::requests::RequestWindow;
use crate::threads::{OsThreads, Threads};
use crate::transport::Transport;
use crate::types::{GroupId, NodeId};

/// Wall clock, injected so that tests and the simulator own it.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
    }
}

/// Timing of elections and calls.
///
/// A follower campaigns when it has heard nothing for `election_max` (the leader's lease) and then a random time
/// between `election_min` and `election_max`: with the defaults 0.75 to 1 s after the last heartbeat, which keeps
/// fail-over under 1.5 s with a pre-vote round, an election and their syncs on a busy machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats of a leader.
    pub heartbeat: Duration,
    /// No heartbeat goes to a follower that answered replication within this time: a busy group needs none.
    pub heartbeat_quiet: Duration,
    /// Least random wait before a campaign; also the time given to a vote.
    pub election_min: Duration,
    /// Greatest random wait, and the leader's lease.
    pub election_max: Duration,
    /// Least time given to a request with log entries: the follower syncs them first.
    pub append: Duration,
    /// For each message of a snapshot; the last one includes the installation.
    pub snapshot_message: Duration,
    /// For a proposal, from hand-in to its answer.
    pub propose: Duration,
    /// For a read index.
    pub read: Duration,
    /// Without a call for its leader for so long, a group rests: its timers stand still and its nodes' heartbeats stand
    /// for its own.
    pub quiet: Duration,
    /// Between two heartbeats of a node to another with which it shares groups at rest. Two of them fit into the shortest
    /// wait for a leader's node, so that one that is lost costs nothing.
    pub node_heartbeat: Duration,
    /// A group at rest that has not changed for so long trims its log.
    pub log_rest: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            heartbeat_quiet: Duration::from_millis(100),
            election_min: Duration::from_millis(250),
            election_max: Duration::from_millis(500),
            append: Duration::from_secs(1),
            snapshot_message: Duration::from_secs(10),
            propose: Duration::from_secs(5),
            read: Duration::from_secs(2),
            // Longer than the pauses of a caller that works step by step, since the first write after a rest costs a round
            // trip more.
            quiet: Duration::from_secs(3),
            node_heartbeat: Duration::from_millis(300),
            // Longer than a minute, in which whoever archives logs comes by.
            log_rest: Duration::from_secs(120),
        }
    }
}

/// Bounds of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries after the last snapshot that make the next one.
    pub snapshot_every: u64,
    /// Entries kept in the log although a snapshot has them, for followers that are a little behind.
    pub log_kept: u64,
    /// Bytes of one chunk of a snapshot.
    pub chunk_bytes: usize,
    /// Bytes per second of one snapshot on its way, so that bringing a replica up disturbs others little.
    pub snapshot_bytes_per_second: u64,
    /// Longest payload of a proposal.
    pub payload_bytes: usize,
    /// Bytes of the requests that share a log entry; a longer one has its own.
    pub entry_bytes: usize,
    /// How many requests share a log entry at most.
    pub entry_requests: usize,
    /// Proposals under way at once; more are refused.
    pub in_flight: usize,
    /// Remembered requests. Part of the replicated behaviour: the same on every replica of a group.
    pub requests: RequestWindow,
    /// Bytes of recent log entries kept in memory per group.
    pub recent_log_bytes: usize,
    /// Bytes of a group's log beyond which a snapshot is taken and the log is trimmed to a half of this.
    pub log_bytes: u64,
    /// Bytes of the logs of all groups beyond which the largest is trimmed.
    pub node_log_bytes: u64,
    /// Bytes of its log that a group at rest keeps.
    pub log_bytes_at_rest: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            snapshot_every: 5_000,
            log_kept: 1_000,
            chunk_bytes: 1 << 20,
            snapshot_bytes_per_second: 16 << 20,
            payload_bytes: 8 << 20,
            // As much as a bundle of small writes holds that a router sends in one message.
            entry_bytes: 1 << 20,
            entry_requests: 256,
            in_flight: 4_096,
            requests: RequestWindow::default(),
            recent_log_bytes: 4 << 20,
            // A second or two of what a disk takes: a follower that is a little behind gets entries, not a snapshot.
            log_bytes: 64 << 20,
            node_log_bytes: 512 << 20,
            log_bytes_at_rest: 1 << 20,
        }
    }
}

/// Everything a host is given: nothing in the crate reaches for a clock, a disk or a network by itself.
#[derive(Clone)]
pub struct HostConfig {
    /// This node.
    pub node_id: NodeId,
    /// Holds the log of all groups.
    pub log: Arc<dyn Engine>,
    /// Holds the state of all groups.
    pub state: Arc<dyn Engine>,
    /// The way to other nodes.
    pub transport: Arc<dyn Transport>,
    /// Where blocking work runs.
    pub threads: Arc<dyn Threads>,
    /// Stamps proposals.
    pub clock: Arc<dyn Clock>,
    /// Names snapshots. (Election timeouts draw from the runtime's own generator.)
    pub randomness: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Whether a node is meant to be a member of a group, as far as the program knows beside the group itself.
    pub members: Arc<dyn Fn(GroupId, NodeId) -> bool + Send + Sync>,
    /// Told of every write of the log.
    pub observer: Arc<dyn LogObserver>,
    /// Timing of elections and calls.
    pub timing: Timing,
    /// Bounds of each group.
    pub limits: Limits,
}

impl HostConfig {
    /// Production's clock, threads and randomness, default timing and limits.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn new(node_id: NodeId, log: Arc<dyn Engine>, state: Arc<dyn Engine>, transport: Arc<dyn Transport>) -> Self {
        Self {
            node_id,
            log,
            state,
            transport,
            threads: Arc::new(OsThreads::current()),
            clock: Arc::new(SystemClock),
            randomness: Arc::new(system_random),
            members: Arc::new(|_, _| true),
            observer: Arc::new(NoObserver),
            timing: Timing::default(),
            limits: Limits::default(),
        }
    }

    pub(crate) fn log_limits(&self) -> LogLimits {
        let piece_bytes = (self.limits.log_bytes_at_rest / 16).clamp(1, 64 << 10);
        LogLimits { recent_bytes: self.limits.recent_log_bytes, piece_bytes, ..LogLimits::default() }
    }

    pub(crate) fn library(&self) -> Result<openraft::Config, openraft::ConfigError> {
        let millis = |duration: Duration| duration.as_millis() as u64;
        let (timing, limits) = (&self.timing, &self.limits);
        openraft::Config {
            cluster_name: "mira".into(),
            heartbeat_interval: millis(timing.heartbeat),
            heartbeat_min_interval: Some(millis(timing.heartbeat_quiet)),
            election_timeout_min: millis(timing.election_min),
            election_timeout_max: millis(timing.election_max),
            install_snapshot_timeout: millis(timing.snapshot_message),
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(limits.snapshot_every),
            // Trimming is this crate's alone (`log_bound`): two that do it put the mark back behind each other's, and the
            // library panics in debug builds.
            max_in_snapshot_log_to_keep: u64::MAX,
            // A follower that needs more than the next snapshot will drop from the log is brought up by one at once.
            replication_lag_threshold: limits.snapshot_every + limits.log_kept,
            api_channel_size: Some(limits.in_flight as u64),
            enable_pre_vote: Some(true),
            // A leader that was away longer than it knows must ask again: its state may be behind what it acknowledged.
            enable_leader_restore: Some(false),
            // A follower whose damaged disk lost entries it had acknowledged is sent them again. The library's default
            // is a panic of the leader: one bad disk would stop a healthy replica after the other.
            allow_log_reversion: Some(true),
            backoff: "50ms 100ms 200ms ...500ms".into(),
            ..openraft::Config::default()
        }
        .validate()
    }
}

/// The hasher's keys come from the operating system's generator.
fn system_random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}
