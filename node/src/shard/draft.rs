//! Drafts: the frames of a write request, checked before they are sealed.
//!
//! What the state machine could not refuse any more is refused here; a node trusts no router.

use bytes::Bytes;
use mira_crypto::CollectionKey;
use mira_proto::vectors::{self, FrameVectors, OWN_SPACE, SpaceSet, VectorFault};
use mira_proto::{Code, Extensions, FrameId, Position, Problem, limits, node_v1};

use crate::meta::{CollectionRecord, Space};

use crate::shard::{
    chunks,
    command::Condition,
    read::private,
    record::{self, Attachment, Class, FrameBody},
};

/// A frame of a request, checked and ready to be sealed.
pub(super) struct Draft {
    pub(super) frame: FrameId,
    pub(super) condition: Condition,
    pub(super) digest: [u8; 32],
    pub(super) session: Option<[u8; 16]>,
    pub(super) expires_ms: u64,
    pub(super) created_ms: u64,
    /// Its place in its call.
    pub(super) index: usize,
    /// Its place in its session, if its caller says so.
    pub(super) position: Option<Position>,
    pub(super) owner: Option<[u8; 16]>,
    pub(super) class: Class,
    pub(super) chunks: Vec<FrameId>,
    pub(super) content: Content,
}

/// What a draft holds.
pub(super) enum Content {
    Plain {
        body: Box<FrameBody>,
        vectors: FrameVectors,
    },
    /// Sealed by its owner.
    Private {
        body: Bytes,
        vectors: Bytes,
    },
}

impl Content {
    /// The spaces in which it has vectors that the index may see.
    pub(super) fn spaces(&self) -> SpaceSet {
        match self {
            Content::Plain { vectors, .. } => vectors.spaces(),
            Content::Private { .. } => SpaceSet::default(),
        }
    }
}

impl Draft {
    /// A plain or a private draft.
    pub(super) fn of(
        mut frame: node_v1::FrameWrite,
        collection: &CollectionRecord,
        tags: &CollectionKey,
    ) -> Result<Self, Problem> {
        match frame.private.take() {
            Some(sealed) => Draft::private(frame, sealed, tags),
            None => Draft::plain(frame, collection, tags),
        }
    }

    /// Checks what can be seen of a frame that its owner sealed.
    fn private(
        frame: node_v1::FrameWrite,
        sealed: node_v1::PrivateWrite,
        tags: &CollectionKey,
    ) -> Result<Self, Problem> {
        let id = frame.id.as_ref().try_into().map_err(|_| Problem::invalid("a frame id has 16 bytes"))?;
        private::check(&frame, &sealed)?;
        Ok(Draft {
            class: chunks::class(frame.class)?,
            chunks: chunks::references(&frame.chunks)?,
            frame: u128::from_be_bytes(id),
            condition: condition(&frame),
            digest: tags.content_digest(&[&sealed.digest[..], &frame.expires_ms.to_le_bytes()].concat()),
            session: (!sealed.session.is_empty()).then(|| tags.tag(record::PRIVATE_SESSION_TAG, &sealed.session)),
            expires_ms: frame.expires_ms,
            created_ms: frame.created_ms,
            index: frame.index as usize,
            position: Position::of_packed(frame.position),
            owner: Some(tags.tag(record::OWNER_TAG, &sealed.owner)),
            content: Content::Private { body: sealed.body, vectors: sealed.vectors },
        })
    }

    /// Checks what the state machine could not refuse any more, then prepares the rest.
    fn plain(frame: node_v1::FrameWrite, collection: &CollectionRecord, tags: &CollectionKey) -> Result<Self, Problem> {
        let id = frame.id.as_ref().try_into().map_err(|_| Problem::invalid("a frame id has 16 bytes"))?;
        check_sizes(&frame)?;
        let (class, references) = (chunks::class(frame.class)?, chunks::references(&frame.chunks)?);
        let attachment = frame.attachment.as_ref().map(chunks::attachment).transpose()?;
        must_keep(attachment.as_ref(), &references)?;
        let vectors = vectors_of(&frame, collection)?;
        let session = (!frame.session.is_empty()).then(|| tags.tag(record::SESSION_TAG, frame.session.as_bytes()));
        Ok(Draft {
            class,
            chunks: references,
            frame: u128::from_be_bytes(id),
            condition: condition(&frame),
            digest: digest(&frame, tags),
            session,
            expires_ms: frame.expires_ms,
            created_ms: frame.created_ms,
            index: frame.index as usize,
            position: Position::of_packed(frame.position),
            owner: None,
            content: Content::Plain { body: Box::new(body_of(frame, attachment)), vectors },
        })
    }
}

fn condition(frame: &node_v1::FrameWrite) -> Condition {
    match (frame.expected_version, frame.replace) {
        (Some(version), _) => Condition::Expect(version),
        (None, true) => Condition::Replace,
        (None, false) => Condition::Create,
    }
}

