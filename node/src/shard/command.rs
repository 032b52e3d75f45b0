//! Commands of a shard, as they stand in its Raft log, and their answers.
//!
//! Everything a caller said is sealed before it gets here; in clear are numbers, times and keyed digests. A payload is
//! a version byte and postcard.

use bytes::Bytes;
use mira_proto::{CollectionId, FrameId};
use mira_raft::EngineError;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

const VERSION: u8 = 1;

/// One change of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShardCommand {
    /// Stores frames, each for itself.
    Store(Vec<StoreFrame>),
    /// Removes frames by id.
    Forget {
        /// Their collection.
        collection: CollectionId,
        /// Which; unknown ones are passed over.
        frames: Vec<FrameId>,
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
    /// The version it was sealed as: the one it gets, or it is not stored.
    pub version: u64,
    /// When it may take an existing frame's place.
    pub condition: Condition,
    /// Keyed digest of what the caller stored.
    pub digest: [u8; 32],
    /// Keyed tag of its session.
    pub session: Option<[u8; 16]>,
    /// When it is forgotten: milliseconds, 0 = never.
    pub expires_ms: u64,
    /// Number of vectors.
    pub passages: u32,
    /// Sealed body.
    pub body: Bytes,
    /// Sealed vectors; empty when there are none.
    pub vectors: Bytes,
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
    /// Sealed as another version than is next now; the leader seals again on top of this one.
    Raced(u64),
}

/// The answer to a [`ShardCommand`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShardAnswer {
    /// One outcome for each frame, in order.
    Store(Vec<StoreOutcome>),
    /// The frames that were there and are gone.
    Forget(Vec<FrameId>),
    /// Everything of the collection is gone.
    Purge,
    /// The verification has begun.
    Verify,
}

/// Whether a payload is a [`ShardCommand::Verify`], read off its first bytes: asked of every entry that is applied.
pub fn is_verify(payload: &[u8]) -> bool {
    /// The variant's place in [`ShardCommand`], as postcard writes it.
    const VERIFY: u8 = 3;
    payload.first_chunk() == Some(&[VERSION, VERIFY])
}

/// Encodes a command or an answer.
pub fn encode(value: &impl Serialize) -> Bytes {
    postcard::to_extend(value, vec![VERSION]).expect("plain data").into()
}

/// Decodes a command or an answer.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, EngineError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => {
            postcard::from_bytes(rest).map_err(|error| EngineError::Damaged(format!("shard command: {error}")))
        }
        Some((version, _)) => Err(EngineError::Damaged(format!("shard command of unknown version {version}"))),
        None => Err(EngineError::Damaged("empty shard command".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verification_is_known_by_its_first_bytes() {
        assert!(is_verify(&encode(&ShardCommand::Verify { nonce: 300 })));
        for other in [
            ShardCommand::Store(Vec::new()),
            ShardCommand::Forget { collection: 1, frames: vec![1] },
            ShardCommand::Purge { collection: 3 },
        ] {
            assert!(!is_verify(&encode(&other)), "{other:?}");
        }
        assert!(!is_verify(&[]));
    }
}
