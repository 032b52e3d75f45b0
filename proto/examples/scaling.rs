//! What clusters of many sizes would look like: places everything with the code that ships, and multiplies by what was
//! measured (the constants below; `docs/SCALING.md` says how). `make scaling` prints it.

use std::collections::{BTreeMap, BTreeSet};

use mira_proto::placement::{Partitioning, Seat, plan_replicas, shards_of_collection};
use mira_proto::{FrameId, limits};

/// Bytes in memory of one document with one vector of 384 components: codes, graph and ids 579, attributes 123.
const MEMORY_PER_DOCUMENT: f64 = 702.0;
/// Bytes on disk of one document of 1,936 bytes and one replica, with the Raft log.
const DISK_PER_DOCUMENT: f64 = 6_200.0;
/// CPU seconds of one search on one shard, its part of the router's and caller's work included: two cores, 3,486 a second.
const CPU_PER_SHARD: f64 = 2.0 / 3_486.0;
/// CPU seconds to index one vector: two cores, 200,000 in 15.1 s.
const CPU_PER_INDEXED: f64 = 2.0 * 15.1 / 200_000.0;
/// Bytes a second that replicas are copied with: 829 MiB in 24.4 s, on one machine of two cores.
const COPY_PER_SECOND: f64 = 829.0 * 1_048_576.0 / 24.4;
/// Bytes that a search sends to a shard and gets back: a query of 384 components, ten hits with ids and scores.
const NETWORK_PER_SHARD: f64 = 384.0 * 4.0 + 10.0 * 40.0 + 300.0;
const REPLICATION: u32 = 3;
const CORES: f64 = 16.0;
/// Frames whose places are looked up.
const SAMPLE: u64 = 1_000_000;
const COLLECTION: u64 = 7;

/// documents, nodes, shards, documents of a partition at most.
const CLUSTERS: [(f64, u64, u32, f64); 7] = [
    (1e6, 3, 16, 1e6),
    (1e7, 3, 16, 1e6),
    (1e8, 6, 128, 1e6),
    (1e8, 12, 128, 4e6),
    (1e9, 48, 1_024, 1e6),
    (1e9, 48, 1_024, 4e6),
    (1e9, 48, 1_024, 1.6e7),
];

fn main() {
    println!(
        "| documents | nodes | partitions | largest partition, of the mean | memory of the fullest node, GiB (of the mean) | \
         disk of it, TiB | shards asked in turns | CPU of a search, ms | searches/s of the cluster | network of a search, kB | \
         moved when a node joins (ideal) | copying it, h | indexing anew, min |"
    );
    println!("|{}", "---:|".repeat(13));
    CLUSTERS.into_iter().for_each(|cluster| println!("{}", row(cluster)));
}

fn row((documents, nodes, shards, most): (f64, u64, u32, f64)) -> String {
    let partitions = ((documents / most).ceil() as u32).min(shards);
    let on = shards_of_collection(COLLECTION, partitions, shards);
    let partitioning = Partitioning::new(on.clone());
    let mut frames: BTreeMap<u32, f64> = on.iter().map(|&shard| (shard, 0.0)).collect();
    (0..SAMPLE).for_each(|n| *frames.get_mut(&partitioning.shard_of(id(n))).expect("one of them") += 1.0);
    let share = |shard: &u32| frames.get(shard).copied().unwrap_or_default() / SAMPLE as f64;
    let largest = on.iter().map(share).fold(0.0, f64::max) * f64::from(partitions);

    let seats = |count: u64| (1..=count).map(Seat::of).collect::<Vec<_>>();
    let plan = plan_replicas(shards, &seats(nodes), REPLICATION);
    let mut held: BTreeMap<u64, f64> = BTreeMap::new();
    for (shard, replicas) in plan.iter().enumerate() {
        replicas.iter().for_each(|&node| *held.entry(node).or_default() += share(&(shard as u32)) * documents);
    }
    let fullest = held.values().copied().fold(0.0, f64::max);
    let mean = documents * f64::from(REPLICATION.min(nodes as u32)) / nodes as f64;

    let after = plan_replicas(shards, &seats(nodes + 1), REPLICATION);
    let moved: f64 = plan
        .iter()
        .zip(&after)
        .enumerate()
        .map(|(shard, (before, after))| {
            let before: BTreeSet<u64> = before.iter().copied().collect();
            after.iter().filter(|node| !before.contains(node)).count() as f64 * share(&(shard as u32)) * documents
        })
        .sum();
    let all = documents * f64::from(REPLICATION);
    let search = f64::from(partitions) * CPU_PER_SHARD;
    let turns = (partitions as usize).div_ceil(limits::MAX_FAN_OUT);
    format!(
        "| {documents:.0e} | {nodes} × {CORES} cores | {partitions} | {largest:.2} | {:.1} ({:.2}) | {:.2} | {turns} | {:.1} | \
         {:.0} | {:.0} | {:.1} % ({:.1} %) | {:.2} | {:.0} |",
        fullest * MEMORY_PER_DOCUMENT / f64::powi(1024.0, 3),
        fullest / mean,
        fullest * DISK_PER_DOCUMENT / f64::powi(1024.0, 4),
        1e3 * search,
        nodes as f64 * CORES / search,
        f64::from(partitions) * NETWORK_PER_SHARD / 1e3,
        100.0 * moved / all,
        100.0 / (nodes + 1) as f64,
        moved * DISK_PER_DOCUMENT / COPY_PER_SECOND / 3600.0,
        fullest * CPU_PER_INDEXED / CORES / 60.0,
    )
}

/// Ids as random as UUIDs are, the same in every run (SplitMix64, twice).
fn id(n: u64) -> FrameId {
    let mix = |n: u64| {
        let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    };
    let at = |n: u64| u128::from(mix(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    at(2 * n + 1) << 64 | at(2 * n + 2)
}
