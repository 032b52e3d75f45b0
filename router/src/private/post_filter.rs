//! Post-filtering: which of the private candidates a filter means, and what groups they make.
//!
//! A shard answers that of plain frames by itself; of private ones it knows nothing, and neither does what they are found
//! by. So the router opens bodies, in order of rank, as many as it takes until the answer is settled: few when most
//! candidates are meant, more and more at once when hardly any is. Plain candidates in between need no opening. What is
//! opened is wiped as soon as it has been asked; only the verdict stays, so that memory is bounded by a page for each of
//! a few shards.
//!
//! A search by words opens all of them, and counts words while it has them open ([`crate::private::text`]).
//!
//! A search opens [`limits::MAX_PRIVATE_OPENED`] bodies at most and is refused when that does not settle it: an answer
//! that leaves out what it has not looked at would look like a whole one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use mira_crypto::OwnerKey;
use mira_index::filter::to_json;
use mira_index::{Condition, Times};
use mira_proto::groups::{GroupBounds, are_full, first_of_groups};
use mira_proto::model::SearchMode;
use mira_proto::node_v1::{self, FetchRequest, FrameClass};
use mira_proto::{Code, CollectionId, FrameId, Problem, ShardId, limits};
use uuid::Uuid;

use crate::cluster::{CallError, CollectionRoute, Staleness};
use crate::operations::field_types::FieldTypes;
use crate::operations::search::query::{Grouping, Query};
use crate::private::seal;
use crate::private::search::PrivateQuery;
use crate::private::text::{Words, fuse, rank_by_words};
use crate::ranking::merge::{Candidate, WordCounts};
use crate::token::ConsistencyToken;
use crate::{Memory, RequestContext, ids};

/// How many times more are opened next.
const STEP_FACTOR: usize = 2;

/// What is asked of the body of a private candidate.
pub(crate) struct PrivateFilter {
    owner: Arc<OwnerKey>,
    collection: CollectionId,
    condition: Option<Arc<Condition>>,
    /// The fields that it compares.
    compared: Vec<String>,
    group_field: Option<String>,
    words: Option<Words>,
}

/// What is found of a private candidate that is meant.
struct Verdict {
    group_json: String,
    counts: Option<WordCounts>,
}

/// What opening some private frames has shown.
#[derive(Default)]
struct Judged {
    /// Those that are meant.
    meant: Vec<(FrameId, Verdict)>,
    /// What the fields of the filter hold in all of them.
    types: FieldTypes,
    staleness: Staleness,
    seen: ConsistencyToken,
    /// Shards that did not answer.
    missing: BTreeMap<ShardId, Problem>,
    /// Those that do not open.
    damaged: Vec<FrameId>,
}

impl Judged {
    fn add(&mut self, other: Judged) {
        self.meant.extend(other.meant);
        self.types.merge(other.types);
        self.staleness.merge(other.staleness);
        self.seen.merge(&other.seen);
        self.missing.extend(other.missing);
        self.damaged.extend(other.damaged);
    }
}

impl PrivateFilter {
    /// That of a search; none if vectors and times say all that it needs to know.
    pub(crate) fn of(probe: &PrivateQuery, query: &Query, collection: CollectionId) -> Option<Arc<PrivateFilter>> {
        let group_field = query.group.as_ref().map(|group| group.field.clone());
        let (owner, condition) = (probe.owner.clone(), probe.condition.clone());
        let words = query.words.clone();
        let is_needed = condition.is_some() || group_field.is_some() || words.is_some();
        let compared = condition.as_ref().map(|condition| condition.compared_fields()).unwrap_or_default();
        let compared = compared.into_iter().map(str::to_owned).collect();
        is_needed.then(|| Arc::new(PrivateFilter { owner, collection, condition, compared, group_field, words }))
    }

    /// Opens frames and judges them.
    fn judge_page(&self, frames: &[node_v1::Frame], judged: &mut Judged) -> Result<(), Problem> {
        // A plain frame took the place of a private one that was found: that is gone.
        for frame in frames.iter().filter(|frame| !frame.private.is_empty()) {
            match self.judge(frame, &mut judged.types) {
                Ok(meant) => judged.meant.extend(meant),
                // One that is damaged does not take the others away.
                Err(problem) => {
                    let code = problem.code;
                    let id = ids::id_from_bytes(&frame.id).ok_or(problem)?;
                    tracing::error!(frame = %Uuid::from_u128(id), ?code, "private frame is damaged");
                    judged.damaged.push(id);
                }
            }
        }
        Ok(())
    }

