//! Ids that a router makes: of frames, and of the requests that shards remember.
//!
//! A frame's shard follows from its id, so the ids of a session's frames end in one keyed digest of it and lie together
//! (`mira_proto::placement`). They are keyed by the collection's placement key, what concerns a private frame by its
//! owner's key as well: nobody who sees an id can confirm a guess about what it was made from. Whatever a caller repeats,
//! any router makes the same of it:
//!
//! | the caller gives | id | the same again if |
//! |---|---|---|
//! | nothing | version 7 | never |
//! | an `Idempotency-Key` | version 8, of principal, key and position in the request | session, owner and collection are the same |
//! | a `source_key` | version 8, of the key: who sends it does not matter | session, owner and collection are the same |
//!
//! The digest of the session is a part of the id. So an `Idempotency-Key` or a `source_key` that comes again with another
//! session names another frame, as it does in another collection; what it names in the first one, no shard that is asked
//! would know. With other content it is a `conflict`.
//!
//! Why it is so, `docs/adr/0017` says.
//!
//! With an `Idempotency-Key`, a request id is computed too, so that a shard answers the same write from memory; past its
//! memory the frame's id still makes it the same frame. Nodes remember it under a keyed name, with a digest of what was said:
//! a key that comes again with another request of its operation and collection is a `conflict`, and nothing is done. A request
//! id of a store covers the ids of its frames, so that a batch may be sent again with a part of it corrected; those of steps cover
//! what they say, and a claim of their own comes before them (`operations/key_claim.rs`).

use bytes::Bytes;
use mira_crypto::{IdSource, OwnerKey, PlacementKey};
use mira_proto::placement::with_session_bits;
use mira_proto::{FrameId, REQUEST_KEY_BYTES, ShardId};
use uuid::Uuid;

use crate::RequestContext;

/// Bytes of a request id.
const REQUEST_ID_BYTES: usize = 16;

// Purposes of derived ids: a change of one gives every id of its kind another value.
const OF_REQUEST: &str = "idempotency-key";
const OF_SOURCE: &str = "source-key";
const OF_UPLOAD: &str = "upload";

/// What the id of a new frame says of it.
#[derive(Clone, Copy)]
pub struct NewFrame<'a> {
    /// Its session; empty for none.
    pub session: &'a str,
    /// What names it in its source.
    pub source_key: Option<&'a str>,
    /// Its owner, if it is private.
    pub owner: Option<&'a OwnerKey>,
    /// Its place among the items of its request.
    pub position: u64,
}

/// The id of a frame that came without one.
pub fn frame_id(context: &RequestContext, key: &PlacementKey, frame: NewFrame<'_>) -> Uuid {
    let NewFrame { session, source_key, owner, position } = frame;
    let id = match (source_key, &context.idempotency_key) {
        // Not its principal's: a token that takes another's place must not double what was imported.
        (Some(name), _) => derived(key, IdSource { purpose: OF_SOURCE, principal: "", key: name, position: 0, owner }),
        (None, Some(_)) => of_request(context, key, OF_REQUEST, position, owner),
        (None, None) => Uuid::now_v7(),
    };
    match (session, owner) {
        ("", _) => id,
        (session, Some(owner)) => with_session_bits(id, key.private_session_digest(owner, session)),
        (session, None) => with_session_bits(id, key.session_digest(session)),
    }
}

/// The id of the record of an upload. It lies apart from the session of its frame: with an `Idempotency-Key`, an upload of
/// another session is recognised as another one under a used key.
pub fn upload_id(context: &RequestContext, key: &PlacementKey, owner: Option<&OwnerKey>) -> Uuid {
    if context.idempotency_key.is_some() { of_request(context, key, OF_UPLOAD, 0, owner) } else { Uuid::now_v7() }
}

fn of_request(
    context: &RequestContext,
    key: &PlacementKey,
    purpose: &str,
    position: u64,
    owner: Option<&OwnerKey>,
) -> Uuid {
    let name = context.idempotency_key.as_deref().unwrap_or_default();
    derived(key, IdSource { purpose, principal: &context.principal, key: name, position, owner })
}

fn derived(key: &PlacementKey, source: IdSource<'_>) -> Uuid {
    Uuid::new_v8(key.derived_id_bits(&source).to_be_bytes())
}

