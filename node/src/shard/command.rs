//! Commands of a shard, as they stand in its Raft log, and their answers.
//!
//! Everything a caller said is sealed before it gets here; in clear are numbers, times and keyed digests. A payload is
//! a version byte and postcard; that of a command has [`Extensions`] between the two, for what later releases say of a
//! command as a whole.

use bytes::Bytes;
use mira_proto::{CollectionId, Extensions, FrameId, ShardId};
use mira_raft::EngineError;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::shard::{
    history::{Ending, HistoryBounds, PastVersion, bytes_of},
    migration::ownership::{Ownership, Span},
    record::FrameRecord,
};

const VERSION: u8 = 1;
/// Version 1 of commands had no extensions.
const COMMAND_VERSION: u8 = 2;
/// Version 2 had one version of a frame only.
const MIGRATED_VERSION: u8 = 3;

/// One change of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShardCommand {
    /// Stores frames, each for itself.
    Store(Vec<StoreFrame>),
    /// Removes frames by id, with all their versions.
    Forget {
        /// Their collection.
        collection: CollectionId,
        /// Which; unknown ones are passed over, and those that are not the asker's to remove.
        frames: Vec<FrameId>,
        /// Who asks.
        asker: Asker,
        /// Whether they rest in the bin for a while; what rests there already is passed over then.
        into_bin: bool,
        /// Whether the request that it is a step of goes on: the answer says so to who asks again.
        more: bool,
    },
    /// Removes everything of a collection.
    Purge {
        /// Which.
        collection: CollectionId,
    },
    /// Has every replica read and digest its whole state as of this command.
    Verify {
        /// Names the verification.
        nonce: u64,
    },
    /// Removes those of these frames whose time is over, by the log's clock.
    Expire {
        /// Their collection.
        collection: CollectionId,
        /// Which.
        frames: Vec<FrameId>,
    },
    /// One step of a collection that grows.
    Grow {
        /// Which collection.
        collection: CollectionId,
        /// The shard that takes the step.
        shard: ShardId,
        /// From how many partitions to how many.
        span: Span,
        /// What it does.
        step: OwnershipStep,
    },
    /// Puts frames that were sealed anew in the place of what is there, and takes none any more that an older key sealed.
    Reseal {
        /// Which collection.
        collection: CollectionId,
        /// Version of the key.
        to: u32,
        /// Their versions, current and past.
        versions: Vec<ResealedVersion>,
        /// Whether these were the last ones.
        complete: bool,
    },
    /// Puts frames of a backup in the place of what is there of them.
    Restore {
        /// Which collection.
        collection: CollectionId,
        /// The frames.
        frames: Vec<MigratedFrame>,
        /// The greatest version of a frame of the collection that had ended by then.
        ended_version: u64,
    },
    /// Notes that chunks are needed again.
    Renew {
        /// Their collection.
        collection: CollectionId,
        /// Which; unknown ones are passed over.
        chunks: Vec<FrameId>,
    },
    /// Removes chunks that no frame refers to.
    Collect {
        /// Their collection.
        collection: CollectionId,
        /// Which, with the log position of their last change: one that was stored again since stays.
        chunks: Vec<(FrameId, u64)>,
    },
    /// Removes what is over of the past of frames, and frames that rested in the bin for long enough.
    CutHistory {
        /// Their collection.
        collection: CollectionId,
        /// Which; unknown ones are passed over.
        frames: Vec<FrameId>,
        /// What is over.
        bounds: HistoryBounds,
        /// Whether no other frame has more past versions than that.
        complete: bool,
    },
    /// Brings frames back from the bin, each as a new version.
    Undelete {
        /// Their collection.
        collection: CollectionId,
        /// Which.
        frames: Vec<UndeletedFrame>,
        /// Who asks.
        asker: Asker,
        /// Past versions of each that stay.
        keep_versions: u32,
    },
}

