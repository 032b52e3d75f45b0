//! Frames whose time is over, on the shard's leader: found by the table of times, removed by a command of the log.
//!
//! Reads leave a frame out from the moment its time is over. This is how it also goes from the disk and the indexes: the
//! leader names frames that are over by the group's clock, and each replica removes those of them that are over by the clock
//! of the very entry that names them.

use std::ops::{Bound, ControlFlow};

use mira_proto::{CollectionId, FrameId, Problem, Refusal, limits};
use mira_raft::{EngineError, StateReader};

use crate::shard::{
    Shard,
    command::{self, ShardAnswer, ShardCommand},
    record, refuse_engine, refuse_proposal,
};

impl<R: mira_raft::Runtime> Shard<R> {
    /// Removes some frames that are over, if this node leads: how many, and whether there may be more.
    pub async fn sweep(&self) -> Result<(u64, bool), Refusal> {
        self.must_lead()?;
        let due = list_due(&self.group.reader(), self.group.time_ms(), limits::MAX_FORGET_STEP)
            .map_err(|error| self.unreadable(error))?;
        let (mut removed, named) = (0, due.iter().map(|(_, frames)| frames.len()).sum::<usize>());
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
}

/// At most so many frames that are over at `now_ms`, by collection.
fn list_due(reader: &StateReader, now_ms: u64, most: usize) -> Result<Vec<(CollectionId, Vec<FrameId>)>, EngineError> {
    let mut due: Vec<(CollectionId, Vec<FrameId>)> = Vec::new();
    let (mut from, mut named) = (record::collection_prefix(record::Table::Expiry, 0), 0);
    let end = [u8::from(record::Table::Expiry) + 1];
    loop {
        // One collection in each round; its first frame that is not over ends it.
        let mut current = None;
        reader.scan(Bound::Included(&from), Bound::Excluded(&end), false, &mut |key, _| {
            let Some((collection, expires_ms, frame)) = record::parse_expiry_key(key) else {
                return ControlFlow::Continue(());
            };
            let is_first = current.is_none();
            if *current.get_or_insert(collection) != collection || expires_ms > now_ms || named == most {
                return ControlFlow::Break(());
            }
            match due.last_mut().filter(|_| !is_first) {
                Some((_, frames)) => frames.push(frame),
                None => due.push((collection, vec![frame])),
            }
            named += 1;
            ControlFlow::Continue(())
        })?;
        match current.and_then(|collection: CollectionId| collection.checked_add(1)) {
            Some(next) if named < most => from = record::collection_prefix(record::Table::Expiry, next),
            _ => return Ok(due),
        }
    }
}
