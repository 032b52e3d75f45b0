//! What one seed decides before anything runs.
//!
//! Every seed gets its own mix: size of the cluster, bounds, and which kinds of faults may happen at all. A run with few
//! kinds of faults goes deeper into each than a run with all of them (swarm testing: Groce et al., ISSTA 2012).

use std::time::Duration;

use mira_proto::NodeId;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// A kind of fault, as the report counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// One node, or a half of them, cut off from the others in both directions.
    Partition,
    /// Some directions of some links are cut.
    PartialPartition,
    /// Messages are lost at random.
    Loss,
    /// Messages take long.
    Delay,
    /// Messages overtake each other.
    Reorder,
    /// Messages arrive twice.
    Duplicate,
    /// Power cut of one node: what was not synced may be gone.
    Crash,
    /// Power cut of all nodes at once.
    PowerCut,
    /// A node stops in order and starts again.
    Restart,
    /// A disk has no room for a while.
    DiskFull,
    /// A write fails, and the node with it.
    DiskError,
    /// A write fails, yet may survive.
    TornWrite,
    /// A disk takes long to sync.
    SlowDisk,
    /// A node's wall clock jumps.
    ClockJump,
    /// Leadership is handed to another node.
    LeaderTransfer,
    /// A node campaigns without need.
    Campaign,
    /// Members come and go.
    Membership,
    /// A snapshot is taken now.
    Snapshot,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Fault; 18] = {
        use Fault::*;
        [
            Partition,
            PartialPartition,
            Loss,
            Delay,
            Reorder,
            Duplicate,
            Crash,
            PowerCut,
            Restart,
            DiskFull,
            DiskError,
            TornWrite,
            SlowDisk,
            ClockJump,
            LeaderTransfer,
            Campaign,
            Membership,
            Snapshot,
        ]
    };
}

/// A mistake put in on purpose, to see whether the invariants notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Bug {
    /// Appends are acknowledged before they are on disk.
    AppendsNotSynced,
    /// A leader answers linearizable reads without asking a quorum.
    UnconfirmedReads,
    /// Each try of a write is a request of its own.
    RetriesNotRecognised,
    /// Remembered requests are forgotten by log-carried time alone, so that one jump of a leader's clock forgets all.
    ClockForgetsRequests,
    /// A proposal that was under way when its replica stopped is called undone.
    StoppedMeansUndone,
    /// A shard that a growth adds takes frames over that their source has not frozen.
    OpensUnfrozen,
    /// A replica is destroyed because the node's own map, which may be old, gives it none.
    DestroysUnconfirmed,
}

/// The fixed part of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What everything else follows from.
    pub seed: u64,
    /// The nodes' ids.
    pub nodes: Vec<NodeId>,
    /// Number of shards.
    pub shards: u32,
    /// Partitions of the collection at first.
    pub partitions: u32,
    /// When the collection begins to grow over all shards; never if none.
    pub grows_after: Option<Duration>,
    /// When the other collection is dropped; never, and there is none, if none.
    pub drops_after: Option<Duration>,
    /// When an operator has a replica rebuilt on a node that then loses its power, and comes back with a full disk; never if
    /// none.
    pub rebuilds_after: Option<Duration>,
    /// Replicas of each shard.
    pub replication: u32,
    /// Number of clients.
    pub clients: u64,
    /// Frames that they fight over.
    pub frames: u128,
    /// How long faults go on.
    pub chaos: Duration,
    /// Mean time between two faults.
    pub fault_every: Duration,
    /// What may happen.
    pub faults: Vec<Fault>,
    /// Entries after the last snapshot that make the next.
    pub snapshot_every: u64,
    /// Entries kept although a snapshot has them.
    pub log_kept: u64,
    /// Bytes of a snapshot's chunk.
    pub chunk_bytes: usize,
    /// Whether all clients pause now and then, long enough for groups to rest while faults go on.
    pub pauses: bool,
    /// Whether writes reach a node together, as those do that a router sends in one message.
    pub bundles: bool,
    /// The mistake put in, if any.
    pub bug: Option<Bug>,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64, bug: Option<Bug>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let size = *[3, 3, 4, 5].choose(&mut rng).expect("not empty");
        let kinds = rng.random_range(2..=Fault::ALL.len());
        let mut faults: Vec<Fault> = Fault::ALL.choose_multiple(&mut rng, kinds).copied().collect();
        faults.sort();
        let plan = Plan {
            seed,
            nodes: (1..=size).collect(),
            shards: rng.random_range(1..=2),
            partitions: 0,
            grows_after: None,
            drops_after: None,
            rebuilds_after: None,
            replication: 3,
            clients: rng.random_range(2..=4),
            frames: rng.random_range(2..=6),
            chaos: Duration::from_millis(rng.random_range(4_000..9_000)),
            fault_every: Duration::from_millis(rng.random_range(100..700)),
            faults,
            snapshot_every: rng.random_range(5..40),
            log_kept: rng.random_range(1..12),
            chunk_bytes: rng.random_range(200..2_000),
            pauses: false,
            bundles: false,
            bug,
        };
        // Drawn last, so that the other seeds are what they were before collections grew.
        let plan = if rng.random_bool(0.4) || bug == Some(Bug::OpensUnfrozen) {
            let shards = rng.random_range(2..=4);
            let partitions = rng.random_range(1..shards);
            let grows_after = Some(Duration::from_millis(rng.random_range(100..4_000)));
            Plan { shards, partitions, grows_after, frames: rng.random_range(6..=16), ..plan }
        } else {
            Plan { partitions: plan.shards, ..plan }
        };
        let drops = rng.random_bool(0.4).then(|| Duration::from_millis(rng.random_range(500..4_000)));
        let rebuilds = rng.random_bool(0.4) || bug == Some(Bug::DestroysUnconfirmed);
        let rebuilds = rebuilds.then(|| Duration::from_millis(rng.random_range(100..2_000)));
        let pauses = rng.random_bool(0.5);
        let bundles = rng.random_bool(0.5);
        Plan { drops_after: drops, rebuilds_after: rebuilds, pauses, bundles, ..plan }
    }
}
