//! Reading a collection from all of its shards.
//!
//! WHAT IT DOES. [`fan_out`] asks every shard that may hold frames of a collection, some at a time, and hands out their
//! answers as they come. [`Cluster::read`] asks one shard until a replica answers. Between them they know all that reads
//! have in common: the header with its level and epoch, which replica may answer, when a replica that lags may answer
//! (the last resort), and how to read a collection that moves to more shards. The operations know none of that.
//!
//! THE DIFFICULTY. While a collection moves to more shards, copies of a frame are on two of them: on its *source*, which
//! held it before, and on its *target*, which the collection is added to. Only one of them decides about it. The source
//! does until it has frozen the frames of that target; the target does once it has taken them over from that source. The
//! other one's copy may be old, or may have been forgotten. A router learns from the cluster map that a migration is
//! under way, but not how far each pair of shards is: that changes while the router asks.
//!
//! THE ORDER. So it asks in two phases. First the targets: each shows the frames that it has taken over, and says from
//! which sources. Then the sources: each is told which targets' frames to leave out, those that were handed over. In this
//! order nothing is missed and nothing old is shown:
//!
//! - what a target said it had taken over was shown by the target, and is left out by the source;
//! - what is taken over between the two questions was not shown by the target, and the source still has it as it was at
//!   that moment, which lies within the request.
//!
//! In the other order a frame that is taken over in between is shown by neither: the source has just left the decision to
//! a target that was asked when it did not have it yet.
//!
//! A target that does not answer may have taken over anything. What sources still have of its frames may be old, and is
//! left out; the caller learns that the target is missing, as of any other shard. A read whose answer may miss a shard
//! keeps time for the sources ([`FanOut::sharing_time`]).
//!
//! AFTER THE COPYING every frame is where it belongs, and one phase is enough; sources are told to leave out the copies
//! that this or that replica has not removed yet. The cluster map says when that is so. A read that began by an older map
//! is refused by a shard that knows better ([`RouteConstraint::Whole`]), and the operation starts over.
//!
//! WHAT IT RELIES ON. A shard never gives a frame back once it has handed it over. A target names its sources in the
//! answer to its *first* question: an answer that is made of several pages must keep what the first one said
//! ([`ShardAnswer::taken_over`]). A replica that has not heard of a migration refuses a reader that tells of it.

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, Ready, ready};

use futures::StreamExt;
use futures::future::{Join, join};
use futures::stream::FuturesUnordered;
use mira_proto::model::Consistency;
use mira_proto::node_v1::{FetchReply, FetchRequest, FrameClass, MigrationView, ReadHeader, ReadLevel};
use mira_proto::placement::Partitioning;
use mira_proto::{HEADER_VERSION, ShardId, limits};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Call, CallError, Cluster, CollectionRoute, Group, ReplicaChoice, RouteConstraint, ShardAnswer, ShardRead};
use crate::{RequestContext, ids};

/// Shards that are asked at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// All that hold the collection.
    All,
    /// Those that a migration adds.
    Targets,
    /// Those that held the collection before.
    Sources,
}

/// Which targets have taken frames over, and from which sources.
#[derive(Debug, Default)]
struct HandedOver {
    sources_of: BTreeMap<ShardId, Vec<ShardId>>,
    silent: Vec<ShardId>,
}

/// A shard that is asked, and what it is told of a migration.
type Question = (ShardId, Option<MigrationView>);

impl HandedOver {
    /// Notes what a shard said, or that it did not answer.
    fn note<A: ShardAnswer>(&mut self, shard: ShardId, answer: &Result<A, CallError>) {
        match answer {
            Ok(answer) => self.note_sources(shard, answer.taken_over()),
            Err(CallError::Unreached(_)) => self.silent.push(shard),
            Err(_) => {}
        }
    }

    /// Notes whose frames a shard has taken over.
    fn note_sources(&mut self, shard: ShardId, sources: &[ShardId]) {
        if !sources.is_empty() {
            self.sources_of.insert(shard, sources.to_vec());
        }
    }

