//! One shard on this node: a Raft group of frames, the index derived from it, and what routers ask of it.
//!
//! *Store*: [`Shard::write`] seals on the leader and proposes; [`machine`] applies on every replica; [`indexer`]
//! follows. *Search*: [`Shard::search`] asks the index and the tail. *Recall*: [`Shard::fetch`] opens frames.

pub mod command;
pub mod filter;
pub mod gate;
pub mod image;
pub mod indexer;
pub mod machine;
pub mod quality;
pub mod ranking;
pub mod read;
pub mod record;
pub mod rows;
pub mod verify;
pub mod write;

use std::sync::Arc;

use mira_proto::{Code, CollectionId, NodeId, Problem, Refusal, ShardId, node_v1};
use mira_raft::{Clock, Group, ProposeError, ReadError};
use tokio::sync::watch;

use crate::{
    keyring::{KeyError, Keyring},
    meta::{ClusterState, CollectionRecord},
};

use indexer::ShardIndex;
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
    /// Who may search now.
    pub gate: Arc<gate::SearchGate>,
    /// How right the answers are.
    pub quality: Arc<quality::QualityBoard>,
}

/// A replica of a shard.
pub struct Shard {
    id: ShardId,
    group: Group,
    index: Arc<ShardIndex>,
    verifier: Arc<Verifier>,
    shared: Shared,
    locks: write::FrameLocks,
}

impl Shard {
    /// Over a running group and the index that follows it.
    pub fn new(id: ShardId, group: Group, index: Arc<ShardIndex>, verifier: Arc<Verifier>, shared: Shared) -> Self {
        Shard { id, group, index, verifier, shared, locks: write::FrameLocks::default() }
    }

    /// Its Raft group.
    pub fn group(&self) -> &Group {
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
        let payload = command::encode(&command::ShardCommand::Verify { nonce });
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

    /// Waits until this replica may answer a read of that level; returns nothing but the right to read.
    async fn ready_for(&self, level: node_v1::ReadLevel) -> Result<(), Refusal> {
        match level.kind() {
            node_v1::read_level::Kind::Linearizable => {
                self.group.read_index().await.map_err(refuse_read)?;
            }
            node_v1::read_level::Kind::Leader => self.must_lead()?,
            node_v1::read_level::Kind::Any => {}
        }
        if level.at_least > self.group.reader().applied_index() {
            let wait = mira_proto::limits::READ_TRY / 2;
            self.group.wait_applied(level.at_least, wait).await.map_err(refuse_read)?;
        }
        Ok(())
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
        // A group that stops with a proposal under way may have replicated it before.
        ProposeError::Timeout(_) | ProposeError::Unknown { .. } | ProposeError::Stopped(_) => {
            Refusal::Unknown(error.to_string())
        }
        ProposeError::Overloaded | ProposeError::NoQuorum => Refusal::NotReady(error.to_string()),
        ProposeError::RequestIdReused => {
            problem(Code::Conflict, "the idempotency key was used before for another request; use a new key".into())
        }
        ProposeError::AppliedBefore { .. } => problem(Code::Conflict, error.to_string()),
        ProposeError::TooLarge { .. } => problem(Code::TooLarge, error.to_string()),
        ProposeError::DiskFull => problem(
            Code::Overloaded,
            "the disk of a storage node is full; writes go on by themselves once there is room".into(),
        ),
    }
}

/// What a router is told when a read could not be confirmed.
pub fn refuse_read(error: ReadError) -> Refusal {
    match error {
        ReadError::NotLeader { leader } => Refusal::NotLeader { leader },
        other => Refusal::NotReady(other.to_string()),
    }
}

impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Self {
        tracing::error!(%error, "a collection's key cannot be used");
        Refusal::Problem(Problem::new(Code::Damaged, error.to_string()))
    }
}

/// Reading the engine failed: this replica cannot answer, another may.
pub fn refuse_engine(error: mira_raft::EngineError) -> Refusal {
    tracing::error!(%error, "state cannot be read");
    Refusal::NotReady(format!("this replica cannot read its state: {error}"))
}

/// Parses a UUID's 16 bytes.
pub fn frame_id(bytes: &[u8]) -> Result<u128, Refusal> {
    let bytes = bytes.try_into().map_err(|_| Problem::invalid("a frame id has 16 bytes"))?;
    Ok(u128::from_be_bytes(bytes))
}
