//! Which frames of a growing collection a shard may hold, write and show.
//!
//! While a collection grows from one number of partitions to a greater one, some of its frames move from *sources*, the
//! shards that hold it already, to *heirs*, the shards that are added (a hash ring that grows moves nothing else). At every
//! moment one shard decides about a frame:
//!
//! 1. the source, until a command in its log *releases* the frames of an heir: from there it refuses to change them;
//! 2. nobody, while the heir is brought up to what the source held at that command;
//! 3. the heir, from the command in its log that *opens* the frames of that source.
//!
//! A [`Tenure`] is a shard's record of that, kept in its replicated state and changed by its log alone, so that every
//! replica judges every command alike, whatever it has heard of the cluster. It stays when the growth is over: a router
//! with an old map must not store a frame where nobody will look for it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use mira_proto::{
    CollectionId, FrameId, ShardId,
    placement::{Partitioning, shards_of_collection},
};
use mira_raft::EngineError;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::shard::record;

const VERSION: u8 = 1;
/// Growths whose hash rings are kept; they are sorted anew when asked for after that.
const MAX_RINGS: usize = 64;

/// From how many partitions to how many, in a cluster of how many shards: all that the homes of frames follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// Partitions before.
    pub from: u32,
    /// Partitions after.
    pub to: u32,
    /// Shards of the cluster.
    pub shards: u32,
}

/// How far an heir has come with the frames of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// Which pass over the source's frames this is, from 1.
    pub pass: u32,
    /// The source's log position that the pass began at: what it brings is at least as new.
    pub start: u64,
    /// Everything that changed up to this log position of the source was brought by earlier passes.
    pub since: u64,
    /// Whether the source has released the frames, so that this pass brings all there will ever be.
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
    /// The last one is done: the frames are the heir's.
    Open,
}

/// A shard's part in the last growth of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenure {
    /// The shard.
    pub shard: ShardId,
    /// The growth.
    pub span: Span,
    /// A reader's map must be at least this new: an older one does not know where to look besides.
    pub min_epoch: u64,
    /// Of a source: the heirs to which it has released frames, each with the log position it did so at.
    pub released: BTreeMap<ShardId, u64>,
    /// Of a source: every heir has what it is to have, and what moved may be removed here.
    pub settled: bool,
    /// Of an heir: how far it has come, by source.
    pub adopting: BTreeMap<ShardId, Adoption>,
}

/// What a shard is to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It decides about the frame.
    Mine,
    /// It does not any more, or never did.
    Moved,
    /// It will, once the frame's source has handed it over.
    NotYet,
}

impl Tenure {
    /// Of a shard that has done nothing for this growth yet.
    pub fn new(shard: ShardId, span: Span) -> Self {
        Tenure { shard, span, min_epoch: 0, released: BTreeMap::new(), settled: false, adopting: BTreeMap::new() }
    }

    /// Key of a collection's tenure in a shard's state.
    pub fn key(collection: CollectionId) -> [u8; 9] {
        record::collection_prefix(b'g', collection)
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("a tenure is plain data")
    }

    /// Reads the stored form.
    pub fn decode(stored: &[u8]) -> Result<Self, EngineError> {
        match stored.split_first() {
            Some((&VERSION, rest)) => {
                postcard::from_bytes(rest).map_err(|error| EngineError::Damaged(format!("tenure: {error}")))
            }
            _ => Err(EngineError::Damaged("tenure of unknown version".into())),
        }
    }

    /// What this shard is to a frame.
    pub fn claim(&self, homes: &Homes, frame: FrameId) -> Claim {
        let (source, home) = homes.of(frame);
        if source == self.shard {
            let kept = home == self.shard || !self.settled && !self.released.contains_key(&home);
            return if kept { Claim::Mine } else { Claim::Moved };
        }
        match (home == self.shard, self.is_open(source)) {
            (true, true) => Claim::Mine,
            (true, false) => Claim::NotYet,
            (false, _) => Claim::Moved,
        }
    }

