//! `recall`: frames by id, or a session in its order.
//!
//! Linearizable unless the caller asks for less. A shard that cannot be read is a problem, because a frame that is missing
//! from the answer would look forgotten. An answer that was cut, by the caller's limit or by bytes, says so and where it goes
//! on (`Cursor`).

use std::collections::{HashMap, HashSet};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::future::try_join;
use mira_proto::model::{Consistency, DEFAULT_COLLECTION, RecallReply, RecallRequest};
use mira_proto::node_v1::FrameClass;
use mira_proto::{Code, FrameId, Problem, limits, node_v1};
use uuid::Uuid;

use crate::cluster::{CallError, CollectionRoute, Staleness, WantedFrames, WantedVersion, fan_out};
use crate::memory::{MAX_REROUTES, no_collection};
use crate::operations::validate::{self, checked_name, id_list, range};
use crate::private::seal;
use crate::{Memory, RequestContext, ids};

/// Which frames a recall is after.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// One frame; that it is unknown is a problem.
    One(Uuid),
    /// These frames, from a place in their list on; unknown ones are listed.
    Many(Vec<Uuid>, usize),
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
        /// Only those behind this frame, or with `last` before it.
        after: Option<SessionPlace>,
    },
}

/// Where a frame stands in its session: its position, and its id for those that one call gave no order.
type SessionPlace = (u64, FrameId);

/// Where an answer was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cursor {
    /// Before this one of the ids that were asked for.
    Id(u32),
    /// Behind this frame of the session.
    Frame(SessionPlace),
}

impl Cursor {
    fn encode(self) -> String {
        match self {
            Cursor::Id(at) => URL_SAFE_NO_PAD.encode(at.to_be_bytes()),
            Cursor::Frame(place) => URL_SAFE_NO_PAD.encode(place_bytes(place)),
        }
    }

    fn decode(text: &str) -> Result<Cursor, Problem> {
        let wrong = || Problem::invalid("cursor is not what an answer gave as next_cursor");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
        if let Ok(at) = bytes[..].try_into() {
            return Ok(Cursor::Id(u32::from_be_bytes(at)));
        }
        let (position, id) = bytes.split_first_chunk().ok_or_else(wrong)?;
        let id = ids::id_from_bytes(id).ok_or_else(wrong)?;
        Ok(Cursor::Frame((u64::from_be_bytes(*position), id)))
    }
}

/// A place as nodes read it.
fn place_bytes((position, id): SessionPlace) -> Vec<u8> {
    [&position.to_be_bytes()[..], &id.to_be_bytes()].concat()
}