/// What one write to one shard is made of, for its request id.
pub struct WriteIdentity<'a> {
    /// `store`, `forget`, `change`, or what comes before them.
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
            let mut hash = blake3::Hasher::new_derive_key("mira 2026 idempotency key");
            let names = [&*context.principal, key, write.operation].map(str::as_bytes);
            let place = [&write.collection.to_be_bytes()[..], &write.shard.to_be_bytes()];
            for part in names.into_iter().chain(place).chain(write.parts.iter().copied()) {
                hash.update(&(part.len() as u64).to_be_bytes()).update(part);
            }
            *hash.finalize().as_bytes().first_chunk().expect("32 bytes hold 16")
        }
    };
    Bytes::copy_from_slice(&id)
}

/// The request id of a change of the cluster itself: half of it names the key and the operation, the other half what the
/// request says, so that nodes tell another request under a used key from a retry.
pub fn admin_request_id(context: &RequestContext, operation: &'static str, parts: &[&[u8]]) -> Bytes {
    let of = |parts| request_id(context, &WriteIdentity { operation, collection: 0, shard: 0, parts });
    [&of(&[])[..REQUEST_KEY_BYTES], &of(parts)[REQUEST_KEY_BYTES..]].concat().into()
}

/// The id as the wire carries it.
pub fn id_bytes(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

/// Reads an id of the wire; `None` when it is not 16 bytes.
pub fn id_from_bytes(bytes: &[u8]) -> Option<FrameId> {
    Some(FrameId::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use mira_proto::placement::Partitioning;

    use super::*;

    const FRAME: NewFrame<'_> = NewFrame { session: "", source_key: None, owner: None, position: 0 };

    fn context(principal: &str, key: Option<&str>) -> RequestContext {
        let mut context = RequestContext::new(principal, Duration::from_secs(1));
        context.idempotency_key = key.map(Into::into);
        context
    }

    fn key(of: u8) -> PlacementKey {
        PlacementKey::from_bytes(&[of; 32]).expect("32 bytes")
    }

    fn owner(of: u8) -> OwnerKey {
        OwnerKey::from_text(&STANDARD.encode([of; 32])).expect("a key")
    }

    fn write<'a>(shard: ShardId, parts: &'a [&'a [u8]]) -> WriteIdentity<'a> {
        WriteIdentity { operation: "store", collection: 1, shard, parts }
    }

    fn session_bits(id: Uuid) -> u32 {
        id.as_u128() as u32
    }

    /// Ids are kept for ever: what is sent again must meet them.
    #[test]
    fn ids_and_their_shards_stay_as_they_are() {
        let (plain, keyed) = (context("ada", None), context("ada", Some("k")));
        let (owner, places) = (owner(9), Partitioning::new((0..16).collect()));
        let of_source = NewFrame { source_key: Some("notes/1.md"), ..FRAME };
        let found = [
            frame_id(&keyed, &key(7), FRAME),
            frame_id(&keyed, &key(7), NewFrame { position: 1, session: "s", ..FRAME }),
            frame_id(&keyed, &key(7), NewFrame { owner: Some(&owner), session: "s", ..FRAME }),
            frame_id(&plain, &key(7), of_source),
            frame_id(&plain, &key(7), NewFrame { session: "s", ..of_source }),
            frame_id(&plain, &key(7), NewFrame { owner: Some(&owner), session: "s", ..of_source }),
            upload_id(&keyed, &key(7), None),
        ];
        let found = found.map(|id| (id.to_string(), places.shard_of(id.as_u128())));
        let expected = [
            ("1a07ba9d-59df-8c82-be09-5b99ad2ea2e7", 0),
            ("c97eece1-8280-8463-bf93-daeda6c6b484", 10),
            ("b85d0bd3-ae08-80f6-ab6c-70129cf67cee", 15),
            ("f26ecb87-79fa-8bb4-8d88-b190b820e52b", 10),
            ("f26ecb87-79fa-8bb4-8d88-b190a6c6b484", 10),
            ("344de9ab-62f8-8ff3-88d2-ce679cf67cee", 15),
            ("9b5f5ebc-8a0a-8322-a04b-c206e973f182", 9),
        ];
        assert_eq!(found.each_ref().map(|(id, shard)| (id.as_str(), *shard)), expected);
    }

    #[test]
    fn frames_of_a_session_have_one_digest_however_their_ids_are_made() {
        let (plain, keyed) = (context("ada", None), context("bob", Some("k")));
        let in_session = NewFrame { session: "s", ..FRAME };
        let of_source = NewFrame { source_key: Some("a"), ..in_session };
        let all = |owner| {
            [in_session, of_source, NewFrame { position: 3, ..in_session }].map(|frame| NewFrame { owner, ..frame })
        };
        let (ada, bob) = (owner(1), owner(2));
        let digests =
            [(key(7), None), (key(7), Some(&ada)), (key(7), Some(&bob)), (key(8), None)].map(|(key, owner)| {
                let frames = all(owner);
                let made =
                    frames.iter().flat_map(|frame| [&plain, &keyed].map(|context| frame_id(context, &key, *frame)));
                let digests: Vec<u32> = made.map(session_bits).collect();
                assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
                digests[0]
            });
        for (at, digest) in digests.iter().enumerate() {
            assert!(!digests[..at].contains(digest), "another owner or collection has another: {at}");
        }
        let other = frame_id(&plain, &key(7), NewFrame { session: "t", ..FRAME });
        assert!(!digests.contains(&session_bits(other)));
        assert_ne!(session_bits(frame_id(&plain, &key(7), FRAME)), session_bits(frame_id(&plain, &key(7), FRAME)));
    }

    #[test]
    fn an_idempotency_key_makes_ids_repeatable_for_its_principal_session_owner_and_collection() {
        let ada = context("ada", Some("k"));
        let first = frame_id(&ada, &key(7), FRAME);
        assert_eq!(first, frame_id(&context("ada", Some("k")), &key(7), FRAME));
        assert_eq!(first.get_version_num(), 8);
        let owner = owner(9);
        let others = [
            frame_id(&ada, &key(7), NewFrame { position: 1, ..FRAME }),
            frame_id(&ada, &key(7), NewFrame { session: "s", ..FRAME }),
            frame_id(&ada, &key(7), NewFrame { owner: Some(&owner), ..FRAME }),
            frame_id(&ada, &key(7), NewFrame { source_key: Some("k"), ..FRAME }),
            frame_id(&ada, &key(8), FRAME),
            frame_id(&context("bob", Some("k")), &key(7), FRAME),
            upload_id(&ada, &key(7), None),
        ];
        for (at, other) in others.iter().enumerate() {
            assert!(*other != first && !others[..at].contains(other), "{at}");
        }
    }

    #[test]
    fn a_source_key_names_the_same_frame_whoever_sends_it() {
        let of_source = NewFrame { source_key: Some("a"), ..FRAME };
        let first = frame_id(&context("ada", None), &key(7), of_source);
        assert_eq!(first.get_version_num(), 8);
        for again in [context("bob", None), context("ada", Some("k")), context("ada", Some("l"))] {
            assert_eq!(first, frame_id(&again, &key(7), NewFrame { position: 5, ..of_source }));
        }
        let owner = owner(9);
        let others = [
            NewFrame { source_key: Some("b"), ..of_source },
            NewFrame { session: "s", ..of_source },
            NewFrame { owner: Some(&owner), ..of_source },
        ];
        assert!(others.iter().all(|other| frame_id(&context("ada", None), &key(7), *other) != first));
        assert_ne!(frame_id(&context("ada", None), &key(8), of_source), first);
    }

    #[test]
    fn a_request_id_covers_what_is_written() {
        let (ada, bob) = (context("ada", Some("k")), context("bob", Some("k")));
        let first = request_id(&ada, &write(3, &[b"a", b"b"]));
        assert_eq!(first, request_id(&context("ada", Some("k")), &write(3, &[b"a", b"b"])));
        for other in [write(4, &[b"a", b"b"]), write(3, &[b"ab", b""]), write(3, &[b"a", b"c"])] {
            assert_ne!(first, request_id(&ada, &other));
        }
        assert_ne!(first, request_id(&bob, &write(3, &[b"a", b"b"])));
    }

    #[test]
    fn the_request_id_of_a_change_of_the_cluster_tells_its_key_from_what_it_says() {
        let (ada, other) = (context("ada", Some("k")), context("ada", Some("l")));
        let of = |context, operation, said: &'static [u8]| {
            let id = admin_request_id(context, operation, &[said]);
            (id.slice(..REQUEST_KEY_BYTES), id.slice(REQUEST_KEY_BYTES..))
        };
        let first = of(&ada, "grow", b"4");
        assert_eq!(first, of(&ada, "grow", b"4"));
        let more = of(&ada, "grow", b"8");
        assert_eq!((more.0 == first.0, more.1 == first.1), (true, false));
        for another in [of(&other, "grow", b"4"), of(&ada, "rotate", b"4")] {
            assert_ne!(another.0, first.0);
        }
    }

    #[test]
    fn without_a_key_every_id_is_new() {
        let context = context("ada", None);
        assert_ne!(frame_id(&context, &key(7), FRAME), frame_id(&context, &key(7), FRAME));
        assert_eq!(frame_id(&context, &key(7), FRAME).get_version_num(), 7);
        assert_ne!(request_id(&context, &write(3, &[])), request_id(&context, &write(3, &[])));
        assert_ne!(upload_id(&context, &key(7), None), upload_id(&context, &key(7), None));
    }
}