/// A version of a frame sealed with another key, if it is still there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResealedVersion {
    /// The frame's id.
    pub frame: FrameId,
    /// The version's number.
    pub version: u64,
    /// Digest of the fields that it is bound to ([`crate::shard::record::FrameFields::fingerprint`]).
    pub fields: [u8; 16],
    /// Its sealed body.
    pub body: Bytes,
    /// Its sealed vectors; empty when there are none.
    pub vectors: Bytes,
}

/// A frame that is to come back from the bin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndeletedFrame {
    /// Its id.
    pub frame: FrameId,
    /// What rested there, sealed as another version; none if the leader found nothing.
    pub anew: Option<SealedAnew>,
}

/// What rested in the bin, sealed as the version that it becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedAnew {
    /// The version that rests in the bin.
    pub from: u64,
    /// As in [`StoreFrame`].
    pub record: FrameRecord,
    /// As in [`StoreFrame`].
    pub vectors: Bytes,
    /// As in [`StoreFrame`].
    pub key_version: u32,
}

/// What a shard does for a collection that grows ([`super::migration::ownership`]). Every step may be repeated: what has been done, or
/// fits nothing, changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OwnershipStep {
    /// A source changes the frames of this target no more.
    Freeze {
        /// Who gets them.
        target: ShardId,
        /// A reader's map must be at least this new from here on.
        min_epoch: u64,
    },
    /// A target begins a pass over the frames of a source.
    BeginPass {
        /// Who holds them.
        source: ShardId,
        /// Which pass.
        pass: u32,
        /// The source's log position now; of the last pass, that of its release.
        start: u64,
        /// Whether the source has frozen them.
        last: bool,
    },
    /// A target takes one page of a pass.
    ApplyPage {
        /// Who held the frames.
        source: ShardId,
        /// Which pass.
        pass: u32,
        /// The page begins behind this frame.
        after: Option<FrameId>,
        /// And ends with this one; the pass ends with it if there is none.
        upto: Option<FrameId>,
        /// Frames that are new or have changed.
        frames: Vec<MigratedFrame>,
        /// Frames that the target has of that range, and the source does not.
        gone: Vec<FrameId>,
        /// The greatest version that a frame had which the source has removed.
        ended_version: u64,
    },
    /// A source hears that every target has opened what it got.
    Finalize {
        /// A reader's map must be at least this new from here on.
        min_epoch: u64,
    },
    /// A finalized source removes frames that moved.
    Cleanup {
        /// Which.
        frames: Vec<FrameId>,
    },
}

/// A frame that moves to another shard, or lies in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigratedFrame {
    /// Its id.
    pub frame: FrameId,
    /// All that is kept of its newest version, times and number as they were.
    pub record: FrameRecord,
    /// Sealed vectors; empty when there are none.
    pub vectors: Bytes,
    /// Of one that rests in the bin: when the newest version ended.
    pub binned: Option<Ending>,
    /// The versions before that, the oldest first.
    pub past: Vec<PastVersion>,
}

impl MigratedFrame {
    /// What it takes with all its versions.
    pub fn bytes(&self) -> usize {
        let past = self.past.iter().map(|past| bytes_of(&past.record, &past.vectors));
        bytes_of(&self.record, &self.vectors) + past.sum::<usize>()
    }

    /// As it travels between shards: a version byte and postcard.
    pub fn encode(&self) -> Bytes {
        postcard::to_extend(self, vec![MIGRATED_VERSION]).expect("plain data").into()
    }

    /// Reads what [`Self::encode`] gave.
    pub fn decode(bytes: &[u8]) -> Result<Self, EngineError> {
        match bytes.split_first() {
            Some((&MIGRATED_VERSION, rest)) => {
                postcard::from_bytes(rest).map_err(|error| EngineError::Damaged(format!("migrated frame: {error}")))
            }
            _ => Err(EngineError::Damaged("migrated frame of unknown version".into())),
        }
    }
}

