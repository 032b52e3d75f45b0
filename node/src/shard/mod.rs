//! One shard on this node: a Raft group of frames, the index derived from it, and what routers ask of it.
//!
//! *Store*: [`Shard::write`] seals on the leader and proposes; [`machine`] applies on every replica; [`index`]
//! follows. *Search*: [`Shard::search`] asks the index and the tail. *Recall*: [`Shard::fetch`] opens frames.

pub mod admission;
pub mod chunks;
pub mod command;
pub mod draft;
pub mod expiry;
pub mod forget;
pub mod history;
pub mod index;
pub mod log_archive;
pub mod machine;
pub mod migration;
pub mod pages;
pub mod read;
pub mod record;
pub mod reseal;
pub mod undelete;
pub mod verify;
pub mod write;

use std::sync::Arc;

use mira_proto::{Code, CollectionId, NodeId, Problem, Refusal, ShardId};
use mira_raft::{Clock, Group, ProposeError, ReadError, Runtime, TokioRuntime};
use rand::rngs::StdRng;
use tokio::sync::watch;

use crate::{
    keys::keyring::{KeyError, Keyring},
    meta::{ClusterState, CollectionRecord},
};

use index::ShardIndex;
use migration::ownership::PlacementCache;
use verify::Verifier;

/// What every shard of a node shares.
#[derive(Clone)]
pub struct Shared {
    /// This node.
    pub node_id: NodeId,
    /// The node's keys.
    pub keyring: Arc<Keyring>,
    /// The cluster as this node knows it.
    pub cluster: watch::Receiver<Arc<ClusterState>>,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Frames in a page of a migration, [`mira_proto::limits::GROWTH_PAGE_FRAMES`]; fewer where a few frames are to make
    /// many pages.
    pub page_frames: usize,
    /// Makes generators for what is drawn at random.
    pub randomness: Arc<dyn Fn() -> StdRng + Send + Sync>,
    /// Who may search now.
    pub admission: Arc<admission::Admission>,
    /// How right the answers are.
    pub recall_sampler: Arc<index::recall_sampler::RecallSampler>,
}

/// A replica of a shard.
pub struct Shard<R: Runtime = TokioRuntime> {
    id: ShardId,
    group: Group<R>,
    index: Arc<ShardIndex>,
    verifier: Arc<Verifier>,
    shared: Shared,
    locks: write::FrameLocks,
    positions: write::Positions,
    placement: PlacementCache,
    views: pages::BackupViews,
    swept: tokio::sync::Mutex<expiry::Swept>,
}

impl<R: Runtime> Shard<R> {
    /// Over a running group and the index that follows it.
    pub fn new(id: ShardId, group: Group<R>, index: Arc<ShardIndex>, verifier: Arc<Verifier>, shared: Shared) -> Self {
        let (locks, positions, placement, views, swept) = Default::default();
        Shard { id, group, index, verifier, shared, locks, positions, placement, views, swept }
    }

    /// Its Raft group.
    pub fn group(&self) -> &Group<R> {
        &self.group
    }

    /// Its index.
    pub fn index(&self) -> &Arc<ShardIndex> {
        &self.index
    }

    /// What verifications of this replica found.
    pub fn verifier(&self) -> &Arc<Verifier> {
        &self.verifier
    }

    /// Has every replica digest its state as of one command; on the leader only.
    pub async fn verify(&self, nonce: u64) -> Result<(), Refusal> {
        self.must_lead()?;
        let payload = command::ShardCommand::Verify { nonce }.encode();
        self.group.propose(None, payload).await.map_err(refuse_proposal)?;
        Ok(())
    }

    /// The refusal of a read that met an error of the engine; damage is noted.
    fn unreadable(&self, error: mira_raft::EngineError) -> Refusal {
        self.verifier.met(&error);
        refuse_engine(error)
    }

    /// The collection a router means, if the router's map is as new as ours.
    ///
    /// A newer map on the router's side means that this node is behind; an older one, that the router is.
    fn collection(&self, epoch: u64, id: CollectionId) -> Result<CollectionRecord, Refusal> {
        let cluster = self.shared.cluster.borrow().clone();
        if let Some(collection) = cluster.collections.get(&id) {
            return Ok(collection.clone());
        }
        match epoch.cmp(&cluster.header.epoch) {
            std::cmp::Ordering::Greater => {
                Err(Refusal::NotReady("this node has not heard of the collection yet".into()))
            }
            _ => Err(Refusal::StaleMap { epoch: cluster.header.epoch }),
        }
    }

