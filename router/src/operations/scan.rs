//! Everything in a collection, page by page in order of the ids: for exports.
//!
//! Every shard gives the next few of its frames. A frame may be handed on when no shard can still come with a smaller id:
//! those up to the smallest of the last ids of the shards that have more. So a page is whole whatever moves between
//! shards, and the place where the next one begins is an id, which means the same when the collection has moved to more shards.

use std::collections::BTreeMap;

use mira_proto::model::{Consistency, DEFAULT_COLLECTION, ScanReply, ScanRequest, ScannedFrame};
use mira_proto::vectors::OWN_SPACE;
use mira_proto::{Code, FrameId, Problem, limits, node_v1};
use uuid::Uuid;

use crate::cluster::{CallError, CollectionRoute, fan_out};
use crate::memory::{MAX_REROUTES, no_collection};
use crate::operations::recall;
use crate::operations::validate::page_size;
use crate::private::credential::problem_of;
use crate::private::seal::{self, SealedPiece};
use crate::{Memory, RequestContext, ids};

/// Frames that a shard is asked for beyond its share, because shares are never quite equal.
const SPARE: u32 = 16;

/// Which page is asked for.
#[derive(Debug, Clone, Copy)]
struct Page {
    /// The last id of the page before; none for the first.
    after: Option<Uuid>,
    /// How many frames at most.
    limit: u32,
}

impl Memory {
    /// Everything in a collection, page by page in order of the ids.
    pub async fn scan(
        &self,
        context: &RequestContext,
        collection: &str,
        request: ScanRequest,
    ) -> Result<ScanReply, Problem> {
        self.bounded("scan", context, async {
            let page = Page { after: request.cursor, limit: page_size(request.limit)? };
            let context = self.with_owner(&context.reading(Consistency::Linearizable)).await?;
            for _ in 0..MAX_REROUTES {
                let Some(route) = self.find_collection(&context, collection).await? else {
                    return match collection {
                        DEFAULT_COLLECTION => Ok(ScanReply::default()),
                        other => Err(no_collection(other)),
                    };
                };
                match self.scan_page(&context, &route, page).await {
                    Err(CallError::Moved) => {}
                    scanned => return Ok(scanned?),
                }
            }
            Err(CallError::Moved.into())
        })
        .await
    }

    async fn scan_page(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        page: Page,
    ) -> Result<ScanReply, CallError> {
        let share = page.limit.div_ceil(route.shards().len() as u32) + SPARE;
        let request = |header| node_v1::ScanRequest {
            header: Some(header),
            after: page.after.map(ids::id_bytes).unwrap_or_default(),
            limit: share.min(limits::MAX_SCAN),
        };
        let pages = fan_out(context, route, |header, _| self.cluster.read(context, route, request(header)));
        let pages = pages.whole().await?;
        let (frames, has_more) = merged(pages, page.limit as usize).map_err(CallError::Unreached)?;
        let next_cursor = frames.last().filter(|_| has_more).map(|&(id, _)| Uuid::from_u128(id));
        let mut reply = ScanReply { more: has_more, next_cursor, ..ScanReply::default() };
        for (id, scanned) in frames {
            match revealed(context, route, id, scanned) {
                Ok(frame) => reply.frames.push(frame),
                Err(problem) if problem.code == Code::WrongOwnerKey => reply.private_left_out += 1,
                Err(problem) => return Err(CallError::Unreached(problem)),
            }
        }
        Ok(reply)
    }
}

/// The first frames of all pages that no shard can come before, and whether there are others after them.
fn merged(
    pages: Vec<node_v1::ScanReply>,
    limit: usize,
) -> Result<(Vec<(FrameId, node_v1::ScannedFrame)>, bool), Problem> {
    let (mut frames, mut certain) = (Vec::new(), FrameId::MAX);
    let mut has_more = false;
    for page in pages {
        let first = frames.len();
        for scanned in page.frames {
            let id = scanned.frame.as_ref().and_then(|frame| ids::id_from_bytes(&frame.id));
            let odd = || Problem::internal("a shard named a frame without a proper id");
            frames.push((id.ok_or_else(odd)?, scanned));
        }
        if page.more {
            has_more = true;
            let last = frames[first..].last().map(|&(id, _)| id);
            certain = certain.min(last.ok_or_else(|| Problem::internal("a shard gave an empty page and has more"))?);
        }
    }
    frames.retain(|&(id, _)| id <= certain);
    // While shards move, a frame may be seen twice; the newest version counts.
    let version = |scanned: &node_v1::ScannedFrame| scanned.frame.as_ref().map_or(0, |frame| frame.version);
    frames.sort_by(|a, b| (a.0, version(&b.1)).cmp(&(b.0, version(&a.1))));
    frames.dedup_by_key(|&mut (id, _)| id);
    let mut bytes = 0;
    let fits = |(_, scanned): &&(FrameId, node_v1::ScannedFrame)| {
        let is_first = bytes == 0;
        bytes += bytes_of(scanned);
        is_first || bytes <= limits::RECALL_BYTES
    };
    let count = frames.iter().take(limit).take_while(fits).count();
    has_more |= frames.len() > count;
    frames.truncate(count);
    Ok((frames, has_more))
}

