//! `search`: the memories nearest to a question.
//!
//! Two phases. First every shard of the collection names its best `k`, ids and scores only; the router merges them.
//! Then the frames of the winners are fetched from their shards. A collection on one shard needs no merge and sends
//! its frames along at once. A winner that was forgotten in between is left out, and the next one moves up.
//!
//! While a collection grows, a frame may be on two shards, and only one of them decides about it. The shards that are added
//! are asked first: each says which shards' frames it has taken over. Then the others are asked, each without the frames
//! that have been taken over from it. In this order nothing is missed: a frame that is taken over between the two
//! questions is still on its old shard, as it was when the search began.
//!
//! A shard that no replica answers for within [`limits::SHARD_PATIENCE`] is left out and named: the answer is
//! `degraded`, unless the caller asked for all or nothing (`strict`), or no shard answered at all.

pub(crate) mod answer_cache;
pub mod query;
mod route;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::StreamExt;
use mira_proto::groups::first_of_groups;
use mira_proto::model::{
    Consistency, DEFAULT_COLLECTION, Hit, SearchExplain, SearchMode, SearchReply, SearchRequest, SearchResult,
    ShardExplain, TextReason, VectorReason, Why,
};
use mira_proto::placement::Partitioning;
use mira_proto::{Code, FrameId, Problem, ShardId, limits, node_v1};
use tokio::time::Instant;
use uuid::Uuid;

use crate::cluster::{Call, CallError, CollectionRoute, Group, Stays, Try, Want};
use crate::memory::{MAX_REROUTES, no_collection};
use crate::operations::convert;
use crate::operations::convert::Space;
use crate::operations::field_types::FieldTypes;
use crate::operations::validate;
use crate::private::post_filter::{Ranked, Sieve, is_settled};
use crate::private::seal::{self, Opened};
use crate::private::search::{OwnedProbe, failed};
use crate::private::text::Words;
use crate::ranking::cursor::Cursor;
use crate::ranking::diversity::diversify;
use crate::ranking::merge::{Candidate, merge};
use crate::{ConsistencyToken, Memory, RequestContext, ids};
use query::{Grouping, Probe, Query, Recency, check_batch};
use route::SearchRoute;

/// How often winners that vanished are replaced by the next in line.
const MAX_REFILLS: usize = 3;

/// How old the state was that answered, at level `any`: that of the oldest answer.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Staleness {
    staleness_ms: Option<u64>,
    /// Some answer came from a replica that lags, for want of another.
    pub lagging: bool,
}

impl Staleness {
    /// Notes what one answer says of itself.
    pub fn note(&mut self, freshness: Option<node_v1::Freshness>) {
        if let Some(node_v1::Freshness { staleness_ms, lagging }) = freshness {
            self.staleness_ms = self.staleness_ms.max(Some(staleness_ms));
            self.lagging |= lagging;
        }
    }

    /// Notes what several answers said.
    pub fn merge(&mut self, other: Staleness) {
        self.staleness_ms = self.staleness_ms.max(other.staleness_ms);
        self.lagging |= other.lagging;
    }

    /// As callers see it: absent at other levels, and when a replica did not know.
    pub fn milliseconds(&self) -> Option<u64> {
        self.staleness_ms.filter(|&staleness_ms| staleness_ms != u64::MAX)
    }
}

/// Shards that are asked at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// All that hold the collection.
    All,
    /// Those that a growth adds.
    Added,
    /// Those that held the collection before.
    Before,
}

/// Which shards have taken frames over, from which.
#[derive(Debug, Default)]
pub(crate) struct TakenOver {
    by: BTreeMap<ShardId, Vec<ShardId>>,
    unknown: Vec<ShardId>,
}

impl TakenOver {
    /// An added shard says whose frames it has.
    pub fn note(&mut self, shard: ShardId, from: &[ShardId]) {
        if !from.is_empty() {
            self.by.insert(shard, from.to_vec());
        }
    }

    /// An added shard does not answer: what the others have of its frames may be old, and is not shown.
    pub fn unknown(&mut self, shard: ShardId) {
        self.unknown.push(shard);
    }

    /// Whether a shard's frame has gone to an added one.
    pub fn has(&self, source: ShardId, heir: ShardId) -> bool {
        self.by.get(&heir).is_some_and(|sources| sources.contains(&source)) || self.unknown.contains(&heir)
    }
}

