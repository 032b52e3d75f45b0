//! Acknowledged is kept, refused is undone.
//!
//! An answer to a write names the index it was applied at: there, the replicas must have applied it and answered so
//! ([`super::state_machine_safety`] and [`super::convergence`] see to it that it stays). And an operation of which its
//! client was told that nothing was done must never change anything, before or after.

use std::collections::{BTreeMap, BTreeSet};

use mira_raft::GroupId;

use super::shard_rules::Effect;

/// What clients were told, and what was done.
#[derive(Default)]
pub struct Acknowledged {
    answers: BTreeMap<(GroupId, u64), (Effect, Vec<u8>)>,
    stored: BTreeMap<u64, (GroupId, u64)>,
    undone: BTreeSet<u64>,
}

impl Acknowledged {
    /// A command was applied for the first time.
    pub fn applied(&mut self, group: GroupId, index: u64, effect: &Effect, answer: &[u8]) -> Result<(), String> {
        self.answers.insert((group, index), (*effect, answer.to_vec()));
        let &Effect::Store { operation, stored: true, .. } = effect else { return Ok(()) };
        self.stored.insert(operation, (group, index));
        match self.undone.contains(&operation) {
            true => Err(format!("operation {operation} stored at {index} of group {group}, but was called undone")),
            false => Ok(()),
        }
    }

    /// A client got this answer.
    pub fn answered(&mut self, operation: u64, group: GroupId, index: u64, answer: &[u8]) -> Result<(), String> {
        let told =
            |what: String| Err(format!("operation {operation} was acknowledged at {index} of group {group}, {what}"));
        match self.answers.get(&(group, index)) {
            None => told("where nothing was applied".into()),
            Some((_, applied)) if applied != answer => told(format!("but the answer there is {applied:?}")),
            Some((Effect::Store { operation: there, .. }, _)) if *there != operation => {
                told(format!("where operation {there} was applied"))
            }
            Some(_) => Ok(()),
        }
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
