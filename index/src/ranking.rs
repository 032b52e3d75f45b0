//! What a search asks beyond "the nearest": a least score, hits after a place, recent ones first, few of each group.
//!
//! The index answers by similarity alone. So a search takes a *pool* of the most similar frames, scores and cuts it here,
//! and takes a larger one as long as a frame outside of it could still belong to the answer. Pure functions, so that the
//! rules can be tested as tables; a node brings the pools of its index, a router those of the private frames that it compares
//! itself.

use std::cmp::Ordering;

use mira_proto::groups::{GroupBounds, are_full, first_of_groups};
use mira_proto::{FrameId, Problem, limits, node_v1};

use crate::filter::value::Value;
use crate::topk::Place;

/// How many times larger the next pool is.
const GROWTH: usize = 4;
/// The first pool where a frame's place in it is not its place in the answer.
const FIRST_POOL: usize = 64;

/// A frame of the pool.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The frame.
    pub id: FrameId,
    /// Its passage that matched best.
    pub passage: u32,
    /// How similar it is, by the collection's metric.
    pub similarity: f32,
    /// What it is ranked by.
    pub score: f32,
    /// The group that it belongs to, if the search groups and it belongs to one.
    pub group: Option<Value>,
}

impl Candidate {
    /// The ranking order: `Less` is the better one.
    fn rank(&self, other: &Candidate) -> Ordering {
        other.score.total_cmp(&self.score).then(self.id.cmp(&other.id))
    }

    /// Values have no hash; their text tells them apart, with their type before it.
    fn group_name(&self) -> Option<String> {
        self.group.as_ref().map(|group| format!("{group:?}"))
    }
}

/// Newer frames before older ones of the same similarity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recency {
    /// After this time the bonus is half.
    pub half_life_ms: f64,
    /// The bonus' part of the score, in 0..=1.
    pub weight: f32,
    /// When the first page was asked for.
    pub now_ms: u64,
}

impl Recency {
    /// `(1 - weight) · similarity + weight · 2^(-age / half-life)`.
    fn score(&self, similarity: f32, created_ms: u64) -> f32 {
        let age = self.now_ms.saturating_sub(created_ms) as f64;
        let bonus = (-age / self.half_life_ms).exp2() as f32;
        (1.0 - self.weight) * similarity + self.weight * bonus
    }

    /// The best score of a frame of that similarity or less.
    fn most(&self, similarity: f32) -> f32 {
        (1.0 - self.weight) * similarity + self.weight
    }
}

/// How an answer is made from a pool.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ranking {
    /// Hits wanted; with a group, groups.
    pub k: usize,
    /// The least score.
    pub min_score: Option<f32>,
    /// Only what ranks after this hit.
    pub after: Option<Place>,
    /// Hits of the pages before.
    pub seen: usize,
    /// Whether newer frames rank higher.
    pub recency: Option<Recency>,
    /// The field whose values make groups, and how many frames of each are wanted.
    pub group: Option<(String, usize)>,
}

impl Ranking {
    /// Reads it from a request, whose bounds the router has checked with better words.
    pub fn of(request: &node_v1::SearchRequest) -> Result<Ranking, Problem> {
        let after = match &request.after {
            Some(after) => {
                let id = after.id.as_ref().try_into().map_err(|_| Problem::invalid("a frame id has 16 bytes"))?;
                Some(Place { score: after.score, id: u128::from_be_bytes(id), shown: after.shown.clone() })
            }
            None => None,
        };
        let recency = request.recency.as_ref().map(|recency| Recency {
            half_life_ms: recency.half_life_ms as f64,
            weight: recency.weight,
            now_ms: recency.now_ms,
        });
        let is_sound = |recency: &Recency| recency.half_life_ms >= 1.0 && (0.0..=1.0).contains(&recency.weight);
        if !recency.as_ref().is_none_or(is_sound) {
            return Err(Problem::invalid("recency needs a half-life above 0 and a weight from 0 to 1"));
        }
        let group = (!request.group_field.is_empty())
            .then(|| (request.group_field.clone(), (request.group_size as usize).max(1)));
        Ok(Ranking {
            k: request.k as usize,
            min_score: request.min_score,
            after,
            seen: request.after.as_ref().map_or(0, |after| after.seen as usize),
            recency,
            group,
        })
    }

