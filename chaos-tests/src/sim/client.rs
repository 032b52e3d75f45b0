//! Simulated clients: a router's retry decisions around reads and writes of a few frames that everybody fights over.
//!
//! The loop of `Client::call` is that of `mira_router::cluster::Cluster::call`, and every decision in it is the
//! router's own: whom to ask first, what follows a refusal, how long to wait, what the caller is told in the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mira_node::meta::{ClusterState, GrowthStep};
use mira_node::shard::command::{self, Condition, ShardAnswer, StoreOutcome};
use mira_proto::{Code, FrameId, NodeId, Refusal, ShardId, limits};
use mira_raft::RequestId;
use mira_router::cluster::decide::{self, Step, Tries};
use mira_router::cluster::{CallError, Group};
use parking_lot::Mutex;
use rand::Rng;

use super::invariants::linearizable::Seen;
use super::network::{CLIENTS, Network};
use super::protocol::{Answer, Ask, COLLECTION, FrameChange, ReadOf, Write, shard_of};
use super::runtime;
use super::world::World;

/// How long a client tries.
const DEADLINE: Duration = Duration::from_secs(4);

/// What of the map an operation depends on (`mira_router::cluster::Stays`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stays {
    Whole,
    Shard,
}

/// One client.
pub struct Client {
    world: Arc<World>,
    network: Arc<Network>,
    number: u64,
    map: Arc<ClusterState>,
    hints: BTreeMap<ShardId, NodeId>,
    /// What it last knew of each frame's version.
    versions: BTreeMap<FrameId, u64>,
    /// The newest index of its own writes, by shard: its consistency token.
    token: BTreeMap<ShardId, u64>,
    /// Where its own writes are in the histories of their frames.
    own: BTreeMap<FrameId, usize>,
    operations: u64,
}

impl Client {
    /// A client that knows nothing yet.
    pub fn new(world: &Arc<World>, network: &Arc<Network>, number: u64) -> Self {
        Client {
            world: world.clone(),
            network: network.clone(),
            number,
            map: Arc::default(),
            hints: BTreeMap::new(),
            versions: BTreeMap::new(),
            token: BTreeMap::new(),
            own: BTreeMap::new(),
            operations: 0,
        }
    }

    /// One operation after the other until told to stop.
    pub async fn run(mut self, running: Arc<Mutex<bool>>) {
        while *running.lock() {
            self.operate().await;
            let think = self.world.draw(|rng| rng.random_range(1..60));
            runtime::sleep(Duration::from_millis(think)).await;
        }
    }

    /// Writes until it is acknowledged; whether it was before `deadline`.
    pub async fn probe(&mut self, frame: FrameId, deadline: Duration) -> bool {
        while runtime::now() < deadline {
            let content = self.world.draw(|rng| rng.random());
            if self.write(frame, FrameChange::Store(content, Condition::Replace)).await {
                return true;
            }
            runtime::sleep(limits::RETRY_PAUSE).await;
        }
        false
    }

    async fn operate(&mut self) {
        let frame = self.world.draw(|rng| rng.random_range(0..self.world.plan.frames));
        let known = self.versions.get(&frame).copied().unwrap_or(0);
        let (kind, content) = self.world.draw(|rng| (rng.random_range(0..100), rng.random_range(0..6)));
        match kind {
            0..30 => drop(self.write(frame, FrameChange::Store(content, Condition::Replace)).await),
            30..42 => drop(self.write(frame, FrameChange::Store(content, Condition::Expect(known))).await),
            42..48 => drop(self.write(frame, FrameChange::Store(content, Condition::Create)).await),
            48..54 => drop(self.write(frame, FrameChange::Forget).await),
            54..86 => self.read(frame, true).await,
            _ => self.read(frame, false).await,
        }
    }

