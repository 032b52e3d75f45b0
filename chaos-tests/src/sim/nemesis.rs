//! What breaks things, and heals them again.
//!
//! At random times it draws a fault of the kinds that the plan allows. Each fault ends by itself after a while; several
//! overlap. No limit keeps a majority alive: whatever happens, nothing that was acknowledged may be lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mira_node::meta::{MetaCommand, NodePhase};
use mira_proto::{NodeId, ShardId};
use mira_raft::Group;
use parking_lot::Mutex;
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::disk::{Disk, DiskFaults};
use super::network::{CLIENTS, Endpoint, Network, NetworkFaults};
use super::node::{Machine, Process, Processes};
use super::plan::Fault;
use super::runtime::{self, Sim};
use super::world::World;

/// What a node writes to its state before the meta group applies anything: that the group is open.
const WRITES_OF_A_START: u32 = 1;

/// The machines, and the hands that pull their plugs.
pub struct Nemesis {
    world: Arc<World>,
    network: Arc<Network>,
    processes: Arc<Processes>,
    machines: BTreeMap<NodeId, futures::lock::Mutex<Machine>>,
    disks: Mutex<BTreeMap<NodeId, [Disk; 2]>>,
    latencies: BTreeMap<NodeId, Arc<Mutex<Duration>>>,
}

impl Nemesis {
    /// Machines of these nodes, all off.
    pub fn new(world: &Arc<World>, network: &Arc<Network>, processes: &Arc<Processes>) -> Arc<Self> {
        let machines: Vec<Machine> = world.plan.nodes.iter().map(|&node| Machine::new(world, node)).collect();
        Arc::new(Nemesis {
            world: world.clone(),
            network: network.clone(),
            processes: processes.clone(),
            disks: Mutex::new(machines.iter().map(|machine| (machine.node, machine.disks.clone())).collect()),
            latencies: machines.iter().map(|machine| (machine.node, machine.latency.clone())).collect(),
            machines: machines.into_iter().map(|machine| (machine.node, futures::lock::Mutex::new(machine))).collect(),
        })
    }

    /// Starts a node, trying until it runs. Nothing happens if it does.
    pub async fn start(&self, node: NodeId) {
        let mut machine = self.machines[&node].lock().await;
        while self.processes.get(node).is_none() {
            let started = machine.start(&self.world, &self.network, &self.processes).await;
            if let Err(error) = started {
                self.world.note(format_args!("n{node} does not start: {error}"));
                // A failed start may have left a log writer that still writes; and a process that fails exits.
                machine.disks = machine.disks.each_ref().map(|disk| disk.crash(true));
                self.disks.lock().insert(node, machine.disks.clone());
                runtime::sleep(Duration::from_millis(300)).await;
            }
        }
    }

    /// Cuts a node's power: what was not synced is gone, or, with luck, some of it.
    pub async fn crash(&self, node: NodeId, luck: bool) {
        let mut machine = self.machines[&node].lock().await;
        let Some(process) = self.processes.get(node) else { return };
        self.processes.remove(node);
        machine.disks = process.disks.each_ref().map(|disk| disk.crash(luck && self.world.chance(0.5)));
        self.disks.lock().insert(node, machine.disks.clone());
        drop(machine);
        // The dead process winds down in memory; nothing it does reaches disk or network.
        self.world.spawn("a dead process", async move { process.host().shutdown().await });
    }

    async fn stop(&self, node: NodeId) {
        let mut machine = self.machines[&node].lock().await;
        let Some(process) = self.processes.get(node) else { return };
        self.processes.remove(node);
        // Killed if it takes too long, as a supervisor would.
        let stopped = runtime::timeout(Duration::from_secs(3), process.host().shutdown()).await;
        self.world.note(format_args!("n{node} stops: {stopped:?}"));
        if stopped.is_none() || process.disk_failed() {
            machine.disks = process.disks.each_ref().map(|disk| disk.crash(true));
            self.disks.lock().insert(node, machine.disks.clone());
        }
    }

