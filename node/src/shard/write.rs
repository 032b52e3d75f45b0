//! Writing, on the shard's leader: seal, propose, answer.
//!
//! A frame is sealed as the version it will get, so the leader looks up the current one first. Two writers of one frame
//! would seal the same version; on one leader a lock per frame (striped) keeps them apart, and after a change of leader
//! the state machine answers `Raced` and the leader seals again. Each round of a request has a request id of its own,
//! derived from the caller's, so that a retry walks through the same rounds and applies none twice.

use std::collections::BTreeSet;

use bytes::Bytes;
use mira_crypto::{CollectionKey, Part};
use mira_index::filter;
use mira_proto::model::Metric;
use mira_proto::vectors::{FrameVectors, OWN_SPACE, SpaceSet};
use mira_proto::{Code, CollectionId, FrameId, Problem, Refusal, ShardId, limits, node_v1};
use mira_raft::RequestId;
use tokio::sync::{Mutex, MutexGuard};

use crate::meta::{CollectionRecord, Space};

use crate::shard::{
    Shard, chunks,
    command::{self, Condition, ShardAnswer, ShardCommand, StoreFrame, StoreOutcome},
    frame_id,
    migration::ownership::{FrameOwnership, Ownership},
    read,
    read::private,
    record,
    record::{Attachment, Class, FrameBody, FramePlace, FrameRecord},
    refuse_engine, refuse_proposal,
};

/// Locks of a shard. Two frames may share one; that costs time, never correctness.
const STRIPES: usize = 256;
/// Rounds of sealing again before a writer is told that others keep winning. Only a change of leader makes a second.
pub const MAX_ROUNDS: u32 = 16;

/// Keeps writers of one frame apart while they seal and propose.
pub struct FrameLocks(Vec<Mutex<()>>);

impl Default for FrameLocks {
    fn default() -> Self {
        FrameLocks((0..STRIPES).map(|_| Mutex::new(())).collect())
    }
}

impl FrameLocks {
    /// Locks the stripes of these frames, in order, so that two batches never wait for each other in a circle.
    async fn lock(&self, frames: impl Iterator<Item = FrameId>) -> Vec<MutexGuard<'_, ()>> {
        let stripes: BTreeSet<usize> = frames.map(|frame| (frame % STRIPES as u128) as usize).collect();
        let mut guards = Vec::with_capacity(stripes.len());
        for stripe in stripes {
            guards.push(self.0[stripe].lock().await);
        }
        guards
    }
}

/// A frame of a request, checked and ready to be sealed.
pub(super) struct Draft {
    pub(super) frame: FrameId,
    condition: Condition,
    pub(super) digest: [u8; 32],
    session: Option<[u8; 16]>,
    expires_ms: u64,
    created_ms: u64,
    owner: Option<[u8; 16]>,
    class: Class,
    chunks: Vec<FrameId>,
    content: Content,
}

/// What a draft holds.
enum Content {
    Plain {
        body: FrameBody,
        vectors: FrameVectors,
    },
    /// Sealed by its owner.
    Private {
        body: Bytes,
        vectors: Bytes,
    },
}

impl<R: mira_raft::Runtime> Shard<R> {
    /// Stores frames; each is stored or refused by itself.
    pub async fn write(&self, request: node_v1::WriteRequest) -> Result<node_v1::WriteReply, Refusal> {
        self.must_lead()?;
        self.index.has_room().await;
        let header = write_header(request.header.as_ref())?;
        let collection = self.collection(header.epoch, header.collection)?;
        if self.shared.cluster.borrow().restoring.is_some() {
            return Err(Refusal::NotReady("a backup is being restored".into()));
        }
        let request_id = parse_request_id(&header.request_id)?;
        let tags = self.shared.keyring.tags(&collection)?;
        let drafts: Vec<Result<Draft, Problem>> =
            request.frames.into_iter().map(|frame| drafted(frame, &collection, &tags)).collect();
        let ready: Vec<&Draft> = drafts.iter().filter_map(|draft| draft.as_ref().ok()).collect();
        self.must_have_arrived(collection.id, ready.iter().map(|draft| draft.frame))?;

        // Frames that only ever create an id of their own cannot race: no need to wait for each other.
        let contended = ready.iter().filter(|draft| draft.condition != Condition::Create).map(|draft| draft.frame);
        let guards = self.locks.lock(contended).await;
        let (outcomes, index) = match ready.iter().all(|draft| draft.class == Class::Chunk) {
            true => self.store_chunks(&collection, request_id, &ready).await?,
            false => self.store(&collection, request_id, &ready).await?,
        };
        drop(guards);

        let mut outcomes = outcomes.into_iter();
        let outcomes = drafts
            .iter()
            .map(|draft| match draft {
                Ok(_) => to_wire(outcomes.next().expect("one outcome for each ready draft")),
                Err(problem) => refused(problem.clone()),
            })
            .collect();
        Ok(node_v1::WriteReply { outcomes, index })
    }