    /// Whether the source leaves out the target's frames.
    fn has(&self, source: ShardId, target: ShardId) -> bool {
        self.sources_of.get(&target).is_some_and(|sources| sources.contains(&source)) || self.silent.contains(&target)
    }
}

impl Phase {
    /// The phases of a read of a whole collection.
    fn of(route: &CollectionRoute) -> &'static [Phase] {
        if route.is_copying() { &[Phase::Targets, Phase::Sources] } else { &[Phase::All] }
    }

    fn questions(self, route: &CollectionRoute, handed_over: &HandedOver) -> Vec<Question> {
        let targets = route.targets();
        let sources = route.before_migration().map_or(&[][..], Partitioning::shards);
        let without_handed_over = |&source: &ShardId| {
            let gone = targets.iter().copied().filter(|&target| handed_over.has(source, target));
            (source, route.migration_view(gone))
        };
        match self {
            Phase::Targets => targets.iter().map(|&target| (target, route.migration_view([]))).collect(),
            Phase::Sources => sources.iter().map(without_handed_over).collect(),
            Phase::All if !sources.is_empty() => {
                let sources = sources.iter().map(|&source| (source, route.migration_view(targets.iter().copied())));
                sources.chain(targets.iter().map(|&target| (target, None))).collect()
            }
            Phase::All => route.shards().iter().map(|&shard| (shard, None)).collect(),
        }
    }
}

/// Asks every shard that may hold frames of a collection. `ask` asks one, with the header that its reads must carry, and
/// the time by which it must answer.
pub fn fan_out<'a, Ask, Asked, A>(
    context: &'a RequestContext,
    route: &'a CollectionRoute,
    ask: Ask,
) -> FanOut<'a, Ask, Asked>
where
    Ask: Fn(ReadHeader, Instant) -> Asked,
    Asked: Future<Output = Result<A, CallError>>,
    A: ShardAnswer,
{
    FanOut {
        context,
        route,
        ask,
        at_once: limits::MAX_FAN_OUT,
        shares_time: false,
        phases: Phase::of(route).iter(),
        deadline: context.deadline,
        waiting: VecDeque::new(),
        asked: FuturesUnordered::new(),
        handed_over: HandedOver::default(),
    }
}

/// The shards of a collection, as they are asked and answer.
pub struct FanOut<'a, Ask, Asked: Future> {
    context: &'a RequestContext,
    route: &'a CollectionRoute,
    ask: Ask,
    at_once: usize,
    shares_time: bool,
    phases: std::slice::Iter<'static, Phase>,
    /// When this phase ends.
    deadline: Instant,
    /// Shards of this phase that are not asked yet.
    waiting: VecDeque<Question>,
    asked: FuturesUnordered<Join<Ready<ShardId>, Asked>>,
    handed_over: HandedOver,
}

impl<Ask, Asked, A> FanOut<'_, Ask, Asked>
where
    Ask: Fn(ReadHeader, Instant) -> Asked,
    Asked: Future<Output = Result<A, CallError>>,
    A: ShardAnswer,
{
    /// Asks no more than so many shards at a time.
    pub fn at_once(self, at_once: usize) -> Self {
        FanOut { at_once, ..self }
    }

    /// Gives each phase its share of the time that is left: for an answer that may miss a shard, so that a target which does
    /// not answer does not take the time of the sources.
    pub fn sharing_time(self) -> Self {
        FanOut { shares_time: true, ..self }
    }

    /// The next answer, in the order in which they come; none when every shard has answered or failed to.
    pub async fn next(&mut self) -> Option<(ShardId, Result<A, CallError>)> {
        loop {
            while self.asked.len() < self.at_once
                && let Some((shard, view)) = self.waiting.pop_front()
            {
                let header = header(self.context, self.route, shard, view);
                self.asked.push(join(ready(shard), (self.ask)(header, self.deadline)));
            }
            if let Some((shard, answer)) = self.asked.next().await {
                self.handed_over.note(shard, &answer);
                return Some((shard, answer));
            }
            let phase = self.phases.next()?;
            if self.shares_time {
                let phases_left = 1 + self.phases.len() as u32;
                self.deadline = Instant::now() + self.context.remaining() / phases_left;
            }
            self.waiting = phase.questions(self.route, &self.handed_over).into();
        }
    }

    /// The answers of all shards; the first failure ends it.
    pub async fn whole(mut self) -> Result<Vec<A>, CallError> {
        let mut answers = Vec::new();
        while let Some((_, answer)) = self.next().await {
            answers.push(answer?);
        }
        Ok(answers)
    }
}

