//! The faults, and the schedule by which they come.
//!
//! A schedule is drawn from a seed: shuffled decks of all kinds of faults, so that each kind comes as often as any
//! other and a short run has them all. Which node is hit, and for how long, the seed decides as well; only who leads
//! is looked up when the moment comes. Every fault is healed before the next one begins, but nobody waits for the
//! cluster to recover in between.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde::Serialize;

use crate::{
    cluster::{Cluster, Shape},
    disk::{Copy, flip_bits},
    network::{Link, Party},
};

/// How long a damaged node may take to say so, or to be in order.
const DAMAGE_PATIENCE: Duration = Duration::from_secs(10);
/// Lines of a damaged node's log in which it may say so.
const DAMAGE_LOG_LINES: usize = 5_000;
/// Bits that are flipped in one file.
const FLIPPED_BITS: usize = 8;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// kill -9 of some node.
    KillNode,
    /// kill -9 of a node that leads.
    KillLeader,
    /// kill -9 of all nodes at once.
    KillAll,
    /// SIGTERM to a node, which must end in time and in order.
    StopNode,
    /// SIGSTOP of a leader for longer than an election.
    FreezeLeader,
    /// kill -9 of a router.
    KillRouter,
    /// A node that nobody reaches and that reaches nobody, routers included.
    IsolateNode,
    /// A leader that is cut off from the other nodes, but not from routers.
    PartitionLeader,
    /// Two nodes that do not reach each other, with the third between them.
    Bridge,
    /// A leader whose words reach nobody, though it hears everybody.
    MuteLeader,
    /// Lost and late packets on all links.
    PacketLoss,
    /// A node without room on its disk.
    FullDisk,
    /// Bits flipped in a file of a stopped node.
    BitFlips,
}

impl Kind {
    /// Its name, as the command line and the report have it.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// A fault to come.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What.
    pub kind: Kind,
    /// What decides on the target.
    pub choice: u64,
    /// For how long.
    pub hold: Duration,
    /// How long nothing happens afterwards.
    pub calm: Duration,
}

/// A fault that was.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// What.
    pub kind: Kind,
    /// Who was hit, and what was seen.
    pub note: String,
    /// When it began, since the round did.
    pub from: Duration,
    /// When it was healed.
    pub to: Duration,
    /// Shards whose leader died by it.
    pub orphans: Vec<u32>,
    /// Promises broken by the programs themselves: one that ended, or would not end.
    pub violations: Vec<String>,
}

/// The schedule of a seed: at least `time` of faults, each of `kinds` equally often.
pub fn plan(seed: u64, kinds: &[Kind], time: Duration) -> Vec<Step> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut steps = Vec::new();
    let mut planned = Duration::ZERO;
    while planned < time && !kinds.is_empty() {
        let mut deck = kinds.to_vec();
        deck.shuffle(&mut rng);
        for kind in deck {
            let hold = Duration::from_millis(match kind {
                Kind::StopNode => 200,
                Kind::KillAll | Kind::KillRouter => rng.random_range(200..1_500),
                Kind::FreezeLeader => rng.random_range(1_500..5_000),
                _ => rng.random_range(2_000..5_000),
            });
            let calm = Duration::from_millis(rng.random_range(500..2_500));
            planned += hold + calm;
            steps.push(Step { kind, choice: rng.random(), hold, calm });
        }
    }
    steps
}

/// Carries out the faults of a round.
pub struct Nemesis<'a> {
    cluster: &'a mut Cluster,
    began: Instant,
}

impl<'a> Nemesis<'a> {
    /// Over this cluster; times count from `began`.
    pub fn new(cluster: &'a mut Cluster, began: Instant) -> Self {
        Nemesis { cluster, began }
    }

    /// Does one step and heals it.
    pub async fn execute(&mut self, step: &Step) -> Event {
        let leaders = self.cluster.leaders().await;
        let mut event = Event {
            kind: step.kind,
            note: String::new(),
            from: self.began.elapsed(),
            to: Duration::ZERO,
            orphans: Vec::new(),
            violations: Vec::new(),
        };
        self.inflict(step, &leaders, &mut event).await;
        event.to = self.began.elapsed();
        event.violations.extend(self.revive().await);
        tokio::time::sleep(step.calm).await;
        event
    }

