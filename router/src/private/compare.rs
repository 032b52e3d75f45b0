//! Comparing a query with an owner's vectors: opened step by step, compared, and wiped.
//!
//! What ranks hits beyond their similarity (age, a least score, the place where a page ended) is judged here, by the
//! rules that a shard goes by ([`mira_index::ranking`]). What only bodies say is not: [`super::post_filter`] opens those
//! of the best.

use std::ops::Range;
use std::sync::Arc;

use mira_index::{Hit, check_document, exact_top_k, mean_top_k, merge_top_k};
use mira_proto::model::Metric;
use mira_proto::{Code, FrameId, Problem};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::cache::{CopyKey, SealedVectors, VectorCopy};
use super::seal::{self, SealedPiece};
use super::search::PrivateQuery;
use crate::cluster::CallError;
use crate::ranking::merge::{Best, Candidate};

/// Frames whose vectors are opened and compared at once, then wiped: what 400 KB hold at 384 components.
const STEP: usize = 256;
/// Frames for which another thread is worth starting.
const FRAMES_PER_TASK: usize = 1_024;

/// What a comparison has shown.
#[derive(Default)]
pub(super) struct Compared {
    /// Best first.
    pub(super) hits: Vec<Candidate>,
    /// Frames whose vectors do not open, or are none that could be stored: they take nobody else's place away.
    pub(super) damaged: Vec<FrameId>,
}

/// Opens and compares, on as many threads as are worth it. What is over by the shard's clock is left out.
pub(super) async fn compare(
    query: &PrivateQuery,
    key: &CopyKey,
    copy: Arc<VectorCopy>,
    now_ms: u64,
) -> Result<Compared, CallError> {
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
    let (mut best, mut damaged) = (Best::new(query.ranking.k), Vec::new());
    for task in work {
        let done = task.await.map_err(|_| CallError::refused(Problem::internal("comparing private frames failed")))?;
        let compared = done.map_err(CallError::refused)?;
        best.extend(compared.hits);
        damaged.extend(compared.damaged);
    }
    Ok(Compared { hits: best.into_ranked(), damaged })
}

struct Comparison {
    query: PrivateQuery,
    key: CopyKey,
    now_ms: u64,
    metric: Metric,
    dim: usize,
}

impl Comparison {
    fn best_of(&self, frames: &[SealedVectors]) -> Result<Compared, Problem> {
        if self.query.vectors.is_empty() {
            let listed = frames.iter().filter(|frame| self.wants(frame));
            return Ok(Compared { hits: listed.map(|frame| self.candidate(frame.id)).collect(), damaged: Vec::new() });
        }
        let (mut best, mut damaged) = (Best::new(self.query.ranking.k), Vec::new());
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
                match self.open(frame, &mut components) {
                    // It may have vectors in other spaces only.
                    Ok(0) => {}
                    Ok(_) => opened.push((frame, from..components.len())),
                    Err(error) => {
                        components.truncate(from);
                        let frame = frame.id;
                        tracing::error!(frame = %Uuid::from_u128(frame), error, "vectors of private frame are damaged");
                        damaged.push(frame);
                    }
                }
            }
            best.extend(self.candidates(&opened, &components)?);
        }
        Ok(Compared { hits: best.into_ranked(), damaged })
    }

    /// Adds the components of a frame's vectors; returns how many there were. What cannot be compared is damaged: the name
    /// matched, so a key that does not open it is no stranger's, and what could not be found was not stored.
    fn open(&self, frame: &SealedVectors, components: &mut Vec<f32>) -> Result<usize, String> {
        let from = components.len();
        let sealed = SealedPiece { collection: self.key.collection, frame: frame.id, sealed: &frame.vectors };
        let opened = seal::open_vectors(&self.query.owner, sealed, self.query.space.number, components);
        let count = opened.map_err(|error| error.to_string())?;
        if count > 0 {
            check_document(self.metric, self.dim, &components[from..]).map_err(|error| error.to_string())?;
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
}

#[cfg(test)]
mod tests {
    use mira_crypto::{OwnerContext, OwnerKey, Part, private};
    use mira_index::ranking::Ranking;
    use mira_proto::vectors::{FrameVectors, OWN_SPACE};

    use super::*;
    use crate::operations::convert;

    const COLLECTION: u64 = 7;

    fn sealed(owner: &OwnerKey, id: FrameId, vector: &[f32]) -> SealedVectors {
        let mut vectors = FrameVectors::default();
        vectors.add(OWN_SPACE, vector);
        let context = OwnerContext { collection: COLLECTION, frame: id, part: Part::Vectors };
        let piece = private::seal_owner(owner, &context, &vectors.encode(), &mut mira_crypto::os_rng());
        SealedVectors { id, created_ms: 1, expires_ms: 0, vectors: piece.into() }
    }

    /// What was stored before the rule was the same everywhere, or is damaged, takes nobody else's place away.
    #[test]
    fn a_broken_frame_breaks_no_search() {
        let owner = Arc::new(OwnerKey::generate(&mut mira_crypto::os_rng()));
        for metric in [Metric::Dot, Metric::L2, Metric::Cosine] {
            let mut frames = vec![
                sealed(&owner, 1, &[1.0, 2.0]),
                sealed(&owner, 2, &[2e15, 1.0]),
                sealed(&owner, 3, &[f32::NAN, 1.0]),
                sealed(&owner, 4, &[1.0, 2.0, 3.0]),
                sealed(&owner, 5, &[0.0, 0.0]),
                sealed(&owner, 6, &[3.0, 1.0]),
            ];
            let mut cut = frames[0].clone();
            (cut.id, cut.vectors) = (7, cut.vectors.slice(..cut.vectors.len() - 1));
            frames.push(cut);
            let query = PrivateQuery {
                owner: owner.clone(),
                space: convert::Space { number: OWN_SPACE, dim: 2, metric, ef: 0 },
                vectors: vec![vec![1.0, 2.0]].into(),
                is_mean: false,
                ranking: Arc::new(Ranking { k: 9, ..Ranking::default() }),
                created_ms: 0..u64::MAX,
                condition: None,
                among: None,
            };
            let key = CopyKey { collection: COLLECTION, shard: 0, owner: Default::default() };
            let comparison = Comparison { query, key, now_ms: 5, metric, dim: 2 };
            let Compared { hits, damaged } = comparison.best_of(&frames).unwrap();
            let mut found: Vec<FrameId> = hits.iter().map(|hit| hit.id).collect();
            found.sort_unstable();
            // By cosine a component of 2e15 is as good as another, and the zero vector has no direction.
            let (expected, broken): (&[FrameId], &[FrameId]) = match metric {
                Metric::Cosine => (&[1, 2, 6], &[3, 4, 5, 7]),
                Metric::Dot | Metric::L2 => (&[1, 5, 6], &[2, 3, 4, 7]),
            };
            assert_eq!((&found[..], &damaged[..]), (expected, broken), "{metric:?}");
        }
    }
}
