//! The cluster's nodes: adding, draining, replacing and removing them. The meta group decides; this file finds the node
//! that is meant and passes the question on.

use bytes::Bytes;
use mira_proto::model::{NodeAction, NodeChange, NodeChangeReply, ReplicaMove};
use mira_proto::node_v1::{self, ChangeNodeRequest, PauseMovesRequest, change_node_request::Action};
use mira_proto::{Code, NodeId, Problem};

use crate::cluster::View;
use crate::{Memory, RequestContext, ids};

/// The id that no node has.
const NO_NODE: NodeId = 0;

impl Memory {
    /// Adds, drains, replaces or removes a storage node, or says what that would move.
    pub async fn change_node(&self, context: &RequestContext, change: NodeChange) -> Result<NodeChangeReply, Problem> {
        self.bounded("change_node", context, async {
            // A node that has just joined is not on an older map.
            self.cluster.refresh(0).await;
            let view = self.cluster.view_by(context.deadline).await?;
            let (action, by) = match (change.action, &change.by) {
                (NodeAction::Replace, Some(by)) => (Action::Replace, find(&view, by)?),
                (NodeAction::Replace, None) => {
                    return Err(Problem::invalid("by is missing: who takes the node's place?"));
                }
                (_, Some(_)) => return Err(Problem::invalid("by goes with replace only")),
                (NodeAction::Add, None) => (Action::Add, 0),
                (NodeAction::Drain, None) => (Action::Drain, 0),
                (NodeAction::Remove, None) => (Action::Remove, 0),
            };
            let found = find(&view, &change.node);
            // A request that comes again may have removed it: the nodes know.
            let node = match &found {
                Ok(node) => *node,
                Err(unknown) if unknown.code == Code::NotFound && context.idempotency_key.is_some() => NO_NODE,
                Err(unknown) => return Err(unknown.clone()),
            };
            let said = serde_json::to_vec(&change).map_err(|error| Problem::internal(format!("a change: {error}")))?;
            let request_id =
                if change.dry_run { Bytes::new() } else { ids::admin_request_id(context, "change_node", &[&said]) };
            let request = ChangeNodeRequest { action: action.into(), node, by, dry_run: change.dry_run, request_id };
            let reply = self
                .cluster
                .ask_meta(context, "change_node", request, |clients, request| async move {
                    clients.cluster().change_node(request).await
                })
                .await;
            let reply = match (found, reply.map_err(Problem::from)) {
                (Err(unknown), Err(problem)) if problem.code == Code::NotFound => return Err(unknown),
                (_, reply) => reply?,
            };
            self.cluster.refresh(reply.epoch).await;
            Ok(NodeChangeReply { moves: reply.moves.iter().map(replica_move).collect() })
        })
        .await
    }

    /// Stops moves of replicas for now, or lets them go on.
    pub async fn set_moves(&self, context: &RequestContext, paused: bool) -> Result<(), Problem> {
        self.bounded("set_moves", context, async {
            let request = PauseMovesRequest { paused };
            let reply = self
                .cluster
                .ask_meta(context, "pause_moves", request, |clients, request| async move {
                    clients.cluster().pause_moves(request).await
                })
                .await?;
            self.cluster.refresh(reply.epoch).await;
            Ok(())
        })
        .await
    }
}

/// The node that a caller names by its id or its address.
fn find(view: &View, name: &str) -> Result<NodeId, Problem> {
    let mut found = view.nodes().filter(|node| format!("{:016x}", node.id) == name || node.address == name);
    match (found.next(), found.next()) {
        (Some(node), None) => Ok(node.id),
        (None, _) => Err(Problem::new(Code::NotFound, format!("no node has the id or the address {name:?}"))),
        (Some(_), Some(_)) => {
            Err(Problem::invalid(format!("several nodes have had the address {name}: name one by its id")))
        }
    }
}

/// A move as callers see it.
pub(crate) fn replica_move(found: &node_v1::Move) -> ReplicaMove {
    ReplicaMove {
        shard: found.shard,
        from: (found.from != 0).then(|| format!("{:016x}", found.from)),
        to: format!("{:016x}", found.to),
        step: found.step().word().to_owned(),
    }
}
