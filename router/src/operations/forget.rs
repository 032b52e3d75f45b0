//! `forget`: remove frames by id, a session, what a filter means, or everything in a collection; into the bin, or for good.
//!
//! What goes for good goes from the bin too, where what was forgotten before still rests: shards are asked about both.
//!
//! Private memories go for their owner only, however they are named. Without its key no filter and no session means one, a request
//! that names one by its id is refused, and of everything in a collection they stay and are counted. To drop the collection, or
//! to shred all of it, is another matter: then nothing of it can be read any more.
//!
//! Large sets go in steps, each a write of its own; a caller that is cut off in between asks again and the rest goes. With
//! an `Idempotency-Key` it is told of all that went, whichever try removed it: shards remember what each step of the
//! request did. What does not exist is not removed and no problem, so that a repeated `forget` is one.

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use mira_index::Condition;
use mira_proto::filter::Filter;
use mira_proto::model::{DEFAULT_COLLECTION, ForgetReply, ForgetRequest};
use mira_proto::{Code, Problem, ShardId, limits, node_v1};
use node_v1::forget_request::Scope;
use uuid::Uuid;

use crate::cluster::{Call, CallError, CollectionRoute, Leftover, RemovalPart, Selected, ShardAnswer, fan_out};
use crate::ids::{self, WriteIdentity};
use crate::memory::{MAX_REROUTES, no_collection};
use crate::operations::convert;
use crate::operations::field_types::FieldTypes;
use crate::operations::validate::{self, checked_filter, checked_name, id_list};
use crate::private::seal;
use crate::{ConsistencyToken, Memory, RequestContext};

/// Which frames a `forget` removes.
#[derive(Debug, Clone, PartialEq)]
pub enum Removal {
    /// These.
    Ids(Vec<Uuid>),
    /// All of a session.
    Session(String),
    /// All that this filter means, as JSON.
    Filtered(String),
    /// All of the collection that is not another owner's.
    All,
}

impl Removal {
    /// How shards find them.
    fn selected(&self) -> Selected<'_> {
        match self {
            Removal::Ids(ids) => Selected::Ids(ids),
            Removal::Session(_) | Removal::Filtered(_) | Removal::All => Selected::Found,
        }
    }
}

/// Which frames are looked at for the types of their fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// Those that the index knows.
    Indexed,
    /// Every plain frame.
    All,
}

/// What the fields of a filter hold in one shard.
#[derive(Default)]
struct TypesInShard {
    types: FieldTypes,
    taken_over: Vec<ShardId>,
}

impl ShardAnswer for TypesInShard {
    fn taken_over(&self) -> &[ShardId] {
        &self.taken_over
    }
}

/// What went, and from where.
#[derive(Default)]
struct Removed {
    count: u64,
    ids: Vec<Uuid>,
    seen: ConsistencyToken,
    /// What is left to other shards.
    leftover: Leftover,
    /// Until when all of it can be brought back, milliseconds; none if nothing can.
    restorable_until_ms: Option<u64>,
    /// Private memories that are not the caller's to remove.
    private_left: u64,
}

impl Removed {
    fn add(&mut self, other: Removed) {
        let until = self.restorable_until_ms.into_iter().chain(other.restorable_until_ms);
        self.restorable_until_ms = until.min();
        self.count += other.count;
        self.private_left += other.private_left;
        self.ids.extend(other.ids);
        self.ids.truncate(limits::MAX_FORGET_IDS);
        self.seen.merge(&other.seen);
        self.leftover.add(other.leftover);
    }
}

impl Memory {
    /// Removes memories.
    pub async fn forget(&self, context: &RequestContext, request: ForgetRequest) -> Result<ForgetReply, Problem> {
        self.bounded("forget", context, async {
            let (shred, for_good) = (request.shred, request.now || request.shred);
            let said = request.clone();
            let (collection, removal) = self::removal(request)?;
            self.claim_key(context, &collection, ("forget", &said)).await?;
            if shred && matches!(removal, Removal::All) {
                let shred = Some(self.drop_collection(context, &collection, true).await?);
                return Ok(ForgetReply { shred, ..reply(context, Removed::default()) });
            }
            let reply = self.forget_named(context, &collection, (removal, for_good)).await?;
            if !shred {
                return Ok(reply);
            }
            Ok(ForgetReply { shred: Some(self.shred_key(context, &collection).await?), ..reply })
        })
        .await
    }

