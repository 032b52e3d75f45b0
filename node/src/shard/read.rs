//! Reading frames: by id, by session, and the winners of a search.

use std::{
    ops::{Bound, ControlFlow},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use mira_crypto::CollectionKey;
use mira_index::{Condition, Plan, Times};
use mira_proto::{Code, CollectionId, FrameId, Problem, Refusal, limits, node_v1};
use mira_raft::{EngineError, StateReader};

use crate::meta::CollectionRecord;

use super::{
    Shard, filter, frame_id,
    indexer::{Found, IndexError, Query},
    record::{self, FrameBody, FramePlace, FrameRecord},
    refuse_engine,
};

impl Shard {
    /// The frames of these ids that exist, in their order.
    pub async fn fetch(&self, request: node_v1::FetchRequest) -> Result<node_v1::FetchReply, Refusal> {
        self.ready_for(request.level.unwrap_or_default()).await?;
        let collection = self.collection(request.epoch, request.collection)?;
        let ids = request.ids.iter().map(|id| frame_id(id)).collect::<Result<Vec<_>, _>>()?;
        let applied = self.group.reader().applied_index();
        let frames = self.open_frames(&collection, &ids)?.into_iter().flatten().collect();
        Ok(node_v1::FetchReply { frames, applied })
    }

    /// The frames of a session by time of creation, oldest first; with `last`, the newest `limit` of them.
    pub async fn session(&self, request: node_v1::SessionRequest) -> Result<node_v1::FetchReply, Refusal> {
        self.ready_for(request.level.unwrap_or_default()).await?;
        let collection = self.collection(request.epoch, request.collection)?;
        let tag = self.session_tag(&collection, &request.session)?;
        let prefix = record::session_prefix(collection.id, &tag);
        let from = record::session_key(collection.id, &tag, request.created_from_ms, 0);
        let to = match request.created_to_ms {
            0 => record::session_key(collection.id, &tag, u64::MAX, u128::MAX),
            until => record::session_key(collection.id, &tag, until, 0),
        };
        let limit = request.limit.clamp(1, limits::MAX_RECALL) as usize;
        let reader = self.group.reader();
        let applied = reader.applied_index();
        let mut ids = Vec::new();
        reader
            .scan(Bound::Included(&from), Bound::Excluded(&to), request.last, &mut |key, _| {
                debug_assert!(key.starts_with(&prefix));
                ids.extend(record::parse_session_key(key).map(|(_, frame)| frame));
                if ids.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .map_err(refuse_engine)?;
        if request.last {
            ids.reverse();
        }
        let frames = self.open_frames(&collection, &ids)?.into_iter().flatten().collect();
        Ok(node_v1::FetchReply { frames, applied })
    }

    /// Ids and scores of the nearest frames of this shard, best first; with their frames if asked.
    pub async fn search(&self, request: node_v1::SearchRequest) -> Result<node_v1::SearchReply, Refusal> {
        self.ready_for(request.level.unwrap_or_default()).await?;
        let collection = self.collection(request.epoch, request.collection)?;
        super::write::check_vector(&request.vector, &collection)?;
        if request.k == 0 || request.k > limits::MAX_K {
            return Err(Problem::invalid(format!("k is {}, allowed are 1 to {}", request.k, limits::MAX_K)).into());
        }
        let applied = self.group.reader().applied_index();
        let created_to_ms = if request.created_to_ms == 0 { u64::MAX } else { request.created_to_ms };
        let wanted = filter::split(filter::parse(&request.filter_json)?, request.created_from_ms..created_to_ms);
        let caller = Caller::default();
        let query = Query {
            vector: request.vector,
            k: request.k as usize,
            ef: (request.ef > 0).then_some(request.ef as usize),
            exact: request.exact,
            created_ms: wanted.created_ms,
            condition: wanted.condition,
            now_ms: self.shared.clock.now_ms(),
            stopped: caller.gone.clone(),
        };
        let started = Instant::now();
        let (index, record) = (self.index.clone(), collection.clone());
        // Comparing vectors is work of up to milliseconds: not on the threads that carry heartbeats.
        let mut found = tokio::task::spawn_blocking(move || index.search(&record, &query))
            .await
            .map_err(|error| Problem::internal(format!("the search failed: {error}")))?
            .map_err(refuse_index)?;
        let explain = request.explain.then(|| explained(&mut found, started.elapsed()));
        let Found { hits, searched, tail, .. } = found;
        let frames = match request.with_frames {
            true => self.open_frames(&collection, &hits.iter().map(|hit| hit.id).collect::<Vec<_>>())?,
            false => vec![None; hits.len()],
        };
        let hits = hits
            .into_iter()
            .zip(frames)
            // A frame that was forgotten since the index was asked is no hit any more.
            .filter(|(_, frame)| !request.with_frames || frame.is_some())
            .map(|(hit, frame)| node_v1::Hit {
                id: hit.id.to_be_bytes().to_vec().into(),
                score: hit.score,
                passage: hit.passage,
                frame,
            })
            .collect();
        Ok(node_v1::SearchReply { hits, applied, searched, tail, explain })
    }

    /// Reads and opens frames; `None` for those that do not exist or are over their time.
    fn open_frames(
        &self,
        collection: &CollectionRecord,
        ids: &[FrameId],
    ) -> Result<Vec<Option<node_v1::Frame>>, Refusal> {
        let keys: Vec<_> = ids.iter().map(|&id| record::frame_key(collection.id, id)).collect();
        let stored = self.group.reader().multi_get(&keys).map_err(|error| self.unreadable(error))?;
        let now_ms = self.shared.clock.now_ms();
        let mut frames = Vec::with_capacity(ids.len());
        for (&id, stored) in ids.iter().zip(stored) {
            let Some(stored) = stored else {
                frames.push(None);
                continue;
            };
            let record = FrameRecord::decode(&stored).map_err(|error| self.unreadable(error))?;
            frames.push(if record.expired(now_ms) { None } else { Some(self.open_frame(collection, id, record)?) });
        }
        Ok(frames)
    }

    /// The next frames of a collection that meet a condition, and where to go on if not all were looked at.
    pub(super) fn matching_frames(
        &self,
        collection: &CollectionRecord,
        condition: &Condition,
        after: Option<FrameId>,
    ) -> Result<(Vec<FrameId>, Option<FrameId>), Refusal> {
        let reader = self.group.reader();
        let prefix = record::collection_prefix(b'f', collection.id);
        let from = after.map(|frame| record::frame_key(collection.id, frame));
        let from = from.as_ref().map_or(Bound::Included(&prefix[..]), |key| Bound::Excluded(&key[..]));
        let end = record::frame_key(collection.id, FrameId::MAX);
        let (mut matching, mut looked_at, mut last, mut failed) = (Vec::new(), 0, None, None);
        let mut look = |key: &[u8], stored: &[u8]| {
            let Some((_, frame)) = record::parse_pair_key(key) else { return ControlFlow::Continue(()) };
            let record = match FrameRecord::decode(stored) {
                Ok(record) => record,
                Err(error) => {
                    failed = Some(self.unreadable(error));
                    return ControlFlow::Break(());
                }
            };
            let times = Times { created_ms: record.created_ms, expires_ms: record.expires_ms };
            match self.open_body(collection, frame, &record) {
                Ok(body) if condition.matches(&filter::attributes(&body), &times) => matching.push(frame),
                Ok(_) => {}
                Err(refusal) => {
                    failed = Some(refusal);
                    return ControlFlow::Break(());
                }
            }
            looked_at += 1;
            last = Some(frame);
            let is_full = matching.len() == limits::MAX_FORGET_STEP || looked_at == limits::MAX_FILTER_STEP;
            if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        reader.scan(from, Bound::Included(&end), false, &mut look).map_err(|error| self.unreadable(error))?;
        if let Some(refusal) = failed {
            return Err(refusal);
        }
        let is_full = matching.len() == limits::MAX_FORGET_STEP || looked_at == limits::MAX_FILTER_STEP;
        Ok((matching, last.filter(|_| is_full)))
    }

    fn open_body(
        &self,
        collection: &CollectionRecord,
        id: FrameId,
        record: &FrameRecord,
    ) -> Result<FrameBody, Refusal> {
        let place = FramePlace { collection: collection.id, shard: self.id, frame: id, version: record.version };
        let key = self.key_of(collection, &record.body)?;
        // The same bytes open on a sound replica: this one is to be made anew, and another asked.
        place
            .open_body(&key, &record.body)
            .map_err(|error| self.unreadable(EngineError::Damaged(format!("frame {id:032x}: {error}"))))
    }

    fn open_frame(
        &self,
        collection: &CollectionRecord,
        id: FrameId,
        record: FrameRecord,
    ) -> Result<node_v1::Frame, Refusal> {
        let body = self.open_body(collection, id, &record)?;
        Ok(node_v1::Frame {
            id: id.to_be_bytes().to_vec().into(),
            content: body.content,
            text: body.text,
            r#type: body.kind,
            session: body.session,
            role: body.role,
            metadata_json: body.metadata_json,
            version: record.version,
            created_ms: record.created_ms,
            updated_ms: record.updated_ms,
            expires_ms: record.expires_ms,
            passage_ranges: body.passages.into_iter().flat_map(|(start, end)| [start, end]).collect(),
            language: body.language,
        })
    }

    fn key_of(&self, collection: &CollectionRecord, sealed: &[u8]) -> Result<std::sync::Arc<CollectionKey>, Refusal> {
        let version = mira_crypto::frame::key_version(sealed)
            .map_err(|error| Problem::new(Code::Damaged, format!("a frame cannot be opened: {error}")))?;
        Ok(self.shared.keyring.version(collection, version)?)
    }

    /// The keyed tag of a session's name.
    pub(super) fn session_tag(&self, collection: &CollectionRecord, session: &str) -> Result<[u8; 16], Refusal> {
        Ok(self.shared.keyring.tags(collection)?.tag(record::SESSION_TAG, session.as_bytes()))
    }
}

/// Stands for whoever waits for an answer: when the request is dropped (its deadline passed, the router went away), the
/// work for it stops.
#[derive(Default)]
struct Caller {
    gone: Arc<AtomicBool>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

fn explained(found: &mut Found, took: std::time::Duration) -> node_v1::SearchExplain {
    let unknown_fields = std::mem::take(&mut found.unknown_fields);
    let micros = took.as_micros() as u64;
    let Some(explain) = found.explain else {
        return node_v1::SearchExplain { unknown_fields, micros, ..Default::default() };
    };
    let plan = match explain.plan {
        Plan::Scan => "scan",
        Plan::Graph => "graph",
        Plan::GraphThenScan => "graph_then_scan",
    };
    let (matching, matching_of) = explain.matching.unwrap_or_default();
    node_v1::SearchExplain {
        plan: plan.into(),
        ef: explain.ef as u32,
        compared: explain.compared as u64,
        rescored: explain.rescored as u64,
        matching: matching as u64,
        matching_of: matching_of as u64,
        unknown_fields,
        micros,
    }
}

fn refuse_index(error: IndexError) -> Refusal {
    match error {
        IndexError::Stopped => Problem::new(Code::DeadlineExceeded, "the search was given up by its caller").into(),
        IndexError::Building => Refusal::NotReady("the index is being built from the frames".into()),
        IndexError::Refused(problem) => Refusal::Problem(problem),
    }
}

/// The first `limit` frames of a session, oldest first.
pub(super) fn frames_of_session(
    reader: &StateReader,
    collection: CollectionId,
    tag: &[u8; 16],
    limit: usize,
) -> Result<Vec<FrameId>, EngineError> {
    collect(reader, &record::session_prefix(collection, tag), limit, |key| {
        record::parse_session_key(key).map(|(_, frame)| frame)
    })
}

/// The first `limit` frames of a collection, by id.
pub(super) fn frames_of_collection(
    reader: &StateReader,
    collection: CollectionId,
    limit: usize,
) -> Result<Vec<FrameId>, EngineError> {
    collect(reader, &record::collection_prefix(b'f', collection), limit, |key| {
        record::parse_pair_key(key).map(|(_, frame)| frame)
    })
}

fn collect(
    reader: &StateReader,
    prefix: &[u8],
    limit: usize,
    parse: impl Fn(&[u8]) -> Option<FrameId>,
) -> Result<Vec<FrameId>, EngineError> {
    let mut frames = Vec::new();
    reader.scan_prefix(prefix, false, &mut |key, _| {
        frames.extend(parse(key));
        if frames.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(frames)
}