impl Round {
    /// The rounds of a read of a whole collection.
    pub fn of(route: &CollectionRoute) -> &'static [Round] {
        if route.is_copying() { &[Round::Added, Round::Before] } else { &[Round::All] }
    }

    /// Whom to ask, each with what it must know of a growth.
    pub fn shards(self, route: &CollectionRoute, taken_over: &TakenOver) -> Vec<(ShardId, Option<node_v1::Growing>)> {
        let added = route.added();
        let before = route.before_growth().map_or(&[][..], Partitioning::shards);
        let without = |source| {
            let gone = added.iter().copied().filter(move |&heir| taken_over.has(source, heir));
            (source, route.growing(gone))
        };
        match self {
            Round::Added => added.iter().map(|&shard| (shard, route.growing([]))).collect(),
            Round::Before => before.iter().map(|&source| without(source)).collect(),
            // Every frame is where it belongs; copies that this or that replica has not removed yet are left out.
            Round::All if !before.is_empty() => {
                let old = before.iter().map(|&source| (source, route.growing(added.iter().copied())));
                old.chain(added.iter().map(|&shard| (shard, None))).collect()
            }
            Round::All => route.partitioning().shards().iter().map(|&shard| (shard, None)).collect(),
        }
    }
}

/// A search whose collection is known.
pub(crate) struct Asked<'a> {
    pub(crate) query: &'a Query,
    /// The space to look in.
    pub(crate) space: Space,
    pub(crate) vectors: Vec<Vec<f32>>,
    /// The time that ages are counted from.
    pub(crate) now_ms: u64,
}

/// What the shards said in a phase.
#[derive(Default)]
struct Gathered {
    lists: Vec<Vec<Candidate>>,
    seen: ConsistencyToken,
    staleness: Staleness,
    missing: BTreeMap<ShardId, Problem>,
    explain: SearchExplain,
    /// The time that ages were counted from.
    now_ms: u64,
    /// What private frames were compared with, if they were.
    owned: Option<OwnedProbe>,
    /// With a search by words and meaning: the private frames by meaning.
    by_meaning: Vec<Candidate>,
    /// How many of them there are, wanted or not.
    owned_frames: usize,
    /// What the fields of the filter hold in plain frames.
    kinds: FieldTypes,
}

/// Share of the time left that the first phase may take.
pub(crate) const FIRST_PHASE: f64 = 0.75;

impl Memory {
    /// Finds memories by meaning; a batch of searches is answered one by one.
    pub async fn search(&self, context: &RequestContext, mut request: SearchRequest) -> Result<SearchReply, Problem> {
        self.bounded("search", context, async {
            match request.searches.take() {
                Some(searches) => {
                    check_batch(&request, &searches)?;
                    self.search_all(context, searches).await
                }
                None => self.search_one(context, request).await,
            }
        })
        .await
    }

    /// Answers each by itself, some at a time.
    async fn search_all(&self, context: &RequestContext, searches: Vec<SearchRequest>) -> Result<SearchReply, Problem> {
        let asked = searches.into_iter().map(|request| self.search_one(context, request));
        let results: Vec<_> = futures::stream::iter(asked).buffered(limits::MAX_BATCH_IN_FLIGHT).collect().await;
        let mut seen = context.token.clone();
        let mut answers = Vec::with_capacity(results.len());
        for result in results {
            answers.push(match result {
                Ok(reply) => {
                    seen.merge(&reply.consistency_token.parse().map_err(Problem::from)?);
                    SearchResult::Answered(Box::new(reply))
                }
                Err(error) => SearchResult::Refused { error },
            });
        }
        let consistency_token = seen.to_string();
        Ok(SearchReply { answers: Some(answers), consistency_token, ..SearchReply::default() })
    }

    async fn search_one(&self, context: &RequestContext, request: SearchRequest) -> Result<SearchReply, Problem> {
        let context = context.reading(request.consistency.unwrap_or(Consistency::Leader));
        let query = Query::of(request)?;
        let context = self.searching_owner(&context, query.include_private).await?;
        for _ in 0..MAX_REROUTES {
            let Some(route) = self.find_collection(&context, &query.collection).await? else {
                return nothing_in(&query.collection, &context);
            };
            if let Some(cursor) = &query.cursor {
                cursor.belongs_to(route.info.id, query.question)?;
            }
            let started = Instant::now();
            let space = convert::space(&route.info, &query.using)?;
            let vectors = match query.mode {
                SearchMode::Text => Vec::new(),
                _ => self.query_vectors(&context, &query, &route, space).await?,
            };
            let embed_us = micros(started);
            let asked = Asked { query: &query, space, vectors, now_ms: query.now_ms() };
            let gathered = self.gather_all(&context, &route, &asked).await;
            let answer = match gathered {
                Ok(mut gathered) => {
                    gathered.explain.embed_us = embed_us;
                    self.answer(&context, &query, &route, gathered).await
                }
                Err(error) => Err(error),
            };
            match answer {
                Err(CallError::Moved) => {}
                other => return Ok(other?),
            }
        }
        Err(CallError::Moved.into())
    }

