//! The byte layout of log entries and small records, on disk and on the wire.
//!
//! Entry, version 1, integers little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | CRC-32 of everything after it |
//! | 1 | version = 1 |
//! | 1 | kind: 0 blank, 1 proposal, 2 membership |
//! | 8, 8, 8 | term, leader's node id, index |
//! | proposal: 8 | leader's wall clock, milliseconds |
//! | proposal: 1 | 1 if a request id follows, else 0 |
//! | proposal: 16, 16 | request id (little-endian), digest of the payload |
//! | rest | payload, or the membership in postcard |
//!
//! A follower stores what the leader sent byte for byte, so one checksum covers network and disk. Other records are
//! `version = 1, CRC-32, postcard`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::impls::leader_id_adv::LeaderId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::types::{Entry, Fingerprint, LogId, Payload, Proposal, RequestId};

const VERSION: u8 = 1;
const BLANK: u8 = 0;
const PROPOSAL: u8 = 1;
const MEMBERSHIP: u8 = 2;
const HEADER: usize = 4 + 2 + 24;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("too short")]
    Short,
    #[error("checksum does not match")]
    Checksum,
    #[error("version {0} is not known")]
    Version(u8),
    #[error("kind {0} is not known")]
    Kind(u8),
    #[error("malformed: {0}")]
    Malformed(String),
}

impl From<postcard::Error> for CodecError {
    fn from(error: postcard::Error) -> Self {
        CodecError::Malformed(error.to_string())
    }
}

/// Encodes an entry.
pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER + 48 + payload_len(entry));
    out.put_u32_le(0);
    out.put_u8(VERSION);
    out.put_u8(match &entry.payload {
        Payload::Blank => BLANK,
        Payload::Normal(_) => PROPOSAL,
        Payload::Membership(_) => MEMBERSHIP,
    });
    out.put_u64_le(entry.log_id.leader_id.term);
    out.put_u64_le(entry.log_id.leader_id.node_id);
    out.put_u64_le(entry.log_id.index);
    match &entry.payload {
        Payload::Blank => {}
        Payload::Normal(proposal) => put_proposal(&mut out, proposal),
        Payload::Membership(membership) => out.put_slice(&to_postcard(membership)),
    }
    let crc = crc32fast::hash(&out[4..]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
    out.freeze()
}

/// Bytes of an entry's payload, the part that varies.
pub(crate) fn payload_len(entry: &Entry) -> usize {
    match &entry.payload {
        Payload::Normal(proposal) => proposal.payload.len(),
        _ => 64,
    }
}

fn put_proposal(out: &mut BytesMut, proposal: &Proposal) {
    out.put_u64_le(proposal.time_ms);
    out.put_u8(u8::from(proposal.request.is_some()));
    if let Some(request) = &proposal.request {
        out.put_u128_le(request.id.0);
        out.put_slice(&request.digest);
    }
    out.put_slice(&proposal.payload);
}

/// Decodes an entry, checking its checksum. The payload is a slice of `bytes`, not a copy.
pub(crate) fn decode_entry(mut bytes: Bytes) -> Result<Entry, CodecError> {
    if bytes.len() < HEADER {
        return Err(CodecError::Short);
    }
    let crc = bytes.get_u32_le();
    if crc != crc32fast::hash(&bytes) {
        return Err(CodecError::Checksum);
    }
    let version = bytes.get_u8();
    if version != VERSION {
        return Err(CodecError::Version(version));
    }
    let kind = bytes.get_u8();
    let leader_id = LeaderId { term: bytes.get_u64_le(), node_id: bytes.get_u64_le() };
    let log_id = LogId { leader_id, index: bytes.get_u64_le() };
    let payload = match kind {
        BLANK => Payload::Blank,
        PROPOSAL => Payload::Normal(get_proposal(bytes)?),
        MEMBERSHIP => Payload::Membership(postcard::from_bytes(&bytes)?),
        other => return Err(CodecError::Kind(other)),
    };
    Ok(Entry { log_id, payload })
}

fn get_proposal(mut bytes: Bytes) -> Result<Proposal, CodecError> {
    let time_ms = bytes.try_get_u64_le().map_err(|_| CodecError::Short)?;
    let request = match bytes.try_get_u8().map_err(|_| CodecError::Short)? {
        0 => None,
        _ if bytes.len() < 32 => return Err(CodecError::Short),
        _ => {
            let id = RequestId(bytes.get_u128_le());
            let mut digest = [0; 16];
            bytes.copy_to_slice(&mut digest);
            Some(Fingerprint { id, digest })
        }
    };
    Ok(Proposal { request, time_ms, payload: bytes })
}

