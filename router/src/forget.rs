//! `forget`: remove frames by id, a session, what a filter means, or everything in a collection.
//!
//! Large sets go in steps, each a write of its own; a caller that is cut off in between asks again and the rest goes.
//! What does not exist is not removed and no problem, so that a repeated `forget` is one.

use std::collections::BTreeMap;

use futures::stream::{StreamExt, TryStreamExt};
use mira_proto::model::{DEFAULT_COLLECTION, ForgetReply, ForgetRequest};
use mira_proto::{Problem, ShardId, limits, node_v1};
use uuid::Uuid;

use crate::cluster::{Call, CallError, CollectionRoute, Group, Want};
use crate::ids::{self, WriteIdentity};
use crate::memory::{MAX_REROUTES, no_collection};
use crate::validate::{self, Doomed};
use crate::{ClusterMemory, ConsistencyToken, RequestContext};

/// What went, and from where.
#[derive(Default)]
struct Removed {
    count: u64,
    ids: Vec<Uuid>,
    seen: ConsistencyToken,
}

impl Removed {
    fn add(&mut self, other: Removed) {
        self.count += other.count;
        self.ids.extend(other.ids);
        self.ids.truncate(limits::MAX_FORGET_STEP);
        self.seen.merge(&other.seen);
    }
}

impl ClusterMemory {
    pub(crate) async fn forget_request(
        &self,
        context: &RequestContext,
        request: ForgetRequest,
    ) -> Result<ForgetReply, Problem> {
        let (collection, doomed) = validate::forget(request)?;
        let mut removed = Removed::default();
        for _ in 0..MAX_REROUTES {
            let Some(route) = self.find_collection(context, &collection).await? else {
                return match collection.as_str() {
                    DEFAULT_COLLECTION => Ok(reply(context, removed)),
                    _ => Err(no_collection(&collection)),
                };
            };
            match self.forget_in(context, &route, &doomed).await {
                Ok(more) => {
                    removed.add(more);
                    removed.ids.sort();
                    return Ok(reply(context, removed));
                }
                Err(CallError::Moved) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CallError::Moved.into())
    }

    async fn forget_in(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        doomed: &Doomed,
    ) -> Result<Removed, CallError> {
        let parts = requests(route, doomed).into_iter().map(|request| self.forget_shard(context, route, request));
        futures::stream::iter(parts)
            .buffer_unordered(limits::MAX_FAN_OUT)
            .try_fold(Removed::default(), |mut all, part| async move {
                all.add(part);
                Ok(all)
            })
            .await
    }

    /// Removes from one shard, step by step until nothing matches any more.
    async fn forget_shard(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        request: node_v1::ForgetRequest,
    ) -> Result<Removed, CallError> {
        let shard = request.shard;
        let call = Call {
            operation: "forget",
            group: Group::Shard(shard),
            want: Want::Leader,
            deadline: context.deadline,
            try_for: limits::WRITE_TRY,
            route: Some(route),
        };
        let (mut removed, mut after) = (Removed::default(), bytes::Bytes::new());
        for step in 0u64.. {
            let request_id = request_id(context, &request, step);
            let step_request = node_v1::ForgetRequest { request_id, after: after.clone(), ..request.clone() };
            let reply: node_v1::ForgetReply = self
                .cluster
                .call(&call, |mut client, epoch| {
                    let request = node_v1::ForgetRequest { epoch, ..step_request.clone() };
                    async move { client.forget(request).await }
                })
                .await?;
            let ids = reply.removed.iter().filter_map(|id| Uuid::from_slice(id).ok()).collect();
            let mut seen = ConsistencyToken::default();
            seen.note(shard, reply.index);
            removed.add(Removed { count: reply.removed.len() as u64, ids, seen });
            after = reply.next;
            if !reply.more {
                break;
            }
        }
        Ok(removed)
    }
}

/// What each shard is asked to remove.
fn requests(route: &CollectionRoute, doomed: &Doomed) -> Vec<node_v1::ForgetRequest> {
    let partitioning = route.partitioning();
    let blank = |shard| node_v1::ForgetRequest { shard, collection: route.info.id, ..Default::default() };
    match doomed {
        Doomed::Ids(ids) => {
            let mut by_shard: BTreeMap<ShardId, node_v1::ForgetRequest> = BTreeMap::new();
            for id in ids {
                let shard = partitioning.shard_of(id.as_u128());
                by_shard.entry(shard).or_insert_with(|| blank(shard)).ids.push(ids::id_bytes(*id));
            }
            by_shard.into_values().collect()
        }
        Doomed::Session(session) => {
            let of_session = |&shard| node_v1::ForgetRequest { session: session.clone(), ..blank(shard) };
            partitioning.shards().iter().map(of_session).collect()
        }
        Doomed::Filtered(filter_json) => {
            let filtered = |&shard| node_v1::ForgetRequest { filter_json: filter_json.clone(), ..blank(shard) };
            partitioning.shards().iter().map(filtered).collect()
        }
        Doomed::All => {
            let all = |&shard| node_v1::ForgetRequest { all: true, ..blank(shard) };
            partitioning.shards().iter().map(all).collect()
        }
    }
}

fn request_id(context: &RequestContext, request: &node_v1::ForgetRequest, step: u64) -> bytes::Bytes {
    let step = step.to_be_bytes();
    let all: &[u8] = if request.all { b"all" } else { b"" };
    let mut parts: Vec<&[u8]> = vec![&step, request.session.as_bytes(), all, request.filter_json.as_bytes()];
    parts.extend(request.ids.iter().map(|id| &id[..]));
    let (collection, shard) = (request.collection, request.shard);
    ids::request_id(context, &WriteIdentity { operation: "forget", collection, shard, parts: &parts })
}

fn reply(context: &RequestContext, removed: Removed) -> ForgetReply {
    let token = context.having_seen(&removed.seen).token;
    ForgetReply { removed: removed.count, ids: removed.ids, consistency_token: token.to_string() }
}
