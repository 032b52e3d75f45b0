//! The cluster as a router sees it: the map, who leads, and how to reach a node.
//!
//! The map is cached. One task holds a long poll for a newer one open at some node; besides, a node that refuses a
//! request because of an old map ([`Refusal::StaleMap`]) makes the router fetch one at once. An older map never
//! replaces a newer one, and a map of another cluster is refused.
//!
//! Who leads a shard is a *hint*: from the map, from refusals ([`Refusal::NotLeader`]), from who answered last. A wrong
//! hint costs one round trip, never correctness, because only the leader does what a leader must.
//!
//! [`Cluster::call`] is the one place where a request goes to a node. It asks, reads the refusal, and asks again
//! elsewhere until it has an answer or the deadline is reached. What to do after each refusal is decided by the plain
//! functions of [`decide`].

mod bundle;
mod clients;
mod collections;
pub mod decide;
mod fan_out;
mod hedge;
mod readiness;
mod route;
mod shard_read;
mod staleness;
mod view;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::future::{Either, select};
use mira_proto::clients::NodeClients;
use mira_proto::node_v1::{GetMapRequest, WriteReply, WriteRequest};
use mira_proto::{Code, NodeId, Problem, Refusal, ShardId, limits, node_v1};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Response, Status};
use tracing::{debug, info, warn};

use crate::RequestContext;
use crate::metrics::Metrics;
use bundle::Bundler;
pub use bundle::size_of_frame;
use clients::Connections;
use decide::Step;
pub use fan_out::{FanOut, WantedFrames, WantedVersion, fan_out};
use hedge::Hedges;
pub use readiness::GroupHealth;
pub use route::{CollectionRoute, Leftover, Place, RemovalPart, RouteConstraint, Selected};
pub use shard_read::{ShardAnswer, ShardRead};
pub use staleness::Staleness;
pub use view::View;

/// A Raft group: the cluster's own, or a shard's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Nodes, collections, map.
    Meta,
    /// A shard's frames.
    Shard(ShardId),
}

/// Which replica may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaChoice {
    /// The leader.
    Leader,
    /// Any.
    Any,
    /// This node.
    Only(NodeId),
}

/// A request to a group, without its message.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// What is asked, for metrics.
    pub operation: &'static str,
    /// Who is asked.
    pub group: Group,
    /// Which of the group's replicas.
    pub replica: ReplicaChoice,
    /// When to give up.
    pub deadline: Instant,
    /// When to give up on one replica and try another.
    pub try_for: Duration,
    /// The collection that the group was chosen for; when it moves, so must the caller.
    pub route: Option<&'a CollectionRoute>,
    /// What of the collection's places the request depends on.
    pub constraint: RouteConstraint,
}

impl Call<'static> {
    /// A request to the meta group's leader.
    pub fn to_meta_leader(context: &RequestContext, operation: &'static str) -> Self {
        Call {
            operation,
            group: Group::Meta,
            replica: ReplicaChoice::Leader,
            deadline: context.deadline,
            try_for: limits::WRITE_TRY,
            route: None,
            constraint: RouteConstraint::Whole,
        }
    }
}

impl<'a> Call<'a> {
    /// A write to a shard of a collection.
    pub fn to_write(
        context: &RequestContext,
        route: &'a CollectionRoute,
        operation: &'static str,
        shard: ShardId,
        constraint: RouteConstraint,
    ) -> Self {
        Call {
            operation,
            group: Group::Shard(shard),
            replica: ReplicaChoice::Leader,
            deadline: context.deadline,
            try_for: limits::WRITE_TRY,
            route: Some(route),
            constraint,
        }
    }
}

/// What one try of a call says beside its request.
#[derive(Debug, Clone, Copy)]
pub struct Try {
    /// The map's version.
    pub epoch: u64,
    /// Whether a replica that lags may answer.
    pub last_resort: bool,
    /// Who is asked.
    pub node: NodeId,
}

/// Why a call ended without an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The collection lies elsewhere now, or is another of that name: look it up again. Nothing was done.
    #[error("the collection has moved")]
    Moved,
    /// No replica answered before the deadline.
    #[error(transparent)]
    Unreached(Problem),
    /// A node answered with a problem for the caller.
    #[error("{problem}")]
    Refused {
        /// The problem.
        problem: Problem,
        /// An earlier try may have taken effect already.
        after_unknown_outcome: bool,
    },
}

impl CallError {
    /// A problem that asking another replica does not cure.
    pub fn refused(problem: Problem) -> Self {
        CallError::Refused { problem, after_unknown_outcome: false }
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Moved => Problem::new(Code::Unavailable, "the collection keeps moving: try again"),
            CallError::Unreached(problem) | CallError::Refused { problem, .. } => problem,
        }
    }
}

