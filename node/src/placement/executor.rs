//! Executing what [`reconcile::plan`] decides, on one node.
//!
//! Every action starts from what is and may fail or be repeated: the next plan sees what came of it. What destroys data is
//! done only after a quorum of the meta group has said that this node is to hold none, because what this node has applied
//! may be older than what it once knew: the state is not synced, only its log. What changes the members of a shard is done
//! only after such a quorum has said that the map of the plan is the newest: by an older one a replica might get a vote that
//! is about to be removed, with what it voted for.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use mira_proto::{NodeId, Refusal, ShardId, limits, node_v1};
use mira_raft::{ChangeError, Group, Others, Runtime, TokioRuntime};

use super::reconcile::{self, Action, Observed};
use crate::{
    member::Member,
    meta::{ClusterState, MetaCommand, MoveStep},
    peers::within,
};

/// Between two plans when nothing happens.
const TICK: Duration = Duration::from_millis(500);
/// Between two plans while replicas move.
const MOVING_TICK: Duration = Duration::from_millis(100);
/// Least time between two hand-overs of one shard to its preferred leader: a leader that just came back stays a while.
const PREFER_EVERY: Duration = Duration::from_secs(3);
/// For a peer to say whether its replica is ready.
const STATUS_TRY: Duration = Duration::from_millis(500);

/// How long to wait for the next plan if the cluster does not change before.
pub fn pause(cluster: &ClusterState) -> Duration {
    if cluster.moves.is_empty() { TICK } else { MOVING_TICK }
}

/// An action as the log names it, without what a command of it carries: records, keys, names.
fn name_of(action: &Action) -> String {
    let text = format!("{action:?}");
    text.split(['{', '[', '"']).next().unwrap_or_default().trim_end().to_owned()
}

/// Keeps a node's replicas in line with the cluster.
pub struct Executor<R: Runtime = TokioRuntime> {
    member: Arc<Member<R>>,
    /// When each shard was handed to its preferred leader last.
    preferred_at: BTreeMap<ShardId, R::Instant>,
}

impl<R: Runtime> Executor<R> {
    /// For a member of a cluster.
    pub fn new(member: Arc<Member<R>>) -> Self {
        Executor { member, preferred_at: BTreeMap::new() }
    }

    /// Plans from what is now, and executes; returns each action with what came of it.
    pub async fn reconcile(&mut self) -> Vec<(Action, Result<(), String>)> {
        let member = &self.member;
        let cluster = member.cluster();
        let open = member.replicas().open();
        let plan = reconcile::plan(&Observed {
            me: member.id(),
            cluster: &cluster,
            meta: &member.meta().status(),
            shards: &open.into_iter().map(|(id, shard)| (id, shard.group().status())).collect(),
            present: &member.replicas().present(),
            damaged: &member.replicas().damaged(),
            leftovers: &member.leftovers(&cluster),
        });
        let mut done = Vec::with_capacity(plan.len());
        for action in plan {
            let outcome = self.execute(&action, cluster.header.epoch).await;
            if let Err(error) = &outcome {
                tracing::debug!(action = name_of(&action), error, "not done now");
            }
            done.push((action, outcome));
        }
        done
    }

    /// Does what was planned by the map of this epoch.
    async fn execute(&mut self, action: &Action, epoch: u64) -> Result<(), String> {
        let text = |error: ChangeError| error.to_string();
        match action {
            // Whatever one shard's data does to whoever opens it, the others are opened.
            Action::OpenShard(shard) => {
                let opened = AssertUnwindSafe(self.member.open_shard(*shard)).catch_unwind().await;
                let panicked = |_| Err(format!("opening shard {shard} panicked"));
                opened.map_or_else(panicked, |opened| opened.map_err(|error| error.to_string()))
            }
            Action::InitializeShard(shard, voters) => {
                self.group(reconcile::Group::Shard(*shard))?.initialize(voters.clone()).await.map_err(text)
            }
            Action::DestroyShard(shard) => self.destroy(*shard).await,
            Action::ClearShard(shard) => {
                self.destroy(*shard).await?;
                let (shard, to, step) = (*shard, self.member.id(), MoveStep::Joining);
                self.propose(&MetaCommand::StepMove { shard, to, step }).await
            }
            Action::AddLearner(group, node) => {
                self.must_be_newest(*group, epoch).await?;
                self.group(*group)?.add_learner(*node).await.map_err(text)
            }
            Action::SetVoters(group, voters) => {
                self.must_be_newest(*group, epoch).await?;
                let others = if *group == reconcile::Group::Meta { Others::Learn } else { Others::Leave };
                self.group(*group)?.change_voters(voters.clone(), others).await.map_err(text)
            }
            Action::RemoveLearner(group, node) => self.group(*group)?.remove_learner(*node).await.map_err(text),
            Action::HandTo(group, target) => self.group(*group)?.transfer_leader(*target).await.map_err(text),
            Action::Propose(command) => self.propose(command).await,
            Action::Prefer(shard, target) => self.prefer(*shard, *target).await,
            Action::Purge(shard, collection) => {
                let shard = self.member.shard(*shard).map_err(|error| error.to_string())?;
                shard.purge(*collection).await.map_err(|error| error.to_string())
            }
        }
    }

