//! The byte layout of log entries and small records, on disk and on the wire.
//!
//! Entry, version 2, integers little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | CRC-32 of everything after it |
//! | 1 | version = 2 |
//! | 1 | kind: 0 blank, 1 proposal, 2 membership |
//! | 8, 8, 8 | term, leader's node id, index |
//! | proposal: 8 | leader's wall clock, milliseconds |
//! | proposal: 4 | how many requests follow, at least one |
//! | membership: rest | the membership in postcard |
//!
//! A request:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | tag: 0 the payload alone, 1 a request id before it; others are of later releases |
//! | 16, 16 | request id (little-endian), digest of what it is recognised by |
//! | 4 | bytes of the payload |
//! | so many | payload |
//!
//! A follower stores what the leader sent byte for byte, so one checksum covers network and disk. Other records are
//! `version = 1, CRC-32, postcard`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::impls::leader_id_adv::LeaderId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::types::{Entry, Fingerprint, LogId, LoggedRequest, Payload, Proposal, RequestId};

/// Of an entry. One of version 1 held one request.
const ENTRY_VERSION: u8 = 2;
/// Of a record.
const VERSION: u8 = 1;
const BLANK: u8 = 0;
const PROPOSAL: u8 = 1;
const MEMBERSHIP: u8 = 2;
const HEADER: usize = 4 + 2 + 24;
/// Tags of a request.
const NAMELESS: u8 = 0;
const NAMED: u8 = 1;
/// Bytes of a request beside its payload, at most and at least.
const REQUEST_HEADER: usize = 1 + 32 + 4;
const LEAST_REQUEST: usize = 1 + 4;

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
    let mut out = BytesMut::with_capacity(HEADER + 16 + payload_len(entry));
    put_entry(&mut out, entry);
    out.freeze()
}

/// Encodes an entry behind what `out` holds.
pub(crate) fn put_entry(out: &mut BytesMut, entry: &Entry) {
    let at = out.len();
    out.put_u32_le(0);
    out.put_u8(ENTRY_VERSION);
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
        Payload::Normal(proposal) => put_proposal(out, proposal),
        Payload::Membership(membership) => out.put_slice(&to_postcard(membership)),
    }
    let (sum, summed) = out[at..].split_at_mut(4);
    sum.copy_from_slice(&crc32fast::hash(summed).to_le_bytes());
}

/// Bytes of an entry's payload, the part that varies; at most.
pub(crate) fn payload_len(entry: &Entry) -> usize {
    match &entry.payload {
        Payload::Normal(proposal) => proposal.requests.iter().map(request_len).sum(),
        _ => 64,
    }
}

/// Bytes of a request in its entry, at most.
pub(crate) fn request_len(request: &LoggedRequest) -> usize {
    REQUEST_HEADER + request.payload.len()
}

fn put_proposal(out: &mut BytesMut, proposal: &Proposal) {
    out.put_u64_le(proposal.time_ms);
    out.put_u32_le(proposal.requests.len() as u32);
    for LoggedRequest { fingerprint, payload } in &proposal.requests {
        match fingerprint {
            None => out.put_u8(NAMELESS),
            Some(Fingerprint { id, digest }) => {
                out.put_u8(NAMED);
                out.put_u128_le(id.0);
                out.put_slice(digest);
            }
        }
        out.put_u32_le(payload.len() as u32);
        out.put_slice(payload);
    }
}

