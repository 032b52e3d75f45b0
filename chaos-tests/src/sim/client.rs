//! Simulated clients: a router's retry decisions around reads and writes of a few frames that everybody fights over.
//!
//! The loop of `Client::call` is that of `mira_router::cluster::Cluster::call`, and every decision in it is the
//! router's own: whom to ask first, what follows a refusal, how long to wait, what the caller is told in the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mira_node::meta::{ClusterState, GrowthStep};
use mira_node::shard::command::Condition;
use mira_proto::node_v1::read_level::Kind;
use mira_proto::{Code, CollectionId, FrameId, HEADER_VERSION, NodeId, Refusal, ShardId, limits, node_v1};
use mira_router::cluster::decide::{self, Step, Tries};
use mira_router::cluster::{CallError, Group};
use parking_lot::Mutex;
use rand::Rng;

use super::invariants::linearizable::Seen;
use super::network::{CLIENTS, Network};
use super::protocol::{
    Answer, Ask, COLLECTION, DROPPED, DROPPED_FRAMES, FrameChange, RequestName, Told, collection_of, frame_write,
    shard_of,
};
use super::runtime;
use super::world::World;

/// Clients that pause do so in the second half of each such time, all at once.
const PAUSE_EVERY: Duration = Duration::from_secs(3);
/// How long a client tries.
const DEADLINE: Duration = Duration::from_secs(4);

/// What of the map an operation depends on (`mira_router::cluster::Stays`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stays {
    Whole,
    Shard,
}

/// What a call asks for.
struct Call {
    shard: ShardId,
    collection: CollectionId,
    stays: Stays,
    of_leader: bool,
    try_for: Duration,
}

/// What each try of a call is routed by.
struct Try {
    epoch: u64,
    last_resort: bool,
}

/// Where a write took effect, and the position that it may not fall behind.
#[derive(Clone, Copy)]
struct Place {
    shard: ShardId,
    index: u64,
    floor: u64,
}

/// How a frame is read.
struct Reading {
    linearizable: bool,
    /// While the frame may be on its way: where it comes from.
    source: Option<ShardId>,
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
            let at = Duration::from_millis((runtime::now().as_millis() % PAUSE_EVERY.as_millis()) as u64);
            if self.world.plan.pauses && at >= PAUSE_EVERY / 2 {
                runtime::sleep(PAUSE_EVERY - at).await;
            }
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

    /// The shards that have acknowledged a write of this client; while a collection grows, not always the one that it meant.
    pub fn acknowledged_by(&self) -> impl Iterator<Item = ShardId> {
        self.token.keys().copied()
    }