    fn node(&self) -> NodeId {
        self.world.draw(|rng| *self.world.plan.nodes.choose(rng).expect("not empty"))
    }

    fn process(&self) -> Option<Arc<Process>> {
        let processes = self.processes.all();
        self.world.draw(|rng| processes.choose(rng).cloned())
    }

    fn group(&self) -> Option<Group<Sim>> {
        let groups = self.process()?.host().groups();
        self.world.draw(|rng| groups.choose(rng).cloned())
    }

    fn a_while(&self) -> Duration {
        Duration::from_millis(self.world.draw(|rng| {
            if rng.random_bool(0.8) { rng.random_range(50..1_500) } else { rng.random_range(1_500..4_000) }
        }))
    }

    /// Breaks things until told to stop.
    pub async fn run(self: Arc<Self>, running: Arc<Mutex<bool>>) {
        self.clone().watch_disks();
        while *running.lock() {
            let wait = self.world.draw(|rng| self.world.plan.fault_every.mul_f64(rng.random_range(0.1..2.0)));
            runtime::sleep(wait).await;
            if !*running.lock() {
                return;
            }
            let fault = self.world.draw(|rng| *self.world.plan.faults.choose(rng).expect("at least two"));
            let nemesis = self.clone();
            self.world.spawn("nemesis", async move {
                nemesis.world.note(format_args!("nemesis: {fault:?}"));
                if nemesis.cause(fault).await.is_some() {
                    nemesis.world.figures.lock().fault(fault);
                }
            });
        }
    }

    /// A process whose disk failed exits, and is started again after a while.
    fn watch_disks(self: Arc<Self>) {
        let world = self.world.clone();
        world.spawn("supervisor", async move {
            loop {
                runtime::sleep(Duration::from_millis(200)).await;
                for process in self.processes.all() {
                    if process.disk_failed() {
                        self.crash(process.node, true).await;
                        let (nemesis, node) = (self.clone(), process.node);
                        self.world.spawn("restart", async move {
                            runtime::sleep(nemesis.a_while()).await;
                            nemesis.start(node).await;
                        });
                    }
                }
            }
        });
    }

    /// Causes a fault and ends it; `None` if there was nothing to break.
    async fn cause(&self, fault: Fault) -> Option<()> {
        match fault {
            Fault::Partition => self.cut(self.partition()).await,
            Fault::PartialPartition => self.cut(self.some_directions()).await,
            Fault::Loss | Fault::Delay | Fault::Reorder | Fault::Duplicate => self.change_network(fault).await,
            Fault::Crash => {
                let node = self.processes.get(self.node())?.node;
                self.crash(node, true).await;
                runtime::sleep(self.a_while()).await;
                self.start(node).await;
            }
            Fault::PowerCut => {
                for process in self.processes.all() {
                    self.crash(process.node, true).await;
                }
                for &node in &self.world.plan.nodes {
                    runtime::sleep(self.a_while() / 4).await;
                    self.start(node).await;
                }
            }
            Fault::Restart => {
                let node = self.processes.get(self.node())?.node;
                self.stop(node).await;
                runtime::sleep(self.a_while() / 2).await;
                self.start(node).await;
            }
            Fault::DiskFull => {
                let node = self.node();
                let disk = self.world.draw(|rng| rng.random_range(0..2));
                self.disks.lock()[&node][disk].set_faults(DiskFaults::Full);
                runtime::sleep(self.a_while()).await;
                self.disks.lock()[&node][disk].set_faults(DiskFaults::Healthy);
            }
            Fault::DiskError | Fault::TornWrite => {
                let process = self.process()?;
                let disk = self.world.draw(|rng| rng.random_range(0..2));
                let faults = if fault == Fault::DiskError { DiskFaults::Failing } else { DiskFaults::Tearing };
                process.disks[disk].set_faults(faults);
            }
            Fault::SlowDisk => {
                let latency = &self.latencies[&self.node()];
                let before = std::mem::replace(&mut *latency.lock(), Duration::from_millis(80));
                runtime::sleep(self.a_while()).await;
                *latency.lock() = before.min(Duration::from_micros(800));
            }
            Fault::ClockJump => {
                let scale = self.world.draw(|rng| *[1_000, 60_000, 3_600_000, 86_400_000].choose(rng).expect("four"));
                let by = self.world.draw(|rng| rng.random_range(-scale..scale));
                self.world.jump_clock(self.node(), by);
            }
            Fault::LeaderTransfer => {
                let group = self.group().filter(|group| group.status().is_leader())?;
                let target = self.node();
                let moved = group.transfer_leader(target).await;
                self.world.note(format_args!("g{} to n{target}: {moved:?}", group.id()));
            }
            Fault::Campaign => drop(self.group()?.campaign().await),
            Fault::Membership => self.change_members().await?,
            Fault::Snapshot => drop(self.group()?.trigger_snapshot().await),
        }
        Some(())
    }