    /// Whether the answer is the most similar frames, nothing else.
    pub fn is_plain(&self) -> bool {
        let Ranking { k: _, min_score, after, seen: _, recency, group } = self;
        min_score.is_none() && after.is_none() && recency.is_none() && group.is_none()
    }

    /// Whether hits are ranked by their similarity, each by itself.
    pub fn is_by_similarity(&self) -> bool {
        self.recency.is_none() && self.group.is_none()
    }

    /// Whether frames that a walk of the index misses may be missed here too: not where a least score asks for all that have
    /// it, and not where pages follow each other.
    pub fn may_miss(&self) -> bool {
        self.min_score.is_none() && self.after.is_none()
    }

    /// How many of the most similar frames to look at first.
    pub fn first_pool(&self) -> usize {
        let wanted = self.k.saturating_add(self.seen);
        match (&self.recency, &self.group) {
            (None, None) => wanted,
            (_, None) => (GROWTH * wanted).max(FIRST_POOL),
            (_, Some((_, size))) => (GROWTH * wanted * size).max(FIRST_POOL),
        }
        .min(limits::MAX_POOL)
    }

    /// The pool to look at when one did not settle the answer; `None` if there is no larger one. Groups need the values of
    /// all frames of a pool, so theirs ends sooner: a group's last frames may be missing when they are far.
    pub fn next_pool(&self, pool: usize) -> Option<usize> {
        let most = if self.group.is_some() { limits::MAX_GROUP_POOL } else { limits::MAX_POOL };
        (pool < most).then_some((GROWTH * pool).min(most))
    }

    /// What a frame is ranked by.
    pub fn score(&self, similarity: f32, created_ms: u64) -> f32 {
        self.recency.map_or(similarity, |recency| recency.score(similarity, created_ms))
    }

    /// Whether a frame of that score is asked for: it has the least score, and ranks after the hits of the pages before.
    pub fn wants(&self, score: f32, id: FrameId) -> bool {
        let is_late = |after: &Place| after.is_before(score, id);
        self.min_score.is_none_or(|least| score >= least) && self.after.as_ref().is_none_or(is_late)
    }

    /// Ranks a pool and cuts what is not asked for.
    pub fn cut(&self, mut pool: Vec<Candidate>) -> Vec<Candidate> {
        pool.sort_by(Candidate::rank);
        pool.retain(|candidate| self.wants(candidate.score, candidate.id));
        match &self.group {
            Some((_, size)) => {
                first_of_groups(pool, GroupBounds { groups: self.k, size: *size }, Candidate::group_name)
            }
            None => {
                pool.truncate(self.k);
                pool
            }
        }
    }