impl CollectionRoute {
    /// What a read of one shard says that looks for frames which the shard has named, or whatever it has: all that it
    /// decides about is shown.
    pub fn read_header(&self, context: &RequestContext, shard: ShardId) -> ReadHeader {
        header(context, self, shard, self.migration_view([]))
    }
}

fn header(
    context: &RequestContext,
    route: &CollectionRoute,
    shard: ShardId,
    migration: Option<MigrationView>,
) -> ReadHeader {
    ReadHeader {
        version: HEADER_VERSION,
        epoch: 0,
        shard,
        collection: route.info.id,
        level: Some(context.read_level(shard)),
        migration,
        grown_to: route.grown_to(),
        principal: context.principal.as_ref().to_owned(),
    }
}

impl Cluster {
    /// Reads one shard. The request's header says which; its epoch and last resort are those of each try.
    pub async fn read<Q: ShardRead>(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        mut request: Q,
    ) -> Result<Q::Reply, CallError> {
        let shard = request.header().as_ref().map_or(0, |header| header.shard);
        let call = Call {
            operation: Q::OPERATION,
            group: Group::Shard(shard),
            replica: if context.consistency == Consistency::Any { ReplicaChoice::Any } else { ReplicaChoice::Leader },
            deadline: context.deadline,
            try_for: Q::TRY_FOR,
            route: Some(route),
            constraint: RouteConstraint::Whole,
        };
        self.call(&call, |clients, attempt| {
            let mut request = request.clone();
            if let Some(header) = request.header() {
                header.epoch = attempt.epoch;
                header.level = header.level.map(|level| ReadLevel { last_resort: attempt.last_resort, ..level });
            }
            request.send(clients)
        })
        .await
    }

    /// Frames by id from wherever they are now, in no order. Those that move are asked for at their targets first, and
    /// at their sources unless these have handed them over: the order of [`fan_out`].
    pub async fn fetch(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        wanted: WantedFrames<'_>,
    ) -> Result<Fetched, CallError> {
        let now = |id: &Uuid| route.partitioning().shard_of(id.as_u128());
        let before = route.before_migration().filter(|_| route.is_copying());
        let before = |id: &Uuid| before.map_or_else(|| now(id), |before| before.shard_of(id.as_u128()));
        let (moving, staying): (Vec<Uuid>, Vec<Uuid>) = wanted.ids.iter().partition(|id| before(id) != now(id));
        let mut handed_over = HandedOver::default();
        let mut fetched = self.fetch_each(context, route, &wanted, by_shard(&moving, now)).await?;
        fetched.replies.iter().for_each(|(shard, reply)| handed_over.note_sources(*shard, reply.taken_over()));
        let at_sources = moving.into_iter().filter(|id| !handed_over.has(before(id), now(id)));
        let left: Vec<Uuid> = at_sources.chain(staying).collect();
        let found = self.fetch_each(context, route, &wanted, by_shard(&left, before)).await?;
        fetched.replies.extend(found.replies);
        fetched.left.extend(found.left);
        Ok(fetched)
    }

