//! One owner: whatever moves between shards, a frame has one history.
//!
//! Every change of a frame, in whichever shard, must be made on top of the newest one of all shards: else two shards decide
//! about it, or one that has an old copy does. What a read returns must be in that history, not older than what its reader,
//! or for a linearizable read anybody, had been told before it began. And when everything has come to rest, a frame is in
//! one shard, the right one, or in none if it was forgotten.

use std::collections::BTreeMap;

use mira_proto::FrameId;

/// A frame's state: its version and the operation that stored it; none if it is not there.
pub type State = Option<(u64, u64)>;

/// The histories of all frames.
#[derive(Default)]
pub struct OneOwner {
    frames: BTreeMap<FrameId, History>,
}

struct History {
    states: Vec<State>,
    /// The newest position that anybody was told of.
    known: usize,
}

impl Default for History {
    fn default() -> Self {
        // No frame is there at first.
        History { states: vec![None], known: 0 }
    }
}

impl OneOwner {
    /// A shard that holds `before` changes a frame for a client.
    pub fn changes(&mut self, frame: FrameId, before: State, after: State) -> Result<(), String> {
        let history = self.frames.entry(frame).or_default();
        let newest = *history.states.last().expect("it begins with none");
        history.states.push(after);
        match newest == before {
            true => Ok(()),
            false => {
                Err(format!("frame {frame} became {after:?} where it was {before:?}, but it is {newest:?} elsewhere"))
            }
        }
    }

    /// What a linearizable read that begins now must not fall behind.
    pub fn begins(&self, frame: FrameId) -> usize {
        self.frames.get(&frame).map_or(0, |history| history.known)
    }

    /// A client was told that its operation stored a frame: where that is in the frame's history.
    pub fn told(&mut self, frame: FrameId, operation: u64) -> usize {
        let history = self.frames.entry(frame).or_default();
        let stored = |state: &State| state.is_some_and(|(_, by)| by == operation);
        let at = history.states.iter().rposition(stored).unwrap_or(0);
        history.known = history.known.max(at);
        at
    }

    /// A read that may not fall behind `floor` returned this. A linearizable one tells everybody how far things are.
    pub fn read(&mut self, frame: FrameId, floor: usize, found: State, linearizable: bool) -> Result<(), String> {
        let history = self.frames.entry(frame).or_default();
        match history.states.iter().skip(floor).position(|state| *state == found) {
            Some(after) => {
                if linearizable {
                    history.known = history.known.max(floor + after);
                }
                Ok(())
            }
            None => Err(format!("frame {frame} was read as {found:?}, older than {:?}", history.states.get(floor))),
        }
    }

    /// What a frame is now.
    pub fn now(&self, frame: FrameId) -> State {
        self.frames.get(&frame).and_then(|history| *history.states.last()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_an_old_copy_and_reads_of_the_past_are_noticed() {
        let mut rule = OneOwner::default();
        rule.changes(1, None, Some((1, 10))).expect("the first");
        rule.changes(1, Some((1, 10)), Some((2, 11))).expect("the second");
        assert_eq!(rule.told(1, 11), 2);
        rule.read(1, rule.begins(1), Some((2, 11)), true).expect("the newest");
        rule.read(1, 0, Some((1, 10)), false).expect("old enough for this reader");
        rule.read(1, rule.begins(1), Some((1, 10)), true).expect_err("it was known to be replaced");
        rule.changes(1, Some((1, 10)), Some((2, 12))).expect_err("an old copy");
        rule.read(2, 0, None, true).expect("nothing was ever there");
    }
}
