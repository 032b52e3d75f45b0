//! Searching an owner's private frames by meaning, and listing them for a search by words ([`crate::private::text`]).
//!
//! The router reads the owner's sealed vectors from the shards, page by page, opens them, and compares the query with
//! every one (`compare`): exact, and bounded in memory by a page for each of a few shards. What was read is kept for the
//! next search (`crate::private::cache`), which asks a shard for what has changed since; mostly nothing has, and the
//! answer is a few bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use mira_crypto::OwnerKey;
use mira_index::Condition;
use mira_index::filter::{self, Wanted};
use mira_index::ranking::{Ranking, Recency};
use mira_proto::node_v1::{self, ListPrivateVectorsRequest, PrivateVectors};
use mira_proto::{FrameId, Problem, ShardId, limits};

use super::cache::{CopyKey, SealedVectors, VectorCopy};
use super::compare::{Compared, compare};
use super::seal;
use crate::cluster::{CallError, CollectionRoute, ShardAnswer, fan_out};
use crate::operations::convert::Space;
use crate::operations::search::query::ResolvedQuery;
use crate::ranking::cursor::Cursor;
use crate::ranking::merge::{Best, Candidate};
use crate::{ConsistencyToken, Memory, RequestContext, ids};

/// What private frames are compared with, and which of them are wanted.
#[derive(Clone)]
pub(crate) struct PrivateQuery {
    pub(crate) owner: Arc<OwnerKey>,
    pub(super) space: Space,
    /// None lists the frames, compared with nothing.
    pub(super) vectors: Arc<[Vec<f32>]>,
    pub(super) is_mean: bool,
    pub(super) ranking: Arc<Ranking>,
    pub(super) created_ms: Range<u64>,
    /// What a filter asks beside the time of creation; only bodies answer it.
    pub(crate) condition: Option<Arc<Condition>>,
    /// Only these, in order, and with their vectors.
    pub(super) among: Option<Arc<[FrameId]>>,
}

