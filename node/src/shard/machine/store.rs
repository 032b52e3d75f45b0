//! Stores frames, each if its condition holds for what is there.

use mira_proto::CollectionId;
use mira_raft::EngineError;

use super::{Transition, chunks};
use crate::shard::{
    command::{Condition, MigratedFrame, ShardAnswer, StoreFrame, StoreOutcome},
    migration::ownership::FrameOwnership,
    record::{Class, FrameFields, FrameRecord},
};

/// Stores frames; one outcome for each, in order.
pub(super) fn store(frames: Vec<StoreFrame>, state: &mut Transition<'_, '_>) -> Result<ShardAnswer, EngineError> {
    let mut floors = Floors::default();
    let mut outcomes = Vec::with_capacity(frames.len());
    for frame in frames {
        outcomes.push(match state.claim(frame.collection, frame.frame)? {
            // The caller seals it again, with the newer key.
            FrameOwnership::Owned if frame.key_version < floors.of(frame.collection, state)? => {
                StoreOutcome::Raced(frame.record.fields.version.saturating_sub(1))
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
    let StoreFrame { collection, frame, condition, keeps_origin, record, vectors, .. } = new;
    let old = state.record(collection, frame)?;
    // One that is over is as good as gone, but its versions are not given again.
    let lives = old.as_ref().map(|old| &old.fields).filter(|old| !old.expired(state.at.time_ms));
    if let Some(outcome) = refuse_other(&record.fields, old.as_ref(), lives) {
        return Ok(outcome);
    }
    let same = lives.is_some_and(|old| old.digest == record.fields.digest);
    if let Err(outcome) = decide(condition, same, lives.map_or(0, |old| old.version)) {
        if record.fields.class == Class::Chunk {
            chunks::renew_chunk(collection, frame, state)?;
        }
        return Ok(outcome);
    }
    let current = old.as_ref().map_or(0, |old| old.fields.version);
    let is_next = current.checked_add(1) == Some(record.fields.version);
    let origin = |of: &FrameFields| (of.position, of.created_ms);
    let follows = !keeps_origin || lives.is_some_and(|old| origin(old) == origin(&record.fields));
    if !is_next || !follows {
        return Ok(StoreOutcome::Raced(current));
    }
    let version = record.fields.version;
    state.put_frame(collection, old.as_ref(), MigratedFrame { frame, record, vectors })?;
    Ok(StoreOutcome::Stored(version))
}

/// Refuses an id that holds a frame of another owner or class.
fn refuse_other(new: &FrameFields, old: Option<&FrameRecord>, lives: Option<&FrameFields>) -> Option<StoreOutcome> {
    if old.is_some_and(|old| old.fields.owner.is_some() && old.fields.owner != new.owner) {
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
        Condition::Expect(expected) if same && expected.checked_add(1) == Some(current) => {
            Err(StoreOutcome::Same(current))
        }
        Condition::Create | Condition::Replace if same => Err(StoreOutcome::Same(current)),
        Condition::Replace => Ok(()),
        Condition::Create | Condition::Expect(_) => Err(StoreOutcome::Conflict(current)),
    }
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
