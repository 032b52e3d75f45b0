//! Opening the meta group of a node whose state is damaged, with the repair that this needs.
//!
//! The meta group's state is rebuilt from its log, which is short and seldom trimmed. A state database that cannot be
//! written any more is left for a new one: what can be read moves there, and the rest is rebuilt, the meta group's state
//! from its log and that of shards from their other replicas. Where there are none, damaged data is kept as it is.

use std::sync::Arc;

use mira_raft::{EngineError, Group, RaftHost};

use crate::{
    error::StartError,
    keys::keyring::Keyring,
    meta::{META_GROUP, MetaMachine},
};

/// Opens the meta group, with whatever its state needs before that.
pub async fn open_meta(
    host: &RaftHost,
    machine: &Arc<MetaMachine>,
    replication: u32,
    keyring: &Keyring,
) -> Result<Group, StartError> {
    let refused = match host.open_group(META_GROUP, machine.clone()).await {
        Ok(meta) => return Ok(meta),
        // Nothing is damaged: it only cannot be read.
        Err(error) if keyring.missing().is_some() => return Err(error.into()),
        Err(error) => error.to_string(),
    };
    match reopen_meta(host, machine, refused).await {
        Err(_) if host.is_state_out_of_service() => rebuild_state(host, machine, replication).await,
        reopened => reopened,
    }
}

/// Moves to a new database, with what can be read of the old one, and opens the meta group there.
pub async fn rebuild_state(host: &RaftHost, machine: &Arc<MetaMachine>, replication: u32) -> Result<Group, StartError> {
    if replication < 2 {
        let text = "the cluster keeps one replica of each shard, so what is damaged is not given up: restore a backup";
        return Err(EngineError::Damaged(text.into()).into());
    }
    tracing::error!("the state on this node's disk is damaged: what can be read of it moves to a new database");
    let lost = host.rebuild_state().await?;
    tracing::error!(groups = ?lost, "state that could not be read is rebuilt from logs and other replicas");
    match host.open_group(META_GROUP, machine.clone()).await {
        Ok(meta) => Ok(meta),
        Err(error) => reopen_meta(host, machine, error.to_string()).await,
    }
}

/// Rebuilds the meta group's state from its log.
pub async fn reopen_meta(host: &RaftHost, machine: &Arc<MetaMachine>, cause: String) -> Result<Group, StartError> {
    if !host.discard_state(META_GROUP).await? {
        return Err(StartError::MetaDamaged(cause));
    }
    tracing::error!(cause, "the meta group's replica here is damaged: it is rebuilt from its log");
    Ok(host.open_group(META_GROUP, machine.clone()).await?)
}
