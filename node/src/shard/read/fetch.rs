//! Reading frames by their ids.

use mira_proto::{FrameId, Refusal, node_v1};

use super::{ReadView, moment::Moment};
use crate::shard::{Shard, chunks, frame_id, migration::ownership::Shown, record::Class};

/// Frames of a page that are read at once: no more than a message holds, were all as large as may be.
pub(super) const FETCH_STEP: usize = 16;

/// Frames that are read on the thread that serves connections: as many as nearly every call asks for.
const FEW: usize = 4;

/// Frames to be read until they have so many bytes.
struct FetchPage<'a> {
    class: Class,
    ids: &'a [FrameId],
    /// Bytes that end the page.
    room: u64,
}

impl<R: mira_raft::Runtime> Shard<R> {
    /// The frames of these ids that exist, in their order.
    pub async fn fetch(&self, request: node_v1::FetchRequest) -> Result<node_v1::FetchReply, Refusal> {
        let read = self.begin_read(request.header.as_ref()).await?;
        let ids = request.ids.iter().map(|id| frame_id(id)).collect::<Result<Vec<_>, _>>()?;
        let class = chunks::class(request.class)?;
        if let Some(moment) = Moment::of(&request)? {
            let room = if request.max_bytes == 0 { u64::MAX } else { request.max_bytes };
            let (frames, looked_at) = at_ease(ids.len(), || self.open_moment(&read, &ids, (moment, room)))?;
            return Ok(node_v1::FetchReply { state: Some(read.state), frames, looked_at });
        }
        let (frames, looked_at) = match request.max_bytes {
            0 => (self.open_frames(&read, class, &shown_of(&read.shown, &ids))?.into_iter().flatten().collect(), 0),
            room => {
                let page = FetchPage { class, ids: &ids, room };
                at_ease(ids.len(), || self.open_page(&read, &page))?
            }
        };
        Ok(node_v1::FetchReply { state: Some(read.state), frames, looked_at })
    }

    /// The first of some frames, until they have so many bytes, and how many were looked at.
    fn open_page(&self, read: &ReadView, page: &FetchPage<'_>) -> Result<(Vec<node_v1::Frame>, u32), Refusal> {
        let &FetchPage { class, ids, room } = page;
        let (mut frames, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
        for step in ids.chunks(FETCH_STEP) {
            let opened = self.open_frames(read, class, &shown_of(&read.shown, step))?.into_iter().flatten();
            let first = frames.len();
            frames.extend(opened);
            bytes += frames[first..].iter().map(bytes_of).sum::<u64>();
            looked_at += step.len() as u32;
            if bytes >= room {
                break;
            }
        }
        Ok((frames, looked_at))
    }
}

/// Reads so many frames. Up to a page of them is work of milliseconds, for which this thread lets its other tasks go; of a
/// few, handing those to another thread would take longer than the work.
fn at_ease<T>(frames: usize, work: impl FnOnce() -> T) -> T {
    if frames <= FEW { work() } else { tokio::task::block_in_place(work) }
}

fn shown_of(shown: &Shown, ids: &[FrameId]) -> Vec<FrameId> {
    ids.iter().copied().filter(|&id| shown.shows(id)).collect()
}

/// What makes a frame large.
pub(super) fn bytes_of(frame: &node_v1::Frame) -> u64 {
    (frame.content.len() + frame.metadata_json.len() + frame.private.len()) as u64
}
