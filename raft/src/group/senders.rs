//! Whose messages a replica looks at.
//!
//! A vote, an append or a snapshot of a node that is no member of the group could stop its elections or make up its log,
//! and a term out of all proportion could not be followed by another one. Both are refused before the library sees them,
//! whatever the transport has let through. A replica whose own membership is behind asks the rest of the program who is
//! meant to be a member ([`crate::HostConfig::members`]): a candidate that this replica has not heard of yet may be the
//! only one that can lead.

use openraft::async_runtime::WatchReceiver;

use super::Group;
use crate::types::{NodeId, Runtime, Vote};
use crate::wire::{Refusal, Status};

/// How far a term may be ahead of a replica's own, once it has one: more elections than happen while a replica is away for
/// years, and few enough that terms never end.
const MAX_TERM_LEAP: u64 = 1 << 20;

impl<R: Runtime> Group<R> {
    /// Whether a node is a member, as far as this replica knows.
    pub(crate) fn has_member(&self, node: NodeId) -> bool {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.membership_config.membership();
        members.voter_ids().chain(members.learner_ids()).any(|member| member == node)
    }

    /// Has this replica campaign by itself, unless it lacks what one before it on this node had promised.
    pub(super) fn campaign_only_with_promises_kept(&self) {
        self.raft().runtime_config().elect(self.inner.parts.entries.keeps_promises());
    }

    /// Refuses to vote as long as this replica lacks what one before it on this node had promised.
    pub(super) fn may_vote(&self) -> Result<(), Refusal> {
        if self.inner.parts.entries.keeps_promises() {
            return Ok(());
        }
        let text = format!("the replica of group {} here has not caught up since another one left", self.id());
        Err(Refusal::new(Status::NoGroup, text))
    }

    /// Refuses a message under a vote that nobody can have who belongs to the group.
    pub(super) fn check_sender(&self, vote: &Vote) -> Result<(), Refusal> {
        let (term, sender) = (vote.leader_id.term, vote.leader_id.node_id);
        if !self.has_member(sender) && !(self.config().members)(self.id(), sender) {
            let text = format!("node {sender:016x} is no member of group {}", self.id());
            return Err(Refusal::new(Status::Malformed, text));
        }
        let own = self.raft().metrics().borrow_watched().current_term;
        if own > 0 && term > own.saturating_add(MAX_TERM_LEAP) {
            let text = format!("term {term} is too far ahead of {own}");
            return Err(Refusal::new(Status::Malformed, text));
        }
        Ok(())
    }
}
