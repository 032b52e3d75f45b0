//! Where the frames of a collection lie, and which shard a write goes to.
//!
//! While a collection moves to more shards, a write goes first to where its frame lay before. That shard applies it, or
//! remembers it as applied, or says that the frame has moved; only then the write goes to where the frame lies now. So a
//! retry finds the shard that remembers the first try, whatever has moved meanwhile. Once every frame is where it
//! belongs, writes that nobody can have tried before go straight there.
//!
//! Removals go the same way. What is named by ids goes to the shards before, and what they say has moved goes to those
//! after. What is named otherwise (a session, a filter, everything) goes to all shards before, each of which says for
//! which shards it has frozen frames that might match; those are asked next, and answer when they have taken these over.
//!
//! How a request is read from shards meanwhile, [`super::fan_out`] says.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use mira_crypto::PlacementKey;
use mira_proto::node_v1::{self, MigrationStep, MigrationView, WriteHeader};
use mira_proto::placement::{Partitioning, shards_of_collection};
use mira_proto::{Code, FrameId, HEADER_VERSION, Problem, ShardId};
use uuid::Uuid;

use crate::RequestContext;

/// A collection and where its frames lie.
pub struct CollectionRoute {
    /// The collection.
    pub info: node_v1::Collection,
    shard_count: u32,
    /// Computed at first use: a map may hold thousands of collections that this router never touches.
    partitioning: OnceLock<Partitioning>,
    before: OnceLock<Partitioning>,
    /// None if the nodes gave none.
    placement_key: OnceLock<Option<PlacementKey>>,
}

/// What of a collection's places a request depends on: when that changes under the request, it is routed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteConstraint {
    /// All of it, and how far a migration is: a read, and a removal of what a shard finds by itself.
    Whole,
    /// Where frames lay before a migration: a write that the shard refuses by itself when the frame has moved.
    Before,
    /// Where frames lie after a migration.
    After,
}

/// Where a write goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The shard.
    pub shard: ShardId,
    /// Whether the frame lies there only after a migration.
    is_after: bool,
}

impl Place {
    /// What the write depends on.
    pub fn constraint(self) -> RouteConstraint {
        if self.is_after { RouteConstraint::After } else { RouteConstraint::Before }
    }
}

/// How the frames of a removal are selected.
#[derive(Debug, Clone, Copy)]
pub enum Selected<'a> {
    /// By their ids.
    Ids(&'a [Uuid]),
    /// Each shard finds them by itself.
    Found,
}

/// What one shard is asked to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovalPart {
    /// The shard.
    pub shard: ShardId,
    /// The frames; empty when the shard finds them by itself.
    pub ids: Vec<Uuid>,
    /// Shards that have frozen frames for this one, which must have taken them over before it answers.
    pub taken_over_from: Vec<ShardId>,
    /// What the request depends on.
    pub constraint: RouteConstraint,
}

/// What the first shards of a removal have said about others.
#[derive(Debug, Default)]
pub struct Leftover {
    /// Frames that other shards decide about.
    pub moved: Vec<Uuid>,
    /// Shards that decide about frames which might match, and from which shards they take these over.
    pub frozen_for: BTreeMap<ShardId, Vec<ShardId>>,
}

impl Leftover {
    /// Adds what another shard has said.
    pub fn add(&mut self, other: Leftover) {
        self.moved.extend(other.moved);
        for (target, sources) in other.frozen_for {
            let known = self.frozen_for.entry(target).or_default();
            known.extend(sources);
            known.sort_unstable();
            known.dedup();
        }
    }
}

impl CollectionRoute {
    pub(super) fn new(info: node_v1::Collection, shard_count: u32) -> Self {
        CollectionRoute {
            info,
            shard_count,
            partitioning: OnceLock::new(),
            before: OnceLock::new(),
            placement_key: OnceLock::new(),
        }
    }

    /// What the ids of the collection's frames are made with.
    pub fn placement_key(&self) -> Result<&PlacementKey, Problem> {
        let read = || PlacementKey::from_bytes(&self.info.placement_key).ok();
        self.placement_key.get_or_init(read).as_ref().ok_or_else(|| {
            let name = &self.info.name;
            let detail =
                format!("the storage nodes gave no placement key of collection {name:?}, which ids are made with");
            Problem::new(Code::Unavailable, detail)
        })
    }

    /// Whether it is a route to this collection in a cluster of so many shards.
    pub(super) fn is_of(&self, info: &node_v1::Collection, shard_count: u32) -> bool {
        self.info == *info && self.shard_count == shard_count
    }

    /// Which shard holds which frame; while the collection moves to more shards, once it has.
    pub fn partitioning(&self) -> &Partitioning {
        self.partitioning.get_or_init(|| self.over(self.after()))
    }

    /// All shards that may hold frames of the collection.
    pub fn shards(&self) -> &[ShardId] {
        self.partitioning().shards()
    }

