//! Searching a shard: check the request, wait to be admitted, rank, and fill the answer with what was asked for.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    time::{Duration, Instant},
};

use mira_index::{
    Hit, Plan, filter,
    ranking::{Candidate, Ranking},
};
use mira_proto::{Code, Problem, Refusal, limits, node_v1, vectors::SpaceNumber};

use super::{
    Caller, ReadView, field_types,
    pools::{Answer, Pools},
};
use crate::{
    meta::{CollectionRecord, Space},
    shard::{
        Shard,
        admission::SearchPermit,
        draft::check_vector,
        index::{Found, Query, SpaceId, recall::check_ef, recall_sampler},
        migration::ownership::Shown,
        record::{self, Class},
    },
};

/// A search for no more hits than this, with a beam no wider, vectors of no more components and no more changes that are not
/// indexed yet, takes some tenths of a millisecond.
const SHORT_K: usize = 100;
const SHORT_EF: usize = 256;
const SHORT_DIM: usize = 1_024;
const SHORT_TAIL: usize = 128;

/// What a frame that comes along with a hit takes in memory, most of the time.
const TYPICAL_FRAME_BYTES: usize = 4 << 10;

/// A search as its request asks for it, checked.
struct PreparedSearch {
    query: Query,
    ranking: Ranking,
    /// All vectors of the query.
    vectors: Vec<Vec<f32>>,
    is_mean: bool,
}

/// A search whose frames are known.
struct RankedSearch {
    pools: Pools,
    query: Query,
    ranking: Ranking,
    answer: Answer,
}

impl<R: mira_raft::Runtime> Shard<R> {
    /// Ids and scores of the nearest frames of this shard, best first; with their frames if asked.
    pub async fn search(&self, request: node_v1::SearchRequest) -> Result<node_v1::SearchReply, Refusal> {
        let read = self.begin_read(request.header.as_ref()).await?;
        let collection = read.collection.clone();
        let space = collection.space_named(&request.space)?;
        check_request(&request, &space)?;
        // What the index has heard of before it is asked: the newest view may have what it has not.
        let indexed = self.group.reader().applied_index();
        if read.shown.is_none() {
            return Ok(nothing_shown(read.state));
        }
        let caller = Caller::default();
        let prepared = self.prepare(&request, &space, read.shown.clone(), &caller)?;
        let permit = self.shared.admission.admit(self.memory_of(&request, &space, prepared.query.k)).await?;
        let started = Instant::now();
        let is_short = self.is_short(&prepared, &collection);
        let RankedSearch { pools, query, ranking, answer } =
            self.rank(prepared, &collection, (permit, is_short)).await?;
        let Answer { hits, mut found, more, looked_through } = answer;
        if !request.exact && ranking.is_plain() && self.shared.recall_sampler.wants() {
            self.repeat_exactly(pools, query, indexed, hits.iter().map(|hit| hit.similarity).collect());
        }
        let explain = request.explain.then(|| explained(&mut found, started.elapsed()));
        let read = self.look_again(request.header.as_ref(), read)?;
        let hits = self.fill_hits(&request, &read, &space, hits)?;
        Ok(node_v1::SearchReply {
            state: Some(read.state),
            hits,
            searched: found.searched,
            tail: found.tail,
            explain,
            field_types: found.field_types.map(field_types::to_wire),
            more,
            whole: found.is_exact,
            looked_through: looked_through.unwrap_or_default() as u64,
        })
    }

    /// What the index is to be asked.
    fn prepare(
        &self,
        request: &node_v1::SearchRequest,
        space: &Space<'_>,
        shown: Shown,
        caller: &Caller,
    ) -> Result<PreparedSearch, Refusal> {
        let created_to_ms = if request.created_to_ms == 0 { u64::MAX } else { request.created_to_ms };
        let wanted = filter::split(filter::parse(&request.filter_json)?, request.created_from_ms..created_to_ms);
        let ranking = Ranking::of(request)?;
        let vectors = query_vectors(request, space)?;
        let query = Query {
            space: space.number,
            vector: Vec::new(),
            k: if ranking.is_by_similarity() && vectors.len() == 1 { ranking.k } else { ranking.first_pool() },
            ef: [request.ef, space.ef].into_iter().find(|&ef| ef > 0).map(|ef| ef as usize),
            after: None,
            // The best by their mean may be among the best of none of the vectors: what is outside must be bounded.
            exact: request.exact || request.mean,
            explain: request.explain,
            created_ms: wanted.created_ms,
            condition: wanted.condition,
            among: None,
            now_ms: self.group.time_ms(),
            stopped: caller.gone.clone(),
            shown,
        };
        Ok(PreparedSearch { query, ranking, vectors, is_mean: request.mean })
    }

