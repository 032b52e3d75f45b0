//! Messages between nodes, as opaque versioned bytes.
//!
//! Request: `version (1) = 1 · kind (1) · group (4, little-endian) · body`. Reply: `version (1) = 1 · status (1) · body`.
//! Bodies are postcard, except that log entries and snapshot chunks follow their header as raw bytes, so that they are
//! neither copied nor re-encoded.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec::{CodecError, decode_entry, payload_len, put_entry, to_postcard};
use crate::types::{Entry, GroupId, LogId, NodeId, SnapshotMeta, Vote};

const VERSION: u8 = 1;
const HEADER: usize = 6;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Append = 1,
    Vote = 2,
    PreVote = 3,
    TransferLeader = 4,
    SnapshotOffer = 5,
    SnapshotChunk = 6,
    SnapshotFinish = 7,
    /// Of a node, not of a group: the place of the group is empty.
    NodeHeartbeat = 8,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        use Kind::*;
        [Append, Vote, PreVote, TransferLeader, SnapshotOffer, SnapshotChunk, SnapshotFinish, NodeHeartbeat]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Why a peer did not answer a request; anything but `Ok` carries a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    Ok = 0,
    /// The group is not open there.
    NoGroup = 1,
    /// The group has stopped there.
    Stopped = 2,
    /// The request's version is not known there.
    Unsupported = 3,
    /// The request cannot be read.
    Malformed = 4,
}

/// Why a request got no answer of its kind: what a reply says instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub status: Status,
    pub text: String,
}

impl Refusal {
    pub(crate) fn new(status: Status, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// The reply that says so.
    pub(crate) fn reply(&self) -> Bytes {
        reply(self.status, self.text.as_bytes())
    }
}

/// Starts a request.
pub(crate) fn request(kind: Kind, group: GroupId, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(HEADER + body.len());
    out.put_u8(VERSION);
    out.put_u8(kind as u8);
    out.put_u32_le(group);
    out.put_slice(body);
    out
}

/// Takes a request apart.
pub(crate) fn parse_request(mut bytes: Bytes) -> Result<(Kind, GroupId, Bytes), Refusal> {
    if bytes.len() < HEADER {
        return Err(Refusal::new(Status::Malformed, "shorter than its header"));
    }
    let version = bytes.get_u8();
    if version != VERSION {
        return Err(Refusal::new(Status::Unsupported, format!("version {version}; this node knows {VERSION}")));
    }
    let kind = bytes.get_u8();
    let kind = Kind::of(kind).ok_or_else(|| Refusal::new(Status::Unsupported, format!("kind {kind}")))?;
    Ok((kind, bytes.get_u32_le(), bytes))
}

/// A reply.
pub(crate) fn reply(status: Status, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(2 + body.len());
    out.put_u8(VERSION);
    out.put_u8(status as u8);
    out.put_slice(body);
    out.freeze()
}

/// Takes a reply apart: its body, or why there is none.
pub(crate) fn parse_reply(mut bytes: Bytes) -> Result<Bytes, Refusal> {
    if bytes.len() < 2 || bytes.get_u8() != VERSION {
        return Err(Refusal::new(Status::Unsupported, "reply of an unknown version"));
    }
    let status = match bytes.get_u8() {
        0 => return Ok(bytes),
        1 => Status::NoGroup,
        2 => Status::Stopped,
        3 => Status::Unsupported,
        _ => Status::Malformed,
    };
    Err(Refusal::new(status, String::from_utf8_lossy(&bytes)))
}

#[derive(Serialize, Deserialize)]
struct AppendHeader {
    vote: Vote,
    prev: Option<LogId>,
    commit: Option<LogId>,
    /// Milliseconds since a quorum last answered the sender.
    quorum_age_ms: u32,
    entries: u32,
}

/// The parts of a request to append, whatever the runtime's type parameters.
pub(crate) struct Append {
    pub vote: Vote,
    pub prev: Option<LogId>,
    pub commit: Option<LogId>,
    /// How long ago a quorum last answered the sender.
    pub quorum_age: Duration,
    pub entries: Vec<Entry>,
}

pub(crate) fn encode_append(group: GroupId, append: &Append) -> Bytes {
    let header = AppendHeader {
        vote: append.vote,
        prev: append.prev.clone(),
        commit: append.commit.clone(),
        quorum_age_ms: u32::try_from(append.quorum_age.as_millis()).unwrap_or(u32::MAX),
        entries: append.entries.len() as u32,
    };
    let mut out = request(Kind::Append, group, &to_postcard(&header));
    out.reserve(append.entries.iter().map(|entry| payload_len(entry) + 96).sum());
    for entry in &append.entries {
        let at = out.len();
        out.put_u32_le(0);
        put_entry(&mut out, entry);
        let (length, encoded) = out[at..].split_at_mut(4);
        length.copy_from_slice(&(encoded.len() as u32).to_le_bytes());
    }
    out.freeze()
}

pub(crate) fn decode_append(body: Bytes) -> Result<Append, CodecError> {
    let (header, mut rest) = take::<AppendHeader>(body)?;
    let mut entries = Vec::with_capacity(header.entries.min(65_536) as usize);
    for _ in 0..header.entries {
        let length = rest.try_get_u32_le().map_err(|_| CodecError::Short)? as usize;
        if rest.len() < length {
            return Err(CodecError::Short);
        }
        entries.push(decode_entry(rest.split_to(length))?);
    }
    let quorum_age = Duration::from_millis(header.quorum_age_ms.into());
    Ok(Append { vote: header.vote, prev: header.prev, commit: header.commit, quorum_age, entries })
}

/// A postcard header, and the raw bytes after it.
pub(crate) fn take<T: DeserializeOwned>(body: Bytes) -> Result<(T, Bytes), CodecError> {
    let (header, rest) = postcard::take_from_bytes::<T>(&body)?;
    let used = body.len() - rest.len();
    Ok((header, body.slice(used..)))
}

/// Asks whether, and from where, a snapshot is wanted.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotOffer {
    pub vote: Vote,
    pub snapshot: u128,
    pub last: Option<LogId>,
    /// Forget what was received of it: the sender cannot go on from there.
    pub from_start: bool,
}

