//! First phase of a search: what every shard of the collection names.

use std::collections::{BTreeMap, BTreeSet};

use mira_proto::model::{SearchExplain, SearchMode, ShardExplain};
use mira_proto::node_v1::{self, ReadHeader, ReadState};
use mira_proto::{FrameId, Problem, ShardId};
use tokio::time::Instant;

use super::micros;
use super::query::{Recency, ResolvedQuery};
use super::route::SearchRoute;
use crate::cluster::{CallError, CollectionRoute, ShardAnswer, Staleness, fan_out};
use crate::operations::field_types::FieldTypes;
use crate::private::search::{PrivateHits, PrivateQuery};
use crate::ranking::merge::{Candidate, Lists};
use crate::{ConsistencyToken, Memory, RequestContext, ids};

/// What the shards said.
pub(super) struct Gathered {
    pub(super) lists: Lists,
    pub(super) seen: ConsistencyToken,
    pub(super) staleness: Staleness,
    pub(super) missing: BTreeMap<ShardId, Problem>,
    pub(super) explain: SearchExplain,
    /// What the fields of the filter hold in plain frames.
    pub(super) types: FieldTypes,
    /// What private frames were compared with, if they were.
    pub(super) private: Option<PrivateQuery>,
    /// With a search by words and meaning: the private frames by meaning.
    pub(super) by_meaning: Vec<Candidate>,
    /// How many private frames the owner has, wanted or not.
    pub(super) private_frames: usize,
    /// Private frames that could not be opened.
    pub(super) damaged: BTreeSet<FrameId>,
    /// Whether no shard missed a frame that ranks before the last that it named.
    pub(super) is_whole: bool,
    /// The smallest pool of a shard outside of which there may be hits.
    pub(super) looked_through: Option<u64>,
}

/// What was found among private frames.
pub(super) struct GatheredPrivate {
    query: PrivateQuery,
    hits: PrivateHits,
    by_meaning: Vec<Candidate>,
}

/// What one shard said, and how it was asked.
struct ShardHits {
    reply: node_v1::SearchReply,
    route: SearchRoute,
}

impl ShardAnswer for ShardHits {
    fn taken_over(&self) -> &[ShardId] {
        self.reply.taken_over()
    }
}

impl Memory {
    /// Asks every shard of the collection at once.
    pub(super) async fn gather(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        resolved: &ResolvedQuery<'_>,
    ) -> Result<Gathered, CallError> {
        let mut gathered = Gathered::nothing();
        if resolved.query.only_private {
            return Ok(gathered);
        }
        let context = &context.for_first_phase();
        let started = Instant::now();
        let one_shard = route.shards().len() == 1;
        let ask = |header, deadline| {
            let (context, request) = (context.until(deadline), request(resolved, header, one_shard));
            async move { self.search_shard(&context, route, request).await }
        };
        let mut answers = fan_out(context, route, ask).sharing_time();
        let wanted = resolved.query.pool() as usize;
        while let Some((shard, answer)) = answers.next().await {
            match answer {
                Ok(answer) => gathered.note(shard, answer, wanted)?,
                Err(CallError::Unreached(problem)) => drop(gathered.missing.insert(shard, problem)),
                Err(error) => return Err(error),
            }
        }
        gathered.explain.shards_us = micros(started);
        gathered.explain.shards.sort_by_key(|explain| explain.shard);
        Ok(gathered)
    }

    /// The same among the owner's private frames, if they are to be searched.
    pub(super) async fn gather_private(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        resolved: &ResolvedQuery<'_>,
    ) -> Result<Option<GatheredPrivate>, CallError> {
        let Some(owner) = context.shared_owner_key().filter(|_| resolved.query.include_private) else {
            return Ok(None);
        };
        let query = PrivateQuery::new(owner, resolved).map_err(CallError::Unreached)?;
        let mut hits = self.private_search(context, route, &query).await?;
        let mut by_meaning = Vec::new();
        if resolved.query.mode == SearchMode::Hybrid {
            by_meaning = hits.best.into_ranked();
            hits = self.private_search(context, route, &query.listing()).await?;
        }
        Ok(Some(GatheredPrivate { query, hits, by_meaning }))
    }

    /// Asks one shard.
    async fn search_shard(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        request: node_v1::SearchRequest,
    ) -> Result<ShardHits, CallError> {
        let started = Instant::now();
        let by = SearchRoute::of(&request);
        self.metrics.decided(by.name(), started.elapsed());
        Ok(ShardHits { reply: self.cluster.read(context, route, request).await?, route: by })
    }
}

