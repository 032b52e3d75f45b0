//! Opening sealed frames of a shard.

use std::sync::Arc;

use mira_crypto::CollectionKey;
use mira_proto::{Code, FrameId, Problem, Refusal, node_v1};
use mira_raft::EngineError;

use super::ReadView;
use crate::{
    meta::CollectionRecord,
    shard::{
        Shard, chunks,
        record::{self, Class, FrameBody, FramePlace, FrameRecord},
    },
};

impl<R: mira_raft::Runtime> Shard<R> {
    /// Reads and opens frames; `None` for those that do not exist, are of another class or over their time.
    pub(super) fn open_frames(
        &self,
        ReadView { collection, view, .. }: &ReadView,
        class: Class,
        ids: &[FrameId],
    ) -> Result<Vec<Option<node_v1::Frame>>, Refusal> {
        let keys: Vec<_> = ids.iter().map(|&id| record::frame_key(collection.id, id)).collect();
        let stored = view.multi_get(&keys).map_err(|error| self.unreadable(error))?;
        let now_ms = self.group.time_ms();
        let mut frames = Vec::with_capacity(ids.len());
        for (&id, stored) in ids.iter().zip(stored) {
            let Some(stored) = stored else {
                frames.push(None);
                continue;
            };
            let record = FrameRecord::decode(&stored).map_err(|error| self.unreadable(error))?;
            let is_wanted = record.fields.class == class && !record.fields.expired(now_ms);
            frames.push(if is_wanted { Some(self.open_frame(collection, id, record)?) } else { None });
        }
        Ok(frames)
    }

    /// What a plain frame says; a body that does not open is damage of this replica.
    pub(super) fn open_body(
        &self,
        collection: &CollectionRecord,
        id: FrameId,
        record: &FrameRecord,
    ) -> Result<FrameBody, Refusal> {
        let place = FramePlace { collection: collection.id, shard: self.id, frame: id, version: record.fields.version };
        let key = self.key_of(collection, &record.body)?;
        // The same bytes open on a sound replica: this one is to be rebuilt, and another asked.
        place
            .open_body(&key, record)
            .map_err(|error| self.unreadable(EngineError::Damaged(format!("frame {id:032x}: {error}"))))
    }

    /// A frame as a router gets it; a private one without the layers of the node.
    pub(super) fn open_frame(
        &self,
        collection: &CollectionRecord,
        id: FrameId,
        record: FrameRecord,
    ) -> Result<node_v1::Frame, Refusal> {
        if record.fields.owner.is_some() {
            let place =
                FramePlace { collection: collection.id, shard: self.id, frame: id, version: record.fields.version };
            return self.open_private(collection, place, &record);
        }
        let body = self.open_body(collection, id, &record)?;
        Ok(node_v1::Frame {
            id: id.to_be_bytes().to_vec().into(),
            content: body.content,
            text: body.text,
            r#type: body.kind,
            session: body.session,
            role: body.role,
            metadata_json: body.metadata_json,
            version: record.fields.version,
            position: record.fields.position,
            created_ms: record.fields.created_ms,
            updated_ms: record.fields.updated_ms,
            expires_ms: record.fields.expires_ms,
            passage_ranges: body.passages.into_iter().flat_map(|(start, end)| [start, end]).collect(),
            language: body.language,
            private: Default::default(),
            attachment: body.attachment.as_ref().map(chunks::to_wire),
        })
    }

    /// The key that a part of a plain frame was sealed with.
    pub(super) fn key_of(&self, collection: &CollectionRecord, sealed: &[u8]) -> Result<Arc<CollectionKey>, Refusal> {
        let version = mira_crypto::frame::key_version(sealed).map_err(|error| {
            tracing::error!(%error, "a frame cannot be opened");
            Problem::new(Code::Damaged, "a frame cannot be opened")
        })?;
        Ok(self.shared.keyring.version(collection, version)?)
    }
}
