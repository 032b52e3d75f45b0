//! Nodes of the cluster as an operator sees them: they join, get and lose replicas, are replaced, and go.

use mira_proto::{Code, PROTOCOL_VERSION, Problem, Refusal, limits, node_v1};

use super::{
    must_lead, newest,
    requests::{Answered, AskedOnce},
};
use crate::{
    member::Member,
    meta::{ClusterState, MetaAnswer, MetaCommand, NodeRecord, state::cluster_id_text},
    node::Node,
    placement::rebalance::{self, NodeChange, Planned},
};

/// Lets a node into the cluster. The node that is asked judges the proof, which was made over its own challenge, and has the
/// leader of the meta group take the node in.
pub async fn join(node: &Node, request: node_v1::JoinRequest) -> Result<node_v1::JoinReply, Refusal> {
    let cluster = node.cluster();
    let joiner = checked_joiner(&cluster, &request)?;
    node.check_join_proof(&joiner, &request.challenge, &request.proof)
        .map_err(|_| Problem::new(Code::PermissionDenied, "the joiner does not hold this cluster's key"))?;
    if cluster.nodes.len() >= limits::MAX_NODES && !cluster.nodes.contains_key(&joiner.id) {
        let detail = format!("a cluster has at most {} nodes", limits::MAX_NODES);
        return Err(Problem::new(Code::TooLarge, detail).into());
    }
    let id = joiner.id;
    if node.propose_meta(&MetaCommand::PutNode(joiner)).await? == MetaAnswer::Refused {
        let detail =
            format!("node {id:016x} was removed from this cluster: empty its data folder, and it joins as a new one");
        return Err(Problem::new(Code::PermissionDenied, detail).into());
    }
    Ok(node_v1::JoinReply { cluster_id: cluster_id_text(cluster.header.cluster_id), map: Some(node.map(0)) })
}

/// The joiner, if it may come to this cluster as far as its request says.
fn checked_joiner(cluster: &ClusterState, request: &node_v1::JoinRequest) -> Result<NodeRecord, Refusal> {
    let own = cluster_id_text(cluster.header.cluster_id);
    if own.is_empty() {
        return Err(Refusal::NotReady("this node belongs to no cluster yet".into()));
    }
    if request.protocol_version != PROTOCOL_VERSION {
        let found = request.protocol_version;
        let detail = format!("the joiner speaks protocol {found}, this cluster {PROTOCOL_VERSION}");
        return Err(Problem::new(Code::UnsupportedVersion, detail).into());
    }
    if !request.cluster_id.is_empty() && request.cluster_id != own {
        let detail =
            format!("the joiner belongs to cluster {}, this is {own}; empty its data folder first", request.cluster_id);
        return Err(Problem::invalid(detail).into());
    }
    let joiner = NodeRecord::from(request.node.clone().ok_or_else(|| Problem::invalid("no node given"))?);
    if joiner.format < cluster.header.format {
        let (knows, written) = (joiner.format, cluster.header.format);
        let detail =
            format!("the joiner knows formats up to level {knows}, this cluster writes level {written}: update it");
        return Err(Problem::new(Code::UnsupportedVersion, detail).into());
    }
    Ok(joiner)
}

/// Gives a node its share of the replicas, takes them away, or forgets it; a dry run only says what would move.
pub async fn change(node: &Node, request: node_v1::ChangeNodeRequest) -> Result<node_v1::ChangeNodeReply, Refusal> {
    let member = node.member();
    let cluster = newest(member).await?;
    let asked = AskedOnce::new(&cluster, &request.request_id)?;
    if let Some(Answered { reply, epoch, .. }) = asked.answered(&cluster)? {
        return Ok(node_v1::ChangeNodeReply { epoch, ..reply });
    }
    let change = node_change(&request)?;
    let (command, planned) = plan_change(&cluster, change)?;
    if let NodeChange::Replace { dead, .. } = change
        && node.answers(dead).await
    {
        let detail = format!("node {dead:016x} answers: drain it instead of replacing it");
        return Err(Problem::new(Code::Conflict, detail).into());
    }
    let moves = planned.into_iter().map(planned_move).collect();
    let reply = node_v1::ChangeNodeReply { moves, epoch: 0 };
    if !request.dry_run && asked.propose(member, &command, &reply).await? == MetaAnswer::Refused {
        return Err(Problem::new(Code::Conflict, "the cluster changed meanwhile: ask again").into());
    }
    Ok(node_v1::ChangeNodeReply { epoch: member.cluster().header.epoch, ..reply })
}