/// Encodes a small record: version, CRC-32, postcard.
pub(crate) fn encode_record(record: &impl Serialize) -> Bytes {
    let body = to_postcard(record);
    let mut out = BytesMut::with_capacity(body.len() + 5);
    out.put_u8(VERSION);
    out.put_u32_le(crc32fast::hash(&body));
    out.put_slice(&body);
    out.freeze()
}

/// Decodes what [`encode_record`] wrote.
pub(crate) fn decode_record<T: DeserializeOwned>(mut bytes: &[u8]) -> Result<T, CodecError> {
    let version = bytes.try_get_u8().map_err(|_| CodecError::Short)?;
    if version != VERSION {
        return Err(CodecError::Version(version));
    }
    let crc = bytes.try_get_u32_le().map_err(|_| CodecError::Short)?;
    if crc != crc32fast::hash(bytes) {
        return Err(CodecError::Checksum);
    }
    Ok(postcard::from_bytes(bytes)?)
}

/// Postcard, of types whose encoding cannot fail.
pub(crate) fn to_postcard(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("in-memory encoding of plain data")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(payload: Payload) -> Entry {
        Entry { log_id: LogId { leader_id: LeaderId { term: 3, node_id: 2 }, index: 7 }, payload }
    }

    proptest! {
        #[test]
        fn proposals_round_trip_and_damage_is_seen(
            payload in proptest::collection::vec(any::<u8>(), 0..200),
            id in proptest::option::of(any::<u128>()),
            flip in any::<proptest::sample::Index>(),
        ) {
            let request = id.map(|id| Fingerprint::of(RequestId(id), &payload));
            let original = entry(Payload::Normal(Proposal { request, time_ms: 99, payload: payload.into() }));
            let bytes = encode_entry(&original);
            prop_assert_eq!(&decode_entry(bytes.clone()).unwrap(), &original);

            let mut damaged = bytes.to_vec();
            let at = flip.index(damaged.len());
            damaged[at] ^= 0x40;
            prop_assert_eq!(decode_entry(damaged.into()), Err(CodecError::Checksum));
        }
    }

    /// The bytes of version 1, as released: a change here breaks every stored log.
    #[test]
    fn version_1_layout_is_fixed() {
        let proposal = Proposal {
            request: Some(Fingerprint { id: RequestId(0x0102), digest: [9; 16] }),
            time_ms: 5,
            payload: Bytes::from_static(b"hi"),
        };
        let bytes = encode_entry(&entry(Payload::Normal(proposal)));
        let mut expected = vec![1, 1];
        for number in [3u64, 2, 7, 5] {
            expected.extend(number.to_le_bytes());
        }
        expected.push(1);
        expected.extend(0x0102u128.to_le_bytes());
        expected.extend([9; 16]);
        expected.extend(b"hi");
        assert_eq!(&bytes[4..], &expected[..]);
        assert_eq!(&bytes[..4], &crc32fast::hash(&expected).to_le_bytes());
    }

    /// The consensus library's types inside our records, as released: an upgrade that changes their bytes shows here.
    #[test]
    fn version_1_records_are_fixed() {
        use crate::types::{Membership, Node, Vote};
        let log_id = LogId { leader_id: LeaderId { term: 3, node_id: 2 }, index: 7 };
        let voters = std::collections::BTreeSet::from([1, 2]);
        let members = openraft::Membership::new_with_defaults(vec![voters], [9]);
        let stored = Membership::new(Some(log_id.clone()), members);
        let nodes: Vec<u64> = stored.nodes().map(|(id, Node {})| *id).collect();
        assert_eq!(nodes, [1, 2, 9]);
        assert_eq!(&encode_record(&Vote::new_committed(3, 2))[5..], [3, 2, 1]);
        assert_eq!(&encode_record(&log_id)[5..], [3, 2, 7]);
        assert_eq!(&encode_record(&stored)[5..], [1, 3, 2, 7, 1, 2, 1, 2, 3, 1, 2, 9]);
    }

    #[test]
    fn unknown_versions_are_refused() {
        let mut bytes = encode_record(&7u64).to_vec();
        bytes[0] = 2;
        assert_eq!(decode_record::<u64>(&bytes), Err(CodecError::Version(2)));
        assert_eq!(decode_record::<u64>(&[]), Err(CodecError::Short));
    }
}