    /// Whether what a shard shows changes with its frames only: no migration is under way, or was a moment ago.
    pub fn is_settled(&self) -> bool {
        self.info.migration.is_none()
    }

    /// Which shard held which frame before the migration that is under way, or was a moment ago.
    pub(super) fn before_migration(&self) -> Option<&Partitioning> {
        let migration = self.info.migration.as_ref()?;
        Some(self.before.get_or_init(|| self.over(migration.from)))
    }

    /// Whether frames are on their way to the shards that a migration adds.
    pub(super) fn is_copying(&self) -> bool {
        self.info.migration.as_ref().is_some_and(|migration| migration.step() == MigrationStep::Copying)
    }

    /// The shards that a migration adds; none without one.
    pub(super) fn targets(&self) -> &[ShardId] {
        let before = self.before_migration().map_or(usize::MAX, |before| before.shards().len());
        self.shards().get(before..).unwrap_or(&[])
    }

    /// What a read says of a migration; of a source, which targets' frames it leaves out.
    pub(super) fn migration_view(&self, without: impl IntoIterator<Item = ShardId>) -> Option<MigrationView> {
        let migration = self.info.migration.as_ref()?;
        Some(MigrationView { from: migration.from, to: migration.to, without: without.into_iter().collect() })
    }

    /// What a read that says nothing of a migration says of those before: how many partitions they led to, 0 without one.
    pub(super) fn grown_to(&self) -> u32 {
        if self.info.partitions > self.info.first_partitions { self.info.partitions } else { 0 }
    }

    /// Where a write of a frame goes. `has_moved`: the shard before has said so. `may_be_retry`: an earlier try may be
    /// remembered there.
    pub fn place_of(&self, frame: FrameId, has_moved: bool, may_be_retry: bool) -> Place {
        let now = self.partitioning().shard_of(frame);
        match self.before_migration() {
            Some(before) if !has_moved && (self.is_copying() || may_be_retry) => {
                Place { shard: before.shard_of(frame), is_after: false }
            }
            Some(_) => Place { shard: now, is_after: true },
            // A migration that begins while the write is under way does not change where it goes first.
            None => Place { shard: now, is_after: false },
        }
    }

    /// What a write to a shard says; its epoch is that of each try.
    pub fn write_header(&self, context: &RequestContext, shard: ShardId) -> WriteHeader {
        WriteHeader {
            version: HEADER_VERSION,
            epoch: 0,
            shard,
            collection: self.info.id,
            request_id: Bytes::new(),
            principal: context.principal.as_ref().to_owned(),
        }
    }

    /// The shards that a removal asks first.
    pub fn first_parts(&self, selected: Selected<'_>) -> Vec<RemovalPart> {
        let before = self.before_migration().unwrap_or(self.partitioning());
        match selected {
            Selected::Ids(ids) => parts_by_id(before, ids, RouteConstraint::Before),
            // Such a shard can only say that some frames may have moved, and so the map must be new enough to know.
            Selected::Found => {
                let whole = RouteConstraint::Whole;
                let part = |&shard| RemovalPart { shard, ids: vec![], taken_over_from: vec![], constraint: whole };
                before.shards().iter().map(part).collect()
            }
        }
    }

    /// The shards that a removal asks then, by what the first have said. What stays in `leftover` lies where this map
    /// does not lead.
    pub fn second_parts(&self, selected: Selected<'_>, leftover: &mut Leftover) -> Vec<RemovalPart> {
        if self.is_settled() {
            return Vec::new();
        }
        let constraint = RouteConstraint::After;
        match selected {
            Selected::Ids(_) => parts_by_id(self.partitioning(), &std::mem::take(&mut leftover.moved), constraint),
            Selected::Found => {
                let frozen = std::mem::take(&mut leftover.frozen_for).into_iter();
                let part = |(shard, taken_over_from)| RemovalPart { shard, ids: vec![], taken_over_from, constraint };
                frozen.map(part).collect()
            }
        }
    }

    fn over(&self, partitions: u32) -> Partitioning {
        Partitioning::new(shards_of_collection(self.info.id, partitions, self.shard_count))
    }

    fn after(&self) -> u32 {
        self.info.migration.as_ref().map_or(self.info.partitions, |migration| migration.to)
    }

    /// Whether frames lie where they lie in `other`, as far as that matters.
    pub(super) fn same_place(&self, other: &CollectionRoute, constraint: RouteConstraint) -> bool {
        let before = |route: &CollectionRoute| {
            route.info.migration.as_ref().map_or(route.info.partitions, |migration| migration.from)
        };
        let step = |route: &CollectionRoute| {
            route.info.migration.as_ref().map(|migration| (migration.from, migration.to, migration.step))
        };
        (self.info.id, self.shard_count) == (other.info.id, other.shard_count)
            && match constraint {
                RouteConstraint::Whole => (self.info.partitions, step(self)) == (other.info.partitions, step(other)),
                RouteConstraint::Before => before(self) == before(other),
                RouteConstraint::After => self.after() == other.after(),
            }
    }
}

