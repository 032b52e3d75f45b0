//! Stores frames, each if its condition holds for what is there.

use mira_proto::CollectionId;
use mira_raft::EngineError;

use super::{Transition, chunks, tables::NewVersion};
use crate::shard::{
    command::{Condition, ShardAnswer, StoreFrame, StoreOutcome},
    history::{Ending, History, HistoryBounds, PastHead, bytes_of},
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
    let StoreFrame { collection, frame, condition, keeps_origin, record, vectors, keep_versions, .. } = new;
    let place = (collection, frame);
    let old = state.record(collection, frame)?;
    let ended = if old.is_none() { state.ended_version(collection)? } else { 0 };
    // Where nothing was ever forgotten, nothing rests in the bin: most frames are new.
    let binned = if ended > 0 { state.history(place)? } else { History::default() };
    // One that is over is as good as gone, but its versions are not given again.
    let lives = old.as_ref().map(|old| &old.fields).filter(|old| !old.expired(state.at.time_ms));
    if let Some(outcome) = refuse_other(&record.fields, old.as_ref(), lives) {
        return Ok(outcome);
    }
    // What rests in the bin is its owner's too.
    if binned.is_binned() && binned.owner.is_some() && binned.owner != record.fields.owner {
        return Ok(StoreOutcome::Foreign);
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
        None => (ended, version > ended),
    };
    let follows = !keeps_origin || lives.is_some_and(|old| origin(old) == origin(&record.fields));
    if !is_next || !follows {
        return Ok(StoreOutcome::Raced(current));
    }
    let new = NewVersion { frame, record, vectors };
    let past = if old.is_some() { state.history(place)? } else { binned };
    if old.is_none() && past.versions.is_empty() {
        state.put_frame(collection, None, new)?;
    } else {
        replace(collection, Before { record: old, past }, (new, keep_versions), state)?;
    }
    Ok(StoreOutcome::Stored(version))
}

/// What was there of a frame.
struct Before {
    record: Option<FrameRecord>,
    past: History,
}

/// Puts a version in the place of what is there of its frame, which becomes a past one.
fn replace(
    collection: CollectionId,
    before: Before,
    (new, keep_versions): (NewVersion, u32),
    state: &mut Transition<'_, '_>,
) -> Result<(), EngineError> {
    let (place, fields) = ((collection, new.frame), &new.record.fields);
    let Before { record: old, past } = before;
    let (owner, expires_ms, since_ms) = (fields.owner, fields.expires_ms, fields.updated_ms);
    // Of what is over nothing stays; hidden frames have no past; and what was said in the open does not lie beside what its
    // owner has sealed.
    let is_gone = |old: &FrameRecord| old.fields.class != Class::Memory || old.fields.expired(state.at.time_ms);
    let is_over = old.as_ref().is_some_and(is_gone) || fields.class != Class::Memory;
    let has_past = owner == past.owner.or(old.as_ref().and_then(|old| old.fields.owner));
    let keep = if is_over { 0 } else { state.versions_kept(collection, keep_versions)? };
    let bytes = bytes_of(&new.record, &new.vectors);
    let ended = old.as_ref().filter(|_| has_past && keep > 0);
    let vectors = if ended.is_some() { state.vectors(place)? } else { Default::default() };
    let mut after = if has_past && !is_over { past.clone() } else { History::default() };
    after.owner = owner;
    // Stored again, it leaves the bin; what was forgotten of it stays forgotten.
    after.binned_ms = 0;
    if let Some(old) = ended {
        let ended_ms = since_ms.max(old.fields.updated_ms);
        after.push(PastHead::new(old, &vectors, Ending { ended_ms, forgotten_ms: 0 }));
    }
    after.cut(&HistoryBounds::of_number(keep), bytes);
    state.put_frame(collection, old.as_ref(), new)?;
    if let Some(old) = ended.filter(|old| after.of_version(old.fields.version).is_some()) {
        state.put_past(place, old, &vectors);
    }
    state.put_history(place, &past, &after, expires_ms);
    Ok(())
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
