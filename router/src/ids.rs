//! Ids that a router makes: of frames, and of the requests that shards remember.
//!
//! Without an `Idempotency-Key` both are fresh. With one they are computed from it, so that the same request sent
//! again, through whichever router, names the same frames and the same writes: a shard answers the second from memory,
//! and past its memory the frame's id still makes it the same frame. A request id covers what it writes. Other content
//! under a used key is therefore another write to the same frame, and ends as a `conflict` instead of being taken for
//! the first.

use bytes::Bytes;
use mira_proto::{FrameId, ShardId};
use uuid::Uuid;

use crate::RequestContext;

/// Bytes of a request id.
const REQUEST_ID_BYTES: usize = 16;

/// The id of a frame that came without one: the `position`th of its request.
///
/// Version 7 (sorted by time), or with an `Idempotency-Key` version 8, derived from it.
pub fn frame_id(context: &RequestContext, position: u64) -> Uuid {
    match &context.idempotency_key {
        None => Uuid::now_v7(),
        Some(key) => {
            let mut hash = keyed(context, key, "frame");
            hash.update(&position.to_be_bytes());
            Uuid::new_v8(first_16(&hash))
        }
    }
}

/// What one write to one shard is made of, for its request id.
pub struct WriteIdentity<'a> {
    /// `store` or `forget`.
    pub operation: &'static str,
    /// The collection's number.
    pub collection: u64,
    /// The shard.
    pub shard: ShardId,
    /// Everything that the write holds, in order, each part as bytes.
    pub parts: &'a [&'a [u8]],
}

/// The request id of a write: the same for every try of it, and with an `Idempotency-Key` for every time it is sent.
pub fn request_id(context: &RequestContext, write: &WriteIdentity<'_>) -> Bytes {
    let id: [u8; REQUEST_ID_BYTES] = match &context.idempotency_key {
        None => rand::random(),
        Some(key) => {
            let mut hash = keyed(context, key, write.operation);
            hash.update(&write.collection.to_be_bytes()).update(&write.shard.to_be_bytes());
            for part in write.parts {
                hash.update(&(part.len() as u64).to_be_bytes()).update(part);
            }
            first_16(&hash)
        }
    };
    Bytes::copy_from_slice(&id)
}

/// The id as the wire carries it.
pub fn id_bytes(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

/// Reads an id of the wire; `None` when it is not 16 bytes.
pub fn id_from_bytes(bytes: &[u8]) -> Option<FrameId> {
    Some(FrameId::from_be_bytes(bytes.try_into().ok()?))
}

fn keyed(context: &RequestContext, key: &str, purpose: &str) -> blake3::Hasher {
    let mut hash = blake3::Hasher::new_derive_key("mira 2026 idempotency key");
    for part in [&*context.principal, key, purpose] {
        hash.update(&(part.len() as u64).to_be_bytes()).update(part.as_bytes());
    }
    hash
}

fn first_16(hash: &blake3::Hasher) -> [u8; 16] {
    hash.finalize().as_bytes()[..16].try_into().expect("a hash has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn context(principal: &str, key: Option<&str>) -> RequestContext {
        let mut context = RequestContext::new(principal, Duration::from_secs(1));
        context.idempotency_key = key.map(Into::into);
        context
    }

    fn write<'a>(shard: ShardId, parts: &'a [&'a [u8]]) -> WriteIdentity<'a> {
        WriteIdentity { operation: "store", collection: 1, shard, parts }
    }

    #[test]
    fn a_key_makes_ids_repeatable_for_its_owner_only() {
        let (ada, again, bob) = (context("ada", Some("k")), context("ada", Some("k")), context("bob", Some("k")));
        assert_eq!(frame_id(&ada, 0), frame_id(&again, 0));
        assert_ne!(frame_id(&ada, 0), frame_id(&ada, 1));
        assert_ne!(frame_id(&ada, 0), frame_id(&bob, 0));
        assert_eq!(frame_id(&ada, 0).get_version_num(), 8);
        assert_eq!(request_id(&ada, &write(3, &[b"ab"])), request_id(&again, &write(3, &[b"ab"])));
        assert_ne!(request_id(&ada, &write(3, &[b"ab"])), request_id(&bob, &write(3, &[b"ab"])));
    }

    #[test]
    fn a_request_id_covers_what_is_written() {
        let ada = context("ada", Some("k"));
        let first = request_id(&ada, &write(3, &[b"a", b"b"]));
        for other in [write(4, &[b"a", b"b"]), write(3, &[b"ab", b""]), write(3, &[b"a", b"c"])] {
            assert_ne!(first, request_id(&ada, &other));
        }
    }

    #[test]
    fn without_a_key_every_id_is_new() {
        let context = context("ada", None);
        assert_ne!(frame_id(&context, 0), frame_id(&context, 0));
        assert_eq!(frame_id(&context, 0).get_version_num(), 7);
        assert_ne!(request_id(&context, &write(3, &[])), request_id(&context, &write(3, &[])));
    }
}
