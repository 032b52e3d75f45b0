//! `store`: from items to frames on a majority of their shards' replicas.
//!
//! Each item of a batch is answered by itself: refused by validation, by its collection, by the embedder or by its
//! shard, it leaves the others alone. The way of a batch: validate every item, look up the collections, leave out what is
//! known to be there, embed all texts at once, make the collections that are new, group by shard, send each shard its
//! chunks, and put the outcomes in the order of the items. Shards work side by side; the chunks of one shard go one after
//! the other, so that items with the same id take effect in their order.
//!
//! Which shard a write goes to, [`CollectionRoute::place_of`] says.

pub mod draft;
mod known;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use mira_proto::model::{CollectionSettings, ItemResult, StoreItem, StoreReply, StoreRequest, Stored, check_count};
use mira_proto::node_v1::{FrameClass, FrameWrite, NamedVector, Passage, WriteHeader, WriteRequest};
use mira_proto::{Code, Position, Problem, ShardId, limits, node_v1};
use prost::Message;
use uuid::Uuid;

use crate::cluster::{Call, CallError, CollectionRoute, Place, size_of_frame};
use crate::ids::{self, NewFrame, WriteIdentity};
use crate::memory::MAX_REROUTES;
use crate::operations::convert;
use crate::operations::validate;
use crate::positions::CallPosition;
use crate::private::seal;
use crate::{ConsistencyToken, Memory, RequestContext};
use draft::{Draft, Embedded, Named};

/// What is known so far: one outcome for each item, in order, and what the shards have applied.
pub(crate) struct Outcomes {
    items: Vec<Option<Result<Stored, Problem>>>,
    token: ConsistencyToken,
}

impl Outcomes {
    /// For so many items.
    pub(crate) fn of(items: usize, token: ConsistencyToken) -> Self {
        Outcomes { items: vec![None; items], token }
    }

    /// What became of each item, in order, and what the shards have applied.
    pub(crate) fn into_parts(self) -> (Vec<Result<Stored, Problem>>, ConsistencyToken) {
        let lost = || Err(Problem::internal("an item was neither stored nor refused"));
        (self.items.into_iter().map(|outcome| outcome.unwrap_or_else(lost)).collect(), self.token)
    }

    fn settle(&mut self, at: usize, outcome: Result<Stored, Problem>) {
        self.items[at] = Some(outcome);
    }

    /// Refuses an item of which nothing is known yet.
    fn settle_open(&mut self, at: usize, problem: &Problem) {
        self.items[at].get_or_insert_with(|| Err(problem.clone()));
    }
}

/// A draft with all that it is found by, whose collection may have to be made yet.
struct Prepared {
    draft: Draft,
    passages: Vec<Passage>,
    named: Named,
}

/// An item that is worth storing, with the id that its frame gets.
struct Identified {
    /// Its place in the request.
    at: usize,
    id: Uuid,
    draft: Draft,
}

/// An item on its way to a shard.
pub(crate) struct Pending {
    /// Its place in the request.
    pub(crate) at: usize,
    pub(crate) id: Uuid,
    pub(crate) frame: FrameWrite,
    /// Where the frame lay before has said that it has moved.
    moved: bool,
}

impl Pending {
    /// A frame for the item at a place of the request.
    pub(crate) fn new(at: usize, id: Uuid, frame: FrameWrite) -> Self {
        Pending { at, id, frame, moved: false }
    }
}

