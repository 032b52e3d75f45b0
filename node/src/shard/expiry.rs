//! What is over its time, on the shard's leader: found by the tables of times, removed by commands of the log.
//!
//! Reads leave a frame out from the moment its time is over. This is how it also goes from the disk and the indexes: the
//! leader names frames that are over by the group's clock, and each replica removes those of them that are over by the clock
//! of the very entry that names them. Past versions and what rests in the bin go in the same way, as the settings of their
//! collection say at that moment; a collection that keeps fewer versions than it did has its frames walked over once.

use std::ops::{Bound, ControlFlow};

use mira_proto::{CollectionId, FrameId, Problem, Refusal, limits};
use mira_raft::{EngineError, StateReader};

use crate::meta::ClusterState;

use crate::shard::{
    Shard,
    command::{self, ShardAnswer, ShardCommand},
    history::{History, HistoryBounds, VersionBound},
    record::{self, Table},
    refuse_engine, refuse_proposal,
};

/// Frames of one collection that are due.
type Due = (CollectionId, Vec<FrameId>);

impl<R: mira_raft::Runtime> Shard<R> {
    /// Removes some of what is over, if this node leads: how many frames, and whether there may be more.
    pub async fn sweep(&self) -> Result<(u64, bool), Refusal> {
        self.must_lead()?;
        let (removed, more) = self.sweep_expired().await?;
        let more_past = self.sweep_history().await?;
        let more_bounds = self.sweep_bounds().await?;
        Ok((removed, more || more_past || more_bounds))
    }

    async fn sweep_expired(&self) -> Result<(u64, bool), Refusal> {
        let now_ms = self.group.time_ms();
        let due = list_due(&self.group.reader(), Table::Expiry, limits::MAX_FORGET_STEP, |_| Some(now_ms))
            .map_err(|error| self.unreadable(error))?;
        let (mut removed, named) = (0, named(&due));
        for (collection, frames) in due {
            let payload = ShardCommand::Expire { collection, frames }.encode();
            let proposed = self.group.propose(None, payload).await.map_err(refuse_proposal)?;
            match command::decode(&proposed.response).map_err(refuse_engine)? {
                ShardAnswer::Expire(gone) => removed += u64::from(gone),
                other => return Err(Problem::internal(format!("a sweep was answered with {other:?}")).into()),
            }
        }
        // What another shard decides about by now is not removed, and would be named again at once.
        Ok((removed, named == limits::MAX_FORGET_STEP && removed > 0))
    }

    /// Removes past versions that ended, and frames that were forgotten, too long ago; whether there may be more.
    async fn sweep_history(&self) -> Result<bool, Refusal> {
        let (now_ms, cluster) = (self.group.time_ms(), self.shared.cluster.borrow().clone());
        let mut more = false;
        for (table, over) in [
            (Table::Ended, (|bounds| bounds.ended_ms) as fn(HistoryBounds) -> u64),
            (Table::Forgotten, |bounds| bounds.forgotten_ms),
        ] {
            let until = |collection| Some(over(bounds_of(&cluster, collection, now_ms)?));
            let due = list_due(&self.group.reader(), table, limits::MAX_FORGET_STEP, until);
            let due = due.map_err(|error| self.unreadable(error))?;
            let (mut removed, named) = (0, named(&due));
            for (collection, frames) in due {
                let Some(bounds) = bounds_of(&cluster, collection, now_ms) else { continue };
                removed += self.cut_history(collection, frames, bounds, false).await?;
            }
            more |= named == limits::MAX_FORGET_STEP && removed > 0;
        }
        Ok(more)
    }

    /// Removes past versions beyond their number from frames of a collection that keeps fewer than it did; whether there may
    /// be more. The settings change with the cluster's map only.
    async fn sweep_bounds(&self) -> Result<bool, Refusal> {
        let cluster = self.shared.cluster.borrow().clone();
        let mut swept = self.swept.lock().await;
        if swept.epoch == cluster.header.epoch {
            return Ok(false);
        }
        let now_ms = self.group.time_ms();
        for (collection, bound) in list_bounds(&self.group.reader()).map_err(|error| self.unreadable(error))? {
            let Some(bounds) = bounds_of(&cluster, collection, now_ms) else { continue };
            if bound == (VersionBound { last: bounds.last, is_kept: true }) {
                continue;
            }
            if bound.last != bounds.last {
                // From here on no frame gets more; those that have more are found by the walk.
                self.cut_history(collection, Vec::new(), bounds, false).await?;
                return Ok(true);
            }
            let after = swept.walk.filter(|walk| walk.0 == collection).map(|walk| walk.1);
            let page = list_longer(&self.group.reader(), collection, after, bounds.last as usize);
            let page = page.map_err(|error| self.unreadable(error))?;
            self.cut_history(collection, page.frames, bounds, page.upto.is_none()).await?;
            swept.walk = page.upto.map(|upto| (collection, upto));
            return Ok(true);
        }
        *swept = Swept { epoch: cluster.header.epoch, walk: None };
        Ok(false)
    }

