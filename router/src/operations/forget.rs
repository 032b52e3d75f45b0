//! `forget`: remove frames by id, a session, what a filter means, or everything in a collection.
//!
//! Large sets go in steps, each a write of its own; a caller that is cut off in between asks again and the rest goes.
//! What does not exist is not removed and no problem, so that a repeated `forget` is one.

use std::collections::BTreeMap;

use futures::stream::{StreamExt, TryStreamExt};
use mira_crypto::OwnerKey;
use mira_proto::filter::{Condition, Filter};
use mira_proto::model::{DEFAULT_COLLECTION, ForgetReply, ForgetRequest};
use mira_proto::placement::Partitioning;
use mira_proto::{Code, Problem, ShardId, limits, node_v1};
use uuid::Uuid;

use crate::cluster::{Call, CallError, CollectionRoute, Group, Stays, Want};
use crate::ids::{self, WriteIdentity};
use crate::memory::{MAX_REROUTES, no_collection};
use crate::operations::field_types::FieldTypes;
use crate::operations::search::read_call;
use crate::operations::validate::{self, checked_filter, checked_name, id_list};
use crate::private::seal;
use crate::private::search::failed;
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
    /// All of the collection.
    All,
}

/// What went, and from where.
#[derive(Default)]
struct Removed {
    count: u64,
    ids: Vec<Uuid>,
    seen: ConsistencyToken,
    /// Ids that other shards decide about.
    moved: Vec<Uuid>,
    /// Shards that have taken frames over, and from which.
    released: BTreeMap<ShardId, Vec<ShardId>>,
}

impl Removed {
    fn add(&mut self, other: Removed) {
        self.count += other.count;
        self.ids.extend(other.ids);
        self.ids.truncate(limits::MAX_FORGET_STEP);
        self.seen.merge(&other.seen);
        self.moved.extend(other.moved);
        for (heir, sources) in other.released {
            let known = self.released.entry(heir).or_default();
            known.extend(sources);
            known.sort_unstable();
            known.dedup();
        }
    }
}

impl Memory {
    /// Removes memories.
    pub async fn forget(&self, context: &RequestContext, request: ForgetRequest) -> Result<ForgetReply, Problem> {
        self.bounded("forget", context, async {
            let shred = request.shred;
            let (collection, removal) = self::removal(request)?;
            if shred && matches!(removal, Removal::All) {
                let shred = Some(self.shred_collection(context, &collection).await?);
                return Ok(ForgetReply { shred, ..reply(context, Removed::default()) });
            }
            let reply = self.forget_named(context, &collection, removal).await?;
            match shred {
                false => Ok(reply),
                true => Ok(ForgetReply { shred: Some(self.shred_key(context, &collection).await?), ..reply }),
            }
        })
        .await
    }

    async fn forget_named(
        &self,
        context: &RequestContext,
        collection: &str,
        mut removal: Removal,
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
            match self.forget_in(context, &route, &removal).await {
                Ok(mut more) => {
                    let moved = std::mem::take(&mut more.moved);
                    removed.add(more);
                    if moved.is_empty() {
                        removed.ids.sort();
                        return Ok(reply(context, removed));
                    }
                    // This router has not heard of the growth that moved them.
                    removal = Removal::Ids(moved);
                    let epoch = self.cluster.view().map_or(0, |view| view.epoch);
                    self.cluster.refresh(epoch + 1).await;
                }
                Err(CallError::Moved) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CallError::Moved.into())
    }

