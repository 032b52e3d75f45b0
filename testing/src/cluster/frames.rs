//! Writing and reading frames of the fake cluster by their ids, sessions and order.

use std::collections::HashMap;

use bytes::Bytes;
use mira_proto::Refusal;
use mira_proto::node_v1 as wire;
use tonic::Status;

use super::node::FakeNode;
use super::search::is_meant;
use super::state::Kept;

/// Frames of one page of a fetch that asks for pages.
const FETCHED_PAGE: usize = 5;

impl FakeNode {
    pub(super) fn answer_write(&self, request: wire::WriteRequest) -> Result<wire::WriteReply, Status> {
        let mut state = self.state.lock();
        let wire::WriteHeader { shard, collection, request_id, .. } =
            self.begin_write(&mut state, "write", request.header.clone())?;
        let reply = match state.remembered.get(&request_id) {
            Some(reply) => reply.clone(),
            None => {
                let position = state.give_position(shard, &request);
                let write = |frame: wire::FrameWrite| {
                    if state.has_moved(collection, shard, &frame.id) {
                        return wire::WriteOutcome { moved: true, ..Default::default() };
                    }
                    state.write(collection, shard, position, frame)
                };
                let outcomes = request.frames.into_iter().map(write).collect();
                let index = state.indexes.entry(shard).or_default();
                *index += 1;
                let reply = wire::WriteReply { outcomes, index: *index, position };
                state.remembered.insert(request_id, reply.clone());
                reply
            }
        };
        let faults = state.faults.entry(self.id).or_default();
        if faults.lost_answers > 0 {
            faults.lost_answers -= 1;
            return Err(Refusal::Unknown("quorum lost on the way".into()).into());
        }
        Ok(reply)
    }

    pub(super) fn answer_write_many(&self, request: wire::WriteManyRequest) -> Result<wire::WriteManyReply, Status> {
        let writes = request.writes;
        let seen = self.seen("write_many", writes[0].header.as_ref().map_or(0, |header| header.shard));
        self.state.lock().seen.push(seen);
        let result = |write| match self.answer_write(write) {
            Ok(reply) => wire::WriteResult { reply: Some(reply), problem: None },
            Err(status) => wire::WriteResult { reply: None, problem: Some(Refusal::from(status).into()) },
        };
        Ok(wire::WriteManyReply { results: writes.into_iter().map(result).collect() })
    }

    pub(super) fn answer_forget(&self, request: wire::ForgetRequest) -> Result<wire::ForgetReply, Status> {
        let mut state = self.state.lock();
        let wire::WriteHeader { shard, collection, request_id, .. } =
            self.begin_write(&mut state, "forget", request.header)?;
        if let Some(reply) = state.forgotten.get(&request_id) {
            return Ok(reply.clone());
        }
        let left = state.forgets_left.as_mut();
        if left.is_some_and(|left| std::mem::replace(left, left.saturating_sub(1)) == 0) {
            return Err(Refusal::NotReady("told to forget no more".into()).into());
        }
        let matches = |kept: &Kept| {
            request.all
                || (!request.session.is_empty() && kept.frame.session == request.session)
                || (!request.filter_json.is_empty() && is_meant(&request.filter_json, &kept.frame))
                || (!request.private_session.is_empty() && kept.private.session == request.private_session)
                || request.ids.contains(&kept.frame.id)
        };
        let is_here = |kept: &Kept| !state.has_moved(collection, shard, &kept.frame.id);
        let matching = state.of_shard(collection, shard).filter(|kept| matches(kept) && is_here(kept));
        let mut removed: Vec<Bytes> = matching.map(|kept| kept.frame.id.clone()).collect();
        let moved = request.ids.iter().filter(|id| state.has_moved(collection, shard, id)).cloned().collect();
        let frozen_for = state.frozen_for(collection, shard);
        let more = removed.len() > state.forget_step;
        removed.truncate(state.forget_step);
        for id in &removed {
            state.frames.remove(&(collection, shard, id.to_vec()));
        }
        let index = state.indexes.entry(shard).or_default();
        *index += 1;
        let index = *index;
        state.gone.insert(shard, index);
        let reply = wire::ForgetReply { removed, index, more, moved, frozen_for, ..Default::default() };
        state.forgotten.insert(request_id, reply.clone());
        Ok(reply)
    }

    pub(super) fn answer_fetch(&self, request: wire::FetchRequest) -> Result<wire::FetchReply, Status> {
        let mut state = self.state.lock();
        let header = request.header.unwrap_or_default();
        if let Some(gone) = state.vanishing.take() {
            state.frames.retain(|(_, _, id), _| *id != gone);
            *state.indexes.entry(header.shard).or_default() += 1;
        }
        let read = self.begin_read(&mut state, "fetch", &header)?;
        let paged = request.max_bytes > 0;
        let ids = &request.ids[..if paged { request.ids.len().min(FETCHED_PAGE) } else { request.ids.len() }];
        let shown: HashMap<&Bytes, &Kept> = state.shown(&header).map(|kept| (&kept.frame.id, kept)).collect();
        let frames = ids.iter().filter_map(|id| Some(shown.get(id)?.frame.clone())).collect();
        Ok(wire::FetchReply { frames, state: read, looked_at: if paged { ids.len() as u32 } else { 0 } })
    }

    pub(super) fn answer_session(&self, request: wire::SessionRequest) -> Result<wire::SessionReply, Status> {
        let mut state = self.state.lock();
        let header = request.header.unwrap_or_default();
        let read = self.begin_read(&mut state, "session", &header)?;
        let place = |frame: &wire::Frame| [&frame.position.to_be_bytes()[..], &frame.id].concat();
        let is_left = |frame: &wire::Frame| {
            let is_behind = request.after.is_empty() || (place(frame) > request.after) != request.last;
            is_behind && place(frame) != request.after && frame.created_ms >= request.created_from_ms
        };
        let mut frames: Vec<wire::Frame> = state
            .shown(&header)
            .filter(|kept| {
                if request.private_session.is_empty() {
                    kept.private.owner.is_empty() && kept.frame.session == request.session
                } else {
                    kept.private.session == request.private_session
                }
            })
            .map(|kept| kept.frame.clone())
            .filter(is_left)
            .collect();
        frames.sort_by_key(place);
        let (limit, count) = (request.limit as usize, frames.len());
        if request.last {
            frames.drain(..count.saturating_sub(limit));
        }
        frames.truncate(limit);
        Ok(wire::SessionReply { more: frames.len() < count, frames, state: read })
    }

    pub(super) fn answer_scan(&self, request: wire::ScanRequest) -> Result<wire::ScanReply, Status> {
        let mut state = self.state.lock();
        let header = request.header.unwrap_or_default();
        let read = self.begin_read(&mut state, "scan", &header)?;
        let mut kept: Vec<&Kept> = state.shown(&header).filter(|kept| kept.is_memory).collect();
        kept.sort_by(|a, b| a.frame.id.cmp(&b.frame.id));
        kept.retain(|kept| kept.frame.id > request.after);
        let more = kept.len() > request.limit as usize;
        let scanned = |kept: &Kept| {
            let vector = if kept.frame.passage_ranges.is_empty() { kept.vectors.concat() } else { Vec::new() };
            let private_vectors = kept.private.vectors.clone();
            let named = kept.named.clone();
            wire::ScannedFrame { frame: Some(kept.frame.clone()), vector, private_vectors, named }
        };
        let frames = kept.into_iter().take(request.limit as usize).map(scanned).collect();
        Ok(wire::ScanReply { state: read, frames, more })
    }
}