    /// A target takes no writes of frames that their source has not handed over: what it would answer to them would be
    /// remembered under their request ids, and be wrong soon after.
    fn must_have_arrived(
        &self,
        collection: CollectionId,
        mut frames: impl Iterator<Item = FrameId>,
    ) -> Result<(), Refusal> {
        let Some(ownership) = self.ownership(collection)? else { return Ok(()) };
        let placement = self.placement(collection, ownership.span);
        match frames.any(|frame| ownership.claim(&placement, frame) == FrameOwnership::Pending) {
            true => Err(Refusal::NotReady("the frame is still on its way to this shard".into())),
            false => Ok(()),
        }
    }

    /// Proposes drafts until each has a final outcome; also returns the log position of the last round.
    pub(super) async fn store(
        &self,
        collection: &CollectionRecord,
        request_id: RequestId,
        drafts: &[&Draft],
    ) -> Result<(Vec<StoreOutcome>, u64), Refusal> {
        let mut outcomes = vec![StoreOutcome::Raced(0); drafts.len()];
        let mut index = self.group.reader().applied_index();
        for round in 0..MAX_ROUNDS {
            let open: Vec<usize> =
                (0..drafts.len()).filter(|&at| matches!(outcomes[at], StoreOutcome::Raced(_))).collect();
            if open.is_empty() {
                break;
            }
            let round_drafts: Vec<&Draft> = open.iter().map(|&at| drafts[at]).collect();
            let (answers, at_index) = self.propose(collection, round_id(request_id, round), &round_drafts).await?;
            for (at, outcome) in open.into_iter().zip(answers) {
                outcomes[at] = outcome;
            }
            index = at_index;
        }
        Ok((outcomes, index))
    }

    async fn propose(
        &self,
        collection: &CollectionRecord,
        request_id: RequestId,
        drafts: &[&Draft],
    ) -> Result<(Vec<StoreOutcome>, u64), Refusal> {
        // What seals may have changed since the last round.
        let newest = self.shared.cluster.borrow().collections.get(&collection.id).cloned();
        let sealed = self.seal(newest.as_ref().unwrap_or(collection), drafts)?;
        let payload = command::encode(&ShardCommand::Store(sealed));
        // Sealing twice gives different bytes, so what tells a retry from another request is what the caller said.
        let fingerprint: Vec<u8> = drafts.iter().flat_map(|draft| draft.digest).collect();
        let proposed = self.group.propose_content(request_id, &fingerprint, payload).await.map_err(refuse_proposal)?;
        match command::decode(&proposed.response).map_err(refuse_engine)? {
            ShardAnswer::Store(outcomes) if outcomes.len() == drafts.len() => Ok((outcomes, proposed.index)),
            other => Err(Problem::internal(format!("a store was answered with {other:?}")).into()),
        }
    }

