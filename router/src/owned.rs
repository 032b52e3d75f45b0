//! Searching an owner's private frames by meaning, and listing them for a search by words ([`crate::words`]).
//!
//! No index on a node holds them, so the router reads the owner's sealed vectors from the shards, page by page, opens
//! them, and compares the query with every one: exact, and bounded in memory by a page for each of a few shards.
//!
//! What was read is kept for the next search *as the owner sealed it*: the cache holds nothing that anyone but the owner
//! can open, and opened vectors are wiped when the search ends. The next search asks a shard for what has changed since;
//! mostly nothing has, and the answer is a few bytes.
//!
//! What ranks hits beyond their similarity (age, a least score, the place where a page ended) is judged here, by the rules that a
//! shard goes by ([`mira_index::ranking`]). What only bodies say is not: [`crate::sift`] opens those of the best.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use lru::LruCache;
use mira_crypto::OwnerKey;
use mira_index::filter::{self, Wanted};
use mira_index::ranking::{Ranking, Recency};
use mira_index::{Condition, Hit, exact_top_k, mean_top_k, merge_top_k};
use mira_proto::model::Metric;
use mira_proto::{Code, CollectionId, FrameId, Problem, ShardId, limits, node_v1};
use parking_lot::Mutex;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::cluster::{CallError, CollectionRoute};
use crate::convert::Space;
use crate::merge::{Best, Candidate};
use crate::owner::{Credential, problem_of};
use crate::search::{Asked, FIRST_PHASE, Round, TakenOver, level_of, read_call};
use crate::{ClusterMemory, ConsistencyToken, RequestContext, convert, ids, private};

/// Frames whose vectors are opened and compared at once, then wiped: what 400 KB hold at 384 components.
const STEP: usize = 256;
/// Frames for which another thread is worth starting.
const FRAMES_PER_TASK: usize = 1_024;

/// A private frame as the cache keeps it.
#[derive(Clone)]
struct OwnedFrame {
    id: FrameId,
    created_ms: u64,
    expires_ms: u64,
    vectors: Bytes,
}

/// An owner's frames of one shard, by id.
struct Copy {
    /// Log index of the shard as of which it is whole.
    known: u64,
    frames: Vec<OwnedFrame>,
    bytes: usize,
}

type CacheKey = (CollectionId, ShardId, Bytes);

/// Copies of owners' sealed vectors, the least recently used ones dropped first.
pub(crate) struct OwnedCache(Mutex<Kept>);

struct Kept {
    copies: LruCache<CacheKey, Arc<Copy>>,
    bytes: usize,
}

impl Default for OwnedCache {
    fn default() -> Self {
        OwnedCache(Mutex::new(Kept { copies: LruCache::unbounded(), bytes: 0 }))
    }
}

impl OwnedCache {
    fn get(&self, key: &CacheKey) -> Option<Arc<Copy>> {
        self.0.lock().copies.get(key).cloned()
    }

    fn put(&self, key: CacheKey, copy: Arc<Copy>) {
        let mut kept = self.0.lock();
        kept.bytes += copy.bytes;
        if let Some(old) = kept.copies.put(key, copy) {
            kept.bytes -= old.bytes;
        }
        while kept.bytes > limits::OWNED_CACHE_BYTES {
            let Some((_, dropped)) = kept.copies.pop_lru() else { break };
            kept.bytes -= dropped.bytes;
        }
    }

    fn remove(&self, key: &CacheKey) {
        let mut kept = self.0.lock();
        if let Some(old) = kept.copies.pop(key) {
            kept.bytes -= old.bytes;
        }
    }
}

