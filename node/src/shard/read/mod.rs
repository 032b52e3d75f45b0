//! What every read of a shard begins with: which replica may answer, from which state, and which frames it shows.
//!
//! By id (`fetch`), by session (`session`, [`sessions`]), by likeness (`search`), in order of the ids ([`scan`]), and what
//! is only an owner's ([`private`]). A read at first makes its `ReadView`: one view of the state, from which everything in
//! the answer is read, ownership too, and whose position the answer names. So it shows what the state was at that position,
//! no less and no more.
//!
//! What an index tells is of no such view: it goes on while it is searched. Such an answer names a position that covers all
//! it shows, taken afterwards (`Shard::look_again`); what must not be missing from it was there before.

mod bin;
mod fetch;
pub mod field_types;
mod moment;
mod open;
mod pools;
pub mod private;
pub mod scan;
mod search;
mod session;
pub mod sessions;
mod walk;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use mira_proto::{Code, Problem, Refusal, limits, node_v1};
use mira_raft::{Freshness, StateReader};

use crate::{
    meta::CollectionRecord,
    shard::{Shard, index::IndexError, migration::ownership::Shown, refuse_read},
};

pub(super) use walk::{FramesAfter, SessionOf, frames_of_collection, frames_of_session};

/// What a read is made on.
pub(super) struct ReadView {
    /// The collection that is read.
    pub(super) collection: CollectionRecord,
    /// The frames that the reader is shown.
    pub(super) shown: Shown,
    /// The state that the answer is read from.
    pub(super) view: StateReader,
    /// What the answer says of it.
    pub(super) state: node_v1::ReadState,
}

/// How much of the state a read goes through.
#[derive(Clone, Copy)]
enum Extent {
    /// A few frames.
    Few,
    /// Page after page, everything: it leaves the cache to others.
    All,
}

impl<R: mira_raft::Runtime> Shard<R> {
    /// What a read is made on: its collection, the frames that it shows, and the state that it answers from. Waits until
    /// this replica may answer; refuses readers whose map is too old.
    pub(super) async fn begin_read(&self, header: Option<&node_v1::ReadHeader>) -> Result<ReadView, Refusal> {
        self.begin(header, Extent::Few).await
    }

    /// The same for a page of everything that the collection has.
    async fn begin_scan(&self, header: Option<&node_v1::ReadHeader>) -> Result<ReadView, Refusal> {
        self.begin(header, Extent::All).await
    }

    async fn begin(&self, header: Option<&node_v1::ReadHeader>, extent: Extent) -> Result<ReadView, Refusal> {
        let header = read_header(header)?;
        let freshness = self.ready_for(header.level.unwrap_or_default()).await?;
        let collection = self.collection(header.epoch, header.collection)?;
        self.view_of(collection, header, freshness, extent)
    }

    /// Looks at the state once more, after an index was asked: the position of that view covers what the index has shown,
    /// because a change is in the state before any index hears of it. Refuses a reader whose map has become too old, since
    /// what moved away meanwhile may be missing.
    fn look_again(&self, header: Option<&node_v1::ReadHeader>, before: ReadView) -> Result<ReadView, Refusal> {
        let ReadView { collection, shown, state, .. } = before;
        let again = self.view_of(collection, read_header(header)?, state.freshness, Extent::Few)?;
        // What is shown was judged before.
        let state = node_v1::ReadState { applied: again.state.applied, ..state };
        Ok(ReadView { shown, state, ..again })
    }

    fn view_of(
        &self,
        collection: CollectionRecord,
        header: &node_v1::ReadHeader,
        freshness: Option<node_v1::Freshness>,
        extent: Extent,
    ) -> Result<ReadView, Refusal> {
        let reader = self.group.reader();
        let view = match extent {
            Extent::Few => reader.cached_view(),
            Extent::All => reader.view(),
        };
        let view = view.map_err(|error| self.unreadable(error))?;
        let (shown, taken_over) = self.shown(&view, &collection, header)?;
        let time_ms = self.group.time_ms();
        let state = node_v1::ReadState { applied: view.applied_index(), freshness, taken_over, time_ms };
        Ok(ReadView { collection, shown, view, state })
    }

    /// Waits until this replica may answer a read of that level; at level `any` also says how old the answer may be.
    async fn ready_for(&self, level: node_v1::ReadLevel) -> Result<Option<node_v1::Freshness>, Refusal> {
        let mut freshness = None;
        match level.kind() {
            node_v1::read_level::Kind::Linearizable => {
                self.group.read_index().await.map_err(refuse_read)?;
            }
            node_v1::read_level::Kind::Leader => self.must_lead()?,
            node_v1::read_level::Kind::Any => {
                freshness = Some(fresh_enough(self.group.freshness(), level.last_resort)?)
            }
        }
        if level.at_least > self.group.reader().applied_index() {
            let wait = limits::READ_TRY / 2;
            let waited = self.group.wait_applied(level.at_least, wait).await;
            // Only a read at level `any` may be answered elsewhere.
            let any = level.kind() == node_v1::read_level::Kind::Any;
            waited.map_err(|error| if any { Refusal::NotReady(error.to_string()) } else { refuse_read(error) })?;
        }
        Ok(freshness)
    }
}

fn read_header(header: Option<&node_v1::ReadHeader>) -> Result<&node_v1::ReadHeader, Problem> {
    header.ok_or_else(|| Problem::invalid("the read has no header"))
}

/// What a read at level `any` may say of its age, or why another replica is to be asked.
fn fresh_enough(freshness: Freshness, last_resort: bool) -> Result<node_v1::Freshness, Refusal> {
    let staleness_ms = freshness.age.map_or(u64::MAX, |age| age.as_millis() as u64);
    let fresh =
        freshness.age.is_some_and(|age| age <= limits::MAX_STALENESS) && freshness.behind <= limits::MAX_READ_LAG;
    if !fresh && !last_resort {
        return Err(Refusal::Lagging { staleness_ms });
    }
    Ok(node_v1::Freshness { staleness_ms, lagging: !fresh })
}

/// Stands for whoever waits for an answer: when the request is dropped (its deadline passed, the router went away), the
/// work for it stops.
#[derive(Default)]
pub(super) struct Caller {
    pub(super) gone: Arc<AtomicBool>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

pub(super) fn refuse_index(error: IndexError) -> Refusal {
    match error {
        IndexError::Stopped => Problem::new(Code::DeadlineExceeded, "the search was given up by its caller").into(),
        IndexError::Building => Refusal::NotReady("the index is being built from the frames".into()),
        IndexError::Refused(problem) => Refusal::Problem(problem),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_replica_that_lags_is_read_only_as_the_last_resort() {
        let at = |age, behind| Freshness { age, behind };
        let (now, bound) = (Some(Duration::ZERO), Some(limits::MAX_STALENESS));
        let older = bound.map(|bound| bound + Duration::from_millis(1));
        // freshness, what it says when it must, whether it is asked at all
        let table = [
            (at(now, 0), 0, true),
            (at(bound, limits::MAX_READ_LAG), 3_000, true),
            (at(older, 0), 3_001, false),
            (at(now, limits::MAX_READ_LAG + 1), 0, false),
            (at(None, 0), u64::MAX, false),
        ];
        for (freshness, staleness_ms, fresh) in table {
            let said = node_v1::Freshness { staleness_ms, lagging: !fresh };
            assert_eq!(fresh_enough(freshness, true), Ok(said));
            let asked = if fresh { Ok(said) } else { Err(Refusal::Lagging { staleness_ms }) };
            assert_eq!(fresh_enough(freshness, false), asked, "{freshness:?}");
        }
    }
}
