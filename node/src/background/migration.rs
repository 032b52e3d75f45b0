//! Driving collections that grow: what the leaders of shards do next, decided from what is.
//!
//! The meta group's record of a growth ([`crate::meta::Growth`]) and the ownership in the shards' states
//! ([`crate::shard::migration::ownership`]) say all there is to know; nothing else is remembered, so whatever crashes,
//! whoever leads next goes on from there. Targets pull: the leader of each makes passes over the frames of each source, has
//! the source freeze them when little changes any more, makes one last pass, and opens them. When every target has opened
//! everything, the sources finalize and remove what moved.
//!
//! Pausing stops all of it between two pages, but for a last pass: writers of the frames that it brings wait for it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mira_proto::{CollectionId, FrameId, Refusal, ShardId, limits, node_v1};
use mira_raft::{Runtime, TokioRuntime};
use parking_lot::Mutex;

use crate::{
    background::{Job, Tick, pause_after},
    member::Member,
    meta::{ClusterState, Growth, GrowthStep, MetaCommand},
    peers::ask_in_turn,
    shard::{
        Shard,
        command::OwnershipStep,
        migration::{
            ownership::{Backfill, Ownership, Progress, Span},
            transfer::SentPage,
        },
    },
};

/// Between two looks while nothing grows.
pub const EVERY: Duration = Duration::from_millis(500);
/// Between two looks while collections grow and nothing can be done.
const GROWING: Duration = Duration::from_millis(50);

/// What a shard does next for a growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Begin a pass over a source's frames.
    BeginPass {
        /// The shard that has the frames.
        source: ShardId,
        /// The number of the pass, from 1.
        pass: u32,
        /// Have the source freeze them first.
        last: bool,
    },
    /// Take the next page of a pass.
    ApplyPage {
        /// The shard that has the frames.
        source: ShardId,
        /// How far the pass is.
        backfill: Backfill,
        /// The page begins behind this frame.
        after: Option<FrameId>,
    },
    /// Note in this shard's log that the growth has left copying behind.
    Finalize,
    /// Remove some of what moved.
    Cleanup,
    /// Tell the meta group that the shard has done its part of the step.
    Report,
}

/// A growth, and what the shards that take part in it follow from.
#[derive(Debug, Clone, Copy)]
pub struct CollectionGrowth<'a> {
    /// The growing collection.
    pub collection: CollectionId,
    /// What the meta group says of the growth.
    pub growth: &'a Growth,
    /// Shards of the cluster.
    pub shards: u32,
}

/// What a shard that takes part in a growth does next; none if it has nothing to do. To be asked on the shard's leader, whose
/// `ownership` is up to date.
pub fn next(
    CollectionGrowth { collection, growth, shards }: CollectionGrowth<'_>,
    shard: ShardId,
    ownership: Option<&Ownership>,
    paused: bool,
) -> Option<Task> {
    let (sources, targets) = growth.shards(collection, shards);
    let span = Span { from: growth.from, to: growth.to, shards };
    let ownership = ownership.filter(|ownership| ownership.span == span);
    match growth.step {
        _ if growth.done.contains(&shard) => None,
        GrowthStep::Copying if targets.contains(&shard) => copy(&sources, ownership, paused),
        GrowthStep::Clearing if sources.contains(&shard) => {
            if ownership.is_some_and(|ownership| ownership.finalized) {
                (!paused).then_some(Task::Cleanup)
            } else {
                Some(Task::Finalize)
            }
        }
        _ => None,
    }
}

/// The next thing a target does: one source after the other, each with passes that get shorter.
fn copy(sources: &[ShardId], ownership: Option<&Ownership>, paused: bool) -> Option<Task> {
    for &source in sources {
        let backfill = ownership.and_then(|ownership| ownership.backfills.get(&source)).copied();
        let task = match backfill {
            None => Task::BeginPass { source, pass: 1, last: false },
            Some(backfill) => match backfill.at {
                Progress::Open => continue,
                Progress::Running(after) if backfill.last => return Some(Task::ApplyPage { source, backfill, after }),
                Progress::Running(after) => Task::ApplyPage { source, backfill, after },
                Progress::Complete => {
                    let little = backfill.brought <= limits::GROWTH_LAST_FRAMES;
                    // The first pass is never followed by the last at once: what it took long to bring has changed since.
                    let last = backfill.pass + 1 >= limits::GROWTH_PASSES || little && backfill.pass > 1;
                    Task::BeginPass { source, pass: backfill.pass + 1, last }
                }
            },
        };
        return (!paused).then_some(task);
    }
    Some(Task::Report)
}