    async fn forget_named(
        &self,
        context: &RequestContext,
        collection: &str,
        (mut removal, for_good): (Removal, bool),
    ) -> Result<ForgetReply, Problem> {
        let context = &self.with_owner(context).await?;
        let mut removed = Removed::default();
        for _ in 0..MAX_REROUTES {
            let Some(route) = self.find_collection(context, collection).await? else {
                return match collection {
                    DEFAULT_COLLECTION => Ok(reply(context, removed)),
                    _ => Err(no_collection(collection)),
                };
            };
            match self.forget_in(context, &route, (&removal, for_good)).await {
                Ok(mut more) => {
                    let moved = std::mem::take(&mut more.leftover.moved);
                    removed.add(more);
                    if moved.is_empty() {
                        removed.ids.sort();
                        return Ok(reply(context, removed));
                    }
                    removal = Removal::Ids(moved);
                    self.cluster.newer_map().await;
                }
                Err(CallError::Moved) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CallError::Moved.into())
    }

    /// Asks every shard that may hold such frames, and then those that these have named.
    async fn forget_in(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        (removal, for_good): (&Removal, bool),
    ) -> Result<Removed, CallError> {
        if let Removal::Filtered(filter_json) = removal {
            self.filter_makes_sense(context, route, filter_json).await?;
        }
        let selected = removal.selected();
        let removal = (removal, for_good);
        let mut removed = self.forget_parts(context, route, removal, route.first_parts(selected)).await?;
        let parts = route.second_parts(selected, &mut removed.leftover);
        removed.add(self.forget_parts(context, route, removal, parts).await?);
        Ok(removed)
    }

    /// Refuses, before anything is removed, a filter that compares a field with what it holds nowhere: under a `not` it would
    /// mean everything.
    async fn filter_makes_sense(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        filter_json: &str,
    ) -> Result<(), CallError> {
        let name = &route.info.name;
        let indexed = self.types_everywhere(context, route, filter_json, Extent::Indexed).await?;
        if indexed.is_whole() && indexed.check(filter_json, name).is_ok() {
            return Ok(());
        }
        // Frames without vectors are in no index, and an index may be in the making: a look at all of them makes it certain.
        let all = self.types_everywhere(context, route, filter_json, Extent::All).await?;
        all.check(filter_json, name).map_err(CallError::refused)
    }

    async fn types_everywhere(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        filter_json: &str,
        extent: Extent,
    ) -> Result<FieldTypes, CallError> {
        let request = |header| node_v1::FieldTypesRequest {
            header: Some(header),
            filter_json: filter_json.to_owned(),
            walk: extent == Extent::All,
            after: Bytes::new(),
        };
        let said = fan_out(context, route, |header, _| self.types_in_shard(context, route, request(header)));
        let mut all = FieldTypes::default();
        said.whole().await?.into_iter().for_each(|said| all.merge(said.types));
        Ok(all)
    }

    async fn types_in_shard(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        mut request: node_v1::FieldTypesRequest,
    ) -> Result<TypesInShard, CallError> {
        let mut found = TypesInShard::default();
        loop {
            let reply = match self.cluster.read(context, route, request.clone()).await {
                Ok(reply) => reply,
                // A node of an older version cannot say.
                Err(CallError::Refused { problem, .. }) if problem.code == Code::UnsupportedVersion => {
                    Default::default()
                }
                Err(error) => return Err(error),
            };
            if request.after.is_empty() {
                found.taken_over = reply.taken_over().to_vec();
            }
            found.types.note(reply.field_types);
            if !reply.more {
                return Ok(found);
            }
            request.after = reply.next;
        }
    }

    async fn forget_parts(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        removal: (&Removal, bool),
        parts: Vec<RemovalPart>,
    ) -> Result<Removed, CallError> {
        let mut asked = Vec::new();
        for part in &parts {
            let requests = requests(context, route, removal, part);
            asked.extend(requests.into_iter().map(|request| {
                let call = Call::to_write(context, route, "forget", part.shard, part.constraint);
                self.forget_shard(context, call, request)
            }));
        }
        futures::stream::iter(asked)
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
        call: Call<'_>,
        mut request: node_v1::ForgetRequest,
    ) -> Result<Removed, CallError> {
        let shard = request.header.as_ref().map_or(0, |header| header.shard);
        let mut removed = Removed::default();
        for step in 0u64.. {
            let request_id = request_id(context, &request, step);
            let reply: node_v1::ForgetReply = self
                .cluster
                .call(&call, |clients, attempt| {
                    let mut request = request.clone();
                    if let Some(header) = &mut request.header {
                        header.epoch = attempt.epoch;
                        header.request_id = request_id.clone();
                    }
                    async move { clients.shards().forget(request).await }
                })
                .await?;
            let ids = reply.removed.iter().filter_map(|id| Uuid::from_slice(id).ok()).collect();
            let mut seen = ConsistencyToken::default();
            seen.note(shard, reply.index);
            removed.add(Removed {
                count: reply.removed.len() as u64,
                ids,
                seen,
                leftover: Leftover {
                    moved: reply.moved.iter().filter_map(|id| Uuid::from_slice(id).ok()).collect(),
                    frozen_for: reply.frozen_for.into_iter().map(|target| (target, vec![shard])).collect(),
                },
                restorable_until_ms: (reply.restorable_until_ms != 0).then_some(reply.restorable_until_ms),
                private_left: reply.private_left,
            });
            request.after = reply.next;
            if !reply.more {
                break;
            }
        }
        Ok(removed)
    }
}

/// Checks a `forget`; returns the collection, and what goes.
pub fn removal(request: ForgetRequest) -> Result<(String, Removal), Problem> {
    let collection = validate::collection(request.collection)?;
    let removal = match (request.id, request.ids, request.session, request.filter, request.all) {
        (Some(id), None, None, None, false) => Removal::Ids(vec![id]),
        (None, Some(ids), None, None, false) => Removal::Ids(id_list(ids, limits::MAX_FORGET_IDS)?),
        (None, None, Some(session), None, false) => Removal::Session(checked_name("session", &session)?),
        (None, None, None, Some(filter), false) => Removal::Filtered(meaningful(&filter)?),
        (None, None, None, None, true) => Removal::All,
        (None, None, None, None, false) => {
            return Err(Problem::invalid("nothing to forget: send id, ids, session, filter, or all: true"));
        }
        _ => return Err(Problem::invalid("id, ids, session, filter and all exclude each other: send one of them")),
    };
    Ok((collection, removal))
}

/// A filter that leaves something out: to forget everything must be asked for in so many words.
fn meaningful(filter: &Filter) -> Result<String, Problem> {
    match mira_index::filter::check(filter)? {
        Condition::All(parts) if parts.is_empty() => {
            Err(Problem::invalid("the filter matches everything: send all: true if that is meant"))
        }
        _ => checked_filter(filter),
    }
}

/// What one shard is asked to remove: of what is there, and for good also of what rests in the bin.
fn requests(
    context: &RequestContext,
    route: &CollectionRoute,
    (removal, for_good): (&Removal, bool),
    part: &RemovalPart,
) -> Vec<node_v1::ForgetRequest> {
    let scopes = match (for_good, removal) {
        (false, _) => &[Scope::IntoBin][..],
        (true, Removal::Ids(_)) => &[Scope::ForGood],
        (true, _) => &[Scope::ForGood, Scope::FromBin],
    };
    let of_scope = |&scope: &Scope| {
        let said = said(context, route, removal, part).into_iter();
        said.map(move |request| node_v1::ForgetRequest { scope: scope.into(), ..request })
    };
    scopes.iter().flat_map(of_scope).collect()
}

/// What a caller said, as one shard is told of it.
fn said(
    context: &RequestContext,
    route: &CollectionRoute,
    removal: &Removal,
    part: &RemovalPart,
) -> Vec<node_v1::ForgetRequest> {
    let owner = context.owner_key();
    let blank = node_v1::ForgetRequest {
        header: Some(route.write_header(context, part.shard)),
        taken_over_from: part.taken_over_from.clone(),
        may_be_retry: context.idempotency_key.is_some(),
        owner: owner.map(|owner| seal::owner_name(owner, route.info.id)).unwrap_or_default(),
        ..Default::default()
    };
    match removal {
        Removal::Ids(_) => {
            let step = |ids: &[Uuid]| node_v1::ForgetRequest {
                ids: ids.iter().map(|&id| ids::id_bytes(id)).collect(),
                ..blank.clone()
            };
            part.ids.chunks(limits::MAX_FORGET_STEP).map(step).collect()
        }
        Removal::Session(session) => {
            // Two sessions may have one name: the plain one, and the owner's.
            let private_session = owner.map(|owner| seal::session_name(owner, route.info.id, session));
            let private =
                private_session.map(|private_session| node_v1::ForgetRequest { private_session, ..blank.clone() });
            let plain = node_v1::ForgetRequest { session: session.clone(), ..blank };
            std::iter::once(plain).chain(private).collect()
        }
        Removal::Filtered(filter_json) => {
            vec![node_v1::ForgetRequest { filter_json: filter_json.clone(), ..blank }]
        }
        Removal::All => vec![node_v1::ForgetRequest { all: true, ..blank }],
    }
}

fn request_id(context: &RequestContext, request: &node_v1::ForgetRequest, step: u64) -> bytes::Bytes {
    let step = step.to_be_bytes();
    let all: &[u8] = if request.all { b"all" } else { b"" };
    let scope = request.scope.to_be_bytes();
    let mut parts: Vec<&[u8]> = vec![&step, &scope, request.session.as_bytes(), all, request.filter_json.as_bytes()];
    parts.extend([&request.owner[..], &request.private_session[..]]);
    parts.extend(request.ids.iter().map(|id| &id[..]));
    let (collection, shard) = request.header.as_ref().map_or((0, 0), |header| (header.collection, header.shard));
    ids::request_id(context, &WriteIdentity { operation: "forget", collection, shard, parts: &parts })
}

fn reply(context: &RequestContext, removed: Removed) -> ForgetReply {
    let token = context.having_seen(&removed.seen).token;
    ForgetReply {
        removed: removed.count,
        ids: removed.ids,
        restorable_until: removed.restorable_until_ms.map(convert::rfc3339),
        private_left: (removed.private_left > 0).then_some(removed.private_left),
        shred: None,
        consistency_token: token.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::validate::tests::refused;

    #[test]
    fn everything_is_forgotten_only_when_asked_in_so_many_words() {
        refused(removal(ForgetRequest::default()), Code::InvalidArgument, "all: true");
        let all = ForgetRequest { all: true, ..Default::default() };
        assert_eq!(removal(all.clone()).unwrap(), ("default".to_owned(), Removal::All));
        let also = ForgetRequest { session: Some("s".into()), ..all };
        refused(removal(also), Code::InvalidArgument, "exclude");
    }

    #[test]
    fn a_filter_that_means_everything_forgets_nothing() {
        let by = |filter: Filter| removal(ForgetRequest { filter: Some(filter), ..Default::default() });
        refused(by(Filter { and: Some(vec![]), ..Default::default() }), Code::InvalidArgument, "all: true");
        let drafts: Filter = serde_json::from_str(r#"{"field": "type", "eq": "draft"}"#).unwrap();
        assert_eq!(by(drafts.clone()).unwrap().1, Removal::Filtered(serde_json::to_string(&drafts).unwrap()));
    }
}
