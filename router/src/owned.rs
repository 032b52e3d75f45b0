//! Searching an owner's private frames by meaning.
//!
//! No index on a node holds them, so the router reads the owner's sealed vectors from the shards, page by page, opens
//! them, and compares the query with every one: exact, and bounded in memory by a page for each of a few shards.
//!
//! What was read is kept for the next search *as the owner sealed it*: the cache holds nothing that anyone but the owner
//! can open, and opened vectors are wiped when the search ends. The next search asks a shard for what has changed since;
//! mostly nothing has, and the answer is a few bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use lru::LruCache;
use mira_crypto::OwnerKey;
use mira_index::{Hit, exact_top_k, merge_top_k};
use mira_proto::model::Metric;
use mira_proto::{Code, CollectionId, FrameId, Problem, ShardId, limits, node_v1};
use parking_lot::Mutex;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::cluster::{CallError, CollectionRoute};
use crate::merge::Candidate;
use crate::owner::{Credential, problem_of};
use crate::search::{Round, TakenOver, level_of, read_call};
use crate::validate::Query;
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

/// What private frames are compared with.
pub(crate) struct OwnedProbe {
    owner: Arc<OwnerKey>,
    vector: Arc<[f32]>,
    k: usize,
    min_score: f32,
    created_ms: std::ops::Range<u64>,
}

impl OwnedProbe {
    /// For one search.
    pub(crate) fn new(owner: Arc<OwnerKey>, query: &Query, vector: Vec<f32>) -> Self {
        let until = if query.created_to_ms == 0 { u64::MAX } else { query.created_to_ms };
        let min_score = query.min_score.unwrap_or(f32::NEG_INFINITY);
        OwnedProbe {
            owner,
            vector: vector.into(),
            k: query.k as usize,
            min_score,
            created_ms: query.created_from_ms..until,
        }
    }
}

/// What was found among private frames.
#[derive(Default)]
pub(crate) struct OwnedHits {
    pub(crate) lists: Vec<Vec<Candidate>>,
    pub(crate) seen: ConsistencyToken,
    pub(crate) missing: BTreeMap<ShardId, Problem>,
}