/// What is sealed of a plain frame beside its vectors.
fn body_of(frame: node_v1::FrameWrite, attachment: Option<Attachment>) -> FrameBody {
    let passages = if frame.vector_given {
        Vec::new()
    } else {
        frame.passages.iter().map(|passage| (passage.start, passage.end)).collect()
    };
    FrameBody {
        content: frame.content,
        text: frame.text,
        kind: frame.r#type,
        session: frame.session,
        role: frame.role,
        metadata_json: frame.metadata_json,
        passages,
        language: frame.language,
        attachment,
        extensions: Extensions::default(),
    }
}

/// The vectors of a frame, checked.
fn vectors_of(frame: &node_v1::FrameWrite, collection: &CollectionRecord) -> Result<FrameVectors, Problem> {
    let mut vectors = FrameVectors::default();
    for passage in &frame.passages {
        check_vector(&passage.vector, &collection.own_space())?;
        vectors.add(OWN_SPACE, &passage.vector);
    }
    for named in &frame.named {
        let space = collection.space_named(&named.space)?;
        check_vector(&named.vector, &space)?;
        if vectors.spaces().has(space.number) {
            return Err(Problem::invalid(format!("a frame has two vectors named {:?}", named.space)));
        }
        vectors.add(space.number, &named.vector);
    }
    Ok(vectors)
}

/// A frame refers to every chunk of its attachment, so that they stay.
fn must_keep(attachment: Option<&Attachment>, references: &[FrameId]) -> Result<(), Problem> {
    let mut needed = attachment.iter().flat_map(|attachment| &attachment.chunks);
    if needed.all(|(chunk, _)| references.contains(chunk)) {
        return Ok(());
    }
    Err(Problem::invalid("an attachment has a chunk that its frame does not refer to"))
}

/// The router refuses these with better words; a node trusts no router.
fn check_sizes(frame: &node_v1::FrameWrite) -> Result<(), Problem> {
    let too_large = |what: &str, size: usize, limit: usize| {
        Err(Problem::new(Code::TooLarge, format!("{what} has {size} bytes, the limit is {limit}")))
    };
    if frame.content.len() > limits::MAX_CONTENT_BYTES {
        return too_large("content", frame.content.len(), limits::MAX_CONTENT_BYTES);
    }
    if frame.metadata_json.len() > limits::MAX_METADATA_BYTES {
        return too_large("metadata", frame.metadata_json.len(), limits::MAX_METADATA_BYTES);
    }
    if frame.passages.len() > limits::MAX_PASSAGES {
        return Err(Problem::new(Code::TooLarge, format!("more than {} passages", limits::MAX_PASSAGES)));
    }
    for name in [&frame.r#type, &frame.session, &frame.role] {
        if name.len() > limits::MAX_NAME_BYTES {
            return too_large("a name", name.len(), limits::MAX_NAME_BYTES);
        }
    }
    if frame.text && std::str::from_utf8(&frame.content).is_err() {
        return Err(Problem::invalid("content is not valid UTF-8; send it as bytes"));
    }
    Ok(())
}

/// Checks one vector against its space.
pub fn check_vector(vector: &[f32], space: &Space<'_>) -> Result<(), Problem> {
    vectors::check(vector, space.dim, space.metric).map_err(|fault| match fault {
        VectorFault::Dimension { have, want } => {
            let detail = format!("the vector has {have} components, those of {space} have {want}");
            Problem::new(Code::DimensionMismatch, detail)
        }
        fault => Problem::invalid(format!("a vector of {space}: {fault}")),
    })
}

/// A keyed digest of what the caller said: equal for a retry, whatever was made from it.
fn digest(frame: &node_v1::FrameWrite, tags: &CollectionKey) -> [u8; 32] {
    let mut hasher = tags.content_hasher();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(&[u8::from(frame.text), u8::from(frame.vector_given)]);
    field(&frame.content);
    for text in [&frame.r#type, &frame.session, &frame.role, &frame.metadata_json] {
        field(text.as_bytes());
    }
    field(&frame.expires_ms.to_le_bytes());
    if let Some(attachment) = &frame.attachment {
        field(attachment.content_type.as_bytes());
        attachment.chunks.iter().for_each(|chunk| field(&chunk.id));
    }
    if frame.vector_given {
        for passage in &frame.passages {
            let bytes: Vec<u8> = passage.vector.iter().flat_map(|component| component.to_le_bytes()).collect();
            field(&bytes);
        }
    }
    for named in &frame.named {
        field(named.space.as_bytes());
        let bytes: Vec<u8> = named.vector.iter().flat_map(|component| component.to_le_bytes()).collect();
        field(&bytes);
    }
    hasher.finish()
}
