//! Large contents: uploaded piece by piece, read in ranges.
//!
//! A content is cut into chunks of at most [`limits::MAX_CONTENT_BYTES`], each a hidden frame whose id is a keyed digest of
//! what it holds, so that equal pieces are stored once and sending one again changes nothing. A private content's chunks
//! are sealed, and named, with its owner's key; of a plain one the nodes make the names.
//!
//! How far an upload has come is a hidden frame too, replaced with every step under its expected version: any router goes
//! on with any upload, two that try the same step cannot both succeed, and what was acknowledged is there after whatever
//! crash. It ends by itself some time after it was begun. A memory names its chunks in what is sealed of it; a shard
//! never gives out other bytes under a chunk's id, so a range can be trusted without reading the whole.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mira_proto::model::{Consistency, StoreItem, Stored, UploadReply, UploadRequest};
use mira_proto::node_v1::{self, FrameClass, FrameWrite};
use mira_proto::{Code, CollectionId, Problem, limits};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::cluster::{Call, CallError, CollectionRoute, Group, Stays, Want};
use crate::memory::{MAX_REROUTES, no_collection};
use crate::operations::convert;
use crate::operations::store::{Answers, Pending, frame_write, needs_embedding};
use crate::operations::validate::{self, Draft};
use crate::private::seal;
use crate::{ClusterMemory, RequestContext, ids};

const FORMAT: u32 = 1;
/// What bytes are when nobody says.
const OPAQUE: &str = "application/octet-stream";
/// What text is.
const TEXT: &str = "text/plain; charset=utf-8";

/// How far an upload has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Upload {
    format: u32,
    frame: StoreItem,
    content_type: String,
    size: Option<u64>,
    /// Chunks in order with their sizes.
    chunks: Vec<(Uuid, u32)>,
    stored: Option<Stored>,
}

impl Upload {
    fn offset(&self) -> u64 {
        self.chunks.iter().map(|(_, bytes)| u64::from(*bytes)).sum()
    }

    fn reply(&self, upload: Uuid) -> UploadReply {
        UploadReply { upload, offset: self.offset(), size: self.size, stored: self.stored.clone() }
    }

    fn attachment(&self) -> node_v1::Attachment {
        let chunk = |&(id, bytes): &(Uuid, u32)| node_v1::Chunk { id: ids::id_bytes(id), bytes };
        node_v1::Attachment { content_type: self.content_type.clone(), chunks: self.chunks.iter().map(chunk).collect() }
    }

    /// Whether bytes may be added at `offset`.
    fn takes(&self, offset: u64, bytes: u64) -> Result<(), Problem> {
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
}

fn within_limit(bytes: u64) -> Result<(), Problem> {
    let limit = limits::MAX_ATTACHMENT_BYTES;
    match bytes <= limit {
        true => Ok(()),
        false => Err(Problem::new(Code::TooLarge, format!("a content has at most {limit} bytes"))),
    }
}

/// A frame's content, ready to be read in parts.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameContent {
    /// Its media type.
    pub content_type: String,
    /// The frame's version.
    pub version: u64,
    /// Its pieces.
    parts: Parts,
}

#[derive(Debug, Clone, PartialEq)]
enum Parts {
    /// It is all here: a content that was not uploaded.
    Whole(Bytes),
    /// It lies in chunks with these sizes.
    Chunks(Vec<(Uuid, u32)>),
}

/// A part of a content: one chunk of it, or what is wanted of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentPart {
    chunk: usize,
    bytes: Range<usize>,
}

impl FrameContent {
    /// Bytes of all of it.
    pub fn size(&self) -> u64 {
        match &self.parts {
            Parts::Whole(bytes) => bytes.len() as u64,
            Parts::Chunks(chunks) => chunks.iter().map(|(_, bytes)| u64::from(*bytes)).sum(),
        }
    }

    /// The parts that make a range of bytes, in order; the range must lie within the content.
    pub fn parts(&self, range: Range<u64>) -> Vec<ContentPart> {
        let sizes: Vec<u64> = match &self.parts {
            Parts::Whole(bytes) => vec![bytes.len() as u64],
            Parts::Chunks(chunks) => chunks.iter().map(|(_, bytes)| u64::from(*bytes)).collect(),
        };
        let (mut parts, mut start) = (Vec::new(), 0);
        for (chunk, size) in sizes.into_iter().enumerate() {
            let (from, to) = (range.start.max(start), range.end.min(start + size));
            if from < to {
                parts.push(ContentPart { chunk, bytes: (from - start) as usize..(to - start) as usize });
            }
            start += size;
        }
        parts
    }
}

