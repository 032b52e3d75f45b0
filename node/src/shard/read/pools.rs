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

/// The best frames that were asked for.
struct Pool {
    found: Found,
    /// No other frame scores more than this; `None` if there is none.
    outside: Option<f32>,
}

impl Pools {
    /// Draws larger and larger pools until the answer is settled.
    pub(super) fn rank(&self, ranking: &Ranking, mut query: Query) -> Result<Answer, Refusal> {
        query.exact |= !ranking.may_miss() && self.is_searched_whole(ranking, &query);
        if ranking.is_by_similarity() && self.vectors.len() == 1 {
            return self.rank_by_similarity(ranking, query);
        }
        loop {
            let Pool { mut found, outside } = self.pool(&query)?;
            let hits = ranking.cut(self.candidates(ranking, query.space, std::mem::take(&mut found.hits))?);
            let is_settled = outside.is_none_or(|most| ranking.is_settled(&hits, most));
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
        Ok(self.pool(query)?.found)
    }

    /// As [`Pools::nearest`], with what is known of the other frames.
    fn pool(&self, query: &Query) -> Result<Pool, Refusal> {
        let mut found = Found { is_exact: true, ..Found::default() };
        let mut lists = Vec::with_capacity(self.vectors.len());
        for vector in self.vectors.iter().rev() {
            let query = Query { vector: vector.clone(), among: None, ..query.clone() };
            let mut list = self.index.search(&self.collection, &query).map_err(refuse_index)?;
            list.is_exact &= found.is_exact;
            lists.push(std::mem::take(&mut list.hits));
            found = list;
        }
        let last_of = |hits: &[Hit]| Some(hits.get(query.k.checked_sub(1)?)?.score);
        if !self.is_mean {
            found.hits = merge_top_k(lists, query.k);
            return Ok(Pool { outside: last_of(&found.hits), found });
        }
        // A frame in none of the lists is at best as near to each vector as the last of its list: its mean is below the mean
        // of those (the threshold of Fagin, Lotem and Naor, "Optimal aggregation algorithms for middleware", 2001). Equal
        // means may be made of different parts, so an equal one is not behind the last of its list.
        let lasts: Option<Vec<f32>> = lists.iter().map(|hits| last_of(hits)).collect();
        found.hits = self.mean_of(query, &lists)?;
        let outside = lasts.map(|lasts| {
            let threshold = (lasts.iter().sum::<f32>() / lasts.len() as f32).next_up();
            last_of(&found.hits).map_or(threshold, |last| last.max(threshold))
        });
        Ok(Pool { found, outside })
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
