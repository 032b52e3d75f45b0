//! What MIRA does, whoever asks and however.
//!
//! MCP, REST and gRPC call [`Memory`]; each of its operations is a file of [`crate::operations`] that reads from top to
//! bottom. This file has what all of them share: a bound on requests at work, the deadline, the metrics of SPEC
//! section 4.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mira_proto::{Code, Problem, limits};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::RequestContext;
use crate::cluster::{Cluster, CollectionRoute};
use crate::embedding::Embedding;
use crate::metrics::Metrics;
use crate::positions::Positions;
use crate::private::cache::PrivateVectorCache;
use crate::private::owners::Owners;
use crate::rates::CallerRate;

/// An operation that ends by its own account at the deadline says more about why than one that is cut off. It gets
/// this long to do so.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How often an operation starts over because its collection moved under it.
pub(crate) const MAX_REROUTES: usize = 4;

/// The operations of MIRA over a cluster of storage nodes. Each is a method in a file of [`crate::operations`].
pub struct Memory {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) embedding: Embedding,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) owners: Owners,
    pub(crate) private_vectors: PrivateVectorCache,
    pub(crate) positions: Positions,
    pub(crate) collections_made: CallerRate,
    in_flight: Semaphore,
}

impl Memory {
    /// Puts the parts together.
    pub fn new(cluster: Arc<Cluster>, embedding: Embedding, metrics: Arc<Metrics>) -> Self {
        Memory {
            cluster,
            embedding,
            metrics,
            owners: Owners::default(),
            private_vectors: PrivateVectorCache::default(),
            positions: Positions::default(),
            collections_made: CallerRate::new("collections", limits::COLLECTIONS_AT_ONCE, limits::COLLECTION_EVERY),
            in_flight: Semaphore::new(limits::MAX_REQUESTS_IN_FLIGHT),
        }
    }

    /// Runs an operation within the bounds that hold for all, and measures it.
    pub(crate) async fn bounded<T>(
        &self,
        operation: &'static str,
        context: &RequestContext,
        work: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        let mut measured = Measured { metrics: &self.metrics, operation, started: Instant::now(), success: false };
        self.metrics.begun(operation);
        let Ok(_permit) = self.in_flight.try_acquire() else {
            let limit = limits::MAX_REQUESTS_IN_FLIGHT;
            return Err(Problem::new(Code::Overloaded, format!("{limit} requests are at work here: try again later")));
        };
        let late = || Problem::new(Code::DeadlineExceeded, format!("{operation} did not end before the deadline"));
        let result = timeout_at(context.deadline + LAST_WORDS, work).await.unwrap_or_else(|_| Err(late()));
        measured.success = result.is_ok();
        result
    }

    /// The collection of that name as the newest map has it; asks every node before saying that there is none, because
    /// another router may have made it just now.
    pub(crate) async fn find_collection(
        &self,
        context: &RequestContext,
        name: &str,
    ) -> Result<Option<Arc<CollectionRoute>>, Problem> {
        self.cluster.collection(name, context.deadline).await
    }
}

/// Observes an operation when it ends, also when its caller goes away and it is dropped.
struct Measured<'a> {
    metrics: &'a Metrics,
    operation: &'static str,
    started: Instant,
    success: bool,
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        self.metrics.ended(self.operation, self.success, self.started.elapsed());
    }
}

/// The problem of naming a collection that does not exist.
pub(crate) fn no_collection(name: &str) -> Problem {
    Problem::new(Code::NotFound, format!("there is no collection {name:?}"))
}
