//! Chunks: the pieces of large contents.
//!
//! A chunk is a frame that callers never see. Its id is a keyed digest of what it holds, so equal pieces of a collection
//! have one id, one home, and are stored once. It moves, is sealed anew, backed up and destroyed with its key as every
//! frame is.
//!
//! Whatever needs chunks (a memory with an attachment, a past version of one, an upload under way) names them in its record, in
//! clear, and table `r` says which versions of frames do. A chunk that none names goes: the leader of its shard finds those that have been there for a
//! while (`Shard::idle_chunks`), [`crate::background::chunk_gc`] asks every shard of the collection what its frames refer to, and a
//! command removes the rest, unless one was stored again meanwhile.
//!
//! Why nothing goes that is needed: storing a chunk makes it young, also when it is there already or is brought by a
//! migration (table `c` says since when); a young one is never looked at. An upload names its chunks long before they are old. When it is finished, the memory names them before the
//! upload stops to, by more time than asking every shard may take.

use std::{
    ops::{Bound, ControlFlow},
    time::Duration,
};

use mira_proto::{Code, CollectionId, FrameId, Problem, Refusal, limits, node_v1};
use mira_raft::RequestId;

use crate::meta::CollectionRecord;

use crate::shard::{
    Shard,
    command::{self, ShardAnswer, ShardCommand, StoreOutcome},
    draft::Draft,
    record::{self, Attachment, Class, FrameHead, FrameRecord},
    refuse_engine, refuse_proposal,
};

/// Frame and version.
const REFERENCE_PLACE_BYTES: usize = 24;

/// What a frame on the wire is for.
pub fn class(wire: i32) -> Result<Class, Problem> {
    match node_v1::FrameClass::try_from(wire) {
        Ok(node_v1::FrameClass::Memory) => Ok(Class::Memory),
        Ok(node_v1::FrameClass::Chunk) => Ok(Class::Chunk),
        Ok(node_v1::FrameClass::Upload) => Ok(Class::Upload),
        Err(_) => Err(Problem::new(Code::UnsupportedVersion, format!("frames of class {wire} are not known here"))),
    }
}

/// The chunks that a frame refers to.
pub fn references(wire: &[bytes::Bytes]) -> Result<Vec<FrameId>, Problem> {
    if wire.len() > limits::MAX_ATTACHMENT_CHUNKS {
        let limit = limits::MAX_ATTACHMENT_CHUNKS;
        return Err(Problem::new(Code::TooLarge, format!("{} chunks, the limit is {limit}", wire.len())));
    }
    let odd = |_| Problem::invalid("the id of a chunk has 16 bytes");
    wire.iter().map(|id| id[..].try_into().map(FrameId::from_be_bytes).map_err(odd)).collect()
}

/// An attachment as it is sealed.
pub fn attachment(wire: &node_v1::Attachment) -> Result<Attachment, Problem> {
    if wire.content_type.len() > limits::MAX_NAME_BYTES {
        return Err(Problem::new(
            Code::TooLarge,
            format!("a content type has more than {} bytes", limits::MAX_NAME_BYTES),
        ));
    }
    let ids: Vec<_> = wire.chunks.iter().map(|chunk| chunk.id.clone()).collect();
    let sizes = wire.chunks.iter().map(|chunk| chunk.bytes);
    Ok(Attachment {
        content_type: wire.content_type.clone(),
        chunks: references(&ids)?.into_iter().zip(sizes).collect(),
    })
}

/// An attachment as routers see it.
pub fn to_wire(attachment: &Attachment) -> node_v1::Attachment {
    let chunk = |&(id, bytes): &(FrameId, u32)| node_v1::Chunk { id: id.to_be_bytes().to_vec().into(), bytes };
    node_v1::Attachment {
        content_type: attachment.content_type.clone(),
        chunks: attachment.chunks.iter().map(chunk).collect(),
    }
}

impl<R: mira_raft::Runtime> Shard<R> {
    /// Stores chunks; those that are there already are only said to be needed again.
    pub(super) async fn store_chunks(
        &self,
        collection: &CollectionRecord,
        request_id: RequestId,
        drafts: &[&Draft],
        position: u64,
    ) -> Result<(Vec<StoreOutcome>, u64), Refusal> {
        let keys: Vec<_> = drafts.iter().map(|draft| record::frame_key(collection.id, draft.frame)).collect();
        let stored = self.group.reader().multi_get(&keys).map_err(refuse_engine)?;
        let mut known = Vec::new();
        for (at, stored) in stored.into_iter().enumerate() {
            let there = stored.map(|stored| FrameRecord::decode(&stored)).transpose().map_err(refuse_engine)?;
            if there.is_some_and(|there| there.fields.digest == drafts[at].digest) {
                known.push(at);
            }
        }
        let mut outcomes: Vec<Option<StoreOutcome>> = vec![None; drafts.len()];
        let mut index = self.group.reader().applied_index();
        if !known.is_empty() {
            let chunks = known.iter().map(|&at| drafts[at].frame).collect();
            let payload = ShardCommand::Renew { collection: collection.id, chunks }.encode();
            let proposed = self.group.propose(None, payload).await.map_err(refuse_proposal)?;
            index = index.max(proposed.index);
            let ShardAnswer::Renew(there) = command::decode(&proposed.response).map_err(refuse_engine)? else {
                return Err(Problem::internal("chunks were answered for otherwise").into());
            };
            for (at, there) in known.into_iter().zip(there) {
                outcomes[at] = there.then_some(StoreOutcome::Same(1));
            }
        }
        let new: Vec<&Draft> =
            drafts.iter().zip(&outcomes).filter(|(_, done)| done.is_none()).map(|(&new, _)| new).collect();
        if !new.is_empty() {
            let (stored, at_index) = self.store(collection, request_id, &new, position).await?;
            index = index.max(at_index);
            let mut stored = stored.into_iter();
            outcomes.iter_mut().filter(|outcome| outcome.is_none()).for_each(|outcome| *outcome = stored.next());
        }
        Ok((outcomes.into_iter().map(|outcome| outcome.expect("one for each draft")).collect(), index))
    }