fn parts_by_id(placement: &Partitioning, ids: &[Uuid], constraint: RouteConstraint) -> Vec<RemovalPart> {
    let mut by_shard: BTreeMap<ShardId, Vec<Uuid>> = BTreeMap::new();
    for &id in ids {
        by_shard.entry(placement.shard_of(id.as_u128())).or_default().push(id);
    }
    let part = |(shard, ids)| RemovalPart { shard, ids, taken_over_from: Vec::new(), constraint };
    by_shard.into_iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: u32 = 2;
    const TO: u32 = 4;

    fn route(step: Option<MigrationStep>) -> CollectionRoute {
        let migration =
            step.map(|step| node_v1::Migration { from: FROM, to: TO, step: step.into(), ..Default::default() });
        let partitions = if step.is_some_and(|step| step != MigrationStep::Copying) { TO } else { FROM };
        let info = node_v1::Collection { id: 3, partitions, first_partitions: FROM, migration, ..Default::default() };
        CollectionRoute::new(info, 8)
    }

    /// A frame that moves: where it lay, and where it lies then.
    fn moving(route: &CollectionRoute) -> (FrameId, ShardId, ShardId) {
        let before = route.before_migration().expect("it moves");
        let frames = (0..).map(|number: u128| number << 64 | number);
        let shards = |frame| (frame, before.shard_of(frame), route.partitioning().shard_of(frame));
        frames.map(shards).find(|(_, before, now)| before != now).expect("some frame moves")
    }

    #[test]
    fn a_write_goes_where_the_shard_is_that_remembers_an_earlier_try() {
        let copying = route(Some(MigrationStep::Copying));
        let (frame, before, after) = moving(&copying);
        // step, has the frame moved, may it be a retry; the shard, and what it depends on
        let table = [
            (Some(MigrationStep::Copying), false, false, before, RouteConstraint::Before),
            (Some(MigrationStep::Copying), false, true, before, RouteConstraint::Before),
            (Some(MigrationStep::Copying), true, false, after, RouteConstraint::After),
            (Some(MigrationStep::Clearing), false, false, after, RouteConstraint::After),
            (Some(MigrationStep::Clearing), false, true, before, RouteConstraint::Before),
            (Some(MigrationStep::Remembering), true, true, after, RouteConstraint::After),
            (None, false, false, before, RouteConstraint::Before),
            (None, true, true, before, RouteConstraint::Before),
        ];
        for (step, has_moved, may_be_retry, shard, constraint) in table {
            let place = route(step).place_of(frame, has_moved, may_be_retry);
            assert_eq!((place.shard, place.constraint()), (shard, constraint), "{step:?} {has_moved} {may_be_retry}");
        }
    }

    #[test]
    fn a_removal_asks_the_shards_before_and_then_those_that_they_name() {
        let copying = route(Some(MigrationStep::Copying));
        let (frame, before, after) = moving(&copying);
        let ids = [Uuid::from_u128(frame)];
        let part = |shard, ids: &[Uuid], taken_over_from: &[ShardId], constraint| RemovalPart {
            shard,
            ids: ids.to_vec(),
            taken_over_from: taken_over_from.to_vec(),
            constraint,
        };
        let by_id = Selected::Ids(&ids);
        assert_eq!(copying.first_parts(by_id), [part(before, &ids, &[], RouteConstraint::Before)]);
        let mut leftover = Leftover { moved: ids.to_vec(), ..Leftover::default() };
        assert_eq!(copying.second_parts(by_id, &mut leftover), [part(after, &ids, &[], RouteConstraint::After)]);
        assert!(leftover.moved.is_empty());

        let sources = copying.before_migration().unwrap().shards().to_vec();
        let first: Vec<_> = sources.iter().map(|&source| part(source, &[], &[], RouteConstraint::Whole)).collect();
        assert_eq!(copying.first_parts(Selected::Found), first);
        let mut leftover = Leftover::default();
        for source in [sources[1], sources[0], sources[1]] {
            leftover.add(Leftover { moved: vec![], frozen_for: BTreeMap::from([(after, vec![source])]) });
        }
        let mut both = sources;
        both.sort_unstable();
        let second = copying.second_parts(Selected::Found, &mut leftover);
        assert_eq!(second, [part(after, &[], &both, RouteConstraint::After)]);
    }

    #[test]
    fn what_moved_by_a_migration_that_the_map_does_not_tell_of_is_left() {
        let ids = [Uuid::from_u128(9)];
        let mut leftover = Leftover { moved: ids.to_vec(), ..Leftover::default() };
        assert!(route(None).second_parts(Selected::Ids(&ids), &mut leftover).is_empty());
        assert_eq!(leftover.moved, ids);
    }
}