impl PrivateQuery {
    /// For one search.
    pub(crate) fn new(owner: Arc<OwnerKey>, resolved: &ResolvedQuery<'_>) -> Result<Self, Problem> {
        let query = resolved.query;
        let until = if query.created_to_ms == 0 { u64::MAX } else { query.created_to_ms };
        let Wanted { created_ms, condition } =
            filter::split(filter::parse(&query.filter_json)?, query.created_from_ms..until);
        // What is to be opened first may not be meant: then the next in line is.
        let is_opened = condition.is_some() || query.group.is_some() || query.words.is_some();
        let recency = query.recency.map(|recency| Recency {
            half_life_ms: recency.half_life_ms as f64,
            weight: recency.weight,
            now_ms: resolved.now_ms,
        });
        let ranking = Ranking {
            k: if is_opened { limits::MAX_PRIVATE_OPENED + 1 } else { query.pool() as usize },
            // Of a search by words it is one of the score that they make.
            min_score: query.min_score.filter(|_| query.words.is_none()),
            after: query.cursor.as_ref().map(Cursor::place),
            recency,
            ..Ranking::default()
        };
        Ok(PrivateQuery {
            owner,
            space: resolved.space,
            vectors: resolved.vectors.clone().into(),
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
        PrivateQuery { vectors: Arc::new([]), ranking: ranking.into(), ..self.clone() }
    }

    /// The same for some frames, whose vectors are wanted too.
    pub(crate) fn among(&self, mut frames: Vec<FrameId>) -> Self {
        frames.sort_unstable();
        PrivateQuery { among: Some(frames.into()), ..self.clone() }
    }

    /// Of so many frames that are compared at once, how many of the most similar hold the answer.
    pub(super) fn most_similar(&self, count: usize) -> usize {
        let by_similarity = self.ranking.recency.is_none() && self.ranking.after.is_none() && self.vectors.len() == 1;
        if by_similarity { self.ranking.k.min(count) } else { count }
    }
}

/// What was found among private frames.
pub(crate) struct PrivateHits {
    pub(crate) best: Best,
    /// How many frames the owner has, wanted or not.
    pub(crate) frames: usize,
    pub(crate) seen: ConsistencyToken,
    pub(crate) missing: BTreeMap<ShardId, Problem>,
    /// Frames whose vectors are damaged; no part of what was found.
    pub(crate) damaged: BTreeSet<FrameId>,
}

/// What was found in one shard.
struct FoundInShard {
    hits: Vec<Candidate>,
    /// How many frames were compared or passed over.
    frames: usize,
    /// The log index that covers all that the answer shows.
    applied: u64,
    taken_over: Vec<ShardId>,
    damaged: Vec<FrameId>,
}

impl ShardAnswer for FoundInShard {
    fn taken_over(&self) -> &[ShardId] {
        &self.taken_over
    }
}

impl Memory {
    /// The best private frames of every shard of a collection.
    pub(crate) async fn private_search(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        query: &PrivateQuery,
    ) -> Result<PrivateHits, CallError> {
        let context = &context.for_first_phase();
        let best = Best::new(query.ranking.k);
        let (seen, missing, damaged) = (ConsistencyToken::default(), BTreeMap::new(), BTreeSet::new());
        let mut found = PrivateHits { best, frames: 0, seen, missing, damaged };
        let ask = |header, deadline| {
            let context = context.until(deadline);
            async move { self.private_search_shard(&context, route, query, header).await }
        };
        let mut answers = fan_out(context, route, ask).at_once(limits::PRIVATE_FAN_OUT).sharing_time();
        while let Some((shard, answer)) = answers.next().await {
            match answer {
                Ok(answer) => {
                    found.frames += answer.frames;
                    found.seen.note(shard, answer.applied);
                    found.best.extend(answer.hits);
                    found.damaged.extend(answer.damaged);
                }
                Err(CallError::Unreached(problem)) => drop(found.missing.insert(shard, problem)),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// The best private frames of one shard.
    async fn private_search_shard(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        query: &PrivateQuery,
        header: node_v1::ReadHeader,
    ) -> Result<FoundInShard, CallError> {
        let collection = route.info.id;
        let key = CopyKey { collection, shard: header.shard, owner: seal::owner_name(&query.owner, collection) };
        // Otherwise what a shard shows changes without any of its frames.
        let may_keep = route.is_settled();
        let cached = if may_keep { self.private_vectors.get(&key) } else { None };
        let known = cached.as_ref().map_or(0, |copy| copy.known);
        let (owner, after) = (key.owner.clone(), Bytes::new());
        let mut request = ListPrivateVectorsRequest { header: Some(header), owner, known, after };
        let mut page = self.cluster.read(context, route, request.clone()).await?;
        let state = page.state.take().unwrap_or_default();
        // What is kept is as old as its oldest page: what one page shows of a frame, another may have been too early for.
        let mut as_of = state.applied;
        let (applied, taken_over) = (state.applied, state.taken_over);
        let mut found = FoundInShard { hits: Vec::new(), frames: 0, applied, taken_over, damaged: Vec::new() };
        if let Some(copy) = cached.as_ref().filter(|_| page.unchanged) {
            found.frames = copy.frames.len();
            let Compared { hits, damaged } = compare(query, &key, copy.clone(), state.time_ms).await?;
            return Ok(FoundInShard { hits, damaged, ..found });
        }
        // A copy in the making; given up when it grows too large to be kept.
        let mut kept = may_keep.then(Vec::new);
        let (mut best, mut bytes) = (Best::new(query.ranking.k), 0);
        loop {
            let more = page.more.then(|| page.frames.last().map(|frame| frame.id.clone())).flatten();
            let frames = with_known(page.frames, known, cached.as_deref()).map_err(CallError::refused)?;
            found.frames += frames.len();
            bytes += frames.iter().map(SealedVectors::size).sum::<usize>();
            let part = Arc::new(VectorCopy { known: 0, frames, bytes: 0 });
            let compared = compare(query, &key, part.clone(), state.time_ms).await?;
            best.extend(compared.hits);
            found.damaged.extend(compared.damaged);
            if bytes > limits::PRIVATE_CACHE_BYTES / 2 {
                kept = None;
            }
            if let Some(kept) = &mut kept {
                kept.extend(part.frames.iter().cloned());
            }
            let Some(after) = more else { break };
            request.after = after;
            page = self.cluster.read(context, route, request.clone()).await?;
            let applied = page.state.as_ref().map_or(0, |state| state.applied);
            (as_of, found.applied) = (as_of.min(applied), found.applied.max(applied));
        }
        // What was damaged on the way or on a replica may be whole when it is asked for again.
        match kept.filter(|_| found.damaged.is_empty()) {
            Some(frames) => {
                self.private_vectors.put(key, Arc::new(VectorCopy { known: as_of, frames, bytes }));
            }
            None => self.private_vectors.remove(&key),
        }
        found.hits = best.into_ranked();
        Ok(found)
    }
}

/// A page with the vectors that did not come along because we have them.
fn with_known(
    page: Vec<PrivateVectors>,
    known: u64,
    cached: Option<&VectorCopy>,
) -> Result<Vec<SealedVectors>, Problem> {
    let old = cached.map_or(&[][..], |copy| &copy.frames);
    let frame = |frame: PrivateVectors| {
        let odd = || Problem::internal("a shard named a private frame without a proper id");
        let id = ids::id_from_bytes(&frame.id).ok_or_else(odd)?;
        let vectors = if frame.changed > known {
            frame.vectors
        } else {
            let at = old.binary_search_by_key(&id, |old| old.id);
            at.map_or_else(|_| Bytes::new(), |at| old[at].vectors.clone())
        };
        Ok(SealedVectors { id, created_ms: frame.created_ms, expires_ms: frame.expires_ms, vectors })
    };
    page.into_iter().map(frame).collect()
}
