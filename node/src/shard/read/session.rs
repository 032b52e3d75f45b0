//! Reading the frames of one session.

use std::ops::ControlFlow;

use mira_proto::{Refusal, limits, node_v1};

use super::{ReadView, private};
use crate::{
    meta::CollectionRecord,
    shard::{
        Shard,
        record::{self, Class},
        refuse_engine,
    },
};

impl<R: mira_raft::Runtime> Shard<R> {
    /// The frames of a session in its order, the first ones; with `last`, the last `limit` of them.
    pub async fn session(&self, request: node_v1::SessionRequest) -> Result<node_v1::FetchReply, Refusal> {
        let ReadView { collection, shown, state } = self.begin_read(request.header.as_ref()).await?;
        let tag = if request.private_session.is_empty() {
            self.session_tag(&collection, &request.session)?
        } else {
            private::session_tag(&self.shared.keyring, &collection, &request.private_session)?
        };
        let prefix = record::session_prefix(collection.id, &tag);
        let created = request.created_from_ms..match request.created_to_ms {
            0 => u64::MAX,
            until => until,
        };
        let limit = request.limit.clamp(1, limits::MAX_RECALL) as usize;
        let reader = self.group.reader();
        let (mut ids, mut failed) = (Vec::new(), None);
        let mut look = |key: &[u8], stored: &[u8]| {
            match record::parse_number(stored) {
                Ok(created_ms) if created.contains(&created_ms) => {
                    ids.extend(record::parse_session_key(key).filter(|&frame| shown.shows(frame)));
                }
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
            if failed.is_some() || ids.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        // Times follow no order here: a range of them may be looked for among all frames of a long session.
        tokio::task::block_in_place(|| reader.scan_prefix(&prefix, request.last, &mut look)).map_err(refuse_engine)?;
        if let Some(error) = failed {
            return Err(self.unreadable(error));
        }
        if request.last {
            ids.reverse();
        }
        let frames = self.open_frames(&collection, Class::Memory, &ids)?.into_iter().flatten().collect();
        Ok(node_v1::FetchReply { state: Some(state), frames, looked_at: 0 })
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