    /// Whether it knows that the collection has grown to so many partitions, and as an heir has opened all that is its own.
    pub fn has_grown_to(&self, homes: &Homes, partitions: u32) -> bool {
        let sources = homes.sources();
        self.span.to >= partitions
            && (sources.contains(&self.shard) || sources.iter().all(|&source| self.is_open(source)))
    }

    /// Of an heir: whether the frames of a source are its own.
    pub fn is_open(&self, source: ShardId) -> bool {
        self.adopting.get(&source).is_some_and(|adoption| adoption.at == Progress::Open)
    }

    /// Of an heir: the sources whose frames are its own.
    pub fn open(&self) -> BTreeSet<ShardId> {
        self.adopting.keys().copied().filter(|&source| self.is_open(source)).collect()
    }
}

/// Where the frames of a growing collection were, and where they will be.
pub struct Homes {
    from: Partitioning,
    to: Partitioning,
}

impl Homes {
    /// Of a collection and its growth.
    pub fn new(collection: CollectionId, span: Span) -> Self {
        let homes = |partitions| Partitioning::new(shards_of_collection(collection, partitions, span.shards));
        Homes { from: homes(span.from), to: homes(span.to) }
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
    pub fn heirs(&self) -> &[ShardId] {
        &self.to.shards()[self.from.shards().len()..]
    }
}

impl std::fmt::Debug for Homes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "from {:?} to {:?}", self.from.shards(), self.to.shards())
    }
}

/// Homes that were asked for lately: making them sorts a hash ring, and every command of a grown collection asks.
#[derive(Default)]
pub struct HomesCache(Mutex<HashMap<(CollectionId, Span), Arc<Homes>>>);

impl HomesCache {
    /// Those of a collection and its growth.
    pub fn get(&self, collection: CollectionId, span: Span) -> Arc<Homes> {
        let mut known = self.0.lock();
        if known.len() >= MAX_RINGS && !known.contains_key(&(collection, span)) {
            known.clear();
        }
        known.entry((collection, span)).or_insert_with(|| Arc::new(Homes::new(collection, span))).clone()
    }
}

/// What a read shows of a collection's frames in a shard.
#[derive(Debug, Clone)]
pub struct Shown(Option<Arc<Filter>>);

#[derive(Debug)]
struct Filter {
    homes: Arc<Homes>,
    shard: ShardId,
    /// Of an heir: the sources whose frames it shows.
    open: BTreeSet<ShardId>,
    /// Of a source: the heirs whose frames it does not show.
    without: BTreeSet<ShardId>,
}

impl Shown {
    /// Every frame.
    pub fn all() -> Self {
        Shown(None)
    }

    /// Of an heir: the frames of these sources.
    pub fn of_heir(homes: Arc<Homes>, shard: ShardId, open: BTreeSet<ShardId>) -> Self {
        match homes.sources().iter().all(|source| open.contains(source)) {
            true => Shown::all(),
            false => Shown(Some(Arc::new(Filter { homes, shard, open, without: BTreeSet::new() }))),
        }
    }