/// Heads a chunk.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ChunkHeader {
    pub snapshot: u128,
    pub seq: u64,
    pub pairs: u64,
    /// CRC-32 of the body.
    pub crc: u32,
}

/// Ends a snapshot: what the receiver must have by now.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotFinish {
    pub vote: Vote,
    pub snapshot: u128,
    pub meta: SnapshotMeta,
    pub chunks: u64,
    pub pairs: u64,
    pub chain: [u8; 16],
}

/// The receiver's side of a snapshot.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SnapshotReply {
    /// It holds this much; send the next.
    Continue { chunks: u64, chain: [u8; 16] },
    /// It is at least as far; its vote.
    Installed(Vote),
    /// It follows a newer leader.
    HigherVote(Vote),
    /// What it holds does not fit: offer again, from the start.
    Restart,
}

/// Says that a node lives, and which of its groups rest: see [`crate::quiescence`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeHeartbeat {
    /// The sender.
    pub from: NodeId,
    /// The answer to what the receiver's last reply offered.
    pub heard: Option<Heard>,
    /// Groups that the sender leads, the receiver is a member of, and that rest or would.
    pub groups: Vec<RestingGroup>,
}

/// Answers a node heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeHeartbeatReply {
    /// Of the groups that were offered, those that do not rest here.
    pub refused: Vec<GroupId>,
    /// Names this reply, for the answer to it.
    pub number: u64,
    /// The same of the groups that the replier leads.
    pub groups: Vec<RestingGroup>,
}

/// What a member makes of the offers in a reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Heard {
    /// The reply's number.
    pub number: u64,
    /// Of the groups in it, those that do not rest here.
    pub refused: Vec<GroupId>,
}

/// A group at rest, as its leader knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RestingGroup {
    pub group: GroupId,
    pub vote: Vote,
    /// The last entry of all members, applied by each.
    pub log: LogId,
    /// Milliseconds since a quorum last accepted this.
    pub quorum_age_ms: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_another_version_or_shape_are_refused() {
        let good = request(Kind::Vote, 7, b"body").freeze();
        let (kind, group, body) = parse_request(good.clone()).unwrap();
        assert_eq!((kind, group, &body[..]), (Kind::Vote, 7, &b"body"[..]));

        let mut newer = good.to_vec();
        newer[0] = 9;
        assert_eq!(parse_request(newer.into()).unwrap_err().status, Status::Unsupported);
        let mut unknown = good.to_vec();
        unknown[1] = 99;
        assert_eq!(parse_request(unknown.into()).unwrap_err().status, Status::Unsupported);
        assert_eq!(parse_request(good.slice(..5)).unwrap_err().status, Status::Malformed);
    }

    #[test]
    fn a_cut_append_is_an_error() {
        let vote = Vote::new_committed(1, 2);
        let entry = Entry {
            log_id: crate::types::LogId { leader_id: vote.leader_id, index: 4 },
            payload: crate::types::Payload::Blank,
        };
        let append =
            Append { vote, prev: None, commit: None, quorum_age: Duration::from_millis(70), entries: vec![entry] };
        let body = encode_append(3, &append).slice(HEADER..);
        let decoded = decode_append(body.clone()).unwrap();
        assert_eq!((decoded.entries, decoded.quorum_age), (append.entries.clone(), append.quorum_age));
        for length in 0..body.len() {
            assert!(decode_append(body.slice(..length)).is_err(), "cut at {length}");
        }
    }
}
