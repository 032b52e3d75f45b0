//! Which frames of a growing collection a shard may hold, write and show.
//!
//! While a collection grows from one number of partitions to a greater one, some of its frames move from *sources*, the
//! shards that hold it already, to *targets*, the shards that are added (a hash ring that grows moves nothing else). At every
//! moment one shard decides about a frame:
//!
//! 1. the source, until a command in its log *freezes* the frames of a target: from there it refuses to change them;
//! 2. nobody, while the target is brought up to what the source held at that command;
//! 3. the target, from the command in its log that *opens* the frames of that source.
//!
//! When every target has opened what is its own, the source is *finalized*: what moved may be removed there.
//!
//! A [`Ownership`] is a shard's record of that, kept in its replicated state and changed by its log alone, so that every
//! replica judges every command alike, whatever it has heard of the cluster. It stays when the growth is over: a router
//! with an old map must not store a frame where nobody will look for it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use mira_proto::{
    CollectionId, FrameId, ShardId, limits,
    placement::{Partitioning, shards_of_collection},
};
use mira_raft::EngineError;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::shard::record;

const VERSION: u8 = 1;
/// Growths whose hash rings are kept; they are sorted anew when asked for after that.
const MAX_RINGS: usize = 64;

/// From how many partitions to how many, in a cluster of how many shards: all that the placement of frames follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// Partitions before.
    pub from: u32,
    /// Partitions after.
    pub to: u32,
    /// Shards of the cluster.
    pub shards: u32,
}

impl Span {
    /// Whether a collection of some cluster can grow so.
    pub fn is_possible(self) -> bool {
        let Span { from, to, shards } = self;
        1 <= from && from <= to && to <= shards && shards <= limits::MAX_SHARDS
    }
}

/// How far a target has come with the frames of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backfill {
    /// Which pass over the source's frames this is, from 1.
    pub pass: u32,
    /// The source's log position that the pass began at: what it brings is at least as new.
    pub start: u64,
    /// Everything that changed up to this log position of the source was brought by earlier passes.
    pub since: u64,
    /// Whether the source has frozen the frames, so that this pass brings all there will ever be.
    pub last: bool,
    /// Frames that this pass has brought.
    pub brought: u64,
    /// Where the pass is.
    pub at: Progress,
}

/// Where a pass is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// Everything up to this frame has been compared; nothing yet if there is none.
    Running(Option<FrameId>),
    /// It is done.
    Complete,
    /// The last one is done: the frames are the target's.
    Open,
}

/// A shard's part in the last growth of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    /// The shard.
    pub shard: ShardId,
    /// The growth.
    pub span: Span,
    /// A reader's map must be at least this new: an older one does not know where to look besides.
    pub min_epoch: u64,
    /// Of a source: the targets whose frames it has frozen, each with the log position it did so at.
    pub frozen: BTreeMap<ShardId, u64>,
    /// Of a source: every target has what it is to have, and what moved may be removed here.
    pub finalized: bool,
    /// Of a target: how far it has come, by source.
    pub backfills: BTreeMap<ShardId, Backfill>,
}

/// What a shard is to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameOwnership {
    /// It decides about the frame.
    Owned,
    /// It does not any more, or never did.
    MovedAway,
    /// It will, once the frame's source has handed it over.
    Pending,
}

impl Ownership {
    /// Of a shard that has done nothing for this growth yet.
    pub fn new(shard: ShardId, span: Span) -> Self {
        Ownership { shard, span, min_epoch: 0, frozen: BTreeMap::new(), finalized: false, backfills: BTreeMap::new() }
    }

    /// Key of a collection's ownership in a shard's state.
    pub fn key(collection: CollectionId) -> [u8; 9] {
        record::collection_prefix(record::Table::Ownership, collection)
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("an ownership is plain data")
    }

    /// Reads the stored form.
    pub fn decode(stored: &[u8]) -> Result<Self, EngineError> {
        match stored.split_first() {
            Some((&VERSION, rest)) => {
                postcard::from_bytes(rest).map_err(|error| EngineError::Damaged(format!("ownership: {error}")))
            }
            _ => Err(EngineError::Damaged("ownership of unknown version".into())),
        }
    }

    /// What this shard is to a frame.
    pub fn of_frame(&self, placement: &FramePlacement, frame: FrameId) -> FrameOwnership {
        let (source, home) = placement.of(frame);
        if source == self.shard {
            let kept = home == self.shard || !self.finalized && !self.frozen.contains_key(&home);
            return if kept { FrameOwnership::Owned } else { FrameOwnership::MovedAway };
        }
        match (home == self.shard, self.is_open(source)) {
            (true, true) => FrameOwnership::Owned,
            (true, false) => FrameOwnership::Pending,
            (false, _) => FrameOwnership::MovedAway,
        }
    }

