//! What a committed entry does to a state: one set of rules for a replica, and for whoever replays archived entries.

use std::panic::{self, AssertUnwindSafe};

use bytes::Bytes;
use tracing::error;

use crate::engine::{EngineError, Read};
use crate::requests::{AppliedAt, RequestMemory, RequestWindow};
use crate::state::{APP_TABLE, Applied, GroupState, Overlay, Txn, table_prefix};
use crate::state_machine::{Command, StateMachine};
use crate::types::{Answer, Entry, LoggedRequest, Membership, Payload, index_of};

/// How far replicated time may be ahead of the clock of the leader that proposes, in milliseconds: more than the clocks of
/// a cluster in good order differ by. The same on every replica, since it decides what the replicated state holds.
const CLOCK_LEAD_MS: u64 = 1_000;

/// The log-carried time behind `clock_ms` of what a leader proposes whose clock says `now_ms`.
///
/// A new leader's clock may be a little behind its predecessor's: then replicated time stands still until it is reached.
/// One that was far ahead must not set the time for ever: replicated time goes back to what the leader's clock says, and a
/// little more.
pub(crate) fn time_after(clock_ms: u64, now_ms: u64) -> u64 {
    now_ms.max(clock_ms.min(now_ms.saturating_add(CLOCK_LEAD_MS)))
}

/// How far the live generation of a state has come.
pub(crate) struct Applier {
    /// What the next commit says was applied.
    pub applied: Applied,
    memory: RequestMemory,
    prefix: Vec<u8>,
}

impl Applier {
    /// As the live generation of `state` was left.
    pub(crate) fn load(state: &GroupState, window: RequestWindow) -> Result<Self, EngineError> {
        let (engine, group, generation) = (state.engine.as_ref(), state.group, state.generation());
        Ok(Self {
            applied: Applied::load(engine, group, generation)?,
            memory: RequestMemory::load(engine, group, generation, window)?,
            prefix: table_prefix(group, generation, APP_TABLE),
        })
    }

    /// The application's keys, over what `engine` holds and `overlay` has changed.
    pub(crate) fn txn<'a>(&'a self, engine: &'a dyn Read, overlay: &'a mut Overlay) -> Txn<'a> {
        Txn::new(engine, &self.prefix, overlay)
    }

    /// The log-carried time of an entry that comes next, if it carries any.
    pub(crate) fn time_of(&self, entry: &Entry) -> Option<u64> {
        match &entry.payload {
            Payload::Normal(proposal) => Some(time_after(self.applied.clock_ms, proposal.time_ms)),
            Payload::Blank | Payload::Membership(_) => None,
        }
    }

    /// The answers to the entry's requests, in their order.
    pub(crate) fn apply(
        &mut self,
        entry: &Entry,
        app: &dyn StateMachine,
        engine: &dyn Read,
        overlay: &mut Overlay,
    ) -> Result<Vec<Answer>, EngineError> {
        let time_ms = self.time_of(entry);
        self.applied.last = Some(entry.log_id.clone());
        match (&entry.payload, time_ms) {
            (Payload::Normal(proposal), Some(time_ms)) => {
                self.applied.clock_ms = time_ms;
                let mut answers = Vec::with_capacity(proposal.requests.len());
                for (ordinal, request) in (0..).zip(&proposal.requests) {
                    answers.push(self.request(ordinal, request, app, (engine, overlay))?);
                }
                Ok(answers)
            }
            (Payload::Membership(membership), _) => {
                self.applied.membership = Membership::new(Some(entry.log_id.clone()), membership.clone());
                Ok(Vec::new())
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Applies one request of the entry that [`Self::applied`] names: whatever becomes of it, the others are applied too.
    fn request(
        &mut self,
        ordinal: u32,
        LoggedRequest { fingerprint, payload }: &LoggedRequest,
        app: &dyn StateMachine,
        (engine, overlay): (&dyn Read, &mut Overlay),
    ) -> Result<Answer, EngineError> {
        let (index, time_ms) = (index_of(self.applied.last.as_ref()), self.applied.clock_ms);
        self.memory.forget(overlay, time_ms);
        if let Some(fingerprint) = fingerprint
            && let Some(answer) = self.memory.recall(engine, overlay, fingerprint)?
        {
            return Ok(answer);
        }
        let request = fingerprint.map(|fingerprint| fingerprint.id);
        let command = Command { index, ordinal, time_ms, request, payload };
        let mark = overlay.mark();
        let applied =
            panic::catch_unwind(AssertUnwindSafe(|| app.apply(command, &mut Txn::new(engine, &self.prefix, overlay))));
        let response: Bytes = match applied {
            Ok(response) => response?,
            // What a machine makes of a command follows from the command and the state, so every replica comes here: they
            // go on without it, where otherwise none of them ever could.
            Err(_) => {
                overlay.take_back_to(mark);
                error!(index, ordinal, "a command cannot be applied and is passed over");
                return Ok(Answer::Failed);
            }
        };
        if let Some(fingerprint) = fingerprint {
            self.memory.remember(overlay, fingerprint, AppliedAt { index, ordinal, time_ms }, &response);
            self.memory.forget(overlay, time_ms);
        }
        Ok(Answer::Applied(response))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicated_time_is_never_far_from_the_leaders_clock() {
        const DAY: u64 = 86_400_000;
        // the log's clock, the leader's, the time of the entry
        let table = [
            (0, 5_000, 5_000),
            (5_000, 5_000, 5_000),
            (5_000, 4_200, 5_000),
            (5_000, 4_000, 5_000),
            (5_000, 3_999, 4_999),
            (DAY + 5_000, 5_000, 6_000),
            (5_000, DAY, DAY),
            (u64::MAX, u64::MAX, u64::MAX),
            (u64::MAX, u64::MAX - 5, u64::MAX),
        ];
        for (clock_ms, now_ms, time_ms) in table {
            assert_eq!(time_after(clock_ms, now_ms), time_ms, "{clock_ms} {now_ms}");
        }
    }
}