    /// Asks every shard that may hold such frames. While the collection grows, first those where they lay before, then those
    /// that have taken some over: each shard says for itself what it does not decide about any more.
    async fn forget_in(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        removal: &Removal,
    ) -> Result<Removed, CallError> {
        let (before, owner) = (route.before_growth(), context.owner_key());
        if let Removal::Filtered(filter_json) = removal {
            self.filter_makes_sense(context, route, filter_json).await?;
        }
        let first = requests(route, before.unwrap_or(route.partitioning()), removal, owner);
        // Ids that have moved are named by the shard; of a session it can only say that some may have, and so the map must be
        // new enough to know.
        let stays = if matches!(removal, Removal::Ids(_)) { Stays::Before } else { Stays::Whole };
        let mut removed = self.forget_all(context, route, (first, stays)).await?;
        let heirs = match (before, removal) {
            (None, _) => Vec::new(),
            (Some(_), Removal::Ids(_)) => {
                requests(route, route.partitioning(), &Removal::Ids(std::mem::take(&mut removed.moved)), owner)
            }
            (Some(_), _) => {
                let of_heir = |(&heir, sources): (&ShardId, &Vec<ShardId>)| {
                    let opened = sources.clone();
                    let asked = requests_of(route, &[heir], removal, owner).into_iter();
                    asked.map(move |request| node_v1::ForgetRequest { opened: opened.clone(), ..request })
                };
                removed.released.iter().flat_map(of_heir).collect()
            }
        };
        removed.add(self.forget_all(context, route, (heirs, Stays::After)).await?);
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
        let indexed = self.kinds_everywhere(context, route, (filter_json, false)).await?;
        if indexed.is_whole() && indexed.check(filter_json, name).is_ok() {
            return Ok(());
        }
        // Frames without vectors are in no index, and an index may be in the making: a look at all of them makes it certain.
        let all = self.kinds_everywhere(context, route, (filter_json, true)).await?;
        all.check(filter_json, name).map_err(failed)
    }

    async fn kinds_everywhere(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        (filter_json, walk): (&str, bool),
    ) -> Result<FieldTypes, CallError> {
        let request = |&shard: &ShardId| node_v1::FieldKindsRequest {
            shard,
            collection: route.info.id,
            level: Some(context.read_level(shard)),
            filter_json: filter_json.to_owned(),
            walk,
            ..Default::default()
        };
        let requests: Vec<_> = route.partitioning().shards().iter().map(request).collect();
        let parts = requests.into_iter().map(|request| self.kinds_in_shard(context, route, request));
        futures::stream::iter(parts)
            .buffer_unordered(limits::MAX_FAN_OUT)
            .try_fold(FieldTypes::default(), |mut all, part| async move {
                all.merge(part);
                Ok(all)
            })
            .await
    }

    async fn kinds_in_shard(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        mut request: node_v1::FieldKindsRequest,
    ) -> Result<FieldTypes, CallError> {
        // Looking at a step of frames takes about as long as removing one.
        let call = read_call(context, route, request.shard, "field_kinds");
        let call = Call { want: Want::Leader, try_for: limits::WRITE_TRY, ..call };
        let mut known = FieldTypes::default();
        loop {
            let answer: Result<node_v1::FieldKindsReply, CallError> = self
                .cluster
                .call(&call, |mut client, attempt| {
                    let request = node_v1::FieldKindsRequest { epoch: attempt.epoch, ..request.clone() };
                    async move { client.field_kinds(request).await }
                })
                .await;
            let reply = match answer {
                Ok(reply) => reply,
                // A node of an older version cannot say.
                Err(CallError::Refused { problem, .. }) if problem.code == Code::UnsupportedVersion => {
                    Default::default()
                }
                Err(error) => return Err(error),
            };
            known.note(reply.kinds);
            if !reply.more {
                return Ok(known);
            }
            request.after = reply.next;
        }
    }