    fn must_lead(&self) -> Result<(), Refusal> {
        let leader = self.group.status().leader;
        if leader == Some(self.shared.node_id) { Ok(()) } else { Err(Refusal::NotLeader { leader }) }
    }
}

/// What a router is told when a proposal failed.
pub fn refuse_proposal(error: ProposeError) -> Refusal {
    let problem = |code, detail: String| Refusal::Problem(Problem::new(code, detail));
    match error {
        ProposeError::NotLeader { leader } => Refusal::NotLeader { leader },
        // A group that stops with a proposal under way may have replicated it before, and says so.
        ProposeError::Timeout(_) | ProposeError::Unknown { .. } => Refusal::Unknown(error.to_string()),
        ProposeError::Overloaded | ProposeError::NoQuorum | ProposeError::Stopped(_) => {
            Refusal::NotReady(error.to_string())
        }
        ProposeError::RequestIdReused => key_reused().into(),
        ProposeError::NotApplicable { .. } => {
            problem(Code::Internal, "the request cannot be carried out; nothing was done".to_owned())
        }
        ProposeError::AppliedBefore { .. } => problem(Code::Conflict, error.to_string()),
        ProposeError::TooLarge { .. } => problem(Code::TooLarge, error.to_string()),
        ProposeError::DiskFull => disk_full("writes go on"),
    }
}

/// A refusal of another request under a key that was used.
pub fn key_reused() -> Problem {
    Problem::new(Code::Conflict, "the Idempotency-Key was used before for another request: use a new one")
}

/// Trying elsewhere, or again at once, does not help.
fn disk_full(what_then: &str) -> Refusal {
    let detail = format!("the disk of a storage node is full; {what_then} by themselves once there is room");
    Problem::new(Code::Overloaded, detail).into()
}

/// What a router is told when a read could not be confirmed.
pub fn refuse_read(error: ReadError) -> Refusal {
    match error {
        ReadError::NotLeader { leader } => Refusal::NotLeader { leader },
        ReadError::DiskFull => disk_full("reads that must see what is not applied yet go on"),
        other => Refusal::NotReady(other.to_string()),
    }
}

impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Self {
        if let KeyError::Unknown { .. } = error {
            // The key is newer than this node's map, or what was read has been sealed anew meanwhile.
            return Refusal::NotReady(error.to_string());
        }
        tracing::error!(%error, "a collection's key cannot be used");
        Refusal::Problem(Problem::new(Code::Damaged, "a key of the collection cannot be used: the node's log says why"))
    }
}

/// Reading the engine failed: this replica cannot answer, another may.
pub fn refuse_engine(error: mira_raft::EngineError) -> Refusal {
    tracing::error!(%error, "state cannot be read");
    Refusal::NotReady("this replica cannot read its state".to_owned())
}

/// Parses a UUID's 16 bytes.
pub fn frame_id(bytes: &[u8]) -> Result<u128, Refusal> {
    let bytes = bytes.try_into().map_err(|_| Problem::invalid("a frame id has 16 bytes"))?;
    Ok(u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_refused_proposal_says_whether_something_may_have_happened() {
        use ProposeError::{NoQuorum, NotLeader, Overloaded, Stopped, Timeout, Unknown};
        let unknown = [Timeout(Duration::from_secs(1)), Unknown { leader: Some(3) }, Unknown { leader: None }];
        for error in unknown {
            assert!(matches!(refuse_proposal(error.clone()), Refusal::Unknown(_)), "{error:?}");
        }
        for error in [Overloaded, NoQuorum, Stopped("a write failed".into())] {
            assert!(matches!(refuse_proposal(error.clone()), Refusal::NotReady(_)), "{error:?}");
        }
        let not_leader = refuse_proposal(NotLeader { leader: Some(3) });
        assert_eq!(not_leader, Refusal::NotLeader { leader: Some(3) });
    }
}