/// What makes a frame large.
fn bytes_of(scanned: &node_v1::ScannedFrame) -> usize {
    let named: usize = scanned.named.iter().map(|named| named.vector.len()).sum();
    scanned.frame.as_ref().map_or(0, recall::bytes_of)
        + 4 * (scanned.vector.len() + named)
        + scanned.private_vectors.len()
}

fn revealed(
    context: &RequestContext,
    route: &CollectionRoute,
    id: FrameId,
    scanned: node_v1::ScannedFrame,
) -> Result<ScannedFrame, Problem> {
    let node_v1::ScannedFrame { frame, vector, private_vectors, named } = scanned;
    let frame = frame.unwrap_or_default();
    let position = frame.position;
    let opened = seal::open(context.owner_key(), route.info.id, frame)?;
    let mut vector = (!vector.is_empty()).then_some(vector);
    let mut vectors: BTreeMap<String, Vec<f32>> = named.into_iter().map(|named| (named.space, named.vector)).collect();
    if let Some(owner) = context.owner_key().filter(|_| !private_vectors.is_empty()) {
        let sealed = SealedPiece { collection: route.info.id, frame: id, sealed: &private_vectors };
        let all = seal::open_all_vectors(owner, sealed).map_err(problem_of)?;
        let of = |space| Some(all.in_space(space).to_vec()).filter(|components| !components.is_empty());
        vector = if opened.has_own_vector() { of(OWN_SPACE) } else { None };
        let named = (OWN_SPACE + 1..).zip(&route.info.spaces);
        vectors.extend(named.filter_map(|(number, space)| Some((space.name.clone(), of(number)?))));
    }
    Ok(ScannedFrame { frame: opened.into_model()?, position, vector, vectors })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(ids: &[u8], more: bool) -> node_v1::ScanReply {
        let frame = |&id: &u8| {
            let mut bytes = vec![0; 16];
            bytes[15] = id;
            let frame = node_v1::Frame { id: bytes.into(), version: 1, ..Default::default() };
            node_v1::ScannedFrame { frame: Some(frame), ..Default::default() }
        };
        node_v1::ScanReply { frames: ids.iter().map(frame).collect(), more, ..Default::default() }
    }

    fn of(pages: &[(&[u8], bool)], limit: usize) -> (Vec<FrameId>, bool) {
        let (frames, more) = merged(pages.iter().map(|(ids, more)| page(ids, *more)).collect(), limit).unwrap();
        (frames.into_iter().map(|(id, _)| id).collect(), more)
    }

    #[test]
    fn a_page_ends_where_a_shard_may_still_come_with_a_smaller_id() {
        assert_eq!(of(&[(&[1, 4, 9], true), (&[2, 3], true)], 10), (vec![1, 2, 3], true));
        assert_eq!(of(&[(&[1, 4, 9], true), (&[2, 3], false)], 10), (vec![1, 2, 3, 4, 9], true));
        assert_eq!(of(&[(&[1, 4, 9], false), (&[2, 3], false)], 10), (vec![1, 2, 3, 4, 9], false));
        assert_eq!(of(&[(&[1, 4, 9], false), (&[2, 3], false)], 2), (vec![1, 2], true));
        assert_eq!(of(&[(&[1, 4], false), (&[1, 2], false)], 10), (vec![1, 2, 4], false), "seen twice");
        assert_eq!(of(&[(&[], false)], 10), (vec![], false));
        let mut large = page(&[1, 2], false);
        for scanned in &mut large.frames {
            scanned.vector = vec![0.0; limits::RECALL_BYTES / 4];
        }
        let (frames, more) = merged(vec![large], 10).unwrap();
        assert_eq!((frames.len(), more), (1, true), "one frame at least, and no more bytes than a message is to have");
        assert!(merged(vec![page(&[], true)], 10).is_err());
    }
}