impl Memory {
    /// Remembers one item or many.
    pub async fn store(&self, context: &RequestContext, request: StoreRequest) -> Result<StoreReply, Problem> {
        let StoreRequest { item, items } = request;
        if let Some(items) = items {
            if item != StoreItem::default() {
                return Err(Problem::invalid("items stands alone: put every other field into the items"));
            }
            let (outcomes, token) = self.store_batch(context, items.read()?).await?;
            let answer = |outcome| match outcome {
                Ok(stored) => ItemResult::Stored(stored),
                Err(error) => ItemResult::Refused { error },
            };
            let items = Some(outcomes.into_iter().map(answer).collect());
            let consistency_token = token.to_string();
            return Ok(StoreReply { id: None, version: None, unchanged: false, items, consistency_token });
        }
        let context = &context.with_time_for(text_bytes(&item));
        self.bounded("store", context, async {
            let (mut outcomes, token) = self.store_items(context, vec![Ok(item)]).await;
            let Stored { id, version, unchanged } = outcomes.swap_remove(0)?;
            let (id, version, consistency_token) = (Some(id), Some(version), token.to_string());
            Ok(StoreReply { id, version, unchanged, items: None, consistency_token })
        })
        .await
    }

    /// Remembers a batch of items, some of which could not be read: each is stored or refused by itself, in order.
    pub async fn store_batch(
        &self,
        context: &RequestContext,
        items: Vec<Result<StoreItem, Problem>>,
    ) -> Result<(Vec<Result<Stored, Problem>>, ConsistencyToken), Problem> {
        check_count::<StoreItem>(items.len())?;
        let context = &context.with_time_for(items.iter().flatten().map(text_bytes).sum());
        self.bounded("store", context, async { Ok(self.store_items(context, items).await) }).await
    }

    async fn store_items(
        &self,
        context: &RequestContext,
        items: Vec<Result<StoreItem, Problem>>,
    ) -> (Vec<Result<Stored, Problem>>, ConsistencyToken) {
        let is_private = items.iter().flatten().any(|item| item.private);
        let (resolved, keyless) = match self.storing_owner(context, is_private).await {
            Ok(resolved) => (resolved, None),
            Err(problem) => (context.clone(), Some(problem)),
        };
        let context = &resolved;
        let now_ms = convert::now_ms();
        let mut outcomes = Outcomes::of(items.len(), context.token.clone());
        let mut by_collection: BTreeMap<String, Vec<(usize, Draft)>> = BTreeMap::new();
        for (at, item) in items.into_iter().enumerate() {
            match (item.and_then(|item| Draft::of(item, now_ms)), &keyless) {
                (Ok(draft), Some(problem)) if draft.private => outcomes.settle(at, Err(problem.clone())),
                (Ok(draft), _) => by_collection.entry(draft.collection.clone()).or_default().push((at, draft)),
                (Err(problem), _) => outcomes.settle(at, Err(problem)),
            }
        }
        for (collection, drafts) in by_collection {
            self.store_in(context, &collection, drafts, &mut outcomes).await;
        }
        outcomes.into_parts()
    }

    /// Stores the drafts of one collection, notes their outcomes and what shards have applied.
    ///
    /// A collection is made on first use only when something is to be put into it: what can be refused without it is.
    pub(crate) async fn store_in(
        &self,
        context: &RequestContext,
        name: &str,
        drafts: Vec<(usize, Draft)>,
        outcomes: &mut Outcomes,
    ) {
        let places: Vec<usize> = drafts.iter().map(|(at, _)| *at).collect();
        let refuse_all = |outcomes: &mut Outcomes, problem: Problem| {
            places.iter().for_each(|at| outcomes.settle_open(*at, &problem));
        };
        let there = match self.find_collection(context, name).await {
            Ok(there) => there,
            Err(problem) => return refuse_all(outcomes, problem),
        };
        let info = match there.as_ref().map_or_else(|| self.first_use(name, &drafts), |there| Ok(there.info.clone())) {
            Ok(info) => info,
            Err(problem) => return refuse_all(outcomes, problem),
        };
        let drafts = match &there {
            Some(route) => {
                let identified = identified(context, route, drafts, outcomes);
                let others = self.settle_known(context, route, identified, outcomes).await;
                others.into_iter().map(|Identified { at, id, draft }| (at, Draft { id: Some(id), ..draft })).collect()
            }
            None => without_version(drafts, outcomes),
        };
        let prepared = self.embed_drafts(context, &info, drafts, outcomes).await;
        if prepared.is_empty() {
            return;
        }
        let route = match there {
            Some(route) => Ok(route),
            None => self.make_on_first_use(context, &info).await,
        };
        let route = match route {
            Ok(route) => route,
            Err(problem) => return refuse_all(outcomes, problem),
        };
        let mut pending = Vec::with_capacity(prepared.len());
        for (at, prepared) in prepared {
            match to_write(context, &route, at, prepared) {
                Ok(item) => pending.push(item),
                Err(problem) => outcomes.settle(at, Err(problem)),
            }
        }
        self.write_frames(context, route, pending, outcomes).await;
    }