    async fn cut_history(
        &self,
        collection: CollectionId,
        frames: Vec<FrameId>,
        bounds: HistoryBounds,
        complete: bool,
    ) -> Result<u64, Refusal> {
        let payload = ShardCommand::CutHistory { collection, frames, bounds, complete }.encode();
        let proposed = self.group.propose(None, payload).await.map_err(refuse_proposal)?;
        match command::decode(&proposed.response).map_err(refuse_engine)? {
            ShardAnswer::CutHistory(gone) => Ok(u64::from(gone)),
            other => Err(Problem::internal(format!("a cut of histories was answered with {other:?}")).into()),
        }
    }
}

/// How far a leader has looked for frames with more past versions than their collection keeps.
#[derive(Debug, Default, Clone, Copy)]
pub struct Swept {
    /// By the map of this epoch there are none; 0 = not known.
    epoch: u64,
    /// A walk under way: its collection, and the last frame looked at.
    walk: Option<(CollectionId, FrameId)>,
}

/// What is over in a collection at a time; none of one that this node does not know.
fn bounds_of(cluster: &ClusterState, collection: CollectionId, now_ms: u64) -> Option<HistoryBounds> {
    cluster.collections.get(&collection).map(|record| record.retention.bounds(now_ms))
}

fn named(due: &[Due]) -> usize {
    due.iter().map(|(_, frames)| frames.len()).sum()
}

/// The bounds on past versions, of all collections that have some.
fn list_bounds(reader: &StateReader) -> Result<Vec<(CollectionId, VersionBound)>, EngineError> {
    let (mut bounds, mut failed) = (Vec::new(), None);
    reader.scan_prefix(&[u8::from(Table::VersionBounds)], false, &mut |key, value| {
        let Some(collection) = key.get(1..).and_then(|id| id.try_into().ok()).map(u64::from_be_bytes) else {
            return ControlFlow::Continue(());
        };
        match VersionBound::decode(value) {
            Ok(bound) => {
                bounds.push((collection, bound));
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(bounds), Err)
}

/// Frames with more past versions than so many.
#[derive(Default)]
struct Longer {
    frames: Vec<FrameId>,
    /// The last frame looked at, if there may be more.
    upto: Option<FrameId>,
}

fn list_longer(
    reader: &StateReader,
    collection: CollectionId,
    after: Option<FrameId>,
    last: usize,
) -> Result<Longer, EngineError> {
    let prefix = record::collection_prefix(Table::Histories, collection);
    let from = after.map(|after| record::pair_key(Table::Histories, collection, after));
    let from = from.as_ref().map_or(Bound::Included(&prefix[..]), |from| Bound::Excluded(&from[..]));
    let end = record::pair_key(Table::Histories, collection, FrameId::MAX);
    let (mut longer, mut looked, mut failed) = (Longer::default(), 0, None);
    reader.scan(from, Bound::Included(&end), false, &mut |key, value| {
        let Some((_, frame)) = record::parse_pair_key(key) else { return ControlFlow::Continue(()) };
        match History::decode(value) {
            Ok(history) if history.past().len() > last => longer.frames.push(frame),
            Ok(_) => {}
            Err(error) => failed = Some(error),
        }
        looked += 1;
        if looked == limits::GROWTH_PAGE_HEADS || longer.frames.len() == limits::MAX_FORGET_STEP {
            longer.upto = Some(frame);
        }
        if failed.is_some() || longer.upto.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    failed.map_or(Ok(longer), Err)
}

/// At most so many frames that stand in a table of times at or before the time that `until` gives their collection; those of a
/// collection without one are passed over.
fn list_due(
    reader: &StateReader,
    table: Table,
    most: usize,
    until: impl Fn(CollectionId) -> Option<u64>,
) -> Result<Vec<Due>, EngineError> {
    let mut due: Vec<Due> = Vec::new();
    let (mut from, mut named) = (record::collection_prefix(table, 0), 0);
    let end = [u8::from(table) + 1];
    loop {
        // One collection in each round; its first frame that is not over ends it.
        let mut current = None;
        reader.scan(Bound::Included(&from), Bound::Excluded(&end), false, &mut |key, _| {
            let Some((collection, time_ms, frame)) = record::parse_time_key(key) else {
                return ControlFlow::Continue(());
            };
            let is_first = current.is_none();
            let (of, until_ms) = *current.get_or_insert_with(|| (collection, until(collection)));
            if of != collection || until_ms.is_none_or(|until_ms| time_ms > until_ms) || named == most {
                return ControlFlow::Break(());
            }
            match due.last_mut().filter(|_| !is_first) {
                Some((_, frames)) => frames.push(frame),
                None => due.push((collection, vec![frame])),
            }
            named += 1;
            ControlFlow::Continue(())
        })?;
        match current.and_then(|(collection, _): (CollectionId, _)| collection.checked_add(1)) {
            Some(next) if named < most => from = record::collection_prefix(table, next),
            _ => return Ok(due),
        }
    }
}
