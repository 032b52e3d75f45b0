//! The rules of a shard, written a second time and simpler: what each command must answer, and what each frame is at each
//! index. The other invariants of reads and writes stand on this history.

use std::collections::BTreeMap;

use mira_node::shard::command::{self, Condition, ShardAnswer, ShardCommand, StoreFrame, StoreOutcome};
use mira_proto::FrameId;
use mira_raft::GroupId;

use crate::sim::node::operation_of;

/// The history of all shards.
#[derive(Default)]
pub struct ShardRules {
    frames: BTreeMap<(GroupId, FrameId), Changes>,
    applied: BTreeMap<GroupId, u64>,
}

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

/// What a command did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// An operation's round stored a frame, or was told why not.
    Store {
        /// Of the history.
        operation: u64,
        /// Of the operation.
        round: u32,
        /// Whether the frame changed.
        stored: bool,
    },
    /// A frame was removed, if it was there.
    Forget,
}

impl ShardRules {
    /// A replica applied a command: what it did, if this is the first replica to apply it, or how its answer is wrong.
    pub fn applied(
        &mut self,
        group: GroupId,
        index: u64,
        payload: &[u8],
        answer: &[u8],
    ) -> Result<Option<Effect>, String> {
        let newest = self.applied.entry(group).or_default();
        if index <= *newest {
            return Ok(None);
        }
        *newest = index;
        let command: ShardCommand = command::decode(payload).map_err(|error| error.to_string())?;
        let (expected, effect) = self.expect(group, index, command)?;
        match command::encode(&expected) == answer {
            true => Ok(Some(effect)),
            false => Err(format!("entry {index} of group {group} should have been answered with {expected:?}")),
        }
    }

    fn expect(&mut self, group: GroupId, index: u64, command: ShardCommand) -> Result<(ShardAnswer, Effect), String> {
        match command {
            ShardCommand::Store(frames) => {
                let [new] = &frames[..] else { return Err("clients store one frame at a time".into()) };
                let history = self.frames.entry((group, new.frame)).or_default();
                let outcome = store(history.last().and_then(|(_, frame)| *frame), new);
                let (operation, round) = operation_of(&new.body);
                let stored = matches!(outcome, StoreOutcome::Stored(_));
                if stored {
                    history.push((index, Some(Frame { version: new.version, operation, digest: new.digest })));
                }
                Ok((ShardAnswer::Store(vec![outcome]), Effect::Store { operation, round, stored }))
            }
            ShardCommand::Forget { frames, .. } => {
                let mut removed = Vec::new();
                for frame in frames {
                    let history = self.frames.entry((group, frame)).or_default();
                    if history.last().is_some_and(|(_, there)| there.is_some()) {
                        history.push((index, None));
                        removed.push(frame);
                    }
                }
                Ok((ShardAnswer::Forget(removed), Effect::Forget))
            }
            ShardCommand::Purge { .. } | ShardCommand::Verify { .. } => Err("no client asks for this".into()),
        }
    }

    /// A frame in the state as of `index`.
    pub fn frame_at(&self, group: GroupId, frame: FrameId, index: u64) -> Option<Frame> {
        let history = self.frames.get(&(group, frame))?;
        history.iter().rev().find(|(at, _)| *at <= index).and_then(|(_, frame)| *frame)
    }
}

fn store(current: Option<Frame>, new: &StoreFrame) -> StoreOutcome {
    let (version, same) = current.map_or((0, false), |frame| (frame.version, frame.digest == new.digest));
    let may = match new.condition {
        Condition::Create => version == 0,
        Condition::Replace => !same,
        Condition::Expect(expected) => version == expected,
    };
    let repeated = match new.condition {
        Condition::Create | Condition::Replace => same,
        Condition::Expect(expected) => same && version == expected + 1,
    };
    match (may, repeated) {
        (true, _) if new.version == version + 1 => StoreOutcome::Stored(new.version),
        (true, _) => StoreOutcome::Raced(version),
        (false, true) => StoreOutcome::Same(version),
        (false, false) => StoreOutcome::Conflict(version),
    }
}