/// What one round did.
pub struct Round {
    /// Every shard that had something to do.
    pub steps: Vec<Step>,
    /// How long to wait before the next round, while anything grows.
    pub more_after: Option<Duration>,
}

/// One shard's step in one growth.
pub struct Step {
    /// The growing collection.
    pub collection: CollectionId,
    /// The shard.
    pub shard: ShardId,
    /// What it did, or why it could not; it goes on from there later.
    pub outcome: Result<Task, Refusal>,
}

/// Drives the growths that shards led by a node take part in.
pub struct Migration<R: Runtime = TokioRuntime> {
    member: Arc<Member<R>>,
    /// Where cleaning up goes on; lost in a restart, it begins again.
    cursors: Mutex<BTreeMap<(CollectionId, ShardId), FrameId>>,
}

impl<R: Runtime> Migration<R> {
    /// For a member of a cluster.
    pub fn new(member: Arc<Member<R>>) -> Self {
        Migration { member, cursors: Mutex::default() }
    }

    /// One step of every growth for every shard led here.
    pub async fn round(&self) -> Round {
        let cluster = self.member.cluster();
        if cluster.growths.is_empty() {
            self.cursors.lock().clear();
            return Round { steps: Vec::new(), more_after: None };
        }
        let (mut bytes, mut worked, mut steps) = (0, false, Vec::new());
        for (&collection, growth) in &cluster.growths {
            self.end_if_over(collection, growth).await;
            let (sources, targets) = growth.shards(collection, cluster.header.shards);
            for id in sources.into_iter().chain(targets) {
                let Some(shard) = self.member.replicas().get(id) else { continue };
                if !shard.group().status().is_leader() {
                    continue;
                }
                let driver = Driver { migration: self, cluster: &cluster, collection, growth, shard: &shard, id };
                let outcome = match driver.step().await {
                    Ok(None) => continue,
                    Ok(Some((task, moved))) => {
                        (bytes, worked) = (bytes + moved, true);
                        Ok(task)
                    }
                    Err(refusal) => {
                        tracing::debug!(collection, shard = id, %refusal, "growth goes on later");
                        Err(refusal)
                    }
                };
                steps.push(Step { collection, shard: id, outcome });
            }
        }
        Round { steps, more_after: Some(if worked { pause_after(bytes) } else { GROWING }) }
    }

    async fn end_if_over(&self, collection: CollectionId, growth: &Growth) {
        let member = &self.member;
        let over = growth.since_ms.saturating_add(limits::GROWTH_MEMORY.as_millis() as u64);
        let is_over = growth.step == GrowthStep::Remembering && member.meta().time_ms() >= over;
        if is_over && member.meta().status().is_leader() {
            let ended = member.propose_meta(&MetaCommand::EndGrowth { collection, to: growth.to }).await;
            tracing::info!(collection, ?ended, "growth forgotten");
        }
    }
}

impl<R: Runtime> Job for Migration<R> {
    async fn tick(&mut self) -> Tick {
        let Round { steps, more_after } = self.round().await;
        Tick { failures: steps.iter().filter(|step| step.outcome.is_err()).count() as u64, more_after }
    }
}

/// One shard's part in one growth.
struct Driver<'a, R: Runtime> {
    migration: &'a Migration<R>,
    cluster: &'a ClusterState,
    collection: CollectionId,
    growth: &'a Growth,
    shard: &'a Shard<R>,
    id: ShardId,
}