    async fn query_vectors(
        &self,
        context: &RequestContext,
        query: &Query,
        route: &CollectionRoute,
        space: Space,
    ) -> Result<Vec<Vec<f32>>, Problem> {
        let mut vectors = Vec::with_capacity(query.probes.len());
        for probe in &query.probes {
            let vector = match probe {
                Probe::Vector(vector) => vector.clone(),
                Probe::Text(text) => {
                    self.model_fits(route)?;
                    self.embedding.query(context, text).await?.to_vec()
                }
            };
            validate::vector_fits(&vector, space, &query.collection, &query.using)?;
            vectors.push(vector);
        }
        Ok(vectors)
    }

    /// First phase over plain and private frames.
    async fn gather_all(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        asked: &Asked<'_>,
    ) -> Result<Gathered, CallError> {
        let Some(owner) = context.shared_owner_key().filter(|_| asked.query.include_private) else {
            return self.gather(context, route, asked).await;
        };
        let probe = OwnedProbe::new(owner, asked).map_err(CallError::Unreached)?;
        let plain = async {
            match asked.query.only_private {
                true => Ok(Gathered { now_ms: asked.now_ms, ..Gathered::default() }),
                false => self.gather(context, route, asked).await,
            }
        };
        let (plain, private) = tokio::join!(plain, self.search_owned(context, route, &probe));
        let (mut gathered, mut private) = (plain?, private?);
        if asked.query.mode == SearchMode::Hybrid {
            gathered.by_meaning = private.best.into_ranked();
            private = self.search_owned(context, route, &probe.listing()).await?;
        }
        gathered.seen.merge(&private.seen);
        gathered.lists.push(private.best.into_ranked());
        gathered.missing.extend(private.missing);
        gathered.owned_frames = private.frames;
        gathered.owned = Some(probe);
        Ok(gathered)
    }