    async fn inflict(&mut self, step: &Step, leaders: &BTreeMap<u32, u8>, event: &mut Event) {
        let shape = self.cluster.shape();
        let some_node = (step.choice % u64::from(shape.nodes)) as u8;
        let leading: Vec<u8> = leaders.values().copied().collect();
        let leader = leading.get(step.choice as usize % leading.len().max(1)).copied().unwrap_or(some_node);
        let led_by = |node: u8| leaders.iter().filter(move |&(_, &at)| at == node).map(|(&shard, _)| shard).collect();
        match step.kind {
            Kind::KillNode | Kind::KillLeader => {
                let node = if step.kind == Kind::KillLeader { leader } else { some_node };
                event.note = format!("node {node}");
                event.orphans = led_by(node);
                self.cluster.kill_node(node).await;
                event.from = self.began.elapsed();
                tokio::time::sleep(step.hold).await;
                self.cluster.restart_node(node);
            }
            Kind::KillAll => {
                for node in 0..shape.nodes {
                    self.cluster.kill_node(node).await;
                }
                tokio::time::sleep(step.hold).await;
                for node in 0..shape.nodes {
                    self.cluster.restart_node(node);
                }
            }
            Kind::StopNode => {
                event.note = format!("node {some_node}");
                event.violations.extend(self.cluster.try_stop_node(some_node).await.err());
                tokio::time::sleep(step.hold).await;
                self.cluster.restart_node(some_node);
            }
            Kind::FreezeLeader => {
                event.note = format!("node {leader}");
                self.cluster.node(leader).expect("it runs").freeze();
                tokio::time::sleep(step.hold).await;
                self.cluster.node(leader).expect("it runs").thaw();
            }
            Kind::KillRouter => {
                let router = (step.choice % u64::from(shape.routers)) as u8;
                event.note = format!("router {router}");
                self.cluster.kill_router(router);
                tokio::time::sleep(step.hold).await;
                self.cluster.restart_router(router);
            }
            Kind::IsolateNode | Kind::PartitionLeader | Kind::Bridge | Kind::MuteLeader | Kind::PacketLoss => {
                let node = if step.kind == Kind::PartitionLeader || step.kind == Kind::MuteLeader {
                    leader
                } else {
                    some_node
                };
                let links = links(step.kind, node, shape, step.choice);
                event.note = match step.kind {
                    Kind::PacketLoss => "all links".into(),
                    _ => format!("node {node}"),
                };
                for &(from, to, link) in &links {
                    self.cluster.network.set(from, to, link);
                }
                tokio::time::sleep(step.hold).await;
                self.cluster.network.heal();
            }
            Kind::FullDisk => {
                let Some(disk) = self.cluster.small_disk() else {
                    event.note = "not possible here: no small disk".into();
                    return;
                };
                let bytes = disk.fill();
                event.note = format!("node {}, {} MiB of ballast", shape.nodes - 1, bytes >> 20);
                tokio::time::sleep(step.hold).await;
                self.cluster.small_disk().expect("it was there").relieve();
            }
            Kind::BitFlips => self.damage(some_node, step, event).await,
        }
    }

    /// Flips bits in a file of a stopped node. It may refuse to start, stop serving what is damaged, or find it
    /// harmless; one that is not in order after a while gets back what it had.
    async fn damage(&mut self, node: u8, step: &Step, event: &mut Event) {
        self.cluster.kill_node(node).await;
        let data = self.cluster.data(node);
        let copy = Copy::of(&data).expect("the data is copied");
        let mut rng = StdRng::seed_from_u64(step.choice);
        let what = flip_bits(&data, FLIPPED_BITS, &mut rng).expect("bits are flipped");
        self.cluster.restart_node(node);
        tokio::time::sleep(step.hold).await;
        let ended = self.cluster.node(node).and_then(|process| process.ended());
        let order = match ended {
            Some(status) => Err(format!("it ended ({status})")),
            None => match self.cluster.status_when(DAMAGE_PATIENCE, in_order).await {
                Ok(_) => Ok(()),
                Err(_) => Err("it runs, not in order".to_owned()),
            },
        };
        let said = complaint(&self.cluster.log_of(Party::Node(node), DAMAGE_LOG_LINES));
        let seen = match order {
            Ok(()) => "it runs in order".to_owned(),
            Err(seen) => {
                self.cluster.kill_node(node).await;
                copy.restore().expect("the copy is put back");
                self.cluster.restart_node(node);
                if said.is_none() {
                    event.violations.push(format!("node {node}, damaged ({what}), says nothing: {seen}"));
                }
                format!("{seen} and said: {}", said.as_deref().unwrap_or("nothing"))
            }
        };
        event.note = format!("node {node}, {what}: {seen}");
    }