    /// Writes frames to their shards, wherever these are by then.
    pub(crate) async fn write_frames(
        &self,
        context: &RequestContext,
        route: Arc<CollectionRoute>,
        mut pending: Vec<Pending>,
        outcomes: &mut Outcomes,
    ) {
        let name = route.info.name.clone();
        let mut position = self.positions.next(convert::now_ms(), &context.token);
        let mut route = Some(route);
        for _ in 0..MAX_REROUTES {
            let Some(current) = route.take().filter(|_| !pending.is_empty()) else { break };
            // The order of the request, also for what comes back from several shards.
            pending.sort_by_key(|item| item.at);
            let mut by_place: BTreeMap<Place, Vec<Pending>> = BTreeMap::new();
            for item in pending.drain(..) {
                let may_be_retry = context.idempotency_key.is_some();
                by_place.entry(current.place_of(item.id.as_u128(), item.moved, may_be_retry)).or_default().push(item);
            }
            let by_place: Vec<(Place, Vec<Vec<Pending>>)> =
                by_place.into_iter().map(|(place, items)| (place, chunks(items))).collect();
            let requests: usize = by_place.iter().map(|(_, chunks)| chunks.len()).sum();
            position.is_fixed |= requests > 1;
            let writes = by_place
                .into_iter()
                .map(|(place, chunks)| ShardWrite { place, position, chunks })
                .map(|write| self.write_shard(context, &current, write))
                .collect::<Vec<_>>();
            let mut written = futures::stream::iter(writes).buffer_unordered(limits::MAX_FAN_OUT);
            while let Some(answer) = written.next().await {
                answer.done.into_iter().for_each(|(at, outcome)| outcomes.settle(at, outcome));
                outcomes.token.note(answer.shard, answer.index);
                outcomes.token.note_position(answer.position);
                self.positions.saw(answer.position);
                if answer.position > 0 {
                    // Wherever the rest goes, it belongs to what was stored.
                    position = CallPosition { micros: answer.position, is_fixed: true };
                }
                pending.extend(answer.moved);
            }
            if !pending.is_empty() {
                if pending.iter().any(|item| item.moved) && current.is_settled() {
                    self.cluster.newer_map().await;
                }
                route = self.find_collection(context, &name).await.ok().flatten();
            }
        }
        let moved = Problem::from(CallError::Moved);
        pending.iter().for_each(|item| outcomes.settle(item.at, Err(moved.clone())));
    }

    /// What a collection is that is made on first use: with the model's dimension, or without a model that of the first
    /// vector.
    pub(crate) fn first_use(&self, name: &str, drafts: &[(usize, Draft)]) -> Result<node_v1::Collection, Problem> {
        let first_vector = drafts.iter().find_map(|(_, draft)| draft.vector.as_ref());
        let (dim, model) = match (self.embedding.model(), first_vector) {
            (Some(model), _) => (model.dim as u32, model.name.clone()),
            (None, Some(vector)) => (vector.len() as u32, String::new()),
            (None, None) => return Err(self.embedding.missing()),
        };
        let metric = node_v1::Metric::from(CollectionSettings::default().metric).into();
        Ok(node_v1::Collection { name: name.to_owned(), dim, model, metric, ..Default::default() })
    }