impl Memory {
    /// Fetches memories by id, or a session in order.
    pub async fn recall(&self, context: &RequestContext, request: RecallRequest) -> Result<RecallReply, Problem> {
        self.bounded("recall", context, async {
            let context = context.reading(request.consistency.unwrap_or(Consistency::Linearizable));
            let version = self::version(&request)?;
            let (collection, wanted) = self::wanted(request)?;
            let context = self.with_owner(&context).await?;
            for _ in 0..MAX_REROUTES {
                let Some(route) = self.find_collection(&context, &collection).await? else {
                    return nothing_in(&collection, wanted);
                };
                let reply = match &wanted {
                    Wanted::One(id) => self.recall_ids(&context, &route, (std::slice::from_ref(id), 0), version).await,
                    Wanted::Many(ids, from) => self.recall_ids(&context, &route, (ids, *from), version).await,
                    Wanted::Session { .. } => self.recall_session(&context, &route, &wanted).await,
                };
                return match (reply, &wanted) {
                    (Err(CallError::Moved), _) => continue,
                    (Ok(reply), Wanted::One(id)) if reply.frames.is_empty() => Err(no_version(*id, version)),
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
        (ids, from): (&[Uuid], usize),
        version: WantedVersion,
    ) -> Result<RecallReply, CallError> {
        let mut found: HashMap<FrameId, node_v1::Frame> = HashMap::new();
        let (mut staleness, mut bytes, mut left) = (Staleness::default(), 0, ids[from..].to_vec());
        while !left.is_empty() && bytes < limits::RECALL_BYTES {
            let wanted = WantedFrames { class: FrameClass::Memory, ids: &left, max_bytes: share(route), version };
            let fetched = self.cluster.fetch(context, route, wanted).await?;
            for (_, reply) in fetched.replies {
                staleness.note(reply.state.as_ref());
                bytes += reply.frames.iter().map(bytes_of).sum::<usize>();
                let named = reply.frames.into_iter().filter_map(|frame| Some((ids::id_from_bytes(&frame.id)?, frame)));
                found.extend(named);
            }
            left = fetched.left.into_iter().filter(|id| !found.contains_key(&id.as_u128())).collect();
        }
        let left: HashSet<Uuid> = left.into_iter().collect();
        let (mut frames, mut missing, mut bytes, mut cut) = (Vec::new(), Vec::new(), 0, None);
        for (id, at) in ids[from..].iter().zip(from..) {
            let frame = found.get(&id.as_u128());
            if left.contains(id) || frame.is_some_and(|frame| is_full(bytes, frame)) {
                cut = Some(Cursor::Id(at as u32));
                break;
            }
            match frame {
                Some(frame) => {
                    bytes += bytes_of(frame);
                    frames.push(frame.clone());
                }
                None => missing.push(*id),
            }
        }
        drop(found);
        Ok(RecallReply {
            frames: seal::reveal_all(context, route.info.id, frames).map_err(CallError::Unreached)?,
            missing,
            more: cut.is_some(),
            next_cursor: cut.map(Cursor::encode),
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
        let Wanted::Session { session, from_ms, to_ms, limit, last, after } = wanted else {
            return Ok(RecallReply::default());
        };
        let after = Bytes::from(after.map(place_bytes).unwrap_or_default());
        let request = |session: &str, private_session: &Bytes, header| node_v1::SessionRequest {
            header: Some(header),
            session: session.to_owned(),
            private_session: private_session.clone(),
            created_from_ms: *from_ms,
            created_to_ms: *to_ms,
            limit: *limit,
            last: *last,
            after: after.clone(),
            max_bytes: share(route),
        };
        let request = &request;
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
        let mut staleness = Staleness::default();
        replies.iter().for_each(|reply| staleness.note(reply.state.as_ref()));
        let merged = SessionPage { limit: *limit as usize, last: *last, room: limits::RECALL_BYTES };
        let (frames, cut) = merged.merge(replies).map_err(CallError::Unreached)?;
        Ok(RecallReply {
            frames: seal::reveal_all(context, route.info.id, frames).map_err(CallError::Unreached)?,
            missing: Vec::new(),
            more: cut.is_some(),
            next_cursor: cut.map(|place| Cursor::Frame(place).encode()),
            staleness_ms: staleness.milliseconds(),
            lagging: staleness.lagging,
        })
    }
}

/// Bytes of frames that each shard of a collection gives for one answer.
pub(crate) fn share(route: &CollectionRoute) -> u64 {
    (limits::RECALL_BYTES / route.shards().len().max(1)).max(limits::SCAN_PAGE_BYTES) as u64
}

/// What makes a frame large.
pub(crate) fn bytes_of(frame: &node_v1::Frame) -> usize {
    frame.content.len() + frame.metadata_json.len() + frame.private.len()
}

/// Whether an answer of so many bytes has no room for a frame; the first one always has.
fn is_full(bytes: usize, frame: &node_v1::Frame) -> bool {
    bytes > 0 && bytes + bytes_of(frame) > limits::RECALL_BYTES
}

/// Checks a recall; returns the collection, and what is wanted of it.
pub fn wanted(request: RecallRequest) -> Result<(String, Wanted), Problem> {
    let collection = validate::collection(request.collection)?;
    let ranged = request.created_from.is_some() || request.created_to.is_some();
    let session_only = ranged || request.limit.is_some() || request.last;
    let cursor = request.cursor.as_deref().map(Cursor::decode).transpose()?;
    let other_cursor = || Problem::invalid("cursor belongs to another request: send it with the one that gave it");
    let wanted = match (request.id, request.ids, request.session) {
        (Some(_), None, None) if cursor.is_some() => return Err(other_cursor()),
        (Some(id), None, None) => Wanted::One(id),
        (None, Some(ids), None) => {
            let ids = id_list(ids, limits::MAX_RECALL as usize)?;
            match cursor {
                None => Wanted::Many(ids, 0),
                Some(Cursor::Id(at)) if (at as usize) < ids.len() => Wanted::Many(ids, at as usize),
                Some(_) => return Err(other_cursor()),
            }
        }
        (None, None, Some(session)) => {
            let (from_ms, to_ms) = range(request.created_from.as_deref(), request.created_to.as_deref())?;
            let limit = request.limit.unwrap_or(limits::DEFAULT_RECALL);
            if limit == 0 || limit > limits::MAX_RECALL {
                return Err(Problem::invalid(format!("limit is {limit}, it must be 1 to {}", limits::MAX_RECALL)));
            }
            let session = checked_name("session", &session)?;
            let after = match cursor {
                None => None,
                Some(Cursor::Frame(place)) => Some(place),
                Some(Cursor::Id(_)) => return Err(other_cursor()),
            };
            Wanted::Session { session, from_ms, to_ms, limit, last: request.last, after }
        }
        (None, None, None) => return Err(Problem::invalid("nothing to recall: send id, ids or session")),
        _ => return Err(Problem::invalid("id, ids and session exclude each other: send one of them")),
    };
    if session_only && !matches!(wanted, Wanted::Session { .. }) {
        return Err(Problem::invalid("created_from, created_to, limit and last go with session only"));
    }
    Ok((collection, wanted))
}

/// Which versions a recall is after.
fn version(request: &RecallRequest) -> Result<WantedVersion, Problem> {
    match (request.version, request.known_at.as_deref()) {
        (None, None) => Ok(WantedVersion::Current),
        (Some(_), Some(_)) => Err(Problem::invalid("version and known_at exclude each other: send one of them")),
        (Some(0), None) => Err(Problem::invalid("version is 0, the first one is 1")),
        (Some(_), None) if request.id.is_none() => Err(Problem::invalid("version goes with id only")),
        (Some(version), None) => Ok(WantedVersion::Number(version)),
        (None, Some(_)) if request.session.is_some() => Err(Problem::invalid("known_at goes with id or ids only")),
        (None, Some(text)) => {
            // Nothing was known in the first millisecond of 1970, nor before.
            let known_at_ms = u64::try_from(validate::time("known_at", text)?.millisecond()).unwrap_or_default();
            Ok(WantedVersion::KnownAt(known_at_ms.max(1)))
        }
    }
}

/// How much of a session one answer has.
struct SessionPage {
    limit: usize,
    /// The last frames instead of the first.
    last: bool,
    /// Bytes of frames.
    room: usize,
}

impl SessionPage {
    /// The first (or last) frames of all shards in the session's order; and where the answer was cut, if it was.
    fn merge(
        &self,
        replies: Vec<node_v1::SessionReply>,
    ) -> Result<(Vec<node_v1::Frame>, Option<SessionPlace>), Problem> {
        let place = |frame: &node_v1::Frame| (frame.position, ids::id_from_bytes(&frame.id).unwrap_or_default());
        // In the order in which the session is read.
        let order = |a: &SessionPlace, b: &SessionPlace| if self.last { b.cmp(a) } else { a.cmp(b) };
        let (mut frames, mut certain, mut is_cut) = (Vec::new(), None::<SessionPlace>, false);
        for reply in replies {
            if reply.more {
                is_cut = true;
                let end = if self.last { reply.frames.first() } else { reply.frames.last() };
                let end = end.map(place).ok_or_else(|| Problem::internal("a shard gave an empty page and has more"))?;
                certain = Some(certain.map_or(end, |certain| std::cmp::min_by(certain, end, order)));
            }
            frames.extend(reply.frames.into_iter().map(|frame| (place(&frame), frame)));
        }
        // No shard can still come with one that is read before these.
        frames.retain(|(at, _)| certain.is_none_or(|certain| order(at, &certain).is_le()));
        frames.sort_by(|(a, _), (b, _)| order(a, b));
        frames.dedup_by_key(|(at, _)| *at); // a shard is moving
        let mut bytes = 0;
        let fits = |(_, frame): &&(SessionPlace, node_v1::Frame)| {
            let is_first = bytes == 0;
            bytes += bytes_of(frame);
            is_first || bytes <= self.room
        };
        let count = frames.iter().take(self.limit).take_while(fits).count();
        is_cut |= count < frames.len();
        frames.truncate(count);
        let cut = frames.last().filter(|_| is_cut).map(|(at, _)| *at);
        let mut frames: Vec<node_v1::Frame> = frames.into_iter().map(|(_, frame)| frame).collect();
        if self.last {
            frames.reverse();
        }
        Ok((frames, cut))
    }
}

/// The default collection exists for every caller, made or not.
fn nothing_in(collection: &str, wanted: Wanted) -> Result<RecallReply, Problem> {
    if collection != DEFAULT_COLLECTION {
        return Err(no_collection(collection));
    }
    match wanted {
        Wanted::One(id) => Err(no_frame(id)),
        Wanted::Many(missing, _) => Ok(RecallReply { missing, ..RecallReply::default() }),
        Wanted::Session { .. } => Ok(RecallReply::default()),
    }
}

fn no_frame(id: Uuid) -> Problem {
    Problem::new(Code::NotFound, format!("there is no frame {id}"))
}

fn no_version(id: Uuid, version: WantedVersion) -> Problem {
    match version {
        WantedVersion::Current => no_frame(id),
        WantedVersion::Number(number) => {
            let detail =
                format!("there is no version {number} of frame {id}: it was never given, or is not kept any more");
            Problem::new(Code::NotFound, detail)
        }
        WantedVersion::KnownAt(_) => {
            let detail = format!("nothing of frame {id} was known at that time, or it is not kept any more");
            Problem::new(Code::NotFound, detail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::validate::tests::refused;

    fn frame(id: u8, position: u64) -> node_v1::Frame {
        // Times say otherwise: they decide nothing.
        node_v1::Frame { id: vec![id; 16].into(), position, created_ms: 1_000 - position, ..Default::default() }
    }

    fn reply(frames: &[(u8, u64)], more: bool) -> node_v1::SessionReply {
        let frames = frames.iter().map(|&(id, position)| frame(id, position)).collect();
        node_v1::SessionReply { frames, more, ..Default::default() }
    }

    /// The ids of a page, and that of the frame it was cut at.
    fn merged(replies: Vec<node_v1::SessionReply>, (limit, last, room): (usize, bool, usize)) -> (Vec<u8>, Option<u8>) {
        let (frames, cut) = SessionPage { limit, last, room }.merge(replies).unwrap();
        (frames.iter().map(|frame| frame.id[0]).collect(), cut.map(|(_, id)| id as u8))
    }

    #[test]
    fn a_session_over_several_shards_is_one_story() {
        let second = [(3, 20), (2, 20), (4, 30), (5, 40)];
        let replies = || vec![reply(&[(1, 10), (4, 30)], false), reply(&second, false)];
        assert_eq!(merged(replies(), (10, false, 99)), (vec![1, 2, 3, 4, 5], None));
        assert_eq!(merged(replies(), (2, false, 99)), (vec![1, 2], Some(2)));
        assert_eq!(merged(replies(), (2, true, 99)), (vec![4, 5], Some(4)));
        assert_eq!(merged(replies(), (10, true, 99)), (vec![1, 2, 3, 4, 5], None));
        assert_eq!(merged(replies(), (5, false, 99)), (vec![1, 2, 3, 4, 5], None), "just enough is not cut");
    }

    #[test]
    fn a_page_ends_where_a_shard_may_still_come_with_an_earlier_frame() {
        let replies = || vec![reply(&[(1, 10), (4, 30)], true), reply(&[(2, 20), (5, 40)], false)];
        assert_eq!(merged(replies(), (10, false, 99)), (vec![1, 2, 4], Some(4)));
        assert_eq!(merged(replies(), (10, true, 99)), (vec![1, 2, 4, 5], Some(1)));
        let (short, long) = (|| reply(&[(4, 30), (6, 50)], true), || reply(&[(2, 20), (5, 40)], true));
        assert_eq!(merged(vec![short(), long()], (10, true, 99)), (vec![4, 5, 6], Some(4)));
        assert!(SessionPage { limit: 9, last: false, room: 9 }.merge(vec![reply(&[], true)]).is_err());
    }

    #[test]
    fn a_page_of_large_frames_has_fewer_and_one_at_least() {
        let large = |id: u8, created_ms| node_v1::Frame { content: vec![0; 40].into(), ..frame(id, created_ms) };
        let replies = || {
            vec![node_v1::SessionReply { frames: vec![large(1, 10), large(2, 20), large(3, 30)], ..Default::default() }]
        };
        assert_eq!(merged(replies(), (10, false, 90)), (vec![1, 2], Some(2)));
        assert_eq!(merged(replies(), (10, true, 90)), (vec![2, 3], Some(2)));
        assert_eq!(merged(replies(), (10, false, 5)), (vec![1], Some(1)));
    }

    #[test]
    fn cursors_come_back_and_belong_to_their_kind_of_request() {
        for cursor in [Cursor::Id(0), Cursor::Id(999), Cursor::Frame((1 << 40, 7 << 100))] {
            assert_eq!(Cursor::decode(&cursor.encode()), Ok(cursor));
        }
        let (at, frame) = (Cursor::Id(1).encode(), Cursor::Frame((20, 3)).encode());
        let ids = |cursor: &str| RecallRequest {
            ids: Some(vec![Uuid::nil(), Uuid::max()]),
            cursor: Some(cursor.to_owned()),
            ..Default::default()
        };
        assert_eq!(wanted(ids(&at)).unwrap().1, Wanted::Many(vec![Uuid::nil(), Uuid::max()], 1));
        let session = |cursor: &str| RecallRequest {
            session: Some("s".into()),
            cursor: Some(cursor.to_owned()),
            ..Default::default()
        };
        let found = wanted(session(&frame)).unwrap().1;
        assert!(matches!(found, Wanted::Session { after: Some((20, 3)), .. }), "{found:?}");
        for bad in [ids(&frame), ids(&Cursor::Id(2).encode()), session(&at), session("?"), session("AAAA"), session("")]
        {
            refused(wanted(bad), Code::InvalidArgument, "cursor");
        }
    }

    #[test]
    fn a_version_is_one_of_an_id_and_a_time_is_one_of_ids() {
        let id = Some(Uuid::from_u128(7));
        let by = |request: RecallRequest| version(&request);
        let by_number = |number| RecallRequest { id, version: Some(number), ..Default::default() };
        let by_time = |time: &str| RecallRequest { id, known_at: Some(time.into()), ..Default::default() };
        assert_eq!(by(RecallRequest { id, ..Default::default() }), Ok(WantedVersion::Current));
        assert_eq!(by(by_number(3)), Ok(WantedVersion::Number(3)));
        refused(by(by_number(0)), Code::InvalidArgument, "version is 0");
        refused(by(RecallRequest { id: None, ..by_number(3) }), Code::InvalidArgument, "version goes with id");
        assert_eq!(by(by_time("1970-01-01T00:00:02.0009Z")), Ok(WantedVersion::KnownAt(2_000)));
        assert_eq!(by(by_time("1960-01-01T00:00:00Z")), Ok(WantedVersion::KnownAt(1)));
        assert_eq!(
            by(RecallRequest { id: None, ids: Some(vec![]), ..by_time("1970-01-01T00:00:02Z") }),
            Ok(WantedVersion::KnownAt(2_000))
        );
        refused(by(by_time("yesterday")), Code::InvalidArgument, "known_at");
        let session = RecallRequest { id: None, session: Some("s".into()), ..by_time("1970-01-01T00:00:02Z") };
        refused(by(session), Code::InvalidArgument, "known_at goes with");
        refused(
            by(RecallRequest { version: Some(1), ..by_time("1970-01-01T00:00:02Z") }),
            Code::InvalidArgument,
            "exclude",
        );
    }

    #[test]
    fn a_recall_has_exactly_one_selector() {
        let id = Uuid::from_u128(7);
        let recall = |request| wanted(request).map(|(_, wanted)| wanted);
        let by_id = RecallRequest { id: Some(id), ..Default::default() };
        assert_eq!(recall(by_id.clone()).unwrap(), Wanted::One(id));
        let by_ids = RecallRequest { ids: Some(vec![id]), ..Default::default() };
        assert_eq!(recall(by_ids.clone()).unwrap(), Wanted::Many(vec![id], 0));
        let both = RecallRequest { ids: by_ids.ids, ..by_id.clone() };
        refused(recall(both), Code::InvalidArgument, "exclude");
        refused(recall(RecallRequest { last: true, ..by_id }), Code::InvalidArgument, "session only");
        let many = RecallRequest { ids: Some(vec![id; 1_001]), ..Default::default() };
        refused(recall(many), Code::TooLarge, "1001");
    }
}
