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
        outcomes.push(match state.frame_ownership(frame.collection, frame.frame)? {
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
    let same = lives.is_some_and(|old| says_the_same(condition, &record.fields, old));
    if let Err(outcome) = decide(condition, same, lives.map_or(0, |old| old.version)) {
        if record.fields.class == Class::Chunk {
            chunks::renew_chunk(collection, frame, state)?;
        }
        return Ok(outcome);
    }
    let version = record.fields.version;
    let (current, is_next) = match &old {
        Some(old) => (old.fields.version, old.fields.version.checked_add(1) == Some(version)),
        // A new life of an id begins above all that has ended: none of its versions is given again.
        None => {
            let ended = state.ended_version(collection)?;
            (ended, version > ended)
        }
    };
    let follows = !keeps_origin || lives.is_some_and(|old| origin(old) == origin(&record.fields));
    if !is_next || !follows {
        return Ok(StoreOutcome::Raced(current));
    }
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

/// Where and when a frame began.
fn origin(fields: &FrameFields) -> (u64, u64) {
    (fields.position, fields.created_ms)
}

/// Whether a frame says what is there: as far as its caller can tell, storing it would change nothing.
fn says_the_same(condition: Condition, new: &FrameFields, old: &FrameFields) -> bool {
    if old.digest != new.digest {
        return false;
    }
    match condition {
        // Where and when it began is no part of its content.
        Condition::Create => true,
        Condition::Replace => origin(new) == origin(old),
        // A time that lay ahead has become that of the first try.
        Condition::Expect(_) => {
            let was_ahead = old.created_ms == old.updated_ms && new.created_ms > old.created_ms;
            new.position == old.position && (new.created_ms == old.created_ms || was_ahead)
        }
    }
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
    fn another_place_or_time_is_another_thing_to_put_in_the_place_of_what_is_there() {
        use Condition::{Create, Expect, Replace};
        let fields = |(position, created_ms), updated_ms| FrameFields {
            version: 3,
            position,
            created_ms,
            updated_ms,
            expires_ms: 0,
            owner: None,
            session: None,
            digest: [7; 32],
            spaces: Default::default(),
            class: Class::Memory,
            chunks: Vec::new(),
            extensions: Default::default(),
        };
        // place and time of the frame, when it was changed, what is asked, place and time that are named, whether it is the same
        let table = [
            ((1, 500), 600, Create, (2, 300), true),
            ((1, 500), 600, Replace, (1, 500), true),
            ((1, 500), 600, Replace, (1, 300), false),
            ((1, 500), 600, Replace, (2, 500), false),
            ((1, 900), 900, Replace, (1, 950), false),
            ((1, 500), 600, Expect(2), (1, 300), false),
            ((1, 500), 600, Expect(2), (1, 500), true),
            ((1, 900), 900, Expect(2), (1, 905), true),
            ((1, 900), 900, Expect(2), (2, 905), false),
            ((1, 900), 900, Expect(2), (1, 300), false),
        ];
        for (began, changed, condition, named, expected) in table {
            let same = says_the_same(condition, &fields(named, 1_000), &fields(began, changed));
            assert_eq!(same, expected, "began {began:?}, changed {changed}, {condition:?} with {named:?}");
        }
        let other = FrameFields { digest: [8; 32], ..fields((1, 500), 600) };
        assert!(!says_the_same(Create, &other, &fields((1, 500), 600)));
    }

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
