//! Measuring how right a shard's searches are at growing beams, so that a collection's beam can be chosen
//! (`mira admin collections tune`).
//!
//! The index asks with vectors of its own (`index/src/recall.rs`). Private frames are no part of it: a node cannot open
//! their vectors, so they are never asked with. Right answers cost a pass over all vectors, from the state; to leave the
//! node to those who search, one measurement runs at a time, on one thread, and rests as long as it works. It ends when
//! nobody waits for it any more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mira_index::{Samples, VectorIndex};
use mira_proto::{Problem, Refusal, limits, node_v1};
use parking_lot::Mutex;

use crate::shard::{
    Shard,
    index::{self, IndexError, ShardIndex, SpaceId},
    read::{Caller, ReadView, refuse_index},
};

/// Beams of one measurement.
const MAX_BEAMS: usize = 32;
/// The longest rest at once: what works that long at a stretch waits for a disk.
const LONGEST_REST: Duration = Duration::from_millis(200);

impl<R: mira_raft::Runtime> Shard<R> {
    /// The recall of searches with each of some beams.
    pub async fn measure_recall(
        &self,
        request: node_v1::MeasureRecallRequest,
    ) -> Result<node_v1::MeasureRecallReply, Refusal> {
        let ReadView { collection, state, .. } = self.begin_read(request.header.as_ref()).await?;
        check(&request)?;
        let space = SpaceId::from(&collection.space_named(&request.space)?);
        let caller = Caller::default();
        let alone = self.shared.recall_sampler.measure_alone().await;
        let (index, stopped) = (self.index.clone(), caller.gone.clone());
        let measured = tokio::task::spawn_blocking(move || {
            let _alone = alone;
            measure(&index, space, &request, &Pace::new(stopped))
        });
        let measured =
            measured.await.map_err(|_| Problem::internal("the measurement failed: the node's log says why"))?;
        let measured = measured.map_err(refuse_index)?;
        Ok(node_v1::MeasureRecallReply { state: Some(state), ..measured })
    }
}

fn check(request: &node_v1::MeasureRecallRequest) -> Result<(), Problem> {
    if request.k == 0 || request.k > limits::MAX_K {
        return Err(Problem::invalid(format!("k is {}, allowed are 1 to {}", request.k, limits::MAX_K)));
    }
    if request.samples == 0 || request.samples > limits::TUNE_SAMPLES {
        let found = request.samples;
        return Err(Problem::invalid(format!("samples is {found}, allowed are 1 to {}", limits::TUNE_SAMPLES)));
    }
    if request.beams.is_empty() || request.beams.len() > MAX_BEAMS {
        return Err(Problem::invalid(format!("{} beams, allowed are 1 to {MAX_BEAMS}", request.beams.len())));
    }
    request.beams.iter().try_for_each(|&ef| check_ef(ef))
}

/// Refuses a beam that no collection is given.
pub fn check_ef(ef: u32) -> Result<(), Problem> {
    if !(1..=limits::MAX_TUNED_EF).contains(&ef) {
        return Err(Problem::invalid(format!("ef is {ef}, allowed are 1 to {}", limits::MAX_TUNED_EF)));
    }
    Ok(())
}

fn measure(
    index: &ShardIndex,
    space: SpaceId,
    request: &node_v1::MeasureRecallRequest,
    pace: &Pace,
) -> Result<node_v1::MeasureRecallReply, IndexError> {
    if !index.is_ready() {
        return Err(IndexError::Building);
    }
    let nothing = node_v1::MeasureRecallReply { scanned: true, ..Default::default() };
    let measured = index.look_into(space, |vectors| {
        let count = vectors.stats().live_vectors as u64;
        if !vectors.has_graph() {
            return Ok(node_v1::MeasureRecallReply { vectors: count, ..nothing.clone() });
        }
        let (wanted, k) = (request.samples as usize, request.k as usize);
        let samples = Samples::take(vectors, wanted, k, rand::random(), &|| pace.rest())?;
        // What the first beam reads is in the cache for all others, and would look slow for it.
        try_beam(vectors, &samples, request.beams[0], pace)?;
        let beams = request.beams.iter().map(|&ef| try_beam(vectors, &samples, ef, pace));
        Ok(node_v1::MeasureRecallReply {
            vectors: count,
            scanned: false,
            samples: samples.len() as u32,
            beams: beams.collect::<Result<_, _>>()?,
            ..Default::default()
        })
    });
    measured.unwrap_or(Ok(nothing)).map_err(index::refuse)
}

/// Asks with all samples, one after the other.
fn try_beam(
    vectors: &VectorIndex,
    samples: &Samples,
    ef: u32,
    pace: &Pace,
) -> Result<node_v1::MeasuredBeam, mira_index::IndexError> {
    let mut beam = node_v1::MeasuredBeam { ef, ..Default::default() };
    for number in 0..samples.len() {
        // A rest in the midst of a search would count as its time.
        let asked = samples.ask(vectors, number, ef as usize, &|| pace.is_stopped())?;
        beam.recall += asked.recall / samples.len() as f64;
        beam.micros.push(asked.took.as_micros() as u32);
        if pace.rest() {
            return Err(mira_index::IndexError::Aborted);
        }
    }
    Ok(beam)
}

/// Keeps a thread at work half of the time, until nobody waits any more.
struct Pace {
    stopped: Arc<AtomicBool>,
    /// When the last rest ended.
    since: Mutex<Instant>,
}

impl Pace {
    fn new(stopped: Arc<AtomicBool>) -> Self {
        Pace { stopped, since: Mutex::new(Instant::now()) }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Rests as long as was worked since the last rest; says whether to stop.
    fn rest(&self) -> bool {
        let mut since = self.since.lock();
        std::thread::sleep(since.elapsed().min(LONGEST_REST));
        *since = Instant::now();
        self.is_stopped()
    }
}
