//! `change`: what becomes of one memory: `restore` brings it back from the bin.
//!
//! With an `Idempotency-Key` it is answered as the first time, whatever became of the memory since.

use mira_proto::model::{ChangeAction, ChangeReply, ChangeRequest};
use mira_proto::{Code, Problem, node_v1};
use uuid::Uuid;

use crate::cluster::{Call, CallError, CollectionRoute, Leftover, RemovalPart, Selected};
use crate::ids::{self, WriteIdentity};
use crate::memory::{MAX_REROUTES, no_collection};
use crate::operations::validate;
use crate::private::seal;
use crate::{ConsistencyToken, Memory, RequestContext};

impl Memory {
    /// Does something to one memory.
    pub async fn change(&self, context: &RequestContext, request: ChangeRequest) -> Result<ChangeReply, Problem> {
        self.bounded("change", context, async {
            let collection = validate::collection(request.collection.clone())?;
            self.claim_key(context, &collection, ("change", &request)).await?;
            match request.action {
                ChangeAction::Restore => self.restore_memory(context, &collection, request.id).await,
            }
        })
        .await
    }

    async fn restore_memory(
        &self,
        context: &RequestContext,
        collection: &str,
        id: Uuid,
    ) -> Result<ChangeReply, Problem> {
        let context = &self.with_owner(context).await?;
        for _ in 0..MAX_REROUTES {
            let route = self.find_collection(context, collection).await?.ok_or_else(|| no_collection(collection))?;
            match self.undelete_in(context, &route, id).await {
                Err(CallError::Moved) => {
                    self.cluster.newer_map().await;
                }
                reply => return Ok(reply?),
            }
        }
        Err(CallError::Moved.into())
    }

    /// Asks the shard where the memory lay first, and then, if it has moved or was never there, where it lies.
    async fn undelete_in(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        id: Uuid,
    ) -> Result<ChangeReply, CallError> {
        let selected = Selected::Ids(std::slice::from_ref(&id));
        let mut parts = route.first_parts(selected);
        let mut failed = CallError::Moved;
        for _ in 0..2 {
            let Some(part) = parts.pop() else { break };
            match self.undelete(context, route, &part, id).await {
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => {}
                Err(CallError::Refused { problem, after_unknown_outcome }) if problem.code == Code::NotFound => {
                    failed = CallError::Refused { problem, after_unknown_outcome };
                }
                Err(error) => return Err(error),
            }
            parts = route.second_parts(selected, &mut Leftover { moved: vec![id], ..Leftover::default() });
        }
        Err(failed)
    }

    /// Brings a memory back in one shard; none if another shard decides about it.
    async fn undelete(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        part: &RemovalPart,
        id: Uuid,
    ) -> Result<Option<ChangeReply>, CallError> {
        let (shard, collection) = (part.shard, route.info.id);
        let owner = context.owner_key().map(|owner| seal::owner_name(owner, collection)).unwrap_or_default();
        let parts: [&[u8]; 3] = [b"restore", id.as_bytes(), &owner];
        let request_id =
            ids::request_id(context, &WriteIdentity { operation: "change", collection, shard, parts: &parts });
        let header = node_v1::WriteHeader { request_id, ..route.write_header(context, shard) };
        let request = node_v1::UndeleteRequest { header: Some(header), ids: vec![ids::id_bytes(id)], owner };
        let call = Call::to_write(context, route, "undelete", shard, part.constraint);
        let reply: node_v1::UndeleteReply = self
            .cluster
            .call(&call, |clients, attempt| {
                let mut request = request.clone();
                if let Some(header) = &mut request.header {
                    header.epoch = attempt.epoch;
                }
                async move { clients.shards().undelete(request).await }
            })
            .await?;
        let odd = || Problem::internal(format!("shard {shard} answered for another number of frames"));
        let outcome = reply.outcomes.into_iter().next().ok_or_else(|| CallError::refused(odd()))?;
        if outcome.moved {
            return Ok(None);
        }
        if let Some(problem) = outcome.problem {
            return Err(CallError::refused(problem.into()));
        }
        let mut seen = ConsistencyToken::default();
        seen.note(shard, reply.index);
        let (version, unchanged) = (outcome.version, outcome.unchanged);
        let consistency_token = context.having_seen(&seen).token.to_string();
        Ok(Some(ChangeReply { id, version, unchanged, consistency_token }))
    }
}
