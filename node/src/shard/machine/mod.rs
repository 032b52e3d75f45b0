//! A shard's state machine: the rules by which frames enter a shard or leave it.
//!
//! Deterministic and blind: it decides by versions, digests and times in clear, and never opens anything. Each command is
//! one function over a `Transition` of the state; after each batch the indexer is told which frames changed.

mod chunks;
#[cfg(test)]
mod extremes;
mod forget;
mod history;
mod ingest;
mod migrate;
mod ownership_lookup;
mod reseal;
mod store;
mod tables;
mod transition;
mod undelete;

use std::sync::Arc;

use bytes::Bytes;
use mira_proto::{CollectionId, FrameId, vectors::SpaceSet};
use mira_raft::{Command, EngineError, StateMachine, StateReader, Txn};
use parking_lot::Mutex;

use crate::shard::{
    command::{self, ShardAnswer, ShardCommand},
    migration::ownership::PlacementCache,
    record::KeyFloor,
    verify::Verifier,
};

pub(crate) use ingest::ingest;
pub use tables::decode_count;
pub(crate) use tables::last_position;
pub(crate) use transition::{LogStamp, Transition};

/// A change that derived state has to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A frame got a new version.
    Stored {
        /// Its collection.
        collection: CollectionId,
        /// Its id.
        frame: FrameId,
        /// Its version.
        version: u64,
        /// When it was first stored.
        created_ms: u64,
        /// When it is forgotten, 0 = never.
        expires_ms: u64,
        /// The spaces in which it has vectors.
        spaces: SpaceSet,
        /// Its sealed vectors; empty for none.
        vectors: Bytes,
    },
    /// A frame is gone.
    Removed {
        /// Its collection.
        collection: CollectionId,
        /// Its id.
        frame: FrameId,
    },
    /// A collection is gone.
    Purged {
        /// The collection that is gone.
        collection: CollectionId,
    },
}

impl Change {
    /// The collection that changed.
    pub fn collection(&self) -> CollectionId {
        match self {
            Change::Stored { collection, .. } | Change::Removed { collection, .. } | Change::Purged { collection } => {
                *collection
            }
        }
    }
}

/// Follows the changes of a shard.
pub trait Follower: Send + Sync + 'static {
    /// These changes are visible to readers now; `applied_index` is the log position they end at.
    fn changed(&self, changes: Vec<Change>, applied_index: u64);
    /// The whole state was replaced.
    fn replaced(&self, state: StateReader, applied_index: u64);
}

/// Applies shard commands.
pub struct ShardMachine {
    follower: Arc<dyn Follower>,
    /// Changes of the batch that is being applied.
    pending: Mutex<Vec<Change>>,
    /// The verification that the batch ends with.
    verification: Mutex<Option<u64>>,
    verifier: Arc<Verifier>,
    placement: PlacementCache,
}

impl ShardMachine {
    /// A machine that reports to `follower`, and what it meets while it verifies to `verifier`.
    pub fn new(follower: Arc<dyn Follower>, verifier: Arc<Verifier>) -> Self {
        ShardMachine {
            follower,
            pending: Mutex::default(),
            verification: Mutex::default(),
            verifier,
            placement: PlacementCache::default(),
        }
    }
}

impl StateMachine for ShardMachine {
    fn apply(&self, command: Command<'_>, txn: &mut Txn<'_>) -> Result<Bytes, EngineError> {
        let at = LogStamp { index: command.index, time_ms: command.time_ms };
        self.carry_out(ShardCommand::decode(command.payload)?, at, txn)
    }

    /// Writes, which know the entry that they came with, but never each other's. Steps of growths, keys and verifications
    /// have an entry of their own: what is said of an index is said of one step.
    fn shares_entry(&self, payload: &[u8]) -> bool {
        command::is_write(payload)
    }

    fn ends_batch(&self, payload: &[u8]) -> bool {
        command::is_verify(payload)
    }

    fn committed(&self, applied_index: u64) {
        if let Some(nonce) = self.verification.lock().take() {
            self.verifier.begin(nonce, applied_index);
        }
        let changes = std::mem::take(&mut *self.pending.lock());
        self.follower.changed(changes, applied_index);
    }

    fn restored(&self, state: StateReader, applied_index: u64) {
        self.pending.lock().clear();
        self.verification.lock().take();
        self.verifier.state_is(state.clone());
        self.follower.replaced(state, applied_index);
    }
}

impl ShardMachine {
    /// Carries a command out at its place in the log.
    pub(crate) fn carry_out(
        &self,
        command: ShardCommand,
        at: LogStamp,
        txn: &mut Txn<'_>,
    ) -> Result<Bytes, EngineError> {
        let mut state = Transition::new(at, &self.placement, txn);
        let answer = self.apply_to(&mut state, command)?;
        self.pending.lock().append(&mut state.changes);
        Ok(command::encode(&answer))
    }

    /// The function of each command.
    fn apply_to(&self, state: &mut Transition<'_, '_>, command: ShardCommand) -> Result<ShardAnswer, EngineError> {
        match command {
            ShardCommand::Store(frames) => store::store(frames, state),
            ShardCommand::Forget { collection, frames, asker, into_bin, more } => {
                forget::forget(forget::Removal { collection, frames, asker, into_bin, more }, state)
            }
            ShardCommand::Purge { collection } => Ok(forget::purge(collection, state)),
            ShardCommand::Expire { collection, frames } => forget::expire(collection, frames, state),
            ShardCommand::Reseal { collection, to, versions, complete } => {
                let complete_at = if complete { state.at.index } else { 0 };
                reseal::reseal(collection, KeyFloor { version: to, complete_at }, versions, state)
            }
            ShardCommand::Restore { collection, frames, ended_version } => {
                ingest::restore(collection, frames, ended_version, state)
            }
            ShardCommand::Renew { collection, chunks } => chunks::renew(collection, chunks, state),
            ShardCommand::Collect { collection, chunks } => chunks::collect(collection, chunks, state),
            ShardCommand::CutHistory { collection, frames, bounds, complete } => {
                history::cut(collection, frames, (bounds, complete), state)
            }
            ShardCommand::Undelete { collection, frames, asker, keep_versions } => {
                undelete::undelete(undelete::Undeletion { collection, frames, asker, keep_versions }, state)
            }
            ShardCommand::Verify { nonce } => {
                *self.verification.lock() = Some(nonce);
                Ok(ShardAnswer::Verify)
            }
            ShardCommand::Grow { collection, shard, span, step } => {
                migrate::take_step(migrate::GrowthPart { collection, shard, span }, step, state)
            }
        }
    }
}
