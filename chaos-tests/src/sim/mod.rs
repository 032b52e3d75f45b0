//! A cluster in one thread, on virtual time, broken in every way we could think of, the same way again for the same seed.
//!
//! # What is real
//!
//! Replication ([`mira_raft`]: hosts, groups, log store, snapshots), the state machines of shards and of the meta group,
//! shards with all that they seal, write and read ([`mira_node::shard`]), the plans that bring a cluster in line and their
//! executor ([`mira_node::placement`]), the driver of migrations ([`mira_node::background::migration`]), and the router's
//! retry decisions ([`mira_router::cluster::decide`]) are what ships. It takes clock, randomness, network, disks, threads
//! and runtime by injection; here it gets simulated ones.
//!
//! # What is simulated
//!
//! - [`runtime`]: one thread; time jumps to the next timer, so that minutes pass in milliseconds;
//! - [`network`]: messages are cut off, lost, late, out of order, double; [`peers`]: what nodes ask of each other over it;
//! - [`disk`]: a crash loses what was not synced, or some of it; writes fail, tear, find no room; a sync takes time;
//! - [`node`]: a process on its disks, which may be killed at any moment, and the loops that production hangs on sockets
//!   and threads. Nothing is indexed, no state is repaired, and no key changes;
//! - [`client`]: callers that fight over a few frames, of a collection that may grow and of one that may be dropped.
//!
//! [`plan`] draws a cluster and a mix of faults from the seed, [`nemesis`] causes them. After a few (virtual) seconds
//! everything is healed and the cluster has to come back by itself.
//!
//! # What is checked
//!
//! [`invariants`], one a file, while the run goes on. The main idea: the log gives an order to everything, so a check of
//! linearizability needs no search. [`observer`] watches each replica apply; the first to apply an index writes the
//! history, every other must agree with it; what clients are told is held against that history.
//!
//! # Determinism
//!
//! Nothing reads a real clock, thread or generator; maps are sorted wherever their order reaches an effect. The trace has
//! a line for every message, write and decision; its digest is the same for the same seed (`tests/it/sim.rs` runs seeds
//! twice). A violation prints its seed, and the seed replays it.
//!
//! # Does it find anything?
//!
//! [`plan::Bug`] puts mistakes in, two of them ones that this code had; the tests show that each is noticed within a few
//! seeds. What the simulator found so far has a test of its own in `raft/tests/found.rs`.

pub mod client;
pub mod disk;
pub mod invariants;
pub mod keys;
pub mod many;
pub mod nemesis;
pub mod network;
pub mod node;
pub mod observer;
pub mod peers;
pub mod plan;
pub mod protocol;
pub mod report;
pub mod runtime;
pub mod world;

mod panics;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mira_node::meta::{ClusterState, GrowthStep, MetaCommand, NameKey};
use mira_proto::{NodeId, ShardId};
use mira_raft::GroupId;
use parking_lot::Mutex;
use rand::Rng;

use client::Client;
use invariants::convergence::{self, Progress};
use nemesis::Nemesis;
use network::Network;
use node::{Process, Processes};
use plan::{Bug, Plan};
use protocol::{COLLECTION, DROPPED, DROPPED_FRAMES, shard_of};
use report::Outcome;
use world::World;

/// A cluster without faults forms in this time.
const FORMS_WITHIN: Duration = Duration::from_secs(20);
/// A healed cluster takes writes again in this time, and its replicas are equal in this time after that.
const HEALS_WITHIN: Duration = Duration::from_secs(15);
/// A healed cluster has finished all moves of replicas in this time.
const MOVES_WITHIN: Duration = Duration::from_secs(60);
/// With nobody calling, all groups rest in this time.
const RESTS_WITHIN: Duration = Duration::from_secs(15);
/// For so long nothing is heard of groups that rest.
const LISTENS_FOR: Duration = Duration::from_secs(3);
/// A leader that is gone is replaced in this time, whether its group rested or not.
const REPLACED_WITHIN: Duration = Duration::from_millis(1_500);
/// A log's clock may be ahead of the clocks by so much.
const CLOCK_LEAD_MS: u64 = 1_000;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Runs a seed, with a mistake put in or none; `echo` prints the trace as it goes.
pub fn run(seed: u64, bug: Option<Bug>, echo: bool) -> Outcome {
    let world = World::new(Plan::of(seed, bug), echo);
    let network = Network::new(world.clone());
    let processes = Processes::new(&network);
    panics::caught(
        || runtime::block_on(seed, Scenario::new(&world, &network, &processes).run()),
        |message| {
            world.check("no panic", Err(message));
        },
    );
    // Processes and network know each other: let go, or every run would stay in memory.
    world.plan.nodes.iter().for_each(|&node| processes.remove(node));
    let (trace, trace_lines, trace_digest) = world.trace();
    let figures = world.figures.lock().clone();
    Outcome { seed, bug, violation: world.violation(), figures, trace, trace_lines, trace_digest }
}