    async fn operate(&mut self) {
        let frame = self.frame();
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

    /// One of the collection that grows, or of the one that is dropped.
    fn frame(&self) -> FrameId {
        self.world.draw(|rng| {
            if self.map.collections.contains_key(&DROPPED) && rng.random_bool(0.2) {
                return DROPPED_FRAMES + rng.random_range(0..3);
            }
            rng.random_range(0..self.world.plan.frames)
        })
    }

    /// Where the frame was before a growth, and where it is after one, as far as this client knows.
    fn homes(&self, frame: FrameId) -> (ShardId, ShardId) {
        let plan = &self.world.plan;
        let now = self.map.collections.get(&COLLECTION).map_or(plan.partitions, |collection| collection.partitions);
        let (from, to) = self.map.growths.get(&COLLECTION).map_or((now, now), |growth| (growth.from, growth.to));
        (shard_of(plan, from, frame), shard_of(plan, to, frame))
    }

    fn grown_to(&self, frame: FrameId) -> u32 {
        if collection_of(frame) != COLLECTION {
            return 0;
        }
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
        let name = |is_moved| RequestName { operation, is_moved };
        match self.write_to(first, name(false), frame, change).await {
            Some(done) => done,
            None => {
                if self.growth_step().is_none() {
                    self.refresh(self.map.header.epoch + 1).await;
                }
                let home = self.homes(frame).1;
                let again = self.write_to(home, name(true), frame, change).await;
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
        request: RequestName,
        frame: FrameId,
        change: FrameChange,
    ) -> Option<bool> {
        let (operation, id) = (request.operation, request.id());
        let floor = self.world.invariants.lock().linearizable.begins(shard + 1);
        self.world.note(format_args!("c{} #{operation:x} {change:?} frame {frame} of shard {shard}", self.number));
        let (collection, request_id) = (collection_of(frame), bytes::Bytes::from(id.to_be_bytes().to_vec()));
        let header = |epoch| node_v1::WriteHeader {
            version: HEADER_VERSION,
            epoch,
            shard,
            collection,
            request_id: request_id.clone(),
            ..Default::default()
        };
        let ask = |Try { epoch, .. }| match change {
            FrameChange::Store(content, condition) => Ask::Write(node_v1::WriteRequest {
                header: Some(header(epoch)),
                frames: vec![frame_write(operation, frame, content, condition)],
                ..Default::default()
            }),
            FrameChange::Forget => Ask::Forget(node_v1::ForgetRequest {
                header: Some(header(epoch)),
                ids: vec![frame.to_be_bytes().to_vec().into()],
                ..Default::default()
            }),
        };
        let call = Call { shard, collection, stays: Stays::Shard, of_leader: true, try_for: limits::WRITE_TRY };
        let told = self.call(call, ask).await;
        self.world.note(format_args!("c{} #{operation:x} {told:?}", self.number));
        let place = |index| Place { shard, index, floor };
        match told {
            Ok(Answer::Written(reply)) => {
                let told = reply.outcomes.first().map_or(Told::Conflict, Told::from);
                self.stored(operation, frame, place(reply.index), told)
            }
            Ok(Answer::Forgotten(reply)) => self.forgotten(frame, place(reply.index), &reply),
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

    /// A write was answered: whatever was answered before it began lies before it.
    fn took_effect(&mut self, Place { shard, index, floor }: Place) {
        let wrote = self.world.invariants.lock().linearizable.wrote(shard + 1, floor, index);
        self.world.check("linearizable", wrote);
    }

    fn stored(&mut self, operation: u64, frame: FrameId, place: Place, told: Told) -> Option<bool> {
        let at = (place.shard + 1, place.index);
        let answered = self.world.invariants.lock().acknowledged.answered(operation, at, told);
        self.world.check("acknowledged", answered);
        self.took_effect(place);
        if told == Told::Moved {
            return None;
        }
        let has_stored = {
            let mut invariants = self.world.invariants.lock();
            let has_stored = invariants.acknowledged.has_stored(operation, at);
            if has_stored {
                let own = invariants.one_owner.told(frame, operation);
                self.own.insert(frame, own);
            }
            has_stored
        };
        self.token.insert(place.shard, place.index);
        let outcome = match told {
            Told::Version(version) => {
                self.versions.insert(frame, version);
                if has_stored { "stored" } else { "same" }
            }
            Told::Conflict | Told::Moved => "conflict",
        };
        self.world.figures.lock().operation(outcome, true);
        Some(true)
    }

    fn forgotten(&mut self, frame: FrameId, place: Place, reply: &node_v1::ForgetReply) -> Option<bool> {
        self.took_effect(place);
        if !reply.moved.is_empty() {
            return None;
        }
        self.token.insert(place.shard, place.index);
        self.versions.insert(frame, 0);
        self.world.figures.lock().operation("forgotten", true);
        Some(true)
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
                match self.read_from(shard, frame, Reading { linearizable, source: copying.then_some(source) }).await {
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
        Reading { linearizable, source }: Reading,
    ) -> Result<Option<Option<(u64, u64)>>, CallError> {
        let token = self.token.get(&shard).copied().unwrap_or(0);
        let floor = if linearizable { self.world.invariants.lock().linearizable.begins(shard + 1) } else { token };
        let growth = self.map.growths.get(&COLLECTION).filter(|_| source.is_some());
        let migration =
            growth.map(|growth| node_v1::MigrationView { from: growth.from, to: growth.to, without: Vec::new() });
        let (collection, grown_to) = (collection_of(frame), if migration.is_some() { 0 } else { self.grown_to(frame) });
        let ask = |Try { epoch, last_resort }| {
            let kind = if linearizable { Kind::Linearizable } else { Kind::Any };
            let at_least = if linearizable { 0 } else { token };
            let header = node_v1::ReadHeader {
                version: HEADER_VERSION,
                epoch,
                shard,
                collection,
                level: Some(node_v1::ReadLevel { kind: kind.into(), at_least, last_resort }),
                migration: migration.clone(),
                grown_to,
                ..Default::default()
            };
            let ids = vec![frame.to_be_bytes().to_vec().into()];
            Ask::Fetch(node_v1::FetchRequest { header: Some(header), ids, ..Default::default() })
        };
        let try_for = limits::READ_TRY;
        let call = Call { shard, collection, stays: Stays::Whole, of_leader: linearizable, try_for };
        let told = self.call(call, ask).await;
        self.world.note(format_args!(
            "c{} read frame {frame} of shard {shard} from {floor} {linearizable}: {told:?}",
            self.number
        ));
        match told? {
            Answer::Fetched(reply) => {
                let state = reply.state.unwrap_or_default();
                let found = reply.frames.first().map(|found| (found.version, found.created_ms));
                let seen = Seen { frame, applied: state.applied, found };
                // A target shows what it has opened; a source shows what it holds, and is asked when the target has not.
                let decides = source.is_none_or(|source| shard == source || state.taken_over.contains(&source));
                if decides {
                    let mut invariants = self.world.invariants.lock();
                    let invariants = &mut *invariants;
                    let group = (shard + 1, floor);
                    let finding = invariants.linearizable.read(group, &seen, linearizable, &invariants.shard_rules);
                    self.world.check("linearizable", finding);
                }
                Ok(decides.then_some(found))
            }
            other => {
                self.world.check("clients", Err(format!("a read was answered with {other:?}")));
                Ok(None)
            }
        }
    }

    /// Whether the map still says what the call was begun with.
    fn is_still_at(&self, call: &Call, begun_at: Option<GrowthStep>) -> bool {
        self.map.collections.contains_key(&call.collection)
            && (call.stays == Stays::Shard || self.growth_step() == begun_at)
    }

    async fn call(&mut self, call: Call, ask: impl Fn(Try) -> Ask) -> Result<Answer, CallError> {
        let Call { shard, of_leader, try_for, .. } = call;
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
            if !self.is_still_at(&call, begun_at) {
                return Err(if tries.unknown_outcome { tries.unreached(group) } else { CallError::Moved });
            }
            let (epoch, replicas) = (self.map.header.epoch, self.map.replicas(shard).to_vec());
            let hint = if of_leader {
                self.hints.get(&shard).copied()
            } else {
                Some(replicas[self.world.draw(|rng| rng.random_range(0..replicas.len()))])
            };
            let Some(node) = decide::next_replica(&replicas, &tries, hint) else { return Err(tries.unreached(group)) };
            let asked = ask(Try { epoch, last_resort: tries.last_resort(replicas.len()) });
            let refusal = match self.attempt(node, asked, try_for.min(deadline - runtime::now())).await {
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
            let Ok(Answer::Map(map)) = self.attempt(node, Ask::Map, limits::READ_TRY).await else {
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