    fn seal(&self, collection: &CollectionRecord, drafts: &[&Draft]) -> Result<Vec<StoreFrame>, Refusal> {
        let key = self.shared.keyring.current(collection)?;
        let layer = self.shared.keyring.current_layer(&self.shared.cluster.borrow())?;
        let versions = self.current_versions(collection, drafts)?;
        let mut rng = (self.shared.randomness)();
        let sealed = drafts.iter().zip(versions).map(|(draft, current)| {
            let version = current + 1;
            let place = FramePlace { collection: collection.id, shard: self.id, frame: draft.frame, version };
            let (body, vectors, spaces) = match &draft.content {
                Content::Plain { body, vectors } => {
                    let sealed = match vectors.is_empty() {
                        true => Bytes::new(),
                        false => place.seal_vectors(&key, vectors, &mut rng).into(),
                    };
                    (place.seal_body(&key, body, &mut rng).into(), sealed, vectors.spaces())
                }
                Content::Private { body, vectors } => {
                    let mut seal =
                        |part, inner: &Bytes| private::seal(&key, &layer, &place.context(part), inner, &mut rng);
                    let vectors = if vectors.is_empty() { Bytes::new() } else { seal(Part::Vectors, vectors) };
                    (seal(Part::Body, body), vectors, SpaceSet::default())
                }
            };
            StoreFrame {
                collection: collection.id,
                frame: draft.frame,
                version,
                condition: draft.condition,
                digest: draft.digest,
                owner: draft.owner,
                session: draft.session,
                expires_ms: draft.expires_ms,
                created_ms: draft.created_ms,
                // What is hidden lives as long as what needs it.
                ttl_ms: match draft.class {
                    Class::Memory => collection.ttl_seconds.saturating_mul(1_000),
                    Class::Chunk | Class::Upload => 0,
                },
                spaces,
                class: draft.class,
                chunks: draft.chunks.clone(),
                body,
                vectors,
                key_version: key.version(),
            }
        });
        Ok(sealed.collect())
    }

    fn current_versions(&self, collection: &CollectionRecord, drafts: &[&Draft]) -> Result<Vec<u64>, Refusal> {
        let keys: Vec<_> = drafts.iter().map(|draft| record::frame_key(collection.id, draft.frame)).collect();
        let stored = self.group.reader().multi_get(&keys).map_err(refuse_engine)?;
        stored
            .into_iter()
            .map(|stored| {
                Ok(stored.map(|stored| FrameRecord::decode(&stored)).transpose()?.map_or(0, |old| old.version))
            })
            .collect::<Result<_, _>>()
            .map_err(refuse_engine)
    }

    /// Removes frames by id, of a session, by filter, or all of a collection; at most [`limits::MAX_FORGET_STEP`] of them,
    /// and says whether there are more.
    pub async fn forget(&self, request: node_v1::ForgetRequest) -> Result<node_v1::ForgetReply, Refusal> {
        self.must_lead()?;
        let header = write_header(request.header.as_ref())?;
        let collection = self.collection(header.epoch, header.collection)?;
        let request_id = parse_request_id(&header.request_id)?;
        let step = limits::MAX_FORGET_STEP;
        let asker = private::asker(&self.shared.keyring, &collection, &request)?;
        let ownership = self.ownership(collection.id)?;
        must_have_opened(ownership.as_ref(), &request.taken_over_from)?;
        let behind =
            ownership.as_ref().filter(|ownership| ownership.min_epoch > header.epoch && request.ids.is_empty());
        if let Some(ownership) = behind {
            // It would not know that others have to be asked too.
            return Err(Refusal::StaleMap { epoch: ownership.min_epoch });
        }
        // What another shard decides about is not removed here, and would be found again by every step.
        let mine = |frame: FrameId| {
            let claim = |ownership: &Ownership| ownership.claim(&self.placement(collection.id, ownership.span), frame);
            ownership.as_ref().is_none_or(|ownership| claim(ownership) == FrameOwnership::Owned)
        };
        let mut next = None;
        let frames: Vec<FrameId> = if !request.filter_json.is_empty() {
            let (frames, go_on) = self.filtered(&collection, &request)?;
            next = go_on;
            frames.into_iter().filter(|&frame| mine(frame)).collect()
        } else if request.all {
            read::frames_of_collection(&self.group.reader(), collection.id, step, mine).map_err(refuse_engine)?
        } else if !request.session.is_empty() {
            let tag = self.session_tag(&collection, &request.session)?;
            read::frames_of_session(&self.group.reader(), collection.id, (&tag, step), mine).map_err(refuse_engine)?
        } else if !request.private_session.is_empty() {
            let tag = private::session_tag(&self.shared.keyring, &collection, &request.private_session)?;
            read::frames_of_session(&self.group.reader(), collection.id, (&tag, step), mine).map_err(refuse_engine)?
        } else {
            let ids: Vec<FrameId> = request.ids.iter().map(|id| frame_id(id)).collect::<Result<_, _>>()?;
            self.must_have_arrived(collection.id, ids.iter().copied())?;
            let decided: Vec<FrameId> = ids.iter().copied().filter(|&frame| mine(frame)).collect();
            self.must_be_askers(&collection, &decided, asker)?;
            ids
        };
        let wire = |frame: FrameId| frame.to_be_bytes().to_vec().into();
        if frames.is_empty() {
            let index = self.group.read_index().await.map_err(super::refuse_read)?;
            let (more, next) = (next.is_some(), next.map(wire).unwrap_or_default());
            let frozen_for = self.released(collection.id)?;
            return Ok(node_v1::ForgetReply { index, more, next, frozen_for, ..Default::default() });
        }
        let is_filtered = !request.filter_json.is_empty();
        let more = if is_filtered { next.is_some() } else { frames.len() == step && request.ids.is_empty() };
        let fingerprint: Vec<u8> = match request.ids.is_empty() {
            true => [
                &[u8::from(request.all)],
                request.session.as_bytes(),
                request.filter_json.as_bytes(),
                &request.after[..],
                &request.private_session[..],
            ]
            .concat(),
            false => request.ids.concat(),
        };
        let wanted = frames.clone();
        let payload = command::encode(&ShardCommand::Forget { collection: collection.id, frames, asker });
        let proposed = self.group.propose_content(request_id, &fingerprint, payload).await.map_err(refuse_proposal)?;
        match command::decode(&proposed.response).map_err(refuse_engine)? {
            // Answered from what an earlier try did, or others removed some: what was found now may still be there.
            ShardAnswer::Forget { removed, moved } if is_filtered && removed != wanted => Ok(node_v1::ForgetReply {
                removed: removed.into_iter().map(wire).collect(),
                index: proposed.index,
                more: true,
                next: request.after,
                moved: moved.into_iter().map(wire).collect(),
                frozen_for: self.released(collection.id)?,
            }),
            ShardAnswer::Forget { removed, moved } => Ok(node_v1::ForgetReply {
                removed: removed.into_iter().map(wire).collect(),
                index: proposed.index,
                more,
                next: next.map(wire).unwrap_or_default(),
                moved: moved.into_iter().map(wire).collect(),
                frozen_for: self.released(collection.id)?,
            }),
            other => Err(Problem::internal(format!("a forget was answered with {other:?}")).into()),
        }
    }

