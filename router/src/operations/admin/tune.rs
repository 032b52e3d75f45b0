//! Tuning a collection: the narrowest beam whose answers hold a wanted share of the truly nearest.
//!
//! The leader of each shard asks with vectors of its own at growing beams (`node/src/shard/index/recall.rs`); this file weighs
//! what they found by the number of vectors that were asked with, and chooses. Shards without a graph look at everything
//! and are always right, so they have no say. The beam is a setting of the collection: the meta group keeps it, and every
//! search uses it.

use mira_proto::model::{BeamRecall, TuneReply, TuneRequest};
use mira_proto::node_v1::{MeasureRecallReply, MeasureRecallRequest, ReadHeader, TuneCollectionRequest};
use mira_proto::{Code, Problem, ShardId, limits, node_v1};

use crate::cluster::{CallError, CollectionRoute, fan_out};
use crate::memory::{MAX_REROUTES, no_collection};
use crate::operations::convert;
use crate::{Memory, RequestContext};

/// The beams that are tried, as far as they hold `k` hits: each about a third or a half wider than the one before, which
/// costs as much more.
const BEAMS: [u32; 15] = [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024, 1_536, limits::MAX_TUNED_EF];

/// The vectors whose beam is set.
#[derive(Clone, Copy)]
struct Tuned<'a> {
    route: &'a CollectionRoute,
    /// Their name; empty for the collection's own.
    using: &'a str,
}

/// What is to be reached.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Goal {
    recall: f64,
    k: u32,
}

impl Memory {
    /// Finds and sets the beam with which searches of a collection reach a recall.
    pub async fn tune_collection(
        &self,
        context: &RequestContext,
        name: &str,
        request: TuneRequest,
    ) -> Result<TuneReply, Problem> {
        self.bounded("tune_collection", context, async {
            let goal = checked(&request)?;
            // What another router has set a moment ago is what there was before.
            self.cluster.refresh(0).await;
            for _ in 0..MAX_REROUTES {
                let route = self.find_collection(context, name).await?.ok_or_else(|| no_collection(name))?;
                let tuned = Tuned { route: &route, using: request.using.as_deref().unwrap_or_default() };
                let ef = convert::space(&route.info, tuned.using)?.ef;
                let before = (ef != 0).then_some(ef);
                let reply = match goal {
                    None => TuneReply { before, ..TuneReply::default() },
                    Some(goal) => match self.measure(context, tuned, goal).await {
                        Err(CallError::Moved) => continue,
                        measured => choose(&measured?, goal, before, request.dry_run)?,
                    },
                };
                if !request.dry_run && !reply.scanned && reply.ef != before {
                    self.set_beam(context, tuned, reply.ef.unwrap_or_default()).await?;
                }
                return Ok(reply);
            }
            Err(CallError::Moved.into())
        })
        .await
    }

    async fn set_beam(&self, context: &RequestContext, tuned: Tuned<'_>, ef: u32) -> Result<(), Problem> {
        let Tuned { route, using } = tuned;
        let id = route.info.id;
        let request = TuneCollectionRequest { collection: id, ef, space: using.to_owned() };
        let reply = self
            .cluster
            .ask_meta(context, "tune_collection", request, |clients, request| async move {
                clients.cluster().tune_collection(request).await
            })
            .await?;
        self.cluster.refresh(reply.epoch).await;
        let is_set = |info: &node_v1::Collection| convert::space(info, using).is_ok_and(|space| space.ef == ef);
        self.map_with(context, &route.info.name, |route| {
            route.is_none_or(|route| route.info.id != id || is_set(&route.info))
        })
        .await
    }

    /// What every shard found. A node measures one shard at a time; the rest wait there for their turn.
    async fn measure(
        &self,
        context: &RequestContext,
        Tuned { route, using }: Tuned<'_>,
        goal: Goal,
    ) -> Result<Vec<MeasureRecallReply>, CallError> {
        let samples = samples_of_each(route.shards().len() as u32);
        let measured = fan_out(context, route, |header: ReadHeader, _| {
            let shard = header.shard;
            let header = Some(header);
            let (k, beams, space) = (goal.k, beams_for(goal.k), using.to_owned());
            let measured = self.cluster.read(context, route, MeasureRecallRequest { header, k, beams, samples, space });
            async move { measured.await.map_err(|error| in_time(shard, error)) }
        });
        measured.whole().await
    }
}

