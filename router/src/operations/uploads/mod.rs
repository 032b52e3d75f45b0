//! Uploads: large contents that come piece by piece.
//!
//! A content is cut into chunks of at most [`limits::MAX_CONTENT_BYTES`], each a hidden frame whose id is a keyed digest of
//! what it holds (`chunks`); how far an upload has come is a hidden frame too (`progress`). Finishing makes a memory
//! that names the chunks.

mod chunks;
mod progress;

use std::time::Duration;

use bytes::Bytes;
use mira_proto::model::{UploadReply, UploadRequest};
use mira_proto::{Code, Problem, limits, node_v1};
use uuid::Uuid;

use crate::operations::content::OPAQUE;
use crate::operations::convert;
use crate::operations::store::draft::Draft;
use crate::operations::store::{Outcomes, id_of, needs_embedding, vectors_fit};
use crate::operations::validate::collection_name;
use crate::{Memory, RequestContext, ids};
use chunks::within_limit;
use progress::{FORMAT, Progress, Upload};

/// An upload, by the collection that its frame will be in and its id.
#[derive(Debug, Clone, Copy)]
pub struct UploadRef<'a> {
    /// The name of the collection.
    pub collection: &'a str,
    /// The upload's id.
    pub upload: Uuid,
}

impl Memory {
    /// Begins the upload of a large content, after checking what will be stored.
    pub async fn begin_upload(
        &self,
        context: &RequestContext,
        collection: &str,
        request: UploadRequest,
    ) -> Result<UploadReply, Problem> {
        self.bounded("begin_upload", context, async {
            let UploadRequest { mut frame, content_type, size } = request;
            let named = frame.collection.as_deref().map(collection_name).transpose()?;
            if named.is_some_and(|named| named != collection) {
                return Err(Problem::invalid("the frame names another collection than the path"));
            }
            frame.collection = Some(collection.to_owned());
            size.map_or(Ok(()), within_limit)?;
            let content_type = content_type.unwrap_or_else(|| OPAQUE.to_owned());
            if content_type.parse::<mime::Mime>().is_err() || content_type.len() > limits::MAX_NAME_BYTES {
                return Err(Problem::invalid(format!("content_type {content_type:?} is not a media type")));
            }
            let draft = Draft::with_attachment(frame.clone(), Some(node_v1::Attachment::default()), convert::now_ms())?;
            let context = &self.storing_owner(context, frame.private).await?;
            // What can be refused is now, rather than after all of it was sent, and before a collection is made for it.
            let there = self.find_collection(context, collection).await?;
            let drafts = [(0, draft)];
            let info =
                there.as_ref().map_or_else(|| self.first_use(collection, &drafts), |there| Ok(there.info.clone()))?;
            let [(_, draft)] = &drafts;
            vectors_fit(draft, &info)?;
            if needs_embedding(draft) {
                self.model_fits(&info)?;
            }
            let route = match there {
                Some(route) => route,
                None => self.make_on_first_use(context, &info).await?,
            };
            // Made now, so that finishing twice stores once.
            frame.id = Some(id_of(context, &route, 0, &drafts[0].1)?);
            frame.source_key = None;
            let owner = context.owner_key().filter(|_| frame.private);
            let id = ids::upload_id(context, route.placement_key()?, owner);
            let progress = Progress { format: FORMAT, frame, content_type, size, chunks: Vec::new(), stored: None };
            let upload = Upload { id, route, version: 0, progress };
            if context.idempotency_key.is_some()
                && let Some(known) = self.begun_before(context, collection, &upload).await?
            {
                return Ok(known);
            }
            self.put_upload(context, &upload).await?;
            Ok(upload.reply())
        })
        .await
    }

    /// How far the upload has come that an earlier request with the same key has begun; another one under the key is a
    /// conflict.
    async fn begun_before(
        &self,
        context: &RequestContext,
        collection: &str,
        upload: &Upload,
    ) -> Result<Option<UploadReply>, Problem> {
        let known = match self.find_upload(context, UploadRef { collection, upload: upload.id }).await {
            Err(problem) if problem.code == Code::NotFound => return Ok(None),
            found => found?,
        };
        let Progress { chunks, stored, .. } = known.progress.clone();
        if (Progress { chunks, stored, ..upload.progress.clone() }) != known.progress {
            return Err(Problem::new(Code::Conflict, "the Idempotency-Key has begun another upload"));
        }
        Ok(Some(known.reply()))
    }