    /// Asks each shard for its frames, some shards at a time.
    async fn fetch_each(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        &WantedFrames { class, max_bytes, version, .. }: &WantedFrames<'_>,
        places: BTreeMap<ShardId, Vec<Uuid>>,
    ) -> Result<Fetched, CallError> {
        let view = if route.is_copying() { route.migration_view([]) } else { None };
        let asked = places.into_iter().map(|(shard, ids)| {
            let header = Some(header(context, route, shard, view.clone()));
            let wire_ids = ids.iter().copied().map(ids::id_bytes).collect();
            let (version, known_at_ms) = version.to_wire();
            let request = FetchRequest { header, ids: wire_ids, class: class.into(), max_bytes, version, known_at_ms };
            async move { self.read(context, route, request).await.map(|reply| (shard, ids, reply)) }
        });
        let mut answers = futures::stream::iter(asked).buffer_unordered(limits::MAX_FAN_OUT);
        let mut fetched = Fetched::default();
        while let Some(answer) = answers.next().await {
            let (shard, ids, reply) = answer?;
            if max_bytes > 0 {
                fetched.left.extend(ids.into_iter().skip(reply.looked_at as usize));
            }
            fetched.replies.push((shard, reply));
        }
        Ok(fetched)
    }
}

/// Frames that were asked for by their ids.
#[derive(Default)]
pub struct Fetched {
    /// What shards have answered.
    pub replies: Vec<(ShardId, FetchReply)>,
    /// Those that a shard did not look at, as it had given enough. A source may have given some of them.
    pub left: Vec<Uuid>,
}

/// Which frames are asked for by their ids.
#[derive(Clone, Copy)]
pub struct WantedFrames<'a> {
    /// What they are for.
    pub class: FrameClass,
    /// Their ids.
    pub ids: &'a [Uuid],
    /// So many bytes of them from each shard; 0 = all.
    pub max_bytes: u64,
    /// Which version of each.
    pub version: WantedVersion,
}

/// Which version of a frame is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedVersion {
    /// What is current.
    Current,
    /// The one of this number, current or past.
    Number(u64),
    /// The one that was current then, milliseconds since 1970.
    KnownAt(u64),
}

impl WantedVersion {
    /// Number and time as nodes read them.
    fn to_wire(self) -> (u64, u64) {
        match self {
            WantedVersion::Current => (0, 0),
            WantedVersion::Number(version) => (version, 0),
            WantedVersion::KnownAt(known_at_ms) => (0, known_at_ms),
        }
    }
}