/// Decodes an entry, checking its checksum. Payloads are slices of `bytes`, not copies.
pub(crate) fn decode_entry(mut bytes: Bytes) -> Result<Entry, CodecError> {
    if bytes.len() < HEADER {
        return Err(CodecError::Short);
    }
    let crc = bytes.get_u32_le();
    if crc != crc32fast::hash(&bytes) {
        return Err(CodecError::Checksum);
    }
    let version = bytes.get_u8();
    if version != ENTRY_VERSION {
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
    let count = bytes.try_get_u32_le().map_err(|_| CodecError::Short)? as usize;
    if count == 0 {
        return Err(CodecError::Malformed("a proposal without a request".into()));
    }
    let mut requests = Vec::with_capacity(count.min(bytes.len() / LEAST_REQUEST));
    for _ in 0..count {
        requests.push(take_request(&mut bytes)?);
    }
    if !bytes.is_empty() {
        return Err(CodecError::Malformed(format!("{} bytes behind the last request", bytes.len())));
    }
    Ok(Proposal { time_ms, requests })
}

/// Takes a request off the front.
fn take_request(bytes: &mut Bytes) -> Result<LoggedRequest, CodecError> {
    let fingerprint = match bytes.try_get_u8().map_err(|_| CodecError::Short)? {
        NAMELESS => None,
        NAMED => {
            let id = RequestId(bytes.try_get_u128_le().map_err(|_| CodecError::Short)?);
            let mut digest = [0; 16];
            bytes.try_copy_to_slice(&mut digest).map_err(|_| CodecError::Short)?;
            Some(Fingerprint { id, digest })
        }
        other => return Err(CodecError::Malformed(format!("a request of tag {other}"))),
    };
    let length = bytes.try_get_u32_le().map_err(|_| CodecError::Short)? as usize;
    if bytes.len() < length {
        return Err(CodecError::Short);
    }
    Ok(LoggedRequest { fingerprint, payload: bytes.split_to(length) })
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
            requests in proptest::collection::vec(
                (proptest::option::of(any::<u128>()), proptest::collection::vec(any::<u8>(), 0..200)),
                1..5,
            ),
            flip in any::<proptest::sample::Index>(),
        ) {
            let requests: Vec<LoggedRequest> = requests.into_iter().map(|(id, payload)| {
                let fingerprint = id.map(|id| Fingerprint::of(RequestId(id), &payload));
                LoggedRequest { fingerprint, payload: payload.into() }
            }).collect();
            let original = entry(Payload::Normal(Proposal { time_ms: 99, requests }));
            let bytes = encode_entry(&original);
            prop_assert_eq!(&decode_entry(bytes.clone()).unwrap(), &original);

            let mut damaged = bytes.to_vec();
            let at = flip.index(damaged.len());
            damaged[at] ^= 0x40;
            prop_assert_eq!(decode_entry(damaged.into()), Err(CodecError::Checksum));
        }
    }

    fn two_requests() -> Proposal {
        let fingerprint = Some(Fingerprint { id: RequestId(0x0102), digest: [9; 16] });
        let named = LoggedRequest { fingerprint, payload: Bytes::from_static(b"hi") };
        let nameless = LoggedRequest { fingerprint: None, payload: Bytes::from_static(b"you") };
        Proposal { time_ms: 5, requests: vec![named, nameless] }
    }

    /// The bytes of version 2: a change here breaks every stored log.
    #[test]
    fn version_2_layout_is_fixed() {
        let bytes = encode_entry(&entry(Payload::Normal(two_requests())));
        let mut expected = vec![2, 1];
        for number in [3u64, 2, 7, 5] {
            expected.extend(number.to_le_bytes());
        }
        expected.extend(2u32.to_le_bytes());
        expected.push(1);
        expected.extend(0x0102u128.to_le_bytes());
        expected.extend([9; 16]);
        expected.extend(2u32.to_le_bytes());
        expected.extend(b"hi");
        expected.push(0);
        expected.extend(3u32.to_le_bytes());
        expected.extend(b"you");
        assert_eq!(&bytes[4..], &expected[..]);
        assert_eq!(&bytes[..4], &crc32fast::hash(&expected).to_le_bytes());
    }

    /// An entry's bytes under their checksum, where they are not what an entry is.
    #[test]
    fn what_is_no_list_of_requests_is_refused() {
        let whole = encode_entry(&entry(Payload::Normal(two_requests())));
        let read = |bytes: Vec<u8>| {
            let sum = crc32fast::hash(&bytes).to_le_bytes();
            decode_entry([&sum[..], &bytes].concat().into())
        };
        assert!(read(whole[4..].to_vec()).is_ok());
        for length in HEADER - 4..whole.len() - 4 {
            assert_eq!(read(whole[4..4 + length].to_vec()), Err(CodecError::Short), "cut at {length}");
        }
        let (count, tag) = (HEADER + 8 - 4, HEADER + 12 - 4);
        let altered = |at: usize, byte: u8| {
            let mut bytes = whole[4..].to_vec();
            bytes[at] = byte;
            read(bytes)
        };
        let malformed = |what: &str| Err(CodecError::Malformed(what.into()));
        assert_eq!(altered(0, 1), Err(CodecError::Version(1)), "an entry of before");
        assert_eq!(altered(count, 0), malformed("a proposal without a request"));
        assert_eq!(altered(count, 1), malformed("8 bytes behind the last request"));
        assert_eq!(altered(count, 3), Err(CodecError::Short));
        assert_eq!(altered(count + 3, 255), Err(CodecError::Short), "no room is made for what is not there");
        assert_eq!(altered(tag, 2), malformed("a request of tag 2"));
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
