//! What operators and routers ask of the cluster as a whole, answered by the leader of the meta group.
//!
//! Each request is looked at beside the cluster as it is, which is a plain function with tests of its own, and becomes at
//! most one command. What takes a member needs the groups here alone; what takes a node asks others, or the provider of its
//! keys, as well. The machine judges that command again (`super::transitions`): between the look and the command the
//! cluster may have changed.

pub mod collections;
pub mod keys;
pub mod nodes;
pub mod owners;
mod requests;

use std::sync::Arc;

use mira_proto::Refusal;

use super::ClusterState;
use crate::{member::Member, shard::refuse_read};

/// Refuses on a node that does not lead the meta group.
pub fn must_lead(member: &Member) -> Result<(), Refusal> {
    let status = member.meta().status();
    if status.is_leader() { Ok(()) } else { Err(Refusal::NotLeader { leader: status.leader }) }
}

/// The cluster with everything that was ever acknowledged; on the leader of the meta group only.
pub async fn newest(member: &Member) -> Result<Arc<ClusterState>, Refusal> {
    must_lead(member)?;
    member.meta().read_index().await.map_err(refuse_read)?;
    Ok(member.cluster())
}
