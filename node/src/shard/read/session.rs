//! Reading the frames of one session, page by page.

use std::ops::{Bound, ControlFlow, Range};

use mira_proto::{CollectionId, FrameId, Problem, Refusal, limits, node_v1};
use mira_raft::{EngineError, StateReader};

use super::{
    ReadView,
    fetch::{FETCH_STEP, bytes_of},
    private,
};
use crate::{
    meta::CollectionRecord,
    shard::{
        Shard, frame_id,
        migration::ownership::Shown,
        record::{self, Class},
    },
};

/// What is left to read of a session, in the order in which it is read.
struct Rest {
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
    /// From the last frame to the first.
    backwards: bool,
    /// When the frames were made, milliseconds.
    created: Range<u64>,
}

impl Rest {
    /// What a request asks for of the session with this tag.
    fn of(collection: CollectionId, tag: &[u8; 16], request: &node_v1::SessionRequest) -> Result<Self, Refusal> {
        let key = |position, frame| record::session_key(collection, tag, position, frame).to_vec();
        let mut rest = Rest {
            from: Bound::Included(key(0, 0)),
            to: Bound::Included(key(u64::MAX, FrameId::MAX)),
            backwards: request.last,
            created: request.created_from_ms..match request.created_to_ms {
                0 => u64::MAX,
                until => until,
            },
        };
        if let Some((position, frame)) = request.after.split_first_chunk::<8>() {
            rest.is_read_to(&key(u64::from_be_bytes(*position), frame_id(frame)?));
        } else if !request.after.is_empty() {
            return Err(Problem::invalid("a place in a session has 24 bytes").into());
        }
        Ok(rest)
    }

    /// Leaves out what has been read: everything up to this key.
    fn is_read_to(&mut self, key: &[u8]) {
        let end = if self.backwards { &mut self.to } else { &mut self.from };
        let (Bound::Included(there) | Bound::Excluded(there)) = &*end else { return };
        if (there.as_slice() < key) != self.backwards || there == key {
            *end = Bound::Excluded(key.to_vec());
        }
    }

    /// The next `most` frames that are shown. Times follow no order here: a range of them may be looked for among all frames
    /// of a long session.
    fn next(&mut self, state: &StateReader, shown: &Shown, most: usize) -> Result<Vec<FrameId>, EngineError> {
        let (mut frames, mut last, mut failed) = (Vec::new(), Vec::new(), None);
        let bound = |end: &Bound<Vec<u8>>| end.clone();
        let (from, to) = (bound(&self.from), bound(&self.to));
        let (from, to) = (from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice));
        state.scan(from, to, self.backwards, &mut |key, stored| {
            last.clear();
            last.extend_from_slice(key);
            match record::parse_number(stored) {
                Ok(created_ms) if self.created.contains(&created_ms) => {
                    frames.extend(record::parse_session_key(key).filter(|&frame| shown.shows(frame)));
                }
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
            if failed.is_some() || frames.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if !last.is_empty() {
            self.is_read_to(&last);
        }
        Ok(frames)
    }
}

impl<R: mira_raft::Runtime> Shard<R> {
    /// A page of a session's frames in its order, the first ones; with `last`, the last of them.
    pub async fn session(&self, request: node_v1::SessionRequest) -> Result<node_v1::SessionReply, Refusal> {
        let read = self.begin_read(request.header.as_ref()).await?;
        let collection = &read.collection;
        let tag = if request.private_session.is_empty() {
            self.session_tag(collection, &request.session)?
        } else {
            private::session_tag(&self.shared.keyring, collection, &request.private_session)?
        };
        let mut rest = Rest::of(collection.id, &tag, &request)?;
        // Opening a page is work of milliseconds, for which this thread lets its other tasks go elsewhere.
        let page = tokio::task::block_in_place(|| self.session_page(&read, &mut rest, &request))?;
        Ok(node_v1::SessionReply { state: Some(read.state), ..page })
    }

    fn session_page(
        &self,
        read: &ReadView,
        rest: &mut Rest,
        request: &node_v1::SessionRequest,
    ) -> Result<node_v1::SessionReply, Refusal> {
        let limit = request.limit.clamp(1, limits::MAX_RECALL) as usize;
        let room = if request.max_bytes == 0 { limits::RECALL_BYTES as u64 } else { request.max_bytes };
        let (mut page, mut bytes) = (node_v1::SessionReply::default(), 0);
        'page: loop {
            // One more than there is room for says whether there are others; those whose time is over do not count.
            let ids = rest.next(&read.view, &read.shown, limit + 1 - page.frames.len());
            let ids = ids.map_err(|error| self.unreadable(error))?;
            if ids.is_empty() {
                break;
            }
            for step in ids.chunks(FETCH_STEP) {
                for frame in self.open_frames(read, Class::Memory, step)?.into_iter().flatten() {
                    if page.frames.len() == limit || bytes >= room {
                        page.more = true;
                        break 'page;
                    }
                    bytes += bytes_of(&frame);
                    page.frames.push(frame);
                }
            }
        }
        if request.last {
            page.frames.reverse();
        }
        Ok(page)
    }

    /// The keyed tag of a session's name.
    pub(in crate::shard) fn session_tag(
        &self,
        collection: &CollectionRecord,
        session: &str,
    ) -> Result<[u8; 16], Refusal> {
        Ok(self.shared.keyring.tags(collection)?.tag(record::SESSION_TAG, session.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_goes_on_where_the_last_one_ended_in_either_direction() {
        let tag = [7; 16];
        let key = |position, frame| record::session_key(1, &tag, position, frame).to_vec();
        let place = |position: u64, frame: u128| [&position.to_be_bytes()[..], &frame.to_be_bytes()].concat();
        let rest =
            |request: node_v1::SessionRequest| Rest::of(1, &tag, &request).map(|rest| (rest.from, rest.to)).unwrap();
        let all = node_v1::SessionRequest { created_from_ms: 10, created_to_ms: 90, ..Default::default() };
        let (from, to) = (Bound::Included(key(0, 0)), Bound::Included(key(u64::MAX, FrameId::MAX)));
        assert_eq!(rest(all.clone()), (from.clone(), to.clone()));
        let after = |after, last| node_v1::SessionRequest { after: place(after, 3).into(), last, ..all.clone() };
        assert_eq!(rest(after(20, false)), (Bound::Excluded(key(20, 3)), to.clone()));
        assert_eq!(rest(after(20, true)), (from.clone(), Bound::Excluded(key(20, 3))));
        assert_eq!(Rest::of(1, &tag, &all).map(|rest| rest.created).ok(), Some(10..90));
        let short = node_v1::SessionRequest { after: vec![1; 9].into(), ..all };
        assert!(Rest::of(1, &tag, &short).is_err());
    }
}