    /// Where the frame was before a growth, and where it is after one, as far as this client knows.
    fn homes(&self, frame: FrameId) -> (ShardId, ShardId) {
        let plan = &self.world.plan;
        let now = self.map.collections.get(&COLLECTION).map_or(plan.partitions, |collection| collection.partitions);
        let (from, to) = self.map.growths.get(&COLLECTION).map_or((now, now), |growth| (growth.from, growth.to));
        (shard_of(plan, from, frame), shard_of(plan, to, frame))
    }

    fn grown_to(&self) -> u32 {
        let grown = self.map.collections.get(&COLLECTION).map(|only| only.partitions);
        grown.filter(|&now| now > self.world.plan.partitions).unwrap_or(0)
    }

    fn growth_step(&self) -> Option<GrowthStep> {
        self.map.growths.get(&COLLECTION).map(|growth| growth.step)
    }

    /// To where the frame was first; only when that says that it has moved, to where it is.
    async fn write(&mut self, frame: FrameId, change: FrameChange) -> bool {
        self.operations += 1;
        let operation = (self.number << 32) | self.operations;
        let first = self.homes(frame).0;
        let request = (u128::from(self.number) << 64) | u128::from(self.operations);
        match self.write_to(first, (operation, request), frame, change).await {
            Some(done) => done,
            None => {
                if self.growth_step().is_none() {
                    self.refresh(self.map.header.epoch + 1).await;
                }
                let home = self.homes(frame).1;
                let again = self.write_to(home, (operation, request | (1 << 120)), frame, change).await;
                if again.is_none() {
                    self.world.figures.lock().operation("moved", false);
                }
                again.unwrap_or(false)
            }
        }
    }

    /// Whether it was acknowledged; `None` if the frame has moved.
    async fn write_to(
        &mut self,
        shard: ShardId,
        (operation, request): (u64, u128),
        frame: FrameId,
        change: FrameChange,
    ) -> Option<bool> {
        let floor = self.world.invariants.lock().linearizable.begins(shard + 1);
        let request = RequestId(request);
        self.world.note(format_args!("c{} #{operation:x} {change:?} frame {frame} of shard {shard}", self.number));
        let ask = |epoch| Ask::Write(Write { epoch, shard, request, operation, frame, change });
        let told = self.call((shard, Stays::Shard), true, limits::WRITE_TRY, ask).await;
        self.world.note(format_args!("c{} #{operation:x} {told:?}", self.number));
        match told {
            Ok(Answer::Written { index, response }) => {
                self.acknowledged((operation, shard, floor), (frame, change), index, &response)
            }
            Ok(other) => {
                self.world.check("clients", Err(format!("a write was answered with {other:?}")));
                Some(false)
            }
            Err(error) => {
                self.failed(operation, change, &error);
                Some(false)
            }
        }
    }

    fn acknowledged(
        &mut self,
        (operation, shard, floor): (u64, ShardId, u64),
        (frame, change): (FrameId, FrameChange),
        index: u64,
        response: &[u8],
    ) -> Option<bool> {
        let mut invariants = self.world.invariants.lock();
        // What a forget removed is all there is to tell one from another.
        if change != FrameChange::Forget {
            let told = invariants.acknowledged.answered(operation, shard + 1, index, response);
            self.world.check("acknowledged", told);
        }
        let wrote = invariants.linearizable.wrote(shard + 1, floor, index);
        self.world.check("linearizable", wrote);
        let answer = command::decode(response);
        if matches!(&answer, Ok(ShardAnswer::Store(outcomes)) if outcomes[..] == [StoreOutcome::Moved])
            || matches!(&answer, Ok(ShardAnswer::Forget { moved, .. }) if !moved.is_empty())
        {
            return None;
        }
        if matches!(&answer, Ok(ShardAnswer::Store(outcomes)) if matches!(outcomes[..], [StoreOutcome::Stored(_)])) {
            let at = invariants.one_owner.told(frame, operation);
            self.own.insert(frame, at);
        }
        drop(invariants);
        self.token.insert(shard, index);
        let outcome = match answer {
            Ok(ShardAnswer::Store(outcomes)) => match outcomes[..] {
                [StoreOutcome::Stored(version)] => self.learn(frame, version, "stored"),
                [StoreOutcome::Same(version)] => self.learn(frame, version, "same"),
                [StoreOutcome::Conflict(version)] => self.learn(frame, version, "conflict"),
                _ => "raced",
            },
            Ok(_) => self.learn(frame, 0, "forgotten"),
            Err(_) => "unreadable",
        };
        self.world.figures.lock().operation(outcome, true);
        Some(true)
    }

