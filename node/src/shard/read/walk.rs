//! Walking over the keys or the frames of a collection until enough are found: for filters and for `forget`.

use std::ops::{Bound, ControlFlow};

use mira_index::{Attributes, Condition, Times};
use mira_proto::{CollectionId, FrameId, Refusal, limits};
use mira_raft::{EngineError, StateReader};

use crate::{
    meta::CollectionRecord,
    shard::{
        Shard,
        history::{self, History, PastHead},
        record::{self, Class, FrameHead, FrameRecord, Table},
    },
};

impl<R: mira_raft::Runtime> Shard<R> {
    /// The next frames of a collection that meet a condition, and where to go on if not all were looked at.
    pub(in crate::shard) fn matching_frames(
        &self,
        view: &StateReader,
        collection: &CollectionRecord,
        condition: &Condition,
        after: Option<FrameId>,
    ) -> Result<(Vec<FrameId>, Option<FrameId>), Refusal> {
        let (mut matching, mut looked_at, mut last) = (Vec::new(), 0, None);
        let is_full = |matching: &Vec<FrameId>, looked_at| {
            matching.len() == limits::MAX_FORGET_STEP || looked_at == limits::MAX_FILTER_STEP
        };
        self.walk_plain(view, collection, after, &mut |frame, read| {
            looked_at += 1;
            last = Some(frame);
            if read.is_some_and(|(attributes, times)| condition.matches(&attributes, &times)) {
                matching.push(frame);
            }
            !is_full(&matching, looked_at)
        })?;
        let last = last.filter(|_| is_full(&matching, looked_at));
        Ok((matching, last))
    }

    /// Opens frames in order of their ids until `visit` has had enough; it gets `None` for those that nobody but their
    /// owner can read, and for what is hidden.
    pub(super) fn walk_plain(
        &self,
        view: &StateReader,
        collection: &CollectionRecord,
        after: Option<FrameId>,
        visit: &mut dyn FnMut(FrameId, Option<(Attributes, Times)>) -> bool,
    ) -> Result<(), Refusal> {
        let prefix = record::collection_prefix(record::Table::Records, collection.id);
        let from = after.map(|frame| record::frame_key(collection.id, frame));
        let from = from.as_ref().map_or(Bound::Included(&prefix[..]), |key| Bound::Excluded(&key[..]));
        let end = record::frame_key(collection.id, FrameId::MAX);
        let mut failed = None;
        let mut look = |key: &[u8], stored: &[u8]| {
            let Some((_, frame)) = record::parse_pair_key(key) else { return ControlFlow::Continue(()) };
            let record = FrameRecord::decode(stored).map_err(|error| self.unreadable(error));
            match record.and_then(|record| self.read_plain(collection, frame, &record)).map(|read| visit(frame, read)) {
                Ok(true) => ControlFlow::Continue(()),
                Ok(false) => ControlFlow::Break(()),
                Err(refusal) => {
                    failed = Some(refusal);
                    ControlFlow::Break(())
                }
            }
        };
        view.scan(from, Bound::Included(&end), false, &mut look).map_err(|error| self.unreadable(error))?;
        failed.map_or(Ok(()), Err)
    }

    /// What a filter compares of a frame; `None` of one that nobody but its owner can read, and of what is hidden.
    pub(in crate::shard) fn read_plain(
        &self,
        collection: &CollectionRecord,
        frame: FrameId,
        record: &FrameRecord,
    ) -> Result<Option<(Attributes, Times)>, Refusal> {
        // What a private frame says, its owner alone can compare; what is hidden, nobody means.
        if record.fields.owner.is_some() || record.fields.class != Class::Memory {
            return Ok(None);
        }
        let times = Times { created_ms: record.fields.created_ms, expires_ms: record.fields.expires_ms };
        Ok(Some((self.open_body(collection, frame, record)?.attributes(), times)))
    }

    /// The next frames in the bin of a collection that are wanted, in order of their ids, and where to go on if not all were
    /// looked at.
    pub(in crate::shard) fn walk_bin(
        &self,
        view: &StateReader,
        collection: CollectionId,
        after: Option<FrameId>,
        wanted: &mut dyn FnMut(FrameId, &FrameRecord) -> Result<bool, Refusal>,
    ) -> Result<(Vec<FrameId>, Option<FrameId>), Refusal> {
        let Binned { frames: binned, upto } =
            list_binned(view, collection, after).map_err(|error| self.unreadable(error))?;
        let mut frames = Vec::new();
        for (frame, head) in binned {
            let version = history::read_version(view, collection, (frame, &head));
            if wanted(frame, &version.map_err(|error| self.unreadable(error))?.record)? {
                frames.push(frame);
            }
        }
        Ok((frames, upto))
    }
}

