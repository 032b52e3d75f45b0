//! `search`: the memories nearest to a question.
//!
//! Two phases. First every shard of the collection names its best `k`, ids and scores only; the router merges them.
//! Then the frames of the winners are fetched from their shards. A collection on one shard needs no merge and sends
//! its frames along at once. A winner that was forgotten in between is left out, and the next one moves up.
//!
//! A shard that no replica answers for within [`limits::SHARD_PATIENCE`] is left out and named: the answer is
//! `degraded`, unless the caller asked for all or nothing (`strict`), or no shard answered at all.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::StreamExt;
use mira_proto::model::{
    Consistency, DEFAULT_COLLECTION, Hit, SearchExplain, SearchReply, SearchRequest, ShardExplain, VectorReason, Why,
};
use mira_proto::{Code, FrameId, Problem, ShardId, limits, node_v1};
use tokio::time::Instant;
use uuid::Uuid;

use crate::cluster::{Call, CallError, CollectionRoute, Group, Want};
use crate::memory::{MAX_REROUTES, no_collection};
use crate::merge::{Candidate, merge};
use crate::validate::{self, Probe, Query};
use crate::{ClusterMemory, ConsistencyToken, RequestContext, convert, ids};

/// How often winners that vanished are replaced by the next in line.
const MAX_REFILLS: usize = 3;

/// What the shards said in a phase.
#[derive(Default)]
struct Gathered {
    lists: Vec<Vec<Candidate>>,
    seen: ConsistencyToken,
    missing: BTreeMap<ShardId, Problem>,
    explain: SearchExplain,
}

/// All candidates best first, of whom winners are taken from the front, and the shards that failed so far.
struct Ranked {
    waiting: std::vec::IntoIter<Candidate>,
    missing: BTreeMap<ShardId, Problem>,
}

