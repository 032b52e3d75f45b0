//! Backup and restore, for the program that carries pieces between nodes and a repository. It speaks the nodes' own
//! messages, protobuf of `mira.node.v1`: pieces are sealed bytes, of which a router understands nothing. This file knows
//! who must be asked for each step.

use std::future::Future;

use bytes::Bytes;
use mira_proto::clients::NodeClients;
use mira_proto::model::{BackupRepository, RepositoriesReply};
use mira_proto::node_v1;
use mira_proto::{Code, Problem, limits};
use prost::Message;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::cluster::{Call, Group, ReplicaChoice, RouteConstraint};
use crate::operations::convert;
use crate::{Memory, RequestContext};

impl Memory {
    /// Places that hold backups.
    pub async fn list_repositories(&self, context: &RequestContext) -> Result<RepositoriesReply, Problem> {
        self.bounded("list_repositories", context, async {
            let keys = self.ask_keys(context, false).await?;
            let place = |found: &node_v1::RepositoryInfo| {
                let id = Uuid::from_slice(&found.id);
                let id = id.map_err(|_| Problem::new(Code::Damaged, "a node named a repository without an id"))?;
                let finished_at = (found.finished_ms != 0).then(|| convert::rfc3339(found.finished_ms));
                Ok(BackupRepository { id, place: found.place.clone(), finished_at })
            };
            let repositories = keys.repositories.iter().map(place).collect::<Result<_, Problem>>()?;
            Ok(RepositoriesReply { repositories })
        })
        .await
    }

    /// One step of a backup or a restore: the request of that name of the nodes' service, encoded, and its answer.
    pub async fn backup_step(&self, context: &RequestContext, step: &str, body: Bytes) -> Result<Vec<u8>, Problem> {
        self.bounded("backup_step", context, async {
            let meta = Call::to_meta_leader(context, "backup");
            let any = whole(context, "restore_page", Group::Meta, ReplicaChoice::Any);
            match step {
                "begin-backup" => {
                    self.pass(&meta, body, |clients, sent| async move { clients.backup().begin_backup(sent).await })
                        .await
                }
                "backup-page" => {
                    let page = node_v1::BackupPageRequest::decode(body.clone()).map_err(malformed)?;
                    let replica = if page.node == 0 { ReplicaChoice::Any } else { ReplicaChoice::Only(page.node) };
                    let call = whole(context, "backup_page", Group::Shard(page.shard), replica);
                    self.pass(&call, body, |clients, sent| async move { clients.backup().backup_page(sent).await })
                        .await
                }
                "backup-start" => {
                    let start = node_v1::BackupStartRequest::decode(body.clone()).map_err(malformed)?;
                    let call = whole(context, "backup_start", Group::Shard(start.shard), ReplicaChoice::Leader);
                    self.pass(&call, body, |clients, sent| async move { clients.backup().backup_start(sent).await })
                        .await
                }
                "backup-log" => {
                    let log = node_v1::BackupLogRequest::decode(body.clone()).map_err(malformed)?;
                    let call = whole(context, "backup_log", Group::Shard(log.shard), ReplicaChoice::Leader);
                    self.pass(&call, body, |clients, sent| async move { clients.backup().backup_log(sent).await }).await
                }
                "replay-log" => {
                    let replay = node_v1::ReplayRequest::decode(body.clone()).map_err(malformed)?;
                    // One node, not two that hedge: each would hold on to what it began.
                    let replica =
                        if replay.node == 0 { ReplicaChoice::Leader } else { ReplicaChoice::Only(replay.node) };
                    let call = whole(context, "replay_log", Group::Meta, replica);
                    self.pass(&call, body, |clients, sent| async move { clients.backup().replay_log(sent).await }).await
                }
                "sign-backup" => {
                    self.pass(&meta, body, |clients, sent| async move { clients.backup().sign_backup(sent).await })
                        .await
                }
                "finish-backup" => {
                    self.pass(&meta, body, |clients, sent| async move { clients.backup().finish_backup(sent).await })
                        .await
                }
                "forget-repository" => {
                    self.pass(
                        &meta,
                        body,
                        |clients, sent| async move { clients.backup().forget_repository(sent).await },
                    )
                    .await
                }
                "begin-restore" => {
                    self.pass(&meta, body, |clients, sent| async move { clients.backup().begin_restore(sent).await })
                        .await
                }
                "restore-page" => {
                    self.pass(&any, body, |clients, sent| async move { clients.backup().restore_page(sent).await })
                        .await
                }
                "end-restore" => {
                    self.pass(&meta, body, |clients, sent| async move { clients.backup().end_restore(sent).await })
                        .await
                }
                _ => Err(Problem::new(Code::NotFound, format!("a backup has no step {step:?}"))),
            }
        })
        .await
    }

    async fn pass<Q, A, Fut>(
        &self,
        call: &Call<'_>,
        body: Bytes,
        send: impl Fn(NodeClients, Request<Q>) -> Fut,
    ) -> Result<Vec<u8>, Problem>
    where
        Q: Message + Default + Clone,
        A: Message,
        Fut: Future<Output = Result<Response<A>, Status>>,
    {
        let request = Q::decode(body).map_err(malformed)?;
        let answer = self.cluster.call(call, |clients, _| send(clients, Request::new(request.clone()))).await?;
        Ok(answer.encode_to_vec())
    }
}

/// Moves as many bytes as a message may have, and waits for the disks of several nodes.
fn whole(context: &RequestContext, operation: &'static str, group: Group, replica: ReplicaChoice) -> Call<'static> {
    Call {
        operation,
        group,
        replica,
        deadline: context.deadline,
        try_for: 2 * limits::WRITE_TRY,
        route: None,
        constraint: RouteConstraint::Whole,
    }
}

fn malformed(error: prost::DecodeError) -> Problem {
    Problem::invalid(format!("the body is not the message of this step: {error}"))
}
