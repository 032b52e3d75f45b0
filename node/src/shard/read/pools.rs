//! Brings pools of similar frames until the answer of a search is settled (see [`mira_index::ranking`]).

use std::sync::Arc;

use mira_index::{
    Hit, mean_top_k, merge_top_k,
    ranking::{Candidate, Ranking},
};
use mira_proto::{FrameId, Refusal, limits, vectors::SpaceNumber};
use mira_raft::StateReader;

use super::refuse_index;
use crate::{
    meta::CollectionRecord,
    shard::{
        index::{Found, Query, ShardIndex, SpaceId},
        record::{self, FrameHead},
        refuse_engine,
    },
};

/// What the pools of one search are drawn from.
pub(super) struct Pools {
    pub(super) index: Arc<ShardIndex>,
    pub(super) state: StateReader,
    pub(super) collection: CollectionRecord,
    /// All vectors of the query.
    pub(super) vectors: Vec<Vec<f32>>,
    /// Whether a frame counts by its mean likeness to them, not by its best.
    pub(super) is_mean: bool,
}

/// A settled answer.
pub(super) struct Answer {
    /// Best first.
    pub(super) hits: Vec<Candidate>,
    /// What else the index said; its hits are taken out.
    pub(super) found: Found,
    /// Whether more frames may rank after these.
    pub(super) more: bool,
    /// The last pool, if a frame outside of it may belong to the answer.
    pub(super) looked_through: Option<usize>,
}

impl Pools {
    /// Draws larger and larger pools until the answer is settled.
    pub(super) fn rank(&self, ranking: &Ranking, mut query: Query) -> Result<Answer, Refusal> {
        query.exact |= !ranking.may_miss() && self.is_searched_whole(ranking, &query);
        if ranking.is_by_similarity() && self.vectors.len() == 1 {
            return self.rank_by_similarity(ranking, query);
        }
        if self.is_mean && !ranking.may_miss() {
            // The mean of a frame that no pool holds may be better than that of one which some do.
            query.k = limits::MAX_POOL;
        }
        loop {
            let mut found = self.nearest(&query)?;
            let is_all = found.hits.len() < query.k;
            let least = found.hits.last().map_or(f32::NEG_INFINITY, |hit| hit.score);
            let hits = ranking.cut(self.candidates(ranking, query.space, std::mem::take(&mut found.hits))?);
            let is_settled = is_all || ranking.is_settled(&hits, least);
            match ranking.next_pool(query.k) {
                Some(larger) if !is_settled => query.k = larger,
                _ => {
                    let more = hits.len() >= ranking.k;
                    return Ok(Answer { hits, found, more, looked_through: (!is_settled).then_some(query.k) });
                }
            }
        }
    }

    /// Whether a search that is not to miss anything looks at all vectors: pages do, and the first of them as long as that
    /// takes milliseconds.
    fn is_searched_whole(&self, ranking: &Ranking, query: &Query) -> bool {
        let space = SpaceId { collection: self.collection.id, number: query.space };
        ranking.after.is_some() || self.index.vectors(space) <= limits::MAX_POOL
    }

    /// What ranks by its similarity to one vector needs no pool: the index knows the place where the last page ended.
    fn rank_by_similarity(&self, ranking: &Ranking, query: Query) -> Result<Answer, Refusal> {
        let query = Query { k: ranking.k, after: ranking.after.clone(), ..query };
        let mut found = self.nearest(&query)?;
        let hits = ranking.cut(self.candidates(ranking, query.space, std::mem::take(&mut found.hits))?);
        let more = hits.len() >= ranking.k;
        Ok(Answer { hits, found, more, looked_through: None })
    }

    /// The most similar frames, by all vectors of the query.
    pub(super) fn nearest(&self, query: &Query) -> Result<Found, Refusal> {
        let ask = |vector: &Vec<f32>| {
            let query = Query { vector: vector.clone(), among: None, ..query.clone() };
            self.index.search(&self.collection, &query).map_err(refuse_index)
        };
        let [first, more @ ..] = &self.vectors[..] else { return Ok(Found::default()) };
        let mut found = ask(first)?;
        if more.is_empty() {
            return Ok(found);
        }
        let mut lists = vec![std::mem::take(&mut found.hits)];
        for vector in more {
            let other = ask(vector)?;
            found.is_exact &= other.is_exact;
            lists.push(other.hits);
        }
        if !self.is_mean {
            found.hits = merge_top_k(lists, query.k);
            return Ok(found);
        }
        found.hits = self.mean_of(query, &lists)?;
        Ok(found)
    }

    /// Compares every hit of any list with all vectors: whoever is near to one may be far from the others.
    fn mean_of(&self, query: &Query, lists: &[Vec<Hit>]) -> Result<Vec<Hit>, Refusal> {
        let mut ids: Vec<FrameId> = lists.iter().flatten().map(|hit| hit.id).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut hits = Vec::new();
        for vector in &self.vectors {
            for ids in ids.chunks(limits::MAX_POOL) {
                let query = Query { k: ids.len(), ..query.clone() };
                let query = Query { vector: vector.clone(), among: Some(ids.to_vec()), after: None, ..query };
                hits.extend(self.index.search(&self.collection, &query).map_err(refuse_index)?.hits);
            }
        }
        Ok(mean_top_k(hits, self.vectors.len(), query.k))
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