impl ClusterMemory {
    /// Begins an upload, after checking what will be stored.
    pub(crate) async fn new_upload(
        &self,
        context: &RequestContext,
        collection: &str,
        request: UploadRequest,
    ) -> Result<UploadReply, Problem> {
        let UploadRequest { mut frame, content_type, size } = request;
        if frame.collection.as_deref().is_some_and(|named| named != collection) {
            return Err(Problem::invalid("the frame names another collection than the path"));
        }
        frame.collection = Some(collection.to_owned());
        size.map_or(Ok(()), within_limit)?;
        let content_type = content_type.unwrap_or_else(|| OPAQUE.to_owned());
        if content_type.parse::<mime::Mime>().is_err() || content_type.len() > limits::MAX_NAME_BYTES {
            return Err(Problem::invalid(format!("content_type {content_type:?} is not a media type")));
        }
        let draft = validate::with_attachment(frame.clone(), Some(node_v1::Attachment::default()), convert::now_ms())?;
        let context = &self.storing_owner(context, std::slice::from_ref(&frame)).await?;
        let needs_embedding = needs_embedding(&draft);
        let route = self.collection_for(context, collection, &[(0, draft)]).await?;
        // Rather now than after all of it was sent.
        if needs_embedding {
            self.model_fits(&route)?;
        }
        // Made now, so that finishing twice stores once.
        frame.id.get_or_insert_with(|| ids::frame_id(context, 0));
        let upload = Upload { format: FORMAT, frame, content_type, size, chunks: Vec::new(), stored: None };
        // Another one than the frame's, which an Idempotency-Key would give again.
        let id = ids::frame_id(context, 1);
        if context.idempotency_key.is_some()
            && let Some(known) = self.begun_before(context, (collection, id), &upload).await?
        {
            return Ok(known);
        }
        self.put_upload(context, route, (id, 0), &upload).await?;
        Ok(upload.reply(id))
    }

    /// How far the upload has come that an earlier request with the same key has begun; another one under the key is a
    /// conflict.
    async fn begun_before(
        &self,
        context: &RequestContext,
        (collection, id): (&str, Uuid),
        upload: &Upload,
    ) -> Result<Option<UploadReply>, Problem> {
        let known = match self.find_upload(context, collection, id).await {
            Err(problem) if problem.code == Code::NotFound => return Ok(None),
            found => found?.1,
        };
        let begun = Upload { chunks: known.chunks.clone(), stored: known.stored.clone(), ..upload.clone() };
        match begun == known {
            true => Ok(Some(known.reply(id))),
            false => Err(Problem::new(Code::Conflict, "the Idempotency-Key has begun another upload")),
        }
    }

    /// How far an upload has come.
    pub(crate) async fn upload_state(
        &self,
        context: &RequestContext,
        (collection, id): (&str, Uuid),
    ) -> Result<UploadReply, Problem> {
        let context = self.with_owner(context).await?;
        let (_, upload, _) = self.find_upload(&context, collection, id).await?;
        Ok(upload.reply(id))
    }

    /// Adds chunks at `offset`.
    pub(crate) async fn add_to_upload(
        &self,
        context: &RequestContext,
        (collection, id): (&str, Uuid),
        offset: u64,
        chunks: Vec<Bytes>,
    ) -> Result<UploadReply, Problem> {
        let context = &self.with_owner(context).await?;
        let (route, mut upload, version) = self.find_upload(context, collection, id).await?;
        upload.takes(offset, chunks.iter().map(|chunk| chunk.len() as u64).sum())?;
        if upload.chunks.len() + chunks.len() > limits::MAX_ATTACHMENT_CHUNKS {
            let limit = limits::MAX_ATTACHMENT_CHUNKS;
            let detail = format!("the upload came in too many pieces (more than {limit}): send larger ones");
            return Err(Problem::new(Code::TooLarge, detail));
        }
        let sizes: Vec<u32> = chunks.iter().map(|chunk| chunk.len() as u32).collect();
        let names = self.store_chunks(context, &route, upload.frame.private, chunks).await?;
        upload.chunks.extend(names.into_iter().zip(sizes));
        self.put_upload(context, route, (id, version), &upload).await?;
        Ok(upload.reply(id))
    }

