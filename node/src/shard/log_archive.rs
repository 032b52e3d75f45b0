//! A shard's log in a backup: pages of it, and what recovering forward must know of the moment before a backup's pages are read.
//!
//! Entries travel as they lie in the log; what callers said in them is sealed already. The page around them is sealed for the
//! repository, because request ids, times and digests are in clear in the log, and bound to its place, to the entry that it
//! begins behind, and to the list that stands beside it in clear: which frames its entries may have changed.

use bytes::Bytes;
use mira_crypto::{RepositoryKey, os_rng};
use mira_proto::{Code, CollectionId, FrameId, Problem, Refusal, ShardId, limits, node_v1};
use mira_raft::EngineError;

use crate::shard::{
    Shard,
    command::{self, OwnershipStep, ShardCommand},
    refuse_proposal, refuse_read,
};

/// Bytes of a frame in the list beside a page: its collection and its id.
const TOUCHED: usize = 24;

/// What the start of recovering a shard forward is bound to.
pub fn start_place(backup: &[u8], shard: ShardId) -> Vec<u8> {
    [b"mira backup start", backup, &shard.to_le_bytes()].concat()
}

/// Where a page of the log belongs.
#[derive(Debug, Clone, Copy)]
pub struct LogPlace<'a> {
    /// The backup.
    pub backup: &'a [u8],
    /// The shard.
    pub shard: ShardId,
    /// Which page of its log.
    pub number: u32,
    /// The entry that it begins behind.
    pub after: u64,
    /// What stands beside it in clear.
    pub touched: &'a [u8],
}

impl LogPlace<'_> {
    fn associated(&self) -> Vec<u8> {
        let beside = blake3::hash(self.touched);
        let (shard, number, after) = (self.shard.to_le_bytes(), self.number.to_le_bytes(), self.after.to_le_bytes());
        [&b"mira backup log"[..], self.backup, &shard, &number, &after, beside.as_bytes()].concat()
    }

    pub(crate) fn seal(&self, key: &RepositoryKey, entries: &[Bytes]) -> Bytes {
        key.seal(&self.associated(), &command::encode(&entries), &mut os_rng()).into()
    }

    /// Opens a page: entries in order, as they lay in the log.
    pub fn open(&self, key: &RepositoryKey, page: &[u8]) -> Result<Vec<Bytes>, Problem> {
        let damaged = |what: String| {
            let (shard, number) = (self.shard, self.number);
            Problem::new(Code::Damaged, format!("page {number} of the log of shard {shard} in the backup: {what}"))
        };
        let plain = key.open(&self.associated(), page, limits::MAX_MESSAGE_BYTES);
        let plain = plain.map_err(|error| damaged(error.to_string()))?;
        command::decode(&plain).map_err(|error| damaged(error.to_string()))
    }
}

/// The frames that a command may change; those of a collection that it removes are not among them.
pub fn touched(command: &ShardCommand) -> Vec<(CollectionId, FrameId)> {
    let of = |collection: CollectionId, frames: &mut dyn Iterator<Item = FrameId>| {
        frames.map(|frame| (collection, frame)).collect()
    };
    match command {
        ShardCommand::Store(frames) => frames.iter().map(|frame| (frame.collection, frame.frame)).collect(),
        ShardCommand::Forget { collection, frames, .. }
        | ShardCommand::Expire { collection, frames }
        | ShardCommand::CutHistory { collection, frames, .. } => of(*collection, &mut frames.iter().copied()),
        ShardCommand::Undelete { collection, frames, .. } => {
            of(*collection, &mut frames.iter().map(|frame| frame.frame))
        }
        ShardCommand::Reseal { collection, versions, .. } => {
            of(*collection, &mut versions.iter().map(|version| version.frame))
        }
        ShardCommand::Restore { collection, frames, .. } => {
            of(*collection, &mut frames.iter().map(|frame| frame.frame))
        }
        ShardCommand::Renew { collection, chunks } => of(*collection, &mut chunks.iter().copied()),
        ShardCommand::Collect { collection, chunks } => of(*collection, &mut chunks.iter().map(|&(chunk, _)| chunk)),
        ShardCommand::Grow { collection, step: OwnershipStep::ApplyPage { frames, gone, .. }, .. } => {
            of(*collection, &mut frames.iter().map(|frame| frame.frame).chain(gone.iter().copied()))
        }
        ShardCommand::Grow { collection, step: OwnershipStep::Cleanup { frames }, .. } => {
            of(*collection, &mut frames.iter().copied())
        }
        ShardCommand::Grow { .. } | ShardCommand::Purge { .. } | ShardCommand::Verify { .. } => Vec::new(),
    }
}

/// The list beside a page.
pub(crate) fn beside(payloads: &[Bytes]) -> Result<Bytes, EngineError> {
    let mut all = Vec::new();
    for payload in payloads {
        all.extend(touched(&ShardCommand::decode(payload)?));
    }
    all.sort_unstable();
    all.dedup();
    let mut list = Vec::with_capacity(TOUCHED * all.len());
    for (collection, frame) in all {
        list.extend(collection.to_be_bytes());
        list.extend(frame.to_be_bytes());
    }
    Ok(list.into())
}

impl<R: mira_raft::Runtime> Shard<R> {
    /// What a replay must know of this moment; on the leader.
    pub async fn backup_start(
        &self,
        key: &RepositoryKey,
        request: &node_v1::BackupStartRequest,
    ) -> Result<node_v1::BackupStartReply, Refusal> {
        self.group.read_index().await.map_err(refuse_read)?;
        let start = tokio::task::block_in_place(|| self.group.archive_start());
        let start = start.map_err(|error| self.unreadable(error))?;
        let sealed = key.seal(&start_place(&request.backup, self.id), &start.encoded, &mut os_rng());
        Ok(node_v1::BackupStartReply { index: start.index, time_ms: start.clock_ms, start: sealed.into() })
    }

    /// One page of the log, as far as this replica has applied it; on the leader.
    pub async fn backup_log(
        &self,
        key: &RepositoryKey,
        request: &node_v1::BackupLogRequest,
    ) -> Result<node_v1::BackupLogReply, Refusal> {
        self.must_lead()?;
        if request.mark {
            // A command that removes nothing: what comes behind it carries no earlier time than it does.
            let payload = ShardCommand::Expire { collection: 0, frames: Vec::new() }.encode();
            self.group.propose(None, payload).await.map_err(refuse_proposal)?;
        }
        let found = tokio::task::block_in_place(|| {
            let found = self.group.archive(request.after, limits::ARCHIVE_PAGE_BYTES)?;
            let touched = beside(&found.payloads)?;
            Ok((found, touched))
        });
        let (found, touched) = found.map_err(|error: EngineError| self.unreadable(error))?;
        let place = LogPlace {
            backup: &request.backup,
            shard: self.id,
            number: request.number,
            after: found.after,
            touched: &touched,
        };
        let page = if found.entries.is_empty() { Bytes::new() } else { place.seal(key, &found.entries) };
        Ok(node_v1::BackupLogReply {
            after: found.after,
            upto: found.upto,
            time_ms: found.time_ms,
            more: found.upto < self.group.reader().applied_index(),
            touched,
            page,
        })
    }
}
