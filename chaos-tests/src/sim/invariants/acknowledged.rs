//! Acknowledged is kept, refused is undone.
//!
//! An answer to a write names the index it was applied at: in that entry, which may hold writes of others too, the replicas
//! must have applied it and answered so ([`super::state_machine_safety`] and [`super::convergence`] see to it that it stays).
//! And an operation of which its client was told that nothing was done must never change anything, before or after.

use std::collections::{BTreeMap, BTreeSet};

use mira_node::shard::command::{self, ShardAnswer};
use mira_raft::GroupId;

use super::CommandPlace;
use super::shard_rules::Effect;
use crate::sim::protocol::Told;

/// What clients were told, and what was done.
#[derive(Default)]
pub struct Acknowledged {
    answers: BTreeMap<(GroupId, CommandPlace), (Effect, Vec<u8>)>,
    stored: BTreeMap<u64, (GroupId, u64)>,
    undone: BTreeSet<u64>,
}

impl Acknowledged {
    /// A command was applied for the first time.
    pub fn applied(
        &mut self,
        group: GroupId,
        place: CommandPlace,
        effect: &Effect,
        answer: &[u8],
    ) -> Result<(), String> {
        let index = place.0;
        self.answers.insert((group, place), (*effect, answer.to_vec()));
        let &Effect::Store { operation, stored: true, .. } = effect else { return Ok(()) };
        self.stored.insert(operation, (group, index));
        match self.undone.contains(&operation) {
            true => Err(format!("operation {operation} stored at {index} of group {group}, but was called undone")),
            false => Ok(()),
        }
    }

    /// A client was told that its store had this outcome at this place.
    pub fn answered(&mut self, operation: u64, (group, index): (GroupId, u64), told: Told) -> Result<(), String> {
        let wrong =
            |what: String| Err(format!("operation {operation} was told {told:?} at {index} of group {group}, {what}"));
        let entry = || self.answers.range((group, (index, 0))..=(group, (index, u32::MAX))).map(|(_, applied)| applied);
        // A command that was told that its frame has moved did not get as far as to show whose it is.
        let own =
            entry().find(|(effect, _)| matches!(effect, Effect::Store { operation: there, .. } if *there == operation));
        let Some((_, answer)) = own.or_else(|| entry().find(|(effect, _)| *effect == Effect::Moved)) else {
            let there: Vec<Effect> = entry().map(|(effect, _)| *effect).collect();
            return wrong(format!("where {there:?} happened"));
        };
        match command::decode(answer) {
            Ok(ShardAnswer::Store(outcomes)) if outcomes.len() == 1 && Told::from(outcomes[0]) == told => Ok(()),
            other => wrong(format!("but the answer there is {other:?}")),
        }
    }

    /// Whether an operation stored its frame at this place.
    pub fn has_stored(&self, operation: u64, place: (GroupId, u64)) -> bool {
        self.stored.get(&operation) == Some(&place)
    }

    /// A client was told that nothing was done.
    pub fn refused(&mut self, operation: u64) -> Result<(), String> {
        self.undone.insert(operation);
        match self.stored.get(&operation) {
            None => Ok(()),
            Some((group, index)) => {
                Err(format!("operation {operation} was called undone, but stored at {index} of group {group}"))
            }
        }
    }

    /// How many commands were applied.
    pub fn commands(&self) -> u64 {
        self.answers.len() as u64
    }
}
