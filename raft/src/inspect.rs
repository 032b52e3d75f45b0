//! Looking into a node's stores from outside, whether it runs or not: for checks that must not trust the running code.
//!
//! Nothing here changes a store, and nothing of the consensus library shows.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use crate::codec::{decode_entry, decode_record};
use crate::engine::{EngineError, KeyBounds, Op, Read};
use crate::log_store::{entry_key, entry_of, removal_of, vote_of};
use crate::state::{Applied, generation_prefix, live_generation, scan_table};
use crate::types::{GroupId, NodeId, Vote, index_of};

/// A log entry, without what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoggedEntry {
    /// Its group.
    pub group: GroupId,
    /// Its index.
    pub index: u64,
    /// The term of the leader that wrote it.
    pub term: u64,
    /// That leader.
    pub leader: NodeId,
    /// CRC-32 of all of it.
    pub checksum: u32,
}

impl LoggedEntry {
    fn read(group: GroupId, bytes: &bytes::Bytes) -> Option<Self> {
        let checksum = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
        let id = decode_entry(bytes.clone()).ok()?.log_id;
        Some(Self { group, index: id.index, term: id.leader_id.term, leader: id.leader_id.node_id, checksum })
    }
}

/// The log entry that a change of the log's engine writes, if it writes one.
pub fn logged(op: &Op) -> Option<LoggedEntry> {
    let Op::Put { key, value } = op else { return None };
    LoggedEntry::read(entry_of(key)?, value)
}

/// The group and the term of the vote that a change of the log's engine writes, if it writes one.
pub fn voted(op: &Op) -> Option<(GroupId, u64)> {
    let Op::Put { key, value } = op else { return None };
    let vote: Vote = decode_record(value).ok().filter(|_| vote_of(key).is_some())?;
    Some((vote_of(key)?, vote.leader_id.term))
}

/// The group whose removal a change of the log's engine begins, if it does: from then on what the replica promised is gone.
pub fn removed(op: &Op) -> Option<GroupId> {
    let Op::Put { key, .. } = op else { return None };
    removal_of(key)
}

/// An entry of a group's log as it is on disk.
///
/// # Errors
/// When the engine cannot be read or the entry is damaged.
pub fn entry(log: &dyn Read, group: GroupId, index: u64) -> Result<Option<LoggedEntry>, EngineError> {
    let Some(bytes) = log.get(&entry_key(group, index))? else { return Ok(None) };
    let damaged = || EngineError::Damaged(format!("entry {index} of group {group}"));
    LoggedEntry::read(group, &bytes).map(Some).ok_or_else(damaged)
}

/// What a replica has applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppliedState {
    /// The last entry applied.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// The leader that wrote it.
    pub leader: NodeId,
    /// Digest of everything the replica holds of the group: the application's keys, the remembered requests, the
    /// membership, the log-carried clock.
    pub digest: [u8; 16],
}

/// The voters of a group in the membership that a replica has applied, during a joint change those of both sides, with the
/// index of the entry that made them so.
///
/// # Errors
/// When the engine cannot be read or a record is damaged.
pub fn voters(state: &dyn Read, group: GroupId) -> Result<Option<(u64, BTreeSet<NodeId>)>, EngineError> {
    let Some(generation) = live_generation(state, group)? else { return Ok(None) };
    let members = Applied::load(state, group, generation)?.membership;
    Ok(Some((index_of(members.log_id().as_ref()), members.membership().voter_ids().collect())))
}

/// The applied state of a group; `None` before anything was applied.
///
/// # Errors
/// When the engine cannot be read or a record is damaged.
pub fn applied(state: &dyn Read, group: GroupId) -> Result<Option<AppliedState>, EngineError> {
    let Some(generation) = live_generation(state, group)? else { return Ok(None) };
    let Some(last) = Applied::load(state, group, generation)?.last else { return Ok(None) };
    let mut hash = blake3::Hasher::new();
    scan_table(state, &generation_prefix(group, generation), KeyBounds::ALL, false, &mut |key, value| {
        for part in [key, value] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        ControlFlow::Continue(())
    })?;
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash.finalize().as_bytes()[..16]);
    Ok(Some(AppliedState { index: last.index, term: last.leader_id.term, leader: last.leader_id.node_id, digest }))
}