    /// Makes a frame of an upload; again, it answers as the first time did.
    pub(crate) async fn end_upload(
        &self,
        context: &RequestContext,
        (collection, id): (&str, Uuid),
    ) -> Result<UploadReply, Problem> {
        let context = &self.with_owner(context).await?;
        let (route, mut upload, version) = self.find_upload(context, collection, id).await?;
        if upload.stored.is_some() {
            return Ok(upload.reply(id));
        }
        if let Some(size) = upload.size.filter(|&size| size != upload.offset()) {
            let detail = format!("the upload has {} of {size} bytes: send the others first", upload.offset());
            return Err(Problem::new(Code::Conflict, detail));
        }
        let draft = validate::with_attachment(upload.frame.clone(), Some(upload.attachment()), convert::now_ms())?;
        let mut answers = Answers::of(1, context.token.clone());
        self.store_in(context, collection, vec![(0, draft)], &mut answers).await;
        upload.stored = Some(answers.into_outcomes().0.swap_remove(0)?);
        // The frame is there; that the upload cannot say so is no reason to fail.
        if let Err(problem) = self.put_upload(context, route, (id, version), &upload).await {
            tracing::debug!(upload = %id, %problem, "a finished upload is not noted as such");
        }
        Ok(upload.reply(id))
    }

    /// Gives an upload up: what came of it goes, unless something else needs it. A finished one stays finished.
    pub(crate) async fn drop_upload(
        &self,
        context: &RequestContext,
        (collection, id): (&str, Uuid),
    ) -> Result<(), Problem> {
        let context = &self.with_owner(context).await?;
        let (route, upload, version) = self.find_upload(context, collection, id).await?;
        match upload.stored {
            Some(_) => Err(Problem::new(Code::Conflict, "the upload is finished: forget the frame that it made")),
            None => self.write_upload(context, route, (id, version), (&upload, Duration::from_millis(1))).await,
        }
    }

    /// A frame's content, wherever it lies.
    pub(crate) async fn content_of(
        &self,
        context: &RequestContext,
        (collection, id): (&str, Uuid),
    ) -> Result<FrameContent, Problem> {
        let context = self.with_owner(&context.reading(Consistency::Linearizable)).await?;
        let (_, frame) = self.one_frame(&context, collection, (FrameClass::Memory, id)).await?;
        let frame = frame.ok_or_else(|| Problem::new(Code::NotFound, format!("there is no frame {id}")))?;
        let version = frame.version;
        let Some(attachment) = frame.attachment else {
            let content_type = if frame.text { TEXT } else { OPAQUE }.to_owned();
            return Ok(FrameContent { content_type, version, parts: Parts::Whole(frame.content) });
        };
        let chunk = |chunk: node_v1::Chunk| {
            let odd = || Problem::new(Code::Damaged, format!("frame {id} names a chunk that is none"));
            Ok((Uuid::from_u128(ids::id_from_bytes(&chunk.id).ok_or_else(odd)?), chunk.bytes))
        };
        let chunks = attachment.chunks.into_iter().map(chunk).collect::<Result<_, Problem>>()?;
        Ok(FrameContent { content_type: attachment.content_type, version, parts: Parts::Chunks(chunks) })
    }

    /// The bytes of a part.
    pub(crate) async fn part_of(
        &self,
        context: &RequestContext,
        (collection, content): (&str, &FrameContent),
        part: &ContentPart,
    ) -> Result<Bytes, Problem> {
        let chunks = match &content.parts {
            Parts::Whole(bytes) => return Ok(bytes.slice(part.bytes.clone())),
            Parts::Chunks(chunks) => chunks,
        };
        let (id, bytes) = chunks[part.chunk];
        let context = self.with_owner(&context.reading(Consistency::Leader)).await?;
        let (_, frame) = self.one_frame(&context, collection, (FrameClass::Chunk, id)).await?;
        // It was forgotten, or another version took its place, while it was read.
        let gone = || Problem::new(Code::NotFound, "the content was forgotten or replaced meanwhile");
        let frame = frame.ok_or_else(gone)?;
        match frame.content.len() == bytes as usize {
            true => Ok(frame.content.slice(part.bytes.clone())),
            false => {
                Err(Problem::new(Code::Damaged, format!("chunk {id} has {} bytes, not {bytes}", frame.content.len())))
            }
        }
    }