/// Frames that rest in the bin.
#[derive(Default)]
struct Binned {
    /// Each with what is known of the version that rests there.
    frames: Vec<(FrameId, PastHead)>,
    /// The last frame looked at, if there may be more.
    upto: Option<FrameId>,
}

fn list_binned(view: &StateReader, collection: CollectionId, after: Option<FrameId>) -> Result<Binned, EngineError> {
    let prefix = record::collection_prefix(Table::Histories, collection);
    let from = after.map(|frame| history::history_key(collection, frame));
    let from = from.as_ref().map_or(Bound::Included(&prefix[..]), |key| Bound::Excluded(&key[..]));
    let end = history::history_key(collection, FrameId::MAX);
    let (mut binned, mut looked_at, mut failed) = (Binned::default(), 0, None);
    view.scan(from, Bound::Included(&end), false, &mut |key, stored| {
        let Some((_, frame)) = record::parse_pair_key(key) else { return ControlFlow::Continue(()) };
        match History::decode(stored) {
            Ok(history) => binned.frames.extend(history.binned().map(|head| (frame, *head))),
            Err(error) => failed = Some(error),
        }
        looked_at += 1;
        if looked_at == limits::MAX_FILTER_STEP || binned.frames.len() == limits::MAX_FORGET_STEP {
            binned.upto = Some(frame);
        }
        if failed.is_some() || binned.upto.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    failed.map_or(Ok(binned), Err)
}

/// The keyed tag of a session in a collection.
pub(in crate::shard) struct SessionOf {
    pub(in crate::shard) collection: CollectionId,
    pub(in crate::shard) tag: [u8; 16],
}

/// The first `limit` of those frames of a session that are wanted, oldest first.
pub(in crate::shard) fn frames_of_session(
    view: &StateReader,
    session: &SessionOf,
    limit: usize,
    wanted: impl Fn(FrameId) -> bool,
) -> Result<Vec<FrameId>, EngineError> {
    let mut found = Collected::new(limit);
    view.scan_prefix(&record::session_prefix(session.collection, &session.tag), false, &mut |key, _| {
        found.add(Ok(record::parse_session_key(key).filter(|&frame| wanted(frame))))
    })?;
    found.into_frames()
}

/// The frames of a collection behind one of them.
pub(in crate::shard) struct FramesAfter {
    pub(in crate::shard) collection: CollectionId,
    pub(in crate::shard) after: Option<FrameId>,
}

/// The first `limit` of those frames of a collection that are wanted, by id.
pub(in crate::shard) fn frames_of_collection(
    view: &StateReader,
    &FramesAfter { collection, after }: &FramesAfter,
    limit: usize,
    wanted: impl Fn(FrameId) -> bool,
) -> Result<Vec<FrameId>, EngineError> {
    let prefix = record::collection_prefix(Table::Heads, collection);
    let from = after.map(|frame| record::head_key(collection, frame));
    let from = from.as_ref().map_or(Bound::Included(&prefix[..]), |key| Bound::Excluded(&key[..]));
    let end = record::head_key(collection, FrameId::MAX);
    let mut found = Collected::new(limit);
    view.scan(from, Bound::Included(&end), false, &mut |key, head| {
        found.add(FrameHead::decode(head).map(|head| {
            let is_memory = head.class == Class::Memory;
            record::parse_pair_key(key).map(|(_, frame)| frame).filter(|&frame| is_memory && wanted(frame))
        }))
    })?;
    found.into_frames()
}

/// Frames that a scan has found, up to a number.
struct Collected {
    frames: Vec<FrameId>,
    limit: usize,
    failed: Option<EngineError>,
}

impl Collected {
    fn new(limit: usize) -> Self {
        Collected { frames: Vec::new(), limit, failed: None }
    }

    fn add(&mut self, found: Result<Option<FrameId>, EngineError>) -> ControlFlow<()> {
        match found {
            Ok(frame) => self.frames.extend(frame),
            Err(error) => self.failed = Some(error),
        }
        let is_over = self.failed.is_some() || self.frames.len() == self.limit;
        if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn into_frames(self) -> Result<Vec<FrameId>, EngineError> {
        self.failed.map_or(Ok(self.frames), Err)
    }
}
