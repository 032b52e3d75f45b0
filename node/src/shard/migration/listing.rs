//! Which frames of a growing collection a shard has to send, to drop or to clear away: bounded walks over their heads.

use std::{collections::BTreeSet, ops::Bound, ops::ControlFlow};

use mira_proto::{CollectionId, FrameId, ShardId, limits};
use mira_raft::{EngineError, StateReader};

use super::ownership::{FrameOwnership, FramePlacement, Ownership};
use crate::shard::record::{self, FrameHead};

/// The heads of a growing collection's frames in a shard, and where the frames were and will be.
pub struct MovingFrames<'a> {
    /// The shard's state.
    pub reader: &'a StateReader,
    /// The collection.
    pub collection: CollectionId,
    /// Where its frames are and will be.
    pub placement: &'a FramePlacement,
}

/// What a page of a pass is to hold.
#[derive(Debug, Clone, Copy)]
pub struct PageWanted {
    /// Where its frames move.
    pub target: ShardId,
    /// How many frames at most.
    pub most: usize,
    /// It begins behind this frame.
    pub after: Option<FrameId>,
    /// Only what changed after this log position is sent.
    pub since: u64,
}

/// Frames of a source that move to one target, in order of their ids.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// All of them in the range that was looked at.
    pub ids: Vec<FrameId>,
    /// Those that changed since; of them, the bodies are sent.
    pub changed: Vec<FrameId>,
    /// The last frame looked at; none when there are no more.
    pub upto: Option<FrameId>,
}

/// Frames that have moved away.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// At most [`limits::MAX_FORGET_STEP`] of them.
    pub frames: Vec<FrameId>,
    /// The last frame looked at, if there may be more.
    pub upto: Option<FrameId>,
}

impl MovingFrames<'_> {
    /// The frames of a source that move to a target, and which of them changed, until there are enough of the latter or
    /// enough heads were looked at.
    pub fn list_page(&self, wanted: &PageWanted) -> Result<Listed, EngineError> {
        let (mut listed, mut looked, mut failed) = (Listed::default(), 0, None);
        self.walk(wanted.after, FrameId::MAX, &mut |frame, head| {
            if looked == limits::GROWTH_PAGE_HEADS || listed.changed.len() == wanted.most {
                return ControlFlow::Break(());
            }
            match FrameHead::decode(head) {
                Ok(head) if self.placement.of(frame).1 == wanted.target => {
                    listed.ids.push(frame);
                    if head.changed > wanted.since {
                        listed.changed.push(frame);
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            }
            looked += 1;
            listed.upto = Some(frame);
            ControlFlow::Continue(())
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        // Fewer than would have ended the page: there are no more.
        if looked < limits::GROWTH_PAGE_HEADS && listed.changed.len() < wanted.most {
            listed.upto = None;
        }
        Ok(listed)
    }

    /// The frames that a target has from `source` in the range of a page, and the source does not have any more.
    pub fn list_gone(
        &self,
        source: ShardId,
        after: Option<FrameId>,
        page: &Listed,
    ) -> Result<Vec<FrameId>, EngineError> {
        let there: BTreeSet<FrameId> = page.ids.iter().copied().collect();
        let mut gone = Vec::new();
        self.walk(after, page.upto.unwrap_or(FrameId::MAX), &mut |frame, _| {
            if self.placement.of(frame).0 == source && !there.contains(&frame) {
                gone.push(frame);
            }
            ControlFlow::Continue(())
        })?;
        Ok(gone)
    }

    /// The next frames behind `after` that have moved away from a source, by what it knows of its part.
    pub fn list_moved(&self, ownership: &Ownership, after: Option<FrameId>) -> Result<Moved, EngineError> {
        let (mut moved, mut looked) = (Moved::default(), 0);
        self.walk(after, FrameId::MAX, &mut |frame, _| {
            if looked == limits::GROWTH_PAGE_HEADS || moved.frames.len() == limits::MAX_FORGET_STEP {
                // It was not judged, so it comes first next time.
                moved.upto = Some(frame - 1);
                return ControlFlow::Break(());
            }
            if ownership.of_frame(self.placement, frame) == FrameOwnership::MovedAway {
                moved.frames.push(frame);
            }
            looked += 1;
            ControlFlow::Continue(())
        })?;
        Ok(moved)
    }

    /// Visits the frames behind `after` up to `last` with their heads, in order of their ids.
    fn walk(
        &self,
        after: Option<FrameId>,
        last: FrameId,
        visit: &mut dyn FnMut(FrameId, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        let start = after.map(|after| record::head_key(self.collection, after));
        let prefix = record::collection_prefix(record::Table::Heads, self.collection);
        let from = start.as_ref().map_or(Bound::Included(&prefix[..]), |start| Bound::Excluded(&start[..]));
        let end = record::head_key(self.collection, last);
        self.reader.scan(from, Bound::Included(&end), false, &mut |key, head| match record::parse_pair_key(key) {
            Some((_, frame)) => visit(frame, head),
            None => ControlFlow::Continue(()),
        })
    }
}