    fn learn(&mut self, frame: FrameId, version: u64, outcome: &'static str) -> &'static str {
        self.versions.insert(frame, version);
        outcome
    }

    fn failed(&self, operation: u64, change: FrameChange, error: &CallError) {
        let unknown = match error {
            CallError::Moved => false,
            CallError::Unreached(problem) => problem.code == Code::DeadlineExceeded,
            CallError::Refused { after_unknown_outcome, .. } => *after_unknown_outcome,
        };
        if !unknown && change != FrameChange::Forget {
            let undone = self.world.invariants.lock().acknowledged.refused(operation);
            self.world.check("acknowledged", undone);
        }
        self.world.figures.lock().operation(if unknown { "unknown" } else { "refused" }, false);
    }

    /// While the collection grows, where the frame will be is asked first; only if that does not decide about it yet, where
    /// it was.
    async fn read(&mut self, frame: FrameId, linearizable: bool) {
        let floor = match linearizable {
            true => self.world.invariants.lock().one_owner.begins(frame),
            false => self.own.get(&frame).copied().unwrap_or(0),
        };
        for _ in 0..4 {
            let (source, home) = self.homes(frame);
            let copying = self.growth_step() == Some(GrowthStep::Copying) && source != home;
            let shards = if copying { vec![home, source] } else { vec![home] };
            let mut moved = false;
            for shard in shards {
                match self.read_from(shard, frame, (linearizable, copying)).await {
                    Ok(Some(found)) => return self.saw(frame, (floor, linearizable), found),
                    Ok(None) => {}
                    Err(CallError::Moved) => {
                        moved = true;
                        break;
                    }
                    Err(_) => return self.world.figures.lock().operation("read failed", false),
                }
            }
            if !moved {
                break;
            }
        }
        self.world.figures.lock().operation("read failed", false);
    }

    fn saw(&mut self, frame: FrameId, (floor, linearizable): (usize, bool), found: Option<(u64, u64)>) {
        let seen = self.world.invariants.lock().one_owner.read(frame, floor, found, linearizable);
        self.world.check("one owner", seen);
        self.versions.insert(frame, found.map_or(0, |(version, _)| version));
        let outcome = if linearizable { "read" } else { "read at token" };
        self.world.figures.lock().operation(outcome, true);
    }

    /// What one shard says; `None` if it does not decide about the frame.
    async fn read_from(
        &mut self,
        shard: ShardId,
        frame: FrameId,
        (linearizable, growing): (bool, bool),
    ) -> Result<Option<Option<(u64, u64)>>, CallError> {
        let token = self.token.get(&shard).copied().unwrap_or(0);
        let floor = match linearizable {
            true => self.world.invariants.lock().linearizable.begins(shard + 1),
            false => token,
        };
        let at_least = (!linearizable).then_some(token);
        let growing = if growing { ReadOf::Growing } else { ReadOf::Grown(self.grown_to()) };
        let ask = |epoch| Ask::Read { epoch, shard, frame, at_least, growing };
        let told = self.call((shard, Stays::Whole), linearizable, limits::READ_TRY, ask).await;
        self.world.note(format_args!(
            "c{} read frame {frame} of shard {shard} from {floor} {at_least:?}: {told:?}",
            self.number
        ));
        match told? {
            Answer::Read { applied, found, mine } => {
                let mut invariants = self.world.invariants.lock();
                let invariants = &mut *invariants;
                let seen = Seen { frame, applied, found };
                let group = (shard + 1, floor);
                let finding = invariants.linearizable.read(group, &seen, linearizable, &invariants.shard_rules);
                self.world.check("linearizable", finding);
                Ok(mine.then_some(found))
            }
            other => {
                self.world.check("clients", Err(format!("a read was answered with {other:?}")));
                Ok(None)
            }
        }
    }

    async fn call(
        &mut self,
        (shard, stays): (ShardId, Stays),
        of_leader: bool,
        try_for: Duration,
        ask: impl Fn(u64) -> Ask,
    ) -> Result<Answer, CallError> {
        let begun_at = self.growth_step();
        let group = Group::Shard(shard);
        let deadline = runtime::now() + DEADLINE;
        let mut tries = Tries::default();
        while self.map.placement.is_empty() {
            if !self.refresh(0).await && !self.pause(&tries, deadline).await {
                return Err(tries.unreached(group));
            }
        }
        loop {
            if stays == Stays::Whole && self.growth_step() != begun_at {
                return Err(CallError::Moved);
            }
            let (epoch, replicas) = (self.map.header.epoch, self.map.replicas(shard).to_vec());
            let hint = match of_leader {
                true => self.hints.get(&shard).copied(),
                false => Some(replicas[self.world.draw(|rng| rng.random_range(0..replicas.len()))]),
            };
            let Some(node) = decide::next_replica(&replicas, &tries, hint) else { return Err(tries.unreached(group)) };
            let refusal = match self.attempt(node, ask(epoch), try_for.min(deadline - runtime::now())).await {
                Ok(answer) => {
                    if of_leader {
                        self.hints.insert(shard, node);
                    }
                    return Ok(answer);
                }
                Err(refusal) => refusal,
            };
            self.world.note(format_args!("c{} of n{node}: {refusal:?}", self.number));
            match tries.after(node, refusal, epoch, replicas.len()) {
                Step::Fail(problem) => {
                    return Err(CallError::Refused { problem, after_unknown_outcome: tries.unknown_outcome });
                }
                Step::Refresh { at_least } => {
                    if !self.refresh(at_least).await && !self.pause(&tries, deadline).await {
                        return Err(tries.unreached(group));
                    }
                }
                Step::GoTo(leader) => drop(self.hints.insert(shard, leader)),
                Step::Next { pause } => {
                    if self.hints.get(&shard) == Some(&node) {
                        self.hints.remove(&shard);
                    }
                    if pause && !self.pause(&tries, deadline).await {
                        return Err(tries.unreached(group));
                    }
                }
            }
            self.world.figures.lock().retried(tries.last_reason());
            if runtime::now() >= deadline {
                return Err(tries.unreached(group));
            }
        }
    }

    async fn attempt(&self, node: NodeId, ask: Ask, try_for: Duration) -> Result<Answer, Refusal> {
        let asked = self.network.ask(CLIENTS + self.number, node, ask);
        match runtime::timeout(try_for, asked).await {
            Some(outcome) => outcome,
            None => Err(Refusal::Unknown(format!("node {node} did not answer within {try_for:?}"))),
        }
    }

    /// Fetches a map of this epoch or later; an older one than ours is never taken.
    async fn refresh(&mut self, at_least: u64) -> bool {
        for node in self.world.plan.nodes.clone() {
            let Ok(Answer::Map(map)) = self.attempt(node, Ask::Map { confirmed: false }, limits::READ_TRY).await else {
                continue;
            };
            if !map.placement.is_empty() && map.header.epoch > self.map.header.epoch {
                let seen = self.world.invariants.lock().map_epochs.seen((CLIENTS + self.number, 0), &map);
                self.world.check("map epochs", seen);
                self.map = map;
            }
            if !self.map.placement.is_empty() && self.map.header.epoch >= at_least {
                return true;
            }
        }
        false
    }

    async fn pause(&self, tries: &Tries, deadline: Duration) -> bool {
        let pause = decide::pause(tries.count, self.world.draw(|rng| rng.random()));
        if deadline.saturating_sub(runtime::now()) <= pause {
            return false;
        }
        runtime::sleep(pause).await;
        true
    }
}
