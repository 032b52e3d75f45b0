//! Which sessions a collection has: the parts that each shard has of them, put together.
//!
//! Shards list sessions by a keyed tag that is the same in all of them, so pages fit together as those of a scan do
//! ([`crate::operations::scan`]): a session is told when no shard can still come with a smaller tag.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use mira_proto::model::{Consistency, DEFAULT_COLLECTION, Session, SessionsReply, SessionsRequest};
use mira_proto::{Code, Problem, names, node_v1};

use crate::cluster::{CallError, CollectionRoute, fan_out};
use crate::memory::{MAX_REROUTES, no_collection};
use crate::operations::convert;
use crate::operations::validate::{optional_name, page_size, time};
use crate::private::seal;
use crate::{Memory, RequestContext};

/// Which sessions are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct WantedSessions {
    /// Only of this agent.
    agent: Option<String>,
    /// Only with a frame that is not older.
    active_since_ms: u64,
    /// The tag of the last one of the page before; empty for the first.
    after: Bytes,
    /// So many at most.
    limit: u32,
}

impl WantedSessions {
    /// Whether a session of that agent is asked for.
    fn is_of(&self, agent: Option<&str>) -> bool {
        let agent = agent.map(names::normal);
        self.agent.is_none() || self.agent.as_deref() == agent.as_deref()
    }
}

/// A session, as far as shards have told of it.
struct KnownSession {
    frames: u64,
    first_ms: u64,
    newest: node_v1::Frame,
}

impl Memory {
    /// The sessions of a collection, page by page.
    pub async fn sessions(
        &self,
        context: &RequestContext,
        collection: &str,
        request: SessionsRequest,
    ) -> Result<SessionsReply, Problem> {
        self.bounded("sessions", context, async {
            let wanted = self::wanted(request)?;
            let context = self.with_owner(&context.reading(Consistency::Linearizable)).await?;
            for _ in 0..MAX_REROUTES {
                let Some(route) = self.find_collection(&context, collection).await? else {
                    return match collection {
                        DEFAULT_COLLECTION => Ok(SessionsReply::default()),
                        other => Err(no_collection(other)),
                    };
                };
                match self.sessions_page(&context, &route, &wanted).await {
                    Err(CallError::Moved) => {}
                    page => return Ok(page?),
                }
            }
            Err(CallError::Moved.into())
        })
        .await
    }

    async fn sessions_page(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        wanted: &WantedSessions,
    ) -> Result<SessionsReply, CallError> {
        let request = |header| {
            let (after, limit) = (wanted.after.clone(), wanted.limit);
            node_v1::SessionsRequest { header: Some(header), after, limit }
        };
        let pages = fan_out(context, route, |header, _| self.cluster.read(context, route, request(header)));
        let pages = pages.whole().await?;
        let (known, next) = merged(pages, wanted.limit as usize).map_err(CallError::Unreached)?;
        let next_cursor = next.map(|tag| URL_SAFE_NO_PAD.encode(tag));
        let mut reply = SessionsReply { more: next_cursor.is_some(), next_cursor, sessions: Vec::new() };
        for session in known {
            if session.newest.created_ms < wanted.active_since_ms {
                continue;
            }
            match told(context, route, session) {
                Ok(session) if !wanted.is_of(session.agent.as_deref()) => {}
                Ok(session) => reply.sessions.push(session),
                // Of another owner: not even its name is told.
                Err(problem) if problem.code == Code::WrongOwnerKey => {}
                Err(problem) => return Err(CallError::Unreached(problem)),
            }
        }
        Ok(reply)
    }
}

/// Checks what sessions are asked for.
fn wanted(request: SessionsRequest) -> Result<WantedSessions, Problem> {
    let after = request.cursor.as_deref().map(|text| URL_SAFE_NO_PAD.decode(text)).transpose();
    let after = after.ok().filter(|after| after.as_ref().is_none_or(|tag| tag.len() == 16));
    let after = after.ok_or_else(|| Problem::invalid("cursor is not what an earlier page gave as next_cursor"))?;
    let limit = page_size(request.limit)?;
    let since = request.active_since.as_deref().map(|text| time("active_since", text)).transpose()?;
    let since = since.map(|since| since.first_from());
    Ok(WantedSessions {
        agent: optional_name("agent", request.agent)?,
        active_since_ms: since.unwrap_or_default(),
        after: after.unwrap_or_default().into(),
        limit,
    })
}

