//! A door for fuzzing: every decoder of this crate, on any bytes. Only there with the feature `fuzzing`.

use bytes::Bytes;

use crate::archive::Record;
use crate::codec::{decode_entry, decode_record, encode_entry, encode_record};
use crate::engine::Batch;
use crate::requests;
use crate::snapshot::put_pairs;
use crate::state::{Applied, Incoming};
use crate::types::{SnapshotMeta, Vote};
use crate::wire::{
    ChunkHeader, NodeHeartbeat, NodeHeartbeatReply, SnapshotFinish, SnapshotOffer, SnapshotReply, decode_append,
    parse_reply, parse_request, take,
};

/// Has every decoder read `data`: as it is, and behind the checksum that it would need.
///
/// # Panics
/// When something that was read is not written again as it was.
pub fn decode_all(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let summed: Bytes = [&crc32fast::hash(data).to_le_bytes(), data].concat().into();
    for candidate in [bytes.clone(), summed.clone()] {
        if let Ok(entry) = decode_entry(candidate) {
            assert_eq!(decode_entry(encode_entry(&entry)), Ok(entry));
        }
    }
    let record: Bytes = [&[1], &summed[..]].concat().into();
    for candidate in [&bytes, &record] {
        if let Ok(applied) = decode_record::<Applied>(candidate) {
            assert_eq!(decode_record(&encode_record(&applied)), Ok(applied));
        }
        if let Ok(incoming) = decode_record::<Incoming>(candidate) {
            assert_eq!(decode_record(&encode_record(&incoming)), Ok(incoming));
        }
        if let Ok(start) = decode_record::<Record>(candidate) {
            assert_eq!(decode_record(&encode_record(&start)), Ok(start));
        }
        let _ = decode_record::<Vote>(candidate);
        let _ = decode_record::<SnapshotMeta>(candidate);
        requests::fuzz(candidate);
    }
    let _ = parse_reply(bytes.clone());
    if let Ok((_, _, body)) = parse_request(bytes.clone()) {
        let _ = decode_append(body.clone());
        let _ = take::<ChunkHeader>(body.clone());
        let _ = take::<SnapshotOffer>(body.clone());
        let _ = take::<SnapshotFinish>(body.clone());
        let _ = take::<SnapshotReply>(body.clone());
        let _ = take::<NodeHeartbeat>(body.clone());
        let _ = take::<NodeHeartbeatReply>(body);
    }
    let _ = put_pairs(&mut Batch::default(), b"prefix", bytes);
}