/// What private frames are compared with, and which of them are wanted.
#[derive(Clone)]
pub(crate) struct OwnedProbe {
    pub(crate) owner: Arc<OwnerKey>,
    space: Space,
    /// None lists the frames, compared with nothing.
    vectors: Arc<[Vec<f32>]>,
    is_mean: bool,
    ranking: Arc<Ranking>,
    created_ms: std::ops::Range<u64>,
    /// What a filter asks beside the time of creation; only bodies answer it.
    pub(crate) condition: Option<Arc<Condition>>,
    /// Only these, in order, and with their vectors.
    among: Option<Arc<[FrameId]>>,
}

impl OwnedProbe {
    /// For one search.
    pub(crate) fn new(owner: Arc<OwnerKey>, asked: &Asked<'_>) -> Result<Self, Problem> {
        let query = asked.query;
        let until = if query.created_to_ms == 0 { u64::MAX } else { query.created_to_ms };
        let Wanted { created_ms, condition } =
            filter::split(filter::parse(&query.filter_json)?, query.created_from_ms..until);
        // What is to be opened first may not be meant: then the next in line is.
        let is_opened = condition.is_some() || query.group.is_some() || query.words.is_some();
        let recency =
            |(half_life_ms, weight)| Recency { half_life_ms: half_life_ms as f64, weight, now_ms: asked.now_ms };
        let ranking = Ranking {
            k: if is_opened { limits::MAX_PRIVATE_OPENED + 1 } else { query.pool() as usize },
            // Of a search by words it is one of the score that they make.
            min_score: query.min_score.filter(|_| query.words.is_none()),
            after: query.cursor.map(|cursor| (cursor.score, cursor.id)),
            recency: query.recency.map(recency),
            ..Ranking::default()
        };
        Ok(OwnedProbe {
            owner,
            space: asked.space,
            vectors: asked.vectors.clone().into(),
            is_mean: query.is_mean,
            ranking: Arc::new(ranking),
            created_ms,
            condition: condition.map(Arc::new),
            among: None,
        })
    }

    /// All of the owner's frames, compared with nothing.
    pub(crate) fn listing(&self) -> Self {
        let ranking = Ranking { k: limits::MAX_PRIVATE_OPENED + 1, ..Ranking::default() };
        OwnedProbe { vectors: Arc::new([]), ranking: ranking.into(), ..self.clone() }
    }

    /// The same for some frames, whose vectors are wanted too.
    pub(crate) fn among(&self, mut frames: Vec<FrameId>) -> Self {
        frames.sort_unstable();
        OwnedProbe { among: Some(frames.into()), ..self.clone() }
    }

    /// Of so many frames that are compared at once, how many of the most similar hold the answer.
    fn most_similar(&self, count: usize) -> usize {
        let by_similarity = self.ranking.recency.is_none() && self.ranking.after.is_none() && self.vectors.len() == 1;
        if by_similarity { self.ranking.k.min(count) } else { count }
    }
}

/// What was found among private frames.
pub(crate) struct OwnedHits {
    pub(crate) best: Best,
    /// How many frames the owner has, wanted or not.
    pub(crate) frames: usize,
    pub(crate) seen: ConsistencyToken,
    pub(crate) missing: BTreeMap<ShardId, Problem>,
}