/// The cached map, the hints, and the connections.
pub struct Cluster {
    seeds: Vec<String>,
    view: ArcSwapOption<View>,
    hints: Mutex<BTreeMap<Group, NodeId>>,
    connections: Connections,
    bundler: Bundler,
    hedges: Hedges,
    refreshing: tokio::sync::Mutex<()>,
    /// Versions of the map are made one after the other, each from the one before.
    installing: Mutex<()>,
    /// What the nodes said of their groups, and when they were asked.
    health: tokio::sync::Mutex<Option<(Instant, Arc<GroupHealth>)>>,
    metrics: Arc<Metrics>,
}

impl Cluster {
    /// Knows nothing yet but where to ask.
    pub fn new(seeds: Vec<String>, metrics: Arc<Metrics>) -> Self {
        Cluster {
            seeds,
            view: ArcSwapOption::empty(),
            hints: Mutex::default(),
            connections: Connections::default(),
            bundler: Bundler::default(),
            hedges: Hedges::default(),
            refreshing: tokio::sync::Mutex::default(),
            installing: Mutex::default(),
            health: tokio::sync::Mutex::default(),
            metrics,
        }
    }

    /// The newest map, if any was ever fetched.
    pub fn view(&self) -> Option<Arc<View>> {
        self.view.load_full()
    }

    /// The newest map, fetching the first one if need be, until the deadline.
    pub async fn view_by(&self, deadline: Instant) -> Result<Arc<View>, Problem> {
        loop {
            if let Some(view) = self.view() {
                return Ok(view);
            }
            self.refresh(0).await;
            if self.view.load().is_none() && deadline.saturating_duration_since(Instant::now()) < limits::RETRY_PAUSE {
                let detail = "no storage node answers: the router has no cluster map yet";
                return Err(Problem::new(Code::Unavailable, detail));
            }
            if self.view.load().is_none() {
                sleep(limits::RETRY_PAUSE).await;
            }
        }
    }

    /// Shards that nobody is known to lead.
    pub fn leaderless(&self, view: &View) -> Vec<ShardId> {
        let hints = self.hints.lock();
        view.shard_ids().filter(|&shard| !hints.contains_key(&Group::Shard(shard))).collect()
    }

    /// Keeps the map fresh, for as long as it is polled.
    pub async fn follow_map(&self) {
        let mut turn = 0;
        loop {
            let addresses = self.addresses();
            let Some(address) = addresses.get(turn % addresses.len().max(1)) else {
                return warn!("no storage node is configured");
            };
            // A router that lacks a leader somewhere asks often; one that knows everything waits for news.
            let settled = self.view().is_some_and(|view| self.leaderless(&view).is_empty());
            let newer_than = self.view().map_or(0, |view| view.epoch);
            let outcome =
                self.fetch_map(address, GetMapRequest { newer_than, wait: settled, linearizable: false }).await;
            if let Err(error) = &outcome {
                debug!(address, %error, "no map");
                turn += 1;
            }
            if outcome.is_err() || !settled {
                sleep(4 * limits::RETRY_PAUSE).await;
            }
        }
    }

    /// Fetches the map now, from whichever node answers first with epoch `at_least` or later. Returns whether one did.
    pub async fn refresh(&self, at_least: u64) -> bool {
        // Callers that found out together share one fetch.
        let _alone = self.refreshing.lock().await;
        if at_least > 0 && self.view().is_some_and(|view| view.epoch >= at_least) {
            return true;
        }
        for address in self.addresses() {
            let newer_than = self.view().map_or(0, |view| view.epoch);
            let request = GetMapRequest { newer_than, ..GetMapRequest::default() };
            if self.fetch_map(&address, request).await.is_ok_and(|epoch| epoch >= at_least) {
                return true;
            }
        }
        false
    }

    /// Fetches a newer map than the one at hand: a shard has said that frames lie where this one does not lead.
    pub async fn newer_map(&self) {
        let epoch = self.view().map_or(0, |view| view.epoch);
        self.refresh(epoch + 1).await;
    }

    async fn fetch_map(&self, address: &str, request: GetMapRequest) -> Result<u64, Status> {
        let patience = if request.wait { limits::MAP_WAIT + limits::READ_TRY } else { limits::READ_TRY };
        let clients = self.connections.clients(address)?;
        let map = timeout(patience, clients.cluster().get_map(request))
            .await
            .map_err(|_| Status::deadline_exceeded("no answer"))??
            .into_inner();
        if map.shards.is_empty() {
            return Err(Status::unavailable("the node belongs to no cluster yet"));
        }
        let epoch = map.epoch;
        self.install(map);
        Ok(epoch)
    }