    /// Makes a collection on its first use.
    pub(crate) async fn make_on_first_use(
        &self,
        context: &RequestContext,
        wanted: &node_v1::Collection,
    ) -> Result<Arc<CollectionRoute>, Problem> {
        let name = &wanted.name;
        let settings = CollectionSettings { dim: Some(wanted.dim), ..Default::default() };
        match self.create_collection(context, name, settings).await {
            // Somebody else has made it meanwhile.
            Err(problem) if problem.code != Code::AlreadyExists => return Err(problem),
            _ => {}
        }
        let route = self.find_collection(context, name).await?.ok_or_else(|| crate::memory::no_collection(name))?;
        let made = &route.info;
        if (made.dim, &made.model, made.metric) == (wanted.dim, &wanted.model, wanted.metric) {
            return Ok(route);
        }
        let detail = format!("collection {name:?} was made with other settings at this moment: try again");
        Err(Problem::new(Code::Unavailable, detail))
    }

    /// Gives every draft its vectors; notes the ones that cannot have any.
    async fn embed_drafts(
        &self,
        context: &RequestContext,
        collection: &node_v1::Collection,
        drafts: Vec<(usize, Draft)>,
        outcomes: &mut Outcomes,
    ) -> Vec<(usize, Prepared)> {
        let with_named = |(at, draft): (usize, Draft)| match named_vectors(&draft, collection) {
            Ok(named) => Some(((at, draft), named)),
            Err(problem) => {
                outcomes.settle(at, Err(problem));
                None
            }
        };
        let drafts: Vec<((usize, Draft), Named)> = drafts.into_iter().filter_map(with_named).collect();
        let texts: Vec<String> = drafts
            .iter()
            .filter(|((_, draft), _)| needs_embedding(draft))
            .map(|((_, draft), _)| String::from_utf8_lossy(&draft.content).into_owned())
            .collect();
        let embedded = match self.model_fits(collection) {
            Ok(()) if !texts.is_empty() => self.embedding.documents(context, texts).await,
            Ok(()) => Ok(Vec::new()),
            Err(problem) => Err(problem),
        };
        let mut embedded = embedded.map(Vec::into_iter);
        let mut prepared = Vec::with_capacity(drafts.len());
        for ((at, draft), named) in drafts {
            let passages = match &mut embedded {
                _ if !needs_embedding(&draft) => given_passages(&draft, collection),
                Ok(embedded) => embedded.next().unwrap_or_else(|| Err(Problem::internal("a text was not embedded"))),
                Err(problem) => Err(problem.clone()),
            };
            match passages {
                Ok(passages) => prepared.push((at, Prepared { draft, passages, named })),
                Err(problem) => outcomes.settle(at, Err(problem)),
            }
        }
        prepared
    }

    /// Sends one shard its items, chunk after chunk.
    async fn write_shard(&self, context: &RequestContext, route: &CollectionRoute, write: ShardWrite) -> ShardOutcomes {
        let ShardWrite { place, position, chunks } = write;
        let shard = place.shard;
        let call = Call::to_write(context, route, "write", shard, place.constraint());
        let mut answer =
            ShardOutcomes { shard, index: 0, position: 0, done: Vec::new(), moved: Vec::new(), gone: false };
        for chunk in chunks {
            if answer.gone {
                answer.moved.extend(chunk);
                continue;
            }
            let frames: Vec<FrameWrite> = chunk.iter().map(|item| item.frame.clone()).collect();
            let request_id = request_id(context, route, shard, &frames);
            let header = WriteHeader { request_id, ..route.write_header(context, shard) };
            let CallPosition { micros, is_fixed } = position;
            let request = WriteRequest { header: Some(header), frames, position: micros, position_fixed: is_fixed };
            match self.cluster.write(&call, &request).await {
                Ok(reply) if reply.outcomes.len() == chunk.len() => {
                    answer.index = answer.index.max(reply.index);
                    answer.position = answer.position.max(reply.position);
                    for (item, outcome) in chunk.into_iter().zip(reply.outcomes) {
                        if outcome.moved {
                            answer.moved.push(Pending { moved: true, ..item });
                            continue;
                        }
                        let (version, unchanged) = (outcome.version, outcome.unchanged);
                        let stored = Stored { id: item.id, version, unchanged };
                        let outcome = outcome.problem.map_or(Ok(stored), |problem| Err(problem.into()));
                        answer.done.push((item.at, outcome));
                    }
                }
                Ok(_) => {
                    let odd = Problem::internal(format!("shard {shard} answered for another number of frames"));
                    answer.done.extend(chunk.iter().map(|item| (item.at, Err(odd.clone()))));
                }
                Err(CallError::Moved) => {
                    answer.gone = true;
                    answer.moved.extend(chunk);
                }
                Err(error) => {
                    let problem = Problem::from(error);
                    answer.done.extend(chunk.iter().map(|item| (item.at, Err(problem.clone()))));
                }
            }
        }
        answer
    }

