//! Sealing and opening private frames with their owner's key: the innermost of three layers, the only one that a router
//! knows.
//!
//! What a caller says of a private frame (content, type, session, role, metadata) goes into one sealed body, its vectors
//! into a sealed piece of their own, so that a search opens no bodies. Nodes get the two pieces, a keyed digest by which a
//! retry is recognised, and names of owner and session that only the owner's key makes. Times, sizes and the id are in
//! clear. The body's layout is a version byte and postcard of `Body`.

use bytes::Bytes;
use mira_crypto::{CryptoError, OwnerContext, OwnerKey, Part, private};
use mira_index::Attributes;
use mira_index::filter::{self, Said};
use mira_proto::model::Frame;
use mira_proto::node_v1::{self, FrameWrite, PrivateWrite};
use mira_proto::vectors::{self, FrameVectors, OWN_SPACE, SpaceNumber, VectorsError};
use mira_proto::{Code, CollectionId, FrameId, Problem, limits};
use rand::SeedableRng;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::operations::convert;
use crate::operations::store::draft::{Draft, Embedded};
use crate::private::credential::problem_of;
use crate::private::text::Words;
use crate::ranking::merge::WordCounts;
use crate::{RequestContext, ids};

const BODY_VERSION: u8 = 1;
const MAX_BODY_BYTES: usize = limits::MAX_CONTENT_BYTES + limits::MAX_METADATA_BYTES + limits::PRIVATE_ROOM_BYTES;

/// What only the owner reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Body {
    content: Bytes,
    text: bool,
    kind: String,
    session: String,
    role: String,
    metadata_json: String,
    passages: Vec<(u32, u32)>,
    /// Media type of a large content, and its chunks in order with their sizes.
    attachment: Option<(String, Vec<(FrameId, u32)>)>,
}

/// A [`Body`] up to its metadata, read in place: nothing is copied that would not be wiped.
#[derive(Deserialize)]
struct BodyView<'a> {
    content: &'a [u8],
    text: bool,
    kind: &'a str,
    session: &'a str,
    role: &'a str,
    metadata_json: &'a str,
}

/// A frame with nothing sealed in it any more.
pub(crate) struct Opened {
    pub(crate) frame: node_v1::Frame,
    private: bool,
}

impl Opened {
    /// Whether it is private and has a vector that its caller gave, not ones made of its passages.
    pub(crate) fn has_own_vector(&self) -> bool {
        self.private && self.frame.passage_ranges.is_empty()
    }

    /// As callers see it.
    pub(crate) fn into_model(self) -> Result<Frame, Problem> {
        Ok(Frame { private: self.private, ..convert::frame(self.frame)? })
    }
}

/// The name that a node knows an owner by in one collection.
pub(crate) fn owner_name(owner: &OwnerKey, collection: CollectionId) -> Bytes {
    Bytes::copy_from_slice(&owner.tag("owner", collection, &[]))
}

/// The id of a chunk of an owner's, by the digest of what it holds.
pub(crate) fn chunk_name(owner: &OwnerKey, collection: CollectionId, digest: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&owner.tag("chunk", collection, digest))
}

/// The name that a node knows an owner's session by.
pub(crate) fn session_name(owner: &OwnerKey, collection: CollectionId, session: &str) -> Bytes {
    Bytes::copy_from_slice(&owner.tag("session", collection, session.as_bytes()))
}