fn drop_collection() -> MetaCommand {
    MetaCommand::DropCollection { name: keys::collection(DROPPED, 1).name, id: DROPPED }
}

/// Whether a process's replica of a group is at rest.
fn rests(process: &Process, group: GroupId) -> bool {
    process.host().group(group).is_some_and(|group| group.is_at_rest())
}

/// The course of a run.
struct Scenario {
    world: Arc<World>,
    network: Arc<Network>,
    processes: Arc<Processes>,
    nemesis: Arc<Nemesis>,
}

impl Scenario {
    fn new(world: &Arc<World>, network: &Arc<Network>, processes: &Arc<Processes>) -> Self {
        let nemesis = Nemesis::new(world, network, processes);
        Scenario { world: world.clone(), network: network.clone(), processes: processes.clone(), nemesis }
    }

    async fn run(self) {
        self.world.note(format_args!("{:?}", self.world.plan));
        for &node in &self.world.plan.nodes {
            self.nemesis.start(node).await;
        }
        if self.form().await {
            self.break_things().await;
            self.nemesis.heal().await;
            self.recover().await;
        }
        self.world.figures.lock().virtual_time = runtime::now();
    }

    /// Waits until `condition` holds; a violation if it does not in time, `false` if there is one.
    async fn until<F: Future<Output = bool>>(&self, within: Duration, what: &str, condition: impl Fn() -> F) -> bool {
        let deadline = runtime::now() + within;
        while !condition().await {
            if self.world.violation().is_some() {
                return false;
            }
            if runtime::now() > deadline {
                self.world.check("convergence", Err(format!("{what} takes longer than {within:?}")));
                return false;
            }
            runtime::sleep(LOOK_EVERY).await;
        }
        true
    }

    /// Forms the cluster as its first node does, and waits until every shard is led.
    async fn form(&self) -> bool {
        let plan = &self.world.plan;
        let Some(first) = self.processes.get(plan.nodes[0]) else { return false };
        if let Err(error) = first.member.meta().initialize(BTreeSet::from([first.node])).await {
            self.world.check("convergence", Err(format!("the meta group does not start: {error}")));
            return false;
        }
        let form = MetaCommand::Form {
            cluster_id: 1,
            shards: plan.shards,
            replication: plan.replication,
            expect: plan.nodes.len() as u32,
            layer_key: keys::layer_key(),
            name_key: NameKey([7; 32]),
        };
        let joins = plan.nodes.iter().map(|&node| MetaCommand::PutNode(Process::record(node)));
        let made = MetaCommand::CreateCollection(keys::collection(COLLECTION, plan.partitions));
        let other = plan.drops_after.map(|_| MetaCommand::CreateCollection(keys::collection(DROPPED, plan.shards)));
        for command in std::iter::once(form).chain(joins).chain([made]).chain(other) {
            let proposed = || async { self.propose_meta(&command).await };
            if !self.until(FORMS_WITHIN, "forming the cluster", proposed).await {
                return false;
            }
        }
        let led = || async { (0..plan.shards).all(|shard| self.leader(shard + 1).is_some()) };
        self.until(FORMS_WITHIN, "starting the shards", led).await
    }

    async fn propose_meta(&self, command: &MetaCommand) -> bool {
        for process in self.processes.all() {
            if process.propose_meta(command).await.is_ok() {
                return true;
            }
        }
        false
    }

    fn leader(&self, group: GroupId) -> Option<Arc<Process>> {
        let leads =
            |process: &Arc<Process>| process.host().group(group).is_some_and(|group| group.status().is_leader());
        self.processes.all().into_iter().find(leads)
    }

    async fn break_things(&self) {
        let running = Arc::new(Mutex::new(true));
        for number in 0..self.world.plan.clients {
            let client = Client::new(&self.world, &self.network, number);
            self.world.spawn("client", client.run(running.clone()));
        }
        self.world.spawn("nemesis", self.nemesis.clone().run(running.clone()));
        if let Some(after) = self.world.plan.rebuilds_after {
            let (world, nemesis, running) = (self.world.clone(), self.nemesis.clone(), running.clone());
            self.world.spawn("rebuild", async move {
                runtime::sleep(after).await;
                let done = nemesis.rebuild_and_forget(running).await.is_some();
                world.note(format_args!("rebuilt and forgotten: {done}"));
            });
        }
        let begun = runtime::now();
        let plan = &self.world.plan;
        let mut orders = Vec::new();
        orders.extend(plan.grows_after.map(|after| (after, self.growth())));
        orders.extend(plan.drops_after.map(|after| (after, drop_collection())));
        while runtime::now() < begun + plan.chaos && self.world.violation().is_none() {
            let due = |(after, _): &mut (Duration, MetaCommand)| runtime::now() >= begun + *after;
            for (_, command) in orders.extract_if(.., due).collect::<Vec<_>>() {
                let done = self.propose_meta(&command).await;
                self.world.note(format_args!("operator: {command:?}: {done}"));
            }
            let resting = (0..=plan.shards).filter(|&group| self.leader(group).is_some_and(|of| rests(&of, group)));
            self.world.figures.lock().seen_at_rest += resting.count() as u64;
            runtime::sleep(LOOK_EVERY).await;
        }
        *running.lock() = false;
    }

