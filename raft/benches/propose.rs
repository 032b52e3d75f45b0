//! Proposals per second and their latency: three groups on three nodes in one process, RocksDB on this machine's disk,
//! for 1, 8 and 64 proposers. Printed beside the disk's own `fdatasync`, which bounds it.
//!
//! `cargo bench -p mira-raft --bench propose`; `MIRA_BENCH_DIR` chooses the disk, `MIRA_BENCH_SECONDS` the time.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mira_raft::engine::{EngineOptions, EngineRole, RocksEngine};
use mira_raft::transport::local::LocalNetwork;
use mira_raft::{
    Command, EngineError, Group, GroupId, HostConfig, LogObserver, RaftHost, RequestId, StateMachine, StateReader, Txn,
};

const PAYLOAD: usize = 1024;
const GROUPS: GroupId = 3;

struct Keep;

impl StateMachine for Keep {
    fn apply(&self, command: Command<'_>, txn: &mut Txn<'_>) -> Result<Bytes, EngineError> {
        let key = [&command.index.to_be_bytes()[..], &command.ordinal.to_be_bytes()].concat();
        txn.put(&key, Bytes::copy_from_slice(command.payload));
        Ok(Bytes::new())
    }
    fn shares_entry(&self, _: &[u8]) -> bool {
        true
    }
    fn committed(&self, _: u64) {}
    fn restored(&self, _: StateReader, _: u64) {}
}

#[derive(Default)]
struct Syncs {
    count: AtomicU64,
    entries: AtomicU64,
    micros: AtomicU64,
}

impl LogObserver for Syncs {
    fn wrote(&self, entries: usize, _: usize, took: Duration, synced: bool) {
        if synced {
            self.count.fetch_add(1, Ordering::Relaxed);
            self.entries.fetch_add(entries as u64, Ordering::Relaxed);
            self.micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
        }
    }
}

fn fdatasync_p50(folder: &Path) -> Duration {
    let mut file = std::fs::File::create(folder.join("probe")).unwrap();
    let mut times: Vec<Duration> = (0..200)
        .map(|_| {
            let started = Instant::now();
            file.write_all(&[1; PAYLOAD]).unwrap();
            file.sync_data().unwrap();
            started.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

async fn cluster(folder: &Path, syncs: &Arc<Syncs>) -> (Vec<Arc<RaftHost>>, Vec<Group>) {
    let network = LocalNetwork::new();
    let mut hosts = Vec::new();
    for id in 1..=3 {
        let open = |name, role| {
            let path = folder.join(format!("{id}-{name}"));
            Arc::new(RocksEngine::open(&path, EngineOptions::new(role)).unwrap())
        };
        let config =
            HostConfig::new(id, open("log", EngineRole::Log), open("state", EngineRole::State), network.transport(id));
        let host = RaftHost::open(HostConfig { observer: syncs.clone(), ..config }).await.unwrap();
        network.connect(id, &host);
        hosts.push(host);
    }
    let mut leaders = Vec::new();
    for group in 0..GROUPS {
        for host in &hosts {
            host.open_group(group, Arc::new(Keep)).await.unwrap();
        }
        // Leaders spread over the nodes.
        let first = hosts[group as usize].group(group).unwrap();
        first.initialize(BTreeSet::from([1, 2, 3])).await.unwrap();
        first.watch().wait_for(Duration::from_secs(30), |status| status.is_leader()).await.expect("a leader");
        leaders.push(first);
    }
    (hosts, leaders)
}

async fn load(leaders: &[Group], proposers: usize, time: Duration) -> Vec<Duration> {
    let ids = Arc::new(AtomicU64::new(u64::from(std::process::id()) << 32 | (proposers as u64) << 20));
    let until = Instant::now() + time;
    let tasks: Vec<_> = (0..proposers)
        .map(|n| {
            let (group, ids) = (leaders[n % leaders.len()].clone(), ids.clone());
            tokio::spawn(async move {
                let mut times = Vec::new();
                while Instant::now() < until {
                    let id = RequestId(u128::from(ids.fetch_add(1, Ordering::Relaxed)) << 64);
                    let started = Instant::now();
                    group.propose(Some(id), Bytes::from(vec![7; PAYLOAD])).await.expect("proposed");
                    times.push(started.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    times.sort();
    times
}

#[tokio::main]
async fn main() {
    let base = std::env::var_os("MIRA_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let seconds = std::env::var("MIRA_BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let folder = base.join(format!("mira-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    println!("fdatasync of {PAYLOAD} bytes: p50 {:?}", fdatasync_p50(&folder));
    println!("{GROUPS} groups x 3 nodes in one process, {PAYLOAD}-byte payloads with request ids");
    let syncs = Arc::new(Syncs::default());
    let (hosts, leaders) = cluster(&folder, &syncs).await;
    load(&leaders, 8, Duration::from_secs(1)).await;
    for proposers in [1, 8, 64] {
        let before = (syncs.count.load(Ordering::Relaxed), syncs.entries.load(Ordering::Relaxed));
        let times = load(&leaders, proposers, Duration::from_secs(seconds)).await;
        let count = syncs.count.load(Ordering::Relaxed) - before.0;
        let entries = syncs.entries.load(Ordering::Relaxed) - before.1;
        println!(
            "{proposers:>3} proposers: {:>7.0}/s  p50 {:>8.2?}  p99 {:>8.2?}  {:.1} entries per sync",
            times.len() as f64 / seconds as f64,
            times[times.len() / 2],
            times[times.len() * 99 / 100],
            entries as f64 / count.max(1) as f64,
        );
    }
    for host in hosts {
        host.shutdown().await;
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
