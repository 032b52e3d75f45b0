//! The rules of a shard, written a second time and simpler: what each command must answer, and what each frame is at each
//! index. The other invariants of reads and writes stand on this history.

use std::collections::BTreeMap;

use mira_node::shard::command::{self, Condition, OwnershipStep, ShardAnswer, ShardCommand, StoreFrame, StoreOutcome};
use mira_node::shard::migration::ownership::{Backfill, Ownership, Progress, Span};
use mira_node::shard::record::FrameFields;
use mira_proto::placement::{Partitioning, shards_of_collection};
use mira_proto::{CollectionId, FrameId, ShardId};
use mira_raft::GroupId;

use super::CommandPlace;
use super::one_owner::State;
use crate::sim::protocol::{COLLECTION, collection_of};

/// The history of all shards.
#[derive(Default)]
pub struct ShardRules {
    frames: BTreeMap<(GroupId, FrameId), Changes>,
    applied: BTreeMap<GroupId, CommandPlace>,
    ownerships: BTreeMap<GroupId, Ownership>,
    /// The greatest version of a collection's frames that were removed from a group for good.
    ended: BTreeMap<(GroupId, CollectionId), u64>,
    /// What the newest command of a client changed in each group: frame, before, after.
    changed: BTreeMap<GroupId, (CommandPlace, Vec<Changed>)>,
}

/// A frame, what it was and what it became.
pub type Changed = (FrameId, State, State);

/// What a frame became, and at which index, oldest first.
type Changes = Vec<(u64, Option<Frame>)>;

/// A frame as the rules see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Its version.
    pub version: u64,
    /// The operation that stored it.
    pub operation: u64,
    digest: [u8; 32],
}

impl Frame {
    fn state(self) -> (u64, u64) {
        (self.version, self.operation)
    }
}

/// What a command did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// A round of an operation stored a frame, or was told why not.
    Store {
        /// Of the history.
        operation: u64,
        /// Whether the frame changed.
        stored: bool,
        /// Whether another round follows.
        raced: bool,
    },
    /// A frame was removed, if it was there.
    Forget,
    /// A client was told that another shard decides.
    Moved,
    /// A step of a growth.
    Grow,
    /// Everything of a collection was removed.
    Purge,
}

impl ShardRules {
    /// A replica applied a command: what it did, if this is the first replica to apply it, or how its answer is wrong.
    pub fn applied(
        &mut self,
        group: GroupId,
        place: CommandPlace,
        payload: &[u8],
        answer: &[u8],
    ) -> Result<Option<Effect>, String> {
        if self.applied.get(&group).is_some_and(|newest| place <= *newest) {
            return Ok(None);
        }
        self.applied.insert(group, place);
        let command: ShardCommand = ShardCommand::decode(payload).map_err(|error| error.to_string())?;
        let (mut expected, effect) = self.expect(group, place, command)?;
        if let ShardAnswer::Forget { binned_ms, .. } = &mut expected
            && *binned_ms != 0
            && let Ok(ShardAnswer::Forget { binned_ms: said, .. }) = command::decode(answer)
        {
            // The log's time is not the rules' to know, but that there is one.
            *binned_ms = said.max(1);
        }
        match command::encode(&expected) == answer {
            true => Ok(Some(effect)),
            false => Err(format!("{place:?} of group {group} should have been answered with {expected:?}")),
        }
    }