/// The command that makes a change, and the moves that follow from it.
fn plan_change(cluster: &ClusterState, change: NodeChange) -> Result<(MetaCommand, Vec<Planned>), Problem> {
    let command = rebalance::decide(cluster, change)?;
    let planned = rebalance::pending(&rebalance::after(cluster, &command));
    Ok((command, planned))
}

fn planned_move(planned: Planned) -> node_v1::Move {
    let Planned { shard, from, to } = planned;
    let step = node_v1::MoveStep::Unspecified.into();
    node_v1::Move { shard, from: from.unwrap_or_default(), to, step }
}

fn node_change(request: &node_v1::ChangeNodeRequest) -> Result<NodeChange, Problem> {
    use node_v1::change_node_request::Action;
    match request.action() {
        Action::Add => Ok(NodeChange::Add(request.node)),
        Action::Drain => Ok(NodeChange::Drain(request.node)),
        Action::Replace => Ok(NodeChange::Replace { dead: request.node, by: request.by }),
        Action::Remove => Ok(NodeChange::Remove(request.node)),
        Action::Unspecified => Err(Problem::invalid("say whether to add, drain, replace or remove the node")),
    }
}

/// Forbids or allows moves other than those that repair damage.
pub async fn pause_moves(
    member: &Member,
    request: node_v1::PauseMovesRequest,
) -> Result<node_v1::PauseMovesReply, Refusal> {
    must_lead(member)?;
    member.propose_meta(&MetaCommand::PauseMoves(request.paused)).await?;
    Ok(node_v1::PauseMovesReply { epoch: member.cluster().header.epoch })
}

/// Has a replica rebuilt from the others.
pub async fn repair_replica(
    member: &Member,
    request: node_v1::RepairReplicaRequest,
) -> Result<node_v1::RepairReplicaReply, Refusal> {
    must_lead(member)?;
    let node_v1::RepairReplicaRequest { shard, node: replica } = request;
    let command = MetaCommand::StartMove { shard, from: Some(replica), to: replica };
    let refused = match member.propose_meta(&command).await? {
        MetaAnswer::Done => return Ok(node_v1::RepairReplicaReply { epoch: member.cluster().header.epoch }),
        MetaAnswer::Exists => format!("a replica of shard {shard} is moving already: wait until it is done"),
        _ => format!("node {replica:016x} has no replica of shard {shard}"),
    };
    Err(Problem::new(Code::Conflict, refused).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::state::ClusterHeader;

    fn cluster(cluster_id: u128) -> ClusterState {
        ClusterState { header: ClusterHeader { cluster_id, ..ClusterHeader::default() }, ..ClusterState::default() }
    }

    #[test]
    fn a_joiner_is_let_in_by_a_formed_cluster_of_its_own_protocol_that_is_not_another() {
        let joiner = node_v1::NodeInfo { id: 7, ..Default::default() };
        let request =
            node_v1::JoinRequest { node: Some(joiner), protocol_version: PROTOCOL_VERSION, ..Default::default() };
        assert_eq!(checked_joiner(&cluster(1), &request).expect("it may come").id, 7);
        assert!(matches!(checked_joiner(&cluster(0), &request), Err(Refusal::NotReady(_))));
        let own = node_v1::JoinRequest { cluster_id: cluster_id_text(1), ..request.clone() };
        assert!(checked_joiner(&cluster(1), &own).is_ok(), "it comes again");
        let code = |request: &node_v1::JoinRequest| match checked_joiner(&cluster(1), request) {
            Err(Refusal::Problem(problem)) => problem.code,
            other => panic!("not refused: {other:?}"),
        };
        let another = node_v1::JoinRequest { cluster_id: cluster_id_text(2), ..request.clone() };
        assert_eq!(code(&another), Code::InvalidArgument);
        let newer = node_v1::JoinRequest { protocol_version: PROTOCOL_VERSION + 1, ..request.clone() };
        assert_eq!(code(&newer), Code::UnsupportedVersion);
        assert_eq!(code(&node_v1::JoinRequest { node: None, ..request }), Code::InvalidArgument);
    }

    #[test]
    fn a_change_says_what_it_is() {
        let request = node_v1::ChangeNodeRequest::default();
        assert_eq!(node_change(&request).expect_err("no action").code, Code::InvalidArgument);
        let action = node_v1::change_node_request::Action::Replace.into();
        let request = node_v1::ChangeNodeRequest { action, node: 1, by: 2, ..request };
        assert_eq!(node_change(&request), Ok(NodeChange::Replace { dead: 1, by: 2 }));
    }
}