    /// Whether the router's model makes vectors for this collection.
    pub(crate) fn model_fits(&self, info: &node_v1::Collection) -> Result<(), Problem> {
        let model = self.embedding.model().ok_or_else(|| self.embedding.missing())?;
        if info.dim as usize != model.dim {
            let detail = format!(
                "collection {:?} has vectors of {} components, the model {} makes {}: send a vector",
                info.name, info.dim, model.name, model.dim
            );
            return Err(Problem::new(Code::DimensionMismatch, detail));
        }
        if info.model != model.name {
            let theirs = if info.model.is_empty() { "its callers".to_owned() } else { format!("model {}", info.model) };
            let detail =
                format!("collection {:?} has vectors of {theirs}, not of {}: send a vector", info.name, model.name);
            return Err(Problem::invalid(detail));
        }
        Ok(())
    }
}

/// What one shard is sent of a call.
struct ShardWrite {
    place: Place,
    position: CallPosition,
    /// Runs of items, each for one request.
    chunks: Vec<Vec<Pending>>,
}

/// What became of one shard's items.
struct ShardOutcomes {
    shard: ShardId,
    index: u64,
    /// The place that the shard gave to the call, microseconds; 0 = none.
    position: u64,
    done: Vec<(usize, Result<Stored, Problem>)>,
    moved: Vec<Pending>,
    /// The collection is not where it was: what was not sent yet is not sent there.
    gone: bool,
}

/// The id of the frame that an item of the request becomes.
pub(crate) fn id_of(
    context: &RequestContext,
    route: &CollectionRoute,
    at: usize,
    draft: &Draft,
) -> Result<Uuid, Problem> {
    if let Some(id) = draft.id {
        return Ok(id);
    }
    let frame = NewFrame {
        session: &draft.session,
        source_key: draft.source_key.as_deref(),
        owner: context.owner_key().filter(|_| draft.private),
        position: context.items_before + at as u64,
    };
    Ok(ids::frame_id(context, route.placement_key()?, frame))
}

/// The request id of a write of some frames.
fn request_id(context: &RequestContext, route: &CollectionRoute, shard: ShardId, frames: &[FrameWrite]) -> Bytes {
    let said: Vec<Vec<u8>> = match &context.idempotency_key {
        Some(_) => frames.iter().map(said).collect(),
        None => Vec::new(),
    };
    let parts: Vec<&[u8]> = said.iter().map(Vec::as_slice).collect();
    ids::request_id(context, &WriteIdentity { operation: "store", collection: route.info.id, shard, parts: &parts })
}

/// What a caller said of a frame, every field of it; not what was made of that, which differs from try to try.
fn said(frame: &FrameWrite) -> Vec<u8> {
    let is_memory = frame.class() == FrameClass::Memory;
    let said = FrameWrite {
        passages: if frame.vector_given { frame.passages.clone() } else { Vec::new() },
        // A private frame is sealed again by every try of its caller: its digest says what is in it.
        private: frame
            .private
            .as_ref()
            .map(|private| node_v1::PrivateWrite { digest: private.digest.clone(), ..Default::default() }),
        // In a stream it is the place in a batch that happened to form.
        index: 0,
        // What is hidden is kept for a while from now on.
        expires_ms: if is_memory { frame.expires_ms } else { 0 },
        ..frame.clone()
    };
    said.encode_to_vec()
}

