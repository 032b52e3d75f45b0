//! Everything in a collection, in order of the ids: for exports, page by page.

use std::ops::{Bound, ControlFlow};

use mira_proto::{CollectionId, FrameId, Problem, Refusal, limits, node_v1, vectors::OWN_SPACE};
use mira_raft::{EngineError, StateReader};

use crate::meta::{CollectionRecord, Space};

use crate::shard::{
    Shard, frame_id,
    read::{ReadView, fetch::bytes_of, private},
    record::{self, Class, FramePlace, FrameRecord, Table},
};

impl<R: mira_raft::Runtime> Shard<R> {
    /// A page of a collection's frames, with the vectors that callers gave.
    pub async fn scan(&self, request: node_v1::ScanRequest) -> Result<node_v1::ScanReply, Refusal> {
        let read = self.begin_scan(request.header.as_ref()).await?;
        if request.limit == 0 || request.limit > limits::MAX_SCAN {
            let detail = format!("limit is {}, allowed are 1 to {}", request.limit, limits::MAX_SCAN);
            return Err(Problem::invalid(detail).into());
        }
        let after = if request.after.is_empty() { None } else { Some(frame_id(&request.after)?) };
        // Opening a page is work of milliseconds, for which this thread lets its other tasks go elsewhere.
        let page = tokio::task::block_in_place(|| self.page(&read, after, request.limit as usize))?;
        Ok(node_v1::ScanReply { state: Some(read.state), ..page })
    }

    fn page(
        &self,
        ReadView { collection, shown, view, .. }: &ReadView,
        after: Option<FrameId>,
        limit: usize,
    ) -> Result<node_v1::ScanReply, Refusal> {
        let prefix = record::collection_prefix(record::Table::Records, collection.id);
        let from = after.map(|frame| record::frame_key(collection.id, frame));
        let from = from.as_ref().map_or(Bound::Included(&prefix[..]), |key| Bound::Excluded(&key[..]));
        let end = record::frame_key(collection.id, FrameId::MAX);
        let (mut page, mut bytes, mut failed) = (node_v1::ScanReply::default(), 0, None);
        let now_ms = self.group.time_ms();
        let mut look = |key: &[u8], stored: &[u8]| {
            let Some(frame) = record::parse_pair_key(key).map(|(_, frame)| frame).filter(|&frame| shown.shows(frame))
            else {
                return ControlFlow::Continue(());
            };
            if page.frames.len() == limit || bytes >= limits::SCAN_PAGE_BYTES {
                page.more = true;
                return ControlFlow::Break(());
            }
            let scanned = FrameRecord::decode(stored)
                .map_err(|error| self.unreadable(error))
                .map(|record| {
                    (!record.fields.expired(now_ms) && record.fields.class == Class::Memory).then_some(record)
                })
                .and_then(|record| record.map(|record| self.scanned(collection, view, frame, record)).transpose());
            match scanned {
                Ok(None) => ControlFlow::Continue(()),
                Ok(Some(scanned)) => {
                    bytes += bytes_sent(&scanned);
                    page.frames.push(scanned);
                    ControlFlow::Continue(())
                }
                Err(refusal) => {
                    failed = Some(refusal);
                    ControlFlow::Break(())
                }
            }
        };
        view.scan(from, Bound::Included(&end), false, &mut look).map_err(|error| self.unreadable(error))?;
        if after.is_none() {
            page.has_bin = has_bin(view, collection.id).map_err(|error| self.unreadable(error))?;
        }
        failed.map_or(Ok(page), Err)
    }

    fn scanned(
        &self,
        collection: &CollectionRecord,
        view: &mira_raft::StateReader,
        id: FrameId,
        record: FrameRecord,
    ) -> Result<node_v1::ScannedFrame, Refusal> {
        let place = FramePlace { collection: collection.id, shard: self.id, frame: id, version: record.fields.version };
        let (is_private, spaces) = (record.fields.owner.is_some(), record.fields.spaces);
        let frame = self.open_frame(collection, id, record)?;
        let mut scanned = node_v1::ScannedFrame { frame: Some(frame), ..Default::default() };
        // A vector of the caller's stands for the whole content; those that were made from it can be made again.
        let is_given =
            spaces.has(OWN_SPACE) && scanned.frame.as_ref().is_some_and(|frame| frame.passage_ranges.is_empty());
        let mut named = collection.all_spaces().skip(1).filter(|space| spaces.has(space.number)).peekable();
        if !is_private && !is_given && named.peek().is_none() {
            return Ok(scanned);
        }
        let stored = view.get(&record::vectors_key(collection.id, id)).map_err(|error| self.unreadable(error))?;
        let Some(stored) = stored else { return Ok(scanned) };
        let (_, sealed) = record::decode_vectors(&stored).map_err(|error| self.unreadable(error))?;
        let damaged = |error: String| {
            self.unreadable(mira_raft::EngineError::Damaged(format!("vectors of frame {id:032x}: {error}")))
        };
        if is_private {
            let cluster = self.shared.cluster.borrow().clone();
            let inner = private::open(&self.shared.keyring, &cluster, collection, place.vectors_bound(), sealed);
            scanned.private_vectors = inner.map_err(|error| damaged(error.to_string()))?.into();
            return Ok(scanned);
        }
        let key = self.key_of(collection, sealed)?;
        let vectors = place.open_vectors(&key, sealed).map_err(|error| damaged(error.to_string()))?;
        if is_given {
            scanned.vector = vectors.in_space(OWN_SPACE).to_vec();
        }
        let vector = |space: Space<'_>| node_v1::NamedVector {
            space: space.name.to_owned(),
            vector: vectors.in_space(space.number).to_vec(),
        };
        scanned.named = named.map(vector).collect();
        Ok(scanned)
    }
}

/// Whether something of a collection that was forgotten can be brought back.
fn has_bin(view: &StateReader, collection: CollectionId) -> Result<bool, EngineError> {
    let (mut has_bin, prefix) = (false, record::collection_prefix(Table::Forgotten, collection));
    view.scan_prefix(&prefix, false, &mut |_, _| {
        has_bin = true;
        ControlFlow::Break(())
    })?;
    Ok(has_bin)
}

/// What a frame takes in a page: as it is sent, opened, which may be many times what lies in the state.
fn bytes_sent(scanned: &node_v1::ScannedFrame) -> usize {
    let named: usize = scanned.named.iter().map(|named| named.vector.len()).sum();
    let frame = scanned.frame.as_ref().map_or(0, bytes_of) as usize;
    frame + 4 * (scanned.vector.len() + named) + scanned.private_vectors.len()
}