impl OwnedHits {
    /// Takes what a shard answered.
    fn note(
        &mut self,
        shard: ShardId,
        answer: Result<OwnedAnswer, CallError>,
        taken_over: &mut TakenOver,
    ) -> Result<(), CallError> {
        match answer {
            Ok(OwnedAnswer { hits, frames, applied, opened }) => {
                self.frames += frames;
                self.seen.note(shard, applied);
                taken_over.note(shard, &opened);
                self.best.extend(hits);
            }
            Err(CallError::Unreached(problem)) => {
                taken_over.unknown(shard);
                self.missing.insert(shard, problem);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// What a shard answered.
struct OwnedAnswer {
    hits: Vec<Candidate>,
    /// How many frames were compared or passed over.
    frames: usize,
    /// The log index that the answer is as new as.
    applied: u64,
    /// While the collection grows: whose frames it has taken over.
    opened: Vec<ShardId>,
}

impl RequestContext {
    /// The owner's key, to be taken to other threads.
    pub(crate) fn shared_owner_key(&self) -> Option<Arc<OwnerKey>> {
        match &self.owner {
            Some(Credential::Key(key)) => Some(key.clone()),
            Some(Credential::Passphrase(_)) | None => None,
        }
    }
}

impl ClusterMemory {
    /// The best private frames of every shard of a collection.
    pub(crate) async fn search_owned(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        probe: &OwnedProbe,
    ) -> Result<OwnedHits, CallError> {
        // A shard that does not answer must not take the time in which the bodies of the others are fetched.
        let context = &context.within(limits::SHARD_PATIENCE.min(context.remaining().mul_f64(FIRST_PHASE)));
        let best = Best::new(probe.ranking.k);
        let mut found = OwnedHits { best, frames: 0, seen: ConsistencyToken::default(), missing: BTreeMap::new() };
        let mut taken_over = TakenOver::default();
        for round in Round::of(route) {
            let asked = round.shards(route, &taken_over).into_iter();
            let asked =
                asked.map(|part| async { (part.0, self.search_owned_shard(context, route, part, probe).await) });
            let answers: Vec<_> = futures::stream::iter(asked).buffer_unordered(limits::OWNED_FAN_OUT).collect().await;
            for (shard, answer) in answers {
                found.note(shard, answer, &mut taken_over)?;
            }
        }
        Ok(found)
    }

    /// The best private frames of one shard.
    async fn search_owned_shard(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        (shard, growing): (ShardId, Option<node_v1::Growing>),
        probe: &OwnedProbe,
    ) -> Result<OwnedAnswer, CallError> {
        let key = (route.info.id, shard, private::owner_name(&probe.owner, route.info.id));
        // What is shown of a collection that grows changes without any of its frames.
        let may_keep = route.before_growth().is_none();
        let cached = if may_keep { self.owned.get(&key) } else { None };
        let mut request = node_v1::OwnedRequest {
            shard,
            collection: route.info.id,
            owner: key.2.clone(),
            level: Some(context.read_level(shard)),
            known: cached.as_ref().map_or(0, |copy| copy.known),
            growing,
            grown_to: route.grown_to(),
            ..Default::default()
        };
        let mut first = self.owned_page(context, route, &request).await?;
        let (applied, opened) = (first.applied, std::mem::take(&mut first.opened));
        if let (true, Some(copy)) = (first.unchanged, &cached) {
            let frames = copy.frames.len();
            let hits = compare(probe, route, (shard, copy.clone())).await?;
            return Ok(OwnedAnswer { hits, frames, applied, opened });
        }
        // A copy in the making; given up when it grows too large to be kept.
        let mut kept = may_keep.then(Vec::new);
        let (mut best, mut count, mut bytes, mut page) = (Best::new(probe.ranking.k), 0, 0, first);
        loop {
            let more = page.more.then(|| page.frames.last().map(|frame| frame.id.clone())).flatten();
            let frames = taken_over(page.frames, request.known, cached.as_deref()).map_err(failed)?;
            count += frames.len();
            bytes += frames.iter().map(size_of_frame).sum::<usize>();
            let part = Arc::new(Copy { known: 0, frames, bytes: 0 });
            best.extend(compare(probe, route, (shard, part.clone())).await?);
            if bytes > limits::OWNED_CACHE_BYTES / 2 {
                kept = None;
            }
            if let Some(kept) = &mut kept {
                kept.extend(part.frames.iter().cloned());
            }
            let Some(after) = more else { break };
            request.after = after;
            page = self.owned_page(context, route, &request).await?;
        }
        match kept {
            Some(frames) => self.owned.put(key, Arc::new(Copy { known: applied, frames, bytes })),
            None => self.owned.remove(&key),
        }
        Ok(OwnedAnswer { hits: best.into_ranked(), frames: count, applied, opened })
    }

    async fn owned_page(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        request: &node_v1::OwnedRequest,
    ) -> Result<node_v1::OwnedReply, CallError> {
        let call = read_call(context, route, request.shard, "owned");
        self.cluster
            .call(&call, |mut client, attempt| {
                let level = level_of(request.level, attempt);
                let request = node_v1::OwnedRequest { epoch: attempt.epoch, level, ..request.clone() };
                async move { client.owned(request).await }
            })
            .await
    }
}

/// A page with the vectors that did not come along because we have them.
fn taken_over(page: Vec<node_v1::Owned>, known: u64, cached: Option<&Copy>) -> Result<Vec<OwnedFrame>, Problem> {
    let old = cached.map_or(&[][..], |copy| &copy.frames);
    let frame = |frame: node_v1::Owned| {
        let odd = || Problem::internal("a shard named a private frame without a proper id");
        let id = ids::id_from_bytes(&frame.id).ok_or_else(odd)?;
        let vectors = match frame.changed > known {
            true => frame.vectors,
            false => match old.binary_search_by_key(&id, |old| old.id) {
                Ok(at) => old[at].vectors.clone(),
                Err(_) => Bytes::new(),
            },
        };
        Ok(OwnedFrame { id, created_ms: frame.created_ms, expires_ms: frame.expires_ms, vectors })
    };
    page.into_iter().map(frame).collect()
}

/// A problem that asking another replica does not mend.
pub(crate) fn failed(problem: Problem) -> CallError {
    CallError::Refused { problem, after_unknown_outcome: false }
}

fn size_of_frame(frame: &OwnedFrame) -> usize {
    size_of::<OwnedFrame>() + frame.vectors.len()
}

/// Opens and compares, on as many threads as are worth it.
async fn compare(
    probe: &OwnedProbe,
    route: &CollectionRoute,
    (shard, copy): (ShardId, Arc<Copy>),
) -> Result<Vec<Candidate>, CallError> {
    let metric = probe.space.metric;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let tasks = copy.frames.len().div_ceil(FRAMES_PER_TASK).clamp(1, cores);
    let length = copy.frames.len().div_ceil(tasks).max(1);
    let now_ms = convert::now_ms();
    let work = (0..tasks).map(|task| {
        let comparison = Comparison {
            probe: probe.clone(),
            now_ms,
            collection: route.info.id,
            shard,
            metric,
            dim: probe.space.dim as usize,
        };
        let copy = copy.clone();
        tokio::task::spawn_blocking(move || {
            let from = (task * length).min(copy.frames.len());
            comparison.best_of(&copy.frames[from..(from + length).min(copy.frames.len())])
        })
    });
    // All are started before the first is waited for.
    let work: Vec<_> = work.collect();
    let mut best = Best::new(probe.ranking.k);
    for task in work {
        let hits = task.await.map_err(|_| failed(Problem::internal("comparing private frames failed")))?;
        best.extend(hits.map_err(failed)?);
    }
    Ok(best.into_ranked())
}

struct Comparison {
    probe: OwnedProbe,
    now_ms: u64,
    collection: CollectionId,
    shard: ShardId,
    metric: Metric,
    dim: usize,
}

impl Comparison {
    fn best_of(&self, frames: &[OwnedFrame]) -> Result<Vec<Candidate>, Problem> {
        if self.probe.vectors.is_empty() {
            let listed = frames.iter().filter(|frame| self.wants(frame));
            return Ok(listed.map(|frame| self.candidate(frame.id)).collect());
        }
        let mut best = Best::new(self.probe.ranking.k);
        // Room for all at once: a buffer that grows would leave copies behind that nobody wipes.
        let mut components = Zeroizing::new(Vec::new());
        for step in frames.chunks(STEP) {
            let wanted = step.iter().filter(|frame| self.wants(frame));
            let room = wanted.clone().map(|frame| frame.vectors.len() / 4).sum();
            if components.capacity() < room {
                components = Zeroizing::new(Vec::with_capacity(room));
            }
            components.clear();
            let mut opened = Vec::with_capacity(step.len());
            for frame in wanted {
                let from = components.len();
                // It may have vectors in other spaces only.
                if self.open(frame, &mut components)? > 0 {
                    opened.push((frame, from..components.len()));
                }
            }
            best.extend(self.candidates(&opened, &components)?);
        }
        Ok(best.into_ranked())
    }

    /// Adds the components of a frame's vectors; returns how many there were.
    fn open(&self, frame: &OwnedFrame, components: &mut Vec<f32>) -> Result<usize, Problem> {
        let sealed = (frame.id, self.probe.space.number, &frame.vectors[..]);
        let opened = private::open_vectors(&self.probe.owner, self.collection, sealed, components);
        let count = opened.map_err(|error| self.refused(frame.id, &problem_of(error)))?;
        if count % self.dim != 0 {
            let detail = format!("{count} components do not make vectors of {}", self.dim);
            return Err(self.refused(frame.id, &Problem::internal(detail)));
        }
        Ok(count)
    }

    /// Those of some frames, opened and in order of their ids, that may belong to the answer.
    fn candidates(
        &self,
        opened: &[(&OwnedFrame, std::ops::Range<usize>)],
        components: &[f32],
    ) -> Result<Vec<Candidate>, Problem> {
        let OwnedProbe { vectors, ranking, among, is_mean, .. } = &self.probe;
        let most = self.probe.most_similar(opened.len()).max(1);
        let mut lists = Vec::with_capacity(vectors.len());
        for query in vectors.iter() {
            let documents = opened.iter().map(|(frame, range)| (frame.id, &components[range.clone()]));
            let hits = exact_top_k(self.metric, self.dim, query, documents, most);
            lists.push(hits.map_err(|error| Problem::new(Code::Damaged, format!("private vectors: {error}")))?);
        }
        let hits = match (is_mean, vectors.len()) {
            (_, 1) => lists.pop().unwrap_or_default(),
            (true, queries) => mean_top_k(lists.into_iter().flatten(), queries, most),
            (false, _) => merge_top_k(lists, most),
        };
        let candidate = |Hit { id, passage, score: similarity }| {
            let at = opened.binary_search_by_key(&id, |(frame, _)| frame.id).ok()?;
            let (frame, range) = &opened[at];
            let vectors = among.as_ref().map(|_| components[range.clone()].chunks_exact(self.dim));
            let vector = vectors.and_then(|mut vectors| vectors.nth(passage as usize)).unwrap_or_default();
            Some(Candidate {
                score: ranking.score(similarity, frame.created_ms),
                similarity,
                vector: vector.to_vec().into(),
                passage,
                ..self.candidate(id)
            })
        };
        let candidates = hits.into_iter().filter_map(candidate);
        Ok(candidates.filter(|candidate| ranking.wants(candidate.score, candidate.id)).collect())
    }

    fn candidate(&self, id: FrameId) -> Candidate {
        Candidate { id, shard: self.shard, is_private: true, ..Candidate::default() }
    }

    fn wants(&self, frame: &OwnedFrame) -> bool {
        let OwnedProbe { created_ms, among, .. } = &self.probe;
        let lives = frame.expires_ms == 0 || frame.expires_ms > self.now_ms;
        let is_among = among.as_ref().is_none_or(|among| among.binary_search(&frame.id).is_ok());
        let has_vectors = !frame.vectors.is_empty() || self.probe.vectors.is_empty();
        lives && is_among && created_ms.contains(&frame.created_ms) && has_vectors
    }

    /// The name matched, so a key that does not open it is no stranger's: what is sealed is wrong.
    fn refused(&self, id: FrameId, problem: &Problem) -> Problem {
        Problem::new(Code::Damaged, format!("vectors of private memory {}: {}", Uuid::from_u128(id), problem.detail))
    }
}
