//! `status`: how the cluster is, asked of every node at once.
//!
//! It answers within [`limits::STATUS_TRY`] whatever the nodes do: one that does not answer is listed as unreachable.
//! A shard has a leader when some node says that it leads; of two that say so, the one with the later term does.

use std::collections::BTreeMap;

use futures::future::join_all;
use mira_proto::model::{NodeStatus, ReplicaStatus, ShardStatus, StatusReply, StatusRequest};
use mira_proto::node_v1::{self, GroupStatus, ReplicaRole};
use mira_proto::{NodeId, Problem, ShardId, limits};
use tokio::time::{Instant, timeout};

use crate::cluster::{Group, View};
use crate::operations::convert;
use crate::{Memory, RequestContext, VERSION};

/// What each node said of itself, or why it said nothing.
type NodeReports = BTreeMap<NodeId, Result<node_v1::NodeStatus, String>>;

/// The meta group's number on the wire; a shard's is one more than the shard's own.
const META_GROUP: u32 = 0;

impl Memory {
    /// Says how the cluster is.
    pub async fn status(&self, context: &RequestContext, request: StatusRequest) -> Result<StatusReply, Problem> {
        self.bounded("status", context, async {
            let model = self.embedding.model().map(|model| model.name.clone());
            let by = Instant::now() + limits::STATUS_TRY;
            let Ok(view) = self.cluster.view_by(by).await else {
                let missing = vec!["no storage node has answered yet: there is no cluster map".to_owned()];
                let state = "unavailable".to_owned();
                return Ok(StatusReply { state, version: VERSION.to_owned(), model, missing, ..Default::default() });
            };
            let answers = self.ask_all(&view).await;
            let mut reply = StatusReply { model, ..summary(&view, &answers) };
            if request.detailed {
                reply.groups = groups(&view, &answers);
                match self.cluster.all_collections(&context.within(limits::STATUS_TRY)).await {
                    Ok(all) => reply.collections = all.iter().map(convert::collection).collect::<Result<_, _>>()?,
                    Err(error) => reply.missing.push(format!("collections: {}", Problem::from(error).detail)),
                }
            }
            Ok(reply)
        })
        .await
    }

    async fn ask_all(&self, view: &View) -> NodeReports {
        let ask = |node: NodeId| async move {
            let clients = self.cluster.clients_of(view, node).map_err(|status| Problem::from(status).detail)?;
            let started = Instant::now();
            let answer = timeout(
                limits::STATUS_TRY,
                clients.cluster().status(node_v1::StatusRequest { detailed: true, ..Default::default() }),
            )
            .await;
            self.metrics.storage("status", started.elapsed());
            match answer {
                Ok(Ok(answer)) => Ok(answer.into_inner()),
                Ok(Err(status)) => Err(Problem::from(status).detail),
                Err(_) => Err(format!("no answer within {:?}", limits::STATUS_TRY)),
            }
        };
        join_all(view.nodes().map(|node| async { (node.id, ask(node.id).await) })).await.into_iter().collect()
    }
}

/// Everything but the details.
fn summary(view: &View, answers: &NodeReports) -> StatusReply {
    let leaders: BTreeMap<ShardId, Option<NodeId>> =
        view.shard_ids().map(|shard| (shard, leader(answers, shard + 1))).collect();
    let leaderless_shards: Vec<ShardId> =
        leaders.iter().filter(|(_, leader)| leader.is_none()).map(|(&shard, _)| shard).collect();
    let missing: Vec<String> = answers
        .iter()
        .filter_map(|(&id, answer)| Some((id, answer.as_ref().err()?)))
        .map(|(id, why)| format!("node {id:016x} at {}: {why}", view.address(id).map_or("?", String::as_str)))
        .collect();
    let state = match (leaderless_shards.is_empty(), missing.is_empty()) {
        (false, _) => "unavailable",
        (true, false) => "degraded",
        (true, true) => "ok",
    };
    StatusReply {
        state: state.to_owned(),
        cluster_id: view.cluster_id.clone(),
        version: VERSION.to_owned(),
        epoch: view.epoch,
        shards: view.shard_count(),
        leaderless_shards,
        frames: view.shard_ids().map(|shard| frames(answers, shard + 1)).sum(),
        nodes: view.nodes().map(|node| node_status(node, answers, &leaders)).collect(),
        missing,
        moves: view.moves.iter().map(crate::operations::admin::nodes::replica_move).collect(),
        moves_paused: view.moves_paused,
        ..Default::default()
    }
}