    /// Takes a map over, unless it is older than ours or not of our cluster.
    fn install(&self, map: node_v1::ClusterMap) {
        let _alone = self.installing.lock();
        let old = self.view();
        if let Some(old) = old.as_ref().filter(|old| old.cluster_id != map.cluster_id) {
            return warn!(ours = old.cluster_id, other = map.cluster_id, "a node of another cluster answered");
        }
        self.take_leaders(&map);
        if old.as_ref().is_some_and(|old| old.epoch >= map.epoch) {
            return;
        }
        info!(epoch = map.epoch, nodes = map.nodes.len(), changed = map.changed.len(), "new cluster map");
        let view = View::new(map, old.as_deref());
        self.connections.keep_only(self.seeds.iter().chain(view.addresses()));
        self.view.store(Some(Arc::new(view)));
    }

    /// Fills gaps in our hints; what we know from refusals and answers is fresher than a map.
    fn take_leaders(&self, map: &node_v1::ClusterMap) {
        let mut hints = self.hints.lock();
        for shard in map.shards.iter().filter(|shard| shard.leader != 0) {
            hints.entry(Group::Shard(shard.shard)).or_insert(shard.leader);
        }
    }

    fn addresses(&self) -> Vec<String> {
        let view = self.view();
        let known = view.iter().flat_map(|view| view.addresses());
        let mut addresses: Vec<String> = Vec::new();
        for address in known.chain(&self.seeds) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses
    }

    /// The clients of one node of the map, for questions about the node itself.
    pub fn clients_of(&self, view: &View, node: NodeId) -> Result<NodeClients, Status> {
        let address = view.address(node).ok_or_else(|| Status::unavailable("the node is not in the cluster map"))?;
        self.connections.clients(address)
    }

    /// Asks a group until there is an answer, a problem for the caller, or the deadline.
    ///
    /// `send` makes one try with the node's clients; it must send the same request each time, with what the try says.
    pub async fn call<T, F, Fut>(&self, call: &Call<'_>, send: F) -> Result<T, CallError>
    where
        F: Fn(NodeClients, Try) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let send = &send;
        let mut tries = decide::Tries::default();
        loop {
            let mut view = self.view_by(call.deadline).await.map_err(CallError::Unreached)?;
            if let Some(route) = call.route.filter(|route| view.collection(&route.info.name).is_none()) {
                // A map of which not all changes are told says nothing of it.
                self.collection(&route.info.name, call.deadline).await.map_err(CallError::Unreached)?;
                view = self.view_by(call.deadline).await.map_err(CallError::Unreached)?;
            }
            if call.route.is_some_and(|route| !view.still_at(route, call.constraint)) {
                return Err(if tries.unknown_outcome { tries.unreached(call.group) } else { CallError::Moved });
            }
            let replicas = match call.replica {
                ReplicaChoice::Only(node) => vec![node],
                ReplicaChoice::Leader | ReplicaChoice::Any => view.replicas(call.group),
            };
            let Some(node) = decide::next_replica(&replicas, &tries, self.hint(call, &replicas, &tries)) else {
                return Err(tries.unreached(call.group));
            };
            let last_resort = tries.last_resort(replicas.len());
            let ask = |node| {
                let attempt = Try { epoch: view.epoch, last_resort, node };
                self.attempt(call, &view, node, move |clients| send(clients, attempt))
            };
            // Only what any replica may answer can be answered by another.
            let second = decide::other_replica(&replicas, node)
                .filter(|_| call.replica == ReplicaChoice::Any && tries.count == 0);
            let (node, answered) = match second {
                Some(second) => self.hedged(call, node, second, ask).await,
                None => (node, ask(node).await),
            };
            let refusal = match answered {
                Ok(answer) => {
                    self.answered(call, node);
                    return Ok(answer);
                }
                Err(refusal) => refusal,
            };
            match tries.after(node, refusal, view.epoch, replicas.len()) {
                Step::Fail(problem) => {
                    return Err(CallError::Refused { problem, after_unknown_outcome: tries.unknown_outcome });
                }
                Step::Refresh { at_least } => {
                    if !self.refresh(at_least).await && !self.pause(call, &tries).await {
                        return Err(tries.unreached(call.group));
                    }
                }
                Step::GoTo(leader) => self.hint_leader(call.group, leader),
                Step::Next { pause } => {
                    self.forget_hint(call.group, node);
                    if pause && !self.pause(call, &tries).await {
                        return Err(tries.unreached(call.group));
                    }
                }
            }
            self.metrics.retried(tries.last_reason());
            if Instant::now() >= call.deadline {
                return Err(tries.unreached(call.group));
            }
        }
    }