/// The first sessions of all pages that no shard can come before, and the tag behind which the next page begins.
fn merged(pages: Vec<node_v1::SessionsReply>, limit: usize) -> Result<(Vec<KnownSession>, Option<Bytes>), Problem> {
    let (mut sessions, mut certain) = (BTreeMap::<Bytes, KnownSession>::new(), None::<Bytes>);
    for page in pages {
        if page.more {
            let last = page.sessions.last().map(|part| part.tag.clone());
            let last = last.ok_or_else(|| Problem::internal("a shard gave an empty page and has more"))?;
            certain = Some(certain.map_or(last.clone(), |certain| certain.min(last)));
        }
        for node_v1::SessionPart { tag, frames, first_ms, newest } in page.sessions {
            let newest = newest.ok_or_else(|| Problem::internal("a shard named a session without a frame"))?;
            match sessions.get_mut(&tag) {
                None => drop(sessions.insert(tag, KnownSession { frames, first_ms, newest })),
                Some(known) => {
                    known.frames += frames;
                    known.first_ms = known.first_ms.min(first_ms);
                    if (newest.position, &newest.id) > (known.newest.position, &known.newest.id) {
                        known.newest = newest;
                    }
                }
            }
        }
    }
    sessions.retain(|tag, _| certain.as_ref().is_none_or(|certain| tag <= certain));
    let is_cut = sessions.len() > limit;
    let told: Vec<(Bytes, KnownSession)> = sessions.into_iter().take(limit).collect();
    let next = if is_cut || certain.is_some() { told.last().map(|(tag, _)| tag.clone()) } else { None };
    Ok((told.into_iter().map(|(_, known)| known).collect(), next))
}

fn told(context: &RequestContext, route: &CollectionRoute, known: KnownSession) -> Result<Session, Problem> {
    let frame = seal::open(context.owner_key(), route.info.id, known.newest)?.into_model()?;
    Ok(Session {
        session: frame.session.unwrap_or_default(),
        frames: known.frames,
        first_at: convert::rfc3339(known.first_ms),
        last_at: frame.created_at,
        agent: frame.metadata.get("agent").and_then(|agent| agent.as_str()).map(str::to_owned),
        last_id: frame.id,
        private: frame.private,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(parts: &[(u8, u64, u64, u64)], more: bool) -> node_v1::SessionsReply {
        let part = |&(tag, frames, first_ms, last_ms): &(u8, u64, u64, u64)| node_v1::SessionPart {
            tag: vec![tag; 16].into(),
            frames,
            first_ms,
            newest: Some(node_v1::Frame { created_ms: last_ms, position: last_ms, ..Default::default() }),
        };
        node_v1::SessionsReply { sessions: parts.iter().map(part).collect(), more, ..Default::default() }
    }

    #[test]
    fn parts_of_a_session_are_put_together_and_pages_end_where_they_must() {
        let of = |pages: Vec<node_v1::SessionsReply>, limit| {
            let (known, next) = merged(pages, limit).unwrap();
            let told = known.iter().map(|known| (known.frames, known.first_ms, known.newest.created_ms));
            (told.collect::<Vec<_>>(), next.map(|tag| tag[0]))
        };
        let (first, second) = (|more| page(&[(1, 2, 10, 20), (5, 1, 7, 7)], more), || page(&[(1, 3, 5, 15)], false));
        assert_eq!(of(vec![first(false), second()], 9), (vec![(5, 5, 20), (1, 7, 7)], None));
        assert_eq!(of(vec![first(false), second()], 1), (vec![(5, 5, 20)], Some(1)));
        let longer = page(&[(2, 1, 1, 1), (3, 1, 1, 1)], true);
        assert_eq!(of(vec![first(false), longer], 9), (vec![(2, 10, 20), (1, 1, 1), (1, 1, 1)], Some(3)));
        assert!(merged(vec![page(&[], true)], 9).is_err());
    }
}