fn by_shard(ids: &[Uuid], shard_of: impl Fn(&Uuid) -> ShardId) -> BTreeMap<ShardId, Vec<Uuid>> {
    let mut by_shard: BTreeMap<ShardId, Vec<Uuid>> = BTreeMap::new();
    for id in ids {
        by_shard.entry(shard_of(id)).or_default().push(*id);
    }
    by_shard
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;
    use std::time::Duration;

    use mira_proto::node_v1::{ClusterMap, Collection, Migration, MigrationStep, ReadState, ScanReply, ShardInfo};
    use mira_proto::{Code, Problem};
    use parking_lot::Mutex;

    use super::*;
    use crate::cluster::View;

    /// A collection of four shards on its way to six; without a step, one that never moved.
    fn route(step: Option<MigrationStep>) -> Arc<CollectionRoute> {
        let migration = step.map(|step| Migration { from: 4, to: 6, step: step.into(), ..Default::default() });
        let partitions = if step.is_some_and(|step| step != MigrationStep::Copying) { 6 } else { 4 };
        let (name, first_partitions) = ("notes".to_owned(), 4);
        let info = Collection { id: 7, name, partitions, first_partitions, migration, ..Default::default() };
        let shards = (0..6).map(|shard| ShardInfo { shard, replicas: vec![1], leader: 1 }).collect();
        let map = ClusterMap { epoch: 1, shards, ..Default::default() };
        let view = View::new(map, None).with(info, 1).expect("as of this version");
        view.collection("notes").expect("it was just made").clone()
    }

    fn context() -> RequestContext {
        RequestContext::new("ada", Duration::from_secs(1))
    }

    fn silent() -> CallError {
        CallError::Unreached(Problem::new(Code::Unavailable, "no replica answers"))
    }

    /// What a target says that has taken over frames of these sources.
    fn having_taken_over(sources: &[ShardId]) -> ScanReply {
        let state = Some(ReadState { taken_over: sources.to_vec(), ..Default::default() });
        ScanReply { state, ..Default::default() }
    }

    /// Asks all shards; each answers as `answer` says. Returns the questions in their order, with what each was to leave
    /// out, and the shards that failed.
    async fn asked(
        route: &CollectionRoute,
        answer: impl Fn(ShardId) -> Result<ScanReply, CallError>,
    ) -> (Vec<(ShardId, Option<Vec<ShardId>>)>, Vec<ShardId>) {
        let questions = Mutex::new(Vec::new());
        let context = context();
        let ask = |header: ReadHeader, _| {
            questions.lock().push((header.shard, header.migration.map(|view| view.without)));
            ready(answer(header.shard))
        };
        let mut answers = fan_out(&context, route, ask);
        let mut failed = Vec::new();
        while let Some((shard, answer)) = answers.next().await {
            failed.extend(answer.is_err().then_some(shard));
        }
        drop(answers);
        (questions.into_inner(), failed)
    }

    /// The four sources and the two targets.
    fn sources_and_targets(route: &CollectionRoute) -> (Vec<ShardId>, [ShardId; 2]) {
        let (sources, targets) = route.shards().split_at(4);
        (sources.to_vec(), [targets[0], targets[1]])
    }

    #[tokio::test]
    async fn a_collection_that_does_not_move_is_asked_once_and_told_of_nothing() {
        let route = route(None);
        let (questions, failed) = asked(&route, |_| Ok(ScanReply::default())).await;
        assert_eq!(questions, route.shards().iter().map(|&shard| (shard, None)).collect::<Vec<_>>());
        assert!(failed.is_empty());
    }

    #[tokio::test]
    async fn while_it_moves_targets_are_asked_first_and_sources_leave_out_what_was_handed_over() {
        let route = route(Some(MigrationStep::Copying));
        let (sources, [first, second]) = sources_and_targets(&route);
        let both = [first, second];
        // What the two targets have taken over; what each of the four sources is to leave out.
        type Row<'a> = (&'a [usize], &'a [usize], [&'a [ShardId]; 4]);
        let table: [Row<'_>; 4] = [
            (&[], &[], [&[], &[], &[], &[]]),
            (&[0, 2], &[], [&[first], &[], &[first], &[]]),
            (&[0], &[0, 3], [&[first, second], &[], &[], &[second]]),
            (&[0, 1, 2, 3], &[0, 1, 2, 3], [&both[..]; 4]),
        ];
        for (by_first, by_second, without) in table {
            let of = |at: &[usize]| having_taken_over(&at.iter().map(|&at| sources[at]).collect::<Vec<_>>());
            let answer = |shard| match shard {
                shard if shard == first => Ok(of(by_first)),
                shard if shard == second => Ok(of(by_second)),
                _ => Ok(ScanReply::default()),
            };
            let (questions, _) = asked(&route, answer).await;
            let targets = [(first, Some(vec![])), (second, Some(vec![]))];
            let expected = sources.iter().zip(without).map(|(&source, without)| (source, Some(without.to_vec())));
            assert_eq!(questions, targets.into_iter().chain(expected).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn the_frames_of_a_target_that_does_not_answer_are_left_out_everywhere() {
        let route = route(Some(MigrationStep::Copying));
        let (sources, [first, second]) = sources_and_targets(&route);
        let answer = |shard| match shard {
            shard if shard == first => Err(silent()),
            shard if shard == second => Ok(having_taken_over(&sources[..1])),
            _ => Ok(ScanReply::default()),
        };
        let (questions, failed) = asked(&route, answer).await;
        let without: Vec<_> = questions[2..].iter().map(|(_, without)| without.clone().unwrap()).collect();
        assert_eq!(without, [vec![first, second], vec![first], vec![first], vec![first]]);
        assert_eq!(failed, [first]);
    }

    #[tokio::test]
    async fn a_source_that_does_not_answer_hides_nothing_of_others() {
        let route = route(Some(MigrationStep::Copying));
        let (sources, _) = sources_and_targets(&route);
        let answer = |shard| if shard == sources[1] { Err(silent()) } else { Ok(ScanReply::default()) };
        let (questions, failed) = asked(&route, answer).await;
        assert!(questions.iter().all(|(_, without)| without.as_ref().is_some_and(Vec::is_empty)), "{questions:?}");
        assert_eq!((questions.len(), failed), (6, vec![sources[1]]));
    }

    #[tokio::test]
    async fn once_all_is_copied_all_are_asked_at_once_and_sources_leave_out_copies() {
        for step in [MigrationStep::Clearing, MigrationStep::Remembering] {
            let route = route(Some(step));
            let (sources, targets) = sources_and_targets(&route);
            let (questions, _) = asked(&route, |_| Ok(ScanReply::default())).await;
            let old = sources.iter().map(|&source| (source, Some(targets.to_vec())));
            let expected: Vec<_> = old.chain(targets.map(|target| (target, None))).collect();
            assert_eq!(questions, expected, "{step:?}");
        }
    }

    #[tokio::test]
    async fn a_read_that_must_be_whole_ends_with_the_first_failure() {
        let route = route(Some(MigrationStep::Copying));
        let (_, [first, _]) = sources_and_targets(&route);
        let (context, questions) = (context(), Mutex::new(0));
        let ask = |header: ReadHeader, _| {
            *questions.lock() += 1;
            ready(if header.shard == first { Err(CallError::Moved) } else { Ok(ScanReply::default()) })
        };
        assert_eq!(fan_out(&context, &route, ask).whole().await.unwrap_err(), CallError::Moved);
        assert_eq!(questions.into_inner(), 2, "no source is asked any more");
    }

    #[tokio::test]
    async fn no_more_shards_are_asked_at_a_time_than_are_allowed() {
        let route = route(None);
        let (context, at_work, most) = (context(), Cell::new(0), Cell::new(0));
        let ask = |_, _| async {
            at_work.set(at_work.get() + 1);
            most.set(most.get().max(at_work.get()));
            tokio::task::yield_now().await;
            at_work.set(at_work.get() - 1);
            Ok(ScanReply::default())
        };
        let answers = fan_out(&context, &route, ask).at_once(3).whole().await.unwrap();
        assert_eq!((answers.len(), at_work.get(), most.get()), (4, 0, 3));
    }

    #[tokio::test]
    async fn a_target_that_does_not_answer_leaves_time_for_the_sources() {
        let route = route(Some(MigrationStep::Copying));
        let (context, deadlines) = (context(), Mutex::new(Vec::new()));
        let ask = |_, deadline| {
            deadlines.lock().push(deadline);
            ready(Ok(ScanReply::default()))
        };
        fan_out(&context, &route, ask).sharing_time().whole().await.unwrap();
        let shared = std::mem::take(&mut *deadlines.lock());
        assert!(shared[..2].iter().all(|deadline| *deadline < context.deadline - Duration::from_millis(300)));
        assert!(shared[2..].iter().all(|deadline| context.deadline - *deadline < Duration::from_millis(300)));
        fan_out(&context, &route, ask).whole().await.unwrap();
        assert!(deadlines.into_inner().iter().all(|deadline| *deadline == context.deadline));
    }

    #[test]
    fn a_header_says_who_asks_for_what_and_how_old_an_answer_may_be() {
        let mut context = context().reading(Consistency::Any);
        context.token.note(2, 40);
        let copying = route(Some(MigrationStep::Copying));
        let header = copying.read_header(&context, 2);
        assert_eq!((header.version, header.shard, header.collection), (HEADER_VERSION, 2, 7));
        assert_eq!((header.principal.as_str(), header.grown_to), ("ada", 0));
        let level = header.level.unwrap();
        assert_eq!((level.at_least, level.last_resort), (40, false), "the last resort is each try's own");
        assert_eq!(header.migration, Some(MigrationView { from: 4, to: 6, without: vec![] }));
        let copied = route(Some(MigrationStep::Remembering)).read_header(&context, 2);
        assert_eq!(copied.grown_to, 6);
        assert_eq!(route(None).read_header(&context, 2).migration, None);
    }
}