    fn growth(&self) -> MetaCommand {
        MetaCommand::StartGrowth { collection: COLLECTION, to: self.world.plan.shards }
    }

    /// Whether the growth has begun, as the newest map says.
    fn has_begun_to_grow(&self) -> bool {
        self.newest_map().is_some_and(|map| map.growths.contains_key(&COLLECTION) || self.has_grown_in(&map))
    }

    /// Whether everything is where it belongs: the growth is remembered, or forgotten already by a clock that jumped.
    fn has_grown(&self) -> bool {
        self.newest_map().is_some_and(|map| self.has_grown_in(&map))
    }

    fn has_grown_in(&self, map: &ClusterState) -> bool {
        let grown = map.collections.get(&COLLECTION).is_some_and(|only| only.partitions == self.world.plan.shards);
        grown && map.growths.get(&COLLECTION).is_none_or(|growth| growth.step == GrowthStep::Remembering)
    }

    /// Whether the collection is dropped, as the newest map says.
    fn is_dropped(&self) -> bool {
        self.newest_map().is_some_and(|map| !map.collections.contains_key(&DROPPED))
    }

    /// Whether no leader holds anything of a collection that was dropped.
    fn is_purged(&self) -> bool {
        self.processes.all().iter().all(|process| process.member.leftovers(&process.cluster()).is_empty())
    }

    async fn recover(&self) {
        let healed = runtime::now();
        self.world.note(format_args!("healed"));
        self.world.set_clocks_right();
        if self.world.plan.grows_after.is_some() {
            let begun = || async { self.has_begun_to_grow() || self.propose_meta(&self.growth()).await };
            if !self.until(HEALS_WITHIN, "beginning to grow", begun).await {
                return;
            }
        }
        if self.world.plan.drops_after.is_some() {
            let dropped = || async { self.is_dropped() || self.propose_meta(&drop_collection()).await };
            if !self.until(HEALS_WITHIN, "dropping a collection", dropped).await {
                return;
            }
        }
        for shard in 0..self.world.plan.shards {
            let mut probe = Client::new(&self.world, &self.network, 100 + u64::from(shard));
            let Some(frame) = (0..).find(|&frame| shard_of(&self.world.plan, self.world.plan.shards, frame) == shard)
            else {
                return;
            };
            let deadline = healed + HEALS_WITHIN;
            let mut wrong = Some(format!("shard {shard} takes no writes within {HEALS_WITHIN:?} of healing"));
            // What was proposed under a wrong clock may come behind the first write under a right one.
            while wrong.is_some() && probe.probe(frame, deadline).await {
                wrong = probe.acknowledged_by().find_map(|shard| self.wrong_clock(shard));
            }
            if let Some(wrong) = wrong.filter(|_| self.world.violation().is_none()) {
                self.world.check("convergence", Err(wrong));
            }
            let took = runtime::now() - healed;
            let mut figures = self.world.figures.lock();
            figures.longest_recovery = figures.longest_recovery.max(took);
        }
        let restored = || self.nemesis.restore_members();
        if !self.until(HEALS_WITHIN, "activating every node", restored).await {
            return;
        }
        if self.world.plan.grows_after.is_some() {
            let grown = || async { self.has_grown() };
            if !self.until(MOVES_WITHIN, "growing", grown).await {
                self.world.note(format_args!("{:?}", self.newest_map()));
                return;
            }
        }
        if self.world.plan.drops_after.is_some() {
            let purged = || async { self.is_dropped() && self.is_purged() };
            if !self.until(MOVES_WITHIN, "purging a dropped collection", purged).await {
                return;
            }
        }
        let settled = || async { (0..=self.world.plan.shards).all(|group| self.settled(group)) };
        if !self.until(MOVES_WITHIN, "coming to rest", settled).await {
            for group in 0..=self.world.plan.shards {
                self.world.note(format_args!("group {group}: {:?}", self.progress(group)));
            }
            self.world.note(format_args!("{:?}", self.newest_map()));
            return;
        }
        for shard in 0..self.world.plan.shards {
            self.compare(shard);
        }
        self.rest().await;
    }