    async fn cut(&self, directions: Vec<(Endpoint, Endpoint)>) {
        self.world.note(format_args!("cut {directions:?}"));
        self.network.cut(&directions);
        runtime::sleep(self.a_while()).await;
        self.network.heal(&directions);
    }

    /// A random part of the nodes against the others; clients see one side, or both.
    fn partition(&self) -> Vec<(Endpoint, Endpoint)> {
        let mut nodes = self.world.plan.nodes.clone();
        let size = self.world.draw(|rng| {
            nodes.shuffle(rng);
            rng.random_range(1..nodes.len())
        });
        let (one, other) = nodes.split_at(size);
        let mut cut: Vec<(Endpoint, Endpoint)> =
            one.iter().flat_map(|&a| other.iter().flat_map(move |&b| [(a, b), (b, a)])).collect();
        for client in 0..self.world.plan.clients {
            if self.world.chance(0.4) {
                cut.extend(one.iter().flat_map(|&node| [(CLIENTS + client, node), (node, CLIENTS + client)]));
            }
        }
        cut
    }

    /// Some directions of some links: rings, bridges, deaf and mute nodes.
    fn some_directions(&self) -> Vec<(Endpoint, Endpoint)> {
        let nodes = &self.world.plan.nodes;
        let all = || nodes.iter().flat_map(|&a| nodes.iter().map(move |&b| (a, b))).filter(|(a, b)| a != b);
        let node = self.node();
        self.world.draw(|rng| match rng.random_range(0..3) {
            0 => all().filter(|&(from, _)| from == node).collect(),
            1 => all().filter(|&(_, to)| to == node).collect(),
            _ => all().filter(|_| rng.random_bool(0.3)).collect(),
        })
    }

    async fn change_network(&self, fault: Fault) {
        let strength = self.world.draw(|rng| rng.random_range(0.01..0.3));
        let late_by = Duration::from_millis(self.world.draw(|rng| rng.random_range(10..800)));
        self.network.change_faults(|faults| match fault {
            Fault::Loss => faults.loss = strength,
            Fault::Delay => (faults.late, faults.late_by) = (strength, late_by),
            Fault::Reorder => (faults.reorder, faults.late, faults.late_by) = (strength, strength, late_by / 8),
            _ => faults.duplicate = strength,
        });
        runtime::sleep(self.a_while()).await;
        let none = NetworkFaults::default();
        self.network.change_faults(|faults| match fault {
            Fault::Loss => faults.loss = none.loss,
            Fault::Duplicate => faults.duplicate = none.duplicate,
            _ => *faults = NetworkFaults { loss: faults.loss, duplicate: faults.duplicate, ..none },
        });
    }