/// Seals a draft with the vectors of its passages and those in named spaces.
pub(crate) fn seal(
    owner: &OwnerKey,
    collection: CollectionId,
    Embedded { id, draft, passages, named }: Embedded,
) -> FrameWrite {
    let mut rng = rand::rngs::StdRng::from_os_rng();
    let context = |part| OwnerContext { collection, frame: id.as_u128(), part };
    let digest = digest(owner, &draft);
    let session = if draft.session.is_empty() { Bytes::new() } else { session_name(owner, collection, &draft.session) };
    let mut vectors = FrameVectors::default();
    passages.iter().for_each(|passage| vectors.add(OWN_SPACE, &passage.vector));
    named.iter().for_each(|(space, named)| vectors.add(*space, &named.vector));
    let vectors = if vectors.is_empty() {
        Bytes::new()
    } else {
        let plain = Zeroizing::new(vectors.encode());
        private::seal_owner(owner, &context(Part::Vectors), &plain, &mut rng).into()
    };
    let body = Body {
        content: draft.content,
        text: draft.text,
        kind: draft.kind,
        session: draft.session,
        role: draft.role,
        metadata_json: draft.metadata_json,
        // One vector of the caller's stands for the whole.
        passages: match draft.vector {
            Some(_) => Vec::new(),
            None => passages.iter().map(|passage| (passage.start, passage.end)).collect(),
        },
        attachment: draft.attachment.map(|found| {
            let chunk =
                |chunk: &node_v1::Chunk| (ids::id_from_bytes(&chunk.id).expect("an id that we made"), chunk.bytes);
            (found.content_type, found.chunks.iter().map(chunk).collect())
        }),
    };
    let plain = Zeroizing::new(postcard::to_extend(&body, vec![BODY_VERSION]).expect("a body is plain data"));
    FrameWrite {
        id: ids::id_bytes(id),
        replace: draft.replace,
        expected_version: draft.expected_version,
        expires_ms: draft.expires_ms,
        created_ms: draft.created_ms,
        private: Some(PrivateWrite {
            owner: owner_name(owner, collection),
            session,
            digest: digest.to_vec().into(),
            body: private::seal_owner(owner, &context(Part::Body), &plain, &mut rng).into(),
            vectors,
        }),
        ..Default::default()
    }
}

/// Equal for what a caller sends again, whatever its sealed form is.
fn digest(owner: &OwnerKey, draft: &Draft) -> [u8; 32] {
    let mut hasher = owner.content_hasher();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(&[u8::from(draft.text), u8::from(draft.vector.is_some())]);
    field(&draft.content);
    for text in [&draft.kind, &draft.session, &draft.role, &draft.metadata_json] {
        field(text.as_bytes());
    }
    if let Some(attachment) = &draft.attachment {
        field(attachment.content_type.as_bytes());
        attachment.chunks.iter().for_each(|chunk| field(&chunk.id));
    }
    for component in draft.vector.iter().flatten() {
        field(&component.to_le_bytes());
    }
    for (name, vector) in &draft.vectors {
        field(name.as_bytes());
        vector.iter().for_each(|component| field(&component.to_le_bytes()));
    }
    hasher.finish()
}

/// Frames of a collection as callers see them; refuses more than one message holds.
pub(crate) fn reveal_all(
    context: &RequestContext,
    collection: CollectionId,
    frames: impl IntoIterator<Item = node_v1::Frame>,
) -> Result<Vec<Frame>, Problem> {
    open_all(context, collection, frames)?.into_iter().map(Opened::into_model).collect()
}

/// Opens the private ones of some frames, and counts the bytes of all while it does.
pub(crate) fn open_all(
    context: &RequestContext,
    collection: CollectionId,
    frames: impl IntoIterator<Item = node_v1::Frame>,
) -> Result<Vec<Opened>, Problem> {
    let mut opened = Vec::new();
    let mut bytes = 0;
    for frame in frames {
        let found = open(context.owner_key(), collection, frame)?;
        count_bytes(&mut bytes, &found)?;
        opened.push(found);
    }
    Ok(opened)
}

/// Frames of a search, opened.
pub(crate) struct OpenedSome<T> {
    /// Those that open, each with what it came with.
    pub(crate) frames: Vec<(T, Opened)>,
    /// Private ones that do not: what their owner sealed is damaged.
    pub(crate) damaged: Vec<FrameId>,
}