    fn expect(
        &mut self,
        group: GroupId,
        place: CommandPlace,
        command: ShardCommand,
    ) -> Result<(ShardAnswer, Effect), String> {
        let index = place.0;
        match command {
            ShardCommand::Store(frames) => {
                let [new] = &frames[..] else { return Err("clients store one frame at a time".into()) };
                if !self.owns(group, new.frame) {
                    return Ok((ShardAnswer::Store(vec![StoreOutcome::Moved]), Effect::Moved));
                }
                let ended = self.ended.get(&(group, collection_of(new.frame))).copied().unwrap_or_default();
                let history = self.frames.entry((group, new.frame)).or_default();
                let outcome = store(history.last().and_then(|(_, frame)| *frame), ended, new);
                let FrameFields { created_ms: operation, version, digest, .. } = new.record.fields;
                let stored = matches!(outcome, StoreOutcome::Stored(_));
                let raced = matches!(outcome, StoreOutcome::Raced(_));
                if stored {
                    let before = history.last().and_then(|(_, frame)| *frame);
                    let after = Frame { version, operation, digest };
                    history.push((index, Some(after)));
                    let change = (new.frame, before.map(Frame::state), Some(after.state()));
                    self.changed.insert(group, (place, vec![change]));
                }
                Ok((ShardAnswer::Store(vec![outcome]), Effect::Store { operation, stored, raced }))
            }
            ShardCommand::Forget { frames, more, into_bin, .. } => {
                let (frames, moved): (Vec<FrameId>, Vec<FrameId>) =
                    frames.into_iter().partition(|&frame| self.owns(group, frame));
                let mut changes = Vec::new();
                for frame in frames {
                    if let Some(before) = self.remove(group, index, frame) {
                        self.has_ended((group, collection_of(frame)), before.version);
                        changes.push((frame, Some(before.state()), None));
                    }
                }
                let removed = changes.iter().map(|(frame, ..)| *frame).collect();
                self.changed.insert(group, (place, changes));
                let binned_ms = u64::from(into_bin);
                Ok((ShardAnswer::Forget { removed, moved, more, binned_ms }, Effect::Forget))
            }
            ShardCommand::Grow { shard, span, step, .. } => {
                self.grow((group, index), shard, span, step);
                Ok((ShardAnswer::Grow(self.ownerships.get(&group).cloned()), Effect::Grow))
            }
            ShardCommand::Purge { collection } => {
                let changes = self.purge((group, index), collection);
                self.changed.insert(group, (place, changes));
                Ok((ShardAnswer::Purge, Effect::Purge))
            }
            ShardCommand::Verify { .. }
            | ShardCommand::Expire { .. }
            | ShardCommand::Reseal { .. }
            | ShardCommand::Restore { .. }
            | ShardCommand::Renew { .. }
            | ShardCommand::CutHistory { .. }
            | ShardCommand::Undelete { .. }
            | ShardCommand::Collect { .. } => Err("no client asks for this".into()),
        }
    }

    fn purge(&mut self, (group, index): (GroupId, u64), collection: CollectionId) -> Vec<Changed> {
        if collection == COLLECTION {
            self.ownerships.remove(&group);
        }
        self.ended.remove(&(group, collection));
        let frames = self.frames.keys().filter(|(of, frame)| *of == group && collection_of(*frame) == collection);
        let frames: Vec<FrameId> = frames.map(|(_, frame)| *frame).collect();
        let removed = frames.into_iter().filter_map(|frame| {
            let before = self.remove(group, index, frame)?;
            Some((frame, Some(before.state()), None))
        });
        removed.collect()
    }

    fn has_ended(&mut self, collection: (GroupId, CollectionId), version: u64) {
        let ended = self.ended.entry(collection).or_default();
        *ended = version.max(*ended);
    }

    fn remove(&mut self, group: GroupId, index: u64, frame: FrameId) -> Option<Frame> {
        let history = self.frames.entry((group, frame)).or_default();
        let before = history.last().and_then(|(_, frame)| *frame)?;
        history.push((index, None));
        Some(before)
    }

    /// Whether a shard decides about a frame: said once more than in `mira_node::shard::migration::ownership`, from its documentation.
    fn owns(&self, group: GroupId, frame: FrameId) -> bool {
        // The other collection never grows.
        let Some(ownership) = self.ownerships.get(&group).filter(|_| collection_of(frame) == COLLECTION) else {
            return true;
        };
        let (source, home) = homes(ownership.span, frame);
        let shard = group - 1;
        if source == shard {
            return home == shard || !(ownership.frozen.contains_key(&home) || ownership.finalized);
        }
        home == shard && ownership.backfills.get(&source).is_some_and(|backfill| backfill.at == Progress::Open)
    }