/// Says what a shard needs that did not end in time.
fn in_time(shard: ShardId, error: CallError) -> CallError {
    match error {
        CallError::Unreached(problem) if problem.code == Code::DeadlineExceeded => {
            let detail = format!(
                "shard {shard} was not measured in the time given: every vector of it is read; give up to {} minutes",
                limits::MAX_DEADLINE.as_secs() / 60
            );
            CallError::Unreached(Problem::new(Code::DeadlineExceeded, detail))
        }
        other => other,
    }
}

/// What is to be reached; none to go back to the index's own beam.
fn checked(request: &TuneRequest) -> Result<Option<Goal>, Problem> {
    if request.reset {
        return match (request.recall, request.k, request.dry_run) {
            (None, None, false) => Ok(None),
            _ => Err(Problem::invalid("reset goes alone: it measures nothing")),
        };
    }
    let recall = request.recall.unwrap_or(limits::DEFAULT_TUNED_RECALL);
    // Not a number is in no range either.
    if !(recall > 0.0 && recall <= 1.0) {
        return Err(Problem::invalid(format!("recall is {recall}, allowed is above 0 to 1")));
    }
    let k = request.k.unwrap_or(limits::DEFAULT_K);
    if k == 0 || k > limits::MAX_K {
        return Err(Problem::invalid(format!("k is {k}, allowed are 1 to {}", limits::MAX_K)));
    }
    Ok(Some(Goal { recall, k }))
}

/// The beams to try for so many hits: a narrower one is widened to them anyway.
fn beams_for(k: u32) -> Vec<u32> {
    BEAMS.into_iter().filter(|&ef| ef >= k).collect()
}

/// How many vectors each of so many shards asks with.
fn samples_of_each(shards: u32) -> u32 {
    limits::TUNE_SAMPLES.div_ceil(shards.max(1)).max(limits::MIN_TUNE_SAMPLES)
}

/// Puts together what the shards found and takes the narrowest beam that reaches the goal.
fn choose(
    measured: &[MeasureRecallReply],
    goal: Goal,
    before: Option<u32>,
    dry_run: bool,
) -> Result<TuneReply, Problem> {
    let vectors = measured.iter().map(|reply| reply.vectors).sum();
    let beams = combine(measured);
    let samples = measured.iter().map(|reply| reply.samples).sum();
    if measured.iter().all(|reply| reply.scanned) {
        return Ok(TuneReply { before, ef: before, scanned: true, vectors, samples, beams });
    }
    let found = beams.iter().find(|beam| beam.recall >= goal.recall);
    let best = beams.iter().copied().max_by(|a, b| a.recall.total_cmp(&b.recall));
    match (found, best) {
        (None, Some(best)) if !dry_run => {
            let Goal { recall, k } = goal;
            let detail = format!(
                "no beam reaches a recall@{k} of {recall}: the best is {:.4} at ef {}, the widest tried is {}; nothing was \
                 changed",
                best.recall,
                best.ef,
                limits::MAX_TUNED_EF
            );
            Err(Problem::new(Code::Conflict, detail))
        }
        (None, None) => Err(Problem::new(Code::Unavailable, "no vector was there to ask with: try again")),
        _ => Ok(TuneReply { before, ef: found.map(|beam| beam.ef), scanned: false, vectors, samples, beams }),
    }
}

/// The recall of each beam over all samples of all shards, and the median of the times of its searches.
fn combine(measured: &[MeasureRecallReply]) -> Vec<BeamRecall> {
    let asked: Vec<&MeasureRecallReply> = measured.iter().filter(|reply| reply.samples > 0).collect();
    let samples: u32 = asked.iter().map(|reply| reply.samples).sum();
    let beams = asked.iter().map(|reply| reply.beams.len()).min().unwrap_or_default();
    let beam = |at: usize| {
        let share = |reply: &&MeasureRecallReply| reply.beams[at].recall * f64::from(reply.samples);
        let mut micros: Vec<u32> = asked.iter().flat_map(|reply| reply.beams[at].micros.iter().copied()).collect();
        micros.sort_unstable();
        BeamRecall {
            ef: asked[0].beams[at].ef,
            recall: asked.iter().map(share).sum::<f64>() / f64::from(samples),
            median_us: micros.get(micros.len() / 2).copied().unwrap_or_default(),
        }
    };
    (0..beams).map(beam).collect()
}