    /// Whether it knows that the collection has grown to so many partitions, and as a target has opened all that is its own.
    pub fn has_grown_to(&self, placement: &FramePlacement, partitions: u32) -> bool {
        let sources = placement.sources();
        self.span.to >= partitions
            && (sources.contains(&self.shard) || sources.iter().all(|&source| self.is_open(source)))
    }

    /// Of a target: whether the frames of a source are its own.
    pub fn is_open(&self, source: ShardId) -> bool {
        self.backfills.get(&source).is_some_and(|backfill| backfill.at == Progress::Open)
    }

    /// Of a target: the sources whose frames are its own.
    pub fn open(&self) -> BTreeSet<ShardId> {
        self.backfills.keys().copied().filter(|&source| self.is_open(source)).collect()
    }
}

/// Where the frames of a growing collection were, and where they will be.
pub struct FramePlacement {
    from: Partitioning,
    to: Partitioning,
}

impl FramePlacement {
    /// Of a collection and its growth.
    pub fn new(collection: CollectionId, span: Span) -> Self {
        let placement = |partitions| Partitioning::new(shards_of_collection(collection, partitions, span.shards));
        FramePlacement { from: placement(span.from), to: placement(span.to) }
    }

    /// The frame's shard before the growth and after it.
    pub fn of(&self, frame: FrameId) -> (ShardId, ShardId) {
        (self.from.shard_of(frame), self.to.shard_of(frame))
    }

    /// The shards that held the collection before.
    pub fn sources(&self) -> &[ShardId] {
        self.from.shards()
    }

    /// The shards that are added.
    pub fn targets(&self) -> &[ShardId] {
        &self.to.shards()[self.from.shards().len()..]
    }
}

impl std::fmt::Debug for FramePlacement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "from {:?} to {:?}", self.from.shards(), self.to.shards())
    }
}

/// FramePlacement that were asked for lately: making them sorts a hash ring, and every command of a grown collection asks.
#[derive(Default)]
pub struct PlacementCache(Mutex<HashMap<(CollectionId, Span), Arc<FramePlacement>>>);

impl PlacementCache {
    /// Those of a collection and its growth.
    pub fn get(&self, collection: CollectionId, span: Span) -> Arc<FramePlacement> {
        let mut known = self.0.lock();
        if known.len() >= MAX_RINGS && !known.contains_key(&(collection, span)) {
            known.clear();
        }
        known.entry((collection, span)).or_insert_with(|| Arc::new(FramePlacement::new(collection, span))).clone()
    }
}

/// What a read shows of a collection's frames in a shard.
#[derive(Debug, Clone)]
pub struct Shown(Option<Arc<Filter>>);

#[derive(Debug)]
struct Filter {
    placement: Arc<FramePlacement>,
    shard: ShardId,
    /// Of a target: the sources whose frames it shows.
    open: BTreeSet<ShardId>,
    /// Of a source: the targets whose frames it does not show.
    without: BTreeSet<ShardId>,
}

impl Shown {
    /// Every frame.
    pub fn all() -> Self {
        Shown(None)
    }

    /// Of a target: the frames of these sources.
    pub fn of_target(placement: Arc<FramePlacement>, shard: ShardId, open: BTreeSet<ShardId>) -> Self {
        if placement.sources().iter().all(|source| open.contains(source)) {
            return Shown::all();
        }
        Shown(Some(Arc::new(Filter { placement, shard, open, without: BTreeSet::new() })))
    }

    /// Of a source: all but the frames of these targets.
    pub fn of_source(placement: Arc<FramePlacement>, shard: ShardId, without: BTreeSet<ShardId>) -> Self {
        if without.is_empty() {
            return Shown::all();
        }
        Shown(Some(Arc::new(Filter { placement, shard, open: BTreeSet::new(), without })))
    }

    /// Whether it shows every frame.
    pub fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Whether it shows none at all.
    pub fn is_none(&self) -> bool {
        self.0.as_ref().is_some_and(|filter| filter.open.is_empty() && filter.without.is_empty())
    }