/// As [`open_all`], of frames that are found: one that is damaged does not take the others away.
pub(crate) fn open_some<T>(
    context: &RequestContext,
    collection: CollectionId,
    frames: impl IntoIterator<Item = (T, node_v1::Frame)>,
) -> Result<OpenedSome<T>, Problem> {
    let mut some = OpenedSome { frames: Vec::new(), damaged: Vec::new() };
    let mut bytes = 0;
    for (with, frame) in frames {
        let id = id_of(&frame)?;
        let opened = match open(context.owner_key(), collection, frame) {
            // It was found under the name that the key makes, so the key is the right one.
            Err(problem) if context.owner_key().is_some() => {
                tracing::error!(frame = %Uuid::from_u128(id), code = ?problem.code, "private frame is damaged");
                some.damaged.push(id);
                continue;
            }
            opened => opened?,
        };
        count_bytes(&mut bytes, &opened)?;
        some.frames.push((with, opened));
    }
    Ok(some)
}

/// Refuses more than one message holds.
fn count_bytes(bytes: &mut usize, found: &Opened) -> Result<(), Problem> {
    *bytes += found.frame.content.len() + found.frame.metadata_json.len();
    if *bytes > limits::MAX_MESSAGE_BYTES {
        let limit = limits::MAX_MESSAGE_BYTES >> 20;
        return Err(Problem::new(Code::TooLarge, format!("the frames have more than {limit} MiB: ask for fewer")));
    }
    Ok(())
}

pub(crate) fn open(
    owner: Option<&OwnerKey>,
    collection: CollectionId,
    frame: node_v1::Frame,
) -> Result<Opened, Problem> {
    if frame.private.is_empty() {
        return Ok(Opened { frame, private: false });
    }
    let id = id_of(&frame)?;
    let Some(owner) = owner else {
        let detail = "it is private: send its owner's key in the header X-Mira-Owner-Key";
        return Err(named(id, &Problem::new(Code::WrongOwnerKey, detail)));
    };
    let body = open_body(owner, collection, id, &frame.private).map_err(|error| named(id, &problem_of(error)))?;
    let frame = node_v1::Frame {
        content: body.content,
        text: body.text,
        r#type: body.kind,
        session: body.session,
        role: body.role,
        metadata_json: body.metadata_json,
        passage_ranges: body.passages.into_iter().flat_map(|(start, end)| [start, end]).collect(),
        private: Bytes::new(),
        attachment: body.attachment.map(|(content_type, chunks)| {
            let chunk = |(id, bytes): (FrameId, u32)| node_v1::Chunk { id: ids::id_bytes(Uuid::from_u128(id)), bytes };
            node_v1::Attachment { content_type, chunks: chunks.into_iter().map(chunk).collect() }
        }),
        ..frame
    };
    Ok(Opened { frame, private: true })
}

/// Id and attributes of a private frame, and how often words occur in it. Its content is wiped right away.
pub(crate) fn look(
    owner: &OwnerKey,
    collection: CollectionId,
    frame: &node_v1::Frame,
    words: Option<&Words>,
) -> Result<(FrameId, Attributes, Option<WordCounts>), Problem> {
    let id = id_of(frame)?;
    let refused = |error| named(id, &problem_of(error));
    let plain = plain_body(owner, collection, id, &frame.private).map_err(refused)?;
    let BodyView { content, text, kind, session, role, metadata_json } = read_body(&plain).map_err(refused)?;
    let text = if text { std::str::from_utf8(content).unwrap_or_default() } else { "" };
    let counts = words.map(|words| words.count(text));
    Ok((id, filter::attributes(&Said { kind, session, role, metadata_json }), counts))
}

fn id_of(frame: &node_v1::Frame) -> Result<FrameId, Problem> {
    let odd = || Problem::new(Code::Damaged, "a storage node gave out a frame without an id");
    ids::id_from_bytes(&frame.id).ok_or_else(odd)
}

fn named(id: FrameId, problem: &Problem) -> Problem {
    Problem::new(problem.code, format!("memory {}: {}", Uuid::from_u128(id), problem.detail))
}

fn open_body(owner: &OwnerKey, collection: CollectionId, frame: FrameId, sealed: &[u8]) -> Result<Body, CryptoError> {
    read_body(&plain_body(owner, collection, frame, sealed)?)
}

fn plain_body(
    owner: &OwnerKey,
    collection: CollectionId,
    frame: FrameId,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let context = OwnerContext { collection, frame, part: Part::Body };
    private::open_owner(owner, &context, sealed, MAX_BODY_BYTES)
}

