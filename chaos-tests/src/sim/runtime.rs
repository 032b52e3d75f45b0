//! The deterministic runtime: one thread, virtual time, tasks in the order they became runnable.
//!
//! Wrapped in plain functions, so that nothing else here names the consensus library's traits.

use std::future::Future;
use std::time::Duration;

use mira_raft::Runtime;
use openraft_rt_sim::{SimInstant, SimRuntime};

/// The runtime that hosts and groups run on.
pub type Sim = SimRuntime;

/// Runs `work` beside everything else.
pub fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    fn on<R: Runtime>(work: impl Future<Output = ()> + Send + 'static) {
        drop(R::spawn(work));
    }
    on::<Sim>(work);
}

/// Waits in virtual time.
pub async fn sleep(duration: Duration) {
    async fn on<R: Runtime>(duration: Duration) {
        R::sleep(duration).await;
    }
    on::<Sim>(duration).await;
}

/// The output of `work`, or `None` when it takes longer than `duration`.
pub async fn timeout<T: Send>(duration: Duration, work: impl Future<Output = T> + Send) -> Option<T> {
    async fn on<R: Runtime, T: Send>(duration: Duration, work: impl Future<Output = T> + Send) -> Option<T> {
        R::timeout(duration, work).await.ok()
    }
    on::<Sim, T>(duration, work).await
}

/// Virtual time since the run began.
pub fn now() -> Duration {
    SimInstant::try_now().map_or(Duration::ZERO, SimInstant::elapsed_since_start)
}

/// Runs `main` to its end; what it leaves behind is dropped.
pub fn block_on<T>(seed: u64, main: impl Future<Output = T>) -> T {
    fn on<R: Runtime, T>(runtime: &mut R, main: impl Future<Output = T>) -> T {
        runtime.block_on(main)
    }
    on(&mut SimRuntime::with_seed(seed), main)
}