    /// First phase: asks every shard of the collection at once.
    async fn gather(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        asked: &Asked<'_>,
    ) -> Result<Gathered, CallError> {
        // A shard that does not answer must not take the time in which the frames of the others are fetched.
        let patience = limits::SHARD_PATIENCE.min(context.remaining().mul_f64(FIRST_PHASE));
        let context = &context.within(patience);
        let shards = route.partitioning().shards();
        let &Asked { query, space, ref vectors, now_ms } = asked;
        let group = query.group.as_ref();
        let recency = |Recency { half_life_ms, weight }| node_v1::Recency { half_life_ms, weight, now_ms };
        let request = |(shard, growing)| node_v1::SearchRequest {
            epoch: 0,
            shard,
            growing,
            grown_to: route.grown_to(),
            collection: route.info.id,
            vector: vectors.first().cloned().unwrap_or_default(),
            more_vectors: vectors.iter().skip(1).flatten().copied().collect(),
            mean: query.is_mean,
            min_score: query.min_score,
            after: query.cursor.map(|cursor| node_v1::After {
                score: cursor.score,
                id: cursor.id.to_be_bytes().to_vec().into(),
                seen: cursor.seen,
            }),
            recency: query.recency.map(recency),
            group_field: group.map(|group| group.field.clone()).unwrap_or_default(),
            group_size: group.map_or(0, |group| group.size),
            with_vectors: query.diversity.is_some(),
            k: query.pool(),
            // Its own, named so that answers kept from before it was tuned are not given again.
            ef: space.ef,
            space: query.using.clone(),
            level: Some(context.read_level(shard)),
            with_frames: shards.len() == 1 && query.diversity.is_none(),
            exact: query.exact,
            created_from_ms: query.created_from_ms,
            created_to_ms: query.created_to_ms,
            filter_json: query.filter_json.clone(),
            explain: query.explain,
            unless_changed_since: None,
        };
        let started = Instant::now();
        let mut gathered = Gathered { now_ms, ..Gathered::default() };
        let mut taken_over = TakenOver::default();
        for questions in Round::of(route) {
            let asked = questions.shards(route, &taken_over).into_iter().map(|question| {
                let request = request(question);
                async move { (request.shard, self.search_shard(context, route, request).await) }
            });
            let mut answers = futures::stream::iter(asked).buffer_unordered(limits::MAX_FAN_OUT);
            while let Some((shard, answer)) = answers.next().await {
                match answer {
                    Ok((mut reply, taken)) => {
                        let explain = reply.explain.take();
                        let explain = explain.map(|explain| shard_explain(shard, taken, &reply, explain));
                        gathered.explain.shards.extend(explain);
                        taken_over.note(shard, &reply.opened);
                        gathered.seen.note(shard, reply.applied);
                        gathered.staleness.note(reply.freshness);
                        gathered.kinds.note(reply.kinds);
                        gathered.lists.push(candidates(shard, reply.hits).map_err(CallError::Unreached)?);
                    }
                    Err(CallError::Unreached(problem)) => {
                        taken_over.unknown(shard);
                        gathered.missing.insert(shard, problem);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        gathered.explain.shards_us = micros(started);
        gathered.explain.shards.sort_by_key(|explain| explain.shard);
        Ok(gathered)
    }

    /// Asks one shard, or has it confirm what it said before.
    async fn search_shard(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        mut request: node_v1::SearchRequest,
    ) -> Result<(node_v1::SearchReply, SearchRoute), CallError> {
        let started = Instant::now();
        let key = answer_cache::key(&request);
        let kept = key.and_then(|key| self.search_cache.position(&key));
        let taken = SearchRoute::of(&request, kept);
        self.metrics.decided(taken.name(), started.elapsed());
        request.unless_changed_since = kept;
        let reply = self.ask_shard(context, route, &request).await?;
        if reply.not_modified {
            let confirmed = key.and_then(|key| self.search_cache.confirmed(&key, reply.applied));
            self.metrics.answer_cache("confirmed");
            if let Some(kept) = confirmed {
                // As old as the replica that confirmed it, not as the one that said it first.
                return Ok((node_v1::SearchReply { freshness: reply.freshness, ..kept }, taken));
            }
            // It was pushed out while the shard was asked.
            request.unless_changed_since = None;
            let reply = self.ask_shard(context, route, &request).await?;
            return Ok((reply, SearchRoute::of(&request, None)));
        }
        self.metrics.answer_cache(match (key, kept) {
            (None, _) => "not_kept",
            (_, None) => "miss",
            (_, Some(_)) => "changed",
        });
        if let Some(key) = key.filter(|_| reply.as_of > 0) {
            self.search_cache.keep(key, &reply);
        }
        Ok((reply, SearchRoute::of(&request, None)))
    }

    async fn ask_shard(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        request: &node_v1::SearchRequest,
    ) -> Result<node_v1::SearchReply, CallError> {
        let call = read_call(context, route, request.shard, "search");
        self.cluster
            .call(&call, |mut client, attempt| {
                let level = level_of(request.level, attempt);
                let request = node_v1::SearchRequest { epoch: attempt.epoch, level, ..request.clone() };
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
    ) -> Result<SearchReply, CallError> {
        let Gathered { lists, seen, missing, staleness, mut explain, now_ms, owned, by_meaning, owned_frames, kinds } =
            gathered;
        if missing.is_empty() && owned_frames == 0 {
            kinds.check(&query.filter_json, &query.collection).map_err(failed)?;
        }
        let context = context.having_seen(&seen).within(limits::SHARD_PATIENCE);
        let started = Instant::now();
        let sieve = owned.as_ref().and_then(|probe| Sieve::of(probe, query, route.info.id));
        let mut ranked = Ranked::new(merge(lists), sieve, (staleness, missing));
        self.metrics.merged(started.elapsed());
        explain.merge_us = micros(started);
        let started = Instant::now();
        if query.words.is_some() {
            self.sift(&context, route, &mut ranked, |_| false).await?;
            ranked.by_words(by_meaning, query);
        }
        if query.group.is_some() || query.diversity.is_some() {
            self.sift(&context, route, &mut ranked, |ready| is_settled(query, ready)).await?;
            self.select(&context, query, route, (&mut ranked, owned.as_ref())).await?;
        }
        let hits = self.fetch_winners(&context, query, route, &mut ranked).await?;
        explain.fetch_us = micros(started);
        if owned_frames > 0 && ranked.missing.is_empty() && ranked.opened >= owned_frames {
            ranked.kinds.merge(kinds);
            ranked.kinds.check(&query.filter_json, &query.collection).map_err(failed)?;
        }
        let Ranked { staleness, missing, .. } = ranked;
        let all_missing = missing.len() == route.partitioning().shards().len();
        if let Some((shard, problem)) = missing.first_key_value().filter(|_| all_missing || query.strict) {
            let detail = format!("shard {shard} did not answer the search: {}", problem.detail);
            return Err(CallError::Unreached(Problem::new(Code::Unavailable, detail)));
        }
        if !missing.is_empty() {
            self.metrics.degraded();
        }
        Ok(SearchReply {
            degraded: !missing.is_empty(),
            missing_shards: missing.into_keys().collect(),
            staleness_ms: staleness.milliseconds(),
            lagging: staleness.lagging,
            consistency_token: context.token.to_string(),
            next_cursor: next_cursor(query, route, &hits, now_ms),
            hits,
            explain: query.explain.then_some(explain),
            ..SearchReply::default()
        })
    }

    /// Puts the candidates of groups, or of a diverse answer, in the order in which they become hits.
    async fn select(
        &self,
        context: &RequestContext,
        query: &Query,
        route: &CollectionRoute,
        (ranked, owned): (&mut Ranked, Option<&OwnedProbe>),
    ) -> Result<(), CallError> {
        let mut pool = ranked.take_pool();
        let Some(diversity) = query.diversity else {
            ranked.ready = best_of_groups(query, pool).into();
            return Ok(());
        };
        // Of one size, however many shards there are.
        pool.truncate(query.pool() as usize);
        let private: Vec<FrameId> = pool.iter().filter(|hit| hit.is_private).map(|hit| hit.id).collect();
        if let Some(probe) = owned.filter(|_| !private.is_empty()) {
            let found = self.search_owned(context, route, &probe.among(private)).await?;
            let vectors = found.best.into_ranked().into_iter().map(|hit| (hit.id, hit.vector));
            let mut vectors: HashMap<_, _> = vectors.collect();
            for hit in pool.iter_mut().filter(|hit| hit.is_private) {
                hit.vector = vectors.remove(&hit.id).unwrap_or_default();
            }
        }
        ranked.ready = diversify(pool, query.k as usize, diversity).into();
        Ok(())
    }

    /// Second phase: the frames of the best `k` that still exist, in order of rank.
    async fn fetch_winners(
        &self,
        context: &RequestContext,
        query: &Query,
        route: &CollectionRoute,
        ranked: &mut Ranked,
    ) -> Result<Vec<Hit>, CallError> {
        let mut winners: Vec<(Candidate, node_v1::Frame)> = Vec::new();
        for _ in 0..=MAX_REFILLS {
            let wanted = query.most_hits() - winners.len();
            self.sift(context, route, ranked, |ready| ready.len() >= wanted).await?;
            let picked = ranked.take(wanted);
            if picked.is_empty() {
                break;
            }
            let mut frames = self.frames_of(context, route, &picked, ranked).await?;
            winners.extend(picked.into_iter().filter_map(|mut candidate| {
                let frame = candidate.frame.take().map(|frame| *frame).or_else(|| frames.remove(&candidate.id))?;
                // A private frame took the place of a plain one that was found, or a plain one its place: that is gone.
                (candidate.is_private != frame.private.is_empty()).then_some((candidate, frame))
            }));
        }
        let (candidates, frames): (Vec<Candidate>, Vec<node_v1::Frame>) = winners.into_iter().unzip();
        let frames = seal::open_all(context, route.info.id, frames).map_err(CallError::Unreached)?;
        let hits = candidates.into_iter().zip(frames).zip(1..);
        let hits = hits.map(|((candidate, frame), rank)| hit(candidate, frame, (rank, query.words.as_ref())));
        hits.collect::<Result<_, _>>().map_err(CallError::Unreached)
    }

    /// Fetches the frames that did not come along with the first phase.
    async fn frames_of(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        picked: &[Candidate],
        ranked: &mut Ranked,
    ) -> Result<HashMap<FrameId, node_v1::Frame>, CallError> {
        let mut by_shard: BTreeMap<ShardId, Vec<Uuid>> = BTreeMap::new();
        for candidate in picked.iter().filter(|candidate| candidate.frame.is_none()) {
            by_shard.entry(candidate.shard).or_default().push(Uuid::from_u128(candidate.id));
        }
        let asked = by_shard.into_iter().map(|(shard, ids)| async move {
            (
                shard,
                self.fetch_from(context, route, (shard, route.growing([])), (node_v1::FrameClass::Memory, ids, 0))
                    .await,
            )
        });
        let mut answers = futures::stream::iter(asked).buffer_unordered(limits::MAX_FAN_OUT);
        let mut frames = HashMap::new();
        while let Some((shard, answer)) = answers.next().await {
            match answer {
                Ok(reply) => {
                    ranked.staleness.note(reply.freshness);
                    frames.extend(
                        reply.frames.into_iter().filter_map(|frame| Some((ids::id_from_bytes(&frame.id)?, frame))),
                    );
                }
                Err(CallError::Unreached(problem)) => {
                    ranked.missing.insert(shard, problem);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(frames)
    }

    /// Frames of one shard by id, as many as have so many bytes (0: all); unknown ids are left out of the reply.
    pub(crate) async fn fetch_from(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        (shard, growing): (ShardId, Option<node_v1::Growing>),
        (class, ids, max_bytes): (node_v1::FrameClass, Vec<Uuid>, u64),
    ) -> Result<node_v1::FetchReply, CallError> {
        let request = node_v1::FetchRequest {
            epoch: 0,
            shard,
            collection: route.info.id,
            ids: ids.into_iter().map(ids::id_bytes).collect(),
            level: Some(context.read_level(shard)),
            class: class as i32,
            max_bytes,
            growing,
            grown_to: route.grown_to(),
        };
        let call = read_call(context, route, shard, "fetch");
        self.cluster
            .call(&call, |mut client, attempt| {
                let level = level_of(request.level, attempt);
                let request = node_v1::FetchRequest { epoch: attempt.epoch, level, ..request.clone() };
                async move { client.fetch(request).await }
            })
            .await
    }
}

/// The best of the best groups; all, of a search that does not group.
fn best_of_groups(query: &Query, pool: Vec<Candidate>) -> Vec<Candidate> {
    let Some(Grouping { size, .. }) = &query.group else { return pool };
    let group = |candidate: &Candidate| (!candidate.group_json.is_empty()).then(|| candidate.group_json.clone());
    first_of_groups(pool, (query.k as usize, *size as usize), group)
}

/// Where the next page begins; none when the answer was not cut, or its order is not one of places.
fn next_cursor(query: &Query, route: &CollectionRoute, hits: &[Hit], now_ms: u64) -> Option<String> {
    let last = hits.last().filter(|_| hits.len() == query.k as usize)?;
    if query.group.is_some() || query.diversity.is_some() || query.words.is_some() {
        return None;
    }
    let seen = query.cursor.map_or(0, |cursor| cursor.seen) + hits.len() as u32;
    let cursor = Cursor {
        collection: route.info.id,
        question: query.question,
        score: last.score,
        id: last.frame.id.as_u128(),
        seen,
        now_ms,
    };
    Some(cursor.encode())
}

fn micros(since: Instant) -> u64 {
    since.elapsed().as_micros() as u64
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
        plan: explain.plan,
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
        stays: Stays::Whole,
    }
}

/// The level of a read as one try asks for it.
pub(crate) fn level_of(level: Option<node_v1::ReadLevel>, attempt: Try) -> Option<node_v1::ReadLevel> {
    level.map(|level| node_v1::ReadLevel { last_resort: attempt.last_resort, ..level })
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

fn hit(candidate: Candidate, frame: Opened, (rank, words): (u32, Option<&Words>)) -> Result<Hit, Problem> {
    let at = candidate.passage as usize * 2;
    let passage = match frame.frame.passage_ranges[..] {
        // One vector for the whole content says nothing about a part of it.
        [] | [_, _] => None,
        ref ranges => ranges.get(at).copied().zip(ranges.get(at + 1).copied()),
    };
    let vector_rank = if words.is_some() { candidate.vector_rank } else { Some(rank) };
    let text = words.zip(candidate.by_words).map(|(words, (rank, score))| {
        let content = std::str::from_utf8(&frame.frame.content).unwrap_or_default();
        TextReason { rank, score, highlights: words.highlights(content) }
    });
    let vector = vector_rank.map(|rank| VectorReason { rank, score: candidate.similarity, passage });
    let why = Why { vector, text };
    let group = match candidate.group_json.as_str() {
        "" => None,
        json => Some(serde_json::from_str(json).map_err(|_| Problem::internal("a group is no scalar"))?),
    };
    Ok(Hit { score: candidate.score, why, group, frame: frame.into_model()? })
}
