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
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use mira_proto::model::{CollectionSettings, ItemResult, StoreItem, StoreReply, StoreRequest, Stored, check_count};
use mira_proto::node_v1::{FrameWrite, NamedVector, Passage};
use mira_proto::{Code, Position, Problem, node_v1};
use uuid::Uuid;

use crate::cluster::CollectionRoute;
use crate::ids::{self, NewFrame};
use crate::operations::convert;
use crate::operations::validate;
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

/// What a caller is told that stores something else under a key that was used.
const KEY_REUSED: &str = "the Idempotency-Key was used before for another request: use a new one";

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
        let named_by_key: Vec<bool> = items.iter().map(|item| is_named_by_key(context, item.as_ref().ok())).collect();
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
        let (mut outcomes, token) = outcomes.into_parts();
        for (outcome, _) in outcomes.iter_mut().zip(named_by_key).filter(|(_, named_by_key)| *named_by_key) {
            if let Err(problem) = outcome
                && problem.code == Code::Conflict
            {
                problem.detail = KEY_REUSED.to_owned();
            }
        }
        (outcomes, token)
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

/// Whether the id of an item's memory follows from the `Idempotency-Key`: then whatever else is there was stored under the key.
fn is_named_by_key(context: &RequestContext, item: Option<&StoreItem>) -> bool {
    let only_creates = |item: &StoreItem| !item.replace && item.expected_version.is_none();
    let has_no_name = |item: &StoreItem| item.id.is_none() && item.source_key.is_none();
    context.idempotency_key.is_some() && item.is_some_and(|item| only_creates(item) && has_no_name(item))
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
                let detail = format!("expected_version is {expected}, and there is no memory of this id");
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
