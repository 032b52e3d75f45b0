//! Executing the plan of [`super::reconcile`]: what is observed on this node, and the actions that change it.
//!
//! Every action may fail, be repeated, or be lost at any point: the next plan starts from what is.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use mira_proto::{CollectionId, NodeId, ShardId, limits, node_v1};
use mira_raft::{ChangeError, Group, Others, Role};
use tokio::sync::watch;

use super::{
    reconcile::{self, Action, Observed},
    repair,
};
use crate::{
    error::StartError,
    meta::{ClusterState, META_GROUP, MetaCommand, MoveStep},
    node::Node,
    shard::{migration::ownership::Tenure, record},
};

/// Between two plans when nothing happens.
const TICK: Duration = Duration::from_millis(500);
/// Between two plans while replicas move.
const MOVING_TICK: Duration = Duration::from_millis(100);
/// Least time between two hand-overs of one shard to its preferred leader: a leader that just came back stays a while.
const PREFER_EVERY: Duration = Duration::from_secs(3);

/// Brings the node in line with the cluster, again and again, until told to stop.
pub async fn reconcile_loop(node: Arc<Node>, mut stopped: watch::Receiver<bool>) {
    let mut cluster = node.watch_cluster();
    let mut executor = Executor { node: node.clone(), preferred_at: BTreeMap::new() };
    loop {
        executor.reconcile().await;
        let pause = if node.cluster().moves.is_empty() { TICK } else { MOVING_TICK };
        tokio::select! {
            changed = cluster.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}

/// Makes plans for one node and executes them.
struct Executor {
    node: Arc<Node>,
    /// When each shard was handed to its preferred leader last.
    preferred_at: BTreeMap<ShardId, Instant>,
}

impl Executor {
    /// Repairs what has stopped, then makes one plan and executes it.
    async fn reconcile(&mut self) {
        let cluster = self.node.cluster();
        self.node.keyring().retain(&cluster);
        if !self.repair().await {
            return;
        }
        if cluster.header.cluster_id != 0 {
            self.node.remember_cluster(cluster.header.cluster_id);
        }
        let shards = self.node.shards().into_iter().map(|(id, shard)| (id, shard.group().status())).collect();
        let observed = Observed {
            me: self.node.id(),
            cluster: &cluster,
            meta: &self.node.meta().status(),
            shards: &shards,
            present: &self.node.replicas().present(),
            damaged: &self.node.replicas().damaged(),
            leftovers: &self.leftovers(&cluster),
        };
        for action in reconcile::plan(&observed) {
            if let Err(error) = self.execute(&action).await {
                tracing::debug!(?action, error, "not done now");
            }
        }
    }

    /// Opens the meta group again if it has stopped, and the state if nothing can be written to it; false if the node
    /// cannot go on.
    async fn repair(&self) -> bool {
        let host = self.node.host();
        if let Role::Stopped(cause) = self.node.meta().status().role
            && let Err(error) = self.reopen_meta(cause).await
        {
            tracing::error!(%error, "the meta group is out of service here");
            if !host.is_state_out_of_service() {
                return false;
            }
        }
        if host.is_state_out_of_service()
            && let Err(error) = self.rebuild_state().await
        {
            tracing::error!(%error, "nothing can be written to the state on this node's disk");
            return false;
        }
        true
    }

    /// Opens the meta group again after it has stopped.
    async fn reopen_meta(&self, cause: String) -> Result<(), StartError> {
        let (node, machine) = (&self.node, self.node.meta_machine());
        let meta = match node.keyring().missing() {
            None => repair::reopen_meta(node.host(), machine, cause).await?,
            Some(missing) => {
                // It applied a command of a key that came after its own; its provider may know that by now.
                let held = node.hold_keys().await;
                if held.is_err() || node.keyring().missing().is_some() {
                    return Err(StartError::NoClusterKey(missing));
                }
                node.host().close_group(META_GROUP).await;
                node.host().open_group(META_GROUP, machine.clone()).await?
            }
        };
        node.set_meta(meta);
        Ok(())
    }

    /// Moves to a new database when nothing can be written to this one any more; all shards are opened again after that.
    async fn rebuild_state(&self) -> Result<(), StartError> {
        let (node, machine) = (&self.node, self.node.meta_machine());
        node.replicas().close_all();
        let replication = node.cluster().header.replication;
        node.set_meta(repair::rebuild_state(node.host(), machine, replication).await?);
        node.replicas().forget_damage();
        Ok(())
    }

    /// Dropped collections that still have frames in shards that this node leads.
    fn leftovers(&self, cluster: &ClusterState) -> Vec<(ShardId, CollectionId)> {
        let mut found = Vec::new();
        for (id, shard) in self.node.shards() {
            if !shard.group().status().is_leader() {
                continue;
            }
            let reader = shard.group().reader();
            let full = |collection: &&CollectionId| {
                let keys = [record::count_key(**collection), Tenure::key(**collection)];
                reader.multi_get(&keys).is_ok_and(|found| found.iter().any(Option::is_some))
            };
            found.extend(cluster.dropped.iter().filter(full).map(|&collection| (id, collection)));
        }
        found
    }

    async fn execute(&mut self, action: &Action) -> Result<(), String> {
        let text = |error: ChangeError| error.to_string();
        match action {
            Action::OpenShard(shard) => self.node.open_shard(*shard).await.map_err(|error| error.to_string()),
            Action::InitializeShard(shard, voters) => {
                self.shard_group(*shard)?.initialize(voters.clone()).await.map_err(text)
            }
            Action::DestroyShard(shard) => {
                if self.is_confirmed_holder(*shard).await? {
                    return Err("the cluster gives this node a replica: its own map is behind".into());
                }
                self.node.destroy_shard(*shard).await
            }
            Action::ClearShard(shard) => {
                if self.is_confirmed_holder(*shard).await? {
                    return Err("its own map is behind".into());
                }
                self.node.destroy_shard(*shard).await?;
                let (shard, to, step) = (*shard, self.node.id(), MoveStep::Joining);
                self.propose(&MetaCommand::StepMove { shard, to, step }).await
            }
            Action::AddLearner(group, node) => self.group(*group)?.add_learner(*node).await.map_err(text),
            Action::SetVoters(group, voters) => {
                let others = if *group == reconcile::Group::Meta { Others::Learn } else { Others::Leave };
                self.group(*group)?.change_voters(voters.clone(), others).await.map_err(text)
            }
            Action::RemoveLearner(group, node) => self.group(*group)?.remove_learner(*node).await.map_err(text),
            Action::HandTo(group, target) => self.group(*group)?.transfer_leader(*target).await.map_err(text),
            Action::Propose(command) => self.propose(command).await,
            Action::Prefer(shard, target) => self.prefer(*shard, *target).await,
            Action::Purge(shard, collection) => {
                let shard = self.node.shard(*shard).map_err(|error| error.to_string())?;
                shard.purge(*collection).await.map_err(|error| error.to_string())
            }
        }
    }

    fn shard_group(&self, shard: ShardId) -> Result<Group, String> {
        self.node.host().group(shard + 1).ok_or_else(|| format!("shard {shard} is not open"))
    }

    fn group(&self, group: reconcile::Group) -> Result<Group, String> {
        match group {
            reconcile::Group::Meta => Ok(self.node.meta()),
            reconcile::Group::Shard(shard) => self.shard_group(shard),
        }
    }

    async fn propose(&self, command: &MetaCommand) -> Result<(), String> {
        self.node.propose_meta(command).await.map(drop).map_err(|error| error.to_string())
    }

    /// Whether the cluster, as a quorum of the meta group knows it, gives this node a replica of the shard.
    ///
    /// What this node has applied may be older than what it once knew: the state is not synced, only its log. So
    /// nothing is destroyed on its word alone.
    async fn is_confirmed_holder(&self, shard: ShardId) -> Result<bool, String> {
        let me = self.node.id();
        let leader = self.node.meta().status().leader.ok_or("the meta group has no leader")?;
        let map = if leader == me {
            self.node.meta().read_index().await.map_err(|error| error.to_string())?;
            self.node.map()
        } else {
            let request = node_v1::GetMapRequest { linearizable: true, ..Default::default() };
            let mut client = self.node.peers().client_of(leader).map_err(|status| status.message().to_owned())?;
            let asked = tokio::time::timeout(limits::READ_TRY, client.get_map(request)).await;
            asked.map_err(|_| "no answer")?.map_err(|status| status.message().to_owned())?.into_inner()
        };
        let placed = map.shards.get(shard as usize).is_none_or(|info| info.replicas.contains(&me));
        let moved = map.moves.iter().find(|found| found.shard == shard && found.to == me);
        Ok(moved.map_or(placed, |found| found.step != "clearing"))
    }

    /// Hands a shard to its preferred leader, if that node answers searches of it and the last try is a while ago.
    async fn prefer(&mut self, shard: ShardId, target: NodeId) -> Result<(), String> {
        if self.node.is_leaving() {
            return Ok(());
        }
        let now = Instant::now();
        if self.preferred_at.get(&shard).is_some_and(|last| now - *last < PREFER_EVERY) {
            return Ok(());
        }
        self.preferred_at.insert(shard, now);
        if !self.is_ready(target, shard).await {
            return Err(format!("node {target:016x} does not answer searches of shard {shard} yet"));
        }
        self.shard_group(shard)?.transfer_leader(target).await.map_err(|error| error.to_string())
    }

    /// Whether a node's replica of a shard has its index: most reads ask the leader.
    async fn is_ready(&self, node: NodeId, shard: ShardId) -> bool {
        let Ok(mut client) = self.node.peers().client_of(node) else { return false };
        let answer = tokio::time::timeout(TICK, client.status(node_v1::StatusRequest { detailed: false })).await;
        let Ok(Ok(status)) = answer else { return false };
        status.get_ref().groups.iter().any(|group| group.group == shard + 1 && group.index_ready)
    }
}
