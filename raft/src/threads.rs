//! Where work that blocks runs.
//!
//! Production gives the log writer a thread of its own and syncs on the runtime's blocking pool; the simulator runs
//! both as ordinary tasks of its single thread, so that nothing happens at a time it did not choose.

use std::marker::PhantomData;

use futures::future::BoxFuture;

use crate::types::Runtime;

/// Runs work that may block its thread.
pub trait Threads: Send + Sync + 'static {
    /// Runs `work` to its end, beside everything else.
    fn dedicated(&self, name: String, work: BoxFuture<'static, ()>);

    /// Runs `work` without holding up other tasks; resolves when it is done.
    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;
}

/// Production: threads of the operating system.
pub struct OsThreads {
    runtime: tokio::runtime::Handle,
}

impl OsThreads {
    /// Threads beside the Tokio runtime of the caller.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn current() -> Self {
        Self { runtime: tokio::runtime::Handle::current() }
    }
}

impl Threads for OsThreads {
    fn dedicated(&self, name: String, work: BoxFuture<'static, ()>) {
        let runtime = self.runtime.clone();
        std::thread::Builder::new()
            .name(name)
            .spawn(move || runtime.block_on(work))
            .expect("the system can start a thread");
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let done = self.runtime.spawn_blocking(work);
        Box::pin(async move {
            if let Err(error) = done.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        })
    }
}

/// Simulation: everything is a task of runtime `R`.
pub struct RuntimeTasks<R>(PhantomData<fn() -> R>);

impl<R> Default for RuntimeTasks<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<R: Runtime> Threads for RuntimeTasks<R> {
    fn dedicated(&self, _name: String, work: BoxFuture<'static, ()>) {
        // Dropping the handle detaches the task; it ends when its queue closes.
        drop(R::spawn(work));
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        Box::pin(async move { work() })
    }
}

/// Runs `work` where it may block, and gives back its result.
pub(crate) async fn run_blocking<T: Send + 'static>(
    threads: &dyn Threads,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let slot = std::sync::Arc::new(parking_lot::Mutex::new(None));
    let filled = slot.clone();
    threads.blocking(Box::new(move || *filled.lock() = Some(work()))).await;
    let result = slot.lock().take();
    result.expect("blocking work runs to its end")
}
