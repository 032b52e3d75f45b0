//! How far an upload has come, as the cluster remembers it.
//!
//! The record is a hidden frame, replaced with every step under its expected version: any router goes on with any upload,
//! two that try the same step cannot both succeed, and what was acknowledged is there after whatever crash. It ends by
//! itself some time after it was begun.

use std::sync::Arc;
use std::time::Duration;

use mira_proto::model::{Consistency, StoreItem, Stored, UploadReply};
use mira_proto::node_v1::{self, FrameClass, FrameWrite};
use mira_proto::{Code, Problem, limits};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::UploadRef;
use super::chunks::{HiddenFrame, within_limit};
use crate::cluster::CollectionRoute;
use crate::operations::content::FrameRef;
use crate::operations::convert;
use crate::operations::store::{Outcomes, Pending};
use crate::{Memory, RequestContext, ids};

/// The version of the record that this router writes and reads.
pub(super) const FORMAT: u32 = 1;

/// The record of an upload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Progress {
    pub(super) format: u32,
    pub(super) frame: StoreItem,
    pub(super) content_type: String,
    pub(super) size: Option<u64>,
    /// Chunks in order with their sizes.
    pub(super) chunks: Vec<(Uuid, u32)>,
    pub(super) stored: Option<Stored>,
}

impl Progress {
    pub(super) fn offset(&self) -> u64 {
        self.chunks.iter().map(|(_, bytes)| u64::from(*bytes)).sum()
    }

    pub(super) fn attachment(&self) -> node_v1::Attachment {
        let chunk = |&(id, bytes): &(Uuid, u32)| node_v1::Chunk { id: ids::id_bytes(id), bytes };
        node_v1::Attachment { content_type: self.content_type.clone(), chunks: self.chunks.iter().map(chunk).collect() }
    }

    /// Whether bytes may be added at `offset`.
    pub(super) fn takes(&self, offset: u64, bytes: u64) -> Result<(), Problem> {
        if self.stored.is_some() {
            return Err(Problem::new(Code::Conflict, "the upload is finished"));
        }
        if offset != self.offset() {
            let detail = format!("the upload has {} bytes, and goes on there; not at {offset}", self.offset());
            return Err(Problem::new(Code::Conflict, detail));
        }
        match self.size.filter(|&size| offset + bytes > size) {
            Some(size) => Err(Problem::invalid(format!("the upload was said to have {size} bytes, and has more"))),
            None => within_limit(offset + bytes),
        }
    }

    /// How long the record is kept from now on.
    fn life(&self) -> Duration {
        if self.stored.is_some() { limits::UPLOAD_MEMORY } else { limits::UPLOAD_LIFE }
    }
}

/// An upload as it was found, or is about to be made.
pub(super) struct Upload {
    pub(super) id: Uuid,
    pub(super) route: Arc<CollectionRoute>,
    /// The version of the record that was read; 0 before it is made.
    pub(super) version: u64,
    pub(super) progress: Progress,
}

impl Upload {
    pub(super) fn reply(&self) -> UploadReply {
        let Progress { size, stored, .. } = &self.progress;
        UploadReply { upload: self.id, offset: self.progress.offset(), size: *size, stored: stored.clone() }
    }
}

impl Memory {
    pub(super) async fn find_upload(
        &self,
        context: &RequestContext,
        UploadRef { collection, upload: id }: UploadRef<'_>,
    ) -> Result<Upload, Problem> {
        let context = &context.reading(Consistency::Linearizable);
        let (route, frame) = self.one_frame(context, FrameRef { collection, id }, FrameClass::Upload).await?;
        let gone =
            || Problem::new(Code::NotFound, format!("there is no upload {id}: it never was, or its time is over"));
        let frame = frame.ok_or_else(gone)?;
        let progress: Progress = serde_json::from_slice(&frame.content)
            .map_err(|error| Problem::new(Code::Damaged, format!("upload {id} cannot be read: {error}")))?;
        match progress.format {
            FORMAT => Ok(Upload { id, route, version: frame.version, progress }),
            other => Err(Problem::new(Code::UnsupportedVersion, format!("upload {id} has format {other}"))),
        }
    }

    /// Writes how far an upload has come, if nobody else has since it was read.
    pub(super) async fn put_upload(&self, context: &RequestContext, upload: &Upload) -> Result<(), Problem> {
        self.put_upload_for(context, upload, upload.progress.life()).await
    }

    /// As [`Memory::put_upload`], with another time that the record is kept.
    pub(super) async fn put_upload_for(
        &self,
        context: &RequestContext,
        Upload { id, route, version, progress }: &Upload,
        life: Duration,
    ) -> Result<(), Problem> {
        let content = serde_json::to_vec(progress).map_err(|error| Problem::internal(format!("an upload: {error}")))?;
        let hidden = HiddenFrame {
            id: *id,
            class: FrameClass::Upload,
            content: content.into(),
            is_private: progress.frame.private,
        };
        let frame = FrameWrite {
            expected_version: Some(*version),
            expires_ms: convert::now_ms() + life.as_millis() as u64,
            chunks: progress.chunks.iter().map(|(chunk, _)| ids::id_bytes(*chunk)).collect(),
            ..hidden.write(context, route.info.id)?
        };
        let mut outcomes = Outcomes::of(1, context.token.clone());
        self.write_frames(context, route.clone(), vec![Pending::new(0, *id, frame)], &mut outcomes).await;
        match outcomes.into_parts().0.swap_remove(0) {
            Err(problem) if problem.code == Code::Conflict => {
                Err(Problem::new(Code::Conflict, "the upload was gone on with by another request: ask how far it is"))
            }
            outcome => outcome.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_taken_where_the_last_ones_ended_and_no_more_than_were_said() {
        let mut upload = Progress {
            format: FORMAT,
            frame: StoreItem::default(),
            content_type: "application/octet-stream".into(),
            size: Some(10),
            chunks: vec![(Uuid::nil(), 4)],
            stored: None,
        };
        let code = |upload: &Progress, offset, bytes| upload.takes(offset, bytes).map_err(|problem| problem.code);
        assert_eq!(code(&upload, 4, 6), Ok(()));
        assert_eq!(code(&upload, 3, 6), Err(Code::Conflict));
        assert_eq!(code(&upload, 5, 1), Err(Code::Conflict));
        assert_eq!(code(&upload, 4, 7), Err(Code::InvalidArgument));
        upload.size = None;
        assert_eq!(code(&upload, 4, limits::MAX_ATTACHMENT_BYTES - 4), Ok(()));
        assert_eq!(code(&upload, 4, limits::MAX_ATTACHMENT_BYTES - 3), Err(Code::TooLarge));
        upload.stored = Some(Stored { id: Uuid::nil(), version: 1, unchanged: false });
        assert_eq!(code(&upload, 4, 1), Err(Code::Conflict));
    }
}