pub(crate) fn needs_embedding(draft: &Draft) -> bool {
    draft.text && draft.vector.is_none()
}

/// Text that has to be embedded, bytes.
fn text_bytes(item: &StoreItem) -> usize {
    item.content.as_ref().filter(|_| item.vector.is_none()).map_or(0, String::len)
}

/// Refuses what expects a version, where nothing is.
fn without_version(drafts: Vec<(usize, Draft)>, outcomes: &mut Outcomes) -> Vec<(usize, Draft)> {
    let mut others = Vec::with_capacity(drafts.len());
    for (at, draft) in drafts {
        match draft.expected_version {
            None | Some(0) => others.push((at, draft)),
            Some(expected) => {
                let detail = format!("expected_version is {expected}, and the id does not exist");
                outcomes.settle(at, Err(Problem::new(Code::Conflict, detail)));
            }
        }
    }
    others
}

/// The caller's own vector, or none: opaque bytes are then found by id only.
fn given_passages(draft: &Draft, collection: &node_v1::Collection) -> Result<Vec<Passage>, Problem> {
    let Some(vector) = &draft.vector else { return Ok(Vec::new()) };
    validate::vector_fits(vector, convert::space(collection, "")?, &collection.name, "")?;
    Ok(vec![Passage { start: 0, end: 0, vector: vector.clone() }])
}

/// The caller's vectors in named spaces.
fn named_vectors(draft: &Draft, collection: &node_v1::Collection) -> Result<Named, Problem> {
    let named = |(name, vector): (&String, &Vec<f32>)| {
        let space = convert::space(collection, name)?;
        validate::vector_fits(vector, space, &collection.name, name)?;
        Ok((space.number, NamedVector { space: name.clone(), vector: vector.clone() }))
    };
    draft.vectors.iter().map(named).collect()
}

/// Whether the vectors that a draft brings fit a collection.
pub(crate) fn vectors_fit(draft: &Draft, collection: &node_v1::Collection) -> Result<(), Problem> {
    named_vectors(draft, collection)?;
    given_passages(draft, collection).map(drop)
}

/// Drafts with the ids that their frames get.
fn identified(
    context: &RequestContext,
    route: &CollectionRoute,
    drafts: Vec<(usize, Draft)>,
    outcomes: &mut Outcomes,
) -> Vec<Identified> {
    let mut identified = Vec::with_capacity(drafts.len());
    for (at, draft) in drafts {
        match id_of(context, route, at, &draft) {
            Ok(id) => identified.push(Identified { at, id, draft }),
            Err(problem) => outcomes.settle(at, Err(problem)),
        }
    }
    identified
}

/// A draft with its id, as its shard takes it.
fn to_write(
    context: &RequestContext,
    route: &CollectionRoute,
    at: usize,
    prepared: Prepared,
) -> Result<Pending, Problem> {
    let Prepared { draft, passages, named } = prepared;
    let id = id_of(context, route, at, &draft)?;
    let chunks = draft.attachment.iter().flat_map(|attachment| &attachment.chunks);
    let chunks = chunks.map(|chunk| chunk.id.clone()).collect();
    let position = draft.position.map_or(0, Position::packed);
    let embedded = Embedded { id, draft, passages, named };
    let frame = match context.owner_key() {
        Some(owner) if embedded.draft.private => seal::seal(owner, route.info.id, embedded),
        _ => frame_write(embedded),
    };
    Ok(Pending::new(at, id, FrameWrite { chunks, index: at as u32, position, ..frame }))
}

