//! What a node does by itself, beside serving: one job a file, all run by [`Background::spawn_periodic`].
//!
//! A job remembers next to nothing: what it does next follows from the cluster's records and from the shards, so it may be
//! interrupted at any point, by a crash or by the end of the node, and whoever runs it next goes on from there.

pub mod chunk_gc;
pub mod erasure;
pub mod expiry;
pub mod format_level;
pub mod key_rotation;
pub mod migration;
pub mod verification;

use std::{sync::Arc, time::Duration};

use mira_proto::limits;
use tokio::{sync::watch, task::JoinHandle};
use tracing::Instrument;

use crate::{meta::ClusterState, metrics::NodeMetrics};

/// By how much an interval is shorter or longer, at most, so that nodes that were started together do not work together.
const JITTER: f64 = 0.1;

/// Work that is done again and again.
pub trait Job: Send + 'static {
    /// Does what there is to do now. It is dropped at any point when the node stops.
    fn tick(&mut self) -> impl Future<Output = Tick> + Send;
}

/// What came of one run of a job.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// Pieces of work that failed; they are tried again.
    pub failures: u64,
    /// When there is more to do: how long to wait before that. Otherwise the job waits for its interval or its trigger.
    pub more_after: Option<Duration>,
}

/// What starts a job before its interval is over.
pub enum Trigger {
    /// Nothing does.
    None,
    /// A change of what the cluster is.
    Cluster(watch::Receiver<Arc<ClusterState>>),
}

impl Trigger {
    /// Returns when the job is to start; never if nothing triggers it.
    async fn fired(&mut self) {
        if let Trigger::Cluster(cluster) = self
            && cluster.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

/// What all jobs of a node share.
pub struct Background {
    /// Where runs are counted.
    pub metrics: Arc<NodeMetrics>,
    /// Becomes true when the node stops.
    pub stopped: watch::Receiver<bool>,
}

impl Background {
    /// Runs a job at once and then after every `interval`, when `trigger` fires, or sooner if the job says that there is
    /// more to do; until the node stops.
    pub fn spawn_periodic(
        &self,
        name: &'static str,
        interval: Duration,
        mut trigger: Trigger,
        mut job: impl Job,
    ) -> JoinHandle<()> {
        let (metrics, mut stopped) = (self.metrics.clone(), self.stopped.clone());
        let run = async move {
            loop {
                let tick = job.tick().await;
                metrics.job_ran(name, tick.failures);
                match tick.more_after {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => tokio::select! {
                        () = tokio::time::sleep(jittered(interval)) => {}
                        () = trigger.fired() => {}
                    },
                }
            }
        };
        let until_stopped = async move {
            tokio::select! {
                () = run => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
        };
        tokio::spawn(until_stopped.instrument(tracing::debug_span!("job", name)))
    }
}

/// How long to wait after so many bytes were copied, so that copying stays small beside serving.
fn pause_after(bytes: usize) -> Duration {
    limits::MIGRATION_PAGE_PAUSE.max(Duration::from_secs_f64(bytes as f64 / limits::GROWTH_BYTES_PER_SECOND as f64))
}

fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(1.0 + rand::random_range(-JITTER..=JITTER))
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    /// Says that it ran, and that this is all there is to do.
    struct Reports(mpsc::UnboundedSender<()>, Tick);

    impl Job for Reports {
        async fn tick(&mut self) -> Tick {
            let _ = self.0.send(());
            self.1
        }
    }

    const HOUR: Duration = Duration::from_secs(3_600);
    const PATIENCE: Duration = Duration::from_secs(10);

    fn background() -> (Background, watch::Sender<bool>) {
        let (stop, stopped) = watch::channel(false);
        (Background { metrics: NodeMetrics::new(), stopped }, stop)
    }

    async fn ran(runs: &mut mpsc::UnboundedReceiver<()>) -> bool {
        tokio::time::timeout(PATIENCE, runs.recv()).await.expect("it runs in time").is_some()
    }

    #[tokio::test]
    async fn a_job_runs_at_once_then_when_it_is_triggered_and_ends_with_the_node() {
        let (background, stop) = background();
        let (cluster, changes) = watch::channel(Arc::new(ClusterState::default()));
        let (sender, mut runs) = mpsc::unbounded_channel();
        let job = Reports(sender, Tick::default());
        let task = background.spawn_periodic("test", HOUR, Trigger::Cluster(changes), job);
        assert!(ran(&mut runs).await);
        cluster.send_modify(|state| *state = Arc::default());
        assert!(ran(&mut runs).await, "its hour is not over");
        stop.send_replace(true);
        tokio::time::timeout(PATIENCE, task).await.expect("it ends").expect("it did not panic");
    }

    #[tokio::test]
    async fn a_job_that_has_more_to_do_runs_again_and_its_failures_are_counted() {
        let (background, _stop) = background();
        let (sender, mut runs) = mpsc::unbounded_channel();
        let job = Reports(sender, Tick { failures: 2, more_after: Some(Duration::ZERO) });
        let task = background.spawn_periodic("test", HOUR, Trigger::None, job);
        assert!(ran(&mut runs).await && ran(&mut runs).await && ran(&mut runs).await);
        task.abort();
        let (runs, failures) = background.metrics.job_counts("test");
        assert!(runs >= 2 && failures == 2 * runs, "{runs} runs, {failures} failures");
    }

    #[test]
    fn an_interval_is_spread_by_a_tenth() {
        for _ in 0..100 {
            let interval = jittered(Duration::from_secs(10));
            assert!((Duration::from_secs(9)..=Duration::from_secs(11)).contains(&interval), "{interval:?}");
        }
    }
}
