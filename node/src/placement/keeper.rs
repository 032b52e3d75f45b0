//! Keeping a node that serves in line with its cluster: repairs of what has stopped, then the plan.

use std::sync::Arc;

use mira_raft::{HostError, Role};
use tokio::sync::watch;

use super::{
    executor::{self, Executor},
    repair,
};
use crate::{error::StartError, meta::META_GROUP, node::Node};

/// Brings the node in line with the cluster, again and again, until told to stop.
pub async fn reconcile_loop(node: Arc<Node>, mut stopped: watch::Receiver<bool>) {
    let mut cluster = node.watch_cluster();
    let mut keeper = Keeper { executor: Executor::new(node.member().clone()), node };
    loop {
        keeper.reconcile().await;
        tokio::select! {
            changed = cluster.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(executor::pause(&keeper.node.cluster())) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}

struct Keeper {
    node: Arc<Node>,
    executor: Executor,
}

impl Keeper {
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
        self.executor.reconcile().await;
    }

    /// Opens the meta group again if it has stopped, and the state if nothing can be written to it; false if the node
    /// cannot go on.
    async fn repair(&self) -> bool {
        let host = self.node.host();
        if let Err(error) = self.reopen().await {
            tracing::error!(%error, "what has stopped here cannot be opened again now");
            return false;
        }
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

    /// Opens again what has stopped for something that passes, such as a want of files: engines, then groups, as they were.
    async fn reopen(&self) -> Result<(), StartError> {
        let (node, host, replicas) = (&self.node, self.node.host(), self.node.member().replicas());
        if host.needs_reopening() {
            replicas.close_all();
            host.reopen().await?;
            tracing::warn!("log and state were opened again after no file could be opened");
        }
        if node.meta().has_stopped_in_passing() || host.group(META_GROUP).is_none() {
            host.close_group(META_GROUP).await;
            match host.open_group(META_GROUP, node.meta_machine().clone()).await {
                Ok(meta) => node.member().set_meta(meta),
                Err(HostError::Engine(error)) if error.is_passing() => return Err(error.into()),
                // What is wrong with it has to be repaired.
                Err(error) => tracing::error!(%error, "the meta group cannot be opened"),
            }
        }
        for (shard, open) in replicas.open() {
            if open.group().has_stopped_in_passing() {
                drop(open);
                replicas.remove(shard);
                // The plan opens it again.
                host.close_group(shard + 1).await;
                tracing::warn!(shard, "a replica that had stopped is opened again");
            }
        }
        Ok(())
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
        node.member().set_meta(meta);
        Ok(())
    }

    /// Moves to a new database when nothing can be written to this one any more; all shards are opened again after that.
    async fn rebuild_state(&self) -> Result<(), StartError> {
        let (node, machine) = (&self.node, self.node.meta_machine());
        node.member().replicas().close_all();
        let replication = node.cluster().header.replication;
        node.member().set_meta(repair::rebuild_state(node.host(), machine, replication).await?);
        node.member().replicas().forget_damage();
        Ok(())
    }
}