    /// Whether no frame outside the pool, none of which is more similar than `least`, can belong to the answer. Of frames of
    /// the same similarity the pool holds those with the lower ids.
    pub fn is_settled(&self, answer: &[Candidate], least: f32) -> bool {
        let most = self.recency.map_or(least, |recency| recency.most(least));
        if self.min_score.is_some_and(|min_score| most < min_score) {
            return true;
        }
        let is_full = match &self.group {
            Some((_, size)) => are_full(answer, GroupBounds { groups: self.k, size: *size }, Candidate::group_name),
            None => answer.len() >= self.k,
        };
        // A younger frame of the same score may have the lower id.
        let is_beaten = |last: &Candidate| most < last.score || (most == last.score && self.recency.is_none());
        is_full && answer.last().is_some_and(is_beaten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: FrameId, score: f32, group: Option<&str>) -> Candidate {
        Candidate { id, passage: 0, similarity: score, score, group: group.map(Value::from) }
    }

    fn ids(candidates: &[Candidate]) -> Vec<FrameId> {
        candidates.iter().map(|candidate| candidate.id).collect()
    }

    #[test]
    fn pools_are_ranked_and_cut() {
        let pool =
            vec![candidate(4, 0.5, None), candidate(1, 0.9, None), candidate(3, 0.5, None), candidate(2, 0.7, None)];
        let cut = |ranking: Ranking| ids(&ranking.cut(pool.clone()));
        let place = |score, id| Some(Place { score, id, shown: Vec::new() });
        assert_eq!(cut(Ranking { k: 9, ..Default::default() }), [1, 2, 3, 4]);
        assert_eq!(cut(Ranking { k: 2, ..Default::default() }), [1, 2]);
        assert_eq!(cut(Ranking { k: 9, min_score: Some(0.6), ..Default::default() }), [1, 2]);
        assert_eq!(cut(Ranking { k: 9, after: place(0.7, 2), ..Default::default() }), [3, 4]);
        assert_eq!(cut(Ranking { k: 9, after: place(0.5, 3), ..Default::default() }), [4]);
        assert_eq!(cut(Ranking { k: 9, after: place(0.8, 77), ..Default::default() }), [2, 3, 4]);
    }

    #[test]
    fn groups_keep_their_best() {
        let pool = vec![
            candidate(1, 0.9, Some("a")),
            candidate(2, 0.8, Some("a")),
            candidate(3, 0.7, Some("a")),
            candidate(4, 0.6, None),
            candidate(5, 0.5, Some("b")),
            candidate(6, 0.4, None),
            candidate(7, 0.3, Some("a")),
        ];
        let grouped = |k, size| Ranking { k, group: Some(("session".into(), size)), ..Default::default() };
        assert_eq!(ids(&grouped(3, 2).cut(pool.clone())), [1, 2, 4, 5]);
        assert_eq!(ids(&grouped(9, 1).cut(pool.clone())), [1, 4, 5, 6]);
        assert!(!grouped(9, 1).is_settled(&grouped(9, 1).cut(pool.clone()), 0.3));
        assert!(grouped(3, 1).is_settled(&grouped(3, 1).cut(pool.clone()), 0.3));
        assert!(!grouped(3, 2).is_settled(&grouped(3, 2).cut(pool), 0.3), "b may have a second one outside");
    }

    #[test]
    fn recency_weighs_age_against_similarity() {
        let recency = Recency { half_life_ms: 1_000.0, weight: 0.5, now_ms: 10_000 };
        let ranking = Ranking { k: 1, recency: Some(recency), ..Default::default() };
        assert_eq!(ranking.score(0.8, 10_000), 0.9);
        assert_eq!(ranking.score(0.8, 9_000), 0.65);
        assert_eq!(ranking.score(0.8, 20_000), 0.9, "the future is now");
        // A frame outside the pool may be as similar as its last and brand new.
        assert!(!ranking.is_settled(&[candidate(1, 0.9, None)], 0.85));
        assert!(ranking.is_settled(&[candidate(1, 0.9, None)], 0.75));
        assert!(!ranking.is_settled(&[candidate(1, 0.9, None)], 0.8), "a new frame of the same score may come first");
    }

    #[test]
    fn pools_grow_to_their_bound() {
        let ranking = Ranking { k: 10, seen: 30, ..Default::default() };
        assert_eq!(ranking.first_pool(), 40);
        assert_eq!(ranking.next_pool(40), Some(160));
        assert_eq!(ranking.next_pool(limits::MAX_POOL), None);
        let recent = Ranking { recency: Some(Recency { half_life_ms: 1.0, weight: 0.1, now_ms: 0 }), ..ranking };
        assert_eq!(recent.first_pool(), 160);
    }
}
