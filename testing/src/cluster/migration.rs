//! A collection of the fake cluster on its way to more shards, as far as a test wants it to be.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mira_proto::node_v1::{self as wire, MigrationStep};
use mira_proto::placement::{Partitioning, shards_of_collection};
use mira_proto::{FrameId, ShardId};

use super::FakeCluster;
use super::state::{Kept, State};

/// What a source still has of a frame that it has handed over; no router may show it.
pub const OLD_COPY: &str = "an old copy";

/// Where the frames of a collection were and will be, and how far they are.
pub(super) struct Moving {
    from: Partitioning,
    to: Partitioning,
    /// Of each target, the sources whose frames it has taken over.
    taken_over: BTreeMap<ShardId, BTreeSet<ShardId>>,
}

/// Frames that go from one shard to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HandOver {
    pub(super) collection: u64,
    pub(super) source: ShardId,
    pub(super) target: ShardId,
}

impl Moving {
    /// The sources whose frames a shard has taken over.
    pub(super) fn taken_over(&self, shard: ShardId) -> Vec<ShardId> {
        self.taken_over.get(&shard).into_iter().flatten().copied().collect()
    }

    fn has_taken_over(&self, target: ShardId, source: ShardId) -> bool {
        self.taken_over.get(&target).is_some_and(|sources| sources.contains(&source))
    }

    /// Whether a shard shows a frame to a reader with this view.
    fn shows(&self, shard: ShardId, view: &wire::MigrationView, frame: FrameId) -> bool {
        let (before, now) = (self.from.shard_of(frame), self.to.shard_of(frame));
        if self.from.shards().contains(&shard) {
            return before == shard && !view.without.contains(&now);
        }
        now == shard && self.has_taken_over(shard, before)
    }

    /// Whether a shard leaves a frame to another one.
    fn has_moved(&self, shard: ShardId, frame: FrameId) -> bool {
        let now = self.to.shard_of(frame);
        now != shard && self.has_taken_over(now, shard)
    }
}

impl State {
    /// The frames of a shard that a read sees.
    pub(super) fn shown(&self, header: &wire::ReadHeader) -> impl Iterator<Item = &Kept> {
        let (shard, view) = (header.shard, header.migration.clone());
        let moving = self.moving.get(&header.collection);
        let shows = move |kept: &&Kept| match (moving, &view) {
            (Some(moving), Some(view)) => moving.shows(shard, view, kept.id()),
            _ => true,
        };
        self.of_shard(header.collection, shard).filter(shows)
    }

    /// Whether a shard leaves a frame to another one.
    pub(super) fn has_moved(&self, collection: u64, shard: ShardId, id: &Bytes) -> bool {
        let frame = id.as_ref().try_into().map(FrameId::from_be_bytes);
        let moving = self.moving.get(&collection);
        moving.zip(frame.ok()).is_some_and(|(moving, frame)| moving.has_moved(shard, frame))
    }

    /// The shards that have taken frames over from this one.
    pub(super) fn frozen_for(&self, collection: u64, shard: ShardId) -> Vec<ShardId> {
        let targets = self.moving.get(&collection).into_iter().flat_map(|moving| &moving.taken_over);
        targets.filter(|(_, sources)| sources.contains(&shard)).map(|(&target, _)| target).collect()
    }

    /// What happens between the questions to targets and those to sources, if a test wants it.
    pub(super) fn before_source(&mut self, collection: u64, shard: ShardId) {
        let is_meant = |next: &HandOver| (next.collection, next.source) == (collection, shard);
        if let Some(next) = self.next_hand_over.take_if(|next| is_meant(next)) {
            self.hand_over(next);
        }
    }

    fn hand_over(&mut self, HandOver { collection, source, target }: HandOver) {
        let moving = self.moving.get_mut(&collection).expect("it moves");
        let goes = |id: FrameId| (moving.from.shard_of(id), moving.to.shard_of(id)) == (source, target);
        let going =
            self.frames.iter_mut().filter(|((held_by, shard, _), _)| (*held_by, *shard) == (collection, source));
        let mut copies = Vec::new();
        for ((_, _, id), kept) in going.filter(|(_, kept)| goes(kept.id())) {
            copies.push(((collection, target, id.clone()), kept.clone()));
            kept.frame.content = OLD_COPY.into();
        }
        moving.taken_over.entry(target).or_default().insert(source);
        self.frames.extend(copies);
    }
}

impl FakeCluster {
    /// Begins to move a collection to more shards: nothing has been taken over yet.
    pub fn begin_migration(&self, collection: &str, partitions: u32) {
        let mut state = self.state.lock();
        state.epoch += 1;
        let info = state.collections.get_mut(collection).expect("it was made");
        let (id, from, to) = (info.id, info.partitions, partitions);
        info.migration = Some(wire::Migration { from, to, step: MigrationStep::Copying.into(), ..Default::default() });
        let placement = |partitions| Partitioning::new(shards_of_collection(id, partitions, self.shards));
        let moving = Moving { from: placement(from), to: placement(to), taken_over: BTreeMap::new() };
        state.moving.insert(id, moving);
    }

    /// The shards that a collection which moves lay on, and those that are added.
    pub fn sources_and_targets(&self, collection: &str) -> (Vec<ShardId>, Vec<ShardId>) {
        let state = self.state.lock();
        let moving = &state.moving[&state.collections[collection].id];
        let sources = moving.from.shards();
        (sources.to_vec(), moving.to.shards()[sources.len()..].to_vec())
    }

    /// Has a target take over what moves there from a source, which keeps old copies.
    pub fn hand_over(&self, collection: &str, source: ShardId, target: ShardId) {
        let mut state = self.state.lock();
        let collection = state.collections[collection].id;
        state.hand_over(HandOver { collection, source, target });
    }

    /// The same, just before the source is asked next.
    pub fn hand_over_before_source(&self, collection: &str, source: ShardId, target: ShardId) {
        let mut state = self.state.lock();
        let collection = state.collections[collection].id;
        state.next_hand_over = Some(HandOver { collection, source, target });
    }
}
