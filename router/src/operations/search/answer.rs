//! Second phase of a search: the merged ranking, its winners, and their frames.

use std::collections::{BTreeMap, HashMap};

use futures::StreamExt;
use mira_index::{Place, short_name};
use mira_proto::groups::{GroupBounds, first_of_groups};
use mira_proto::model::{Hit, SearchReply, TextReason, VectorReason, Why};
use mira_proto::node_v1::{self, FrameClass};
use mira_proto::{Code, FrameId, Problem, ShardId, limits};
use tokio::time::Instant;
use uuid::Uuid;

use super::gather::Gathered;
use super::micros;
use super::query::{Grouping, Query, ResolvedQuery, reaches};
use crate::cluster::{CallError, CollectionRoute};
use crate::private::post_filter::{Candidates, PrivateFilter, is_settled};
use crate::private::seal::{self, Opened};
use crate::private::text::Words;
use crate::ranking::cursor::Cursor;
use crate::ranking::diversity::diversify;
use crate::ranking::merge::Candidate;
use crate::{Memory, RequestContext, ids};

/// How often winners that vanished are replaced by the next in line.
const MAX_REFILLS: usize = 3;

impl Memory {
    /// Merges, runs the second phase, and says what is missing.
    pub(super) async fn answer(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        resolved: &ResolvedQuery<'_>,
        gathered: Gathered,
    ) -> Result<SearchReply, CallError> {
        let query = resolved.query;
        let Gathered { lists, seen, missing, staleness, mut explain, types, private, by_meaning, .. } = gathered;
        let Gathered { private_frames, mut damaged, is_whole, mut looked_through, .. } = gathered;
        if missing.is_empty() && private_frames == 0 {
            types.check(&query.filter_json, &query.collection).map_err(CallError::refused)?;
        }
        let context = &context.having_seen(&seen).within(limits::SHARD_PATIENCE);
        let started = Instant::now();
        let filter = private.as_ref().and_then(|private| PrivateFilter::of(private, query, route.info.id));
        let (merged, more) = if query.is_by_place() { lists.merge_whole() } else { lists.merge() };
        let mut ranked = Candidates::new(merged, private, filter, staleness, missing);
        self.metrics.merged(started.elapsed());
        explain.merge_us = micros(started);
        let started = Instant::now();
        if query.words.is_some() {
            self.post_filter(context, route, &mut ranked, |_| false).await?;
            ranked.by_words(by_meaning, query);
        }
        if query.group.is_some() || query.diversity.is_some() {
            self.post_filter(context, route, &mut ranked, |ready| is_settled(query, ready)).await?;
            self.select(context, route, query, &mut ranked).await?;
        }
        let Page { hits, picked } = self.fetch_winners(context, route, query, &mut ranked).await?;
        explain.fetch_us = micros(started);
        if private_frames > 0 && ranked.missing.is_empty() && ranked.opened >= private_frames {
            ranked.types.merge(types);
            ranked.types.check(&query.filter_json, &query.collection).map_err(CallError::refused)?;
        }
        let more = more || ranked.is_left();
        let next = (more && query.is_by_place()).then(|| next_place(query, &picked, is_whole)).flatten();
        let is_last = |next: &NextPlace| query.is_pooled() && !reaches(next.seen, query.k);
        if next.as_ref().is_some_and(is_last) {
            looked_through.get_or_insert(limits::MAX_POOL as u64);
        }
        let next = next.filter(|next| !is_last(next));
        let Candidates { staleness, missing, seen, damaged: unreadable, .. } = ranked;
        damaged.extend(unreadable);
        let all_missing = missing.len() == route.shards().len();
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
            consistency_token: context.having_seen(&seen).token.to_string(),
            looked_through: looked_through.filter(|_| next.is_none()),
            next_cursor: next.map(|next| next.cursor(query, route, resolved.now_ms).encode()),
            damaged: damaged.into_iter().map(Uuid::from_u128).collect(),
            hits,
            explain: query.explain.then_some(explain),
            ..SearchReply::default()
        })
    }

    /// Puts the candidates of groups, or of a diverse answer, in the order in which they become hits.
    async fn select(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        query: &Query,
        ranked: &mut Candidates,
    ) -> Result<(), CallError> {
        let mut pool = ranked.take_pool();
        let Some(diversity) = query.diversity else {
            ranked.ready = best_of_groups(query, pool).into();
            return Ok(());
        };
        // Of one size, however many shards there are.
        pool.truncate(query.pool() as usize);
        let privates: Vec<FrameId> = pool.iter().filter(|hit| hit.is_private).map(|hit| hit.id).collect();
        if let Some(private) = ranked.private.as_ref().filter(|_| !privates.is_empty()) {
            let found = self.private_search(context, route, &private.among(privates)).await?;
            ranked.seen.merge(&found.seen);
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
        route: &CollectionRoute,
        query: &Query,
        ranked: &mut Candidates,
    ) -> Result<Page, CallError> {
        let mut winners: Vec<(Candidate, node_v1::Frame)> = Vec::new();
        let mut places: Vec<(f32, FrameId)> = Vec::new();
        for _ in 0..=MAX_REFILLS {
            let wanted = query.most_hits() - winners.len();
            self.post_filter(context, route, ranked, |ready| ready.len() >= wanted).await?;
            let picked = ranked.take(wanted);
            if picked.is_empty() {
                break;
            }
            places.extend(picked.iter().map(|candidate| (candidate.score, candidate.id)));
            let mut frames = self.frames_of(context, route, &picked, ranked).await?;
            winners.extend(picked.into_iter().filter_map(|mut candidate| {
                let frame = candidate.frame.take().map(|frame| *frame).or_else(|| frames.remove(&candidate.id))?;
                // A private frame took the place of a plain one that was found, or a plain one its place: that is gone.
                (candidate.is_private != frame.private.is_empty()).then_some((candidate, frame))
            }));
        }
        let opened = seal::open_some(context, route.info.id, winners).map_err(CallError::Unreached)?;
        ranked.damaged.extend(opened.damaged);
        let hits = opened.frames.into_iter().zip(1..);
        let hits = hits.map(|((candidate, frame), rank)| hit(candidate, frame, rank, query.words.as_ref()));
        Ok(Page { hits: hits.collect::<Result<_, _>>().map_err(CallError::Unreached)?, picked: places })
    }

    /// Fetches the frames that did not come along with the first phase.
    async fn frames_of(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        picked: &[Candidate],
        ranked: &mut Candidates,
    ) -> Result<HashMap<FrameId, node_v1::Frame>, CallError> {
        let mut by_shard: BTreeMap<ShardId, Vec<Uuid>> = BTreeMap::new();
        for candidate in picked.iter().filter(|candidate| candidate.frame.is_none()) {
            by_shard.entry(candidate.shard).or_default().push(Uuid::from_u128(candidate.id));
        }
        let asked = by_shard.into_iter().map(|(shard, ids)| {
            let header = Some(route.read_header(context, shard));
            let ids = ids.into_iter().map(ids::id_bytes).collect();
            let class = FrameClass::Memory.into();
            let request = node_v1::FetchRequest { header, ids, class, ..Default::default() };
            async move { (shard, self.cluster.read(context, route, request).await) }
        });
        let mut answers = futures::stream::iter(asked).buffer_unordered(limits::MAX_FAN_OUT);
        let mut frames = HashMap::new();
        while let Some((shard, answer)) = answers.next().await {
            match answer {
                Ok(reply) => {
                    ranked.staleness.note(reply.state.as_ref());
                    ranked.seen.note(shard, reply.state.as_ref().map_or(0, |state| state.applied));
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
}

/// The best of the best groups; all, of a search that does not group.
fn best_of_groups(query: &Query, pool: Vec<Candidate>) -> Vec<Candidate> {
    let Some(Grouping { size, .. }) = &query.group else { return pool };
    let group = |candidate: &Candidate| (!candidate.group_json.is_empty()).then(|| candidate.group_json.clone());
    first_of_groups(pool, GroupBounds { groups: query.k as usize, size: *size as usize }, group)
}

/// The hits of an answer.
struct Page {
    hits: Vec<Hit>,
    /// The places that they took, those of vanished ones among them, in order of rank.
    picked: Vec<(f32, FrameId)>,
}

/// Where the next page begins.
struct NextPlace {
    score: f32,
    id: FrameId,
    /// Hits up to here.
    seen: u32,
    shown: Vec<u32>,
}

/// The place behind a page; none behind an empty one. `is_whole`: no hit was missed that ranks before the page's last.
fn next_place(query: &Query, picked: &[(f32, FrameId)], is_whole: bool) -> Option<NextPlace> {
    let &(score, id) = picked.last()?;
    let seen = query.cursor.as_ref().map_or(0, |cursor| cursor.seen) + picked.len() as u32;
    let names = picked.iter().map(|&(_, id)| short_name(id));
    let mut next = match &query.cursor {
        // The page was all of what those before had missed, and there may be more of it.
        Some(cursor) if !cursor.shown.is_empty() && !is_after(cursor, score, id) => {
            let shown = cursor.shown.iter().copied().chain(names).collect();
            NextPlace { score: cursor.score, id: cursor.id, seen, shown }
        }
        _ if is_whole => NextPlace { score, id, seen, shown: Vec::new() },
        _ => NextPlace { score, id, seen, shown: names.collect() },
    };
    next.shown.sort_unstable();
    Some(next)
}

/// Whether a hit ranks after the place that a cursor marks.
fn is_after(cursor: &Cursor, score: f32, id: FrameId) -> bool {
    Place { score: cursor.score, id: cursor.id, shown: Vec::new() }.is_before(score, id)
}

impl NextPlace {
    fn cursor(self, query: &Query, route: &CollectionRoute, now_ms: u64) -> Cursor {
        let NextPlace { score, id, seen, shown } = self;
        Cursor { collection: route.info.id, question: query.question, score, id, seen, now_ms, shown }
    }
}

fn hit(candidate: Candidate, frame: Opened, rank: u32, words: Option<&Words>) -> Result<Hit, Problem> {
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

#[cfg(test)]
mod tests {
    use mira_proto::model::SearchRequest;

    use super::*;

    #[test]
    fn a_cursor_names_what_a_page_showed_that_may_have_missed_a_hit() {
        let first = Query::of(SearchRequest { query: Some("x".into()), ..Default::default() }).unwrap();
        let picked = [(0.9, 4), (0.8, 2), (0.8, 3)];
        assert!(next_place(&first, &[], true).is_none());
        let whole = next_place(&first, &picked, true).unwrap();
        assert_eq!((whole.score, whole.id, whole.seen, whole.shown), (0.8, 3, 3, vec![]));
        let walked = next_place(&first, &picked, false).unwrap();
        let mut names = [4, 2, 3].map(short_name);
        names.sort_unstable();
        assert_eq!((walked.id, walked.seen, &walked.shown[..]), (3, 3, &names[..]));
        let cursor = Cursor {
            collection: 1,
            question: first.question,
            score: 0.8,
            id: 3,
            seen: 3,
            now_ms: 0,
            shown: walked.shown.clone(),
        };
        let second = Query { cursor: Some(cursor), ..first };
        // Only what the first page missed: the place stays.
        let missed = next_place(&second, &[(0.95, 9)], true).unwrap();
        assert_eq!((missed.score, missed.id, missed.seen, missed.shown.len()), (0.8, 3, 4, 4));
        assert!(missed.shown.is_sorted() && missed.shown.contains(&short_name(9)));
        // That, and what comes after.
        let on = next_place(&second, &[(0.95, 9), (0.7, 1)], true).unwrap();
        assert_eq!((on.score, on.id, on.seen, on.shown), (0.7, 1, 5, vec![]));
    }
}