/// Whose frames a command may remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asker {
    /// Plain ones.
    Anyone,
    /// Plain ones, and the private ones of this owner.
    Owner([u8; 16]),
    /// All of them: what the shard does by itself, and no caller.
    Operator,
}

impl Asker {
    /// Whether it may remove a frame of that owner.
    pub fn may_remove(&self, owner: Option<[u8; 16]>) -> bool {
        match (self, owner) {
            (_, None) | (Asker::Operator, _) => true,
            (Asker::Owner(asker), Some(owner)) => *asker == owner,
            (Asker::Anyone, Some(_)) => false,
        }
    }
}

/// When an existing frame may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Never: the id must be new, or hold the same content.
    Create,
    /// Always.
    Replace,
    /// If this version is current; 0 = the id must be new.
    Expect(u64),
}

/// A sealed frame on its way into the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreFrame {
    /// Its collection.
    pub collection: CollectionId,
    /// Its id.
    pub frame: FrameId,
    /// When it may take an existing frame's place.
    pub condition: Condition,
    /// Whether its position and time of creation are those of the version before it: then it is not stored if that has
    /// others.
    pub keeps_origin: bool,
    /// What is kept of it, sealed as the version that it gets, or it is not stored. Its leader has set the times.
    pub record: FrameRecord,
    /// Sealed vectors; empty when there are none.
    pub vectors: Bytes,
    /// Version of the collection's key that sealed them.
    pub key_version: u32,
    /// Past versions of the frame that stay, the one that it replaces among them.
    pub keep_versions: u32,
}

/// What became of one [`StoreFrame`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreOutcome {
    /// Stored as this version.
    Stored(u64),
    /// The same content was there already, as this version.
    Same(u64),
    /// Other content is there, and the condition does not allow replacing this version of it.
    Conflict(u64),
    /// Sealed as another version than is next now, or with a key that is on its way out; the leader seals again on top of
    /// this one.
    Raced(u64),
    /// The frame has moved to another shard, or is about to: ask there.
    Moved,
    /// The id holds a private frame of another owner.
    Foreign,
}

/// The answer to a [`ShardCommand`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShardAnswer {
    /// One outcome for each frame, in order.
    Store(Vec<StoreOutcome>),
    /// What became of the frames that were to go.
    Forget {
        /// Those that were there and are gone.
        removed: Vec<FrameId>,
        /// Those that another shard decides about.
        moved: Vec<FrameId>,
        /// As in the command.
        more: bool,
        /// When those that rest in the bin were put there, by the log's clock; 0 = they are gone for good.
        binned_ms: u64,
    },
    /// Everything of the collection is gone.
    Purge,
    /// The verification has begun.
    Verify,
    /// So many frames were over and are gone.
    Expire(u32),
    /// How the shard stands in the growth now; none if it has no part in it.
    Grow(Option<Ownership>),
    /// So many versions took the place of what was there.
    Reseal(u32),
    /// The frames of the backup are there.
    Restore,
    /// Of each chunk, whether it is there.
    Renew(Vec<bool>),
    /// So many chunks are gone.
    Collect(u32),
    /// So many versions are gone.
    CutHistory(u32),
    /// One outcome for each frame, in order.
    Undelete(Vec<UndeleteOutcome>),
}

/// What became of one [`UndeletedFrame`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UndeleteOutcome {
    /// It is there again, as this version.
    Restored(u64),
    /// It was not forgotten: this version is current.
    Current(u64),
    /// There is nothing of it.
    Missing,
    /// It is not what its leader found; the leader seals again.
    Raced,
    /// As in [`StoreOutcome`].
    Moved,
    /// As in [`StoreOutcome`].
    Foreign,
}

/// Whether a payload is a [`ShardCommand::Verify`], read off its first bytes: asked of every command that is applied.
pub fn is_verify(payload: &[u8]) -> bool {
    /// The variant's place in [`ShardCommand`], as postcard writes it.
    const VERIFY: u8 = 3;
    variant_of(payload) == Some(VERIFY)
}