impl OwnedHits {
    /// Takes what a shard answered.
    fn note(
        &mut self,
        shard: ShardId,
        answer: Result<OwnedAnswer, CallError>,
        (probe, taken_over): (&OwnedProbe, &mut TakenOver),
    ) -> Result<(), CallError> {
        match answer {
            Ok(OwnedAnswer { hits, applied, opened }) => {
                self.seen.note(shard, applied);
                taken_over.note(shard, &opened);
                let candidate = |Hit { id, passage, score }| Candidate {
                    id,
                    score,
                    similarity: score,
                    vector: Vec::new(),
                    group_json: String::new(),
                    shard,
                    passage,
                    frame: None,
                };
                let hits = hits.into_iter().filter(|hit| hit.score >= probe.min_score);
                self.lists.push(hits.map(candidate).collect());
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
    hits: Vec<Hit>,
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
        let context = &context.within(limits::SHARD_PATIENCE);
        let (mut found, mut taken_over) = (OwnedHits::default(), TakenOver::default());
        for round in Round::of(route) {
            let asked = round.shards(route, &taken_over).into_iter();
            let asked =
                asked.map(|part| async { (part.0, self.search_owned_shard(context, route, part, probe).await) });
            let answers: Vec<_> = futures::stream::iter(asked).buffer_unordered(limits::OWNED_FAN_OUT).collect().await;
            for (shard, answer) in answers {
                found.note(shard, answer, (probe, &mut taken_over))?;
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
            return Ok(OwnedAnswer { hits: compare(probe, route, copy.clone()).await?, applied, opened });
        }
        // A copy in the making; given up when it grows too large to be kept.
        let mut kept = may_keep.then(Vec::new);
        let (mut best, mut bytes, mut page) = (Vec::new(), 0, first);
        loop {
            let more = page.more.then(|| page.frames.last().map(|frame| frame.id.clone())).flatten();
            let frames = taken_over(page.frames, request.known, cached.as_deref()).map_err(failed)?;
            bytes += frames.iter().map(size_of_frame).sum::<usize>();
            let part = Arc::new(Copy { known: 0, frames, bytes: 0 });
            let hits = compare(probe, route, part.clone()).await?;
            best = merge_top_k(vec![best, hits], probe.k);
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
        Ok(OwnedAnswer { hits: best, applied, opened })
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
fn failed(problem: Problem) -> CallError {
    CallError::Refused { problem, after_unknown_outcome: false }
}

fn size_of_frame(frame: &OwnedFrame) -> usize {
    size_of::<OwnedFrame>() + frame.vectors.len()
}

/// Opens and compares, on as many threads as are worth it.
async fn compare(probe: &OwnedProbe, route: &CollectionRoute, copy: Arc<Copy>) -> Result<Vec<Hit>, CallError> {
    let metric = match convert::metric(&route.info).map_err(failed)? {
        Metric::Cosine => mira_index::Metric::Cosine,
        Metric::Dot => mira_index::Metric::Dot,
        Metric::L2 => mira_index::Metric::L2,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let tasks = copy.frames.len().div_ceil(FRAMES_PER_TASK).clamp(1, cores);
    let length = copy.frames.len().div_ceil(tasks).max(1);
    let now_ms = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
    let work = (0..tasks).map(|task| {
        let comparison = Comparison {
            owner: probe.owner.clone(),
            query: probe.vector.clone(),
            k: probe.k,
            created_ms: probe.created_ms.clone(),
            now_ms,
            collection: route.info.id,
            metric,
            dim: route.info.dim as usize,
        };
        let copy = copy.clone();
        tokio::task::spawn_blocking(move || {
            let from = (task * length).min(copy.frames.len());
            comparison.best_of(&copy.frames[from..(from + length).min(copy.frames.len())])
        })
    });
    // All are started before the first is waited for.
    let work: Vec<_> = work.collect();
    let mut lists = Vec::with_capacity(tasks);
    for task in work {
        let hits = task.await.map_err(|_| failed(Problem::internal("comparing private frames failed")))?;
        lists.push(hits.map_err(failed)?);
    }
    Ok(merge_top_k(lists, probe.k))
}

struct Comparison {
    owner: Arc<OwnerKey>,
    query: Arc<[f32]>,
    k: usize,
    created_ms: std::ops::Range<u64>,
    now_ms: u64,
    collection: CollectionId,
    metric: mira_index::Metric,
    dim: usize,
}

impl Comparison {
    fn best_of(&self, frames: &[OwnedFrame]) -> Result<Vec<Hit>, Problem> {
        let mut lists = Vec::new();
        // Room for all at once: a buffer that grows would leave copies behind that nobody wipes.
        let mut components = Zeroizing::new(Vec::new());
        for step in frames.chunks(STEP) {
            let wanted = step.iter().filter(|frame| self.wants(frame));
            let room = wanted.clone().map(|frame| frame.vectors.len() / 4).sum();
            if components.capacity() < room {
                components = Zeroizing::new(Vec::with_capacity(room));
            }
            components.clear();
            let mut ends = Vec::with_capacity(step.len());
            for frame in wanted {
                let sealed = (frame.id, &frame.vectors[..]);
                let opened = private::open_vectors(&self.owner, self.collection, sealed, &mut components);
                let count = opened.map_err(|error| self.refused(frame.id, &problem_of(error)))?;
                if count == 0 || count % self.dim != 0 {
                    let detail = format!("{count} components do not make vectors of {}", self.dim);
                    return Err(self.refused(frame.id, &Problem::internal(detail)));
                }
                ends.push((frame.id, components.len()));
            }
            let mut from = 0;
            let documents = ends.into_iter().map(|(id, end)| {
                let vectors = &components[from..end];
                from = end;
                (id, vectors)
            });
            let hits = exact_top_k(self.metric, self.dim, &self.query, documents, self.k);
            lists.push(hits.map_err(|error| Problem::new(Code::Damaged, format!("private vectors: {error}")))?);
        }
        Ok(merge_top_k(lists, self.k))
    }

    fn wants(&self, frame: &OwnedFrame) -> bool {
        let lives = frame.expires_ms == 0 || frame.expires_ms > self.now_ms;
        lives && self.created_ms.contains(&frame.created_ms) && !frame.vectors.is_empty()
    }

    /// The name matched, so a key that does not open it is no stranger's: what is sealed is wrong.
    fn refused(&self, id: FrameId, problem: &Problem) -> Problem {
        Problem::new(Code::Damaged, format!("vectors of private memory {}: {}", Uuid::from_u128(id), problem.detail))
    }
}
