//! `recall`: frames by id, or a session in its order.
//!
//! Linearizable unless the caller asks for less. It answers whole or not at all: a shard that cannot be read is a
//! problem, because a frame that is missing from the answer would look forgotten.

use std::cmp::Ordering;
use std::collections::HashMap;

use bytes::Bytes;
use futures::future::try_join;
use mira_proto::model::{Consistency, DEFAULT_COLLECTION, Frame, RecallReply, RecallRequest};
use mira_proto::node_v1::FrameClass;
use mira_proto::{Code, Problem, limits, node_v1};
use uuid::Uuid;

use crate::cluster::{CallError, CollectionRoute, Staleness, fan_out};
use crate::memory::{MAX_REROUTES, no_collection};
use crate::operations::validate::{self, checked_name, id_list, range};
use crate::private::seal;
use crate::{Memory, RequestContext};

/// Which frames a recall is after.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// One frame; that it is unknown is a problem.
    One(Uuid),
    /// These frames; unknown ones are listed.
    Many(Vec<Uuid>),
    /// A session in its order.
    Session {
        /// Its name.
        session: String,
        /// Created at or after, milliseconds; 0 = open.
        from_ms: u64,
        /// Created before, milliseconds; 0 = open.
        to_ms: u64,
        /// How many at most.
        limit: u32,
        /// The last instead of the first.
        last: bool,
    },
}

impl Memory {
    /// Fetches memories by id, or a session in order.
    pub async fn recall(&self, context: &RequestContext, request: RecallRequest) -> Result<RecallReply, Problem> {
        self.bounded("recall", context, async {
            let context = context.reading(request.consistency.unwrap_or(Consistency::Linearizable));
            let (collection, wanted) = self::wanted(request)?;
            let context = self.with_owner(&context).await?;
            for _ in 0..MAX_REROUTES {
                let Some(route) = self.find_collection(&context, &collection).await? else {
                    return nothing_in(&collection, wanted);
                };
                let reply = match &wanted {
                    Wanted::One(id) => self.recall_ids(&context, &route, std::slice::from_ref(id)).await,
                    Wanted::Many(ids) => self.recall_ids(&context, &route, ids).await,
                    Wanted::Session { .. } => self.recall_session(&context, &route, &wanted).await,
                };
                return match (reply, &wanted) {
                    (Err(CallError::Moved), _) => continue,
                    (Ok(reply), Wanted::One(id)) if reply.frames.is_empty() => Err(no_frame(*id)),
                    (reply, _) => Ok(reply?),
                };
            }
            Err(CallError::Moved.into())
        })
        .await
    }

    async fn recall_ids(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        ids: &[Uuid],
    ) -> Result<RecallReply, CallError> {
        let replies = self.cluster.fetch(context, route, FrameClass::Memory, ids).await?;
        let staleness = staleness_of(&replies);
        let found = seal::reveal_all(context, route.info.id, replies.into_iter().flat_map(|reply| reply.frames));
        let found = found.map_err(CallError::Unreached)?;
        let found: HashMap<Uuid, Frame> = found.into_iter().map(|frame| (frame.id, frame)).collect();
        let (known, missing): (Vec<Uuid>, Vec<Uuid>) = ids.iter().partition(|id| found.contains_key(id));
        Ok(RecallReply {
            frames: known.iter().map(|id| found[id].clone()).collect(),
            missing,
            staleness_ms: staleness.milliseconds(),
            lagging: staleness.lagging,
        })
    }

    async fn recall_session(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        wanted: &Wanted,
    ) -> Result<RecallReply, CallError> {
        let Wanted::Session { session, from_ms, to_ms, limit, last } = wanted else {
            return Ok(RecallReply::default());
        };
        let request = |session: &str, private_session: &Bytes, header| node_v1::SessionRequest {
            header: Some(header),
            session: session.to_owned(),
            private_session: private_session.clone(),
            created_from_ms: *from_ms,
            created_to_ms: *to_ms,
            limit: *limit,
            last: *last,
        };
        let of_name = |session, private_session| async move {
            let ask = |header, _| self.cluster.read(context, route, request(session, &private_session, header));
            // Two of them share the bound.
            fan_out(context, route, ask).at_once(limits::MAX_FAN_OUT / 2).whole().await
        };
        // Two sessions may have one name: the plain one, and the owner's.
        let owners = context.owner_key().map(|owner| seal::session_name(owner, route.info.id, session));
        let private = async {
            match owners {
                Some(name) => of_name("", name).await,
                None => Ok(Vec::new()),
            }
        };
        let (mut replies, private) = try_join(of_name(session.as_str(), Bytes::new()), private).await?;
        replies.extend(private);
        let staleness = staleness_of(&replies);
        let merged = merge_session(replies, *limit as usize, *last);
        let frames = seal::reveal_all(context, route.info.id, merged).map_err(CallError::Unreached)?;
        Ok(RecallReply {
            frames,
            missing: Vec::new(),
            staleness_ms: staleness.milliseconds(),
            lagging: staleness.lagging,
        })
    }
}