    /// The targets to which this shard has released frames, in a growth that is not known to be over.
    fn released(&self, collection: CollectionId) -> Result<Vec<ShardId>, Refusal> {
        Ok(self.ownership(collection)?.map(|ownership| ownership.released.into_keys().collect()).unwrap_or_default())
    }

    /// The next frames that a filter means. Opening them is work of up to a second, for which this thread lets its other
    /// tasks go.
    fn filtered(
        &self,
        collection: &CollectionRecord,
        request: &node_v1::ForgetRequest,
    ) -> Result<(Vec<FrameId>, Option<FrameId>), Refusal> {
        let condition = filter::parse(&request.filter_json)?.ok_or_else(|| Problem::invalid("the filter is empty"))?;
        let after = if request.after.is_empty() { None } else { Some(frame_id(&request.after)?) };
        tokio::task::block_in_place(|| self.matching_frames(collection, &condition, after))
    }

    /// Removes what a dropped collection left.
    pub async fn purge(&self, collection: u64) -> Result<(), Refusal> {
        let payload = command::encode(&ShardCommand::Purge { collection });
        self.group.propose(None, payload).await.map_err(refuse_proposal)?;
        Ok(())
    }
}

/// Whether a target has opened what these sources have released to it.
fn must_have_opened(ownership: Option<&Ownership>, sources: &[ShardId]) -> Result<(), Refusal> {
    match sources.iter().all(|&source| ownership.is_some_and(|ownership| ownership.is_open(source))) {
        true => Ok(()),
        false => Err(Refusal::NotReady("frames of the collection are still on their way to this shard".into())),
    }
}

fn write_header(header: Option<&node_v1::WriteHeader>) -> Result<&node_v1::WriteHeader, Problem> {
    header.ok_or_else(|| Problem::invalid("the write has no header"))
}

fn parse_request_id(bytes: &[u8]) -> Result<RequestId, Refusal> {
    let bytes = bytes.try_into().map_err(|_| Problem::invalid("a request id has 16 bytes"))?;
    Ok(RequestId(u128::from_be_bytes(bytes)))
}