fn read_body<'a, T: Deserialize<'a>>(plain: &'a [u8]) -> Result<T, CryptoError> {
    match plain.split_first() {
        Some((&BODY_VERSION, rest)) => postcard::from_bytes(rest).map_err(|_| CryptoError::Damaged),
        Some((&found, _)) => Err(CryptoError::UnknownVersion { field: "version of a private body", found }),
        None => Err(CryptoError::Damaged),
    }
}

/// Vectors of a frame as their owner sealed them, and what they are bound to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SealedPiece<'a> {
    /// The frame's collection.
    pub(crate) collection: CollectionId,
    /// The frame.
    pub(crate) frame: FrameId,
    /// What is sealed.
    pub(crate) sealed: &'a [u8],
}

/// Adds the components of a frame's vectors in a space to `components`; returns how many there were.
pub(crate) fn open_vectors(
    owner: &OwnerKey,
    sealed: SealedPiece<'_>,
    space: SpaceNumber,
    components: &mut Vec<f32>,
) -> Result<usize, CryptoError> {
    let plain = plain_vectors(owner, sealed)?;
    let mut count = 0;
    for part in vectors::parts(&plain).map_err(unreadable)? {
        let (number, found) = part.map_err(unreadable)?;
        if number == space {
            components.extend(found.iter().map(|four| f32::from_le_bytes(*four)));
            count = found.len();
        }
    }
    Ok(count)
}

/// All of a frame's vectors.
pub(crate) fn open_all_vectors(owner: &OwnerKey, sealed: SealedPiece<'_>) -> Result<FrameVectors, CryptoError> {
    FrameVectors::decode(&plain_vectors(owner, sealed)?).map_err(unreadable)
}

fn plain_vectors(
    owner: &OwnerKey,
    SealedPiece { collection, frame, sealed }: SealedPiece<'_>,
) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
    let context = OwnerContext { collection, frame, part: Part::Vectors };
    private::open_owner(owner, &context, sealed, vectors::MAX_BYTES)
}