/// What every reachable node says about a group.
fn reports(answers: &NodeReports, group: u32) -> impl Iterator<Item = (NodeId, &GroupStatus)> {
    answers.iter().filter_map(move |(&node, answer)| {
        let status = answer.as_ref().ok()?;
        status.groups.iter().find(|status| status.group == group).map(|status| (node, status))
    })
}

fn leader(answers: &NodeReports, group: u32) -> Option<NodeId> {
    let leading = reports(answers, group).filter(|(_, status)| status.role() == ReplicaRole::Leader);
    leading.max_by_key(|(_, status)| status.term).map(|(node, _)| node)
}

/// A shard's frames, as its leader counts them; without a leader, as the replica that has applied most.
fn frames(answers: &NodeReports, group: u32) -> u64 {
    let rank = |status: &GroupStatus| (status.role() == ReplicaRole::Leader, status.applied);
    reports(answers, group).max_by_key(|(_, status)| rank(status)).map_or(0, |(_, status)| status.frames)
}

fn node_status(
    node: &node_v1::NodeInfo,
    answers: &NodeReports,
    leaders: &BTreeMap<ShardId, Option<NodeId>>,
) -> NodeStatus {
    let answer = answers.get(&node.id).and_then(|answer| answer.as_ref().ok());
    let said = answer.cloned().unwrap_or_default();
    NodeStatus {
        id: format!("{:016x}", node.id),
        address: node.address.clone(),
        reachable: answer.is_some(),
        phase: node.phase().word().to_owned(),
        version: if answer.is_some() { said.version } else { node.version.clone() },
        uptime_ms: said.uptime_ms,
        resident_bytes: said.resident_bytes,
        disk_used_bytes: said.disk_used_bytes,
        disk_free_bytes: said.disk_free_bytes,
        leads: leaders.values().filter(|&&leader| leader == Some(node.id)).count() as u32,
    }
}

/// Every group with its replicas: the meta group first, then the shards.
fn groups(view: &View, answers: &NodeReports) -> Vec<ShardStatus> {
    let meta: Vec<NodeId> = reports(answers, META_GROUP).map(|(node, _)| node).collect();
    let shards = view.shard_ids().map(|shard| (Some(shard), shard + 1, view.replicas(Group::Shard(shard))));
    std::iter::once((None, META_GROUP, meta))
        .chain(shards)
        .map(|(shard, group, replicas)| ShardStatus {
            shard,
            leader: leader(answers, group).map(|node| format!("{node:016x}")),
            replicas: replicas.into_iter().map(|node| replica_status(answers, group, node)).collect(),
        })
        .collect()
}

fn replica_status(answers: &NodeReports, group: u32, node: NodeId) -> ReplicaStatus {
    let said = reports(answers, group).find(|(reporter, _)| *reporter == node).map(|(_, status)| status.clone());
    let absent = if answers.get(&node).is_some_and(Result::is_ok) { "stopped" } else { "unreachable" };
    let role = said.as_ref().map_or(absent, |status| status.role().word()).to_owned();
    let status = said.unwrap_or_default();
    ReplicaStatus {
        node: format!("{node:016x}"),
        role,
        term: status.term,
        applied: status.applied,
        apply_lag: status.committed.saturating_sub(status.applied),
        frames: status.frames,
        vectors: status.vectors,
        index_lag: status.index_lag,
    }
}
