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
//! left out; the caller learns that the target is missing, as of any other shard.
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
use uuid::Uuid;

use super::{Call, CallError, Cluster, CollectionRoute, Group, RouteConstraint, ShardAnswer, ShardRead, Want};
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
            Ok(answer) if !answer.taken_over().is_empty() => {
                self.sources_of.insert(shard, answer.taken_over().to_vec());
            }
            Err(CallError::Unreached(_)) => self.silent.push(shard),
            Ok(_) | Err(_) => {}
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

/// Asks every shard that may hold frames of a collection. `ask` asks one, with the header that its reads must carry.
pub fn fan_out<'a, Ask, Asked, A>(
    context: &'a RequestContext,
    route: &'a CollectionRoute,
    ask: Ask,
) -> FanOut<'a, Ask, Asked>
where
    Ask: Fn(ReadHeader) -> Asked,
    Asked: Future<Output = Result<A, CallError>>,
    A: ShardAnswer,
{
    FanOut {
        context,
        route,
        ask,
        at_once: limits::MAX_FAN_OUT,
        phases: Phase::of(route).iter(),
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
    phases: std::slice::Iter<'static, Phase>,
    /// Shards of this phase that are not asked yet.
    waiting: VecDeque<Question>,
    asked: FuturesUnordered<Join<Ready<ShardId>, Asked>>,
    handed_over: HandedOver,
}

impl<Ask, Asked, A> FanOut<'_, Ask, Asked>
where
    Ask: Fn(ReadHeader) -> Asked,
    Asked: Future<Output = Result<A, CallError>>,
    A: ShardAnswer,
{
    /// Asks no more than so many shards at a time.
    pub fn at_once(self, at_once: usize) -> Self {
        FanOut { at_once, ..self }
    }

    /// The next answer, in the order in which they come; none when every shard has answered or failed to.
    pub async fn next(&mut self) -> Option<(ShardId, Result<A, CallError>)> {
        loop {
            while self.asked.len() < self.at_once
                && let Some((shard, view)) = self.waiting.pop_front()
            {
                let header = header(self.context, self.route, shard, view);
                self.asked.push(join(ready(shard), (self.ask)(header)));
            }
            if let Some((shard, answer)) = self.asked.next().await {
                self.handed_over.note(shard, &answer);
                return Some((shard, answer));
            }
            self.waiting = self.phases.next()?.questions(self.route, &self.handed_over).into();
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
            want: if context.consistency == Consistency::Any { Want::Any } else { Want::Leader },
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
        class: FrameClass,
        ids: &[Uuid],
    ) -> Result<Vec<FetchReply>, CallError> {
        let now = |id: &Uuid| route.partitioning().shard_of(id.as_u128());
        let before = route.before_migration().filter(|_| route.is_copying());
        let before = |id: &Uuid| before.map_or_else(|| now(id), |before| before.shard_of(id.as_u128()));
        let (moving, staying): (Vec<Uuid>, Vec<Uuid>) = ids.iter().partition(|id| before(id) != now(id));
        let mut handed_over = HandedOver::default();
        let mut replies = Vec::new();
        for (shard, reply) in self.fetch_each(context, route, class, by_shard(&moving, now)).await? {
            let reply = Ok(reply);
            handed_over.note(shard, &reply);
            replies.extend(reply);
        }
        let at_sources = moving.into_iter().filter(|id| !handed_over.has(before(id), now(id)));
        let left: Vec<Uuid> = at_sources.chain(staying).collect();
        let found = self.fetch_each(context, route, class, by_shard(&left, before)).await?;
        replies.extend(found.into_iter().map(|(_, reply)| reply));
        Ok(replies)
    }

    /// Asks each shard for its frames, some shards at a time.
    async fn fetch_each(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        class: FrameClass,
        wanted: BTreeMap<ShardId, Vec<Uuid>>,
    ) -> Result<Vec<(ShardId, FetchReply)>, CallError> {
        let view = if route.is_copying() { route.migration_view([]) } else { None };
        let asked = wanted.into_iter().map(|(shard, ids)| {
            let ids = ids.into_iter().map(ids::id_bytes).collect();
            let header = Some(header(context, route, shard, view.clone()));
            let request = FetchRequest { header, ids, class: class.into(), max_bytes: 0 };
            async move { self.read(context, route, request).await.map(|reply| (shard, reply)) }
        });
        let mut answers = futures::stream::iter(asked).buffer_unordered(limits::MAX_FAN_OUT);
        let mut replies = Vec::new();
        while let Some(answer) = answers.next().await {
            replies.push(answer?);
        }
        Ok(replies)
    }
}

fn by_shard(ids: &[Uuid], shard_of: impl Fn(&Uuid) -> ShardId) -> BTreeMap<ShardId, Vec<Uuid>> {
    let mut by_shard: BTreeMap<ShardId, Vec<Uuid>> = BTreeMap::new();
    for id in ids {
        by_shard.entry(shard_of(id)).or_default().push(*id);
    }
    by_shard
}