    /// Of a source: all but the frames of these heirs.
    pub fn of_source(homes: Arc<Homes>, shard: ShardId, without: BTreeSet<ShardId>) -> Self {
        match without.is_empty() {
            true => Shown::all(),
            false => Shown(Some(Arc::new(Filter { homes, shard, open: BTreeSet::new(), without }))),
        }
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
        let (source, home) = filter.homes.of(frame);
        match source == filter.shard {
            true => !filter.without.contains(&home),
            false => filter.open.contains(&source),
        }
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
    fn frames_move_from_sources_to_heirs_only() {
        let homes = Homes::new(COLLECTION, SPAN);
        assert_eq!((homes.sources().len(), homes.heirs().len()), (2, 3));
        let moved = frames().filter(|&frame| {
            let (source, home) = homes.of(frame);
            assert!(homes.sources().contains(&source));
            assert!(home == source || homes.heirs().contains(&home));
            home != source
        });
        let moved = moved.count();
        assert!((900..1_500).contains(&moved), "{moved} of 2,000");
    }

    /// However source and heir are on their way, at most one of them claims a frame; and exactly one when the source has
    /// not released it, or the heir has opened it.
    #[test]
    fn a_frame_has_one_owner_at_every_moment() {
        let homes = Homes::new(COLLECTION, SPAN);
        let steps = [Progress::Running(None), Progress::Complete, Progress::Open];
        for frame in frames().take(200) {
            let (source, home) = homes.of(frame);
            let mut of_source = Tenure::new(source, SPAN);
            assert_eq!(of_source.claim(&homes, frame), Claim::Mine);
            if home == source {
                of_source.released.extend(homes.heirs().iter().map(|&heir| (heir, 5)));
                of_source.settled = true;
                assert_eq!(of_source.claim(&homes, frame), Claim::Mine, "it never moves");
                continue;
            }
            let mut of_heir = Tenure::new(home, SPAN);
            assert_eq!(of_heir.claim(&homes, frame), Claim::NotYet);
            of_source.released.insert(home, 5);
            assert_eq!(of_source.claim(&homes, frame), Claim::Moved);
            for at in steps {
                let adoption = Adoption { pass: 2, start: 5, since: 3, last: true, brought: 0, at };
                of_heir.adopting.insert(source, adoption);
                let expected = if at == Progress::Open { Claim::Mine } else { Claim::NotYet };
                assert_eq!(of_heir.claim(&homes, frame), expected);
            }
            of_source.settled = true;
            assert_eq!(of_source.claim(&homes, frame), Claim::Moved);
            let stranger = homes.heirs().iter().copied().find(|&heir| heir != home).expect("there are three");
            assert_eq!(Tenure::new(stranger, SPAN).claim(&homes, frame), Claim::Moved);
        }
    }

    #[test]
    fn a_replica_that_has_not_heard_of_a_growth_knows_that_it_has_not() {
        let homes = Homes::new(COLLECTION, SPAN);
        let source = Tenure::new(homes.sources()[1], SPAN);
        assert!(source.has_grown_to(&homes, SPAN.to) && source.has_grown_to(&homes, SPAN.from));
        assert!(!source.has_grown_to(&homes, SPAN.to + 1), "of a later one");
        let mut heir = Tenure::new(homes.heirs()[0], SPAN);
        let open = Adoption { pass: 2, start: 5, since: 3, last: true, brought: 0, at: Progress::Open };
        for &source in homes.sources() {
            assert!(!heir.has_grown_to(&homes, SPAN.to), "{heir:?}");
            heir.adopting.insert(source, open);
        }
        assert!(heir.has_grown_to(&homes, SPAN.to) && !heir.has_grown_to(&homes, SPAN.to + 1));
    }

    #[test]
    fn what_an_heir_shows_a_source_leaves_out() {
        let homes = Arc::new(Homes::new(COLLECTION, SPAN));
        let heir = homes.heirs()[1];
        let source = homes.sources()[0];
        for open in [BTreeSet::new(), [source].into(), homes.sources().iter().copied().collect::<BTreeSet<_>>()] {
            let of_heir = Shown::of_heir(homes.clone(), heir, open.clone());
            let without = if open.contains(&source) { [heir].into() } else { BTreeSet::new() };
            let of_source = Shown::of_source(homes.clone(), source, without);
            assert_eq!(of_heir.is_none(), open.is_empty());
            for frame in frames().filter(|&frame| homes.of(frame) == (source, heir)) {
                assert_ne!(of_heir.shows(frame), of_source.shows(frame), "{open:?}");
            }
            assert!(frames().filter(|&frame| homes.of(frame) == (source, source)).all(|frame| of_source.shows(frame)));
        }
    }

    #[test]
    fn a_tenure_survives_its_stored_form_and_a_damaged_one_is_told() {
        let mut tenure = Tenure::new(3, SPAN);
        tenure.released.insert(5, 77);
        let at = Progress::Running(Some(12));
        tenure.adopting.insert(1, Adoption { pass: 1, start: 8, since: 0, last: false, brought: 4, at });
        let stored = tenure.encode();
        assert_eq!(Tenure::decode(&stored).expect("readable"), tenure);
        assert!(Tenure::decode(&stored[..stored.len() - 1]).is_err());
        assert!(Tenure::decode(&[9, 9]).is_err() && Tenure::decode(&[]).is_err());
    }
}