impl Gathered {
    fn nothing() -> Self {
        Gathered {
            lists: Lists::default(),
            seen: ConsistencyToken::default(),
            staleness: Staleness::default(),
            missing: BTreeMap::new(),
            explain: SearchExplain::default(),
            types: FieldTypes::default(),
            private: None,
            by_meaning: Vec::new(),
            private_frames: 0,
            damaged: BTreeSet::new(),
            is_whole: true,
            looked_through: None,
        }
    }

    /// Takes what was found among private frames.
    pub(super) fn add(&mut self, GatheredPrivate { query, hits, by_meaning }: GatheredPrivate) {
        let more = hits.best.is_full();
        self.lists.push(hits.best.into_ranked(), more);
        self.damaged.extend(hits.damaged);
        self.seen.merge(&hits.seen);
        self.missing.extend(hits.missing);
        self.private = Some(query);
        self.by_meaning = by_meaning;
        self.private_frames = hits.frames;
    }

    fn note(&mut self, shard: ShardId, found: ShardHits, wanted: usize) -> Result<(), CallError> {
        let ShardHits { mut reply, route } = found;
        let explain = reply.explain.take();
        self.explain.shards.extend(explain.map(|explain| shard_explain(shard, route, &reply, explain)));
        self.seen.note(shard, reply.state.as_ref().map_or(0, |state: &ReadState| state.applied));
        self.staleness.note(reply.state.as_ref());
        self.types.note(reply.field_types);
        self.is_whole &= reply.whole;
        let looked_through = (reply.looked_through > 0).then_some(reply.looked_through);
        self.looked_through = [self.looked_through, looked_through].into_iter().flatten().min();
        // A node of the release before does not say whether there is more.
        let more = reply.more || reply.hits.len() >= wanted;
        self.lists.push(candidates(shard, reply.hits).map_err(CallError::Unreached)?, more);
        Ok(())
    }
}

/// What one shard is asked; with the frames themselves when it holds all of the collection.
fn request(resolved: &ResolvedQuery<'_>, header: ReadHeader, one_shard: bool) -> node_v1::SearchRequest {
    let &ResolvedQuery { query, space, ref vectors, now_ms } = resolved;
    let group = query.group.as_ref();
    let recency = |Recency { half_life_ms, weight }| node_v1::Recency { half_life_ms, weight, now_ms };
    node_v1::SearchRequest {
        header: Some(header),
        vector: vectors.first().cloned().unwrap_or_default(),
        more_vectors: vectors.iter().skip(1).flatten().copied().collect(),
        mean: query.is_mean,
        min_score: query.min_score,
        after: query.cursor.as_ref().map(|cursor| node_v1::After {
            score: cursor.score,
            id: cursor.id.to_be_bytes().to_vec().into(),
            seen: cursor.seen,
            shown: cursor.shown.clone(),
        }),
        recency: query.recency.map(recency),
        group_field: group.map(|group| group.field.clone()).unwrap_or_default(),
        group_size: group.map_or(0, |group| group.size),
        with_vectors: query.diversity.is_some(),
        k: query.pool(),
        ef: query.ef.unwrap_or(space.ef),
        space: query.using.clone(),
        with_frames: one_shard && query.diversity.is_none(),
        exact: query.exact,
        created_from_ms: query.created_from_ms,
        created_to_ms: query.created_to_ms,
        filter_json: query.filter_json.clone(),
        explain: query.explain,
    }
}

fn shard_explain(
    shard: ShardId,
    route: SearchRoute,
    reply: &node_v1::SearchReply,
    explain: node_v1::SearchExplain,
) -> ShardExplain {
    ShardExplain {
        shard,
        route: route.name().to_owned(),
        plan: explain.plan().word().to_owned(),
        ef: explain.ef,
        searched: reply.searched,
        tail: reply.tail,
        compared: explain.compared,
        rescored: explain.rescored,
        matching: (explain.matching_of > 0).then_some(explain.matching),
        unknown_fields: explain.unknown_fields,
        index_us: explain.micros,
    }
}

fn candidates(shard: ShardId, hits: Vec<node_v1::Hit>) -> Result<Vec<Candidate>, Problem> {
    let candidate = |hit: node_v1::Hit| {
        let id = ids::id_from_bytes(&hit.id).filter(|_| hit.score.is_finite())?;
        Some(Candidate {
            id,
            score: hit.score,
            similarity: hit.similarity,
            vector: hit.vector.into(),
            group_json: hit.group_json,
            shard,
            passage: hit.passage,
            frame: hit.frame.map(Box::new),
            ..Candidate::default()
        })
    };
    let odd = || Problem::internal(format!("shard {shard} returned a hit without a proper id or score"));
    hits.into_iter().map(|hit| candidate(hit).ok_or_else(odd)).collect()
}