/// Checks a recall; returns the collection, and what is wanted of it.
pub fn wanted(request: RecallRequest) -> Result<(String, Wanted), Problem> {
    let collection = validate::collection(request.collection)?;
    let ranged = request.created_from.is_some() || request.created_to.is_some();
    let session_only = ranged || request.limit.is_some() || request.last;
    let wanted = match (request.id, request.ids, request.session) {
        (Some(id), None, None) => Wanted::One(id),
        (None, Some(ids), None) => Wanted::Many(id_list(ids, limits::MAX_RECALL as usize)?),
        (None, None, Some(session)) => {
            let (from_ms, to_ms) = range(request.created_from.as_deref(), request.created_to.as_deref())?;
            let limit = request.limit.unwrap_or(limits::DEFAULT_RECALL);
            if limit == 0 || limit > limits::MAX_RECALL {
                return Err(Problem::invalid(format!("limit is {limit}, it must be 1 to {}", limits::MAX_RECALL)));
            }
            let session = checked_name("session", session)?;
            Wanted::Session { session, from_ms, to_ms, limit, last: request.last }
        }
        (None, None, None) => return Err(Problem::invalid("nothing to recall: send id, ids or session")),
        _ => return Err(Problem::invalid("id, ids and session exclude each other: send one of them")),
    };
    if session_only && !matches!(wanted, Wanted::Session { .. }) {
        return Err(Problem::invalid("created_from, created_to, limit and last go with session only"));
    }
    Ok((collection, wanted))
}

fn staleness_of(replies: &[node_v1::FetchReply]) -> Staleness {
    let mut staleness = Staleness::default();
    replies.iter().for_each(|reply| staleness.note(reply.state.as_ref()));
    staleness
}

/// The first (or last) `limit` frames of all shards in the session's order; those that one call gave no order, by id.
fn merge_session(replies: Vec<node_v1::FetchReply>, limit: usize, last: bool) -> Vec<node_v1::Frame> {
    let mut frames: Vec<node_v1::Frame> = replies.into_iter().flat_map(|reply| reply.frames).collect();
    frames.sort_by(by_position);
    frames.dedup_by(|a, b| a.id == b.id); // a shard is moving
    if last {
        frames.drain(..frames.len().saturating_sub(limit));
    }
    frames.truncate(limit);
    frames
}

fn by_position(a: &node_v1::Frame, b: &node_v1::Frame) -> Ordering {
    (a.position, &a.id).cmp(&(b.position, &b.id))
}

/// The default collection exists for every caller, made or not.
fn nothing_in(collection: &str, wanted: Wanted) -> Result<RecallReply, Problem> {
    if collection != DEFAULT_COLLECTION {
        return Err(no_collection(collection));
    }
    match wanted {
        Wanted::One(id) => Err(no_frame(id)),
        Wanted::Many(missing) => Ok(RecallReply { missing, ..RecallReply::default() }),
        Wanted::Session { .. } => Ok(RecallReply::default()),
    }
}

fn no_frame(id: Uuid) -> Problem {
    Problem::new(Code::NotFound, format!("there is no frame {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::validate::tests::refused;

    fn frame(id: u8, position: u64) -> node_v1::Frame {
        // Times say otherwise: they decide nothing.
        node_v1::Frame { id: vec![id; 16].into(), position, created_ms: 1_000 - position, ..Default::default() }
    }

    fn reply(frames: &[(u8, u64)]) -> node_v1::FetchReply {
        let frames = frames.iter().map(|&(id, position)| frame(id, position)).collect();
        node_v1::FetchReply { frames, ..Default::default() }
    }

    #[test]
    fn a_session_over_several_shards_is_one_story() {
        let replies = || vec![reply(&[(1, 10), (4, 30)]), reply(&[(3, 20), (2, 20), (4, 30), (5, 40)])];
        let ids = |frames: Vec<node_v1::Frame>| frames.iter().map(|frame| frame.id[0]).collect::<Vec<_>>();
        assert_eq!(ids(merge_session(replies(), 10, false)), [1, 2, 3, 4, 5]);
        assert_eq!(ids(merge_session(replies(), 2, false)), [1, 2]);
        assert_eq!(ids(merge_session(replies(), 2, true)), [4, 5]);
        assert_eq!(ids(merge_session(replies(), 10, true)), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_recall_has_exactly_one_selector() {
        let id = Uuid::from_u128(7);
        let recall = |request| wanted(request).map(|(_, wanted)| wanted);
        let by_id = RecallRequest { id: Some(id), ..Default::default() };
        assert_eq!(recall(by_id.clone()).unwrap(), Wanted::One(id));
        let by_ids = RecallRequest { ids: Some(vec![id]), ..Default::default() };
        assert_eq!(recall(by_ids.clone()).unwrap(), Wanted::Many(vec![id]));
        let both = RecallRequest { ids: by_ids.ids, ..by_id.clone() };
        refused(recall(both), Code::InvalidArgument, "exclude");
        refused(recall(RecallRequest { last: true, ..by_id }), Code::InvalidArgument, "session only");
        let many = RecallRequest { ids: Some(vec![id; 1_001]), ..Default::default() };
        refused(recall(many), Code::TooLarge, "1001");
    }
}
