//! What must hold, one invariant per file.
//!
//! Each is a small memory of what was seen and a rule over it. They are fed while the run goes on, so that the trace
//! ends where a rule was broken, and none of them asks the code under test for its opinion where the disk can be asked.

pub mod acknowledged;
pub mod applied_once;
pub mod convergence;
pub mod election_safety;
pub mod leader_completeness;
pub mod linearizable;
pub mod log_matching;
pub mod map_epochs;
pub mod one_owner;
pub mod replicas_live;
pub mod shard_rules;
pub mod state_machine_safety;
pub mod votes_kept;

use std::time::Duration;

use mira_raft::{GroupId, RequestId};

/// What went wrong, where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The invariant.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
    /// Virtual time.
    pub at: Duration,
}

/// Where a command stands in a group's log: the index of its entry, and its ordinal among the commands of that.
pub type CommandPlace = (u64, u32);

/// What a replica applied, and how it answered.
#[derive(Clone, Copy)]
pub struct Applied<'a> {
    /// Where in the log.
    pub place: CommandPlace,
    /// Under which id it was proposed.
    pub request: Option<RequestId>,
    /// The command.
    pub payload: &'a [u8],
    /// The answer.
    pub answer: &'a [u8],
}

/// All of them.
#[derive(Default)]
pub struct Invariants {
    /// A leader id is won once.
    pub election_safety: election_safety::ElectionSafety,
    /// Logs that agree on an entry agree on all before it.
    pub log_matching: log_matching::LogMatching,
    /// Leaders have what was committed before them.
    pub leader_completeness: leader_completeness::LeaderCompleteness,
    /// Replicas at the same index hold the same bytes.
    pub state_machine_safety: state_machine_safety::StateMachineSafety,
    /// The shard's machine follows its rules.
    pub shard_rules: shard_rules::ShardRules,
    /// A request takes effect once.
    pub applied_once: applied_once::AppliedOnce,
    /// Acknowledged is kept, refused is undone.
    pub acknowledged: acknowledged::Acknowledged,
    /// Reads are never stale.
    pub linearizable: linearizable::Linearizable,
    /// A frame has one history, whatever moves.
    pub one_owner: one_owner::OneOwner,
    /// Maps only get newer.
    pub map_epochs: map_epochs::MapEpochs,
    /// Replicas stop for a reason.
    pub replicas_live: replicas_live::ReplicasLive,
    /// Voters are not removed.
    pub votes_kept: votes_kept::VotesKept,
}

impl Invariants {
    /// A shard's replica applied a command: what the invariants of shards find, if it was the first replica to do so.
    pub fn shard_applied(
        &mut self,
        group: GroupId,
        Applied { place, request, payload, answer }: Applied<'_>,
    ) -> Vec<(&'static str, Result<(), String>)> {
        let (effect, rules) = match self.shard_rules.applied(group, place, payload, answer) {
            Ok(Some(effect)) => (effect, Ok(())),
            Ok(None) => return Vec::new(),
            Err(error) => return vec![("shard rules", Err(error))],
        };
        vec![
            ("shard rules", rules),
            ("applied once", self.applied_once.applied(group, place.0, request, &effect)),
            ("acknowledged", self.acknowledged.applied(group, place, &effect, answer)),
            ("one owner", self.one_owner_of(group, place)),
        ]
    }

    /// What a client's command at this place changed was the newest there is.
    fn one_owner_of(&mut self, group: GroupId, place: CommandPlace) -> Result<(), String> {
        let changed = self.shard_rules.changed_at(group, place);
        changed.into_iter().try_for_each(|(frame, before, after)| self.one_owner.changes(frame, before, after))
    }
}