    fn group(&self, group: reconcile::Group) -> Result<Group<R>, String> {
        match group {
            reconcile::Group::Meta => Ok(self.member.meta()),
            reconcile::Group::Shard(shard) => {
                self.member.host().group(shard + 1).ok_or_else(|| format!("shard {shard} is not open"))
            }
        }
    }

    async fn propose(&self, command: &MetaCommand) -> Result<(), String> {
        self.member.propose_meta(command).await.map(drop).map_err(|error| error.to_string())
    }

    /// Removes this node's replica, once it is confirmed that it is to hold none. The answer may be late, and the replica may
    /// have come back to its group since: so it is closed then, and asked about once more.
    async fn destroy(&self, shard: ShardId) -> Result<(), String> {
        self.must_hold_none(shard).await?;
        self.member.close_shard(shard).await;
        self.must_hold_none(shard).await?;
        self.member.destroy_shard(shard).await
    }

    async fn must_hold_none(&self, shard: ShardId) -> Result<(), String> {
        if self.is_confirmed_holder(shard).await.map_err(|error| error.to_string())? {
            return Err("the cluster gives this node a replica: its own map is behind".into());
        }
        Ok(())
    }

    /// The members of the meta group are its leader's own matter; those of a shard follow the newest map.
    async fn must_be_newest(&self, group: reconcile::Group, epoch: u64) -> Result<(), String> {
        if group == reconcile::Group::Meta {
            return Ok(());
        }
        let newest = self.confirmed_map().await.map_err(|error| error.to_string())?.epoch;
        if newest == epoch { Ok(()) } else { Err(format!("the plan is by map {epoch}, the newest is {newest}")) }
    }

    /// The map as a quorum of the meta group knows it.
    async fn confirmed_map(&self) -> Result<node_v1::ClusterMap, Refusal> {
        let no_leader = || Refusal::NotReady("the meta group has no leader".into());
        let leader = self.member.meta().status().leader.ok_or_else(no_leader)?;
        if leader == self.member.id() {
            return self.member.confirmed_map().await;
        }
        let asked = self.member.peers().confirmed_map(leader);
        within::<R, node_v1::ClusterMap>(limits::READ_TRY, asked, "the meta leader").await
    }

    /// Whether the cluster, as a quorum of the meta group knows it, gives this node a replica of the shard.
    async fn is_confirmed_holder(&self, shard: ShardId) -> Result<bool, Refusal> {
        let me = self.member.id();
        let map = self.confirmed_map().await?;
        let placed = map.shards.get(shard as usize).is_none_or(|info| info.replicas.contains(&me));
        let moved = map.moves.iter().find(|found| found.shard == shard && found.to == me);
        Ok(moved.map_or(placed, |found| found.step() != node_v1::MoveStep::Clearing))
    }

    /// Hands a shard to its preferred leader, if that node answers searches of it and the last try is a while ago.
    async fn prefer(&mut self, shard: ShardId, target: NodeId) -> Result<(), String> {
        if self.member.is_leaving() {
            return Ok(());
        }
        let now = R::now();
        if self.preferred_at.get(&shard).is_some_and(|last| now - *last < PREFER_EVERY) {
            return Ok(());
        }
        self.preferred_at.insert(shard, now);
        if !self.is_ready(target, shard).await {
            return Err(format!("node {target:016x} does not answer searches of shard {shard} yet"));
        }
        self.group(reconcile::Group::Shard(shard))?.transfer_leader(target).await.map_err(|error| error.to_string())
    }

    /// Whether a node's replica of a shard has its index: most reads ask the leader.
    async fn is_ready(&self, node: NodeId, shard: ShardId) -> bool {
        let status = within::<R, node_v1::NodeStatus>(STATUS_TRY, self.member.peers().status(node), "a peer").await;
        let is_ready = |group: &node_v1::GroupStatus| group.group == shard + 1 && group.index_ready;
        status.is_ok_and(|status| status.groups.iter().any(is_ready))
    }
}