impl ClusterMemory {
    pub(crate) async fn search_request(
        &self,
        context: &RequestContext,
        request: SearchRequest,
    ) -> Result<SearchReply, Problem> {
        let context = context.reading(request.consistency.unwrap_or(Consistency::Leader));
        let query = validate::search(request)?;
        for _ in 0..MAX_REROUTES {
            let Some(route) = self.find_collection(&context, &query.collection).await? else {
                return nothing_in(&query.collection, &context);
            };
            let started = Instant::now();
            let vector = self.query_vector(&context, &query, &route).await?;
            let embed_us = micros(started);
            match self.gather(&context, &query, &route, vector).await {
                Ok(mut gathered) => {
                    gathered.explain.embed_us = embed_us;
                    return self.answer(&context, &query, &route, gathered).await;
                }
                Err(CallError::Moved) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CallError::Moved.into())
    }

    async fn query_vector(
        &self,
        context: &RequestContext,
        query: &Query,
        route: &CollectionRoute,
    ) -> Result<Vec<f32>, Problem> {
        let vector = match &query.probe {
            Probe::Vector(vector) => vector.clone(),
            Probe::Text(text) => {
                self.model_fits(route)?;
                self.embedding.query(context, text).await?.to_vec()
            }
        };
        validate::vector_fits(&vector, &query.collection, route.info.dim, convert::metric(&route.info)?)?;
        Ok(vector)
    }

    /// First phase: asks every shard of the collection at once.
    async fn gather(
        &self,
        context: &RequestContext,
        query: &Query,
        route: &CollectionRoute,
        vector: Vec<f32>,
    ) -> Result<Gathered, CallError> {
        let context = &context.within(limits::SHARD_PATIENCE);
        let shards = route.partitioning().shards();
        let request = |shard| node_v1::SearchRequest {
            epoch: 0,
            shard,
            collection: route.info.id,
            vector: vector.clone(),
            k: query.k,
            ef: 0,
            level: Some(context.read_level(shard)),
            with_frames: shards.len() == 1,
            exact: query.exact,
            created_from_ms: query.created_from_ms,
            created_to_ms: query.created_to_ms,
            filter_json: query.filter_json.clone(),
            explain: query.explain,
        };
        let started = Instant::now();
        let asked = shards.iter().copied().map(|shard| {
            let request = request(shard);
            async move { (shard, self.search_shard(context, route, request).await) }
        });
        let mut answers = futures::stream::iter(asked).buffer_unordered(limits::MAX_FAN_OUT);
        let mut gathered = Gathered::default();
        while let Some((shard, answer)) = answers.next().await {
            match answer {
                Ok(mut reply) => {
                    gathered.seen.note(shard, reply.applied);
                    let explain = reply.explain.take();
                    gathered.explain.shards.extend(explain.map(|explain| shard_explain(shard, query, &reply, explain)));
                    gathered.lists.push(candidates(shard, reply.hits).map_err(CallError::Unreached)?);
                }
                Err(CallError::Unreached(problem)) => {
                    gathered.missing.insert(shard, problem);
                }
                Err(error) => return Err(error),
            }
        }
        gathered.explain.shards_us = micros(started);
        gathered.explain.shards.sort_by_key(|explain| explain.shard);
        Ok(gathered)
    }

    async fn search_shard(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        request: node_v1::SearchRequest,
    ) -> Result<node_v1::SearchReply, CallError> {
        let call = read_call(context, route, request.shard, "search");
        self.cluster
            .call(&call, |mut client, epoch| {
                let request = node_v1::SearchRequest { epoch, ..request.clone() };
                async move { client.search(request).await }
            })
            .await
    }

    /// Merges, runs the second phase, and says what is missing.
    async fn answer(
        &self,
        context: &RequestContext,
        query: &Query,
        route: &Arc<CollectionRoute>,
        gathered: Gathered,
    ) -> Result<SearchReply, Problem> {
        let Gathered { lists, seen, missing, mut explain } = gathered;
        let context = context.having_seen(&seen).within(limits::SHARD_PATIENCE);
        let started = Instant::now();
        let mut ranked = Ranked { waiting: merge(lists).into_iter(), missing };
        self.metrics.merged(started.elapsed());
        explain.merge_us = micros(started);
        let started = Instant::now();
        let hits = self.fetch_winners(&context, query, route, &mut ranked).await?;
        explain.fetch_us = micros(started);
        let missing = ranked.missing;
        let all_missing = missing.len() == route.partitioning().shards().len();
        if let Some((shard, problem)) = missing.first_key_value().filter(|_| all_missing || query.strict) {
            let detail = format!("shard {shard} did not answer the search: {}", problem.detail);
            return Err(Problem::new(Code::Unavailable, detail));
        }
        if !missing.is_empty() {
            self.metrics.degraded();
        }
        Ok(SearchReply {
            hits,
            degraded: !missing.is_empty(),
            missing_shards: missing.into_keys().collect(),
            consistency_token: context.token.to_string(),
            explain: query.explain.then_some(explain),
        })
    }

    /// Second phase: the frames of the best `k` that still exist, in order of rank.
    async fn fetch_winners(
        &self,
        context: &RequestContext,
        query: &Query,
        route: &CollectionRoute,
        ranked: &mut Ranked,
    ) -> Result<Vec<Hit>, Problem> {
        let mut winners: Vec<(Candidate, node_v1::Frame)> = Vec::new();
        for _ in 0..=MAX_REFILLS {
            let wanted = query.k as usize - winners.len();
            let picked: Vec<Candidate> = ranked.waiting.by_ref().take(wanted).collect();
            if picked.is_empty() {
                break;
            }
            let mut frames = self.frames_of(context, route, &picked, &mut ranked.missing).await?;
            winners.extend(picked.into_iter().filter_map(|mut candidate| {
                let frame = candidate.frame.take().or_else(|| frames.remove(&candidate.id))?;
                Some((candidate, frame))
            }));
        }
        bounded(&winners)?;
        winners.into_iter().zip(1..).map(|((candidate, frame), rank)| hit(candidate, frame, rank)).collect()
    }

    /// Fetches the frames that did not come along with the first phase.
    async fn frames_of(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        picked: &[Candidate],
        missing: &mut BTreeMap<ShardId, Problem>,
    ) -> Result<HashMap<FrameId, node_v1::Frame>, Problem> {
        let mut by_shard: BTreeMap<ShardId, Vec<Uuid>> = BTreeMap::new();
        for candidate in picked.iter().filter(|candidate| candidate.frame.is_none()) {
            by_shard.entry(candidate.shard).or_default().push(Uuid::from_u128(candidate.id));
        }
        let asked = by_shard
            .into_iter()
            .map(|(shard, ids)| async move { (shard, self.fetch_from(context, route, shard, ids).await) });
        let mut answers = futures::stream::iter(asked).buffer_unordered(limits::MAX_FAN_OUT);
        let mut frames = HashMap::new();
        while let Some((shard, answer)) = answers.next().await {
            match answer {
                Ok(reply) => frames
                    .extend(reply.frames.into_iter().filter_map(|frame| Some((ids::id_from_bytes(&frame.id)?, frame)))),
                Err(CallError::Unreached(problem)) => {
                    missing.insert(shard, problem);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(frames)
    }

    /// Frames of one shard by id; unknown ids are left out of the reply.
    pub(crate) async fn fetch_from(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        shard: ShardId,
        ids: Vec<Uuid>,
    ) -> Result<node_v1::FetchReply, CallError> {
        let request = node_v1::FetchRequest {
            epoch: 0,
            shard,
            collection: route.info.id,
            ids: ids.into_iter().map(ids::id_bytes).collect(),
            level: Some(context.read_level(shard)),
        };
        let call = read_call(context, route, shard, "fetch");
        self.cluster
            .call(&call, |mut client, epoch| {
                let request = node_v1::FetchRequest { epoch, ..request.clone() };
                async move { client.fetch(request).await }
            })
            .await
    }
}

fn micros(since: Instant) -> u64 {
    since.elapsed().as_micros() as u64
}

fn shard_explain(
    shard: ShardId,
    query: &Query,
    reply: &node_v1::SearchReply,
    explain: node_v1::SearchExplain,
) -> ShardExplain {
    ShardExplain {
        shard,
        plan: explain.plan,
        ef: explain.ef,
        searched: reply.searched,
        tail: reply.tail,
        compared: explain.compared,
        rescored: explain.rescored,
        matching: (!query.filter_json.is_empty()).then_some(explain.matching),
        unknown_fields: explain.unknown_fields,
        index_us: explain.micros,
    }
}

/// A read of one shard.
pub(crate) fn read_call<'a>(
    context: &RequestContext,
    route: &'a CollectionRoute,
    shard: ShardId,
    operation: &'static str,
) -> Call<'a> {
    Call {
        operation,
        group: Group::Shard(shard),
        want: if context.consistency == Consistency::Any { Want::Any } else { Want::Leader },
        deadline: context.deadline,
        try_for: limits::READ_TRY,
        route: Some(route),
    }
}

/// The default collection exists for every caller, made or not.
fn nothing_in(collection: &str, context: &RequestContext) -> Result<SearchReply, Problem> {
    if collection != DEFAULT_COLLECTION {
        return Err(no_collection(collection));
    }
    Ok(SearchReply { consistency_token: context.token.to_string(), ..Default::default() })
}

fn candidates(shard: ShardId, hits: Vec<node_v1::Hit>) -> Result<Vec<Candidate>, Problem> {
    let candidate = |hit: node_v1::Hit| {
        let id = ids::id_from_bytes(&hit.id).filter(|_| hit.score.is_finite())?;
        Some(Candidate { id, score: hit.score, shard, passage: hit.passage, frame: hit.frame })
    };
    let odd = || Problem::internal(format!("shard {shard} returned a hit without a proper id or score"));
    hits.into_iter().map(|hit| candidate(hit).ok_or_else(odd)).collect()
}

/// Refuses an answer that would not fit one message.
fn bounded(winners: &[(Candidate, node_v1::Frame)]) -> Result<(), Problem> {
    let bytes: usize = winners.iter().map(|(_, frame)| frame.content.len() + frame.metadata_json.len()).sum();
    if bytes > limits::MAX_MESSAGE_BYTES {
        let limit = limits::MAX_MESSAGE_BYTES >> 20;
        return Err(Problem::new(Code::TooLarge, format!("the hits have more than {limit} MiB: ask for a smaller k")));
    }
    Ok(())
}

fn hit(candidate: Candidate, frame: node_v1::Frame, rank: u32) -> Result<Hit, Problem> {
    let at = candidate.passage as usize * 2;
    let passage = match frame.passage_ranges[..] {
        // One vector for the whole content says nothing about a part of it.
        [] | [_, _] => None,
        ref ranges => ranges.get(at).copied().zip(ranges.get(at + 1).copied()),
    };
    let why = Why { vector: Some(VectorReason { rank, score: candidate.score, passage }) };
    Ok(Hit { score: candidate.score, why, frame: convert::frame(frame)? })
}