    /// Asks one replica, and another if the first is slow beyond what is usual; says whose answer, or whose refusal, it is.
    async fn hedged<T, Fut>(
        &self,
        call: &Call<'_>,
        node: NodeId,
        second: NodeId,
        ask: impl Fn(NodeId) -> Fut,
    ) -> (NodeId, Result<T, Refusal>)
    where
        Fut: Future<Output = Result<T, Refusal>>,
    {
        let started = Instant::now();
        let mut first = pin!(ask(node));
        let patience = self.hedges.after(call.operation);
        let (from, answer) = 'answer: {
            let Some(patience) = patience else { break 'answer (node, first.await) };
            if let Ok(answer) = timeout(patience, first.as_mut()).await {
                break 'answer (node, answer);
            }
            if !self.hedges.pay() {
                break 'answer (node, first.await);
            }
            let answer = match select(first, pin!(ask(second))).await {
                Either::Left((Ok(answer), _)) => (node, Ok(answer)),
                Either::Right((Ok(answer), _)) => (second, Ok(answer)),
                // One has failed: the other may still come.
                Either::Left((Err(refusal), other)) => match other.await {
                    Ok(answer) => (second, Ok(answer)),
                    Err(_) => (node, Err(refusal)),
                },
                Either::Right((Err(_), first)) => (node, first.await),
            };
            self.metrics.hedged(answer.0 == second);
            answer
        };
        if answer.is_ok() {
            self.hedges.note(call.operation, started.elapsed());
        }
        (from, answer)
    }

    /// Asks the meta group's leader, with the same request each time.
    pub async fn ask_meta<Q, T, Fut>(
        &self,
        context: &RequestContext,
        operation: &'static str,
        request: Q,
        send: impl Fn(NodeClients, Q) -> Fut,
    ) -> Result<T, CallError>
    where
        Q: Clone,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.call(&Call::to_meta_leader(context, operation), |clients, _| send(clients, request.clone())).await
    }

    /// Has frames written, small ones in one message with those of other callers.
    pub async fn write(&self, call: &Call<'_>, write: &WriteRequest) -> Result<WriteReply, CallError> {
        self.call(call, |clients, attempt| {
            let mut write = write.clone();
            if let Some(header) = &mut write.header {
                header.epoch = attempt.epoch;
            }
            self.bundler.write(attempt.node, clients, write)
        })
        .await
    }

    async fn attempt<T, F, Fut>(&self, call: &Call<'_>, view: &View, node: NodeId, send: F) -> Result<T, Refusal>
    where
        F: FnOnce(NodeClients) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let clients = self.clients_of(view, node).map_err(|status| Refusal::NotReady(status.message().to_owned()))?;
        let started = Instant::now();
        let try_for = call.try_for.min(call.deadline.saturating_duration_since(started));
        let outcome = timeout(try_for, send(clients)).await;
        self.metrics.storage(call.operation, started.elapsed());
        match outcome {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(clients::refusal_of(status)),
            Err(_) => Err(Refusal::Unknown(format!("node {node:016x} did not answer within {try_for:?}"))),
        }
    }

    fn hint(&self, call: &Call<'_>, replicas: &[NodeId], tries: &decide::Tries) -> Option<NodeId> {
        match call.replica {
            ReplicaChoice::Leader => self.hints.lock().get(&call.group).copied(),
            // Any replica will do: spread the load. After a refusal they are asked in turn, so that none is left out.
            ReplicaChoice::Any if replicas.is_empty() || tries.count > 0 => None,
            ReplicaChoice::Only(node) => Some(node),
            ReplicaChoice::Any => Some(replicas[rand::random_range(0..replicas.len())]),
        }
    }

    fn answered(&self, call: &Call<'_>, node: NodeId) {
        if call.replica == ReplicaChoice::Leader && call.group != Group::Meta {
            self.hint_leader(call.group, node);
        }
    }

    fn hint_leader(&self, group: Group, leader: NodeId) {
        self.hints.lock().insert(group, leader);
    }

    fn forget_hint(&self, group: Group, node: NodeId) {
        let mut hints = self.hints.lock();
        if hints.get(&group) == Some(&node) {
            hints.remove(&group);
        }
    }

    /// Waits before the next try; `false` when there is no time left for one.
    async fn pause(&self, call: &Call<'_>, tries: &decide::Tries) -> bool {
        let pause = decide::pause(tries.count, rand::random());
        if call.deadline.saturating_duration_since(Instant::now()) <= pause {
            return false;
        }
        sleep(pause).await;
        true
    }
}
