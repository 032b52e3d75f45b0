//! Searching the fake cluster: every vector is compared, and ranked by what the nodes rank with.

use mira_index::filter;
use mira_index::ranking::{Candidate, Ranking};
use mira_index::{Hit, Times, TypeSet};
use mira_proto::node_v1 as wire;
use tonic::Status;

use super::node::FakeNode;
use super::state::{Kept, attributes};

impl FakeNode {
    pub(super) fn answer_search(&self, request: wire::SearchRequest) -> Result<wire::SearchReply, Status> {
        let mut state = self.state.lock();
        let header = request.header.clone().unwrap_or_default();
        let read = self.begin_read(&mut state, "search", &header)?;
        let ranking = Ranking::of(&request).unwrap();
        let until = if request.created_to_ms == 0 { u64::MAX } else { request.created_to_ms };
        let now_ms = jiff::Timestamp::now().as_millisecond() as u64;
        let found = |kept: &&Kept| {
            let frame = &kept.frame;
            let lives = frame.expires_ms == 0 || frame.expires_ms > now_ms;
            lives
                && (request.created_from_ms..until).contains(&frame.created_ms)
                && is_meant(&request.filter_json, frame)
        };
        let pool: Vec<&Kept> = state.shown(&header).filter(found).collect();
        let candidates = pool.iter().filter_map(|kept| candidate(&request, &ranking, kept)).collect();
        let hits = ranking.cut(candidates).into_iter().map(|hit| {
            let id = hit.id.to_be_bytes();
            let kept = pool.iter().find(|kept| kept.frame.id == id[..]).expect("it was found");
            wire::Hit {
                id: id.to_vec().into(),
                score: hit.score,
                passage: hit.passage,
                frame: request.with_frames.then(|| kept.frame.clone()),
                similarity: hit.similarity,
                vector: if request.with_vectors {
                    kept.in_space(&request.space)[hit.passage as usize].clone()
                } else {
                    Vec::new()
                },
                group_json: hit.group.as_ref().map(filter::to_json).unwrap_or_default(),
            }
        });
        let hits: Vec<wire::Hit> = hits.collect();
        let more = hits.len() >= ranking.k;
        let explain =
            request.explain.then(|| wire::SearchExplain { plan: wire::SearchPlan::Scan.into(), ..Default::default() });
        let indexed: Vec<&Kept> = state.shown(&header).filter(|kept| !kept.vectors.is_empty()).collect();
        let says_no_types = state.faults.get(&self.id).is_some_and(|faults| faults.says_no_types);
        let field_types = (!says_no_types).then(|| types_of(&request.filter_json, &indexed));
        let reply = wire::SearchReply { state: read, hits, explain, field_types, more, ..Default::default() };
        Ok(wire::SearchReply { whole: true, ..reply })
    }

    pub(super) fn answer_field_types(&self, request: wire::FieldTypesRequest) -> Result<wire::FieldTypesReply, Status> {
        let mut state = self.state.lock();
        let header = request.header.unwrap_or_default();
        let read = self.begin_read(&mut state, "field_types", &header)?;
        if state.faults.get(&self.id).is_some_and(|faults| faults.says_no_types) {
            return Err(Status::unimplemented("an older node"));
        }
        let of_shard = state.shown(&header);
        let mut frames: Vec<&Kept> = of_shard.filter(|kept| request.walk || !kept.vectors.is_empty()).collect();
        frames.retain(|kept| !request.walk || kept.frame.id > request.after);
        let more = request.walk && frames.len() > state.forget_step;
        if more {
            frames.truncate(state.forget_step);
        }
        let next = frames.last().filter(|_| more).map(|kept| kept.frame.id.clone()).unwrap_or_default();
        let field_types = Some(types_of(&request.filter_json, &frames));
        Ok(wire::FieldTypesReply { state: read, field_types, more, next })
    }

    /// Recall grows with the beam: 0.7 at 16, and a tenth of what is missing is missing at each next one.
    pub(super) fn answer_measure_recall(
        &self,
        request: wire::MeasureRecallRequest,
    ) -> Result<wire::MeasureRecallReply, Status> {
        let mut state = self.state.lock();
        let header = request.header.unwrap_or_default();
        let read = self.begin_read(&mut state, "measure_recall", &header)?;
        let (collection, shard) = (header.collection, header.shard);
        let vectors = state.frames.keys().filter(|key| (key.0, key.1) == (collection, shard)).count() as u64;
        let beam = |(ef, missing): (&u32, f64)| wire::MeasuredBeam {
            ef: *ef,
            recall: 1.0 - missing,
            micros: vec![*ef; request.samples as usize],
        };
        let missing = std::iter::successors(Some(0.3), |missing| Some(missing / 10.0));
        Ok(match vectors {
            0 => wire::MeasureRecallReply { state: read, scanned: true, ..Default::default() },
            _ => wire::MeasureRecallReply {
                state: read,
                vectors,
                scanned: false,
                samples: request.samples,
                beams: request.beams.iter().zip(missing).map(beam).collect(),
            },
        })
    }
}

/// What the fields of a filter hold in plain frames.
fn types_of(filter_json: &str, frames: &[&Kept]) -> wire::KnownFieldTypes {
    let condition = filter::parse(filter_json).unwrap();
    let compared = condition.as_ref().map(|condition| condition.compared_fields()).unwrap_or_default();
    let plain: Vec<_> =
        frames.iter().filter(|kept| kept.private.owner.is_empty()).map(|kept| attributes(&kept.frame)).collect();
    let types = |field: &str| {
        let values = plain.iter().flat_map(|attributes| attributes.of(field));
        values.fold(TypeSet::NONE, |kinds, value| kinds.with(TypeSet::of(value))).bits().into()
    };
    let fields = compared.into_iter().map(|field| wire::FieldTypes { field: field.to_owned(), types: types(field) });
    wire::KnownFieldTypes { fields: fields.collect() }
}

/// Whether a plain frame meets a filter.
pub(super) fn is_meant(filter_json: &str, frame: &wire::Frame) -> bool {
    let times = Times { created_ms: frame.created_ms, expires_ms: frame.expires_ms };
    let condition = filter::parse(filter_json).unwrap();
    frame.private.is_empty() && condition.is_none_or(|condition| condition.matches(&attributes(frame), &times))
}

/// A plain frame as its shard ranks it.
fn candidate(request: &wire::SearchRequest, ranking: &Ranking, kept: &Kept) -> Option<Candidate> {
    let queries = std::iter::once(&request.vector[..]).chain(request.more_vectors.chunks(request.vector.len()));
    let id = u128::from_be_bytes(kept.frame.id.as_ref().try_into().unwrap());
    let dot = |query: &[f32], vector: &[f32]| vector.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
    let best = |query: &[f32]| {
        let hits = kept.in_space(&request.space).into_iter().zip(0..).map(|(vector, passage)| Hit {
            id,
            passage,
            score: dot(query, vector),
        });
        hits.min_by(Hit::rank)
    };
    let hits = queries.map(best).collect::<Option<Vec<Hit>>>()?;
    let nearest = hits.iter().copied().min_by(Hit::rank)?;
    let similarity =
        if request.mean { hits.iter().map(|hit| hit.score).sum::<f32>() / hits.len() as f32 } else { nearest.score };
    let frame = &kept.frame;
    let group = ranking.group.as_ref().and_then(|(field, _)| attributes(frame).of(field).next().cloned());
    let score = ranking.score(similarity, frame.created_ms);
    Some(Candidate { id, passage: nearest.passage, similarity, score, group })
}