/// A plain frame as its shard takes it.
pub(crate) fn frame_write(Embedded { id, draft, passages, named }: Embedded) -> FrameWrite {
    FrameWrite {
        id: ids::id_bytes(id),
        content: draft.content,
        text: draft.text,
        r#type: draft.kind,
        session: draft.session,
        role: draft.role,
        metadata_json: draft.metadata_json,
        passages,
        vector_given: draft.vector.is_some(),
        named: named.into_iter().map(|(_, vector)| vector).collect(),
        replace: draft.replace,
        expected_version: draft.expected_version,
        expires_ms: draft.expires_ms,
        created_ms: draft.created_ms,
        attachment: draft.attachment,
        ..Default::default()
    }
}

/// Cuts items into runs that fit one proposal.
fn chunks(items: Vec<Pending>) -> Vec<Vec<Pending>> {
    let mut chunks: Vec<Vec<Pending>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        let size = size_of_frame(&item.frame);
        match chunks.last_mut() {
            Some(chunk) if chunk.len() < limits::MAX_PROPOSAL_FRAMES && bytes + size <= limits::MAX_PROPOSAL_BYTES => {
                bytes += size;
                chunk.push(item);
            }
            _ => {
                bytes = size;
                chunks.push(vec![item]);
            }
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(at: usize, bytes: usize) -> Pending {
        let frame = FrameWrite { content: vec![b'x'; bytes].into(), ..Default::default() };
        Pending::new(at, Uuid::nil(), frame)
    }

    #[test]
    fn a_request_id_covers_every_field_that_a_caller_sets_and_nothing_that_is_made_of_them() {
        let frame = FrameWrite { content: "tea".into(), vector_given: true, ..Default::default() };
        let passage = |component| Passage { start: 0, end: 0, vector: vec![component] };
        let others = [
            FrameWrite { content: "coffee".into(), ..frame.clone() },
            FrameWrite { r#type: "insight".into(), ..frame.clone() },
            FrameWrite { session: "s".into(), ..frame.clone() },
            FrameWrite { role: "user".into(), ..frame.clone() },
            FrameWrite { metadata_json: "{}".into(), ..frame.clone() },
            FrameWrite { created_ms: 1, ..frame.clone() },
            FrameWrite { expires_ms: 1, ..frame.clone() },
            FrameWrite { replace: true, ..frame.clone() },
            FrameWrite { expected_version: Some(0), ..frame.clone() },
            FrameWrite { passages: vec![passage(1.0)], ..frame.clone() },
            FrameWrite { named: vec![NamedVector { space: "s".into(), vector: vec![1.0] }], ..frame.clone() },
            FrameWrite { attachment: Some(node_v1::Attachment::default()), ..frame.clone() },
        ];
        for (at, other) in others.iter().enumerate() {
            assert!(said(other) != said(&frame) && others[..at].iter().all(|one| said(one) != said(other)), "{at}");
        }
        let embedded =
            |component| FrameWrite { vector_given: false, passages: vec![passage(component)], ..frame.clone() };
        assert_eq!(said(&embedded(1.0)), said(&embedded(1.1)));
        let sealed = |body: &str, digest: &str| {
            let (body, digest) = (body.to_owned().into(), digest.to_owned().into());
            FrameWrite { private: Some(node_v1::PrivateWrite { body, digest, ..Default::default() }), ..frame.clone() }
        };
        assert_eq!(said(&sealed("once", "d")), said(&sealed("twice", "d")));
        assert_ne!(said(&sealed("once", "d")), said(&sealed("once", "e")));
    }

    #[test]
    fn chunks_keep_order_and_stay_within_a_proposal() {
        let small = chunks((0..250).map(|at| pending(at, 10)).collect());
        assert_eq!(small.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
        let order: Vec<_> = small.into_iter().flatten().map(|item| item.at).collect();
        assert_eq!(order, (0..250).collect::<Vec<_>>());
        let large = chunks((0..5).map(|at| pending(at, 1 << 20)).collect());
        assert_eq!(large.iter().map(Vec::len).collect::<Vec<_>>(), [4, 1]);
    }
}