#[cfg(test)]
mod tests {
    use mira_proto::node_v1::MeasuredBeam;

    use super::*;

    fn shard(samples: u32, beams: &[(u32, f64, u32)]) -> MeasureRecallReply {
        let beam = |&(ef, recall, micros): &(u32, f64, u32)| MeasuredBeam { ef, recall, micros: vec![micros; 3] };
        let scanned = samples == 0;
        let beams = beams.iter().map(beam).collect();
        MeasureRecallReply { vectors: 5_000, scanned, samples, beams, ..Default::default() }
    }

    #[test]
    fn the_narrowest_beam_that_reaches_the_goal_is_chosen() {
        let measured = [
            shard(150, &[(16, 0.80, 50), (32, 0.94, 90), (64, 0.99, 150)]),
            shard(50, &[(16, 0.96, 20), (32, 1.00, 40), (64, 1.00, 60)]),
            // Always right: it has no say, neither on the recall nor on the time.
            shard(0, &[]),
        ];
        // wanted, chosen
        let table = [(0.5, Some(16)), (0.84, Some(16)), (0.85, Some(32)), (0.955, Some(32)), (0.99, Some(64))];
        for (recall, ef) in table {
            let reply = choose(&measured, Goal { recall, k: 10 }, Some(7), false).unwrap();
            assert_eq!((reply.ef, reply.before, reply.samples, reply.vectors), (ef, Some(7), 200, 15_000), "{recall}");
            assert!((reply.beams[1].recall - 0.955).abs() < 1e-9 && reply.beams[1].median_us == 90);
        }
        let goal = Goal { recall: 0.999, k: 10 };
        let refused = choose(&measured, goal, None, false).unwrap_err();
        assert_eq!(refused.code, Code::Conflict);
        assert!(refused.detail.contains("the best is 0.9925 at ef 64"), "{}", refused.detail);
        let dry = choose(&measured, goal, Some(7), true).unwrap();
        assert_eq!((dry.ef, dry.beams.len()), (None, 3), "a dry run shows what there is");
    }

    #[test]
    fn without_a_graph_there_is_nothing_to_choose() {
        let goal = Goal { recall: 0.95, k: 10 };
        let reply = choose(&[shard(0, &[]), shard(0, &[])], goal, Some(96), false).unwrap();
        assert_eq!((reply.scanned, reply.ef, reply.before), (true, Some(96), Some(96)));
        // A graph whose vectors have all just gone.
        let empty = MeasureRecallReply { scanned: false, ..shard(0, &[(16, 0.0, 0)]) };
        assert_eq!(choose(&[empty], goal, None, false).unwrap_err().code, Code::Unavailable);
    }

    #[test]
    fn goals_are_checked() {
        let with = |recall, k| TuneRequest { recall, k, ..TuneRequest::default() };
        assert_eq!(checked(&with(None, None)), Ok(Some(Goal { recall: 0.95, k: 10 })));
        assert_eq!(checked(&with(Some(1.0), Some(1_000))), Ok(Some(Goal { recall: 1.0, k: 1_000 })));
        for recall in [0.0, -0.5, 1.01, f64::NAN, f64::INFINITY] {
            assert_eq!(checked(&with(Some(recall), None)).unwrap_err().code, Code::InvalidArgument, "{recall}");
        }
        for k in [0, 1_001] {
            assert_eq!(checked(&with(None, Some(k))).unwrap_err().code, Code::InvalidArgument, "{k}");
        }
        let reset = TuneRequest { reset: true, ..TuneRequest::default() };
        assert_eq!(checked(&reset), Ok(None));
        assert!(checked(&TuneRequest { k: Some(10), ..reset.clone() }).is_err());
        assert!(checked(&TuneRequest { dry_run: true, ..reset.clone() }).is_err());
    }

    #[test]
    fn beams_hold_the_hits_and_samples_are_shared_out() {
        assert_eq!(beams_for(10), BEAMS);
        assert_eq!(beams_for(100)[..2], [128, 192]);
        assert_eq!(beams_for(limits::MAX_K), [1_024, 1_536, 2_048]);
        let table = [(1, 200), (2, 100), (3, 67), (10, 20), (1_000, 20)];
        for (shards, samples) in table {
            assert_eq!(samples_of_each(shards), samples, "{shards}");
        }
    }
}