    /// What a search may take: its pool, its visited set, its query and its frames. An estimate: what most frames take.
    fn memory_of(&self, request: &node_v1::SearchRequest, space: &Space<'_>, pool: usize) -> usize {
        let per_hit = size_of::<Candidate>() + 2 * size_of::<Hit>();
        let vectors = 4 * space.dim * (1 + usize::from(request.with_vectors) * request.k as usize);
        let frames = if request.with_frames { TYPICAL_FRAME_BYTES * request.k as usize } else { 0 };
        pool * per_hit + 2 * self.index.vectors(space.into()) + vectors + frames
    }

    /// Whether a search is over so soon that handing it to another thread, and its answer back, would take a good part of its
    /// time: the best few by one vector, of an index that is walked and has nearly all of them.
    fn is_short(&self, prepared: &PreparedSearch, collection: &CollectionRecord) -> bool {
        let PreparedSearch { query, ranking, vectors, .. } = prepared;
        let [vector] = &vectors[..] else { return false };
        let is_walked = !query.exact && query.ef.is_none_or(|ef| ef <= SHORT_EF);
        let is_open = query.condition.is_none() && !query.is_ranged() && query.shown.is_all();
        let space = SpaceId { collection: collection.id, number: query.space };
        ranking.is_plain()
            && is_walked
            && is_open
            && query.k <= SHORT_K
            && vector.len() <= SHORT_DIM
            && self.index.tail_len(space) <= SHORT_TAIL
    }

    /// Finds the frames of the answer. The permit is kept until that has ended, also when nobody waits for it any more.
    async fn rank(
        &self,
        prepared: PreparedSearch,
        collection: &CollectionRecord,
        (permit, is_short): (SearchPermit, bool),
    ) -> Result<RankedSearch, Refusal> {
        let PreparedSearch { query, ranking, vectors, is_mean } = prepared;
        let pools = Pools {
            index: self.index.clone(),
            state: self.group.reader(),
            collection: collection.clone(),
            vectors,
            is_mean,
        };
        let asked = query.clone();
        let work = move || {
            let _permit = permit;
            let ranked = pools.rank(&ranking, asked);
            (pools, ranking, ranked)
        };
        // Comparing many vectors is work of milliseconds: not on the threads that carry heartbeats.
        let done = if is_short {
            panic::catch_unwind(AssertUnwindSafe(work)).ok()
        } else {
            tokio::task::spawn_blocking(work).await.ok()
        };
        let failed = || Problem::internal("the search failed: the node's log says why");
        let (pools, ranking, ranked) = done.ok_or_else(failed)?;
        Ok(RankedSearch { pools, query, ranking, answer: ranked? })
    }