    /// Stores chunks; their ids in order.
    async fn store_chunks(
        &self,
        context: &RequestContext,
        route: &Arc<CollectionRoute>,
        is_private: bool,
        chunks: Vec<Bytes>,
    ) -> Result<Vec<Uuid>, Problem> {
        let names = self.name_chunks(context, route, is_private, &chunks).await?;
        // Equal pieces are one.
        let distinct: HashMap<Uuid, Bytes> = names.iter().copied().zip(chunks).collect();
        let pending = distinct.into_iter().enumerate().map(|(at, (id, content))| {
            let frame = hidden(context, route.info.id, (id, FrameClass::Chunk), (content, is_private))?;
            Ok(Pending { at, id, frame, moved: false })
        });
        let pending = pending.collect::<Result<Vec<_>, Problem>>()?;
        let mut answers = Answers::of(pending.len(), context.token.clone());
        self.write_frames(context, route.clone(), pending, &mut answers).await;
        answers.into_outcomes().0.into_iter().try_for_each(|outcome| outcome.map(drop))?;
        Ok(names)
    }

    /// Ids of chunks by what they hold.
    async fn name_chunks(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        is_private: bool,
        chunks: &[Bytes],
    ) -> Result<Vec<Uuid>, Problem> {
        let digests = chunks.iter().map(|chunk| Bytes::copy_from_slice(blake3::hash(chunk).as_bytes()));
        let names: Vec<Bytes> = match context.owner_key().filter(|_| is_private) {
            Some(owner) => digests.map(|digest| seal::chunk_name(owner, route.info.id, &digest)).collect(),
            None => {
                let request =
                    node_v1::NameChunksRequest { epoch: 0, collection: route.info.id, digests: digests.collect() };
                let call = Call {
                    operation: "name_chunks",
                    group: Group::Meta,
                    want: Want::Any,
                    deadline: context.deadline,
                    try_for: limits::READ_TRY,
                    route: None,
                    stays: Stays::Whole,
                };
                let asked = self.cluster.call(&call, |mut client, attempt| {
                    let request = node_v1::NameChunksRequest { epoch: attempt.epoch, ..request.clone() };
                    async move { client.name_chunks(request).await }
                });
                asked.await?.ids
            }
        };
        let odd = || Problem::internal("a storage node named chunks otherwise than asked");
        let names: Option<Vec<Uuid>> = names.iter().map(|name| ids::id_from_bytes(name).map(Uuid::from_u128)).collect();
        names.filter(|names| names.len() == chunks.len()).ok_or_else(odd)
    }

    async fn find_upload(
        &self,
        context: &RequestContext,
        collection: &str,
        id: Uuid,
    ) -> Result<(Arc<CollectionRoute>, Upload, u64), Problem> {
        let context = &context.reading(Consistency::Linearizable);
        let (route, frame) = self.one_frame(context, collection, (FrameClass::Upload, id)).await?;
        let gone =
            || Problem::new(Code::NotFound, format!("there is no upload {id}: it never was, or its time is over"));
        let frame = frame.ok_or_else(gone)?;
        let upload: Upload = serde_json::from_slice(&frame.content)
            .map_err(|error| Problem::new(Code::Damaged, format!("upload {id} cannot be read: {error}")))?;
        match upload.format {
            FORMAT => Ok((route, upload, frame.version)),
            other => Err(Problem::new(Code::UnsupportedVersion, format!("upload {id} has format {other}"))),
        }
    }

    /// Writes how far an upload has come, if nobody else has since `version`.
    async fn put_upload(
        &self,
        context: &RequestContext,
        route: Arc<CollectionRoute>,
        place: (Uuid, u64),
        upload: &Upload,
    ) -> Result<(), Problem> {
        let life = if upload.stored.is_some() { limits::UPLOAD_MEMORY } else { limits::UPLOAD_LIFE };
        self.write_upload(context, route, place, (upload, life)).await
    }

    async fn write_upload(
        &self,
        context: &RequestContext,
        route: Arc<CollectionRoute>,
        (id, version): (Uuid, u64),
        (upload, life): (&Upload, Duration),
    ) -> Result<(), Problem> {
        let content = serde_json::to_vec(upload).map_err(|error| Problem::internal(format!("an upload: {error}")))?;
        let content = (content.into(), upload.frame.private);
        let frame = FrameWrite {
            expected_version: Some(version),
            expires_ms: convert::now_ms() + life.as_millis() as u64,
            chunks: upload.chunks.iter().map(|(chunk, _)| ids::id_bytes(*chunk)).collect(),
            ..hidden(context, route.info.id, (id, FrameClass::Upload), content)?
        };
        let mut answers = Answers::of(1, context.token.clone());
        self.write_frames(context, route, vec![Pending { at: 0, id, frame, moved: false }], &mut answers).await;
        match answers.into_outcomes().0.swap_remove(0) {
            Err(problem) if problem.code == Code::Conflict => {
                Err(Problem::new(Code::Conflict, "the upload was gone on with by another request: ask how far it is"))
            }
            outcome => outcome.map(drop),
        }
    }