    /// An operator's command: a replica moves, or is rebuilt in place; a node drains or comes back; a move is given up.
    async fn change_members(&self) -> Option<()> {
        let process = self.process()?;
        let map = process.cluster();
        let shard = self.world.draw(|rng| rng.random_range(0..self.world.plan.shards));
        let replicas = map.replicas(shard).to_vec();
        let from = self.world.draw(|rng| replicas.choose(rng).copied())?;
        let node = self.node();
        let command = match self.world.draw(|rng| rng.random_range(0..10)) {
            0..5 => MetaCommand::StartMove {
                shard,
                from: Some(from),
                to: if replicas.contains(&node) { from } else { node },
            },
            5..7 => MetaCommand::SetPhases(vec![(node, NodePhase::Draining)]),
            7..9 => MetaCommand::SetPhases(vec![(node, NodePhase::Active { ring: node })]),
            _ => MetaCommand::CancelMove { shard, to: map.moves.get(&shard)?.to },
        };
        let done = process.propose_meta(&command).await;
        self.world.note(format_args!("operator: {command:?}: {done:?}"));
        done.ok().map(drop)
    }

    /// Has a replica rebuilt in place, then cuts the power of its node, so that its state forgets that, and starts it with no
    /// room for what its log tells of it.
    ///
    /// For as long as there is none, what the node knows of the cluster is older than what it has promised since.
    pub async fn rebuild_and_forget(self: Arc<Self>, running: Arc<Mutex<bool>>) -> Option<()> {
        let (shard, node) = (self.world.draw(|rng| rng.random_range(0..self.world.plan.shards)), self.node());
        let command = MetaCommand::StartMove { shard, from: Some(node), to: node };
        let done = self.process()?.propose_meta(&command).await;
        self.world.note(format_args!("operator: {command:?}: {done:?}"));
        self.rebuilt(shard, node).await?;
        if !*running.lock() {
            return None;
        }
        self.crash(node, false).await;
        self.fill(node, DiskFaults::Filling(WRITES_OF_A_START));
        let nemesis = self.clone();
        self.world.spawn("restart", async move { nemesis.start(node).await });
        runtime::sleep(self.a_while()).await;
        self.fill(node, DiskFaults::Healthy);
        Some(())
    }

    /// Waits until the rebuild of a replica is over; `None` if that takes too long.
    async fn rebuilt(&self, shard: ShardId, node: NodeId) -> Option<()> {
        let deadline = runtime::now() + Duration::from_secs(5);
        let is_moving = || {
            let maps = self.processes.all().into_iter().map(|process| process.cluster());
            let newest = maps.max_by_key(|map| map.header.epoch)?;
            Some(newest.moves.get(&shard).is_some_and(|found| found.to == node))
        };
        while is_moving()? {
            if runtime::now() > deadline {
                return None;
            }
            runtime::sleep(Duration::from_millis(20)).await;
        }
        Some(())
    }

    /// Fills the disk of a node's state, or makes room there.
    fn fill(&self, node: NodeId, faults: DiskFaults) {
        self.disks.lock()[&node][1].set_faults(faults);
    }

    /// Ends all faults and starts every node.
    pub async fn heal(&self) {
        self.network.heal_all();
        for latency in self.latencies.values() {
            *latency.lock() = Duration::from_micros(800);
        }
        for &node in &self.world.plan.nodes {
            self.disks.lock()[&node].iter().for_each(|disk| disk.set_faults(DiskFaults::Healthy));
            self.start(node).await;
        }
    }

    /// Has every node take replicas again, as an operator would; whether that is said.
    pub async fn restore_members(&self) -> bool {
        let phases = self.world.plan.nodes.iter().map(|&node| (node, NodePhase::Active { ring: node })).collect();
        let command = MetaCommand::SetPhases(phases);
        for process in self.processes.all() {
            if process.propose_meta(&command).await.is_ok() {
                return true;
            }
        }
        false
    }
}
