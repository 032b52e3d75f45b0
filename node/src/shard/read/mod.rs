//! Reading frames: by id, by session, and the winners of a search.

pub mod field_types;
pub mod private;
pub mod scan;
pub mod sessions;

use std::{
    ops::{Bound, ControlFlow},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use mira_crypto::CollectionKey;
use mira_index::ranking::{Candidate, Ranking};
use mira_index::{Attributes, Condition, Hit, Plan, Times, filter, mean_top_k, merge_top_k};
use mira_proto::{Code, CollectionId, FrameId, Problem, Refusal, limits, node_v1, vectors::SpaceNumber};
use mira_raft::{EngineError, StateReader};

use crate::meta::{CollectionRecord, Space};

use crate::shard::{
    ReadView, Shard, chunks, frame_id,
    index::recall_sampler,
    index::{Found, IndexError, Query, ShardIndex},
    record::{self, Class, FrameBody, FrameHead, FramePlace, FrameRecord},
    refuse_engine,
};

impl<R: mira_raft::Runtime> Shard<R> {
    /// The frames of these ids that exist, in their order.
    pub async fn fetch(&self, request: node_v1::FetchRequest) -> Result<node_v1::FetchReply, Refusal> {
        let ReadView { collection, shown, state } = self.begin_read(request.header.as_ref()).await?;
        let ids = request.ids.iter().map(|id| frame_id(id)).collect::<Result<Vec<_>, _>>()?;
        let class = chunks::class(request.class)?;
        let shown = |ids: &[FrameId]| ids.iter().copied().filter(|&id| shown.shows(id)).collect::<Vec<_>>();
        let (frames, looked_at) = match request.max_bytes {
            0 => (self.open_frames(&collection, class, &shown(&ids))?.into_iter().flatten().collect(), 0),
            // Up to a page of them: work of milliseconds, for which this thread lets its other tasks go.
            room => tokio::task::block_in_place(|| self.open_page(&collection, class, &ids, (room, shown)))?,
        };
        Ok(node_v1::FetchReply { state: Some(state), frames, looked_at })
    }

    /// The first of some frames, until they have so many bytes, and how many were looked at.
    fn open_page(
        &self,
        collection: &CollectionRecord,
        class: Class,
        ids: &[FrameId],
        (room, shown): (u64, impl Fn(&[FrameId]) -> Vec<FrameId>),
    ) -> Result<(Vec<node_v1::Frame>, u32), Refusal> {
        let (mut frames, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
        for step in ids.chunks(FETCH_STEP) {
            let opened = self.open_frames(collection, class, &shown(step))?.into_iter().flatten();
            let first = frames.len();
            frames.extend(opened);
            bytes += frames[first..].iter().map(bytes_of).sum::<u64>();
            looked_at += step.len() as u32;
            if bytes >= room {
                break;
            }
        }
        Ok((frames, looked_at))
    }

    /// The frames of a session by time of creation, oldest first; with `last`, the newest `limit` of them.
    pub async fn session(&self, request: node_v1::SessionRequest) -> Result<node_v1::FetchReply, Refusal> {
        let ReadView { collection, shown, state } = self.begin_read(request.header.as_ref()).await?;
        let tag = match request.private_session.is_empty() {
            true => self.session_tag(&collection, &request.session)?,
            false => private::session_tag(&self.shared.keyring, &collection, &request.private_session)?,
        };
        let prefix = record::session_prefix(collection.id, &tag);
        let from = record::session_key(collection.id, &tag, request.created_from_ms, 0);
        let to = match request.created_to_ms {
            0 => record::session_key(collection.id, &tag, u64::MAX, u128::MAX),
            until => record::session_key(collection.id, &tag, until, 0),
        };
        let limit = request.limit.clamp(1, limits::MAX_RECALL) as usize;
        let reader = self.group.reader();
        let mut ids = Vec::new();
        reader
            .scan(Bound::Included(&from), Bound::Excluded(&to), request.last, &mut |key, _| {
                debug_assert!(key.starts_with(&prefix));
                ids.extend(record::parse_session_key(key).map(|(_, frame)| frame).filter(|&frame| shown.shows(frame)));
                if ids.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .map_err(refuse_engine)?;
        if request.last {
            ids.reverse();
        }
        let frames = self.open_frames(&collection, Class::Memory, &ids)?.into_iter().flatten().collect();
        Ok(node_v1::FetchReply { state: Some(state), frames, looked_at: 0 })
    }

    /// Ids and scores of the nearest frames of this shard, best first; with their frames if asked.
    pub async fn search(&self, request: node_v1::SearchRequest) -> Result<node_v1::SearchReply, Refusal> {
        let ReadView { collection, shown, mut state } = self.begin_read(request.header.as_ref()).await?;
        let space = collection.space_named(&request.space)?;
        crate::shard::write::check_vector(&request.vector, &space)?;
        if request.k == 0 || request.k > limits::MAX_K {
            return Err(Problem::invalid(format!("k is {}, allowed are 1 to {}", request.k, limits::MAX_K)).into());
        }
        if let Some(position) = request.unless_changed_since
            && self.index.is_unchanged_since(collection.id, position)
        {
            // The answer may come from a replica that was ahead of this one.
            state.applied = state.applied.max(position);
            let (state, as_of) = (Some(state), position);
            return Ok(node_v1::SearchReply { state, not_modified: true, as_of, ..Default::default() });
        }
        if shown.is_none() {
            let field_types = Some(node_v1::KnownFieldTypes::default());
            state.taken_over.clear();
            return Ok(node_v1::SearchReply { state: Some(state), field_types, ..Default::default() });
        }
        let is_migrating = request.header.as_ref().is_some_and(|header| header.migration.is_some());
        let created_to_ms = if request.created_to_ms == 0 { u64::MAX } else { request.created_to_ms };
        let wanted = filter::split(filter::parse(&request.filter_json)?, request.created_from_ms..created_to_ms);
        let ranking = Ranking::of(&request)?;
        let vectors = query_vectors(&request, &space)?;
        let caller = Caller::default();
        let query = Query {
            space: space.number,
            vector: Vec::new(),
            k: ranking.first_pool(),
            ef: [request.ef, space.ef].into_iter().find(|&ef| ef > 0).map(|ef| ef as usize),
            exact: request.exact,
            created_ms: wanted.created_ms,
            condition: wanted.condition,
            among: None,
            now_ms: self.shared.clock.now_ms(),
            stopped: caller.gone.clone(),
            shown,
        };
        let admission = self.shared.admission.admit(self.memory_of(&request, &space, query.k)).await?;
        let started = Instant::now();
        let pools = Pools {
            index: self.index.clone(),
            state: self.group.reader(),
            collection: collection.clone(),
            vectors,
            is_mean: request.mean,
        };
        // Comparing vectors is work of up to milliseconds: not on the threads that carry heartbeats.
        let asked = query.clone();
        let (pools, ranking, ranked) = tokio::task::spawn_blocking(move || {
            let _admission = admission;
            let ranked = pools.rank(&ranking, asked);
            (pools, ranking, ranked)
        })
        .await
        .map_err(|error| Problem::internal(format!("the search failed: {error}")))?;
        let (hits, mut found) = ranked?;
        if !request.exact && ranking.is_plain() && self.shared.recall_sampler.wants() {
            let scores = hits.iter().map(|hit| hit.similarity).collect();
            self.repeat_exactly(pools, query, (state.applied, scores));
        }
        let explain = request.explain.then(|| explained(&mut found, started.elapsed()));
        let Found { searched, tail, field_types, .. } = found;
        let field_types = field_types.map(field_types::to_wire);
        let vectors = match request.with_vectors {
            true => self.vectors_of(&space, &hits)?,
            false => vec![Vec::new(); hits.len()],
        };
        let frames = match request.with_frames {
            true => {
                let ids: Vec<_> = hits.iter().map(|hit| hit.id).collect();
                self.open_frames(&collection, Class::Memory, &ids)?
            }
            false => vec![None; hits.len()],
        };
        let hits = hits
            .into_iter()
            .zip(frames)
            .zip(vectors)
            // A frame that was forgotten since the index was asked is no hit any more.
            .filter(|((_, frame), _)| !request.with_frames || frame.is_some())
            .map(|((hit, frame), vector)| node_v1::Hit {
                id: hit.id.to_be_bytes().to_vec().into(),
                score: hit.score,
                passage: hit.passage,
                frame,
                similarity: hit.similarity,
                vector,
                group_json: hit.group.as_ref().map(filter::to_json).unwrap_or_default(),
            })
            .collect();
        // What is shown of a collection that grows changes without any of its frames.
        let is_kept = !self.index.is_expiring(collection.id) && !is_migrating;
        let as_of = if is_kept { state.applied } else { 0 };
        let not_modified = false;
        Ok(node_v1::SearchReply { state: Some(state), hits, searched, tail, explain, not_modified, as_of, field_types })
    }

    /// What a search may take: its pool, its visited set, its query and its frames. An estimate: what most frames take.
    fn memory_of(&self, request: &node_v1::SearchRequest, space: &Space<'_>, pool: usize) -> usize {
        let per_hit = size_of::<Candidate>() + 2 * size_of::<Hit>();
        let vectors = 4 * space.dim * (1 + usize::from(request.with_vectors) * request.k as usize);
        let frames = if request.with_frames { TYPICAL_FRAME_BYTES * request.k as usize } else { 0 };
        pool * per_hit + 2 * self.index.vectors(space.into()) + vectors + frames
    }

    /// Repeats a search in the background to learn how right its answer was.
    fn repeat_exactly(&self, pools: Pools, query: Query, (applied, answer): (u64, Vec<f32>)) {
        let sampler = self.shared.recall_sampler.clone();
        // Nobody waits for it, so nobody's leaving ends it.
        let query = Query { exact: true, stopped: Arc::default(), ..query };
        tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            let exact = pools.nearest(&query);
            let is_same = pools.index.is_unchanged_since(pools.collection.id, applied);
            let recall = exact.ok().filter(|_| is_same).map(|exact| recall_sampler::recall(&answer, &exact.hits));
            sampler.done(&name_of(&pools.collection, query.space), started.elapsed(), recall);
        });
    }

    /// The vectors of the passages that matched; empty for frames that are gone.
    fn vectors_of(&self, space: &Space<'_>, hits: &[Candidate]) -> Result<Vec<Vec<f32>>, Refusal> {
        let collection = space.collection;
        let keys: Vec<_> = hits.iter().map(|hit| record::vectors_key(collection.id, hit.id)).collect();
        let stored = self.group.reader().multi_get(&keys).map_err(|error| self.unreadable(error))?;
        let passage = |(hit, stored): (&Candidate, Option<bytes::Bytes>)| {
            let opened = self.index.opener().open_stored(collection, hit.id, &stored?)?;
            Some(opened.in_space(space.number).chunks_exact(space.dim).nth(hit.passage as usize)?.to_vec())
        };
        Ok(hits.iter().zip(stored).map(|found| passage(found).unwrap_or_default()).collect())
    }

    /// Reads and opens frames; `None` for those that do not exist, are of another class or over their time.
    fn open_frames(
        &self,
        collection: &CollectionRecord,
        class: Class,
        ids: &[FrameId],
    ) -> Result<Vec<Option<node_v1::Frame>>, Refusal> {
        let keys: Vec<_> = ids.iter().map(|&id| record::frame_key(collection.id, id)).collect();
        let stored = self.group.reader().multi_get(&keys).map_err(|error| self.unreadable(error))?;
        let now_ms = self.shared.clock.now_ms();
        let mut frames = Vec::with_capacity(ids.len());
        for (&id, stored) in ids.iter().zip(stored) {
            let Some(stored) = stored else {
                frames.push(None);
                continue;
            };
            let record = FrameRecord::decode(&stored).map_err(|error| self.unreadable(error))?;
            let is_wanted = record.class == class && !record.expired(now_ms);
            frames.push(if is_wanted { Some(self.open_frame(collection, id, record)?) } else { None });
        }
        Ok(frames)
    }

    /// The next frames of a collection that meet a condition, and where to go on if not all were looked at.
    pub(super) fn matching_frames(
        &self,
        collection: &CollectionRecord,
        condition: &Condition,
        after: Option<FrameId>,
    ) -> Result<(Vec<FrameId>, Option<FrameId>), Refusal> {
        let (mut matching, mut looked_at, mut last) = (Vec::new(), 0, None);
        let is_full = |matching: &Vec<FrameId>, looked_at| {
            matching.len() == limits::MAX_FORGET_STEP || looked_at == limits::MAX_FILTER_STEP
        };
        self.walk_plain(collection, after, &mut |frame, read| {
            looked_at += 1;
            last = Some(frame);
            if read.is_some_and(|(attributes, times)| condition.matches(&attributes, &times)) {
                matching.push(frame);
            }
            !is_full(&matching, looked_at)
        })?;
        let last = last.filter(|_| is_full(&matching, looked_at));
        Ok((matching, last))
    }

    /// Opens frames in order of their ids until `visit` has had enough; it gets `None` for those that nobody but their
    /// owner can read, and for what is hidden.
    pub(super) fn walk_plain(
        &self,
        collection: &CollectionRecord,
        after: Option<FrameId>,
        visit: &mut dyn FnMut(FrameId, Option<(Attributes, Times)>) -> bool,
    ) -> Result<(), Refusal> {
        let prefix = record::collection_prefix(b'f', collection.id);
        let from = after.map(|frame| record::frame_key(collection.id, frame));
        let from = from.as_ref().map_or(Bound::Included(&prefix[..]), |key| Bound::Excluded(&key[..]));
        let end = record::frame_key(collection.id, FrameId::MAX);
        let mut failed = None;
        let mut look = |key: &[u8], stored: &[u8]| {
            let Some((_, frame)) = record::parse_pair_key(key) else { return ControlFlow::Continue(()) };
            match self.read_plain(collection, frame, stored).map(|read| visit(frame, read)) {
                Ok(true) => ControlFlow::Continue(()),
                Ok(false) => ControlFlow::Break(()),
                Err(refusal) => {
                    failed = Some(refusal);
                    ControlFlow::Break(())
                }
            }
        };
        let reader = self.group.reader();
        reader.scan(from, Bound::Included(&end), false, &mut look).map_err(|error| self.unreadable(error))?;
        failed.map_or(Ok(()), Err)
    }

    fn read_plain(
        &self,
        collection: &CollectionRecord,
        frame: FrameId,
        stored: &[u8],
    ) -> Result<Option<(Attributes, Times)>, Refusal> {
        let record = FrameRecord::decode(stored).map_err(|error| self.unreadable(error))?;
        // What a private frame says, its owner alone can compare; what is hidden, nobody means.
        if record.owner.is_some() || record.class != Class::Memory {
            return Ok(None);
        }
        let times = Times { created_ms: record.created_ms, expires_ms: record.expires_ms };
        Ok(Some((self.open_body(collection, frame, &record)?.attributes(), times)))
    }

    fn open_body(
        &self,
        collection: &CollectionRecord,
        id: FrameId,
        record: &FrameRecord,
    ) -> Result<FrameBody, Refusal> {
        let place = FramePlace { collection: collection.id, shard: self.id, frame: id, version: record.version };
        let key = self.key_of(collection, &record.body)?;
        // The same bytes open on a sound replica: this one is to be rebuilt, and another asked.
        place
            .open_body(&key, &record.body)
            .map_err(|error| self.unreadable(EngineError::Damaged(format!("frame {id:032x}: {error}"))))
    }

    pub(super) fn open_frame(
        &self,
        collection: &CollectionRecord,
        id: FrameId,
        record: FrameRecord,
    ) -> Result<node_v1::Frame, Refusal> {
        if record.owner.is_some() {
            let place = FramePlace { collection: collection.id, shard: self.id, frame: id, version: record.version };
            return self.open_private(collection, place, &record);
        }
        let body = self.open_body(collection, id, &record)?;
        Ok(node_v1::Frame {
            id: id.to_be_bytes().to_vec().into(),
            content: body.content,
            text: body.text,
            r#type: body.kind,
            session: body.session,
            role: body.role,
            metadata_json: body.metadata_json,
            version: record.version,
            created_ms: record.created_ms,
            updated_ms: record.updated_ms,
            expires_ms: record.expires_ms,
            passage_ranges: body.passages.into_iter().flat_map(|(start, end)| [start, end]).collect(),
            language: body.language,
            private: Default::default(),
            attachment: body.attachment.as_ref().map(chunks::to_wire),
        })
    }

    pub(super) fn key_of(
        &self,
        collection: &CollectionRecord,
        sealed: &[u8],
    ) -> Result<std::sync::Arc<CollectionKey>, Refusal> {
        let version = mira_crypto::frame::key_version(sealed)
            .map_err(|error| Problem::new(Code::Damaged, format!("a frame cannot be opened: {error}")))?;
        Ok(self.shared.keyring.version(collection, version)?)
    }

    /// The keyed tag of a session's name.
    pub(super) fn session_tag(&self, collection: &CollectionRecord, session: &str) -> Result<[u8; 16], Refusal> {
        Ok(self.shared.keyring.tags(collection)?.tag(record::SESSION_TAG, session.as_bytes()))
    }
}

/// What makes a frame large.
fn bytes_of(frame: &node_v1::Frame) -> u64 {
    (frame.content.len() + frame.metadata_json.len() + frame.private.len()) as u64
}

/// Frames of a page that are read at once: no more than a message holds, were all as large as may be.
const FETCH_STEP: usize = 16;
/// What a frame that comes along with a hit takes in memory, most of the time.
const TYPICAL_FRAME_BYTES: usize = 4 << 10;

/// All vectors of a query, checked.
fn query_vectors(request: &node_v1::SearchRequest, space: &Space<'_>) -> Result<Vec<Vec<f32>>, Problem> {
    let more = request.more_vectors.chunks(space.dim);
    if 1 + more.len() > limits::MAX_QUERY_VECTORS {
        return Err(Problem::new(Code::TooLarge, format!("more than {} query vectors", limits::MAX_QUERY_VECTORS)));
    }
    more.clone().try_for_each(|vector| crate::shard::write::check_vector(vector, space))?;
    Ok(std::iter::once(&request.vector[..]).chain(more).map(<[f32]>::to_vec).collect())
}

/// Brings pools of similar frames until the answer is settled (see [`mira_index::ranking`]).
struct Pools {
    index: Arc<ShardIndex>,
    state: StateReader,
    collection: CollectionRecord,
    vectors: Vec<Vec<f32>>,
    is_mean: bool,
}

impl Pools {
    fn rank(&self, ranking: &Ranking, mut query: Query) -> Result<(Vec<Candidate>, Found), Refusal> {
        loop {
            let mut found = self.nearest(&query)?;
            let is_all = found.hits.len() < query.k;
            let least = found.hits.last().map_or(f32::NEG_INFINITY, |hit| hit.score);
            let answer = ranking.cut(self.candidates(ranking, query.space, std::mem::take(&mut found.hits))?);
            match ranking.next_pool(query.k) {
                Some(larger) if !is_all && !ranking.is_settled(&answer, least) => query.k = larger,
                _ => return Ok((answer, found)),
            }
        }
    }

    /// The most similar frames, by all vectors of the query.
    fn nearest(&self, query: &Query) -> Result<Found, Refusal> {
        let ask = |vector: &Vec<f32>, among: Option<Vec<FrameId>>| {
            let query = Query { vector: vector.clone(), among, ..query.clone() };
            self.index.search(&self.collection, &query).map_err(refuse_index)
        };
        let [first, more @ ..] = &self.vectors[..] else { return Ok(Found::default()) };
        let mut found = ask(first, None)?;
        if more.is_empty() {
            return Ok(found);
        }
        let mut lists = vec![std::mem::take(&mut found.hits)];
        for vector in more {
            lists.push(ask(vector, None)?.hits);
        }
        if !self.is_mean {
            found.hits = merge_top_k(lists, query.k);
            return Ok(found);
        }
        // Whoever is near to one may be far from the others: each is compared with all.
        let mut ids: Vec<FrameId> = lists.iter().flatten().map(|hit| hit.id).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut hits = Vec::new();
        for vector in &self.vectors {
            for ids in ids.chunks(limits::MAX_POOL) {
                let query = Query { k: ids.len(), ..query.clone() };
                let query = Query { vector: vector.clone(), among: Some(ids.to_vec()), ..query };
                hits.extend(self.index.search(&self.collection, &query).map_err(refuse_index)?.hits);
            }
        }
        found.hits = mean_top_k(hits, self.vectors.len(), query.k);
        Ok(found)
    }

    fn candidates(&self, ranking: &Ranking, space: SpaceNumber, hits: Vec<Hit>) -> Result<Vec<Candidate>, Refusal> {
        let mut created = vec![0; hits.len()];
        if ranking.recency.is_some() {
            let keys: Vec<_> = hits.iter().map(|hit| record::head_key(self.collection.id, hit.id)).collect();
            for (created, head) in created.iter_mut().zip(self.state.multi_get(&keys).map_err(refuse_engine)?) {
                let head = head.map(|head| FrameHead::decode(&head)).transpose().map_err(refuse_engine)?;
                *created = head.map_or(0, |head| head.created_ms);
            }
        }
        let group = |id: FrameId| {
            let (field, _) = ranking.group.as_ref()?;
            self.index.first_value(&self.collection, space, id, field)
        };
        let candidate = |(hit, created_ms): (Hit, u64)| Candidate {
            id: hit.id,
            passage: hit.passage,
            similarity: hit.score,
            score: ranking.score(hit.score, created_ms),
            group: group(hit.id),
        };
        Ok(hits.into_iter().zip(created).map(candidate).collect())
    }
}

/// What a space is called in metrics: no collection has a slash in its name.
fn name_of(collection: &CollectionRecord, space: SpaceNumber) -> String {
    match collection.space(space).map(|space| space.name) {
        None | Some("") => collection.name.clone(),
        Some(name) => format!("{}/{name}", collection.name),
    }
}

/// Stands for whoever waits for an answer: when the request is dropped (its deadline passed, the router went away), the
/// work for it stops.
#[derive(Default)]
pub(super) struct Caller {
    pub(super) gone: Arc<AtomicBool>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

fn explained(found: &mut Found, took: std::time::Duration) -> node_v1::SearchExplain {
    let unknown_fields = std::mem::take(&mut found.unknown_fields);
    let micros = took.as_micros() as u64;
    let Some(explain) = found.explain else {
        return node_v1::SearchExplain { unknown_fields, micros, ..Default::default() };
    };
    let plan = match explain.plan {
        Plan::Scan => node_v1::SearchPlan::Scan,
        Plan::Graph => node_v1::SearchPlan::Graph,
        Plan::GraphThenScan => node_v1::SearchPlan::GraphThenScan,
    };
    let (matching, matching_of) = explain.matching.unwrap_or_default();
    node_v1::SearchExplain {
        plan: plan.into(),
        ef: explain.ef as u32,
        compared: explain.compared as u64,
        rescored: explain.rescored as u64,
        matching: matching as u64,
        matching_of: matching_of as u64,
        unknown_fields,
        micros,
    }
}

pub(super) fn refuse_index(error: IndexError) -> Refusal {
    match error {
        IndexError::Stopped => Problem::new(Code::DeadlineExceeded, "the search was given up by its caller").into(),
        IndexError::Building => Refusal::NotReady("the index is being built from the frames".into()),
        IndexError::Refused(problem) => Refusal::Problem(problem),
    }
}

/// The first `limit` of those frames of a session that are wanted, oldest first.
pub(super) fn frames_of_session(
    reader: &StateReader,
    collection: CollectionId,
    (tag, limit): (&[u8; 16], usize),
    wanted: impl Fn(FrameId) -> bool,
) -> Result<Vec<FrameId>, EngineError> {
    collect(reader, &record::session_prefix(collection, tag), limit, |key, _| {
        Ok(record::parse_session_key(key).map(|(_, frame)| frame).filter(|&frame| wanted(frame)))
    })
}

/// The first `limit` of those frames of a collection that are wanted, by id.
pub(super) fn frames_of_collection(
    reader: &StateReader,
    collection: CollectionId,
    limit: usize,
    wanted: impl Fn(FrameId) -> bool,
) -> Result<Vec<FrameId>, EngineError> {
    collect(reader, &record::collection_prefix(b'h', collection), limit, |key, head| {
        let is_memory = FrameHead::decode(head)?.class == Class::Memory;
        Ok(record::parse_pair_key(key).map(|(_, frame)| frame).filter(|&frame| is_memory && wanted(frame)))
    })
}

fn collect(
    reader: &StateReader,
    prefix: &[u8],
    limit: usize,
    parse: impl Fn(&[u8], &[u8]) -> Result<Option<FrameId>, EngineError>,
) -> Result<Vec<FrameId>, EngineError> {
    let (mut frames, mut failed) = (Vec::new(), None);
    reader.scan_prefix(prefix, false, &mut |key, value| {
        match parse(key, value) {
            Ok(frame) => frames.extend(frame),
            Err(error) => failed = Some(error),
        }
        if failed.is_some() || frames.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    failed.map_or(Ok(frames), Err)
}
