//! Which sessions a collection has, page by page in order of their keyed tags. The state holds no names: a session's name,
//! and whatever else is told of it, is read off its newest frame.

use std::ops::{Bound, ControlFlow};

use mira_proto::{CollectionId, FrameId, Problem, Refusal, limits, node_v1};
use mira_raft::{EngineError, StateReader};

use crate::shard::{
    Shard,
    migration::ownership::Shown,
    read::ReadView,
    record::{self, FrameRecord},
};

/// Keys that a page looks at before it ends: one session with a million frames must not hold up a reader.
const MOST_KEYS: usize = 100_000;

type Tag = [u8; 16];

/// A session as the keys tell of it.
#[derive(Debug, PartialEq, Eq)]
struct SessionSummary {
    tag: Tag,
    frames: u64,
    first_ms: u64,
    newest: FrameId,
}

impl<R: mira_raft::Runtime> Shard<R> {
    /// A page of the sessions that this shard has frames of.
    pub async fn sessions(&self, request: node_v1::SessionsRequest) -> Result<node_v1::SessionsReply, Refusal> {
        let ReadView { collection, shown, view, state } = self.begin_scan(request.header.as_ref()).await?;
        if request.limit == 0 || request.limit > limits::MAX_SCAN {
            let detail = format!("limit is {}, allowed are 1 to {}", request.limit, limits::MAX_SCAN);
            return Err(Problem::invalid(detail).into());
        }
        let after = if request.after.is_empty() {
            None
        } else {
            let tag = request.after[..].try_into();
            Some(tag.map_err(|_| Problem::invalid("a session's tag has 16 bytes"))?)
        };
        let read = || {
            let (parts, more) = list(&view, collection.id, &shown, after, request.limit as usize)
                .map_err(|error| self.unreadable(error))?;
            let mut sessions = Vec::with_capacity(parts.len());
            for part in parts {
                let key = record::frame_key(collection.id, part.newest);
                let Some(stored) = view.get(&key).map_err(|error| self.unreadable(error))? else { continue };
                let found = FrameRecord::decode(&stored).map_err(|error| self.unreadable(error))?;
                sessions.push(node_v1::SessionPart {
                    tag: part.tag.to_vec().into(),
                    frames: part.frames,
                    first_ms: part.first_ms,
                    newest: Some(self.open_frame(&collection, part.newest, found)?),
                });
            }
            Ok(node_v1::SessionsReply { state: Some(state), sessions, more })
        };
        // Opening a page is work of milliseconds, for which this thread lets its other tasks go elsewhere.
        tokio::task::block_in_place(read)
    }
}

/// Sessions behind a tag, whole ones, and whether there are others after them.
fn list(
    reader: &StateReader,
    collection: CollectionId,
    shown: &Shown,
    after: Option<Tag>,
    limit: usize,
) -> Result<(Vec<SessionSummary>, bool), EngineError> {
    let prefix = record::collection_prefix(record::Table::Sessions, collection);
    let behind = after.map(|tag| record::session_key(collection, &tag, u64::MAX, FrameId::MAX));
    let from = behind.as_ref().map_or(Bound::Included(&prefix[..]), |key| Bound::Excluded(&key[..]));
    let end = record::session_key(collection, &[u8::MAX; 16], u64::MAX, FrameId::MAX);
    let (mut parts, mut looked, mut more) = (Vec::<SessionSummary>::new(), 0, false);
    let mut failed = None;
    reader.scan(from, Bound::Included(&end), false, &mut |key, stored| {
        let found = key.get(9..25).and_then(|tag| Tag::try_from(tag).ok()).zip(record::parse_session_key(key));
        let Some((tag, frame)) = found.filter(|(_, frame)| shown.shows(*frame)) else {
            return ControlFlow::Continue(());
        };
        let created_ms = match record::parse_number(stored) {
            Ok(created_ms) => created_ms,
            Err(error) => {
                failed = Some(error);
                return ControlFlow::Break(());
            }
        };
        looked += 1;
        // Keys of a session come in its order.
        if let Some(part) = parts.last_mut().filter(|part| part.tag == tag) {
            *part = SessionSummary {
                frames: part.frames + 1,
                first_ms: part.first_ms.min(created_ms),
                newest: frame,
                ..*part
            };
            return ControlFlow::Continue(());
        }
        if parts.len() == limit || looked > MOST_KEYS {
            more = true;
            return ControlFlow::Break(());
        }
        parts.push(SessionSummary { tag, frames: 1, first_ms: created_ms, newest: frame });
        ControlFlow::Continue(())
    })?;
    failed.map_or(Ok((parts, more)), Err)
}