    fn grow(&mut self, (group, index): (GroupId, u64), shard: ShardId, span: Span, step: OwnershipStep) {
        if let OwnershipStep::Cleanup { frames } = step {
            let finalized = self.ownerships.get(&group).is_some_and(|ownership| ownership.finalized);
            let moved = frames.into_iter().filter(|&frame| finalized && !self.owns(group, frame)).collect::<Vec<_>>();
            for frame in moved {
                self.remove(group, index, frame);
            }
            return;
        }
        if let OwnershipStep::ApplyPage { source, pass, after, upto, frames, gone, ended_version } = step {
            let Some(ownership) = self.ownerships.get_mut(&group) else { return };
            let fits = |backfill: &&mut Backfill| backfill.pass == pass && backfill.at == Progress::Running(after);
            let Some(backfill) = ownership.backfills.get_mut(&source).filter(fits) else { return };
            backfill.brought += frames.len() as u64;
            backfill.at = match upto {
                Some(upto) => Progress::Running(Some(upto)),
                None if backfill.last => Progress::Open,
                None => Progress::Complete,
            };
            for frame in gone {
                self.remove(group, index, frame);
            }
            for adopted in frames {
                let (version, digest) = (adopted.record.fields.version, adopted.record.fields.digest);
                let frame = Frame { version, operation: adopted.record.fields.created_ms, digest };
                // One that rests in the bin moves too, and is seen by nobody.
                let frame = if adopted.binned.is_some() { None } else { Some(frame) };
                self.frames.entry((group, adopted.frame)).or_default().push((index, frame));
                if adopted.binned.is_some() {
                    self.has_ended((group, COLLECTION), version);
                }
            }
            self.has_ended((group, COLLECTION), ended_version);
            return;
        }
        let ownership = self.ownerships.entry(group).or_insert_with(|| Ownership::new(shard, span));
        match step {
            OwnershipStep::Freeze { target, min_epoch } => {
                ownership.frozen.entry(target).or_insert(index);
                ownership.min_epoch = ownership.min_epoch.max(min_epoch);
            }
            OwnershipStep::Finalize { min_epoch } => {
                ownership.finalized = true;
                ownership.min_epoch = ownership.min_epoch.max(min_epoch);
            }
            OwnershipStep::BeginPass { source, pass, start, last } => {
                let before = ownership.backfills.get(&source).copied();
                let follows = match before {
                    None => pass == 1 && !last,
                    Some(before) => before.at == Progress::Complete && before.pass + 1 == pass && before.start <= start,
                };
                if follows {
                    let since = before.map_or(0, |before| before.start);
                    let at = Progress::Running(None);
                    ownership.backfills.insert(source, Backfill { pass, start, since, last, brought: 0, at });
                }
            }
            OwnershipStep::ApplyPage { .. } | OwnershipStep::Cleanup { .. } => {}
        }
    }

    /// What a client's command at this place changed.
    pub fn changed_at(&self, group: GroupId, place: CommandPlace) -> Vec<Changed> {
        let changed = self.changed.get(&group).filter(|(at, _)| *at == place);
        changed.map(|(_, changes)| changes.clone()).unwrap_or_default()
    }

    /// A frame in the state as of `index`.
    pub fn frame_at(&self, group: GroupId, frame: FrameId, index: u64) -> Option<Frame> {
        let history = self.frames.get(&(group, frame))?;
        history.iter().rev().find(|(at, _)| *at <= index).and_then(|(_, frame)| *frame)
    }
}

fn homes(span: Span, frame: FrameId) -> (ShardId, ShardId) {
    let home =
        |partitions| Partitioning::new(shards_of_collection(COLLECTION, partitions, span.shards)).shard_of(frame);
    (home(span.from), home(span.to))
}

/// Every operation names a time of its own, long ago.
fn store(current: Option<Frame>, ended: u64, new: &StoreFrame) -> StoreOutcome {
    let fields = &new.record.fields;
    let (version, same) = current.map_or((0, false), |frame| (frame.version, frame.digest == fields.digest));
    let again = same && current.is_some_and(|frame| frame.operation == fields.created_ms);
    let may = match new.condition {
        Condition::Create => version == 0,
        Condition::Replace => !again,
        Condition::Expect(expected) => version == expected,
    };
    let repeated = match new.condition {
        Condition::Create => same,
        Condition::Replace => again,
        Condition::Expect(expected) => again && version == expected + 1,
    };
    let follows = if version == 0 { ended } else { version };
    match (may, repeated) {
        (true, _) if fields.version == follows + 1 || version == 0 && fields.version > ended => {
            StoreOutcome::Stored(fields.version)
        }
        (true, _) => StoreOutcome::Raced(follows),
        (false, true) => StoreOutcome::Same(version),
        (false, false) => StoreOutcome::Conflict(version),
    }
}