    /// Groups that nobody calls rest on all their nodes, say nothing, and get another leader when theirs is gone.
    async fn rest(&self) {
        let groups = || 0..=self.world.plan.shards;
        let silent = || async {
            let before = self.network.group_messages();
            if !groups().all(|group| self.rests_everywhere(group)) {
                return false;
            }
            runtime::sleep(LISTENS_FOR).await;
            groups().all(|group| self.rests_everywhere(group)) && self.network.group_messages() == before
        };
        if !self.until(RESTS_WITHIN, "falling silent", silent).await {
            return;
        }
        let group = self.world.draw(|rng| rng.random_range(groups()));
        let Some(leader) = self.leader(group) else { return };
        self.world.note(format_args!("n{} leads group {group} at rest, and dies", leader.node));
        let since = runtime::now();
        self.nemesis.crash(leader.node, true).await;
        let replaced = || async { self.leader(group).is_some() };
        if self.until(REPLACED_WITHIN, "replacing a leader whose group rested", replaced).await {
            let took = runtime::now() - since;
            let mut figures = self.world.figures.lock();
            figures.longest_failover = figures.longest_failover.max(took);
        }
    }

    fn rests_everywhere(&self, group: GroupId) -> bool {
        let (progress, members) = self.progress(group);
        let here = |member: &Progress| self.processes.get(member.node).is_some_and(|process| rests(&process, group));
        members > 0 && progress.len() == members && progress.iter().all(here)
    }

    /// What is wrong with a log's clock after a write under clocks that are right.
    fn wrong_clock(&self, shard: ShardId) -> Option<String> {
        let leader = self.leader(shard + 1)?;
        let clock = leader.shard(shard).and_then(|group| group.reader().view().ok()?.clock_ms()).unwrap_or_default();
        let right = self.world.wall_clock_ms(leader.node);
        (clock > right + CLOCK_LEAD_MS).then(|| format!("the log of shard {shard} says {clock} at {right}"))
    }

    fn newest_map(&self) -> Option<Arc<ClusterState>> {
        let maps = self.processes.all().into_iter().map(|process| process.cluster());
        maps.max_by_key(|map| map.header.epoch)
    }

    /// How far the members of a group are, as their leader counts them.
    fn progress(&self, group: GroupId) -> (Vec<Progress>, usize) {
        let Some(status) = self.leader(group).and_then(|leader| Some(leader.host().group(group)?.status())) else {
            return (Vec::new(), 0);
        };
        let members: BTreeSet<NodeId> = status.voters.union(&status.learners).copied().collect();
        let progress = members.iter().filter_map(|&node| {
            let status = self.processes.get(node)?.host().group(group)?.status();
            Some(Progress { node, last: status.last_log_index, applied: status.applied, leads: status.is_leader() })
        });
        (progress.collect(), members.len())
    }

    /// Whether a group has the members that the map wants, all of them at the same place.
    fn settled(&self, group: GroupId) -> bool {
        let Some(map) = self.newest_map() else { return false };
        let (progress, members) = self.progress(group);
        let wanted = match group.checked_sub(1) {
            Some(shard) if map.moves.is_empty() => map.wanted_members(shard),
            Some(_) => return false,
            None => map.nodes.keys().copied().collect(),
        };
        let there: BTreeSet<NodeId> = progress.iter().map(|member| member.node).collect();
        there == wanted && convergence::settled(&progress, members)
    }

    /// Every replica of a shard holds what the history says.
    fn compare(&self, shard: ShardId) {
        let (progress, _) = self.progress(shard + 1);
        for member in progress {
            let Some(group) = self.processes.get(member.node).and_then(|process| process.shard(shard)) else {
                continue;
            };
            let plan = &self.world.plan;
            let invariants = self.world.invariants.lock();
            let rules = &invariants.shard_rules;
            let dropped = DROPPED_FRAMES..DROPPED_FRAMES + 3;
            let holds = convergence::holds(&group, (member.node, shard + 1), (0..plan.frames).chain(dropped), rules);
            self.world.check("convergence", holds);
            // Where it belongs, a frame is what it became last; elsewhere it is not.
            for frame in 0..plan.frames {
                let here = shard_of(plan, plan.shards, frame) == shard;
                let found = rules.frame_at(shard + 1, frame, u64::MAX).map(|frame| (frame.version, frame.operation));
                let expected = if here { invariants.one_owner.now(frame) } else { None };
                let once = match found == expected {
                    true => Ok(()),
                    false => Err(format!("frame {frame} is {found:?} in shard {shard}, should be {expected:?}")),
                };
                self.world.check("one owner", once);
            }
        }
    }
}