    /// A page of the chunks that frames of this shard refer to.
    pub async fn list_references(
        &self,
        request: &node_v1::ListReferencesRequest,
    ) -> Result<node_v1::ListReferencesReply, Refusal> {
        self.group.read_index().await.map_err(super::refuse_read)?;
        // A place among references is the part of a key behind the collection.
        let prefix = record::collection_prefix(record::Table::References, request.collection);
        if !matches!(request.after.len(), 0 | REFERENCE_PLACE_BYTES) {
            return Err(Problem::invalid(format!("a place among references has {REFERENCE_PLACE_BYTES} bytes")).into());
        }
        let from = [&prefix[..], &request.after].concat();
        let from = if request.after.is_empty() { Bound::Included(&from[..]) } else { Bound::Excluded(&from[..]) };
        let end = record::references_key(request.collection, FrameId::MAX, u64::MAX);
        let (mut chunks, mut last, mut is_full) = (Vec::new(), None, false);
        self.group
            .reader()
            .scan(from, Bound::Included(&end), false, &mut |key, value| {
                if chunks.len() >= limits::GROWTH_PAGE_BYTES {
                    is_full = true;
                    return ControlFlow::Break(());
                }
                last = key.get(prefix.len()..).map(<[u8]>::to_vec);
                chunks.extend_from_slice(value);
                ControlFlow::Continue(())
            })
            .map_err(|error| self.unreadable(error))?;
        let upto = last.filter(|_| is_full).unwrap_or_default();
        Ok(node_v1::ListReferencesReply { chunks: chunks.into(), upto: upto.into() })
    }

    /// The collections that have chunks in this shard, by number.
    pub(crate) fn collections_with_chunks(&self) -> Result<Vec<CollectionId>, Refusal> {
        let (reader, mut found) = (self.group.reader(), Vec::new());
        let end = [u8::from(record::Table::Chunks) + 1];
        let mut next = Some(0);
        while let Some(from) = next {
            let from = record::collection_prefix(record::Table::Chunks, from);
            let mut first = None;
            let scanned = reader.scan(Bound::Included(&from), Bound::Excluded(&end), false, &mut |key, _| {
                first = record::parse_pair_key(key).map(|(collection, _)| collection);
                ControlFlow::Break(())
            });
            scanned.map_err(|error| self.unreadable(error))?;
            found.extend(first);
            next = first.and_then(|collection| collection.checked_add(1));
        }
        Ok(found)
    }

    /// Chunks of a collection that were last stored so long ago, with the log position of that.
    pub(crate) fn idle_chunks(
        &self,
        collection: CollectionId,
        for_time: Duration,
    ) -> Result<Vec<(FrameId, u64)>, Refusal> {
        let before_ms = self.group.time_ms().saturating_sub(for_time.as_millis() as u64);
        let view = self.group.reader().view().map_err(|error| self.unreadable(error))?;
        let mut chunks = Vec::new();
        view.scan_prefix(&record::collection_prefix(record::Table::Chunks, collection), false, &mut |key, needed| {
            let is_idle = needed.try_into().is_ok_and(|needed| u64::from_be_bytes(needed) < before_ms);
            chunks.extend(record::parse_pair_key(key).filter(|_| is_idle).map(|(_, chunk)| chunk));
            ControlFlow::Continue(())
        })
        .map_err(|error| self.unreadable(error))?;
        let mut idle = Vec::new();
        for chunks in chunks.chunks(limits::MAX_FORGET_STEP) {
            let keys: Vec<_> = chunks.iter().map(|&chunk| record::head_key(collection, chunk)).collect();
            let heads = view.multi_get(&keys).map_err(|error| self.unreadable(error))?;
            for (&chunk, head) in chunks.iter().zip(heads) {
                let head = head.map(|head| FrameHead::decode(&head)).transpose();
                let head = head.map_err(|error| self.unreadable(error))?;
                idle.extend(head.map(|head| (chunk, head.changed)));
            }
        }
        Ok(idle)
    }

    /// Removes chunks that no frame refers to; how many were still as they were.
    pub(crate) async fn collect(&self, collection: CollectionId, chunks: &[(FrameId, u64)]) -> Result<u64, Refusal> {
        let mut gone = 0;
        for chunks in chunks.chunks(limits::MAX_FORGET_STEP) {
            let payload = ShardCommand::Collect { collection, chunks: chunks.to_vec() }.encode();
            let proposed = self.group.propose(None, payload).await.map_err(refuse_proposal)?;
            match command::decode(&proposed.response).map_err(refuse_engine)? {
                ShardAnswer::Collect(count) => gone += u64::from(count),
                other => return Err(Problem::internal(format!("a collection was answered with {other:?}")).into()),
            }
        }
        Ok(gone)
    }
}