    async fn forget_all(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        (requests, stays): (Vec<node_v1::ForgetRequest>, Stays),
    ) -> Result<Removed, CallError> {
        let parts = requests.into_iter().map(|request| self.forget_shard(context, (route, stays), request));
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
        (route, stays): (&CollectionRoute, Stays),
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
            stays,
        };
        let (mut removed, mut after) = (Removed::default(), bytes::Bytes::new());
        for step in 0u64.. {
            let request_id = request_id(context, &request, step);
            let step_request = node_v1::ForgetRequest { request_id, after: after.clone(), ..request.clone() };
            let reply: node_v1::ForgetReply = self
                .cluster
                .call(&call, |mut client, attempt| {
                    let request = node_v1::ForgetRequest { epoch: attempt.epoch, ..step_request.clone() };
                    async move { client.forget(request).await }
                })
                .await?;
            let ids = reply.removed.iter().filter_map(|id| Uuid::from_slice(id).ok()).collect();
            let mut seen = ConsistencyToken::default();
            seen.note(shard, reply.index);
            removed.add(Removed {
                count: reply.removed.len() as u64,
                ids,
                seen,
                moved: reply.moved.iter().filter_map(|id| Uuid::from_slice(id).ok()).collect(),
                released: reply.released.into_iter().map(|heir| (heir, vec![shard])).collect(),
            });
            after = reply.next;
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
        (None, Some(ids), None, None, false) => Removal::Ids(id_list(ids, limits::MAX_FORGET_STEP)?),
        (None, None, Some(session), None, false) => Removal::Session(checked_name("session", session)?),
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
    match filter.check()? {
        Condition::All(parts) if parts.is_empty() => {
            Err(Problem::invalid("the filter matches everything: send all: true if that is meant"))
        }
        _ => checked_filter(filter),
    }
}

/// What each shard is asked to remove, when frames lie as `homes` says.
fn requests(
    route: &CollectionRoute,
    homes: &Partitioning,
    removal: &Removal,
    owner: Option<&OwnerKey>,
) -> Vec<node_v1::ForgetRequest> {
    let Removal::Ids(ids) = removal else { return requests_of(route, homes.shards(), removal, owner) };
    let mut by_shard: BTreeMap<ShardId, node_v1::ForgetRequest> = BTreeMap::new();
    for id in ids {
        let shard = homes.shard_of(id.as_u128());
        by_shard.entry(shard).or_insert_with(|| blank(route, shard, owner)).ids.push(ids::id_bytes(*id));
    }
    by_shard.into_values().collect()
}

/// What these shards are asked to remove of a session, of what a filter means, or of everything.
fn requests_of(
    route: &CollectionRoute,
    shards: &[ShardId],
    removal: &Removal,
    owner: Option<&OwnerKey>,
) -> Vec<node_v1::ForgetRequest> {
    let of_shard = |&shard: &ShardId| {
        let blank = blank(route, shard, owner);
        match removal {
            Removal::Ids(_) => Vec::new(),
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
    };
    shards.iter().flat_map(of_shard).collect()
}

fn blank(route: &CollectionRoute, shard: ShardId, owner: Option<&OwnerKey>) -> node_v1::ForgetRequest {
    let owner = owner.map(|owner| seal::owner_name(owner, route.info.id)).unwrap_or_default();
    node_v1::ForgetRequest { shard, collection: route.info.id, owner, ..Default::default() }
}

fn request_id(context: &RequestContext, request: &node_v1::ForgetRequest, step: u64) -> bytes::Bytes {
    let step = step.to_be_bytes();
    let all: &[u8] = if request.all { b"all" } else { b"" };
    let mut parts: Vec<&[u8]> = vec![&step, request.session.as_bytes(), all, request.filter_json.as_bytes()];
    parts.extend([&request.owner[..], &request.private_session[..]]);
    parts.extend(request.ids.iter().map(|id| &id[..]));
    let (collection, shard) = (request.collection, request.shard);
    ids::request_id(context, &WriteIdentity { operation: "forget", collection, shard, parts: &parts })
}

fn reply(context: &RequestContext, removed: Removed) -> ForgetReply {
    let token = context.having_seen(&removed.seen).token;
    ForgetReply { removed: removed.count, ids: removed.ids, shred: None, consistency_token: token.to_string() }
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
