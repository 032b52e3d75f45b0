//! Stores frames, each if its condition holds for what is there.

use mira_proto::CollectionId;
use mira_raft::EngineError;

use super::{Transition, chunks};
use crate::shard::{
    command::{Condition, MigratedFrame, ShardAnswer, StoreFrame, StoreOutcome},
    migration::ownership::FrameOwnership,
    record::{Class, FrameRecord},
};

/// Stores frames; one outcome for each, in order.
pub(super) fn store(frames: Vec<StoreFrame>, state: &mut Transition<'_, '_>) -> Result<ShardAnswer, EngineError> {
    let mut floors = Floors::default();
    let mut outcomes = Vec::with_capacity(frames.len());
    for frame in frames {
        outcomes.push(match state.claim(frame.collection, frame.frame)? {
            // The caller seals it again, with the newer key.
            FrameOwnership::Owned if frame.key_version < floors.of(frame.collection, state)? => {
                StoreOutcome::Raced(frame.version.saturating_sub(1))
            }
            FrameOwnership::Owned => store_frame(frame, state)?,
            FrameOwnership::MovedAway | FrameOwnership::Pending => StoreOutcome::Moved,
        });
    }
    Ok(ShardAnswer::Store(outcomes))
}

/// The oldest keys that frames of one command may be sealed with.
#[derive(Default)]
struct Floors(Option<(CollectionId, u32)>);

impl Floors {
    fn of(&mut self, collection: CollectionId, state: &Transition<'_, '_>) -> Result<u32, EngineError> {
        if let Some((_, floor)) = self.0.filter(|(known, _)| *known == collection) {
            return Ok(floor);
        }
        let floor = state.key_floor(collection)?.version;
        self.0 = Some((collection, floor));
        Ok(floor)
    }
}

fn store_frame(new: StoreFrame, state: &mut Transition<'_, '_>) -> Result<StoreOutcome, EngineError> {
    let now_ms = state.at.time_ms;
    let old = state.record(new.collection, new.frame)?;
    // One that is over is as good as gone, but its versions are not given again.
    let lives = old.as_ref().filter(|old| !old.expired(now_ms));
    if let Some(outcome) = refuse_other(&new, old.as_ref(), lives) {
        return Ok(outcome);
    }
    let same = lives.is_some_and(|old| old.digest == new.digest);
    if let Err(outcome) = decide(new.condition, same, lives.map_or(0, |old| old.version)) {
        if new.class == Class::Chunk {
            chunks::renew_chunk(new.collection, new.frame, state)?;
        }
        return Ok(outcome);
    }
    let current = old.as_ref().map_or(0, |old| old.version);
    if new.version != current + 1 {
        return Ok(StoreOutcome::Raced(current));
    }
    let (collection, version) = (new.collection, new.version);
    let created_ms = created_ms(&new, lives, now_ms);
    state.put_frame(collection, old.as_ref(), into_stored(new, created_ms, now_ms))?;
    Ok(StoreOutcome::Stored(version))
}

/// Refuses an id that holds a frame of another owner or class.
fn refuse_other(new: &StoreFrame, old: Option<&FrameRecord>, lives: Option<&FrameRecord>) -> Option<StoreOutcome> {
    if old.is_some_and(|old| old.owner.is_some() && old.owner != new.owner) {
        return Some(StoreOutcome::Foreign);
    }
    // Ids of hidden frames are drawn at random or keyed: nobody comes upon one.
    lives.filter(|old| old.class != new.class).map(|old| StoreOutcome::Conflict(old.version))
}

/// What is to happen with a frame, given what is there. A pure table, so that the rule reads in one place.
fn decide(condition: Condition, same: bool, current: u64) -> Result<(), StoreOutcome> {
    match condition {
        Condition::Create | Condition::Replace if current == 0 => Ok(()),
        Condition::Expect(expected) if expected == current => Ok(()),
        // A retry after the first try took effect: its version is the one after the expected.
        Condition::Expect(expected) if same && current == expected + 1 => Err(StoreOutcome::Same(current)),
        Condition::Create | Condition::Replace if same => Err(StoreOutcome::Same(current)),
        Condition::Replace => Ok(()),
        Condition::Create | Condition::Expect(_) => Err(StoreOutcome::Conflict(current)),
    }
}

/// When a frame was first stored.
fn created_ms(new: &StoreFrame, lives: Option<&FrameRecord>, now_ms: u64) -> u64 {
    match new.created_ms {
        0 => lives.map_or(now_ms, |old| old.created_ms),
        // The leader that let it in may have a clock that is ahead.
        elsewhere => elsewhere.min(now_ms),
    }
}

/// When a frame will be over; 0 = never.
fn expires_ms(new: &StoreFrame, now_ms: u64) -> u64 {
    match (new.expires_ms, new.ttl_ms) {
        (0, 0) => 0,
        (0, ttl_ms) => now_ms.saturating_add(ttl_ms),
        (expires_ms, _) => expires_ms,
    }
}

/// The frame as it is kept.
fn into_stored(new: StoreFrame, created_ms: u64, now_ms: u64) -> MigratedFrame {
    let expires_ms = expires_ms(&new, now_ms);
    let record = FrameRecord {
        version: new.version,
        created_ms,
        updated_ms: now_ms,
        expires_ms,
        owner: new.owner,
        session: new.session,
        digest: new.digest,
        spaces: new.spaces,
        class: new.class,
        chunks: new.chunks,
        body: new.body,
    };
    MigratedFrame { frame: new.frame, record, vectors: new.vectors }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_replacing() {
        use Condition::{Create, Expect, Replace};
        use StoreOutcome::{Conflict, Same};
        // condition, same content is there, current version, what happens
        let table = [
            (Create, false, 0, Ok(())),
            (Create, true, 3, Err(Same(3))),
            (Create, false, 3, Err(Conflict(3))),
            (Replace, false, 0, Ok(())),
            (Replace, false, 3, Ok(())),
            (Replace, true, 3, Err(Same(3))),
            (Expect(0), false, 0, Ok(())),
            (Expect(0), true, 1, Err(Same(1))),
            (Expect(0), true, 2, Err(Conflict(2))),
            (Expect(0), false, 1, Err(Conflict(1))),
            (Expect(3), false, 3, Ok(())),
            (Expect(3), true, 3, Ok(())),
            (Expect(3), true, 4, Err(Same(4))),
            (Expect(3), false, 4, Err(Conflict(4))),
            (Expect(3), false, 2, Err(Conflict(2))),
        ];
        for (condition, same, current, expected) in table {
            assert_eq!(decide(condition, same, current), expected, "{condition:?} same={same} current={current}");
        }
    }
}