    fn judge(&self, frame: &node_v1::Frame, types: &mut FieldTypes) -> Result<Option<(FrameId, Verdict)>, Problem> {
        let (id, attributes, counts) = seal::look(&self.owner, self.collection, frame, self.words.as_ref())?;
        types.note_frame(&self.compared, &attributes);
        let times = Times { created_ms: frame.created_ms, expires_ms: frame.expires_ms };
        if self.condition.as_ref().is_some_and(|condition| !condition.matches(&attributes, &times)) {
            return Ok(None);
        }
        let group = self.group_field.as_ref().and_then(|field| attributes.of(field).next());
        Ok(Some((id, Verdict { group_json: group.map(to_json).unwrap_or_default(), counts })))
    }
}

/// All candidates best first, of whom winners are taken from the front, and the shards that failed so far.
pub(crate) struct Candidates {
    /// Those that may win, whatever their bodies say.
    pub(crate) ready: VecDeque<Candidate>,
    /// Those after them, of whom private ones are to be opened first.
    waiting: Peekable<std::vec::IntoIter<Candidate>>,
    /// What private ones were compared with.
    pub(crate) private: Option<PrivateQuery>,
    filter: Option<Arc<PrivateFilter>>,
    step: usize,
    /// Private candidates that were opened.
    pub(crate) opened: usize,
    /// What the fields of the filter hold in them.
    pub(crate) types: FieldTypes,
    pub(crate) staleness: Staleness,
    /// The positions that cover what was shown of them since they were found.
    pub(crate) seen: ConsistencyToken,
    pub(crate) missing: BTreeMap<ShardId, Problem>,
    /// Private candidates that do not open.
    pub(crate) damaged: Vec<FrameId>,
}

impl Candidates {
    /// A list that was merged.
    pub(crate) fn new(
        merged: Vec<Candidate>,
        private: Option<PrivateQuery>,
        filter: Option<Arc<PrivateFilter>>,
        staleness: Staleness,
        missing: BTreeMap<ShardId, Problem>,
    ) -> Self {
        let (ready, waiting) = if filter.is_some() { (Vec::new(), merged) } else { (merged, Vec::new()) };
        let (ready, waiting) = (ready.into(), waiting.into_iter().peekable());
        // For words all of them are opened.
        let has_words = filter.as_ref().is_some_and(|filter| filter.words.is_some());
        let step = if has_words { limits::POST_FILTER_MOST } else { limits::POST_FILTER_FIRST };
        Candidates {
            ready,
            waiting,
            private,
            filter,
            step,
            opened: 0,
            types: FieldTypes::default(),
            staleness,
            seen: ConsistencyToken::default(),
            missing,
            damaged: Vec::new(),
        }
    }

    /// Whether candidates are left that nobody has taken.
    pub(crate) fn is_left(&mut self) -> bool {
        !self.ready.is_empty() || self.waiting.peek().is_some()
    }

    /// Puts those that were opened in the order that their words give, or words and meaning together.
    pub(crate) fn by_words(&mut self, mut by_meaning: Vec<Candidate>, query: &Query) {
        let groups: HashMap<FrameId, String> =
            self.ready.iter().map(|meant| (meant.id, meant.group_json.clone())).collect();
        let counted = self.ready.drain(..).map(|mut meant| {
            let counts = meant.counts.take().unwrap_or_default();
            (meant, counts)
        });
        let by_words = rank_by_words(counted.collect());
        let ranked = match query.mode {
            SearchMode::Hybrid => {
                by_meaning.retain(|candidate| groups.contains_key(&candidate.id));
                let by_meaning = by_meaning.into_iter();
                fuse(by_meaning.map(|hit| Candidate { group_json: groups[&hit.id].clone(), ..hit }).collect(), by_words)
            }
            _ => by_words,
        };
        let least = query.min_score.unwrap_or(f32::NEG_INFINITY);
        self.ready = ranked.into_iter().filter(|candidate| candidate.score >= least).collect();
    }

    /// Plain candidates that are next are ready.
    fn pass_plain(&mut self) {
        while let Some(plain) = self.waiting.next_if(|candidate| !candidate.is_private) {
            self.ready.push_back(plain);
        }
    }

    /// The next few private candidates with the plain ones between them; none at the end.
    fn next_step(&mut self) -> Result<Vec<Candidate>, Problem> {
        if self.waiting.peek().is_some() && self.opened == limits::MAX_PRIVATE_OPENED {
            let limit = limits::MAX_PRIVATE_OPENED;
            let detail = format!(
                "the best {limit} private memories do not settle the search: narrow it by created_from, created_to or \
                 min_score, or ask for fewer hits (k)"
            );
            return Err(Problem::new(Code::TooLarge, detail));
        }
        let most = self.step.min(limits::MAX_PRIVATE_OPENED - self.opened);
        let (mut step, mut count) = (Vec::new(), 0);
        while let Some(candidate) = self.waiting.next_if(|candidate| !candidate.is_private || count < most) {
            count += usize::from(candidate.is_private);
            step.push(candidate);
        }
        self.opened += count;
        self.step = (self.step * STEP_FACTOR).min(limits::POST_FILTER_MOST);
        Ok(step)
    }

