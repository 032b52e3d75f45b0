//! Verifying shards: every replica digests its state as of the same command, and the digests are compared.
//!
//! The shard's leader writes the command to the log; then each replica is asked for its digest until it has one or the
//! deadline is near. Who is wrong, [`mira_proto::verification`] says.

use std::time::Duration;

use futures::StreamExt;
use mira_proto::model::{ReplicaVerification, ShardVerification, VerifyReply, VerifyRequest};
use mira_proto::node_v1::{RepairReplicaRequest, VerificationState, VerifyShardReply, VerifyShardRequest};
use mira_proto::verification::{verdict, wrong};
use mira_proto::{NodeId, Problem, ShardId, limits};
use tokio::time::{sleep, timeout};

use crate::cluster::{Call, Group, ReplicaChoice, RouteConstraint, View};
use crate::{Memory, RequestContext};

/// Shards verified at once: reading everything is work for the disks.
const AT_ONCE: usize = 2;
/// Between two questions whether a digest is ready.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Before the deadline no more is asked, so that what is known goes out.
const LAST_WORDS: Duration = Duration::from_millis(500);

impl Memory {
    /// Compares what the replicas of shards hold.
    pub async fn verify_shards(
        &self,
        context: &RequestContext,
        request: VerifyRequest,
    ) -> Result<VerifyReply, Problem> {
        self.bounded("verify_shards", context, async {
            self.cluster.refresh(0).await;
            let view = self.cluster.view_by(context.deadline).await?;
            let wanted: Vec<ShardId> = request.shards.unwrap_or_else(|| view.shard_ids().collect());
            if let Some(unknown) = wanted.iter().find(|&&shard| shard >= view.shard_count()) {
                return Err(Problem::invalid(format!(
                    "there is no shard {unknown}: they go from 0 to {}",
                    view.shard_count() - 1
                )));
            }
            let verified = wanted.into_iter().map(|shard| self.verify_shard(context, &view, shard));
            let mut verified: Vec<(ShardId, Vec<(NodeId, VerifyShardReply)>)> = futures::stream::iter(verified)
                .buffer_unordered(AT_ONCE)
                .collect::<Vec<_>>()
                .await
                .into_iter()
                .collect::<Result<_, _>>()?;
            verified.sort_by_key(|(shard, _)| *shard);
            let mut shards = Vec::with_capacity(verified.len());
            for (shard, replies) in verified {
                let mut verification = compare(shard, &replies);
                if request.repair {
                    for node in wrong(&replies) {
                        self.repair_replica(context, shard, node).await?;
                        let name = format!("{node:016x}");
                        verification
                            .replicas
                            .iter_mut()
                            .filter(|replica| replica.node == name)
                            .for_each(|replica| replica.repairing = true);
                    }
                }
                shards.push(verification);
            }
            Ok(VerifyReply { shards })
        })
        .await
    }

    async fn verify_shard(
        &self,
        context: &RequestContext,
        view: &View,
        shard: ShardId,
    ) -> Result<(ShardId, Vec<(NodeId, VerifyShardReply)>), Problem> {
        let nonce = rand::random();
        let call = Call {
            operation: "verify",
            group: Group::Shard(shard),
            replica: ReplicaChoice::Leader,
            deadline: context.deadline,
            try_for: limits::WRITE_TRY,
            route: None,
            constraint: RouteConstraint::Whole,
        };
        let begin = VerifyShardRequest { shard, nonce, begin: true };
        self.cluster.call(&call, |clients, _| async move { clients.shards().verify_shard(begin).await }).await?;
        let replicas = view.replicas(Group::Shard(shard));
        let asked = replicas.into_iter().map(|node| async move {
            (node, self.digest_of(context, view, node, VerifyShardRequest { begin: false, ..begin }).await)
        });
        Ok((shard, futures::future::join_all(asked).await))
    }

    /// Asks one replica until it has its digest, or there is no time for more.
    async fn digest_of(
        &self,
        context: &RequestContext,
        view: &View,
        node: NodeId,
        ask: VerifyShardRequest,
    ) -> VerifyShardReply {
        loop {
            let reply = match self.cluster.clients_of(view, node) {
                Ok(clients) => match timeout(limits::STATUS_TRY, clients.shards().verify_shard(ask)).await {
                    Ok(Ok(reply)) => reply.into_inner(),
                    Ok(Err(status)) => unreachable(&Problem::from(status).detail),
                    Err(_) => unreachable("no answer"),
                },
                Err(status) => unreachable(&Problem::from(status).detail),
            };
            if matches!(reply.state(), VerificationState::Done | VerificationState::Failed)
                || context.remaining() < LAST_WORDS + limits::STATUS_TRY
            {
                return reply;
            }
            sleep(ASK_EVERY).await;
        }
    }

    async fn repair_replica(&self, context: &RequestContext, shard: ShardId, node: NodeId) -> Result<(), Problem> {
        let request = RepairReplicaRequest { shard, node };
        self.cluster
            .ask_meta(context, "repair_replica", request, |clients, request| async move {
                clients.cluster().repair_replica(request).await
            })
            .await?;
        Ok(())
    }
}

fn unreachable(why: &str) -> VerifyShardReply {
    VerifyShardReply { state: VerificationState::Unreachable.into(), error: why.to_owned(), ..Default::default() }
}

fn compare(shard: ShardId, replies: &[(NodeId, VerifyShardReply)]) -> ShardVerification {
    let replica = |(node, reply): &(NodeId, VerifyShardReply)| ReplicaVerification {
        node: format!("{node:016x}"),
        state: reply.state().word().to_owned(),
        index: reply.index,
        records: reply.pairs,
        digest: reply.digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        error: reply.error.clone(),
        repairing: false,
    };
    ShardVerification { shard, state: verdict(replies).to_owned(), replicas: replies.iter().map(replica).collect() }
}