fn unreadable(error: VectorsError) -> CryptoError {
    match error {
        VectorsError::UnknownVersion(found) => {
            CryptoError::UnknownVersion { field: "version of private vectors", found }
        }
        VectorsError::Damaged => CryptoError::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mira_proto::node_v1::Passage;
    use proptest::prelude::*;
    use std::time::Duration;

    const COLLECTION: CollectionId = 7;
    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn owner() -> OwnerKey {
        OwnerKey::from_text(KEY).unwrap()
    }

    fn stranger() -> OwnerKey {
        OwnerKey::generate(&mut mira_crypto::os_rng())
    }

    fn draft(content: &str) -> Draft {
        Draft {
            id: None,
            source_key: None,
            content: content.to_owned().into(),
            text: true,
            kind: "thought".into(),
            session: "s".into(),
            role: "assistant".into(),
            metadata_json: r#"{"mood":"calm"}"#.into(),
            vector: None,
            vectors: Default::default(),
            replace: false,
            expected_version: None,
            expires_ms: 0,
            created_ms: 0,
            position: None,
            collection: "default".into(),
            private: true,
            attachment: None,
        }
    }

    fn sealed(id: u128, content: &str) -> PrivateWrite {
        let passages = vec![Passage { start: 0, end: 3, vector: vec![1.0, -2.5] }];
        seal(
            &owner(),
            COLLECTION,
            Embedded { id: Uuid::from_u128(id), draft: draft(content), passages, named: Vec::new() },
        )
        .private
        .unwrap()
    }

    fn frame(id: u128, private: Bytes) -> node_v1::Frame {
        node_v1::Frame { id: ids::id_bytes(Uuid::from_u128(id)), version: 1, private, ..Default::default() }
    }

    fn code(owner: Option<&OwnerKey>, frame: node_v1::Frame) -> Code {
        open(owner, COLLECTION, frame).err().expect("it must not open").code
    }

    #[test]
    fn what_an_owner_seals_it_reads_back() {
        let write = sealed(1, "a quiet thought");
        let mut context = RequestContext::new("ada", Duration::from_secs(1));
        context.owner = Some(crate::private::credential::Credential::key(KEY).unwrap());
        let frames = reveal_all(&context, COLLECTION, [frame(1, write.body.clone())]).unwrap();
        assert_eq!(frames[0].content.as_deref(), Some("a quiet thought"));
        assert_eq!((frames[0].session.as_deref(), &*frames[0].kind, frames[0].private), (Some("s"), "thought", true));
        let mut components = Vec::new();
        let sealed = SealedPiece { collection: COLLECTION, frame: 1, sealed: &write.vectors };
        assert_eq!(open_vectors(&owner(), sealed, OWN_SPACE, &mut components).unwrap(), 2);
        assert_eq!(components, [1.0, -2.5]);
    }

    #[test]
    fn a_filter_is_asked_of_what_the_owner_said() {
        let body = sealed(1, "a quiet thought").body;
        let words = Words::of("a thought");
        let (id, attributes, counts) = look(&owner(), COLLECTION, &frame(1, body.clone()), Some(&words)).unwrap();
        assert_eq!(counts, Some(words.count("a quiet thought")));
        let pairs = [("metadata.mood", "calm"), ("role", "assistant"), ("session", "s"), ("type", "thought")];
        let expected = pairs.map(|(field, value)| (field.to_owned(), value.into())).to_vec();
        assert_eq!((id, attributes), (1, Attributes::new(expected)));
        let code = |owner: OwnerKey, frame| look(&owner, COLLECTION, &frame, None).unwrap_err().code;
        assert_eq!(code(stranger(), frame(1, body.clone())), Code::WrongOwnerKey);
        assert_eq!(code(owner(), frame(2, body)), Code::Damaged);
    }

    #[test]
    fn a_stranger_is_told_from_damage() {
        let body = sealed(1, "tea").body;
        assert_eq!(code(Some(&stranger()), frame(1, body.clone())), Code::WrongOwnerKey);
        assert_eq!(code(None, frame(1, body.clone())), Code::WrongOwnerKey);
        assert_eq!(code(Some(&owner()), frame(2, body)), Code::Damaged, "it belongs to another frame");
        assert_eq!(code(Some(&owner()), frame(1, sealed(1, "tea").vectors)), Code::Damaged, "it is another piece");
    }

    #[test]
    fn the_same_words_have_the_same_digest_and_nothing_else_in_common() {
        let (first, again, other) = (sealed(1, "tea"), sealed(1, "tea"), sealed(1, "coffee"));
        assert_eq!(first.digest, again.digest);
        assert_ne!(first.body, again.body);
        assert_ne!(first.digest, other.digest);
        assert_eq!(first.owner, other.owner);
        assert_ne!(owner_name(&owner(), 7), owner_name(&owner(), 8), "two collections show no common owner");
        assert_ne!(first.session, session_name(&stranger(), COLLECTION, "s"));
    }

    #[test]
    fn the_layout_of_a_body_does_not_change_unnoticed() {
        let body = Body {
            content: "tea".into(),
            text: true,
            kind: "k".into(),
            session: "s".into(),
            role: String::new(),
            metadata_json: "{}".into(),
            passages: vec![(0, 300)],
            attachment: Some(("a/b".into(), vec![(3, 4)])),
        };
        let bytes = postcard::to_extend(&body, vec![BODY_VERSION]).unwrap();
        assert_eq!(bytes, b"\x01\x03tea\x01\x01k\x01s\x00\x02{}\x01\x00\xac\x02\x01\x03a/b\x01\x03\x04");
    }

    proptest! {
        #[test]
        fn a_flipped_bit_anywhere_is_noticed(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut body = sealed(1, "something worth keeping to oneself").body.to_vec();
            let at = at.index(body.len());
            body[at] ^= 1 << bit;
            let code = code(Some(&owner()), frame(1, body.into()));
            prop_assert!(matches!(code, Code::Damaged | Code::WrongOwnerKey | Code::UnsupportedVersion), "{code}");
        }
    }
}