    /// Of a step, plain candidates and those that are meant are ready.
    fn note(&mut self, step: Vec<Candidate>, judged: Judged) {
        self.staleness.merge(judged.staleness);
        self.seen.merge(&judged.seen);
        self.types.merge(judged.types);
        self.missing.extend(judged.missing);
        self.damaged.extend(judged.damaged);
        let mut meant: HashMap<FrameId, Verdict> = judged.meant.into_iter().collect();
        self.ready.extend(step.into_iter().filter_map(|candidate| {
            if !candidate.is_private {
                return Some(candidate);
            }
            let Verdict { group_json, counts } = meant.remove(&candidate.id)?;
            Some(Candidate { group_json, counts, ..candidate })
        }));
    }

    /// The best so many that are ready.
    pub(crate) fn take(&mut self, count: usize) -> Vec<Candidate> {
        self.ready.drain(..count.min(self.ready.len())).collect()
    }

    /// All that are ready and all plain ones: private ones that nobody looked at are given up.
    pub(crate) fn take_pool(&mut self) -> Vec<Candidate> {
        let plain = self.waiting.by_ref().filter(|candidate| !candidate.is_private);
        self.ready.drain(..).chain(plain).collect()
    }
}

/// Whether candidates that are ready settle an answer whose hits depend on each other: of groups or of a diverse pool.
pub(crate) fn is_settled(query: &Query, ready: &VecDeque<Candidate>) -> bool {
    let Some(Grouping { size, .. }) = &query.group else { return ready.len() >= query.pool() as usize };
    let bounds = GroupBounds { groups: query.k as usize, size: *size as usize };
    let name = |candidate: &&Candidate| (!candidate.group_json.is_empty()).then(|| candidate.group_json.clone());
    let kept = first_of_groups(ready.iter().collect(), bounds, name);
    // As in a shard: a group's last hits may be missing when they are far.
    let private = ready.iter().filter(|candidate| candidate.is_private).count();
    are_full(&kept, bounds, name) || private >= limits::MAX_GROUP_POOL
}

impl Memory {
    /// Makes candidates ready until there are enough, or no more.
    pub(crate) async fn post_filter(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        ranked: &mut Candidates,
        is_enough: impl Fn(&VecDeque<Candidate>) -> bool,
    ) -> Result<(), CallError> {
        let Some(filter) = ranked.filter.clone() else { return Ok(()) };
        loop {
            ranked.pass_plain();
            if is_enough(&ranked.ready) {
                return Ok(());
            }
            let step = ranked.next_step().map_err(CallError::refused)?;
            if step.is_empty() {
                return Ok(());
            }
            let judged = self.judge_all(context, route, &filter, &step).await?;
            ranked.note(step, judged);
        }
    }

    /// Which of some private candidates are meant. Those of a shard that does not answer are not.
    async fn judge_all(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        filter: &Arc<PrivateFilter>,
        step: &[Candidate],
    ) -> Result<Judged, CallError> {
        let mut by_shard: BTreeMap<ShardId, Vec<Bytes>> = BTreeMap::new();
        for candidate in step.iter().filter(|candidate| candidate.is_private) {
            by_shard.entry(candidate.shard).or_default().push(ids::id_bytes(Uuid::from_u128(candidate.id)));
        }
        let asked = by_shard.into_iter().map(|(shard, ids)| {
            let (header, class) = (Some(route.read_header(context, shard)), FrameClass::Memory.into());
            let max_bytes = limits::PRIVATE_PAGE_BYTES as u64;
            let request = FetchRequest { header, ids, class, max_bytes, ..Default::default() };
            async move { (shard, self.judge_shard(context, route, filter, request).await) }
        });
        let mut answers = futures::stream::iter(asked).buffer_unordered(limits::PRIVATE_FAN_OUT);
        let mut judged = Judged::default();
        while let Some((shard, answer)) = answers.next().await {
            match answer {
                Ok(found) => judged.add(found),
                Err(CallError::Unreached(problem)) => drop(judged.missing.insert(shard, problem)),
                Err(error) => return Err(error),
            }
        }
        Ok(judged)
    }