impl<R: Runtime> Driver<'_, R> {
    fn span(&self) -> Span {
        Span { from: self.growth.from, to: self.growth.to, shards: self.cluster.header.shards }
    }

    /// Does the next thing; what it was and the bytes that moved, or none if there is nothing to do.
    async fn step(&self) -> Result<Option<(Task, usize)>, Refusal> {
        let ownership = self.shard.ownership(self.collection)?;
        let of =
            CollectionGrowth { collection: self.collection, growth: self.growth, shards: self.cluster.header.shards };
        let Some(task) = next(of, self.id, ownership.as_ref(), self.cluster.moves_paused) else { return Ok(None) };
        let mut bytes = 0;
        match task {
            Task::BeginPass { source, pass, last } => {
                let start = self.begin_pass(source, last).await?;
                self.take_step(OwnershipStep::BeginPass { source, pass, start, last }).await?;
                tracing::info!(collection = self.collection, target = self.id, source, pass, last, "pass begins");
            }
            Task::ApplyPage { source, backfill, after } => {
                let sent = self.export(source, &backfill, after).await?;
                bytes = sent.frames.iter().map(bytes::Bytes::len).sum::<usize>() + sent.ids.len();
                let page = SentPage { source, backfill: &backfill, after, sent };
                self.shard.apply_page(self.collection, self.span(), page).await?;
            }
            Task::Finalize => self.take_step(OwnershipStep::Finalize { min_epoch: self.growth.epoch }).await?,
            Task::Cleanup => self.cleanup().await?,
            Task::Report => self.report().await?,
        }
        Ok(Some((task, bytes)))
    }

    async fn cleanup(&self) -> Result<(), Refusal> {
        let (key, cursors) = ((self.collection, self.id), &self.migration.cursors);
        let after = cursors.lock().get(&key).copied();
        match self.shard.clear_moved(self.collection, self.span(), after).await? {
            Some(upto) => {
                cursors.lock().insert(key, upto);
                Ok(())
            }
            None => {
                cursors.lock().remove(&key);
                self.report().await
            }
        }
    }

    async fn take_step(&self, step: OwnershipStep) -> Result<(), Refusal> {
        self.shard.grow(self.collection, self.span(), step).await.map(drop)
    }

    async fn report(&self) -> Result<(), Refusal> {
        let (collection, to, step, shard) = (self.collection, self.growth.to, self.growth.step, self.id);
        self.migration.member.propose_meta(&MetaCommand::GrowthDone { collection, to, step, shard }).await?;
        tracing::info!(collection, shard, ?step, "shard has done its part of a growth");
        Ok(())
    }

    async fn begin_pass(&self, source: ShardId, freeze: bool) -> Result<u64, Refusal> {
        let request = node_v1::BeginPassRequest {
            shard: source,
            collection: self.collection,
            from: self.growth.from,
            to: self.growth.to,
            epoch: self.growth.epoch,
            target: self.id,
            freeze,
        };
        let member = &self.migration.member;
        let replicas = member.replicas_leader_first(self.cluster, source);
        let ask = |replica| member.peers().begin_pass(replica, request);
        Ok(ask_in_turn::<R, node_v1::BeginPassReply, _>(&replicas, ask).await?.start)
    }

    async fn export(
        &self,
        source: ShardId,
        backfill: &Backfill,
        after: Option<FrameId>,
    ) -> Result<node_v1::ExportReply, Refusal> {
        let request = node_v1::ExportRequest {
            shard: source,
            collection: self.collection,
            from: self.growth.from,
            to: self.growth.to,
            target: self.id,
            start: backfill.start,
            since: backfill.since,
            after: after.map(|after| after.to_be_bytes().to_vec()).unwrap_or_default().into(),
        };
        let member = &self.migration.member;
        let replicas = member.replicas_leader_first(self.cluster, source);
        let ask = |replica| member.peers().export(replica, request.clone());
        ask_in_turn::<R, node_v1::ExportReply, _>(&replicas, ask).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const COLLECTION: CollectionId = 9;
    const SHARDS: u32 = 8;

    fn growth(step: GrowthStep) -> Growth {
        Growth { from: 2, to: 4, step, epoch: 5, since_ms: 0, done: BTreeSet::new() }
    }

    fn growing(growth: &Growth) -> CollectionGrowth<'_> {
        CollectionGrowth { collection: COLLECTION, growth, shards: SHARDS }
    }

    fn backfill(pass: u32, brought: u64, at: Progress) -> Backfill {
        Backfill { pass, start: 10, since: 0, last: false, brought, at }
    }

    #[test]
    fn a_target_takes_source_after_source_in_passes_until_little_changes() {
        let growth = growth(GrowthStep::Copying);
        let (sources, targets) = growth.shards(COLLECTION, SHARDS);
        let target = targets[0];
        let span = Span { from: 2, to: 4, shards: SHARDS };
        let at = |ownership: &Ownership, paused| next(growing(&growth), target, Some(ownership), paused);
        let mut ownership = Ownership::new(target, span);
        let (first, second) = (sources[0], sources[1]);
        let begin = |source, pass, last| Some(Task::BeginPass { source, pass, last });
        let many = limits::GROWTH_LAST_FRAMES + 1;
        let complete = Progress::Complete;
        let table = [
            (None, begin(first, 1, false)),
            (Some(backfill(1, 9_000, complete)), begin(first, 2, false)),
            (Some(backfill(1, 0, complete)), begin(first, 2, false)),
            (Some(backfill(2, many, complete)), begin(first, 3, false)),
            (Some(backfill(3, 10, complete)), begin(first, 4, true)),
            (Some(backfill(4, many, complete)), begin(first, 5, true)),
            (Some(backfill(5, 0, Progress::Open)), begin(second, 1, false)),
        ];
        for (there, expected) in table {
            ownership.backfills = there.map(|there| (first, there)).into_iter().collect();
            assert_eq!(at(&ownership, false), expected, "{there:?}");
            assert_eq!(at(&ownership, true), None, "paused, {there:?}");
        }
        let running = backfill(2, 3, Progress::Running(Some(7)));
        ownership.backfills = [(first, running)].into();
        let page = |backfill| Some(Task::ApplyPage { source: first, backfill, after: Some(7) });
        assert_eq!((at(&ownership, false), at(&ownership, true)), (page(running), None));
        let last = Backfill { last: true, ..running };
        ownership.backfills = [(first, last)].into();
        assert_eq!(
            (at(&ownership, false), at(&ownership, true)),
            (page(last), page(last)),
            "writers wait for a last pass"
        );
        let open = backfill(3, 0, Progress::Open);
        ownership.backfills = [(first, open), (second, open)].into();
        assert_eq!(at(&ownership, false), Some(Task::Report));
        let older = Ownership { span: Span { from: 1, to: 2, shards: SHARDS }, ..ownership };
        assert_eq!(at(&older, false), begin(first, 1, false), "what an earlier growth left says nothing");
    }

    #[test]
    fn sources_finalize_and_clean_up_and_everybody_else_does_nothing() {
        let mut clearing = growth(GrowthStep::Clearing);
        let (sources, targets) = clearing.shards(COLLECTION, SHARDS);
        let span = Span { from: 2, to: 4, shards: SHARDS };
        let of = |growth: &Growth, shard, ownership: Option<&Ownership>| next(growing(growth), shard, ownership, false);
        let frozen = Ownership { min_epoch: 5, ..Ownership::new(sources[0], span) };
        let finalized = Ownership { finalized: true, ..frozen.clone() };
        assert_eq!(of(&clearing, sources[0], Some(&frozen)), Some(Task::Finalize));
        assert_eq!(of(&clearing, sources[0], Some(&finalized)), Some(Task::Cleanup));
        assert_eq!(next(growing(&clearing), sources[0], Some(&finalized), true), None);
        assert_eq!(of(&clearing, targets[0], None), None);
        assert_eq!(of(&growth(GrowthStep::Copying), sources[0], None), None);
        assert_eq!(of(&growth(GrowthStep::Remembering), sources[0], Some(&finalized)), None);
        clearing.done.insert(sources[0]);
        assert_eq!(of(&clearing, sources[0], Some(&finalized)), None);
    }
}
