//! `change`: what becomes of a memory: `restore` brings it back from the bin, or all that a session, a filter or a collection
//! has there.
//!
//! With an `Idempotency-Key` it is answered as the first time, whatever became of the memory since. Many come back each by
//! itself, and are remembered so: a request that was cut off and comes again goes on with those that still rest, and does not
//! bring back what was forgotten since.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::StreamExt;
use mira_proto::limits::{self, MAX_FAN_OUT};
use mira_proto::model::{ChangeAction, ChangeReply, ChangeRequest};
use mira_proto::{Code, Problem, ShardId, node_v1};
use uuid::Uuid;

use crate::cluster::{Call, CallError, CollectionRoute, Leftover, RemovalPart, Selected, ShardAnswer, fan_out};
use crate::ids::{self, WriteIdentity};
use crate::memory::{MAX_REROUTES, no_collection};
use crate::operations::forget::Removal;
use crate::operations::validate::{self, checked_filter, checked_name};
use crate::private::seal;
use crate::{ConsistencyToken, Memory, RequestContext};

impl Memory {
    /// Does something to one memory.
    pub async fn change(&self, context: &RequestContext, request: ChangeRequest) -> Result<ChangeReply, Problem> {
        self.bounded("change", context, async {
            let collection = validate::collection(request.collection.clone())?;
            self.claim_key(context, &collection, ("change", &request)).await?;
            let ChangeAction::Restore = request.action;
            match restored(request)? {
                Removal::Ids(ids) => self.restore_memory(context, &collection, ids[0]).await,
                meant => self.restore_all(context, &collection, &meant).await,
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
                undeleted => return Ok(undeleted?.into_reply(context)),
            }
        }
        Err(CallError::Moved.into())
    }

    /// Brings back everything that is meant and rests in the bin.
    async fn restore_all(
        &self,
        context: &RequestContext,
        collection: &str,
        meant: &Removal,
    ) -> Result<ChangeReply, Problem> {
        let context = &self.with_owner(context).await?;
        let mut restored = Restored::default();
        for _ in 0..MAX_REROUTES {
            let route = self.find_collection(context, collection).await?.ok_or_else(|| no_collection(collection))?;
            match self.restore_in(context, &route, meant, &mut restored).await {
                Ok(()) => {
                    restored.ids.sort();
                    return Ok(ChangeReply {
                        restored: Some(restored.count),
                        ids: Some(restored.ids),
                        consistency_token: context.having_seen(&restored.seen).token.to_string(),
                        ..ChangeReply::default()
                    });
                }
                Err(CallError::Moved) => {
                    self.cluster.newer_map().await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(CallError::Moved.into())
    }

    async fn restore_in(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        meant: &Removal,
        restored: &mut Restored,
    ) -> Result<(), CallError> {
        for request in in_bin(context, route, meant) {
            // Where the next step of each shard begins.
            let mut after: BTreeMap<ShardId, Bytes> = BTreeMap::new();
            loop {
                let pages = fan_out(context, route, |header, _| {
                    let after = after.get(&header.shard).cloned().unwrap_or_default();
                    let request = node_v1::ListBinRequest { header: Some(header), after, ..request.clone() };
                    self.bin_page(context, route, request)
                });
                let pages = pages.whole().await?;
                let ids: BTreeSet<Uuid> = pages.iter().flat_map(|page| page.ids.iter().copied()).collect();
                let undeleted = ids.into_iter().map(|id| self.undelete_in(context, route, id));
                let mut undeleted = futures::stream::iter(undeleted.collect::<Vec<_>>()).buffer_unordered(MAX_FAN_OUT);
                while let Some(answer) = undeleted.next().await {
                    match answer {
                        Ok(undeleted) => restored.add(undeleted),
                        // Its time is over, or somebody has removed it for good.
                        Err(CallError::Refused { problem, .. }) if problem.code == Code::NotFound => {}
                        Err(error) => return Err(error),
                    }
                }
                if pages.iter().all(|page| page.next.is_none()) {
                    break;
                }
                after.extend(pages.into_iter().map(|page| (page.shard, page.next.unwrap_or_else(last_place))));
            }
        }
        Ok(())
    }

    async fn bin_page(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        request: node_v1::ListBinRequest,
    ) -> Result<BinPage, CallError> {
        let shard = request.header.as_ref().map_or(0, |header| header.shard);
        let reply = self.cluster.read(context, route, request).await?;
        Ok(BinPage {
            shard,
            ids: reply.ids.iter().filter_map(|id| Uuid::from_slice(id).ok()).collect(),
            taken_over: reply.taken_over().to_vec(),
            next: reply.more.then_some(reply.next),
        })
    }

    /// Asks the shard where the memory lay first, and then, if it has moved or was never there, where it lies.
    async fn undelete_in(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        id: Uuid,
    ) -> Result<Undeleted, CallError> {
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
    ) -> Result<Option<Undeleted>, CallError> {
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
        let node_v1::WriteOutcome { version, unchanged, forgotten, .. } = outcome;
        Ok(Some(Undeleted { id, version, unchanged, forgotten, seen }))
    }
}

/// A memory that is there.
struct Undeleted {
    id: Uuid,
    version: u64,
    /// It was there before.
    unchanged: bool,
    /// Those of its past versions that were forgotten.
    forgotten: Vec<u64>,
    seen: ConsistencyToken,
}

impl Undeleted {
    fn into_reply(self, context: &RequestContext) -> ChangeReply {
        ChangeReply {
            id: Some(self.id),
            version: Some(self.version),
            unchanged: self.unchanged,
            forgotten_versions: self.forgotten,
            consistency_token: context.having_seen(&self.seen).token.to_string(),
            ..ChangeReply::default()
        }
    }
}

/// What came back.
#[derive(Default)]
struct Restored {
    count: u64,
    ids: Vec<Uuid>,
    seen: ConsistencyToken,
}

impl Restored {
    fn add(&mut self, undeleted: Undeleted) {
        self.seen.merge(&undeleted.seen);
        if undeleted.unchanged {
            return;
        }
        self.count += 1;
        if self.ids.len() < limits::MAX_FORGET_IDS {
            self.ids.push(undeleted.id);
        }
    }
}

/// A step of a shard's bin.
struct BinPage {
    shard: ShardId,
    ids: Vec<Uuid>,
    taken_over: Vec<ShardId>,
    /// Where the next step begins, if there is one.
    next: Option<Bytes>,
}

impl ShardAnswer for BinPage {
    fn taken_over(&self) -> &[ShardId] {
        &self.taken_over
    }
}

/// Behind every frame.
fn last_place() -> Bytes {
    Bytes::from_static(&[0xff; 16])
}

/// What a request brings back.
fn restored(request: ChangeRequest) -> Result<Removal, Problem> {
    match (request.id, request.session, request.filter, request.all) {
        (Some(id), None, None, false) => Ok(Removal::Ids(vec![id])),
        (None, Some(session), None, false) => Ok(Removal::Session(checked_name("session", &session)?)),
        (None, None, Some(filter), false) => Ok(Removal::Filtered(checked_filter(&filter)?)),
        (None, None, None, true) => Ok(Removal::All),
        (None, None, None, false) => {
            Err(Problem::invalid("nothing to restore: send id, session, filter, or all: true"))
        }
        _ => Err(Problem::invalid("id, session, filter and all exclude each other: send one of them")),
    }
}

/// What shards are asked for. Two sessions may have one name: the plain one, and the owner's.
fn in_bin(context: &RequestContext, route: &CollectionRoute, meant: &Removal) -> Vec<node_v1::ListBinRequest> {
    let (owner, collection) = (context.owner_key(), route.info.id);
    let blank = node_v1::ListBinRequest {
        owner: owner.map(|owner| seal::owner_name(owner, collection)).unwrap_or_default(),
        ..Default::default()
    };
    match meant {
        Removal::Ids(_) => Vec::new(),
        Removal::Session(session) => {
            let private = owner.map(|owner| node_v1::ListBinRequest {
                private_session: seal::session_name(owner, collection, session),
                ..blank.clone()
            });
            let plain = node_v1::ListBinRequest { session: session.clone(), ..blank };
            std::iter::once(plain).chain(private).collect()
        }
        Removal::Filtered(filter_json) => {
            vec![node_v1::ListBinRequest { filter_json: filter_json.clone(), ..blank }]
        }
        Removal::All => vec![node_v1::ListBinRequest { all: true, ..blank }],
    }
}