    /// Whether it shows a frame.
    pub fn shows(&self, frame: FrameId) -> bool {
        let Some(filter) = &self.0 else { return true };
        let (source, home) = filter.placement.of(frame);
        if source == filter.shard { !filter.without.contains(&home) } else { filter.open.contains(&source) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = Span { from: 2, to: 5, shards: 16 };
    const COLLECTION: CollectionId = 9;

    fn frames() -> impl Iterator<Item = FrameId> {
        (1..2_000u128).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
    }

    #[test]
    fn frames_move_from_sources_to_targets_only() {
        let placement = FramePlacement::new(COLLECTION, SPAN);
        assert_eq!((placement.sources().len(), placement.targets().len()), (2, 3));
        let moved = frames().filter(|&frame| {
            let (source, home) = placement.of(frame);
            assert!(placement.sources().contains(&source));
            assert!(home == source || placement.targets().contains(&home));
            home != source
        });
        let moved = moved.count();
        assert!((900..1_500).contains(&moved), "{moved} of 2,000");
    }

    /// However source and target are on their way, at most one of them owns a frame; and exactly one when the source has
    /// not frozen it, or the target has opened it.
    #[test]
    fn a_frame_has_one_owner_at_every_moment() {
        let placement = FramePlacement::new(COLLECTION, SPAN);
        let steps = [Progress::Running(None), Progress::Complete, Progress::Open];
        for frame in frames().take(200) {
            let (source, home) = placement.of(frame);
            let mut of_source = Ownership::new(source, SPAN);
            assert_eq!(of_source.of_frame(&placement, frame), FrameOwnership::Owned);
            if home == source {
                of_source.frozen.extend(placement.targets().iter().map(|&target| (target, 5)));
                of_source.finalized = true;
                assert_eq!(of_source.of_frame(&placement, frame), FrameOwnership::Owned, "it never moves");
                continue;
            }
            let mut of_target = Ownership::new(home, SPAN);
            assert_eq!(of_target.of_frame(&placement, frame), FrameOwnership::Pending);
            of_source.frozen.insert(home, 5);
            assert_eq!(of_source.of_frame(&placement, frame), FrameOwnership::MovedAway);
            for at in steps {
                let backfill = Backfill { pass: 2, start: 5, since: 3, last: true, brought: 0, at };
                of_target.backfills.insert(source, backfill);
                let expected = if at == Progress::Open { FrameOwnership::Owned } else { FrameOwnership::Pending };
                assert_eq!(of_target.of_frame(&placement, frame), expected);
            }
            of_source.finalized = true;
            assert_eq!(of_source.of_frame(&placement, frame), FrameOwnership::MovedAway);
            let stranger = placement.targets().iter().copied().find(|&target| target != home).expect("there are three");
            assert_eq!(Ownership::new(stranger, SPAN).of_frame(&placement, frame), FrameOwnership::MovedAway);
        }
    }

    #[test]
    fn a_replica_that_has_not_heard_of_a_growth_knows_that_it_has_not() {
        let placement = FramePlacement::new(COLLECTION, SPAN);
        let source = Ownership::new(placement.sources()[1], SPAN);
        assert!(source.has_grown_to(&placement, SPAN.to) && source.has_grown_to(&placement, SPAN.from));
        assert!(!source.has_grown_to(&placement, SPAN.to + 1), "of a later one");
        let mut target = Ownership::new(placement.targets()[0], SPAN);
        let open = Backfill { pass: 2, start: 5, since: 3, last: true, brought: 0, at: Progress::Open };
        for &source in placement.sources() {
            assert!(!target.has_grown_to(&placement, SPAN.to), "{target:?}");
            target.backfills.insert(source, open);
        }
        assert!(target.has_grown_to(&placement, SPAN.to) && !target.has_grown_to(&placement, SPAN.to + 1));
    }

    #[test]
    fn what_a_target_shows_a_source_leaves_out() {
        let placement = Arc::new(FramePlacement::new(COLLECTION, SPAN));
        let target = placement.targets()[1];
        let source = placement.sources()[0];
        for open in [BTreeSet::new(), [source].into(), placement.sources().iter().copied().collect::<BTreeSet<_>>()] {
            let of_target = Shown::of_target(placement.clone(), target, open.clone());
            let without = if open.contains(&source) { [target].into() } else { BTreeSet::new() };
            let of_source = Shown::of_source(placement.clone(), source, without);
            assert_eq!(of_target.is_none(), open.is_empty());
            for frame in frames().filter(|&frame| placement.of(frame) == (source, target)) {
                assert_ne!(of_target.shows(frame), of_source.shows(frame), "{open:?}");
            }
            assert!(
                frames().filter(|&frame| placement.of(frame) == (source, source)).all(|frame| of_source.shows(frame))
            );
        }
    }

    #[test]
    fn an_ownership_survives_its_stored_form_and_a_damaged_one_is_told() {
        let mut ownership = Ownership::new(3, SPAN);
        ownership.frozen.insert(5, 77);
        let at = Progress::Running(Some(12));
        ownership.backfills.insert(1, Backfill { pass: 1, start: 8, since: 0, last: false, brought: 4, at });
        let stored = ownership.encode();
        assert_eq!(Ownership::decode(&stored).expect("readable"), ownership);
        assert!(Ownership::decode(&stored[..stored.len() - 1]).is_err());
        assert!(Ownership::decode(&[9, 9]).is_err() && Ownership::decode(&[]).is_err());
    }
}