    /// A frame with nothing sealed in it, and the collection it is in.
    async fn one_frame(
        &self,
        context: &RequestContext,
        collection: &str,
        (class, id): (FrameClass, Uuid),
    ) -> Result<(Arc<CollectionRoute>, Option<node_v1::Frame>), Problem> {
        for _ in 0..MAX_REROUTES {
            let route = self.find_collection(context, collection).await?.ok_or_else(|| no_collection(collection))?;
            let replies = match self.fetch_frames(context, &route, class, &[id]).await {
                Err(CallError::Moved) => continue,
                replies => replies?,
            };
            let frame = replies.into_iter().flat_map(|reply| reply.frames).next();
            let opened = frame.map(|frame| seal::open(context.owner_key(), route.info.id, frame)).transpose()?;
            return Ok((route, opened.map(|opened| opened.frame)));
        }
        Err(CallError::Moved.into())
    }
}

/// A frame that callers do not see.
fn hidden(
    context: &RequestContext,
    collection: CollectionId,
    (id, class): (Uuid, FrameClass),
    (content, is_private): (Bytes, bool),
) -> Result<FrameWrite, Problem> {
    let draft = Draft { content, private: is_private, ..Draft::default() };
    let missing = || Problem::new(Code::WrongOwnerKey, "it is private: send its owner's key");
    let frame = match is_private {
        true => seal::seal(context.owner_key().ok_or_else(missing)?, collection, (id, draft), Default::default()),
        false => frame_write(id, draft, Default::default()),
    };
    Ok(FrameWrite { class: class as i32, ..frame })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(sizes: &[u32]) -> FrameContent {
        let chunks = sizes.iter().map(|&bytes| (Uuid::nil(), bytes)).collect();
        FrameContent { content_type: OPAQUE.into(), version: 1, parts: Parts::Chunks(chunks) }
    }

    #[test]
    fn a_range_is_made_of_the_parts_that_it_touches() {
        let content = chunks(&[4, 4, 2]);
        let part = |chunk, bytes| ContentPart { chunk, bytes };
        let table = [
            (0..10, vec![part(0, 0..4), part(1, 0..4), part(2, 0..2)]),
            (0..4, vec![part(0, 0..4)]),
            (3..5, vec![part(0, 3..4), part(1, 0..1)]),
            (4..8, vec![part(1, 0..4)]),
            (9..10, vec![part(2, 1..2)]),
            (5..5, vec![]),
        ];
        for (range, parts) in table {
            assert_eq!(content.parts(range.clone()), parts, "{range:?}");
        }
        assert_eq!(content.size(), 10);
        assert_eq!(chunks(&[]).parts(0..0), []);
    }

    #[test]
    fn bytes_are_taken_where_the_last_ones_ended_and_no_more_than_were_said() {
        let mut upload = Upload {
            format: FORMAT,
            frame: StoreItem::default(),
            content_type: OPAQUE.into(),
            size: Some(10),
            chunks: vec![(Uuid::nil(), 4)],
            stored: None,
        };
        let code = |upload: &Upload, offset, bytes| upload.takes(offset, bytes).map_err(|problem| problem.code);
        assert_eq!(code(&upload, 4, 6), Ok(()));
        assert_eq!(code(&upload, 3, 6), Err(Code::Conflict));
        assert_eq!(code(&upload, 5, 1), Err(Code::Conflict));
        assert_eq!(code(&upload, 4, 7), Err(Code::InvalidArgument));
        upload.size = None;
        assert_eq!(code(&upload, 4, limits::MAX_ATTACHMENT_BYTES - 4), Ok(()));
        assert_eq!(code(&upload, 4, limits::MAX_ATTACHMENT_BYTES - 3), Err(Code::TooLarge));
        upload.stored = Some(Stored { id: Uuid::nil(), version: 1 });
        assert_eq!(code(&upload, 4, 1), Err(Code::Conflict));
    }
}
