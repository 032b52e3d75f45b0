//! Reading the frames of one session.

use std::ops::{Bound, ControlFlow};

use mira_proto::{Refusal, limits, node_v1};

use super::{ReadView, private};
use crate::{
    meta::CollectionRecord,
    shard::{
        Shard,
        record::{self, Class},
    },
};

impl<R: mira_raft::Runtime> Shard<R> {
    /// The frames of a session by time of creation, oldest first; with `last`, the newest `limit` of them.
    pub async fn session(&self, request: node_v1::SessionRequest) -> Result<node_v1::FetchReply, Refusal> {
        let read = self.begin_read(request.header.as_ref()).await?;
        let ReadView { collection, shown, view, .. } = &read;
        let tag = if request.private_session.is_empty() {
            self.session_tag(collection, &request.session)?
        } else {
            private::session_tag(&self.shared.keyring, collection, &request.private_session)?
        };
        let prefix = record::session_prefix(collection.id, &tag);
        let from = record::session_key(collection.id, &tag, request.created_from_ms, 0);
        let to = match request.created_to_ms {
            0 => record::session_key(collection.id, &tag, u64::MAX, u128::MAX),
            until => record::session_key(collection.id, &tag, until, 0),
        };
        let limit = request.limit.clamp(1, limits::MAX_RECALL) as usize;
        let mut ids = Vec::new();
        view.scan(Bound::Included(&from), Bound::Excluded(&to), request.last, &mut |key, _| {
            debug_assert!(key.starts_with(&prefix));
            ids.extend(record::parse_session_key(key).map(|(_, frame)| frame).filter(|&frame| shown.shows(frame)));
            if ids.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .map_err(|error| self.unreadable(error))?;
        if request.last {
            ids.reverse();
        }
        let frames = self.open_frames(&read, Class::Memory, &ids)?.into_iter().flatten().collect();
        Ok(node_v1::FetchReply { state: Some(read.state), frames, looked_at: 0 })
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
