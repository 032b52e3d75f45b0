//! Writing and reading frames of the fake cluster by their ids, sessions and order.

use std::collections::HashMap;

use bytes::Bytes;
use mira_proto::node_v1 as wire;
use mira_proto::{Code, Problem, Refusal};
use prost::Message;
use tonic::Status;
use wire::forget_request::Scope;

use super::node::FakeNode;
use super::search::is_meant;
use super::state::{Kept, key_reused};

/// Frames of one page of a fetch that asks for pages.
const FETCHED_PAGE: usize = 5;
/// When everything was forgotten, milliseconds since 1970.
const FORGOTTEN_MS: u64 = 1_800_000_000_000;
/// How long forgotten frames rest where nothing is said.
const BIN_DAYS: u32 = 7;

/// What a caller said of a frame.
fn said(frame: &wire::FrameWrite) -> Vec<u8> {
    let digest = frame.private.as_ref().map(|private| private.digest.clone()).unwrap_or_default();
    let private = Some(wire::PrivateWrite { digest, ..Default::default() });
    let passages = if frame.vector_given { frame.passages.clone() } else { Vec::new() };
    wire::FrameWrite { passages, private, index: 0, ..frame.clone() }.encode_to_vec()
}

impl FakeNode {
    pub(super) fn answer_write(&self, request: wire::WriteRequest) -> Result<wire::WriteReply, Status> {
        let mut state = self.state.lock();
        let wire::WriteHeader { shard, collection, request_id, .. } =
            self.begin_write(&mut state, "write", request.header.clone())?;
        let said: Vec<u8> = request.frames.iter().flat_map(said).collect();
        let reply = match state.remembered.get(&request_id) {
            Some((before, _)) if *before != said => return Err(key_reused()),
            Some((_, reply)) => reply.clone(),
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
                state.remembered.insert(request_id, (said, reply.clone()));
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
            self.begin_write(&mut state, "forget", request.header.clone())?;
        if !request.said.is_empty() {
            return match state.claimed.entry(request_id).or_insert_with(|| request.said.clone()) {
                before if *before == request.said => Ok(wire::ForgetReply::default()),
                _ => Err(key_reused()),
            };
        }
        if let Some(reply) = state.forgotten.get(&request_id) {
            return Ok(reply.clone());
        }
        let left = state.forgets_left.as_mut();
        if left.is_some_and(|left| std::mem::replace(left, left.saturating_sub(1)) == 0) {
            return Err(Refusal::NotReady("told to forget no more".into()).into());
        }
        let may_go = |kept: &Kept| kept.private.owner.is_empty() || kept.private.owner == request.owner;
        let matches = |kept: &Kept| {
            (request.all && may_go(kept))
                || (!request.session.is_empty() && kept.frame.session == request.session)
                || (!request.filter_json.is_empty() && is_meant(&request.filter_json, &kept.frame))
                || (!request.private_session.is_empty() && kept.private.session == request.private_session)
                || request.ids.contains(&kept.frame.id)
        };
        let is_here = |kept: &Kept| !state.has_moved(collection, shard, &kept.frame.id);
        let scope = request.scope();
        let bin_days = state.collections.values().find(|found| found.id == collection);
        let bin_days = bin_days.and_then(|found| found.retention?.bin_days).unwrap_or(BIN_DAYS);
        let binned = state.bin.iter().filter(|((c, s, _), _)| (*c, *s) == (collection, shard)).map(|(_, kept)| kept);
        let (of_frames, of_bin) = match scope {
            Scope::IntoBin => (true, false),
            Scope::ForGood => (true, !request.ids.is_empty()),
            Scope::FromBin => (false, true),
        };
        let there = state.of_shard(collection, shard).filter(|_| of_frames).chain(binned.filter(|_| of_bin));
        let there: Vec<&Kept> = there.filter(|kept| is_here(kept)).collect();
        if there.iter().any(|kept| request.ids.contains(&kept.frame.id) && !may_go(kept)) {
            let detail = "the id holds a private memory of another owner";
            return Err(Refusal::from(Problem::new(Code::WrongOwnerKey, detail)).into());
        }
        let private_left = there.iter().filter(|kept| request.all && !may_go(kept)).count() as u64;
        let matching = there.into_iter().filter(|kept| matches(kept));
        let mut removed: Vec<Bytes> = matching.map(|kept| kept.frame.id.clone()).collect();
        let moved = request.ids.iter().filter(|id| state.has_moved(collection, shard, id)).cloned().collect();
        let frozen_for = state.frozen_for(collection, shard);
        let more = removed.len() > state.forget_step;
        removed.truncate(state.forget_step);
        // Found again by every step; the last one counts them.
        let private_left = if more { 0 } else { private_left };
        let rests = scope == Scope::IntoBin && bin_days > 0;
        for id in &removed {
            let key = (collection, shard, id.to_vec());
            match state.frames.remove(&key) {
                Some(kept) if rests => drop(state.bin.insert(key, kept)),
                _ => {
                    state.bin.remove(&key);
                    state.past.remove(&key);
                }
            }
        }
        let restorable_until_ms =
            if rests && !removed.is_empty() { FORGOTTEN_MS + u64::from(bin_days) * 86_400_000 } else { 0 };
        let index = state.indexes.entry(shard).or_default();
        *index += 1;
        let index = *index;
        state.gone.insert(shard, index);
        let reply = wire::ForgetReply {
            removed,
            index,
            more,
            next: Bytes::new(),
            moved,
            frozen_for,
            restorable_until_ms,
            private_left,
        };
        state.forgotten.insert(request_id, reply.clone());
        Ok(reply)
    }

    pub(super) fn answer_list_bin(&self, request: wire::ListBinRequest) -> Result<wire::ListBinReply, Status> {
        let mut state = self.state.lock();
        let header = request.header.unwrap_or_default();
        let read = self.begin_read(&mut state, "list_bin", &header)?;
        let may_have = |kept: &Kept| kept.private.owner.is_empty() || kept.private.owner == request.owner;
        let matches = |kept: &Kept| {
            request.all
                || (!request.session.is_empty() && kept.frame.session == request.session)
                || (!request.filter_json.is_empty() && is_meant(&request.filter_json, &kept.frame))
                || (!request.private_session.is_empty() && kept.private.session == request.private_session)
        };
        let here =
            |(collection, shard, _): &(u64, u32, Vec<u8>)| (*collection, *shard) == (header.collection, header.shard);
        let binned = state.bin.iter().filter(|(key, _)| here(key)).map(|(_, kept)| kept);
        let mut ids: Vec<Bytes> =
            binned.filter(|kept| matches(kept) && may_have(kept)).map(|kept| kept.frame.id.clone()).collect();
        ids.retain(|id| *id > request.after);
        let more = ids.len() > state.forget_step;
        ids.truncate(state.forget_step);
        let next = ids.last().filter(|_| more).cloned().unwrap_or_default();
        Ok(wire::ListBinReply { state: read, ids, more, next })
    }

    pub(super) fn answer_undelete(&self, request: wire::UndeleteRequest) -> Result<wire::UndeleteReply, Status> {
        let mut state = self.state.lock();
        let wire::WriteHeader { shard, collection, request_id, .. } =
            self.begin_write(&mut state, "undelete", request.header)?;
        if let Some(reply) = state.undeleted.get(&request_id) {
            return Ok(reply.clone());
        }
        let refused = |code, detail: &str| wire::WriteOutcome {
            problem: Some(Problem::new(code, detail).into()),
            ..Default::default()
        };
        let mut outcomes = Vec::new();
        for id in &request.ids {
            let key = (collection, shard, id.to_vec());
            outcomes.push(if state.has_moved(collection, shard, id) {
                wire::WriteOutcome { moved: true, ..Default::default() }
            } else if let Some(there) = state.frames.get(&key) {
                let forgotten = state.forgotten_versions.get(&key).cloned().unwrap_or_default();
                wire::WriteOutcome { version: there.frame.version, unchanged: true, forgotten, ..Default::default() }
            } else {
                match state.bin.remove(&key) {
                    None => refused(Code::NotFound, "nothing of that id rests in the bin"),
                    Some(kept) if !kept.private.owner.is_empty() && kept.private.owner != request.owner => {
                        state.bin.insert(key, kept);
                        refused(Code::WrongOwnerKey, "it is another owner's")
                    }
                    Some(before) => {
                        state.clock_ms += 1;
                        let (version, updated_ms) = (before.frame.version + 1, state.clock_ms);
                        let frame = wire::Frame { version, updated_ms, ..before.frame.clone() };
                        state.past.entry(key.clone()).or_default().push((before.clone(), updated_ms));
                        state.frames.insert(key, Kept { frame, ..before });
                        wire::WriteOutcome { version, ..Default::default() }
                    }
                }
            });
        }
        let index = state.indexes.entry(shard).or_default();
        *index += 1;
        let reply = wire::UndeleteReply { outcomes, index: *index };
        state.undeleted.insert(request_id, reply.clone());
        let faults = state.faults.entry(self.id).or_default();
        if faults.lost_answers > 0 {
            faults.lost_answers -= 1;
            return Err(Refusal::Unknown("quorum lost on the way".into()).into());
        }
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
        let (version, known_at_ms) = (request.version, request.known_at_ms);
        let earlier = |current: &Kept| {
            let key = (header.collection, header.shard, current.frame.id.to_vec());
            let past = state.past.get(&key)?.iter().rev();
            past.map(|(past, ended_ms)| (&past.frame, *ended_ms))
                .find(|(frame, ended_ms)| match version {
                    0 => frame.updated_ms <= known_at_ms && known_at_ms < *ended_ms,
                    number => frame.version == number,
                })
                .map(|(frame, _)| frame.clone())
        };
        let wanted = |current: &Kept| match (version, known_at_ms) {
            (0, 0) => Some(current.frame.clone()),
            (0, time_ms) if current.frame.updated_ms <= time_ms => Some(current.frame.clone()),
            (number, _) if number == current.frame.version => Some(current.frame.clone()),
            _ => earlier(current),
        };
        let frames = ids.iter().filter_map(|id| wanted(shown.get(id)?)).collect();
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
        Ok(wire::ScanReply { state: read, frames, more, has_bin: false })
    }
}