    /// Repeats a search in the background to learn how right its answer was: the scores, as of a log position.
    fn repeat_exactly(&self, pools: Pools, query: Query, applied: u64, scores: Vec<f32>) {
        let sampler = self.shared.recall_sampler.clone();
        // Nobody waits for it, so nobody's leaving ends it.
        let query = Query { exact: true, stopped: Arc::default(), ..query };
        tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            let exact = pools.nearest(&query);
            let is_same = pools.index.is_unchanged_since(pools.collection.id, applied);
            let recall = exact.ok().filter(|_| is_same).map(|exact| recall_sampler::recall(&scores, &exact.hits));
            if let Some(recall) = recall.filter(|_| query.ef.is_none()) {
                pools.index.note_recall(SpaceId { collection: pools.collection.id, number: query.space }, recall);
            }
            sampler.done(&name_of(&pools.collection, query.space), started.elapsed(), recall);
        });
    }

    /// The hits as a router gets them, with their frames and vectors where it asks for them.
    fn fill_hits(
        &self,
        request: &node_v1::SearchRequest,
        read: &ReadView,
        space: &Space<'_>,
        hits: Vec<Candidate>,
    ) -> Result<Vec<node_v1::Hit>, Refusal> {
        let vectors =
            if request.with_vectors { self.vectors_of(read, space, &hits)? } else { vec![Vec::new(); hits.len()] };
        let frames = if request.with_frames {
            let ids: Vec<_> = hits.iter().map(|hit| hit.id).collect();
            self.open_frames(read, Class::Memory, &ids)?
        } else {
            vec![None; hits.len()]
        };
        let hits = hits
            .into_iter()
            .zip(frames)
            .zip(vectors)
            // One that was forgotten since the index was asked has no frame; its place is where a page may end.
            .map(|((hit, frame), vector)| node_v1::Hit {
                id: hit.id.to_be_bytes().to_vec().into(),
                score: hit.score,
                passage: hit.passage,
                frame,
                similarity: hit.similarity,
                vector,
                group_json: hit.group.as_ref().map(filter::to_json).unwrap_or_default(),
            });
        Ok(hits.collect())
    }

    /// The vectors of the passages that matched; empty for frames that are gone.
    fn vectors_of(
        &self,
        ReadView { collection, view, .. }: &ReadView,
        space: &Space<'_>,
        hits: &[Candidate],
    ) -> Result<Vec<Vec<f32>>, Refusal> {
        let keys: Vec<_> = hits.iter().map(|hit| record::vectors_key(collection.id, hit.id)).collect();
        let stored = view.multi_get(&keys).map_err(|error| self.unreadable(error))?;
        let passage = |(hit, stored): (&Candidate, Option<bytes::Bytes>)| {
            let opened = self.index.opener().open_stored(collection, hit.id, &stored?)?;
            Some(opened.in_space(space.number).chunks_exact(space.dim).nth(hit.passage as usize)?.to_vec())
        };
        Ok(hits.iter().zip(stored).map(|found| passage(found).unwrap_or_default()).collect())
    }
}

/// Refuses what no router of ours would send.
fn check_request(request: &node_v1::SearchRequest, space: &Space<'_>) -> Result<(), Problem> {
    check_vector(&request.vector, space)?;
    if request.k == 0 || request.k > limits::MAX_K {
        return Err(Problem::invalid(format!("k is {}, allowed are 1 to {}", request.k, limits::MAX_K)));
    }
    if request.ef > 0 { check_ef(request.ef) } else { Ok(()) }
}

/// The answer of a shard that shows no frame of the collection to this reader.
fn nothing_shown(mut state: node_v1::ReadState) -> node_v1::SearchReply {
    state.taken_over.clear();
    let field_types = Some(node_v1::KnownFieldTypes::default());
    node_v1::SearchReply { state: Some(state), field_types, whole: true, ..Default::default() }
}

/// All vectors of a query, checked.
fn query_vectors(request: &node_v1::SearchRequest, space: &Space<'_>) -> Result<Vec<Vec<f32>>, Problem> {
    let more = request.more_vectors.chunks(space.dim);
    if 1 + more.len() > limits::MAX_QUERY_VECTORS {
        return Err(Problem::new(Code::TooLarge, format!("more than {} query vectors", limits::MAX_QUERY_VECTORS)));
    }
    more.clone().try_for_each(|vector| check_vector(vector, space))?;
    Ok(std::iter::once(&request.vector[..]).chain(more).map(<[f32]>::to_vec).collect())
}

/// What a space is called in metrics: no collection has a slash in its name.
fn name_of(collection: &CollectionRecord, space: SpaceNumber) -> String {
    match collection.space(space).map(|space| space.name) {
        None | Some("") => collection.name.clone(),
        Some(name) => format!("{}/{name}", collection.name),
    }
}

fn explained(found: &mut Found, took: Duration) -> node_v1::SearchExplain {
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
