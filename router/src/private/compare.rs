//! Comparing a query with an owner's vectors: opened step by step, compared, and wiped.
//!
//! What ranks hits beyond their similarity (age, a least score, the place where a page ended) is judged here, by the
//! rules that a shard goes by ([`mira_index::ranking`]). What only bodies say is not: [`super::post_filter`] opens those
//! of the best.

use std::ops::Range;
use std::sync::Arc;

use mira_index::{Hit, exact_top_k, mean_top_k, merge_top_k};
use mira_proto::model::Metric;
use mira_proto::{Code, FrameId, Problem};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::cache::{CopyKey, SealedVectors, VectorCopy};
use super::credential::problem_of;
use super::seal::{self, SealedPiece};
use super::search::PrivateQuery;
use crate::cluster::CallError;
use crate::ranking::merge::{Best, Candidate};

/// Frames whose vectors are opened and compared at once, then wiped: what 400 KB hold at 384 components.
const STEP: usize = 256;
/// Frames for which another thread is worth starting.
const FRAMES_PER_TASK: usize = 1_024;

/// Opens and compares, on as many threads as are worth it. What is over by the shard's clock is left out.
pub(super) async fn compare(
    query: &PrivateQuery,
    key: &CopyKey,
    copy: Arc<VectorCopy>,
    now_ms: u64,
) -> Result<Vec<Candidate>, CallError> {
    let metric = query.space.metric;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let tasks = copy.frames.len().div_ceil(FRAMES_PER_TASK).clamp(1, cores);
    let length = copy.frames.len().div_ceil(tasks).max(1);
    let work = (0..tasks).map(|task| {
        let comparison =
            Comparison { query: query.clone(), key: key.clone(), now_ms, metric, dim: query.space.dim as usize };
        let copy = copy.clone();
        tokio::task::spawn_blocking(move || {
            let from = (task * length).min(copy.frames.len());
            comparison.best_of(&copy.frames[from..(from + length).min(copy.frames.len())])
        })
    });
    // All are started before the first is waited for.
    let work: Vec<_> = work.collect();
    let mut best = Best::new(query.ranking.k);
    for task in work {
        let hits = task.await.map_err(|_| CallError::refused(Problem::internal("comparing private frames failed")))?;
        best.extend(hits.map_err(CallError::refused)?);
    }
    Ok(best.into_ranked())
}

struct Comparison {
    query: PrivateQuery,
    key: CopyKey,
    now_ms: u64,
    metric: Metric,
    dim: usize,
}

impl Comparison {
    fn best_of(&self, frames: &[SealedVectors]) -> Result<Vec<Candidate>, Problem> {
        if self.query.vectors.is_empty() {
            let listed = frames.iter().filter(|frame| self.wants(frame));
            return Ok(listed.map(|frame| self.candidate(frame.id)).collect());
        }
        let mut best = Best::new(self.query.ranking.k);
        // Room for all at once: a buffer that grows would leave copies behind that nobody wipes.
        let mut components = Zeroizing::new(Vec::new());
        for step in frames.chunks(STEP) {
            let wanted = step.iter().filter(|frame| self.wants(frame));
            let room = wanted.clone().map(|frame| frame.vectors.len() / 4).sum();
            if components.capacity() < room {
                components = Zeroizing::new(Vec::with_capacity(room));
            }
            components.clear();
            let mut opened = Vec::with_capacity(step.len());
            for frame in wanted {
                let from = components.len();
                // It may have vectors in other spaces only.
                if self.open(frame, &mut components)? > 0 {
                    opened.push((frame, from..components.len()));
                }
            }
            best.extend(self.candidates(&opened, &components)?);
        }
        Ok(best.into_ranked())
    }

    /// Adds the components of a frame's vectors; returns how many there were.
    fn open(&self, frame: &SealedVectors, components: &mut Vec<f32>) -> Result<usize, Problem> {
        let sealed = SealedPiece { collection: self.key.collection, frame: frame.id, sealed: &frame.vectors };
        let opened = seal::open_vectors(&self.query.owner, sealed, self.query.space.number, components);
        let count = opened.map_err(|error| self.refused(frame.id, &problem_of(error)))?;
        if count % self.dim != 0 {
            let detail = format!("{count} components do not make vectors of {}", self.dim);
            return Err(self.refused(frame.id, &Problem::internal(detail)));
        }
        Ok(count)
    }

    /// Those of some frames, opened and in order of their ids, that may belong to the answer.
    fn candidates(
        &self,
        opened: &[(&SealedVectors, Range<usize>)],
        components: &[f32],
    ) -> Result<Vec<Candidate>, Problem> {
        let PrivateQuery { vectors, ranking, among, is_mean, .. } = &self.query;
        let most = self.query.most_similar(opened.len()).max(1);
        let mut lists = Vec::with_capacity(vectors.len());
        for query in vectors.iter() {
            let documents = opened.iter().map(|(frame, range)| (frame.id, &components[range.clone()]));
            let hits = exact_top_k(self.metric, self.dim, query, documents, most);
            lists.push(hits.map_err(|error| Problem::new(Code::Damaged, format!("private vectors: {error}")))?);
        }
        let hits = match (is_mean, vectors.len()) {
            (_, 1) => lists.pop().unwrap_or_default(),
            (true, queries) => mean_top_k(lists.into_iter().flatten(), queries, most),
            (false, _) => merge_top_k(lists, most),
        };
        let candidate = |Hit { id, passage, score: similarity }| {
            let at = opened.binary_search_by_key(&id, |(frame, _)| frame.id).ok()?;
            let (frame, range) = &opened[at];
            let vectors = among.as_ref().map(|_| components[range.clone()].chunks_exact(self.dim));
            let vector = vectors.and_then(|mut vectors| vectors.nth(passage as usize)).unwrap_or_default();
            Some(Candidate {
                score: ranking.score(similarity, frame.created_ms),
                similarity,
                vector: vector.to_vec().into(),
                passage,
                ..self.candidate(id)
            })
        };
        let candidates = hits.into_iter().filter_map(candidate);
        Ok(candidates.filter(|candidate| ranking.wants(candidate.score, candidate.id)).collect())
    }

    fn candidate(&self, id: FrameId) -> Candidate {
        Candidate { id, shard: self.key.shard, is_private: true, ..Candidate::default() }
    }

    fn wants(&self, frame: &SealedVectors) -> bool {
        let PrivateQuery { created_ms, among, .. } = &self.query;
        let lives = frame.expires_ms == 0 || frame.expires_ms > self.now_ms;
        let is_among = among.as_ref().is_none_or(|among| among.binary_search(&frame.id).is_ok());
        let has_vectors = !frame.vectors.is_empty() || self.query.vectors.is_empty();
        lives && is_among && created_ms.contains(&frame.created_ms) && has_vectors
    }

    /// The name matched, so a key that does not open it is no stranger's: what is sealed is wrong.
    fn refused(&self, id: FrameId, problem: &Problem) -> Problem {
        Problem::new(Code::Damaged, format!("vectors of private memory {}: {}", Uuid::from_u128(id), problem.detail))
    }
}