    /// Those of one shard, page by page.
    async fn judge_shard(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        filter: &Arc<PrivateFilter>,
        mut request: FetchRequest,
    ) -> Result<Judged, CallError> {
        let mut judged = Judged::default();
        let shard = request.header.as_ref().map_or(0, |header| header.shard);
        while !request.ids.is_empty() {
            let reply = self.cluster.read(context, route, request.clone()).await?;
            judged.staleness.note(reply.state.as_ref());
            judged.seen.note(shard, reply.state.as_ref().map_or(0, |state| state.applied));
            let count = request.ids.len();
            // A node that does not know of pages gives everything.
            let looked_at = if reply.looked_at == 0 { count } else { count.min(reply.looked_at as usize) };
            request.ids.drain(..looked_at);
            let filter = filter.clone();
            // Opening layers is work of milliseconds: not on the threads that carry requests.
            let work = move || filter.judge_page(&reply.frames, &mut judged).map(|()| judged);
            let done = tokio::task::spawn_blocking(work).await;
            let done = done.map_err(|_| CallError::refused(Problem::internal("opening private frames failed")))?;
            judged = done.map_err(CallError::refused)?;
        }
        Ok(judged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mira_proto::model::SearchRequest;

    /// `p` for a private candidate, `.` for a plain one.
    fn ranked(layout: &str) -> Candidates {
        let filter = PrivateFilter {
            owner: Arc::new(OwnerKey::generate(&mut mira_crypto::os_rng())),
            collection: 1,
            condition: None,
            compared: Vec::new(),
            group_field: Some("type".into()),
            words: None,
        };
        let candidates = layout.chars().zip(1..).map(|(which, id)| candidate(id, which == 'p', ""));
        Candidates::new(candidates.collect(), None, Some(Arc::new(filter)), Default::default(), Default::default())
    }

    fn candidate(id: FrameId, is_private: bool, group: &str) -> Candidate {
        Candidate { id, is_private, group_json: group.into(), ..Candidate::default() }
    }

    fn ids<'a>(candidates: impl IntoIterator<Item = &'a Candidate>) -> Vec<FrameId> {
        candidates.into_iter().map(|candidate| candidate.id).collect()
    }

    #[test]
    fn steps_grow_and_pass_over_what_is_plain() {
        let mut list = ranked("..p.pp.p");
        list.step = 1;
        list.pass_plain();
        assert_eq!(ids(&list.ready), [1, 2]);
        for expected in [&[3, 4][..], &[5, 6, 7], &[8], &[]] {
            assert_eq!(ids(&list.next_step().unwrap()), expected);
        }
        assert_eq!((list.opened, list.step), (4, 16));
        assert_eq!(ids(&list.take(1)), [1]);
        assert_eq!(ids(&list.take(5)), [2]);
    }

    #[test]
    fn private_ones_that_nobody_looked_at_are_given_up() {
        let mut list = ranked(".p.p.");
        list.step = 1;
        list.pass_plain();
        list.next_step().unwrap();
        assert_eq!(ids(&list.take_pool()), [1, 5]);
        assert_eq!(ids(&list.take_pool()), Vec::<FrameId>::new());
    }

    #[test]
    fn a_search_that_opens_too_many_is_refused() {
        let mut list = ranked("pp.");
        list.opened = limits::MAX_PRIVATE_OPENED - 1;
        assert_eq!(ids(&list.next_step().unwrap()), [1]);
        assert_eq!(list.next_step().unwrap_err().code, Code::TooLarge);
        let mut list = ranked("p.");
        list.opened = limits::MAX_PRIVATE_OPENED - 1;
        assert_eq!(ids(&list.next_step().unwrap()), [1, 2]);
        assert!(list.next_step().unwrap().is_empty(), "nothing was left out");
    }

    #[test]
    fn groups_and_pools_are_settled_when_nothing_lower_changes_them() {
        let query = |change: fn(&mut SearchRequest)| {
            let mut request = SearchRequest { query: Some("x".into()), k: Some(2), ..Default::default() };
            change(&mut request);
            Query::of(request).unwrap()
        };
        let grouped = query(|request| {
            request.group_by = Some("type".into());
            request.group_size = Some(2);
        });
        let diverse = query(|request| request.diversity = Some(0.5));
        let ready = |groups: &[&str]| groups.iter().zip(1..).map(|(group, id)| candidate(id, true, group)).collect();
        // groups of what is ready, of groups?, of a pool of eight?
        let table: [(&[&str], bool, bool); 5] = [
            (&[], false, false),
            (&["a", "a", "b"], false, false),
            (&["a", "a", "b", "c", "b"], true, false),
            (&["a", "", "a"], true, false),
            (&["a"; 8], false, true),
        ];
        for (groups, of_groups, of_pool) in table {
            assert_eq!(is_settled(&grouped, &ready(groups)), of_groups, "{groups:?}");
            assert_eq!(is_settled(&diverse, &ready(groups)), of_pool, "{groups:?}");
        }
        assert!(is_settled(&grouped, &ready(&["a"; limits::MAX_GROUP_POOL])));
    }
}
