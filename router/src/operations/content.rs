//! Large contents read in ranges.
//!
//! A memory names its chunks in what is sealed of it; a shard never gives out other bytes under a chunk's id, so a range
//! can be trusted without reading the whole.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use mira_proto::model::Consistency;
use mira_proto::node_v1::{self, FrameClass};
use mira_proto::{Code, Problem};
use uuid::Uuid;

use crate::cluster::{CallError, CollectionRoute, WantedFrames, WantedVersion};
use crate::memory::{MAX_REROUTES, no_collection};
use crate::private::seal;
use crate::{Memory, RequestContext, ids};

/// What bytes are when nobody says.
pub(super) const OPAQUE: &str = "application/octet-stream";
/// What text is.
const TEXT: &str = "text/plain; charset=utf-8";

/// A frame, by the collection that it is in and its id.
#[derive(Debug, Clone, Copy)]
pub struct FrameRef<'a> {
    /// The name of its collection.
    pub collection: &'a str,
    /// Its id.
    pub id: Uuid,
}

/// A frame's content, ready to be read in parts.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameContent {
    /// Its media type.
    pub content_type: String,
    /// The frame's version.
    pub version: u64,
    /// Its pieces.
    pieces: Pieces,
}

#[derive(Debug, Clone, PartialEq)]
enum Pieces {
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
        match &self.pieces {
            Pieces::Whole(bytes) => bytes.len() as u64,
            Pieces::Chunks(chunks) => chunks.iter().map(|(_, bytes)| u64::from(*bytes)).sum(),
        }
    }

    /// The parts that make a range of bytes, in order; the range must lie within the content.
    pub fn parts(&self, range: Range<u64>) -> Vec<ContentPart> {
        let sizes: Vec<u64> = match &self.pieces {
            Pieces::Whole(bytes) => vec![bytes.len() as u64],
            Pieces::Chunks(chunks) => chunks.iter().map(|(_, bytes)| u64::from(*bytes)).collect(),
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

impl Memory {
    /// A frame's content, wherever it lies, to be read in parts.
    pub async fn read_content(&self, context: &RequestContext, frame: FrameRef<'_>) -> Result<FrameContent, Problem> {
        self.bounded("read_content", context, async {
            let context = self.with_owner(&context.reading(Consistency::Linearizable)).await?;
            let id = frame.id;
            let (_, frame) = self.one_frame(&context, frame, FrameClass::Memory).await?;
            let frame = frame.ok_or_else(|| Problem::new(Code::NotFound, format!("there is no frame {id}")))?;
            let version = frame.version;
            let Some(attachment) = frame.attachment else {
                let content_type = if frame.text { TEXT } else { OPAQUE }.to_owned();
                return Ok(FrameContent { content_type, version, pieces: Pieces::Whole(frame.content) });
            };
            let chunk = |chunk: node_v1::Chunk| {
                let odd = || Problem::new(Code::Damaged, format!("frame {id} names a chunk that is none"));
                Ok((Uuid::from_u128(ids::id_from_bytes(&chunk.id).ok_or_else(odd)?), chunk.bytes))
            };
            let chunks = attachment.chunks.into_iter().map(chunk).collect::<Result<_, Problem>>()?;
            Ok(FrameContent { content_type: attachment.content_type, version, pieces: Pieces::Chunks(chunks) })
        })
        .await
    }

    /// The bytes of one part of a content.
    pub async fn read_content_part(
        &self,
        context: &RequestContext,
        collection: &str,
        content: &FrameContent,
        part: &ContentPart,
    ) -> Result<Bytes, Problem> {
        self.bounded("read_content_part", context, async {
            let chunks = match &content.pieces {
                Pieces::Whole(bytes) => return Ok(bytes.slice(part.bytes.clone())),
                Pieces::Chunks(chunks) => chunks,
            };
            let (id, bytes) = chunks[part.chunk];
            let context = self.with_owner(&context.reading(Consistency::Leader)).await?;
            let (_, frame) = self.one_frame(&context, FrameRef { collection, id }, FrameClass::Chunk).await?;
            // It was forgotten, or another version took its place, while it was read.
            let gone = || Problem::new(Code::NotFound, "the content was forgotten or replaced meanwhile");
            let frame = frame.ok_or_else(gone)?;
            if frame.content.len() != bytes as usize {
                let have = frame.content.len();
                return Err(Problem::new(Code::Damaged, format!("chunk {id} has {have} bytes, not {bytes}")));
            }
            Ok(frame.content.slice(part.bytes.clone()))
        })
        .await
    }

    /// A frame with nothing sealed in it, and the collection it is in.
    pub(crate) async fn one_frame(
        &self,
        context: &RequestContext,
        FrameRef { collection, id }: FrameRef<'_>,
        class: FrameClass,
    ) -> Result<(Arc<CollectionRoute>, Option<node_v1::Frame>), Problem> {
        for _ in 0..MAX_REROUTES {
            let route = self.find_collection(context, collection).await?.ok_or_else(|| no_collection(collection))?;
            let wanted = WantedFrames { class, ids: &[id], max_bytes: 0, version: WantedVersion::Current };
            let found = match self.cluster.fetch(context, &route, wanted).await {
                Err(CallError::Moved) => continue,
                found => found?,
            };
            let frame = found.replies.into_iter().flat_map(|(_, reply)| reply.frames).next();
            let opened = frame.map(|frame| seal::open(context.owner_key(), route.info.id, frame)).transpose()?;
            return Ok((route, opened.map(|opened| opened.frame)));
        }
        Err(CallError::Moved.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(sizes: &[u32]) -> FrameContent {
        let chunks = sizes.iter().map(|&bytes| (Uuid::nil(), bytes)).collect();
        FrameContent { content_type: OPAQUE.into(), version: 1, pieces: Pieces::Chunks(chunks) }
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
}