    /// Says how far an upload has come.
    pub async fn get_upload(&self, context: &RequestContext, upload: UploadRef<'_>) -> Result<UploadReply, Problem> {
        self.bounded("get_upload", context, async {
            let context = self.with_owner(context).await?;
            Ok(self.find_upload(&context, upload).await?.reply())
        })
        .await
    }

    /// Adds chunks of at most [`limits::MAX_CONTENT_BYTES`] at an offset.
    pub async fn append_upload(
        &self,
        context: &RequestContext,
        upload: UploadRef<'_>,
        offset: u64,
        chunks: Vec<Bytes>,
    ) -> Result<UploadReply, Problem> {
        self.bounded("append_upload", context, async {
            let context = &self.with_owner(context).await?;
            let mut upload = self.find_upload(context, upload).await?;
            upload.progress.takes(offset, chunks.iter().map(|chunk| chunk.len() as u64).sum())?;
            if upload.progress.chunks.len() + chunks.len() > limits::MAX_ATTACHMENT_CHUNKS {
                let limit = limits::MAX_ATTACHMENT_CHUNKS;
                let detail = format!("the upload came in too many pieces (more than {limit}): send larger ones");
                return Err(Problem::new(Code::TooLarge, detail));
            }
            let sizes: Vec<u32> = chunks.iter().map(|chunk| chunk.len() as u32).collect();
            let names = self.store_chunks(context, &upload, chunks).await?;
            upload.progress.chunks.extend(names.into_iter().zip(sizes));
            self.put_upload(context, &upload).await?;
            Ok(upload.reply())
        })
        .await
    }

    /// Makes a frame of an upload; again, it answers as the first time did.
    pub async fn finish_upload(&self, context: &RequestContext, named: UploadRef<'_>) -> Result<UploadReply, Problem> {
        self.bounded("finish_upload", context, async {
            let context = &self.with_owner(context).await?;
            let mut upload = self.find_upload(context, named).await?;
            let progress = &mut upload.progress;
            if progress.stored.is_some() {
                return Ok(upload.reply());
            }
            if let Some(size) = progress.size.filter(|&size| size != progress.offset()) {
                let detail = format!("the upload has {} of {size} bytes: send the others first", progress.offset());
                return Err(Problem::new(Code::Conflict, detail));
            }
            let attachment = Some(progress.attachment());
            let draft = Draft::with_attachment(progress.frame.clone(), attachment, convert::now_ms())?;
            let mut outcomes = Outcomes::of(1, context.token.clone());
            self.store_in(context, named.collection, vec![(0, draft)], &mut outcomes).await;
            progress.stored = Some(outcomes.into_parts().0.swap_remove(0)?);
            // The frame is there; that the upload cannot say so is no reason to fail.
            if let Err(problem) = self.put_upload(context, &upload).await {
                tracing::debug!(upload = %upload.id, %problem, "a finished upload is not noted as such");
            }
            Ok(upload.reply())
        })
        .await
    }

    /// Gives an upload up: what came of it goes, unless something else needs it. A finished one stays finished.
    pub async fn cancel_upload(&self, context: &RequestContext, upload: UploadRef<'_>) -> Result<(), Problem> {
        self.bounded("cancel_upload", context, async {
            let context = &self.with_owner(context).await?;
            let upload = match self.find_upload(context, upload).await {
                // A request that comes again has given it up already.
                Err(gone) if gone.code == Code::NotFound && context.idempotency_key.is_some() => return Ok(()),
                found => found?,
            };
            match upload.progress.stored {
                Some(_) => Err(Problem::new(Code::Conflict, "the upload is finished: forget the frame that it made")),
                None => self.put_upload_for(context, &upload, Duration::from_millis(1)).await,
            }
        })
        .await
    }
}