/// Whether a payload is what callers ask for all the time, and many at once: a [`ShardCommand::Store`] or a
/// [`ShardCommand::Forget`]. Read off its first bytes.
pub fn is_write(payload: &[u8]) -> bool {
    const STORE: u8 = 0;
    const FORGET: u8 = 1;
    matches!(variant_of(payload), Some(STORE | FORGET))
}

/// The variant of a command, as postcard writes it.
fn variant_of(payload: &[u8]) -> Option<u8> {
    let rest = payload.strip_prefix(&[COMMAND_VERSION])?;
    let (_, command) = postcard::take_from_bytes::<Extensions>(rest).ok()?;
    command.first().copied()
}

impl ShardCommand {
    /// The payload of a proposal.
    pub fn encode(&self) -> Bytes {
        postcard::to_extend(&(Extensions::default(), self), vec![COMMAND_VERSION]).expect("plain data").into()
    }

    /// Reads a payload. What a later release says beside the command is for replicas that know it: no node proposes such
    /// a command before the cluster's format level says that all do.
    pub fn decode(payload: &[u8]) -> Result<Self, EngineError> {
        let damaged = |what: String| EngineError::Damaged(format!("shard command {what}"));
        match payload.split_first() {
            Some((&COMMAND_VERSION, rest)) => postcard::from_bytes::<(Extensions, ShardCommand)>(rest)
                .map(|(_, command)| command)
                .map_err(|error| damaged(format!("that cannot be read: {error}"))),
            Some((version, _)) => Err(damaged(format!("of unknown version {version}"))),
            None => Err(damaged("without a byte".into())),
        }
    }
}

/// Encodes an answer.
pub fn encode(value: &impl Serialize) -> Bytes {
    postcard::to_extend(value, vec![VERSION]).expect("plain data").into()
}

/// Decodes what [`encode`] gave.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, EngineError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => {
            postcard::from_bytes(rest).map_err(|error| EngineError::Damaged(format!("shard answer: {error}")))
        }
        Some((version, _)) => Err(EngineError::Damaged(format!("shard answer of unknown version {version}"))),
        None => Err(EngineError::Damaged("empty shard answer".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verification_is_known_by_its_first_bytes() {
        let verify = ShardCommand::Verify { nonce: 300 };
        assert!(is_verify(&verify.encode()) && !is_write(&verify.encode()));
        let mut extensions = Extensions::default();
        extensions.set(9, "of a later release");
        let later = postcard::to_extend(&(extensions, &verify), vec![COMMAND_VERSION]).expect("plain data");
        assert!(is_verify(&later) && !is_write(&later));
        assert_eq!(ShardCommand::decode(&later).expect("readable"), verify);
        for other in [
            ShardCommand::Store(Vec::new()),
            ShardCommand::Forget { collection: 1, frames: vec![1], asker: Asker::Anyone, into_bin: true, more: false },
            ShardCommand::Purge { collection: 3 },
            ShardCommand::Expire { collection: 3, frames: vec![1] },
        ] {
            assert!(!is_verify(&other.encode()), "{other:?}");
        }
        assert!(!is_verify(&[]) && !is_write(&[]));
    }

    #[test]
    fn a_write_is_known_by_its_first_bytes() {
        let forget =
            ShardCommand::Forget { collection: 1, frames: vec![1], asker: Asker::Anyone, into_bin: true, more: false };
        assert!(is_write(&ShardCommand::Store(Vec::new()).encode()) && is_write(&forget.encode()));
        for other in [
            ShardCommand::Purge { collection: 3 },
            ShardCommand::Expire { collection: 3, frames: vec![1] },
            ShardCommand::Renew { collection: 3, chunks: vec![1] },
            ShardCommand::Collect { collection: 3, chunks: vec![(1, 2)] },
        ] {
            assert!(!is_write(&other.encode()), "{other:?}");
        }
    }
}