/// Request ids of later rounds: far apart from every id that a router draws at random, and the same on each retry.
pub fn round_id(request: RequestId, round: u32) -> RequestId {
    RequestId(request.0.wrapping_add((u128::from(round)) << 96))
}

/// A plain or a private draft.
fn drafted(
    mut frame: node_v1::FrameWrite,
    collection: &CollectionRecord,
    tags: &CollectionKey,
) -> Result<Draft, Problem> {
    let Some(sealed) = frame.private.take() else { return draft(frame, collection, tags) };
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
        owner: Some(tags.tag(record::OWNER_TAG, &sealed.owner)),
        content: Content::Private { body: sealed.body, vectors: sealed.vectors },
    })
}

fn condition(frame: &node_v1::FrameWrite) -> Condition {
    match (frame.expected_version, frame.replace) {
        (Some(version), _) => Condition::Expect(version),
        (None, true) => Condition::Replace,
        (None, false) => Condition::Create,
    }
}

/// Checks what the state machine could not refuse any more, and prepares the rest.
fn draft(frame: node_v1::FrameWrite, collection: &CollectionRecord, tags: &CollectionKey) -> Result<Draft, Problem> {
    let id = frame.id.as_ref().try_into().map_err(|_| Problem::invalid("a frame id has 16 bytes"))?;
    check_sizes(&frame)?;
    let (class, references) = (chunks::class(frame.class)?, chunks::references(&frame.chunks)?);
    let attachment = frame.attachment.as_ref().map(chunks::attachment).transpose()?;
    must_keep(attachment.as_ref(), &references)?;
    let vectors = vectors_of(&frame, collection)?;
    let condition = condition(&frame);
    let digest = digest(&frame, tags);
    let session = (!frame.session.is_empty()).then(|| tags.tag(record::SESSION_TAG, frame.session.as_bytes()));
    let passages = match frame.vector_given {
        true => Vec::new(),
        false => frame.passages.iter().map(|passage| (passage.start, passage.end)).collect(),
    };
    let body = FrameBody {
        content: frame.content,
        text: frame.text,
        kind: frame.r#type,
        session: frame.session,
        role: frame.role,
        metadata_json: frame.metadata_json,
        passages,
        language: frame.language,
        attachment,
    };
    Ok(Draft {
        class,
        chunks: references,
        frame: u128::from_be_bytes(id),
        condition,
        digest,
        session,
        expires_ms: frame.expires_ms,
        created_ms: frame.created_ms,
        owner: None,
        content: Content::Plain { body, vectors },
    })
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
    match needed.all(|(chunk, _)| references.contains(chunk)) {
        true => Ok(()),
        false => Err(Problem::invalid("an attachment has a chunk that its frame does not refer to")),
    }
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
    if vector.len() != space.dim {
        let (have, want) = (vector.len(), space.dim);
        let detail = format!("the vector has {have} components, those of {space} have {want}");
        return Err(Problem::new(Code::DimensionMismatch, detail));
    }
    if let Some(at) = vector.iter().position(|component| !component.is_finite()) {
        return Err(Problem::invalid(format!("component {at} of the vector is not a finite number")));
    }
    if space.metric == Metric::Cosine && vector.iter().all(|&component| component == 0.0) {
        return Err(Problem::invalid("the zero vector has no direction to compare by cosine"));
    }
    Ok(())
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

fn to_wire(outcome: StoreOutcome) -> node_v1::WriteOutcome {
    match outcome {
        StoreOutcome::Stored(version) | StoreOutcome::Same(version) => {
            node_v1::WriteOutcome { version, ..Default::default() }
        }
        StoreOutcome::Moved => node_v1::WriteOutcome { moved: true, ..Default::default() },
        StoreOutcome::Conflict(version) => refused(Problem::new(
            Code::Conflict,
            format!(
                "the id holds other content, version {version}; use replace or expected_version to store a new one"
            ),
        )),
        StoreOutcome::Raced(version) => refused(Problem::new(
            Code::Conflict,
            format!("other writers keep replacing this frame (version {version} now); try again"),
        )),
        StoreOutcome::Foreign => refused(private::foreign()),
    }
}

fn refused(problem: Problem) -> node_v1::WriteOutcome {
    node_v1::WriteOutcome { problem: Some(problem.into()), ..Default::default() }
}