    /// Starts again what ended by itself, and says so.
    async fn revive(&mut self) -> Vec<String> {
        let shape = self.cluster.shape();
        let mut violations = Vec::new();
        for at in 0..shape.nodes {
            let Some(status) = self.cluster.node(at).and_then(|process| process.ended()) else { continue };
            let log = self.cluster.log_of(Party::Node(at), 12);
            violations.push(format!("node {at} ended by itself ({status}):\n{log}"));
            self.cluster.kill_node(at).await;
            self.cluster.restart_node(at);
        }
        for at in 0..shape.routers {
            let Some(status) = self.cluster.router(at).and_then(|process| process.ended()) else { continue };
            let log = self.cluster.log_of(Party::Router(at), 12);
            violations.push(format!("router {at} ended by itself ({status}):\n{log}"));
            self.cluster.kill_router(at);
            self.cluster.restart_router(at);
        }
        violations
    }
}

/// The last line of a log that speaks of damage.
fn complaint(log: &str) -> Option<String> {
    let speaks = |line: &&str| {
        let line = line.to_lowercase();
        ["damage", "corrupt", "checksum", "log is gone"].iter().any(|word| line.contains(word))
    };
    log.lines().rev().find(speaks).map(str::to_owned)
}

/// Whether all nodes answer, all shards have leaders, and all replicas serve.
pub fn in_order(status: &serde_json::Value) -> bool {
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let serves = |replica: &serde_json::Value| {
        replica["role"].as_str().is_some_and(|role| ["leader", "follower", "learner"].contains(&role))
    };
    status["state"] == "ok"
        && !list(&status["groups"]).is_empty()
        && list(&status["groups"]).iter().all(|group| list(&group["replicas"]).iter().all(serves))
}

/// Which links a network fault changes, and how.
fn links(kind: Kind, node: u8, shape: Shape, choice: u64) -> Vec<(Party, Party, Link)> {
    let node_is = Party::Node(node);
    let others = || (0..shape.nodes).filter(move |&other| other != node).map(Party::Node);
    let routers = || (0..shape.routers).map(Party::Router);
    let both_ways = |other: Party| [(node_is, other, Link::Cut), (other, node_is, Link::Cut)];
    match kind {
        Kind::IsolateNode => others().chain(routers()).flat_map(both_ways).collect(),
        Kind::PartitionLeader => others().flat_map(both_ways).collect(),
        Kind::Bridge => others().take(1).flat_map(both_ways).collect(),
        Kind::MuteLeader => others().chain(routers()).map(|other| (node_is, other, Link::Cut)).collect(),
        _ => {
            let lossy = Link::Lossy {
                loss: [0.02, 0.05, 0.1, 0.2][(choice % 4) as usize],
                delay: Duration::from_millis(choice / 4 % 20),
            };
            let nodes = || (0..shape.nodes).map(Party::Node);
            let parties: Vec<Party> = nodes().chain(routers()).collect();
            let pairs = parties.iter().flat_map(|&from| parties.iter().map(move |&to| (from, to)));
            pairs.filter(|(from, to)| from != to).map(|(from, to)| (from, to, lossy)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn a_seed_decides_the_schedule_and_every_kind_comes() {
        let kinds = Kind::value_variants();
        let steps = plan(7, kinds, Duration::from_secs(100));
        assert_eq!(steps, plan(7, kinds, Duration::from_secs(100)));
        assert_ne!(steps, plan(8, kinds, Duration::from_secs(100)));
        for &kind in kinds {
            let count = steps.iter().filter(|step| step.kind == kind).count();
            assert_eq!(count, steps.len() / kinds.len(), "{kind:?}");
        }
    }

    #[test]
    fn network_faults_have_their_shapes() {
        let shape = Shape { nodes: 3, routers: 2, ..Shape::default() };
        let count = |kind| links(kind, 1, shape, 5).len();
        let kinds = [Kind::IsolateNode, Kind::PartitionLeader, Kind::Bridge, Kind::MuteLeader, Kind::PacketLoss];
        assert_eq!(kinds.map(count), [8, 4, 2, 4, 20]);
    }
}
